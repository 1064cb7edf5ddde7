// Which links and switches of several sources say the same again, in other words.
//
// Shape:   a hidden NVSwitch (made of a matrix) is the real ones that another source shows; where
//          it also joins what those leave apart, it stays, as the trunk between them. A direct
//          NVLink of one source is the way over the switch of another. Of several PCI trees the
//          one that shows more bridges above a device places it.
// Errors:  none.
// Cost:    O(components + links), times the switches of one GPU.
// Threads: plain values. Borrows the sources.
#pragma once

#include <map>
#include <set>
#include <unordered_map>
#include <vector>

#include "causeway/topology_graph.h"
#include "runtime/topology/merge_identity.h"

namespace causeway {

class MergeFabric {
 public:
  struct Trunk {
    std::size_t a;  // Devices.
    std::size_t b;
    TopologyLink link;
  };

  MergeFabric(const std::vector<MergeSource>& sources, const MergeIdentity& identity);

  [[nodiscard]] bool is_dropped(std::size_t device) const { return dropped_.contains(device); }
  [[nodiscard]] bool is_dropped(std::size_t source, std::size_t link) const {
    return dropped_links_.contains({source, link});
  }
  [[nodiscard]] const std::vector<Trunk>& trunks() const noexcept { return trunks_; }
  [[nodiscard]] std::vector<TopologyNote>& notes() noexcept { return notes_; }

 private:
  struct Spoke {
    std::size_t gpu;
    std::size_t source;
    std::size_t link;
    std::uint32_t count;
  };
  struct Switch {
    bool hidden = true;
    std::set<std::size_t> sources;
    std::vector<Spoke> spokes;
  };

  void read_links();
  void settle_switches();
  void settle_hidden(std::size_t device, std::vector<std::size_t>& kept);
  void settle_direct_links(const std::vector<std::size_t>& kept);
  void settle_trees();
  [[nodiscard]] std::map<std::size_t, std::size_t> fabric_parts(
      const std::vector<std::size_t>& kept) const;

  const std::vector<MergeSource>& sources_;
  const MergeIdentity& identity_;
  std::map<std::size_t, Switch> switches_;  // By device.
  struct Direct {
    std::size_t source;
    std::size_t link;
    std::size_t a;
    std::size_t b;
  };
  std::vector<Direct> direct_;
  std::vector<std::pair<std::size_t, std::size_t>> joined_;  // Switches that links join.
  std::set<std::size_t> dropped_;
  std::set<std::pair<std::size_t, std::size_t>> dropped_links_;
  std::vector<Trunk> trunks_;
  std::vector<TopologyNote> notes_;
};

}  // namespace causeway
