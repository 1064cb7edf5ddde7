#include "runtime/topology/merge_identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <optional>
#include <set>

#include "runtime/topology/nvlink_domain.h"

namespace causeway {

namespace {

using Kind = TopologyNote::Kind;

std::optional<PciAddress> address_of(const Component& component) {
  if (!component.pci || component.pci->is_hidden()) return std::nullopt;
  return component.pci;
}

// 12 of "hgx/gpu12".
std::optional<std::uint32_t> number_of(const Component& component) {
  const auto at = component.name.find_last_not_of("0123456789");
  const auto* first = component.name.data() + (at == std::string::npos ? 0 : at + 1);
  const auto* end = component.name.data() + component.name.size();
  std::uint32_t number = 0;
  const auto result = std::from_chars(first, end, number);
  if (first == end || result.ec != std::errc()) return std::nullopt;
  return number;
}

bool joins_network(ComponentKind kind) {
  return kind == ComponentKind::nic || kind == ComponentKind::network_switch;
}

}  // namespace

std::string plain_uuid(const Component& component) {
  std::string plain;
  std::string_view text = component.uuid;
  const bool guid = joins_network(component.kind);
  if (guid && (text.starts_with("0x") || text.starts_with("0X"))) text.remove_prefix(2);
  for (const char c : text) {
    if (guid && (c == ':' || c == '-' || c == '.')) continue;
    if (guid && plain.empty() && c == '0') continue;
    plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return plain;
}

MergeIdentity::MergeIdentity(std::span<const MergeSource> sources) : sources_(sources) {
  for (std::size_t source = 0; source < sources.size(); ++source) {
    auto& names = names_.emplace_back();
    for (const auto& component : sources[source].graph->components) {
      names.emplace(component.name, members_.size());
      device_.push_back(members_.size());
      groups_.push_back({members_.size()});
      members_.push_back({source, &component});
    }
  }
  const auto text = [](const auto&... parts) { return fmt::format("{}\n{}\n{}", parts...); };
  join_equal(Sign::uuid, [&](const Component& of) {
    const auto uuid = plain_uuid(of);
    return uuid.empty() ? "" : text(of.node, 0, uuid);
  });
  join_homeless();
  join_equal(Sign::address, [&](const Component& of) {
    const auto pci = address_of(of);
    return pci ? text(of.node, 0, pci->to_string()) : "";
  });
  join_equal(Sign::name, [&](const Component& of) {
    const bool titled = of.kind == ComponentKind::nic && !of.title.empty() && !of.node.empty();
    return titled ? text(of.node, 0, of.title) : "";
  });
  join_equal(Sign::name, [&](const Component& of) {
    const bool root = of.kind == ComponentKind::cpu || of.kind == ComponentKind::host;
    return root && of.numa ? text(of.node, to_string(of.kind), *of.numa) : "";
  });
  join_numbered(ComponentKind::gpu);
  join_numbered(ComponentKind::nic);
  join_equal(Sign::name, [&](const Component& of) {
    // Hidden switches are known by what they join, in merge_fabric.h.
    const bool other = of.kind == ComponentKind::gpu || is_hidden_switch(of);
    return other ? "" : text(of.node, to_string(of.kind), of.name);
  });
}

std::size_t MergeIdentity::find(std::size_t source, std::string_view name) const {
  const auto at = names_[source].find(name);
  return at == names_[source].end() ? npos : device_[at->second];
}

// True if something that identifies both members differs.
bool MergeIdentity::contradict(std::size_t a, std::size_t b, Sign by) const {
  const auto& one = *members_[a].component;
  const auto& other = *members_[b].component;
  if (members_[a].source == members_[b].source) return true;
  if (one.node != other.node && !one.node.empty() && !other.node.empty()) return true;
  if (one.kind != other.kind && one.kind != ComponentKind::unknown &&
      other.kind != ComponentKind::unknown)
    return true;
  if (by == Sign::uuid) return false;
  const auto one_uuid = plain_uuid(one);
  const auto other_uuid = plain_uuid(other);
  if (!one_uuid.empty() && !other_uuid.empty() && one_uuid != other_uuid) return true;
  const auto one_pci = address_of(one);
  const auto other_pci = address_of(other);
  if (one_pci && other_pci && *one_pci != *other_pci) return true;
  if (by != Sign::name) return false;
  if (one.sm && other.sm && *one.sm != *other.sm) return true;  // Chips of two generations.
  return one.kind == ComponentKind::nic && !one.title.empty() && !other.title.empty() &&
         one.title != other.title;
}

bool MergeIdentity::join(std::size_t a, std::size_t b, Sign by) {
  a = device_[a];
  b = device_[b];
  if (a == b) return true;
  for (const auto one : groups_[a])
    for (const auto other : groups_[b])
      if (contradict(one, other, by)) return false;
  const auto first = std::min(a, b);
  const auto second = std::max(a, b);
  for (const auto member : groups_[second]) {
    device_[member] = first;
    groups_[first].push_back(member);
  }
  groups_[second].clear();
  std::ranges::sort(groups_[first]);
  return true;
}

template <typename Key>
void MergeIdentity::join_equal(Sign by, Key key) {
  std::unordered_map<std::string, std::vector<std::size_t>> equal;
  for (std::size_t i = 0; i < members_.size(); ++i)
    if (auto text = std::string(key(*members_[i].component)); !text.empty())
      equal[std::move(text)].push_back(i);
  for (std::size_t i = 0; i < members_.size(); ++i) {  // In order, not in that of the hash table.
    const auto at = equal.find(std::string(key(*members_[i].component)));
    if (at == equal.end() || at->second.front() != i) continue;
    const auto& same = at->second;
    for (std::size_t j = 1; j < same.size(); ++j) {
      // Members stand in the order of their sources.
      const auto source = members_[same[j]].source;
      const bool twice = source == members_[same[j - 1]].source ||
                         (j + 1 < same.size() && source == members_[same[j + 1]].source);
      const bool first_twice = members_[same[0]].source == members_[same[1]].source;
      if (!twice && !first_twice) (void)join(same[0], same[j], by);
    }
  }
}

// A fabric's adapter whose machine is not known there is the NIC of the same GUID, if one node has
// it.
void MergeIdentity::join_homeless() {
  std::unordered_map<std::string, std::vector<std::size_t>> adapters;
  std::set<std::string> homeless;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    const auto& component = *members_[i].component;
    const auto uuid = component.kind == ComponentKind::nic ? plain_uuid(component) : "";
    if (uuid.empty()) continue;
    adapters[uuid].push_back(i);
    if (component.node.empty()) homeless.insert(uuid);
  }
  for (const auto& uuid : homeless) {
    const auto& same = adapters[uuid];
    std::set<std::string_view> nodes;
    for (const auto i : same) nodes.insert(members_[i].component->node);
    nodes.erase("");
    if (nodes.size() == 1)
      for (const auto i : same) (void)join(same[0], i, Sign::uuid);
  }
}

void MergeIdentity::join_numbered(ComponentKind kind) {
  std::map<std::string_view, std::vector<std::size_t>> by_node;
  for (std::size_t i = 0; i < members_.size(); ++i)
    if (members_[i].component->kind == kind && !members_[i].component->node.empty())
      by_node[members_[i].component->node].push_back(i);
  for (const auto& [node, members] : by_node)
    kind == ComponentKind::gpu ? join_gpus_by_number(members) : join_nics_by_number(members);
}

// One member of each device that has an address, in the order of addresses.
std::vector<std::size_t> MergeIdentity::by_address(const std::vector<std::size_t>& members) const {
  std::map<PciAddress, std::size_t> sorted;
  std::set<std::size_t> seen;
  for (const auto i : members)
    if (const auto pci = address_of(*members_[i].component); pci && seen.insert(device_[i]).second)
      sorted.emplace(*pci, i);
  std::vector<std::size_t> found;
  for (const auto& [pci, member] : sorted) found.push_back(member);
  return found;
}

void MergeIdentity::join_gpus_by_number(const std::vector<std::size_t>& gpus) {
  const auto placed = by_address(gpus);
  std::set<std::size_t> settled;  // Members of devices that have an address.
  for (const auto i : placed)
    settled.insert(groups_[device_[i]].begin(), groups_[device_[i]].end());
  std::map<std::uint32_t, std::size_t> first_of;  // By number, past those with addresses.
  std::set<std::size_t> told;
  for (const auto i : gpus) {
    const auto number = number_of(*members_[i].component);
    if (settled.contains(i) || !number) continue;
    const auto source = members_[i].source;
    const auto match =
        *number < placed.size() ? placed[*number] : first_of.try_emplace(*number, i).first->second;
    if (match == i && !placed.empty())
      notes_.push_back({Kind::conflict, sources_[source].name,
                        fmt::format("{} is none of the {} GPUs whose PCI addresses are known",
                                    members_[i].component->name, placed.size())});
    if (device_[match] == device_[i]) continue;
    if (!join(match, i, Sign::name)) {
      notes_.push_back({Kind::conflict, sources_[source].name,
                        fmt::format("{} is not {} of {}: they differ in what identifies them",
                                    members_[i].component->name, members_[match].component->name,
                                    sources_[members_[match].source].name)});
    } else if (told.insert(source).second) {
      notes_.push_back({Kind::remark, sources_[source].name,
                        placed.empty()
                            ? "only numbers its GPUs; equal numbers were taken for equal GPUs"
                            : "only numbers its GPUs; number i was taken for the i-th in the "
                              "order of PCI addresses"});
    }
  }
}

// A NIC's number follows no address, so this is only tried where the counts fit.
void MergeIdentity::join_nics_by_number(const std::vector<std::size_t>& nics) {
  const auto placed = by_address(nics);
  std::map<std::size_t, std::vector<std::size_t>> open;  // By source: its NICs without address.
  std::set<std::size_t> devices;
  for (const auto i : placed) devices.insert(device_[i]);
  for (const auto i : nics)
    if (!devices.contains(device_[i])) open[members_[i].source].push_back(i);
  for (auto& [source, own] : open) {
    std::vector<std::size_t> free;
    for (const auto i : placed)
      if (std::ranges::none_of(groups_[device_[i]], [&, from = source](std::size_t member) {
            return members_[member].source == from;
          }))
        free.push_back(i);
    const auto titled = [&](std::size_t i) {
      return std::ranges::any_of(groups_[device_[i]], [&](std::size_t member) {
        return !members_[member].component->title.empty();
      });
    };
    const bool names_differ = std::ranges::any_of(free, titled) && std::ranges::any_of(own, titled);
    if (free.size() != own.size() || names_differ) continue;
    std::ranges::stable_sort(own, {}, [&](std::size_t i) {
      return number_of(*members_[i].component).value_or(0xffffffff);
    });
    bool joined = false;
    for (std::size_t i = 0; i < own.size(); ++i)
      joined = join(free[i], own[i], Sign::name) || joined;
    if (joined)
      notes_.push_back({Kind::remark, sources_[source].name,
                        "NIC number i was taken for the i-th in the order of PCI addresses"});
  }
}

}  // namespace causeway
