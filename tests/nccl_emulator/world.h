// What the software NCCL knows: communicators, streams, and what is on them.
//
// Shape:   a Clique is what one ncclUniqueId joins; a Comm a rank in it; a Launch what one call or
//          group put on a rank's stream. Streams run when anybody calls: a launch runs when it is
//          the first on the streams of all its ranks.
// Threads: any; whoever calls holds world().mutex, but for world() itself.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/nccl_emulator/control.h"
#include "transport/nccl/abi.h"

namespace nccl_emulator {

namespace nccl = causeway::nccl;
using nccl::Result;

enum class Kind { all_reduce, reduce_scatter, reduce, all_gather, broadcast, send, recv };

struct Call {
  Kind kind;
  const std::byte* from;
  std::byte* to;
  std::size_t count;
  int type;
  int op;
  int root;  // Or peer.
};

struct Comm;

struct Launch {
  Comm* comm;
  std::vector<Call> calls;
  std::size_t digest;  // Of what is read, if nothing was before it on the stream.
  bool has_digest;
};

// On a stream, one of these at a time.
struct Task {
  std::unique_ptr<Launch> launch;
  std::byte* to = nullptr;  // Of a copy.
  const std::byte* from = nullptr;
  std::size_t size = 0;
  int mark = 0;
};

struct Device {
  std::deque<Task> tasks;
  int marks = 0;    // Given out.
  int reached = 0;  // The last one that ran.
  bool is_freed = false;
  void* cuda = nullptr;  // The driver's stream that it stands for.
};

struct Clique {
  int ranks = 0;
  std::map<int, Comm*> comms;
  bool is_broken = false;
};

struct Comm {
  enum class State { begins, ready, launches, ends, ended, gone };
  State state = State::begins;
  std::shared_ptr<Clique> clique;
  int rank = 0;
  int polls_left = 0;
  int polls = 0;
  Result failure = nccl::kSuccess;
  Device* stream = nullptr;
  std::unique_ptr<Launch> next{};  // Until it is on the stream.
};

struct World {
  std::mutex mutex;
  std::condition_variable changed;
  NcclEmulatorFaults faults{};
  int calls = 0;
  bool is_spent = false;
  int aborts = 0;
  int destroyed = 0;
  int violations = 0;
  std::string first_violation;
  NcclEmulatorCuda cuda{};  // Null: its own device.
  std::uint64_t ids = 0;
  std::map<std::uint64_t, std::shared_ptr<Clique>> cliques;
  std::vector<std::unique_ptr<Comm>> comms;      // Kept after their end: to know them again.
  std::vector<std::unique_ptr<Device>> streams;  // Too.
  std::set<Device*> known_streams;
};

struct Group {
  int depth = 0;
  std::vector<std::pair<Comm*, Call>> calls{};
  std::map<Comm*, Device*> streams{};
};

// What NCCL and CUDA know of the calling thread.
struct Here {
  Group group{};
  bool is_loop = false;
  Device* current = nullptr;
};

using Lock = std::unique_lock<std::mutex>;

World& world();
Here& here();

void violation(const std::string& text);
// Counts a call; true if it shall fail.
bool fails();
void may_block(const char* call);
// Nothing but NCCL's operations belongs between ncclGroupStart and ncclGroupEnd.
void not_in_group(const char* call);
bool is_collective(const Call& call);
std::size_t digest(const Launch& launch);
// Runs what can run on all streams.
void progress();

}  // namespace nccl_emulator
