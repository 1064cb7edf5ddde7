// The processes of one job, each joined to each other by a channel.
//
// Shape:   every rank listens; rank i connects to the ranks below it. A send is copied and goes on
// in
//          the background; a receive waits.
// Errors:  as Worker. The first loss of a rank or of this node's daemon is remembered and thrown
//          from then on. A rank that left in order is an error only to who waits for it, and only
//          if no rank has died: survivors that give up must not hide the one that died.
// Cost:    one copy of every message; at most kMaxBufferedBytes of them at a time.
// Threads: one at a time.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "causeway/worker.h"
#include "runtime/sharding/mesh_io.h"

namespace causeway {

class WorkerMesh {
 public:
  static constexpr std::uint32_t kEveryone = 0;  // The number of the communicator of all ranks.

  struct Member {
    int rank;
    std::string node;
    std::string address;
  };

  WorkerMesh(std::shared_ptr<Pool::State> pool, const WorkerOptions& options);
  ~WorkerMesh();
  WorkerMesh(const WorkerMesh&) = delete;
  WorkerMesh& operator=(const WorkerMesh&) = delete;

  [[nodiscard]] int rank() const noexcept { return options_.rank; }
  [[nodiscard]] int world() const noexcept { return options_.world; }
  [[nodiscard]] const std::vector<Member>& members() const noexcept { return members_; }

  void send(int to, std::uint64_t tag, std::span<const std::byte> message);
  void receive(int from, std::uint64_t tag, std::span<std::byte> message);
  void count(int to, std::uint64_t bytes);
  [[nodiscard]] std::vector<Worker::Traffic> traffic() const;
  [[nodiscard]] const std::shared_ptr<MeshIo>& io() const noexcept { return io_; }
  [[nodiscard]] std::chrono::milliseconds timeout() const noexcept { return options_.timeout; }

 private:
  void meet();
  void connect_all(Deadline deadline);
  void leave() noexcept;

  std::shared_ptr<Pool::State> pool_;
  WorkerOptions options_;
  std::vector<Member> members_;
  std::map<int, MeshIo::Sent> sent_;  // By rank; collectives are counted where they run.
  std::shared_ptr<MeshIo> io_;
  int loss_handler_ = 0;
};

}  // namespace causeway
