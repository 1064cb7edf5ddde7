// Tells formats apart by content, and reads a text in which several tools speak.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "causeway/topology.h"
#include "causeway/topology_export.h"
#include "causeway/topology_import.h"
#include "runtime/topology/graph_check.h"
#include "runtime/topology/import/gpu_lines.h"
#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/smi_matrix.h"
#include "runtime/topology/import/text.h"
#include "runtime/topology/link_rates.h"
#include "runtime/topology/yaml_tree.h"

namespace causeway {

namespace {

using Format = ImportFormat;

constexpr std::string_view kKnown =
    "understood are: NCCL topology XML, hwloc XML, nvidia-smi topo -m, topo -p2p and nvlink -s, "
    "nvbandwidth, p2pBandwidthLatencyTest, ibnetdiscover, Mooncake's transfer table, cluster files "
    "and Causeway's own JSON";

bool contains(std::string_view text, std::string_view part) noexcept {
  return text.find(part) != std::string_view::npos;
}

// The start of `text` without byte order mark and blank lines.
std::string_view first_text(std::string_view text) noexcept {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  const auto start = text.find_first_not_of(" \t\r\n");
  return start == std::string_view::npos ? std::string_view() : text.substr(start);
}

// XML by its first element, whatever prolog and comments stand before it.
std::optional<Format> detect_xml(std::string_view text) noexcept {
  while (text.starts_with('<')) {
    if (text.starts_with("<topology")) return Format::hwloc_xml;
    // A <graphs> file is NCCL's too: its reader says why it is refused.
    if (text.starts_with("<system") || text.starts_with("<graphs")) return Format::nccl_xml;
    const bool comment = text.starts_with("<!--");
    if (!comment && !text.starts_with("<?") && !text.starts_with("<!")) return std::nullopt;
    const auto end = text.find(comment ? "-->" : ">");
    if (end == std::string_view::npos) return std::nullopt;
    text = first_text(text.substr(end + (comment ? 3 : 1)));
  }
  return std::nullopt;
}

std::optional<Format> detect_json(std::string_view text) noexcept {
  if (text.starts_with('[') && contains(text, "\"src_host\"") && contains(text, "\"endpoints\""))
    return Format::transfer_table;
  if (!text.starts_with('{')) return std::nullopt;
  const auto key = first_text(text.substr(1));
  if (key.starts_with("\"nvbandwidth\"")) return Format::nvbandwidth;
  if (contains(text.substr(0, 4096), "\"causeway-topology/")) return Format::causeway_json;
  if (contains(text, "nodes")) return Format::cluster_yaml;  // JSON is YAML.
  return std::nullopt;
}

// What a text holds besides: bits of the formats that a line of it shows.
class LineDetector {
 public:
  void read(std::string_view line) {
    if (trim(line).empty()) return;
    if (header_ || is_smi_row(line)) read_row(line);
    if (is_smi_header(line)) header_ = true;
    if (parse_smi_gpu_line(line)) found(Format::smi_nvlink);
    if (contains(line, "P2P Connectivity Matrix") || contains(line, "directional P2P=") ||
        contains(line, "P2P=Disabled Latency") || contains(line, "P2P=Enabled Latency") ||
        parse_p2p_test_gpu_line(line))
      found(Format::p2p_test);
    if (contains(line, "(row)") && contains(line, "(column)")) found(Format::nvbandwidth);
    if (line.starts_with("nvbandwidth Version:")) found(Format::nvbandwidth);
    if (is_fabric_record(line)) found(Format::ibnetdiscover);
    if (line.starts_with("nodes:")) found(Format::cluster_yaml);
  }

  [[nodiscard]] bool has(Format format) const noexcept {
    return (formats_ >> static_cast<unsigned>(format) & 1U) != 0;
  }

 private:
  void found(Format format) { formats_ |= 1U << static_cast<unsigned>(format); }

  void read_row(std::string_view line) {
    const auto tokens = split_tokens(line, 64);
    // A label may stand before it.
    auto token = std::ranges::find_if(
        tokens, [](const auto name) { return numbered(name, "GPU").has_value(); });
    if (token == tokens.end()) return;
    bool states = false;
    bool self = false;
    for (++token; token != tokens.end(); ++token) {
      if (parse_path_class(*token)) return found(Format::smi_topo);
      states = states || parse_name<PeerStatus>(*token);
      self = self || *token == "X";
    }
    if (states) return found(Format::smi_p2p);
    if (self) found(Format::smi_topo);  // One GPU.
  }

  static bool is_fabric_record(std::string_view line) noexcept {
    line = trim(line);
    const bool keyword =
        line.starts_with("Switch") || line.starts_with("Ca\t") || line.starts_with("Ca ");
    return line.starts_with("switchguid=") || line.starts_with("caguid=") ||
           (keyword && (contains(line, "\"S-") || contains(line, "\"H-")));
  }

