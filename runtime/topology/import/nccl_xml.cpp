// Reads what NCCL and RCCL write to NCCL_TOPO_DUMP_FILE, and what clouds hand out as
// NCCL_TOPO_FILE. Two passes: the tree of CPUs and PCI devices, then the NVLinks, whose targets may
// come later in the text.
// Source: github.com/NVIDIA/nccl, src/graph/xml.cc and topo.cc: which elements and attributes there
// are and what they mean.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>
#include <unordered_map>

#include "runtime/topology/cpu_set.h"
#include "runtime/topology/import/graph_parts.h"
#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/xml_text.h"
#include "runtime/topology/link_rates.h"
#include "runtime/topology/pci_ids.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

using NoteKind = TopologyNote::Kind;

constexpr std::int64_t kMaxLinkCount = 4096;
constexpr std::int64_t kMaxPortMbit = 4'000'000;  // Several ports as one come to 3.2 Tbit/s.
constexpr PciAddress kHiddenAddress{0xfffffff, 0xff, 0xff, 0};
constexpr std::uint32_t kNvlinkToCpu = 0x068001;  // IBM's NVLink port on the processor.

// "8 GT/s", "8.0 GT/s PCIe": kernels before and after 5.7.
std::optional<std::uint32_t> generation_of(std::string_view speed) {
  double gt_per_s = 0;
  const auto result = std::from_chars(speed.data(), speed.data() + speed.size(), gt_per_s);
  if (result.ec != std::errc()) return std::nullopt;
  speed.remove_prefix(static_cast<std::size_t>(result.ptr - speed.data()));
  while (speed.starts_with(' ')) speed.remove_prefix(1);
  return speed.starts_with("GT/s") ? pcie_generation(gt_per_s) : std::nullopt;
}

// "gfx942:sramecc+:xnack-", "gfx942", "908", "910": the last is RCCL's number for gfx90a.
std::string gfx_name(std::string_view gcn) {
  gcn = gcn.substr(0, gcn.find(':'));
  if (gcn.starts_with("gfx")) return std::string(gcn);
  return gcn == "910" ? "gfx90a" : fmt::format("gfx{}", gcn);
}

std::string gpu_key(const std::string& host, PciAddress at) {
  return fmt::format("{}|gpu|{}", host, at.to_string());
}

std::string nvswitch_key(const std::string& host, PciAddress at) {
  return fmt::format("{}|nvswitch|{}", host, at.to_string());
}

template <typename T>
std::optional<T> small_number(pugi::xml_node element, const char* name, std::int64_t limit) {
  const auto value = parse_integer(attribute(element, name));
  if (!value || *value < 0 || *value > limit) return std::nullopt;
  return static_cast<T>(*value);
}

std::optional<std::uint32_t> pci_id(pugi::xml_node element, const char* name) {
  const auto value = parse_hexadecimal(attribute(element, name));
  return value && *value <= 0xffff ? std::optional(static_cast<std::uint32_t>(*value))
                                   : std::nullopt;
}

std::optional<bool> yes_or_no(pugi::xml_node element, const char* name) {
  const auto value = parse_integer(attribute(element, name));
  return value ? std::optional(*value != 0) : std::nullopt;
}

// The links of one kind between two parts, counted by each end that is in the file.
struct Joint {
  std::uint32_t count_of_a = 0;  // The end that comes first in the file.
  std::uint32_t count_of_b = 0;
  std::optional<double> bytes_per_s;  // Of C2C.
  pugi::xml_node element;
};

class NcclReader {
 public:
  NcclReader(std::string_view text, const std::string& origin, std::string node)
      : xml_(text, origin), parts_(xml_), node_(std::move(node)) {}

  TopologyGraph read();

