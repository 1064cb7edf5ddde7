// Reads what lstopo exports. Of a machine's objects only these count: NUMA nodes, packages, the PCI
// tree above GPUs, NICs and NVSwitches, and the matrices of NVLink and xGMI bandwidth.
// Source: hwloc's documentation of its XML, attributes and distances; topology-nvml.c for what its
// figures mean and where they are wrong.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>

#include "runtime/topology/cpu_set.h"
#include "runtime/topology/import/graph_parts.h"
#include "runtime/topology/import/hwloc_matrix.h"
#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/xml_text.h"
#include "runtime/topology/link_rates.h"
#include "runtime/topology/pci_ids.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

using NoteKind = TopologyNote::Kind;

std::string_view type_of(pugi::xml_node object) { return attribute(object, "type"); }

std::string_view info(pugi::xml_node object, const char* name) {
  return short_attribute(object.find_child_by_attribute("info", "name", name), "value");
}

std::optional<std::uint64_t> whole_number(std::string_view text) {
  const auto value = parse_integer(text);
  return value && *value >= 0 ? std::optional(static_cast<std::uint64_t>(*value)) : std::nullopt;
}

// hwloc's infos are in KiB; newer ones say so.
std::optional<std::uint64_t> kib(std::string_view text) {
  if (text.ends_with("KiB")) text.remove_suffix(3);
  const auto value = whole_number(text);
  return value && *value > 0 && *value < std::uint64_t{1} << 40 ? std::optional(*value * 1024)
                                                                : std::nullopt;
}

// "0302 [10de:1db8] [10de:131d] a1 00"
struct PciType {
  std::uint32_t class_code = 0;
  std::optional<std::uint32_t> vendor_id;
  std::optional<std::uint32_t> device_id;
};

PciType pci_type_of(pugi::xml_node object) {
  const auto text = attribute(object, "pci_type");
  PciType type;
  type.class_code = parse_pci_class(text.substr(0, 4)).value_or(0);
  const auto open = text.find('[');
  if (open == std::string_view::npos || text.size() < open + 10) return type;
  const auto vendor = parse_hexadecimal(text.substr(open + 1, 4));
  const auto device = parse_hexadecimal(text.substr(open + 6, 4));
  if (vendor && device && (*vendor != 0 || *device != 0)) {
    type.vendor_id = static_cast<std::uint32_t>(*vendor);
    type.device_id = static_cast<std::uint32_t>(*device);
  }
  return type;
}

// What carries `gb_per_s` on the wire. Many modes do: Gen3 x16 is Gen4 x8 is Gen5 x4. Of Gen6 hwloc
// counts 128 bits in 130 as well, so that only its sixteen lanes differ from Gen5.
std::vector<PcieMode> modes_of(double gb_per_s) {
  constexpr std::array kLaneGbPerS{
      0.25, 0.5, 8.0 / 8 * 128 / 130, 16.0 / 8 * 128 / 130, 32.0 / 8 * 128 / 130, 8.0};
  constexpr double kGen6x16GbPerS = 64.0 / 8 * 128 / 130 * 16;
  if (std::abs(kGen6x16GbPerS / gb_per_s - 1) < 1e-3) return {{6, 16}};
  std::vector<PcieMode> modes;
  for (std::uint32_t generation = 1; generation <= kLaneGbPerS.size(); ++generation)
    for (const std::uint32_t width : {1U, 2U, 4U, 8U, 16U})
      if (std::abs(kLaneGbPerS[generation - 1] * width / gb_per_s - 1) < 1e-3)
        modes.push_back({generation, width});
  return modes;
}

// Gen1 and Gen2 code 8 bits in 10; a card that could do more runs at them while it idles.
bool is_slow_coding(const std::vector<PcieMode>& modes) {
  return !modes.empty() && modes.front().generation <= 2U;
}

