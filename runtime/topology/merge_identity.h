// Which components of several graphs are one device.
//
// Shape:   by UUID, then by PCI address, a NIC's title, a CPU's NUMA number; where a source only
//          numbers its devices, by number; what is left by kind and name. Weaker signs never join
//          what stronger ones tell apart. One graph's components stay apart.
// Errors:  none; what was assumed or contradicts itself is in notes.
// Cost:    O(components log components), a hash table each.
// Threads: plain values. Borrows the graphs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "causeway/topology_graph.h"

namespace causeway {

struct MergeSource {
  const TopologyGraph* graph;
  std::string name;  // For notes.
};

struct MergeMember {
  std::size_t source;
  const Component* component;
};

class MergeIdentity {
 public:
  explicit MergeIdentity(std::span<const MergeSource> sources);

  // Of all sources, in order; a device is named by the index of any of its members.
  [[nodiscard]] const std::vector<MergeMember>& members() const noexcept { return members_; }
  [[nodiscard]] std::size_t device_of(std::size_t member) const { return device_[member]; }
  // The device that `source` calls `name`, or npos.
  [[nodiscard]] std::size_t find(std::size_t source, std::string_view name) const;
  // By device; empty for members that are not a device's first.
  [[nodiscard]] const std::vector<std::vector<std::size_t>>& groups() const noexcept {
    return groups_;
  }
  [[nodiscard]] std::vector<TopologyNote>& notes() noexcept { return notes_; }

  static constexpr std::size_t npos = static_cast<std::size_t>(-1);

 private:
  // What two members have in common, strongest first.
  enum class Sign : std::uint8_t { uuid, address, name };

  [[nodiscard]] bool contradict(std::size_t a, std::size_t b, Sign by) const;
  bool join(std::size_t a, std::size_t b, Sign by);
  // Joins members with equal keys; those whose key several of one source have are left alone.
  template <typename Key>
  void join_equal(Sign by, Key key);
  void join_homeless();
  void join_numbered(ComponentKind kind);
  void join_gpus_by_number(const std::vector<std::size_t>& gpus);
  void join_nics_by_number(const std::vector<std::size_t>& nics);
  [[nodiscard]] std::vector<std::size_t> by_address(const std::vector<std::size_t>& members) const;

  std::span<const MergeSource> sources_;
  std::vector<MergeMember> members_;
  std::vector<std::size_t> device_;
  std::vector<std::vector<std::size_t>> groups_;
  std::vector<std::unordered_map<std::string_view, std::size_t>> names_;
  std::vector<TopologyNote> notes_;
};

// Hexadecimal digits alone, without leading zeros: "0xE09d:7303" and "e09d7303" are one GUID.
[[nodiscard]] std::string plain_uuid(const Component& component);

}  // namespace causeway