 private:
  void check_root() const;
  void read_cpu(pugi::xml_node element);
  std::string host_of(pugi::xml_node cpu);
  std::size_t cpu_part(pugi::xml_node element);
  void read_pci(pugi::xml_node element, std::size_t cpu, std::size_t parent);
  [[nodiscard]] ComponentKind kind_of(pugi::xml_node element, const Component& component) const;
  [[nodiscard]] PciAddress address(pugi::xml_node element, const char* name) const;
  PcieMode mode_of(pugi::xml_node element);
  void add_gpu(Part part);
  void add_nics(const Part& part);
  void add_net(Part part, pugi::xml_node net);
  void forget_false_bottlenecks();
  void read_links(std::size_t gpu);
  void read_nvlink(std::size_t gpu, pugi::xml_node element);
  std::size_t target_of(std::size_t gpu, pugi::xml_node element);
  std::size_t nvswitch_part(std::string host, PciAddress at, pugi::xml_node element);
  void join(std::size_t gpu, std::size_t other, pugi::xml_node element, LinkKind kind);
  void name_nodes(TopologyGraph& graph);
  void make_nvlinks(TopologyGraph& graph);
  [[nodiscard]] std::uint32_t agreed_count(const Joint& joint, const Part& a, const Part& b);

  XmlText xml_;
  PartTree parts_;
  std::string node_;
  std::vector<std::string> hosts_;  // host_hash of each. Until the end a part's node is its index.
  std::unordered_map<std::string, std::size_t> known_;  // What may not be there twice.
  std::map<std::tuple<std::size_t, std::size_t, LinkKind>, Joint> joints_;
  bool has_other_unit_ = false;  // Than Mbit/s, of NICs' speeds.
  bool made_up_bridges_ = false;
};

void NcclReader::check_root() const {
  const auto root = xml_.root();
  const std::string_view name = root.name();
  if (name == "graphs")
    throw xml_.error(root,
                     "this is a graph, not a topology: it lists the channels that NCCL chose "
                     "(NCCL_GRAPH_DUMP_FILE); import the file of NCCL_TOPO_DUMP_FILE instead");
  if (name != "system")
    throw xml_.error(root, fmt::format("<{}> where NCCL's topology has <system>; import the file "
                                       "of NCCL_TOPO_DUMP_FILE",
                                       name.substr(0, kMaxXmlName)));
  if (!root.child("cpu"))
    throw xml_.error(root, "<system> without a <cpu>; was NCCL's dump cut off?");
}

TopologyGraph NcclReader::read() {
  check_root();
  for (const auto cpu : xml_.root().children("cpu")) read_cpu(cpu);
  forget_false_bottlenecks();
  for (std::size_t i = 0; has_other_unit_ && i < parts_.size(); ++i)
    parts_[i].component.port_bytes_per_s.reset();
  bool any_gpu = false;
  bool nvlinks_known = false;
  for (std::size_t i = 0, count = parts_.size(); i < count; ++i) {
    const auto gpu = parts_[i].element.child("gpu");
    if (parts_[i].component.kind != ComponentKind::gpu || !gpu) continue;
    any_gpu = true;
    nvlinks_known |= !is_without_expected_ids(parts_[i].component) || gpu.first_child();
    read_links(i);
  }
  TopologyGraph graph;
  graph.name = xml_.origin();
  name_nodes(graph);
  for (auto& node : graph.nodes) {
    node.nvlinks_known = nvlinks_known;
    if (!nvlinks_known)
      node.unseen.emplace_back(
          any_gpu ? "NVLinks: the file lists none, and NCCL did not write it (GPUs without PCI "
                    "ids): it leaves them for NCCL to find"
                  : "NVLinks: the file has no <gpu>, so it says nothing of them");
  }
  parts_.name_all();
  parts_.append_to(graph);
  make_nvlinks(graph);
  graph.notes = xml_.take_notes();
  limit_nvlinks(graph, xml_.origin());
  join_nvswitches(graph, xml_.origin());
  fill_rates(graph);
  return graph;
}

// A dump of a rack joins several hosts in one <system>; they differ in their hash.
std::string NcclReader::host_of(pugi::xml_node cpu) {
  const std::string hash(short_attribute(cpu, "host_hash"));
  const auto at = std::ranges::find(hosts_, hash);
  if (at != hosts_.end()) return fmt::format("{}", at - hosts_.begin());
  if (hosts_.size() >= kMaxNumaNodes)
    throw xml_.error(
        cpu, fmt::format("more than {} hosts; no NVLink domain has that many", kMaxNumaNodes));
  hosts_.push_back(hash);
  return fmt::format("{}", hosts_.size() - 1);
}

