// What the software driver remembers, and how each of its calls begins and ends.
//
// Shape:   one World a process, made at the first call and never destroyed: threads of streams may
//          outlive main(). Every exported function is one run_call().
// Threads: any; `mutex` guards the maps. No call waits for a stream with it held.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "allocator/unique_fd.h"
#include "tests/cuda_emulator/api.h"
#include "tests/cuda_emulator/config.h"
#include "tests/cuda_emulator/image.h"
#include "tests/cuda_emulator/work.h"

namespace causeway::emulator {
struct Capture;
}

namespace causeway::cuda {

// Never destroyed. `holders` 0: a primary context that is not active, or another one that is gone.
struct ContextTag {
  int device = 0;
  bool is_primary = true;
  unsigned flags = 0;
  std::atomic<unsigned> holders = 0;
  std::atomic<Result> sticky{kSuccess};
  std::set<int> peers;                           // Devices whose plain allocations it may touch.
  std::shared_ptr<emulator::Line> default_line;  // The default stream's.
  std::vector<emulator::Ticket> ending;          // Of streams that were destroyed meanwhile.
};

struct StreamTag {
  ContextTag* context = nullptr;
  unsigned flags = 0;
  int priority = 0;
  unsigned long long id = 0;
  bool is_thread_default = false;  // Nobody made it: no leak.
  std::shared_ptr<emulator::Line> line;
  std::shared_ptr<emulator::Capture> capture;  // Null: not capturing.
  std::vector<GraphNode> ends;                 // What its next node comes after.

  [[nodiscard]] bool waits_for_default() const { return flags != kStreamNonBlocking; }
};

struct EventTag {
  ContextTag* context = nullptr;
  bool with_timing = true;
  emulator::Ticket ticket;
  std::shared_ptr<std::atomic<double>> reached_at_s;  // Null: not recorded.
  std::shared_ptr<emulator::Capture> capture;         // Where it was recorded last, if in one.
  std::vector<GraphNode> ends;
};

// A kernel, of a library (no context) or of a module.
struct FunctionTag {
  const emulator::KernelEntry* entry = nullptr;
  ContextTag* context = nullptr;
};

struct ModuleTag {
  ContextTag* context = nullptr;
  std::vector<std::unique_ptr<FunctionTag>> functions;
};

struct LibraryTag {
  std::vector<std::unique_ptr<FunctionTag>> kernels;
  std::map<ContextTag*, std::unique_ptr<ModuleTag>> modules;  // Made when asked for.
};

struct PoolTag {
  int device = 0;
  bool is_default = false;
  bool is_destroyed = false;  // Goes with its last allocation.
  std::uint64_t used_bytes = 0;
  std::uint64_t cached_bytes = 0;  // Taken from the device, but in no allocation.
  std::uint64_t used_high = 0;
  std::uint64_t reserved_high = 0;
  std::uint64_t release_threshold = 0;
  int reuse[3] = {1, 1, 1};
  std::set<int> peers;
};

}  // namespace causeway::cuda