// "cuda0", "nvml3", "rsmi1". Of these, NVML's and ROCm's numbers follow the PCI order.
std::optional<std::int64_t> number_after(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  return parse_integer(name.substr(prefix.size()));
}

// Of each set, whether smaller ones have all of its CPUs.
std::vector<bool> are_split(const std::vector<CpuSet>& sets) {
  std::map<std::size_t, std::vector<std::size_t>> by_size;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    std::size_t size = 0;
    for (const auto& range : sets[i]) size += range.last - range.first + 1;
    by_size[size].push_back(i);
  }
  std::vector<bool> is_split(sets.size());
  std::vector<bool> seen(kMaxCpus);
  for (const auto& [size, alike] : by_size) {
    for (const auto i : alike) {
      std::size_t known = 0;
      for (const auto& range : sets[i])
        for (auto cpu = range.first; cpu <= range.last; ++cpu) known += seen[cpu] ? 1 : 0;
      is_split[i] = known == size;
    }
    for (const auto i : alike)
      for (const auto& range : sets[i])
        for (auto cpu = range.first; cpu <= range.last; ++cpu) seen[cpu] = true;
  }
  return is_split;
}

struct Package {
  CpuSet cpus;
  pugi::xml_node element;
};

class HwlocReader {
 public:
  HwlocReader(std::string_view text, const std::string& origin, std::string node)
      : xml_(text, origin), parts_(xml_), node_(std::move(node)) {}

  TopologyGraph read();

 private:
  // What the objects above say of the one that is being read.
  struct Place {
    pugi::xml_node cpus;  // The nearest with a set of CPUs.
    std::size_t cpu = kNoPart;
    std::optional<std::uint32_t> numa;  // Of the CPU, if it can only be that one.
    std::size_t parent = kNoPart;
  };

  void check_root();
  void find_processors(pugi::xml_node object);
  void add_processors();
  std::size_t add_cpu(pugi::xml_node element, const CpuSet& cpus,
                      std::optional<std::uint32_t> numa);
  void describe_cpu(Component& cpu, const CpuSet& cpus) const;
  void add_memory(pugi::xml_node numa, std::optional<std::uint32_t> number, std::size_t cpu);
  [[nodiscard]] CpuSet cpus_of(pugi::xml_node object) const;
  [[nodiscard]] std::vector<std::size_t> near_cpus(pugi::xml_node object) const;
  [[nodiscard]] std::string_view machine_info(const char* name) const;

  void read_object(pugi::xml_node object, Place place);
  void settle(Place& place);
  void read_bridge(pugi::xml_node object, Place place);
  void read_device(pugi::xml_node object, const Place& place);
  Part pci_part(pugi::xml_node object, const Place& place);
  void describe_gpu(Part& part);
  void add_nics(const Part& part);
  void set_speed(Part& part, bool has_nvml);
  void distrust_ports();

  XmlText xml_;
  PartTree parts_;
  std::string node_;
  pugi::xml_node machine_;
  std::vector<pugi::xml_node> numa_nodes_;
  std::vector<Package> packages_;
  std::vector<std::pair<CpuSet, std::size_t>> cpu_parts_;
  std::set<PciAddress> devices_;                    // What is there so far.
  std::unordered_map<const void*, Place> settled_;  // By the object with the cores.
  std::vector<HwlocMatrix> matrices_;
  std::unordered_map<std::string, std::size_t> matrix_objects_;  // By gp_index; what they became.
};

void HwlocReader::check_root() {
  const auto root = xml_.root();
  const std::string_view name = root.name();
  if (name == "topologydiff")
    throw xml_.error(root,
                     "this is a difference between two topologies; export the topology "
                     "itself with lstopo FILE.xml");
  if (name != "topology")
    throw xml_.error(root, fmt::format("<{}> where hwloc's XML has <topology>; export it with "
                                       "lstopo FILE.xml",
                                       name.substr(0, kMaxXmlName)));
  machine_ = root.find_child_by_attribute("object", "type", "Machine");
  // hwloc 1 may merge the machine into its only NUMA node.
  if (!machine_) machine_ = root.find_child_by_attribute("object", "type", "NUMANode");
  if (!machine_)
    throw xml_.error(root,
                     "no object of type Machine; several machines in one file are not read, "
                     "export each with lstopo FILE.xml");
}