std::size_t NcclReader::cpu_part(pugi::xml_node element) {
  const auto numa = parse_integer(attribute(element, "numaid"));
  if (!numa || *numa < -1 || *numa > 0xffff)
    throw xml_.error(element, fmt::format("cpu: numaid \"{}\"; write the number of the NUMA node, "
                                          "or -1 where it is not known",
                                          short_attribute(element, "numaid")));
  const auto host = host_of(element);
  const auto [at, is_new] = known_.emplace(fmt::format("{}|cpu|{}", host, *numa), parts_.size());
  if (!is_new) return at->second;
  Part cpu{.element = element};
  auto& component = cpu.component;
  component.node = host;
  component.kind = ComponentKind::cpu;
  component.arch = short_attribute(element, "arch");
  component.cpu_vendor = short_attribute(element, "vendor");
  component.cpu_family = small_number<std::uint32_t>(element, "familyid", 0xffff);
  component.cpu_model = small_number<std::uint32_t>(element, "modelid", 0xffff);
  if (*numa >= 0)
    component.numa = static_cast<std::uint32_t>(*numa);
  else
    xml_.note(NoteKind::remark, element, "the NUMA node of what is below is not known (-1)");
  if (const auto mask = attribute(element, "affinity"); !mask.empty()) {
    const auto cpus = parse_cpu_mask(mask);
    if (cpus)
      component.cpus = to_cpu_list(*cpus);
    else
      xml_.note(NoteKind::repaired, element, "affinity is not a mask of CPUs; left out");
  }
  Part memory{.element = element, .parent = parts_.size()};
  memory.component.node = host;
  memory.component.kind = ComponentKind::host;
  memory.component.model = "host";
  memory.component.numa = component.numa;
  const auto index = parts_.add(std::move(cpu));
  (void)parts_.add(std::move(memory));
  return index;
}

void NcclReader::read_cpu(pugi::xml_node element) {
  const auto cpu = cpu_part(element);
  for (const auto child : element.children()) {
    const std::string_view name = child.name();
    if (name == "pci") read_pci(child, cpu, cpu);
    if (name == "gpu")
      throw xml_.error(child,
                       "gpu: not inside of a <pci busid=...>; NCCL does not write that, and "
                       "without its address the GPU cannot be told from others");
    if (name != "nic") continue;
    // A network device that is no PCI device. NCCL hangs it on whichever CPU is first, so its place
    // stays unknown.
    for (const auto net : child.children("net")) {
      Part part{.element = child};
      part.component.kind = ComponentKind::nic;
      part.component.node = parts_[cpu].component.node;
      add_net(std::move(part), net);
    }
  }
}

PciAddress NcclReader::address(pugi::xml_node element, const char* name) const {
  const auto text = attribute(element, name);
  const auto address = PciAddress::parse(text);
  if (!address)
    throw xml_.error(element, fmt::format("{}: {} \"{}\" is not a PCI address; write it as "
                                          "0000:65:00.0",
                                          element.name(), name, text.substr(0, kMaxXmlName)));
  return *address;
}

ComponentKind NcclReader::kind_of(pugi::xml_node element, const Component& component) const {
  if (element.child("gpu")) return ComponentKind::gpu;
  if (element.child("nic")) return ComponentKind::nic;
  if (element.child("pci")) return ComponentKind::bridge;
  const auto code = parse_pci_class(attribute(element, "class"));
  const auto kind = code ? kind_of_pci_class(*code, component.vendor_id) : ComponentKind::unknown;
  if (kind != ComponentKind::unknown) return kind;
  return find_pci_gpu(component.vendor_id, component.device_id) != nullptr ? ComponentKind::gpu
                                                                           : ComponentKind::unknown;
}

