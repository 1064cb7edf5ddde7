// Writes one node as NCCL reads it from NCCL_TOPO_FILE.
//
// What is not known is left out: NCCL then looks at the machine itself. GPUs without an address, or
// PCIe links that run in a circle, are refused.
// Source: github.com/NVIDIA/nccl, src/graph/xml.cc and topo.cc: NCCL's parser takes one space
// between attributes, double quotes only, and values of at most 255 bytes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "causeway/error.h"
#include "causeway/topology_export.h"
#include "runtime/topology/cpu_set.h"
#include "runtime/topology/link_rates.h"
#include "runtime/topology/pci_ids.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxValueBytes = 255;
constexpr std::size_t kMaxDepth = 64;  // Of bridges.

struct Below {
  const Component* component;
  const TopologyLink* link;  // nullptr: the graph does not say where it is.
};

std::string attribute(std::string_view name, std::string_view value) {
  std::string safe;
  for (const char c : value.substr(0, kMaxValueBytes)) {
    if (safe.size() + 6 > kMaxValueBytes) break;
    if (c == '&')
      safe += "&amp;";
    else if (c == '<')
      safe += "&lt;";
    else if (c == '>')
      safe += "&gt;";
    else if (c == '"')
      safe += "&quot;";
    else
      safe += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return fmt::format(" {}=\"{}\"", name, safe);
}

template <typename T>
std::string number(std::string_view name, const std::optional<T>& value) {
  return value ? fmt::format(" {}=\"{}\"", name, *value) : "";
}

std::string id(std::string_view name, const std::optional<std::uint32_t>& value) {
  return value ? fmt::format(" {}=\"0x{:04x}\"", name, *value) : "";
}

std::string yes_or_no(std::string_view name, const std::optional<bool>& value) {
  return value ? fmt::format(" {}=\"{}\"", name, *value ? 1 : 0) : "";
}

// For the text; 0 for what is no rate.
long long whole(double value) { return value > 0 && value < 1e12 ? std::llround(value) : 0; }

// Whether anything is known of a NIC that NCCL says in a <net>.
bool has_net(const Component& nic) {
  return !nic.pci || !nic.title.empty() || nic.port_bytes_per_s || nic.gpu_direct ||
         !nic.uuid.empty();
}

class NcclWriter {
 public:
  NcclWriter(const TopologyGraph& graph, std::string_view node);
  std::string write();

 private:
  void place_link(const TopologyLink& link);
  void place_the_rest(const TopologyGraph& graph);
  [[nodiscard]] const Component* nearest_cpu(const Component& device) const;
  void write_cpu(const Component& cpu);
  void write_device(const Below& device, std::size_t depth);
  [[nodiscard]] std::string pci_attributes(const Component& component, const TopologyLink* link);
  void write_gpu(const Component& gpu, std::size_t depth);
  [[nodiscard]] std::string gpu_link(const Component& gpu, const TopologyLink& link) const;
  void write_net(const Component& nic, std::size_t depth);
  void line(std::size_t depth, std::string_view text);

  const TopologyNode* node_;
  std::unordered_map<std::string_view, const Component*> components_;
  std::vector<const Component*> cpus_;
  Component unknown_cpu_;  // For devices of which no NUMA node is known.
  std::set<const Component*> has_place_;
  std::map<const Component*, std::vector<Below>> below_;
  std::map<const Component*, std::vector<const TopologyLink*>> gpu_links_;
  std::map<const Component*, std::size_t> numbers_;  // NCCL's "dev" of GPUs and NICs.
  std::map<std::pair<std::string_view, PciAddress>, std::size_t> ports_;
  std::size_t written_ = 0;
  std::size_t placed_ = 0;
  std::size_t made_up_ = 0;
  std::string text_;
};

NcclWriter::NcclWriter(const TopologyGraph& graph, std::string_view node)
    : node_(graph.find_node(node)) {
  if (node_ == nullptr)
    throw Error(Errc::invalid_argument,
                fmt::format("no node \"{}\" in the topology to write for NCCL", node));
  for (const auto& component : graph.components) components_.emplace(component.name, &component);
  unknown_cpu_.kind = ComponentKind::cpu;
  for (const auto& component : graph.components)
    if (component.kind == ComponentKind::cpu && component.node == node) cpus_.push_back(&component);
  for (const auto& link : graph.links) place_link(link);
  place_the_rest(graph);
}

// Builds the tree, with siblings in the order of their links.
void NcclWriter::place_link(const TopologyLink& link) {
  const auto at_a = components_.find(link.a);
  const auto at_b = components_.find(link.b);
  if (at_a == components_.end() || at_b == components_.end()) return;
  const auto* a = at_a->second;
  const auto* b = at_b->second;
  if (link.kind == LinkKind::pcie) {
    if (a->node != node_->name || b->node != node_->name) return;
    if (a->kind == ComponentKind::cpu || a->kind == ComponentKind::host) return;
    if (!has_place_.insert(a).second) return;
    below_[b].push_back({a, &link});
    ++placed_;
  } else if (link.kind == LinkKind::nvlink || link.kind == LinkKind::xgmi ||
             link.kind == LinkKind::c2c) {
    for (const auto* end : {a, b})
      if (end->kind == ComponentKind::gpu && end->node == node_->name)
        gpu_links_[end].push_back(&link);
  }
}

void NcclWriter::place_the_rest(const TopologyGraph& graph) {
  std::map<ComponentKind, std::vector<const Component*>> numbered;
  for (const auto& component : graph.components) {
    const auto kind = component.kind;
    if (component.node != node_->name) continue;
    if (kind != ComponentKind::gpu && kind != ComponentKind::nic) continue;
    if (kind == ComponentKind::gpu || has_net(component)) numbered[kind].push_back(&component);
    if (has_place_.contains(&component)) continue;
    below_[nearest_cpu(component)].push_back({&component, nullptr});
    ++placed_;
  }
  if (below_.contains(&unknown_cpu_)) cpus_.push_back(&unknown_cpu_);
  // "node/gpu10" comes after "node/gpu9".
  for (auto& [kind, of_kind] : numbered) {
    std::ranges::stable_sort(of_kind, {}, [](const Component* component) {
      return std::pair(component->name.size(), std::string_view(component->name));
    });
    for (std::size_t i = 0; i < of_kind.size(); ++i) numbers_[of_kind[i]] = i;
  }
}

const Component* NcclWriter::nearest_cpu(const Component& device) const {
  for (const auto* cpu : cpus_)
    if (device.numa && cpu->numa == device.numa) return cpu;
  // A network device without an address has no place; NCCL takes the first.
  if (device.kind == ComponentKind::nic && !device.pci && !cpus_.empty()) return cpus_.front();
  return &unknown_cpu_;
}

void NcclWriter::line(std::size_t depth, std::string_view text) {
  text_.append(2 * depth, ' ');
  text_ += text;
  text_ += '\n';
}

std::string NcclWriter::write() {
  bool is_amd = false;
  for (const auto& [name, component] : components_)
    is_amd |= component->node == node_->name && component->kind == ComponentKind::gpu &&
              component->arch.starts_with("gfx");
  line(0, fmt::format("<system version=\"{}\">", is_amd ? 2 : 1));  // RCCL's is another one.
  for (const auto* cpu : cpus_) write_cpu(*cpu);
  line(0, "</system>");
  if (written_ != placed_)
    throw Error(
        Errc::invalid_argument,
        fmt::format("{}: {} of its {} devices hang on no CPU, however far one follows their "
                    "PCIe links; NCCL's XML cannot say that",
                    node_->name, placed_ - written_, placed_));
  return std::move(text_);
}

void NcclWriter::write_cpu(const Component& cpu) {
  std::string tag = "<cpu";
  tag += cpu.numa ? fmt::format(" numaid=\"{}\"", *cpu.numa) : " numaid=\"-1\"";
  if (!cpu.cpus.empty()) {
    const auto set = parse_cpu_list(cpu.cpus);
    if (!set)
      throw Error(
          Errc::invalid_argument,
          fmt::format("{}: cpus \"{}\" is not a list such as 0-23,48-71", cpu.name, cpu.cpus));
    tag += fmt::format(" affinity=\"{}\"", to_cpu_mask(*set));
  }
  if (!cpu.arch.empty()) tag += attribute("arch", cpu.arch);
  if (!cpu.cpu_vendor.empty()) tag += attribute("vendor", cpu.cpu_vendor);
  tag += number("familyid", cpu.cpu_family) + number("modelid", cpu.cpu_model);
  const auto& devices = below_[&cpu];
  if (devices.empty()) return line(1, tag + "/>");
  line(1, tag + ">");
  for (const auto& device : devices) write_device(device, 2);
  line(1, "</cpu>");
}

std::string NcclWriter::pci_attributes(const Component& component, const TopologyLink* link) {
  // A bridge of no address gets one as the clouds make them up.
  const auto address = component.pci
                           ? component.pci->to_string()
                           : fmt::format("ffff:ff:{:02x}.{}", made_up_ / 8 % 32, made_up_ % 8);
  if (!component.pci) ++made_up_;
  std::string text = attribute("busid", address);
  const bool is_amd = component.vendor_id == kPciVendorAmd || component.arch.starts_with("gfx");
  switch (component.kind) {
    case ComponentKind::gpu:
      text += is_amd ? " class=\"0x120000\"" : " class=\"0x030200\"";
      break;
    case ComponentKind::nic:
      text += component.is_rdma == true ? " class=\"0x020700\"" : " class=\"0x020000\"";
      break;
    case ComponentKind::bridge:
      text += " class=\"0x060400\"";
      break;
    case ComponentKind::nvswitch:
      text += " class=\"0x068000\"";
      break;
    default:
      break;
  }
  text += id("vendor", component.vendor_id) + id("device", component.device_id);
  if (link == nullptr) return text;
  // NCCL wants what both ends can do; a card that idles runs at less. The width does not idle.
  auto mode = link->pcie;
  mode.generation = std::max(mode.generation, link->pcie_max.generation);
  if (!mode.width) mode.width = link->pcie_max.width;
  constexpr std::array kSpeeds{"2.5", "5.0", "8.0", "16.0", "32.0", "64.0"};
  if (mode.generation && *mode.generation >= 1 && *mode.generation <= kSpeeds.size())
    text += fmt::format(" link_speed=\"{} GT/s PCIe\"", kSpeeds[*mode.generation - 1]);
  return text + number("link_width", mode.width);
}

void NcclWriter::write_device(const Below& device, std::size_t depth) {
  const auto& component = *device.component;
  if (depth > kMaxDepth)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: more than {} bridges above it", component.name, kMaxDepth));
  ++written_;
  const bool is_gpu = component.kind == ComponentKind::gpu;
  if (is_gpu && !component.pci)
    throw Error(Errc::invalid_argument,
                fmt::format("{} has no PCI address, and NCCL's XML names GPUs by it; merge in a "
                            "source that has it (lstopo, nvidia-smi)",
                            component.name));
  if (component.kind == ComponentKind::nic && !component.pci) {
    line(depth, "<nic>");
    write_net(component, depth + 1);
    return line(depth, "</nic>");
  }
  const auto tag = "<pci" + pci_attributes(component, device.link);
  const bool has_gpu = is_gpu && (node_->nvlinks_known || is_without_expected_ids(component));
  const bool is_net = component.kind == ComponentKind::nic && has_net(component);
  const auto& devices = below_[&component];
  if (!has_gpu && !is_net && devices.empty()) return line(depth, tag + "/>");
  line(depth, tag + ">");
  if (has_gpu) write_gpu(component, depth + 1);
  if (is_net) {
    line(depth + 1, "<nic>");
    write_net(component, depth + 2);
    line(depth + 1, "</nic>");
  }
  for (const auto& each : devices) write_device(each, depth + 1);
  line(depth, "</pci>");
}

void NcclWriter::write_gpu(const Component& gpu, std::size_t depth) {
  auto tag = fmt::format("<gpu dev=\"{}\"", numbers_[&gpu]);
  if (gpu.arch.starts_with("gfx"))
    tag += attribute("gcn", gpu.arch);
  else
    tag += number("sm", gpu.sm);
  tag += fmt::format(" rank=\"{}\"", numbers_[&gpu]) + yes_or_no("gdr", gpu.gpu_direct);
  std::string links;
  for (const auto* link : gpu_links_[&gpu]) {
    const auto text = gpu_link(gpu, *link);
    if (!text.empty()) links += std::string(2 * depth + 2, ' ') + text + '\n';
  }
  if (links.empty()) return line(depth, tag + "/>");
  line(depth, tag + ">");
  text_ += links;
  line(depth, "</gpu>");
}

// Empty for a link that carries nothing, or that NCCL can only find itself.
std::string NcclWriter::gpu_link(const Component& gpu, const TopologyLink& link) const {
  if (link.count == 0 || link.state == LinkState::down) return {};
  const auto& other = *components_.at(link.a == gpu.name ? link.b : link.a);
  if (link.kind == LinkKind::c2c) {
    const auto& rate = link.line_bytes_per_s ? link.line_bytes_per_s : link.effective_bytes_per_s;
    if (!rate) return {};
    return fmt::format("<c2c bw=\"{}\" count=\"{}\"/>", whole(rate->value / 1e6 / link.count),
                       link.count);
  }
  const auto* element = link.kind == LinkKind::xgmi ? "xgmi" : "nvlink";
  std::string target;
  std::string_view tclass;
  switch (other.kind) {
    case ComponentKind::gpu:
      if (!other.pci)
        throw Error(
            Errc::invalid_argument,
            fmt::format("{} has no PCI address, and NCCL's XML names GPUs by it", other.name));
      target = other.pci->to_string();
      tclass = link.kind == LinkKind::xgmi ? "0x120000" : "0x030200";
      break;
    case ComponentKind::cpu:
      target = "0000:00:00.0";  // Not looked at: the class says that it is the CPU.
      tclass = "0x068001";
      break;
    default:
      target = other.pci ? other.pci->to_string() : "fffffff:ff:ff.0";
      tclass = "0x068000";
  }
  return fmt::format("<{} target=\"{}\" count=\"{}\" tclass=\"{}\"/>", element, target, link.count,
                     tclass);
}

void NcclWriter::write_net(const Component& nic, std::size_t depth) {
  auto tag = std::string("<net") + attribute("name", nic.title);
  tag += fmt::format(" dev=\"{}\"", numbers_[&nic]);
  if (nic.port_bytes_per_s)
    tag += fmt::format(" speed=\"{}\"", whole(*nic.port_bytes_per_s * 8 / 1e6));
  tag += fmt::format(" port=\"{}\"", ++ports_[{nic.title, nic.pci.value_or(PciAddress())}]);
  if (nic.uuid.starts_with("0x")) tag += attribute("guid", nic.uuid);
  line(depth, tag + yes_or_no("gdr", nic.gpu_direct) + "/>");
}

}  // namespace

std::string graph_to_nccl_xml(const TopologyGraph& graph, std::string_view node) {
  return NcclWriter(graph, node).write();
}

}  // namespace causeway