TopologyGraph HwlocReader::read() {
  check_root();
  find_processors(machine_);
  add_processors();
  matrices_ = read_hwloc_matrices(xml_);
  for (const auto& matrix : matrices_)
    for (const auto& object : matrix.objects) matrix_objects_.emplace(object, kNoPart);
  read_object(machine_, {});
  distrust_ports();
  for (std::size_t i = 0; i < parts_.size(); ++i) parts_[i].component.node = node_;
  parts_.name_all();
  TopologyGraph graph;
  graph.name = xml_.origin();
  TopologyNode node;
  node.name = node_;
  node.kernel = machine_info("OSRelease");
  node.nvlinks_known = !matrices_.empty();
  if (!node.nvlinks_known)
    node.unseen.emplace_back(
        "NVLinks: the file has no matrix of them; lstopo writes one where it "
        "was built with NVML");
  graph.nodes.push_back(std::move(node));
  parts_.append_to(graph);
  for (auto& matrix : matrices_) {
    for (const auto& object : matrix.objects) matrix.ends.push_back(matrix_objects_.at(object));
    append_matrix_links(xml_, matrix, parts_, machine_info("hwlocVersion"), graph);
  }
  graph.notes = xml_.take_notes();
  limit_nvlinks(graph, xml_.origin());
  join_nvswitches(graph, xml_.origin());
  fill_rates(graph);
  return graph;
}

// hwloc 3 has them beside the machine, earlier ones in it.
std::string_view HwlocReader::machine_info(const char* name) const {
  const auto value = info(machine_, name);
  return value.empty() ? info(xml_.root(), name) : value;
}

CpuSet HwlocReader::cpus_of(pugi::xml_node object) const {
  const auto text = attribute(object, "cpuset");
  if (text.empty() || text.find("...") != std::string_view::npos) return {};  // Infinite: no news.
  const auto cpus = parse_cpu_mask(text);
  if (!cpus) throw xml_.error(object, "cpuset is not a mask of CPUs");
  return *cpus;
}

void HwlocReader::find_processors(pugi::xml_node object) {
  const auto type = type_of(object);
  if (type == "NUMANode" || type == "Node") numa_nodes_.push_back(object);
  if (type == "Package" || type == "Socket") packages_.push_back({cpus_of(object), object});
  if (packages_.size() > kMaxNumaNodes || numa_nodes_.size() > kMaxNumaNodes)
    throw xml_.error(object, fmt::format("more than {} packages or NUMA nodes; no machine has that "
                                         "many",
                                         kMaxNumaNodes));
  for (const auto child : object.children("object")) find_processors(child);
}

