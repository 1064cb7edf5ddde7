// What a Group shares with the operations that it started.
//
// Shape:   names a communicator of the mesh by its number; its destructor ends that one.
// Errors:  the mesh's.
// Threads: the group's; the communicator is used on the io thread, its in_place() here.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include "causeway/group.h"
#include "runtime/sharding/mesh_io.h"

namespace causeway {

struct Group::State {
  State(std::shared_ptr<MeshIo> mesh, std::uint32_t communicator, std::vector<int> members,
        std::chrono::milliseconds limit);
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  const std::shared_ptr<MeshIo> io;
  const std::uint32_t number;
  const std::vector<int> ranks;
  const std::chrono::milliseconds timeout;
  const int rank;                                // Within the group.
  const std::shared_ptr<Communicator> in_place;  // Null if it has none.
  // Operations on their way to the io thread: one that is done in place must not overtake them.
  const std::shared_ptr<std::atomic<int>> on_their_way = std::make_shared<std::atomic<int>>(0);
};

}  // namespace causeway
