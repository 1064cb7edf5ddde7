// Words and figures as every `topo` command writes them.
//
// Unknown: "?", never 0.
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/topology.h"
#include "tools/base/terminal.h"

namespace causeway::tools {

[[nodiscard]] std::string figure_text(const std::optional<Figure>& figure);  // "48 GB/s (sysfs)"
[[nodiscard]] std::string rate_text(const std::optional<Figure>& figure);    // "48 GB/s"
[[nodiscard]] std::string latency_text(const std::optional<Figure>& figure);
[[nodiscard]] std::string bytes_text(const std::optional<std::uint64_t>& bytes);
[[nodiscard]] std::string provenance_text(const std::optional<Figure>& figure);  // "" if unknown

[[nodiscard]] std::string counted(std::size_t count);  // "1,024"
// "1 node", "1,024 nodes". `many` where an s does not do.
[[nodiscard]] std::string counted(std::size_t count, std::string_view one,
                                  std::string_view many = {});

// "hgx[0-1023]", "gpu[0-3,7]", "rack[1-4]-node[0-15]"; names without numbers one after the other,
// at most `max_parts` of them.
[[nodiscard]] std::string name_ranges(const std::vector<std::string>& names,
                                      std::size_t max_parts = 4);
[[nodiscard]] std::string_view node_part(std::string_view component);   // "hgx" of "hgx/gpu0"
[[nodiscard]] std::string_view local_part(std::string_view component);  // "gpu0"

// What to call it: "RTX 5090", "mlx5_0", "host memory"; "GPU" where nothing is known.
[[nodiscard]] std::string title_of(const Component& component);
[[nodiscard]] std::string short_uuid(std::string_view uuid);     // "GPU-3f2a1b0c"
[[nodiscard]] std::string short_pci(const PciAddress& address);  // "65:00.0" in domain 0

// How a PCIe link runs: "Gen5 x16", "Gen5 x8 of x16"; and its colour: red if degraded or down,
// yellow if it is narrower than both ends could be.
[[nodiscard]] std::string pcie_text(const TopologyLink& link);
[[nodiscard]] Colour link_colour(const TopologyLink& link);
[[nodiscard]] bool is_narrow(const TopologyLink& link);

// Broken between words at the terminal's width, every line after `indent` spaces.
[[nodiscard]] std::string wrapped(std::string_view text, std::size_t indent);

struct Branches {
  const char* branch;
  const char* last;
  const char* down;
  const char* none;
};
[[nodiscard]] Branches branches();  // By has_unicode().
[[nodiscard]] const char* arrow();  // "→" or "->"

}  // namespace causeway::tools