// NCCL writes what the slower of both ends can do at most.
PcieMode NcclReader::mode_of(pugi::xml_node element) {
  PcieMode mode;
  const auto speed = short_attribute(element, "link_speed");
  const auto width = short_attribute(element, "link_width");
  mode.generation = generation_of(speed);
  mode.width = small_number<std::uint32_t>(element, "link_width", 32);
  // Sysfs says "Unknown" of a port without a link, and of its width 0 or 255.
  const bool is_odd_speed = !mode.generation && !speed.empty() && !speed.starts_with("Unknown");
  const bool is_odd_width = !mode.width && !width.empty() && width != "255";
  if (is_odd_speed || is_odd_width)
    xml_.note(NoteKind::repaired, element,
              fmt::format("{}: no PCIe link has a {} of \"{}\"; taken as unknown",
                          attribute(element, "busid"), is_odd_speed ? "speed" : "width",
                          printable(is_odd_speed ? speed : width, 40)));
  if (mode.width == 0U) mode.width.reset();
  if (!is_placeholder(mode)) return mode;
  xml_.note(NoteKind::remark, element,
            fmt::format("{}: Gen1 x1 is what a virtual port claims; taken as unknown",
                        attribute(element, "busid")));
  return {};
}

void NcclReader::read_pci(pugi::xml_node element, std::size_t cpu, std::size_t parent) {
  Part part{.element = element, .parent = parent};
  auto& component = part.component;
  component.node = parts_[cpu].component.node;
  component.pci = address(element, "busid");
  component.vendor_id = pci_id(element, "vendor");
  component.device_id = pci_id(element, "device");
  component.kind = kind_of(element, component);
  part.mode = mode_of(element);
  // Of a bridge too, so that its place can be read from it alone.
  component.numa = parts_[cpu].component.numa;
  auto below = parent;
  switch (component.kind) {
    case ComponentKind::gpu:
      add_gpu(std::move(part));
      break;
    case ComponentKind::nic:
      add_nics(part);
      break;
    case ComponentKind::bridge:
      if (component.pci->domain == 0xffff && component.pci->bus == 0xff && !made_up_bridges_) {
        made_up_bridges_ = true;
        xml_.note(NoteKind::remark, element,
                  "bridges at ffff:ff:xx are made up by whoever wrote this file, as clouds do for "
                  "their virtual machines: link speeds are theirs, not read from the hardware");
      }
      below = parts_.add(std::move(part));
      break;
    default:
      if (component.kind == ComponentKind::nvswitch)
        known_.emplace(nvswitch_key(component.node, *component.pci), parts_.size());
      (void)parts_.add(std::move(part));
  }
  for (const auto child : element.children("pci")) read_pci(child, cpu, below);
}

void NcclReader::add_gpu(Part part) {
  auto& component = part.component;
  const auto [at, is_new] = known_.emplace(gpu_key(component.node, *component.pci), parts_.size());
  if (!is_new) {
    xml_.note(
        NoteKind::repaired, part.element,
        fmt::format("GPU {} is listed twice; only the first is kept", component.pci->to_string()));
    return;
  }
  if (const auto* known = find_pci_gpu(component.vendor_id, component.device_id)) {
    component.model = known->model;
    component.sm = known->sm;
  }
  if (const auto gpu = part.element.child("gpu")) {
    const auto gcn = short_attribute(gpu, "gcn");
    if (!gcn.empty()) {
      component.arch = gfx_name(gcn);  // And `sm` is the number of compute units.
    } else if (!attribute(gpu, "sm").empty()) {
      const auto sm = small_number<std::uint32_t>(gpu, "sm", 999);
      if (sm)
        component.sm = sm;
      else
        xml_.note(NoteKind::repaired, gpu,
                  fmt::format("sm \"{}\" is no compute capability; left out",
                              short_attribute(gpu, "sm")));
    }
    const auto dev = small_number<std::int64_t>(gpu, "dev", 0xffff);
    const auto rank = small_number<std::int64_t>(gpu, "rank", 0xffffff);
    part.order = dev ? *dev : rank.value_or(kUnordered);
    component.gpu_direct = yes_or_no(gpu, "gdr");
  }
  (void)parts_.add(std::move(part));
}

