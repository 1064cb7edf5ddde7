#include "runtime/topology/import/hwloc_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "runtime/topology/link_rates.h"

namespace causeway {

namespace {

using NoteKind = TopologyNote::Kind;

constexpr std::int64_t kMaxMbPerS = 1'000'000'000;
constexpr std::uint64_t kNvlinkMbPerS = 25000;     // NVLink 2 to 4.
constexpr std::uint64_t kOldNvlinkMbPerS = 50000;  // What hwloc took NVLink 3 and 4 for.

// Calls `take` with each word of the matrix's lists of this name.
template <typename Take>
void for_each_word(pugi::xml_node matrix, const char* list_name, Take take) {
  for (const auto list : matrix.children(list_name)) {
    std::string_view text = list.child_value();
    while (!text.empty()) {
      const auto word = text.substr(0, text.find_first_of(" \n\r\t"));
      text.remove_prefix(std::min(word.size() + 1, text.size()));
      if (!word.empty()) take(list, word);
    }
  }
}

HwlocMatrix read_matrix(const XmlText& xml, pugi::xml_node element) {
  HwlocMatrix matrix{.element = element, .objects = {}, .values = {}, .ends = {}};
  for_each_word(element, "indexes", [&](pugi::xml_node list, std::string_view word) {
    if (matrix.objects.size() >= kMaxMatrixObjects)
      throw xml.error(list, fmt::format("{}: more than {} objects; no machine has that many",
                                        matrix.name(), kMaxMatrixObjects));
    const auto colon = word.find(':');  // "OSDev:802" where the types differ, else "802".
    matrix.objects.emplace_back(colon == std::string_view::npos ? word : word.substr(colon + 1));
  });
  for_each_word(element, "u64values", [&](pugi::xml_node list, std::string_view word) {
    const auto value = parse_integer(word);
    if (!value || *value < 0 || *value > kMaxMbPerS)
      throw xml.error(list,
                      fmt::format("\"{}\" is no bandwidth in MB/s", word.substr(0, kMaxXmlName)));
    matrix.values.push_back(static_cast<std::uint64_t>(*value));
  });
  if (matrix.values.size() != matrix.objects.size() * matrix.objects.size())
    throw xml.error(
        element, fmt::format("{}: {} values for {} objects; was the file cut off?", matrix.name(),
                             matrix.values.size(), matrix.objects.size()));
  return matrix;
}

// hwloc before 2.9.1.
bool counts_50_gb_per_nvlink(std::string_view version) {
  std::array<std::uint32_t, 3> parts{};
  for (auto& part : parts) {
    const auto result = std::from_chars(version.data(), version.data() + version.size(), part);
    if (result.ec != std::errc()) return false;  // Built from a repository: not known.
    version.remove_prefix(static_cast<std::size_t>(result.ptr - version.data()));
    if (!version.starts_with('.')) break;
    version.remove_prefix(1);
  }
  return parts < std::array<std::uint32_t, 3>{2, 9, 1};
}

// Old versions count both directions of an NVLink 3 or 4. So does a file whose version is not known
// if a GPU would else have more links than its chip.
void halve_old_rates(XmlText& xml, HwlocMatrix& matrix, const PartTree& parts,
                     std::string_view version) {
  bool is_over = false;
  bool any = false;
  for (std::size_t row = 0; row < matrix.ends.size(); ++row) {
    if (matrix.ends[row] == kNoPart) continue;
    const auto& component = parts[matrix.ends[row]].component;
    if (component.sm.value_or(0) < 80 || *component.sm > 90) continue;
    const auto rate = nvlink_rate(*component.sm);
    if (!rate) continue;
    std::uint64_t sum = 0;
    for (std::size_t column = 0; column < matrix.ends.size(); ++column) {
      if (row == column) continue;
      if (matrix.at(row, column) % kOldNvlinkMbPerS != 0) return;
      sum += matrix.at(row, column);
    }
    any |= sum > 0;
    is_over |= sum > rate->links * kNvlinkMbPerS;
  }
  if (!any || !(is_over || counts_50_gb_per_nvlink(version))) return;
  for (auto& value : matrix.values) value /= 2;
  xml.note(NoteKind::repaired, matrix.element,
           fmt::format("hwloc {} counts 50 GB/s for an NVLink of 25 GB/s in each direction; halved",
                       version));
}

TopologyLink make_link(XmlText& xml, const HwlocMatrix& matrix, const Component& a,
                       const Component& b, std::uint64_t mb_per_s) {
  const bool is_nvlink = matrix.name() == "NVLinkBandwidth";
  TopologyLink link{.kind = is_nvlink ? LinkKind::nvlink : LinkKind::xgmi,
                    .a = a.name,
                    .b = b.name,
                    .provenance = Provenance::import};
  const auto sm = a.sm ? a.sm : b.sm;
  if (!is_nvlink || !sm || !nvlink_rate(*sm)) {
    link.line_bytes_per_s = Figure{static_cast<double>(mb_per_s) * 1e6, Provenance::import};
    return link;
  }
  // What hwloc counts for a link; the chip's own rate, which fill_rates() gives, may differ.
  const double per_link = *sm < 70 ? 20000 : *sm <= 90 ? kNvlinkMbPerS : 50000;
  const auto count = std::lround(static_cast<double>(mb_per_s) / per_link);
  link.count = static_cast<std::uint32_t>(std::clamp(count, 1L, 4096L));
  if (link.count * per_link != static_cast<double>(mb_per_s))
    xml.note(NoteKind::remark, matrix.element,
             fmt::format("{} to {}: {} MB/s is no whole number of links of {} MB/s; taken as {}",
                         a.name, b.name, mb_per_s, per_link, link.count));
  return link;
}

}  // namespace

std::vector<HwlocMatrix> read_hwloc_matrices(XmlText& xml) {
  std::vector<HwlocMatrix> matrices;
  for (const auto element : xml.root().children()) {
    const std::string_view tag = element.name();
    if (tag != "distances2" && tag != "distances2hetero") continue;
    const auto name = attribute(element, "name");
    if (name == "XeLinkBandwidth")
      xml.note(NoteKind::remark, element, "XeLinkBandwidth: links of Intel's GPUs are left out");
    if (name != "NVLinkBandwidth" && name != "XGMIBandwidth") continue;
    if (attribute(element, "indexing") == "os") {
      xml.note(NoteKind::remark, element,
               fmt::format("{} goes by OS indexes, which devices do not have; left out", name));
      continue;
    }
    if (std::ranges::find(matrices, name, &HwlocMatrix::name) != matrices.end()) {
      xml.note(NoteKind::repaired, element, fmt::format("a second {}; left out", name));
      continue;
    }
    matrices.push_back(read_matrix(xml, element));
  }
  return matrices;
}

void append_matrix_links(XmlText& xml, HwlocMatrix& matrix, const PartTree& parts,
                         std::string_view version, TopologyGraph& graph) {
  halve_old_rates(xml, matrix, parts, version);
  for (std::size_t i = 0; i < matrix.ends.size(); ++i)
    for (std::size_t j = i + 1; j < matrix.ends.size(); ++j) {
      const auto there = matrix.at(i, j);
      const auto back = matrix.at(j, i);
      if (there == 0 && back == 0) continue;
      const auto cell = fmt::format("{}: row {}, column {}", matrix.name(), i, j);
      const auto a = matrix.ends[i];
      const auto b = matrix.ends[j];
      if (a == kNoPart || b == kNoPart || a == b) {
        xml.note(NoteKind::repaired, matrix.element,
                 cell + " joins nothing that the file describes; left out");
        continue;
      }
      const bool is_one_sided = there == 0 || back == 0;
      if (there != back)
        xml.note(NoteKind::repaired, matrix.element,
                 fmt::format("{} says {} MB/s there and {} back; {}", cell, there, back,
                             is_one_sided ? "a link has two ends, so it is taken as there"
                                          : "the lower is taken"));
      graph.links.push_back(
          make_link(xml, matrix, parts[a].component, parts[b].component,
                    is_one_sided ? std::max(there, back) : std::min(there, back)));
    }
}

}  // namespace causeway
