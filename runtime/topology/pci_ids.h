// What the ids of a PCI device say: what kind of thing it is, and of NVIDIA's GPUs the chip and the
// catalogue model. One place for importers and discovery.
//
// Units:   class codes are the 24 bits of sysfs: base class, subclass, programming interface.
// Errors:  what the tables do not know stays unknown.
// Threads: constants.
// Source:  the PCI ID repository (pci-ids.ucw.cz); for the newest chips, sysfs of such machines.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "causeway/topology_graph.h"

namespace causeway {

constexpr std::uint32_t kPciVendorNvidia = 0x10de;
constexpr std::uint32_t kPciVendorAmd = 0x1002;
constexpr std::uint32_t kPciVendorIbm = 0x1014;

struct PciGpu {
  std::uint32_t device_id;
  std::uint32_t sm;        // Compute capability times 10.
  std::string_view model;  // Name in the GPU catalogue; empty: not a model of the catalogue.
};

// nullptr for what is not a known GPU of NVIDIA.
[[nodiscard]] const PciGpu* find_pci_gpu(std::optional<std::uint32_t> vendor_id,
                                         std::optional<std::uint32_t> device_id) noexcept;

// A GPU of NVIDIA, newer than the version of NCCL that began to write ids, and without them: then
// somebody else wrote that file, and left out what NCCL finds itself.
[[nodiscard]] bool is_without_expected_ids(const Component& gpu) noexcept;

// "0x030200", "0x0302", "0x03", "0302". Errors: nullopt for anything else.
[[nodiscard]] std::optional<std::uint32_t> parse_pci_class(std::string_view text) noexcept;

// gpu, nic, bridge, nvswitch or unknown. A display controller of another maker than NVIDIA (a
// server's management controller, a processor's graphics) is not a GPU, AMD's accelerators are;
// where the maker is not known, it is taken as one.
[[nodiscard]] ComponentKind kind_of_pci_class(std::uint32_t class_code,
                                              std::optional<std::uint32_t> vendor_id) noexcept;

}  // namespace causeway
