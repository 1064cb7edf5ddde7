#include "runtime/topology/discovery/cpus.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/topology/discovery/sysfs_text.h"

namespace causeway {

namespace {

constexpr const char* kNodes = "/sys/devices/system/node";

std::optional<std::uint32_t> small(std::optional<std::uint64_t> value) {
  if (!value || *value > 0xffff) return std::nullopt;
  return static_cast<std::uint32_t>(*value);
}

// A row has one figure for each node there is, in order.
void read_distances(const FileTree& files, std::vector<NumaNode>& nodes) {
  for (auto& node : nodes) {
    const auto row = files.text(fmt::format("{}/node{}/distance", kNodes, node.index));
    std::string_view rest = row;
    for (const auto& other : nodes)
      if (const auto distance = parse_decimal(take_word(rest)))
        node.distances.emplace(other.index, *distance);
  }
}

// Arm's licensees by their code. Source: Arm MIDR_EL1.Implementer.
std::string_view implementer(std::uint64_t code) {
  switch (code) {
    case 0x41:
      return "ARM";
    case 0x48:
      return "HiSilicon";
    case 0x4e:
      return "NVIDIA";
    case 0x51:
      return "Qualcomm";
    case 0x61:
      return "Apple";
    case 0xc0:
      return "Ampere";
    default:
      return {};
  }
}

}  // namespace

std::vector<NumaNode> read_numa(const FileTree& files) {
  std::vector<NumaNode> nodes;
  for (const auto& name : files.list(kNodes)) {
    if (!name.starts_with("node")) continue;
    const auto index = small(parse_decimal(std::string_view(name).substr(4)));
    if (!index) continue;
    const auto folder = fmt::format("{}/{}", kNodes, name);
    NumaNode node{*index,
                  files.text(folder + "/cpulist"),
                  parse_memory_total(files.text(folder + "/meminfo")),
                  {}};
    if (!count_cpus(node.cpus)) node.cpus.clear();
    nodes.push_back(std::move(node));
  }
  // "node10" comes before "node2" by name; and "node01" is no name of the kernel's.
  std::ranges::sort(nodes, {}, &NumaNode::index);
  const auto same = [](const NumaNode& a, const NumaNode& b) { return a.index == b.index; };
  nodes.erase(std::unique(nodes.begin(), nodes.end(), same), nodes.end());
  read_distances(files, nodes);
  // A node of neither is a place where a device may still bring memory.
  std::erase_if(nodes, [](const NumaNode& node) {
    return node.cpus.empty() && node.memory_bytes.value_or(0) == 0;
  });
  if (nodes.empty())
    nodes.push_back({0,
                     files.text("/sys/devices/system/cpu/online"),
                     parse_memory_total(files.text("/proc/meminfo")),
                     {}});
  if (!count_cpus(nodes.front().cpus)) nodes.front().cpus.clear();
  return nodes;
}

Processor read_processor(const FileTree& files) {
  // The first processor is enough, and the kernel writes this file as it is read.
  const auto text = files.read("/proc/cpuinfo").value_or("");
  Processor processor;
  const auto vendor = field(text, "vendor_id");
  const auto arm = parse_hex(field(text, "CPU implementer"));
  processor.title = field(text, "model name");
  if (arm) {
    processor.arch = "arm64";
    processor.vendor = implementer(*arm);
    processor.family = small(parse_decimal(field(text, "CPU architecture")));
    processor.model = small(parse_hex(field(text, "CPU part")));
  } else if (!vendor.empty()) {
    processor.arch = "x86_64";
    processor.vendor = vendor;
    processor.family = small(parse_decimal(field(text, "cpu family")));
    processor.model = small(parse_decimal(field(text, "model")));
    auto flags = field(text, "flags");
    for (auto flag = take_word(flags); !flag.empty(); flag = take_word(flags))
      processor.has_hypervisor = processor.has_hypervisor || flag == "hypervisor";
  } else if (field(text, "cpu").starts_with("POWER")) {
    processor.arch = "ppc64";
    processor.title = field(text, "cpu");
  }
  return processor;
}

std::string clipped_affinity(const FileTree& files) {
  const auto status = files.read("/proc/self/status", 64 * 1024).value_or("");
  const auto allowed_list = field(status, "Cpus_allowed_list");
  const auto online_list = files.text("/sys/devices/system/cpu/online");
  const auto allowed = count_cpus(allowed_list);
  const auto online = count_cpus(online_list);
  if (!allowed || !online || *allowed == 0 || *allowed >= *online) return {};
  return fmt::format("CPU affinity: this process may use {} of {} CPUs ({})", *allowed, *online,
                     allowed_list);
}

}  // namespace causeway