// One CPU for each set of cores that has memory. NUMA nodes with the same cores (HBM beside DRAM)
// share it; those with none (CXL), or with the cores of several others (slower memory of a whole
// package), belong to the nearest.
void HwlocReader::add_processors() {
  const auto number_of = [&](pugi::xml_node numa) -> std::optional<std::uint32_t> {
    const auto value = whole_number(attribute(numa, "os_index"));
    if (!value || *value > 0xffff)
      throw xml_.error(numa, "NUMANode: os_index is not a number; was the file cut off?");
    return static_cast<std::uint32_t>(*value);
  };
  std::ranges::stable_sort(numa_nodes_, {}, number_of);
  std::erase_if(numa_nodes_, [](pugi::xml_node numa) {
    return attribute(numa, "subtype") == "GPUMemory";  // It is the GPU's.
  });
  std::vector<CpuSet> sets;
  for (const auto numa : numa_nodes_) sets.push_back(cpus_of(numa));
  const auto is_split = are_split(sets);
  std::vector<pugi::xml_node> without_cores;  // Of their own.
  for (std::size_t i = 0; i < numa_nodes_.size(); ++i) {
    const auto numa = numa_nodes_[i];
    const auto& cpus = sets[i];
    if (is_split[i]) {
      without_cores.push_back(numa);
      continue;
    }
    const auto known = std::ranges::find(cpu_parts_, cpus, &std::pair<CpuSet, std::size_t>::first);
    const auto cpu =
        known != cpu_parts_.end() ? known->second : add_cpu(numa, cpus, number_of(numa));
    add_memory(numa, number_of(numa), cpu);
  }
  if (cpu_parts_.empty()) {
    const auto cpu = add_cpu(machine_, cpus_of(machine_), std::nullopt);
    if (numa_nodes_.empty()) add_memory(machine_, std::nullopt, cpu);
  }
  for (const auto numa : without_cores) {
    const auto near = near_cpus(numa);
    add_memory(numa, number_of(numa), near.front());
  }
}

std::size_t HwlocReader::add_cpu(pugi::xml_node element, const CpuSet& cpus,
                                 std::optional<std::uint32_t> numa) {
  Part part{.element = element};
  part.component.kind = ComponentKind::cpu;
  part.component.numa = numa;
  part.component.cpus = to_cpu_list(cpus);
  describe_cpu(part.component, cpus);
  const auto index = parts_.add(std::move(part));
  cpu_parts_.emplace_back(cpus, index);
  return index;
}

void HwlocReader::describe_cpu(Component& cpu, const CpuSet& cpus) const {
  auto package = std::ranges::find_if(
      packages_, [&](const Package& each) { return overlap(each.cpus, cpus); });
  if (package == packages_.end() && packages_.size() == 1) package = packages_.begin();
  const auto text = [&](const char* name) {
    const auto own = package != packages_.end() ? info(package->element, name) : "";
    return own.empty() ? machine_info(name) : own;
  };
  const auto number = [&](const char* name) -> std::optional<std::uint32_t> {
    const auto value = whole_number(text(name));
    return value && *value <= 0xffff ? std::optional(static_cast<std::uint32_t>(*value))
                                     : std::nullopt;
  };
  cpu.title = text("CPUModel");
  cpu.cpu_vendor = text("CPUVendor");
  cpu.cpu_family = number("CPUFamilyNumber");
  cpu.cpu_model = number("CPUModelNumber");
  const auto arch = machine_info("Architecture");
  cpu.arch = arch == "aarch64" ? "arm64" : arch.starts_with("ppc64") ? "ppc64" : arch;
}

void HwlocReader::add_memory(pugi::xml_node numa, std::optional<std::uint32_t> number,
                             std::size_t cpu) {
  const auto bytes = whole_number(attribute(numa, "local_memory"));
  if (bytes == 0U) return;
  Part part{.element = numa, .parent = cpu};
  part.component.kind = ComponentKind::host;
  part.component.model = "host";
  part.component.numa = number;
  part.component.capacity_bytes = bytes;
  (void)parts_.add(std::move(part));
}

// The CPUs that have a core of the object's, or of the nearest object around it that has any.
std::vector<std::size_t> HwlocReader::near_cpus(pugi::xml_node object) const {
  for (; object; object = object.parent()) {
    const auto cpus = cpus_of(object);
    std::vector<std::size_t> near;
    for (const auto& [of_part, part] : cpu_parts_)
      if (overlap(of_part, cpus)) near.push_back(part);
    if (!near.empty()) return near;
  }
  std::vector<std::size_t> all;
  for (const auto& [cpus, part] : cpu_parts_) all.push_back(part);
  return all;
}

