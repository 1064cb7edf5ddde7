// The fields of a topology graph by name, once: what reads, writes, compares and changes graphs
// field by field goes through here.
//
// Shape:   for_each_field(record, visit) calls visit(FieldName, field) in the order of the header.
//          Every record is taken apart by a structured binding, so that a field which is added to
//          the header and not here does not compile.
// Threads: pure functions.
#pragma once

#include <concepts>
#include <string_view>
#include <type_traits>

#include "causeway/topology_graph.h"

namespace causeway {

struct FieldName {
  std::string_view text;
  bool required = false;  // A record is nothing without it.
};

template <typename Self, typename Record>
concept Same = std::same_as<std::remove_const_t<Self>, Record>;

template <Same<Figure> Self>
void for_each_field(Self& self, auto&& visit) {
  auto& [value, provenance] = self;
  visit(FieldName{"value", true}, value);
  visit(FieldName{"provenance", true}, provenance);
}

template <Same<PcieMode> Self>
void for_each_field(Self& self, auto&& visit) {
  auto& [generation, width] = self;
  visit(FieldName{"generation"}, generation);
  visit(FieldName{"width"}, width);
}

template <Same<Component> Self>
void for_each_field(Self& self, auto&& visit) {
  auto& [name, kind, node, model, title, uuid, pci, vendor_id, device_id, numa, capacity_bytes,
         bar1_bytes, sm, arch, cpu_vendor, cpu_family, cpu_model, cpus, nvlinks_max, nvlinks_down,
         port_bytes_per_s, port_max_bytes_per_s, port_up, mtu, driver, is_rdma, gpu_direct,
         acs_redirect, is_chipset] = self;
  visit(FieldName{"name", true}, name);
  visit(FieldName{"kind", true}, kind);
  visit(FieldName{"node"}, node);
  visit(FieldName{"model"}, model);
  visit(FieldName{"title"}, title);
  visit(FieldName{"uuid"}, uuid);
  visit(FieldName{"pci"}, pci);
  visit(FieldName{"vendor_id"}, vendor_id);
  visit(FieldName{"device_id"}, device_id);
  visit(FieldName{"numa"}, numa);
  visit(FieldName{"capacity_bytes"}, capacity_bytes);
  visit(FieldName{"bar1_bytes"}, bar1_bytes);
  visit(FieldName{"sm"}, sm);
  visit(FieldName{"arch"}, arch);
  visit(FieldName{"cpu_vendor"}, cpu_vendor);
  visit(FieldName{"cpu_family"}, cpu_family);
  visit(FieldName{"cpu_model"}, cpu_model);
  visit(FieldName{"cpus"}, cpus);
  visit(FieldName{"nvlinks_max"}, nvlinks_max);
  visit(FieldName{"nvlinks_down"}, nvlinks_down);
  visit(FieldName{"port_bytes_per_s"}, port_bytes_per_s);
  visit(FieldName{"port_max_bytes_per_s"}, port_max_bytes_per_s);
  visit(FieldName{"port_up"}, port_up);
  visit(FieldName{"mtu"}, mtu);
  visit(FieldName{"driver"}, driver);
  visit(FieldName{"is_rdma"}, is_rdma);
  visit(FieldName{"gpu_direct"}, gpu_direct);
  visit(FieldName{"acs_redirect"}, acs_redirect);
  visit(FieldName{"is_chipset"}, is_chipset);
}

template <Same<TopologyLink> Self>
void for_each_field(Self& self, auto&& visit) {
  auto& [kind, a, b, provenance, count, state, pcie, pcie_max, line_bytes_per_s,
         effective_bytes_per_s, latency_s] = self;
  visit(FieldName{"kind", true}, kind);
  visit(FieldName{"a", true}, a);
  visit(FieldName{"b", true}, b);
  visit(FieldName{"provenance", true}, provenance);
  visit(FieldName{"count"}, count);
  visit(FieldName{"state"}, state);
  visit(FieldName{"pcie"}, pcie);
  visit(FieldName{"pcie_max"}, pcie_max);
  visit(FieldName{"line_bytes_per_s"}, line_bytes_per_s);
  visit(FieldName{"effective_bytes_per_s"}, effective_bytes_per_s);
  visit(FieldName{"latency_s"}, latency_s);
}

template <Same<Pair> Self>
void for_each_field(Self& self, auto&& visit) {
  auto& [from, to, granted_read, granted_write, cuda_agrees, verified, path, bandwidth_bytes_per_s,
         staged_bytes_per_s, latency_s] = self;
  visit(FieldName{"from", true}, from);
  visit(FieldName{"to", true}, to);
  visit(FieldName{"granted_read"}, granted_read);
  visit(FieldName{"granted_write"}, granted_write);
  visit(FieldName{"cuda_agrees"}, cuda_agrees);
  visit(FieldName{"verified"}, verified);
  visit(FieldName{"path"}, path);
  visit(FieldName{"bandwidth_bytes_per_s"}, bandwidth_bytes_per_s);
  visit(FieldName{"staged_bytes_per_s"}, staged_bytes_per_s);
  visit(FieldName{"latency_s"}, latency_s);
}

template <Same<TopologyNode> Self>
void for_each_field(Self& self, auto&& visit) {
  auto& [name, driver_version, cuda_version, kernel, view, iommu, fabric, fabric_cluster,
         nvlinks_known, unseen] = self;
  visit(FieldName{"name", true}, name);
  visit(FieldName{"driver_version"}, driver_version);
  visit(FieldName{"cuda_version"}, cuda_version);
  visit(FieldName{"kernel"}, kernel);
  visit(FieldName{"view"}, view);
  visit(FieldName{"iommu"}, iommu);
  visit(FieldName{"fabric"}, fabric);
  visit(FieldName{"fabric_cluster"}, fabric_cluster);
  visit(FieldName{"nvlinks_known"}, nvlinks_known);
  visit(FieldName{"unseen"}, unseen);
}

template <Same<TopologyNote> Self>
void for_each_field(Self& self, auto&& visit) {
  auto& [kind, source, text] = self;
  visit(FieldName{"kind", true}, kind);
  visit(FieldName{"source"}, source);
  visit(FieldName{"text", true}, text);
}

template <Same<TopologyGraph> Self>
void for_each_field(Self& self, auto&& visit) {
  auto& [name, nodes, components, links, pairs, notes] = self;
  visit(FieldName{"name"}, name);
  visit(FieldName{"nodes"}, nodes);
  visit(FieldName{"components"}, components);
  visit(FieldName{"links"}, links);
  visit(FieldName{"pairs"}, pairs);
  visit(FieldName{"notes"}, notes);
}

// Types of fields.
template <typename T>
constexpr bool kIsOptional = false;
template <typename T>
constexpr bool kIsOptional<std::optional<T>> = true;
template <typename T>
constexpr bool kIsList = false;
template <typename T>
constexpr bool kIsList<std::vector<T>> = true;
// Has fields of its own.
template <typename T>
concept RecordType =
    Same<T, Figure> || Same<T, PcieMode> || Same<T, Component> || Same<T, TopologyLink> ||
    Same<T, Pair> || Same<T, TopologyNode> || Same<T, TopologyNote> || Same<T, TopologyGraph>;

// True where a field says nothing: it is unknown.
template <typename T>
[[nodiscard]] bool is_absent(const T& field) {
  if constexpr (kIsOptional<T>)
    return !field.has_value();
  else if constexpr (kIsList<T> || std::same_as<T, std::string>)
    return field.empty();
  else if constexpr (std::is_enum_v<T>)
    return to_string(field) == "unknown";
  else if constexpr (std::same_as<T, std::uint32_t>)
    return false;  // A count.
  else
    return field == T{};
}

}  // namespace causeway