namespace causeway::emulator {

struct Failure {
  cuda::Result result;
};

// Memory of a device or of the host that has handles, mappings, or both.
struct Physical {
  UniqueFd file;
  std::uint64_t size_bytes = 0;
  cuda::AllocationProp prop;
  bool is_imported = false;  // Counts in the process that created it.
  unsigned handles = 0;
};

struct Mapping {
  std::uint64_t size_bytes = 0;
  std::shared_ptr<Physical> memory;
  std::map<int, int> access;  // Flags by device; the processor's by kProcessor.
};
constexpr int kProcessor = -1;

// What an emulated device can do at most.
constexpr int kProcessors = 16;
constexpr int kThreadsPerProcessor = 2048;
constexpr int kBlocksPerProcessor = 32;
constexpr int kMostThreads = 1024;  // Of a block.
constexpr int kMostBlock[3] = {1024, 1024, 64};
constexpr int kMostGrid[3] = {0x7fffffff, 65535, 65535};
constexpr int kMostShared = 48 << 10;
constexpr int kGreatestPriority = -5;  // The least is 0.

// Memory that is no mapping of a handle.
struct Block {
  enum class Kind { device, pinned, registered, pooled, opened };
  Kind kind = Kind::device;
  std::uint64_t size_bytes = 0;    // As asked for.
  std::uint64_t mapped_bytes = 0;  // With the rest of its last page.
  int device = 0;
  cuda::ContextTag* context = nullptr;  // It goes with this one, unless pooled.
  unsigned flags = 0;                   // Of pinned and registered memory.
  std::uint64_t offset = 0;             // In the device's file.
  unsigned long long id = 0;
  cuda::Pool pool = nullptr;
  bool is_leaving = false;         // cuMemFreeAsync is queued.
  unsigned holders = 1;            // Of opened memory.
  cuda::IpcMemHandle source = {};  // Of opened memory.