void HwlocReader::read_object(pugi::xml_node object, Place place) {
  const auto type = type_of(object);
  const auto in_matrix = matrix_objects_.find(std::string(attribute(object, "gp_index")));
  if (type == "Bridge") return read_bridge(object, place);
  if (type == "PCIDev") return read_device(object, place);
  if (object.attribute("cpuset")) {
    place = Place();
    place.cpus = object;
  }
  if (in_matrix != matrix_objects_.end() && place.cpus) {
    settle(place);  // NVLinks to a processor end at a package, or a part of one.
    in_matrix->second = place.cpu;
  }
  for (const auto child : object.children("object")) read_object(child, place);
}

// Finds the CPU below which devices are, once it is needed.
void HwlocReader::settle(Place& place) {
  if (place.cpu != kNoPart) return;
  const auto [known, is_new] = settled_.emplace(place.cpus.internal_object(), Place());
  if (is_new) {
    const auto near = near_cpus(place.cpus);
    auto& settled = known->second;
    settled = {.cpus = place.cpus, .cpu = near.front(), .numa = {}, .parent = near.front()};
    if (near.size() == 1)
      settled.numa = parts_[near.front()].component.numa;
    else
      xml_.note(NoteKind::remark, place.cpus,
                "the NUMA node of the devices below is not known: it may be any of several");
  }
  place = known->second;
}

Part HwlocReader::pci_part(pugi::xml_node object, const Place& place) {
  Part part{.element = object, .parent = place.parent};
  const auto busid = attribute(object, "pci_busid");
  part.component.pci = PciAddress::parse(busid);
  if (!part.component.pci)
    throw xml_.error(object, fmt::format("pci_busid \"{}\" is not a PCI address such as "
                                         "0000:65:00.0",
                                         busid.substr(0, kMaxXmlName)));
  const auto type = pci_type_of(object);
  part.component.vendor_id = type.vendor_id;
  part.component.device_id = type.device_id;
  part.component.numa = place.numa;
  return part;
}

void HwlocReader::read_bridge(pugi::xml_node object, Place place) {
  settle(place);
  // A host bridge has no address: it is the CPU's own.
  const bool is_pci = !attribute(object, "pci_busid").empty();
  if (is_pci) {
    auto part = pci_part(object, place);
    part.component.kind = ComponentKind::bridge;
    set_speed(part, false);
    place.parent = parts_.add(std::move(part));
  }
  const auto before = parts_.size();
  for (const auto child : object.children("object")) read_object(child, place);
  if (is_pci && parts_.size() == before) parts_.pop_back();  // Above nothing that counts.
}

void HwlocReader::read_device(pugi::xml_node object, const Place& stated) {
  auto place = stated;
  settle(place);
  const auto in_matrix = matrix_objects_.find(std::string(attribute(object, "gp_index")));
  const auto type = pci_type_of(object);
  bool has_gpu = false;
  bool has_nvml = false;
  bool has_net = false;
  std::vector<std::unordered_map<std::string, std::size_t>::iterator> software;
  for (const auto child : object.children("object")) {
    const auto name = attribute(child, "name");
    has_nvml |= number_after(name, "nvml").has_value();
    has_gpu |= has_nvml || number_after(name, "cuda") || number_after(name, "rsmi");
    // Level Zero drives the graphics of processors too, which are VGA controllers.
    has_gpu |= number_after(name, "ze") && type.class_code >> 8 != 0x0300;
    has_net |= !info(child, "Address").empty() || !info(child, "NodeGUID").empty();
    const auto at = matrix_objects_.find(std::string(attribute(child, "gp_index")));
    if (at != matrix_objects_.end()) software.push_back(at);
  }
  auto part = pci_part(object, place);
  auto& component = part.component;
  component.kind = has_gpu   ? ComponentKind::gpu
                   : has_net ? ComponentKind::nic
                             : kind_of_pci_class(type.class_code, component.vendor_id);
  const bool is_gpu = component.kind == ComponentKind::gpu;
  // A PCI device that NVLinks end at and that is no GPU is an NVSwitch, whatever its ids say: the
  // driver may hide them.
  if (!is_gpu && (in_matrix != matrix_objects_.end() || attribute(object, "subtype") == "NVSwitch"))
    component.kind = ComponentKind::nvswitch;
  if (component.kind == ComponentKind::unknown || component.kind == ComponentKind::bridge) return;
  if (!devices_.insert(*component.pci).second)
    return xml_.note(
        NoteKind::repaired, object,
        fmt::format("a second device at {}; only the first is kept", component.pci->to_string()));
  if (in_matrix != matrix_objects_.end()) in_matrix->second = parts_.size();
  for (const auto at : software) at->second = parts_.size();
  if (is_gpu) describe_gpu(part);
  set_speed(part, has_nvml);
  if (component.kind == ComponentKind::nic)
    add_nics(part);
  else
    (void)parts_.add(std::move(part));
}

