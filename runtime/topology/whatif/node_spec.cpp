#include "runtime/topology/whatif/node_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "causeway/cluster.h"
#include "causeway/gpu_catalogue.h"
#include "runtime/topology/bytes.h"
#include "runtime/topology/link_rates.h"
#include "runtime/topology/utf8.h"
#include "runtime/topology/whatif/derived.h"
#include "runtime/topology/whatif/target.h"
#include "runtime/topology/yaml_tree.h"

namespace causeway::whatif {

namespace {

constexpr std::size_t kMaxGpus = 64;
constexpr std::size_t kMaxHosts = 16;
constexpr std::string_view kForm =
    "write NAME=PART,..., a part being 8xh100-sxm, host:1TB or link:PEER:100Gbit/s:5us";

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t at = 0; at <= text.size();) {
    const auto end = std::min(text.find(separator, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

class SpecReader {
 public:
  SpecReader(const TopologyGraph& graph, const std::string& text) : graph_(graph), text_(text) {}

  TopologyGraph read() {
    const auto equals = text_.find('=');
    if (equals == text_.npos) throw refuse(text_, fmt::format("is no node; {}", kForm));
    name_ = text_.substr(0, equals);
    if (!is_node_name(name_))
      throw refuse(text_, fmt::format("'{}' is not a node name; write 1 to 63 of a-z, 0-9, '.', "
                                      "'-', starting with a letter or digit",
                                      printable(name_, 80)));
    for (const auto part : split(std::string_view(text_).substr(equals + 1), ',')) add_part(part);
    if (gpus_.empty() && hosts_.empty())
      throw refuse(text_, fmt::format("has neither a GPU nor host memory; {}", kForm));
    build();
    return std::move(result_);
  }

 private:
  void add_part(std::string_view part) {
    if (part.starts_with("host:"))
      add_host(part.substr(5));
    else if (part.starts_with("link:"))
      add_link(part);
    else
      add_gpus(part);
  }

  void add_host(std::string_view size) {
    std::uint64_t bytes = 0;
    try {
      bytes = parse_bytes(size);
    } catch (const Error& failure) {
      throw refuse(text_, failure.what());
    }
    if (bytes == 0) throw refuse(text_, "host memory of 0 bytes; leave it out");
    if (hosts_.size() == kMaxHosts)
      throw refuse(text_, fmt::format("more than {} NUMA nodes", kMaxHosts));
    hosts_.push_back(bytes);
  }

  void add_link(std::string_view part) {
    const auto fields = split(part, ':');
    if (fields.size() != 3 && fields.size() != 4)
      throw refuse(text_, fmt::format("'{}' is not a link; write link:PEER:100Gbit/s or "
                                      "link:PEER:100Gbit/s:5us",
                                      printable(part, 80)));
    const auto* peer = graph_.find(fields[1]);
    const bool is_switch = peer != nullptr && peer->kind == ComponentKind::network_switch;
    if (!is_switch && graph_.find_node(fields[1]) == nullptr) {
      std::vector<std::string_view> known;
      for (const auto& node : graph_.nodes) known.push_back(node.name);
      for (const auto& one : graph_.components)
        if (one.kind == ComponentKind::network_switch) known.push_back(one.name);
      throw unknown(text_, "node or network switch", fields[1], known);
    }
    TopologyLink link{LinkKind::network, name_, std::string(fields[1])};
    const auto rate = parse_bandwidth(fields[2]);
    if (!rate || *rate <= 0)
      throw refuse(text_, fmt::format("'{}' is not a bandwidth; write it such as 100Gbit/s",
                                      printable(fields[2], 60)));
    link.effective_bytes_per_s = Figure{*rate, Provenance::spec};
    if (fields.size() == 4) {
      const auto latency = parse_seconds(fields[3]);
      if (!latency)
        throw refuse(text_, fmt::format("'{}' is not a latency; write it such as 5us",
                                        printable(fields[3], 60)));
      link.latency_s = Figure{*latency, Provenance::spec};
    }
    result_.links.push_back(link);
  }

  void add_gpus(std::string_view part) {
    std::size_t count = 1;
    auto model_name = part;
    if (const auto digits = part.find_first_not_of("0123456789");
        digits != 0 && digits != part.npos && part[digits] == 'x') {
      const auto [stop, status] = std::from_chars(part.data(), part.data() + digits, count);
      if (status != std::errc{} || count == 0 || count > kMaxGpus)
        throw refuse(text_, fmt::format("'{}': 1 to {} GPUs", printable(part, 60), kMaxGpus));
      model_name.remove_prefix(digits + 1);
    }
    const auto* model = find_gpu_model(model_name);
    if (model == nullptr) {
      std::vector<std::string_view> names;
      for (const auto& one : gpu_models()) names.push_back(one.name);
      const auto near = nearest_name(model_name, names);
      throw refuse(text_,
                   fmt::format("'{}' is no GPU of the catalogue{}; {}", printable(model_name, 60),
                               near ? fmt::format("; did you mean '{}'?", *near) : "", kForm));
    }
    if (gpus_.size() + count > kMaxGpus)
      throw refuse(text_, fmt::format("more than {} GPUs", kMaxGpus));
    gpus_.insert(gpus_.end(), count, model);
  }

  Component& add(ComponentKind kind, std::string_view local, std::size_t index) {
    auto& component = result_.components.emplace_back();
    component.name = fmt::format("{}/{}{}", name_, local, index);
    component.node = name_;
    component.kind = kind;
    return component;
  }

  void join(LinkKind kind, const std::string& a, const std::string& b, std::uint32_t count = 1) {
    TopologyLink link{kind, a, b};
    link.count = count;
    result_.links.push_back(link);
  }

  void build() {
    auto& node = result_.nodes.emplace_back();
    node.name = name_;
    node.nvlinks_known = true;
    const auto cpus = std::max<std::size_t>(hosts_.size(), 1);
    const auto cpu = [&](std::size_t i) { return fmt::format("{}/cpu{}", name_, i); };
    for (std::size_t i = 0; i < cpus; ++i) {
      add(ComponentKind::cpu, "cpu", i).numa = static_cast<std::uint32_t>(i);
      for (std::size_t j = 0; j < i; ++j) join(LinkKind::socket, cpu(j), cpu(i));
    }
    for (std::size_t i = 0; i < hosts_.size(); ++i) {
      auto& host = add(ComponentKind::host, "host", i);
      host.model = "host";
      host.numa = static_cast<std::uint32_t>(i);
      host.capacity_bytes = hosts_[i];
      join(LinkKind::memory, cpu(i), fmt::format("{}/host{}", name_, i));
    }
    for (std::size_t i = 0; i < gpus_.size(); ++i) {
      const auto& model = *gpus_[i];
      auto& gpu = add(ComponentKind::gpu, "gpu", i);
      gpu.model = model.name;
      gpu.title = model.title;
      gpu.capacity_bytes = model.memory_bytes;
      gpu.sm = sm_of_model(model.name);
      join(LinkKind::pcie, gpu.name, cpu(i * cpus / gpus_.size()));
      result_.links.back().pcie =
          result_.links.back().pcie_max = {static_cast<std::uint32_t>(model.pcie_generation), 16};
    }
    add_nvswitches();
    fill_rates(result_);
  }

  // One switch for all GPUs of a model that is built around one.
  void add_nvswitches() {
    std::size_t switches = 0;
    for (const auto& model : gpu_models()) {
      const auto links = nvlinks_of_model(model);
      if (!model.has_nvswitch_form || links == 0 || std::ranges::count(gpus_, &model) < 2) continue;
      const auto name = add(ComponentKind::nvswitch, "nvswitch", switches++).name;
      for (std::size_t i = 0; i < gpus_.size(); ++i)
        if (gpus_[i] == &model)
          join(LinkKind::nvlink, fmt::format("{}/gpu{}", name_, i), name, links);
    }
  }

  const TopologyGraph& graph_;
  const std::string& text_;
  std::string name_;
  std::vector<const GpuModel*> gpus_;
  std::vector<std::uint64_t> hosts_;
  TopologyGraph result_;
};

}  // namespace

TopologyGraph read_node_spec(const TopologyGraph& graph, const std::string& text) {
  return SpecReader(graph, text).read();
}

}  // namespace causeway::whatif