  [[nodiscard]] bool is_host() const { return kind == Kind::pinned || kind == Kind::registered; }
};

// What backs plain allocations of a device, so that another process can open them.
struct DeviceFile {
  UniqueFd file;
  std::uint64_t end = 0;  // Offsets are used once.
};

struct World {
  std::mutex mutex;
  int pid = 0;  // 0: not started. After a fork it is another process's.
  std::vector<std::unique_ptr<cuda::ContextTag>> contexts;  // The primary ones, by device.
  std::vector<std::unique_ptr<cuda::ContextTag>> made_contexts;
  std::map<cuda::Handle, std::shared_ptr<Physical>> handles;
  cuda::Handle next_handle = 0x1000;
  unsigned long long next_id = 1;
  std::map<cuda::DevicePtr, std::uint64_t> reservations;
  std::map<cuda::DevicePtr, Mapping> mappings;
  std::map<cuda::DevicePtr, Block> blocks;
  std::vector<std::uint64_t> used_bytes;                      // By device.
  std::vector<DeviceFile> files;                              // By device.
  std::vector<std::unique_ptr<cuda::PoolTag>> default_pools;  // By device.
  std::vector<cuda::Pool> current_pools;                      // By device.
  std::set<cuda::Pool> pools;                                 // Made ones, destroyed or not.
  std::set<cuda::StreamTag*> streams;
  std::set<cuda::EventTag*> events;
  std::set<cuda::ModuleTag*> modules;
  std::set<cuda::LibraryTag*> libraries;
  std::set<cuda::FunctionTag*> functions;  // Of modules and libraries.
  std::set<cuda::GraphTag*> graphs;
  std::set<cuda::GraphExecTag*> executables;
  std::vector<std::shared_ptr<Capture>> captures;  // Under way.
  std::vector<std::string> left_behind;            // In primary contexts that were given back.
};

[[nodiscard]] World& world();

// driver: started in this process; healthy: no sticky error in the current context, if there is
// one; context: a current context, healthy.
enum class Needs { nothing, driver, healthy, context };

// What a call must answer before it does anything; kSuccess: let it run. Counts it.
[[nodiscard]] cuda::Result begin_call(const char* name, Needs needs);

template <typename Body>
cuda::Result run_call(const char* name, Needs needs, Body body) noexcept {
  try {
    if (const auto refused = begin_call(name, needs); refused != cuda::kSuccess) return refused;
    body();
    return cuda::kSuccess;
  } catch (const Failure& failure) {
    return failure.result;
  } catch (const std::bad_alloc&) {
    return cuda::kOutOfMemory;
  } catch (...) {
    return cuda::kUnknown;
  }
}

inline void require(bool holds, cuda::Result otherwise = cuda::kInvalidValue) {
  if (!holds) throw Failure{otherwise};
}

// The calling thread's stack of contexts; its top is current.
[[nodiscard]] std::vector<cuda::ContextTag*>& context_stack();
[[nodiscard]] cuda::ContextTag* current();
[[nodiscard]] int checked_device(cuda::Device device);  // Throws kInvalidDevice.
[[nodiscard]] bool reach(int device, int peer);         // Of one island.

// With the world's mutex held: the stream behind a handle; null: the default stream of the current
// context. Throws kInvalidHandle and kInvalidContext.
[[nodiscard]] cuda::StreamTag* resolve(cuda::Stream stream);
[[nodiscard]] cuda::ContextTag& context_of(const cuda::StreamTag* stream);
// Not among the world's yet.
[[nodiscard]] std::unique_ptr<cuda::StreamTag> make_stream(cuda::ContextTag& context,
                                                           unsigned flags, int priority);
// Within it a null stream is the thread's own default stream.
class PerThreadDefault {
 public:
  PerThreadDefault();
  PerThreadDefault(const PerThreadDefault&) = delete;
  PerThreadDefault& operator=(const PerThreadDefault&) = delete;
  ~PerThreadDefault();
};

// Queues work on `stream`, with the order that the default stream imposes; on a stream that is
// captured it becomes a node of the graph, and the ticket is empty.
Ticket enqueue(cuda::Stream stream, cuda::NodeType type, std::function<void()> work);
// All that was queued in `context` so far.
[[nodiscard]] std::vector<Ticket> all_work(cuda::ContextTag& context);
// Throws the error that has become sticky.
void report_sticky(const cuda::ContextTag& context);

// contexts.cpp: what a context that nobody holds any more leaves goes; as leaks, if `tell`.
void end_context(cuda::ContextTag& context, bool tell);

// captures.cpp, with the world's mutex held. A capture that is refused something is broken by it.
void break_capture(const std::shared_ptr<Capture>& capture);
void leave_capture(cuda::StreamTag& stream);  // It goes.
void add_captured(cuda::StreamTag& stream, cuda::NodeType type, std::function<void()> work);
void refuse_while_captured(const cuda::StreamTag* stream);  // It, or what it would wait for.
void refuse_in_capture(const cuda::ContextTag& context);    // Any of the context's.
void refuse_unsafe();                                       // As the thread's mode says.
void wait_captured(cuda::StreamTag* stream, cuda::EventTag& event);  // One of the two is captured.

// vmm.cpp: inaccessible addresses; freed ones stay so for long.
[[nodiscard]] cuda::DevicePtr reserve_addresses(std::uint64_t size_bytes, std::uint64_t alignment);
void free_addresses(cuda::DevicePtr at, std::uint64_t size_bytes);

// plain_memory.cpp, with the world's mutex held.
[[nodiscard]] std::uint64_t whole_pages(std::uint64_t size_bytes);
// Memory of a device at addresses of its own; it counts already.
[[nodiscard]] cuda::DevicePtr open_block(Block block);
// Takes a block away; what it counted for, its owner says.
void close_block(std::map<cuda::DevicePtr, Block>::iterator block);
// The block that an address lies in.
[[nodiscard]] std::map<cuda::DevicePtr, Block>::iterator find_block(cuda::DevicePtr at);
// pools.cpp: bytes of a pool's allocation, or of a freed one, go.
void free_pooled(std::map<cuda::DevicePtr, Block>::iterator block);

// plain_memory.cpp, with the world's mutex held: may `device` do `flags` with [at, at + size)?
// Plain host memory is nobody's and passes where `host_too`.
enum class Place { device, host, nowhere };
struct Found {
  Place place = Place::nowhere;
  int device = 0;
};
[[nodiscard]] Found find_range(int device, cuda::DevicePtr at, std::uint64_t size_bytes, int flags);
// Takes from a device's capacity. Throws kOutOfMemory.
void take_bytes(int device, std::uint64_t size_bytes);

// Lets a call take as long as the bytes do at `bytes_per_s`; 0: no longer than it did.
void pace(std::uint64_t size_bytes, double bytes_per_s);

}  // namespace causeway::emulator
