// What the small texts of sysfs and procfs mean.
//
// Units:   bytes, bytes per second.
// Errors:  nullopt for anything that is not of the form, and for the values that stand for
//          "unknown": a width of 0, 63 or 255, a speed of -1 or "Unknown".
// Cost:    O(text), no recursion.
// Threads: pure functions.
// Source:  Linux Documentation/ABI; PCI Express Base Specification (capabilities).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "causeway/topology_graph.h"

namespace causeway {

// Blanks and line ends at both ends taken off.
[[nodiscard]] std::string_view trimmed(std::string_view text) noexcept;
// The text up to the first blank; takes it off `text`.
[[nodiscard]] std::string_view take_word(std::string_view& text) noexcept;
// The text up to the end of the line; takes it off `text`.
[[nodiscard]] std::string_view take_line(std::string_view& text) noexcept;

[[nodiscard]] std::optional<std::uint64_t> parse_decimal(std::string_view text) noexcept;
[[nodiscard]] std::optional<std::uint64_t> parse_hex(std::string_view text) noexcept;  // "0x1f"

// "16.0 GT/s PCIe", "8 GT/s": the PCIe generation.
[[nodiscard]] std::optional<std::uint32_t> parse_link_speed(std::string_view text) noexcept;
[[nodiscard]] std::optional<std::uint32_t> parse_link_width(std::string_view text) noexcept;

// How many CPUs "0-3,8" names; nullopt if it is not such a list.
[[nodiscard]] std::optional<std::uint64_t> count_cpus(std::string_view list) noexcept;

// "400 Gb/sec (4X NDR)".
[[nodiscard]] std::optional<double> parse_infiniband_rate(std::string_view text) noexcept;
// "b83f:d203:00c6:2f9a" or "fe80:0000:0000:0000:b83f:d203:00c6:2f9a": the last 64 bits as
// "0xb83fd20300c62f9a". Empty if they are 0.
[[nodiscard]] std::string parse_guid(std::string_view text);

// The size of the largest prefetchable window of a PCI device's `resource` file: BAR1 of a GPU.
[[nodiscard]] std::optional<std::uint64_t> parse_prefetchable_bytes(std::string_view resource);

// "MemTotal:  65536 kB" of /proc/meminfo or a NUMA node's.
[[nodiscard]] std::optional<std::uint64_t> parse_memory_total(std::string_view text) noexcept;

// The value of "key : value" or "key:\tvalue", of the first line that has the key.
[[nodiscard]] std::string_view field(std::string_view text, std::string_view key) noexcept;

enum class PciPort : std::uint8_t { root, upstream, downstream, other };

// The config space as far as this process may read it.
struct PciConfig {
  std::string_view bytes;
  [[nodiscard]] std::optional<std::uint32_t> word(std::size_t offset) const noexcept;  // 16 bits
  [[nodiscard]] std::optional<PciPort> port() const noexcept;
  // True if Access Control Services send requests or completions between peers up to the root;
  // false also where there are none. nullopt if the extended config space is out of reach.
  [[nodiscard]] std::optional<bool> acs_redirect() const noexcept;
};

}  // namespace causeway