void NcclReader::add_nics(const Part& part) {
  bool any = false;
  for (const auto nic : part.element.children("nic"))
    for (const auto net : nic.children("net")) {
      add_net(part, net);
      any = true;
    }
  if (any) return;
  auto bare = part;  // A skeleton: the class alone says what it is.
  if (parse_pci_class(attribute(part.element, "class")).value_or(0) >> 8 == 0x0207)
    bare.component.is_rdma = true;
  (void)parts_.add(std::move(bare));
}

void NcclReader::add_net(Part part, pugi::xml_node net) {
  auto& component = part.component;
  component.title = short_attribute(net, "name");
  part.order = small_number<std::int64_t>(net, "dev", 0xffff).value_or(kUnordered);
  // A GUID is 64 bits with its maker on top; small numbers are only counted.
  const auto guid = parse_hexadecimal(attribute(net, "guid"));
  if (guid && *guid >> 32 != 0) component.uuid = fmt::format("0x{:016x}", *guid);
  const auto mbit = small_number<double>(net, "speed", kMaxPortMbit);
  if (mbit && *mbit > 0) component.port_bytes_per_s = *mbit * 1e6 / 8;
  if (const auto speed = short_attribute(net, "speed"); !mbit && !speed.empty() && speed != "-1")
    xml_.note(NoteKind::repaired, net,
              fmt::format("{}: no port has a speed of \"{}\" Mbit/s; taken as unknown",
                          component.title, printable(speed, 40)));
  // In kbit/s the fastest ones show it; a slow one would pass for the best of all.
  has_other_unit_ =
      has_other_unit_ || (!mbit && parse_integer(attribute(net, "speed")) > kMaxPortMbit);
  component.gpu_direct = yes_or_no(net, "gdr");
  const auto code = parse_pci_class(attribute(part.element, "class"));
  if (component.gpu_direct == true || (code && *code >> 8 == 0x0207)) component.is_rdma = true;
  // NCCL numbers its network devices, so one number is one device; without one, the place counts.
  const auto place = part.order != kUnordered ? std::string()
                     : component.pci          ? component.pci->to_string()
                                              : std::string("no address");
  const auto key = fmt::format("{}|net|{}|{}|{}|{}|{}", component.node, component.title, part.order,
                               component.uuid, short_attribute(net, "port"), place);
  const auto [at, is_new] = known_.emplace(key, parts_.size());
  if (is_new) {
    (void)parts_.add(std::move(part));
    return;
  }
  auto& first = parts_[at->second];
  if (!first.component.pci && component.pci) {
    first.component.pci = component.pci;
    first.component.numa = component.numa;
    first.component.vendor_id = component.vendor_id;
    first.component.device_id = component.device_id;
    first.mode = part.mode;
    first.parent = part.parent;
  }
  xml_.note(NoteKind::repaired, net,
            fmt::format("network device {} is listed twice; kept once", component.title));
}

// NCCL's dumps show root ports and management links as one lane wide above devices of sixteen:
// a switch's management function answers there. Whoever took that for the path's width would see
// a sixteenth of it.
void NcclReader::forget_false_bottlenecks() {
  std::vector<std::uint32_t> widest(parts_.size(), 0);
  for (std::size_t i = parts_.size(); i-- > 0;) {
    auto& part = parts_[i];
    if (part.component.kind == ComponentKind::bridge && part.mode.width == 1U && widest[i] > 1) {
      xml_.note(NoteKind::remark, part.element,
                fmt::format("{}: one lane above a device of {}: not the link that data takes, so "
                            "its width is taken as unknown, not as a bottleneck",
                            attribute(part.element, "busid"), widest[i]));
      part.mode = {};
    }
    if (part.parent >= i) continue;  // A NIC that moved, or no parent.
    auto& above = widest[part.parent];
    above = std::max({above, widest[i], part.mode.width.value_or(0)});
  }
}

