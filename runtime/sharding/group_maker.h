// Makes the groups of a worker: its ranks agree on who is in one, and on a number for its messages.
//
// Shape:   a new group's number is the highest that any member has free, so it is free at all.
// Errors:  as Worker::group() and split(). After a disagreement or a timeout the order of groups is
//          lost, and every later call throws the same.
// Cost:    of(): two messages to each member; split(): one all-gather of 24 bytes per rank.
// Threads: the worker's.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "causeway/group.h"
#include "runtime/sharding/worker_mesh.h"

namespace causeway {

class GroupMaker {
 public:
  explicit GroupMaker(WorkerMesh& mesh) : mesh_(&mesh) {}

  [[nodiscard]] Group of_all();
  [[nodiscard]] Group of(const std::vector<int>& ranks);
  [[nodiscard]] Group split(Group& everyone, int colour, int key);

 private:
  void check(const std::vector<int>& ranks) const;
  std::uint32_t agree(const std::vector<int>& ranks);
  std::uint32_t answer_of(int rank, const std::vector<int>& ranks);
  [[nodiscard]] Group make(std::uint32_t number, const std::vector<int>& ranks);

  WorkerMesh* mesh_;
  std::uint32_t next_ = WorkerMesh::kEveryone + 1;
  std::optional<Error> broken_;
};

}  // namespace causeway