void HwlocReader::describe_gpu(Part& part) {
  auto& gpu = part.component;
  if (const auto* known = find_pci_gpu(gpu.vendor_id, gpu.device_id)) {
    gpu.model = known->model;
    gpu.sm = known->sm;
  }
  for (const auto child : part.element.children("object")) {
    const auto name = attribute(child, "name");
    // NVML's order is the PCI order; CUDA's may put the fastest first.
    auto order = number_after(name, "nvml");
    if (!order) order = number_after(name, "rsmi");
    if (order && *order >= 0) part.order = *order;
    for (const auto* model : {"GPUModel", "LevelZeroModel"})
      if (gpu.title.empty()) gpu.title = info(child, model);
    for (const auto* uuid : {"NVIDIAUUID", "AMDUUID"})
      if (gpu.uuid.empty()) gpu.uuid = info(child, uuid);
    for (const auto* memory :
         {"CUDAGlobalMemorySize", "RSMIVRAMSize", "LevelZeroHBMSize", "OpenCLGlobalMemorySize"})
      if (!gpu.capacity_bytes) gpu.capacity_bytes = kib(info(child, memory));
  }
}

// One NIC for each port. Its name is that of the RDMA device, where there is one.
void HwlocReader::add_nics(const Part& part) {
  auto nic = part;
  std::string guid;
  std::string mac;
  pugi::xml_node rdma;
  for (const auto child : part.element.children("object")) {
    const auto node_guid = info(child, "NodeGUID");
    // EFA has no NodeGUID; files that are handed out may be without it.
    if ((!node_guid.empty() || !info(child, "SysImageGUID").empty()) && !rdma) {
      rdma = child;
      for (const char digit : node_guid)
        if (digit != ':') guid += digit;
    }
    if (mac.empty()) mac = info(child, "Address");
    if (nic.component.title.empty()) nic.component.title = short_attribute(child, "name");
  }
  if (const auto value = parse_hexadecimal(guid); rdma && value && *value != 0)
    nic.component.uuid = fmt::format("0x{:016x}", *value);
  else
    nic.component.uuid = mac;
  if (rdma) {
    nic.component.title = short_attribute(rdma, "name");
    nic.component.is_rdma = true;
  }
  for (std::uint32_t port = 1;; ++port) {
    const auto state = rdma ? info(rdma, fmt::format("Port{}State", port).c_str()) : "";
    if (state.empty() && port > 1) break;
    auto each = nic;
    if (port > 1) each.component.title += fmt::format(":{}", port);
    if (!state.empty()) each.component.port_up = state == "4";  // IBV_PORT_ACTIVE
    (void)parts_.add(std::move(each));
  }
}