void NcclReader::read_links(std::size_t gpu) {
  for (const auto child : parts_[gpu].element.child("gpu").children()) {
    const std::string_view name = child.name();
    if (name == "nvlink" || name == "xgmi") read_nvlink(gpu, child);
    if (name != "c2c") continue;
    join(gpu, parts_.root(gpu), child, LinkKind::c2c);
  }
}

void NcclReader::read_nvlink(std::size_t gpu, pugi::xml_node element) {
  const auto other = target_of(gpu, element);
  if (other == kNoPart) return;
  // RCCL's older dumps say nvlink for xGMI.
  const bool amd =
      std::string_view(element.name()) == "xgmi" || !parts_[gpu].component.arch.empty() ||
      (parts_[other].component.kind == ComponentKind::gpu && !parts_[other].component.arch.empty());
  join(gpu, other, element, amd ? LinkKind::xgmi : LinkKind::nvlink);
}

// The part that a link of `gpu` ends at, or kNoPart if the link is to be left out.
std::size_t NcclReader::target_of(std::size_t gpu, pugi::xml_node element) {
  const auto& host = parts_[gpu].component.node;
  const auto tclass = parse_pci_class(attribute(element, "tclass"));
  if (tclass == kNvlinkToCpu) return parts_.root(gpu);
  const auto target = attribute(element, "target");
  const bool hidden = target.starts_with("fffffff:") || target.starts_with("FFFFFFF:");
  const auto at = hidden ? kHiddenAddress : address(element, "target");
  if (at == *parts_[gpu].component.pci) {
    xml_.note(NoteKind::repaired, element,
              fmt::format("GPU {} has an NVLink to itself; left out", at.to_string()));
    return kNoPart;
  }
  const auto known = known_.find(gpu_key(host, at));
  if (known != known_.end()) return known->second;
  // Where NCCL itself cannot find what is there, it takes it for an NVSwitch.
  const bool is_gpu = tclass && (kind_of_pci_class(*tclass, {}) == ComponentKind::gpu ||
                                 kind_of_pci_class(*tclass, kPciVendorAmd) == ComponentKind::gpu);
  if (!hidden && is_gpu) {
    xml_.note(NoteKind::repaired, element,
              fmt::format("GPU {} has a link to {}, a GPU that is not in the file; left out (does "
                          "a container see some of the GPUs only?)",
                          parts_[gpu].component.pci->to_string(), at.to_string()));
    return kNoPart;
  }
  return nvswitch_part(host, at, element);
}

std::size_t NcclReader::nvswitch_part(std::string host, PciAddress at, pugi::xml_node element) {
  // A switch that the driver hides is the fabric of the whole domain, whichever host asks.
  if (at.is_hidden()) host = "0";
  const auto [found, is_new] = known_.emplace(nvswitch_key(host, at), parts_.size());
  if (!is_new) return found->second;
  Part part{.element = element};
  part.component.node = std::move(host);
  part.component.kind = ComponentKind::nvswitch;
  part.component.pci = at;
  return parts_.add(std::move(part));
}

void NcclReader::join(std::size_t gpu, std::size_t other, pugi::xml_node element, LinkKind kind) {
  std::int64_t count = 1;
  if (!attribute(element, "count").empty()) {
    const auto stated = parse_integer(attribute(element, "count"));
    if (!stated || *stated < 0 || *stated > kMaxLinkCount)
      throw xml_.error(
          element, fmt::format("{}: count \"{}\"; a number from 0 to {} is needed", element.name(),
                               short_attribute(element, "count"), kMaxLinkCount));
    count = *stated;
  }
  if (count == 0) return;
  const bool first = gpu < other;
  auto& joint = joints_[{std::min(gpu, other), std::max(gpu, other), kind}];
  if (!joint.element) joint.element = element;
  auto& total = first ? joint.count_of_a : joint.count_of_b;
  total = static_cast<std::uint32_t>(std::min(total + count, kMaxLinkCount));
  if (kind != LinkKind::c2c) return;
  const auto mb_per_s = small_number<double>(element, "bw", 100'000'000);
  if (mb_per_s && *mb_per_s > 0)
    joint.bytes_per_s =
        joint.bytes_per_s.value_or(0) + *mb_per_s * 1e6 * static_cast<double>(count);
}