  unsigned formats_ = 0;
  bool header_ = false;
};

// All formats that a text holds; those of one machine can stand side by side.
std::vector<Format> detect_formats(std::string_view text) {
  const auto start = first_text(text);
  if (const auto xml = detect_xml(start)) return {*xml};
  if (const auto json = detect_json(start)) return {*json};
  LineDetector detector;
  for (LineReader lines(text); lines.next();) detector.read(lines.line());
  std::vector<Format> formats;
  for (const auto format : {Format::smi_topo, Format::smi_p2p, Format::smi_nvlink, Format::p2p_test,
                            Format::nvbandwidth})
    if (detector.has(format)) formats.push_back(format);
  if (!formats.empty()) return formats;
  if (detector.has(Format::ibnetdiscover)) return {Format::ibnetdiscover};
  if (detector.has(Format::cluster_yaml)) return {Format::cluster_yaml};
  return {};
}

TopologyGraph read_format(Format format, std::string_view text, const std::string& origin,
                          const std::string& node) {
  switch (format) {
    case Format::causeway_json:
      return graph_from_json(text, origin);
    case Format::cluster_yaml:
      return graph_of_cluster(ClusterSpec::from_yaml(text, origin));
    case Format::nccl_xml:
      return read_nccl_xml(text, origin, node);
    case Format::hwloc_xml:
      return read_hwloc_xml(text, origin, node);
    case Format::smi_topo:
      return read_smi_topo(text, origin, node);
    case Format::smi_p2p:
      return read_smi_p2p(text, origin, node);
    case Format::smi_nvlink:
      return read_smi_nvlink(text, origin, node);
    case Format::nvbandwidth:
      return read_nvbandwidth(text, origin, node);
    case Format::p2p_test:
      return read_p2p_test(text, origin, node);
    case Format::ibnetdiscover:
      return read_ibnetdiscover(text, origin);
    case Format::transfer_table:
      return read_transfer_table(text, origin);
    case Format::automatic:
      break;
  }
  throw Error(Errc::internal, "import: a format without a reader");
}

// No reader gives a graph that cannot be written, whatever it was made to read.
TopologyGraph read_checked(Format format, std::string_view text, const std::string& origin,
                           const std::string& node) {
  auto graph = read_format(format, text, origin, node);
  if (const auto fault = fault_of(graph)) throw text_error(origin, 1, *fault);
  return graph;
}

}  // namespace

std::optional<ImportFormat> detect_format(std::string_view text) noexcept {
  const auto formats = detect_formats(text);
  return formats.empty() ? std::nullopt : std::optional(formats.front());
}

TopologyGraph import_topology(std::string_view text, const std::string& origin,
                              const ImportOptions& options) {
  if (text.size() > kMaxImportBytes)
    throw text_error(origin, 1, fmt::format("text: over {} bytes, the most read", kMaxImportBytes));
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff"))
    throw text_error(origin, 1,
                     "text: is UTF-16, as a Windows shell writes it; convert it with "
                     "'iconv -f UTF-16 -t UTF-8'");
  auto formats = std::vector{options.format};
  if (options.format == Format::automatic) formats = detect_formats(text);
  if (formats.empty())
    throw text_error(origin, 1, fmt::format("text: of no known kind; {}", kKnown));
  const std::string node = options.node.empty() ? "node0" : options.node;
  if (formats.size() == 1) {
    auto graph = read_checked(formats.front(), text, origin, node);
    // These two say themselves what their links carry.
    if (formats.front() != Format::causeway_json && formats.front() != Format::cluster_yaml)
      fill_rates(graph);
    return graph;
  }
  std::vector<TopologyGraph> graphs;
  for (const auto format : formats) {
    graphs.push_back(read_checked(format, text, origin, node));
    graphs.back().name = fmt::format("{} ({})", origin, to_string(format));
  }
  auto graph = merge(graphs);
  graph.name = origin;
  fill_rates(graph);
  return graph;
}

TopologyGraph import_topology_file(const std::string& path, const ImportOptions& options) {
  return import_topology(read_text_file(path, kMaxImportBytes), path, options);
}

std::string_view to_string(ImportFormat value) noexcept {
  constexpr std::array<std::string_view, 12> kNames{
      "auto",    "causeway_json", "cluster_yaml", "nccl_xml", "hwloc_xml",     "smi_topo",
      "smi_p2p", "smi_nvlink",    "nvbandwidth",  "p2p_test", "ibnetdiscover", "transfer_table"};
  const auto index = static_cast<std::size_t>(value);
  return index < kNames.size() ? kNames[index] : std::string_view();
}

}  // namespace causeway