// hwloc gives GB/s, not generation and width. Of a GPU its NVML part stops counting at Gen3, and
// other parts read what the card runs at, which is slow while it idles.
void HwlocReader::set_speed(Part& part, bool has_nvml) {
  double gb_per_s = 0;
  const auto text = attribute(part.element, "pci_link_speed");
  const auto result = std::from_chars(text.data(), text.data() + text.size(), gb_per_s);
  const bool is_number = result.ec == std::errc() && gb_per_s >= 0 && gb_per_s <= 1e6;
  if (!is_number && !text.empty())
    xml_.note(NoteKind::repaired, part.element,
              fmt::format("{}: no PCIe link has \"{}\" GB/s; taken as unknown",
                          part.component.pci->to_string(), printable(text, 40)));
  if (!is_number || gb_per_s == 0) return;  // 0: there is no link.
  const auto modes = modes_of(gb_per_s);
  const auto remark = [&](const std::string& what) {
    xml_.note(NoteKind::remark, part.element,
              fmt::format("{}: {}", part.component.pci->to_string(), what));
  };
  if (modes.size() == 1 && is_placeholder(modes.front()))
    return remark("Gen1 x1 is what a virtual port claims; taken as unknown");
  const bool is_gpu = part.component.kind == ComponentKind::gpu;
  if (is_gpu && !has_nvml && is_slow_coding(modes))
    return remark(
        fmt::format("{:.3g} GB/s is what an idle card runs at; taken as unknown", gb_per_s));
  const bool at_gen3 = !modes.empty() && modes.front().generation == 3U;
  if (is_gpu && has_nvml && at_gen3) {
    const auto width = modes.front().width;
    if (part.component.sm && *part.component.sm < 80) {
      part.mode = {3, width};  // Chips of Gen3.
      return;
    }
    part.mode.width = width;
    return remark(
        "hwloc's NVML part reports nothing faster than Gen3; the generation is taken as "
        "unknown");
  }
  if (modes.size() == 1) part.mode = modes.front();
  part.line = gb_per_s * 1e9;
  if (!modes.empty()) part.effective = pcie_bytes_per_s(modes.front());
}

// A port's speed is that of the link below it as it runs. Where the other end of that link says
// more, or is a GPU that may idle, the port's is not what the link can do. Nor is a single lane
// above something wide, which virtual machines show.
void HwlocReader::distrust_ports() {
  std::vector<double> fastest(parts_.size(), 0);
  std::vector<bool> has_gpu(parts_.size(), false);
  for (std::size_t i = parts_.size(); i-- > 0;) {
    auto& part = parts_[i];
    if (part.component.kind == ComponentKind::gpu) has_gpu[i] = true;
    if (part.component.kind == ComponentKind::bridge && part.line) {
      const auto modes = modes_of(*part.line / 1e9);
      const bool is_idle = has_gpu[i] && is_slow_coding(modes);
      // Up to Gen4, as clouds make them up. One lane of Gen5 is as fast as an eGPU's four of Gen3.
      const bool may_be_one_lane = std::ranges::any_of(
          modes, [](const PcieMode& mode) { return mode.width == 1U && mode.generation < 5U; });
      const bool is_root_port =
          part.parent != kNoPart && parts_[part.parent].component.kind == ComponentKind::cpu;
      if (is_idle || ((is_root_port || may_be_one_lane) && *part.line < 0.99 * fastest[i])) {
        xml_.note(NoteKind::remark, part.element,
                  fmt::format("{}: {:.3g} GB/s is less than what is below can do: the link idled, "
                              "or the port is made up; taken as unknown",
                              part.component.pci->to_string(), *part.line / 1e9));
        part.line.reset();
        part.effective.reset();
        part.mode = {};
      }
    }
    if (part.parent == kNoPart) continue;
    if (part.line) fastest[i] = *part.line;
    if (part.mode.generation == 3U && part.mode.width)
      fastest[i] = *part.mode.width * 1e9 * 128 / 130;
    fastest[part.parent] = std::max(fastest[part.parent], fastest[i]);
    has_gpu[part.parent] = has_gpu[part.parent] || has_gpu[i];
  }
}

}  // namespace

TopologyGraph read_hwloc_xml(std::string_view text, const std::string& origin,
                             const std::string& node) {
  return HwlocReader(text, origin, node).read();
}

}  // namespace causeway
