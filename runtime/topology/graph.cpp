#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "causeway/topology_graph.h"

namespace causeway {

namespace {

template <std::size_t N>
std::string_view name_of(const std::array<std::string_view, N>& names, auto value) noexcept {
  const auto index = static_cast<std::size_t>(value);
  return index < N ? names[index] : std::string_view();
}

// Takes the hexadecimal digits before `end` (or the text's end) off the front of `text`.
std::optional<std::uint32_t> take_hex(std::string_view& text, char end, std::size_t max_digits) {
  const auto stop = end == '\0' ? text.size() : text.find(end);
  if (stop == std::string_view::npos || stop == 0 || stop > max_digits) return std::nullopt;
  std::uint32_t value = 0;
  const auto* last = text.data() + stop;
  const auto result = std::from_chars(text.data(), last, value, 16);
  if (result.ec != std::errc() || result.ptr != last) return std::nullopt;
  text.remove_prefix(end == '\0' ? stop : stop + 1);
  return value;
}

}  // namespace

std::optional<PciAddress> PciAddress::parse(std::string_view text) noexcept {
  PciAddress address;
  if (std::ranges::count(text, ':') == 2) {
    const auto domain = take_hex(text, ':', 8);
    if (!domain) return std::nullopt;
    address.domain = *domain;
  }
  const auto bus = take_hex(text, ':', 2);
  const auto device = bus ? take_hex(text, '.', 2) : std::nullopt;
  const auto function = device ? take_hex(text, '\0', 1) : std::nullopt;
  // Only the driver's address of a hidden switch has a device number past 31.
  if (!function || *function > 7 || (*device > 31 && *device != 255)) return std::nullopt;
  address.bus = static_cast<std::uint8_t>(*bus);
  address.device = static_cast<std::uint8_t>(*device);
  address.function = static_cast<std::uint8_t>(*function);
  return address;
}

std::string PciAddress::to_string() const {
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", domain, bus, device, function);
}

bool PciAddress::is_hidden() const noexcept { return domain >= 0xfffffff && bus == 0xff; }

const Component* TopologyGraph::find(std::string_view component) const noexcept {
  const auto at = std::ranges::find(components, component, &Component::name);
  return at == components.end() ? nullptr : &*at;
}

const TopologyNode* TopologyGraph::find_node(std::string_view node) const noexcept {
  const auto at = std::ranges::find(nodes, node, &TopologyNode::name);
  return at == nodes.end() ? nullptr : &*at;
}

std::string_view to_string(Provenance value) noexcept {
  constexpr std::array<std::string_view, 5> names{"spec", "sysfs", "nvml", "import", "measured"};
  return name_of(names, value);
}

std::string_view to_string(ComponentKind value) noexcept {
  constexpr std::array<std::string_view, 8> names{
      "gpu", "host", "cpu", "nic", "bridge", "nvswitch", "network_switch", "unknown"};
  return name_of(names, value);
}

std::string_view to_string(LinkKind value) noexcept {
  constexpr std::array<std::string_view, 7> names{"nvlink", "xgmi",   "c2c",    "pcie",
                                                  "memory", "socket", "network"};
  return name_of(names, value);
}

std::string_view to_string(LinkState value) noexcept {
  constexpr std::array<std::string_view, 4> names{"unknown", "up", "degraded", "down"};
  return name_of(names, value);
}

std::string_view to_string(PeerStatus value) noexcept {
  constexpr std::array<std::string_view, 7> names{"OK", "CNS", "GNS", "TNS", "DR", "NS", "U"};
  return name_of(names, value);
}

std::string_view to_string(PeerCheck value) noexcept {
  constexpr std::array<std::string_view, 4> names{"passed", "wrong_data", "hung", "failed"};
  return name_of(names, value);
}

std::string_view to_string(PathClass value) noexcept {
  constexpr std::array<std::string_view, 6> names{"NVL", "PIX", "PXB", "PHB", "NODE", "SYS"};
  return name_of(names, value);
}

std::string_view to_string(MachineView value) noexcept {
  constexpr std::array<std::string_view, 4> names{"unknown", "bare_metal", "vm", "container"};
  return name_of(names, value);
}

std::string_view to_string(IommuMode value) noexcept {
  constexpr std::array<std::string_view, 3> names{"off", "passthrough", "translating"};
  return name_of(names, value);
}

std::string_view to_string(FabricState value) noexcept {
  constexpr std::array<std::string_view, 5> names{"not_supported", "not_started", "in_progress",
                                                  "completed", "failed"};
  return name_of(names, value);
}

std::string_view to_string(TopologyNote::Kind value) noexcept {
  constexpr std::array<std::string_view, 3> names{"remark", "repaired", "conflict"};
  return name_of(names, value);
}

}  // namespace causeway