void NcclReader::name_nodes(TopologyGraph& graph) {
  const auto name_of = [&](std::string_view host) {
    return hosts_.size() == 1 ? node_ : fmt::format("{}-{}", node_, host);
  };
  graph.nodes.resize(hosts_.size());
  for (std::size_t i = 0; i < hosts_.size(); ++i)
    graph.nodes[i].name = name_of(fmt::format("{}", i));
  for (std::size_t i = 0; i < parts_.size(); ++i)
    parts_[i].component.node = name_of(parts_[i].component.node);
  if (hosts_.size() > 1)
    xml_.note(NoteKind::remark, xml_.root(),
              fmt::format("the file joins {} hosts, told apart by host_hash", hosts_.size()));
}

void NcclReader::make_nvlinks(TopologyGraph& graph) {
  // In the order of the numbers, not of the text: what is written out again reads back the same.
  std::vector<std::size_t> place(parts_.size());
  for (std::size_t i = 0; i < place.size(); ++i) place[parts_.order()[i]] = i;
  const auto key = [&](std::size_t at) {  // GPUs come first of all kinds.
    const auto& part = parts_[at];
    return std::tuple(part.component.kind, part.order, place[at]);
  };
  struct Made {
    std::size_t a;
    std::size_t b;
    LinkKind kind;
    const Joint* joint;
  };
  std::vector<Made> made;
  for (const auto& [ends, joint] : joints_) {
    auto [a, b, kind] = ends;
    if (key(b) < key(a)) std::swap(a, b);
    made.push_back({a, b, kind, &joint});
  }
  std::ranges::sort(
      made, {}, [&](const Made& link) { return std::tuple(key(link.a), key(link.b), link.kind); });
  for (const auto& [a, b, kind, joint] : made) {
    const auto count = agreed_count(*joint, parts_[std::min(a, b)], parts_[std::max(a, b)]);
    TopologyLink link{.kind = kind,
                      .a = parts_[a].component.name,
                      .b = parts_[b].component.name,
                      .provenance = Provenance::import,
                      .count = count};
    if (joint->bytes_per_s)
      link.line_bytes_per_s = link.effective_bytes_per_s =
          Figure{*joint->bytes_per_s, Provenance::import};
    graph.links.push_back(std::move(link));
  }
}

std::uint32_t NcclReader::agreed_count(const Joint& joint, const Part& a, const Part& b) {
  const bool two_sided =
      a.component.kind == ComponentKind::gpu && b.component.kind == ComponentKind::gpu;
  if (!two_sided) return std::max(joint.count_of_a, joint.count_of_b);
  if (joint.count_of_a == joint.count_of_b) return joint.count_of_a;
  const auto name_a = a.component.pci->to_string();
  const auto name_b = b.component.pci->to_string();
  if (joint.count_of_a == 0 || joint.count_of_b == 0) {
    const bool a_says = joint.count_of_b == 0;
    xml_.note(NoteKind::repaired, joint.element,
              fmt::format("GPU {} has {} links to {}, which has none back; a link has two ends, so "
                          "it is taken as there",
                          a_says ? name_a : name_b, std::max(joint.count_of_a, joint.count_of_b),
                          a_says ? name_b : name_a));
    return std::max(joint.count_of_a, joint.count_of_b);
  }
  xml_.note(NoteKind::repaired, joint.element,
            fmt::format("GPU {} has {} links to {}, which has {} back; the lower number is taken",
                        name_a, joint.count_of_a, name_b, joint.count_of_b));
  return std::min(joint.count_of_a, joint.count_of_b);
}

}  // namespace

TopologyGraph read_nccl_xml(std::string_view text, const std::string& origin,
                            const std::string& node) {
  return NcclReader(text, origin, node).read();
}

}  // namespace causeway
