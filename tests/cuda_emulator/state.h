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

namespace causeway::cuda {

// A primary context. One per device, never destroyed; `holders` 0: not active.
struct ContextTag {
  int device = 0;
  unsigned holders = 0;
  std::atomic<Result> sticky{kSuccess};
  std::set<int> peers;                           // Devices whose plain allocations it may touch.
  std::shared_ptr<emulator::Line> default_line;  // The default stream's.
};

struct StreamTag {
  ContextTag* context = nullptr;
  bool waits_for_default = true;
  std::shared_ptr<emulator::Line> line;
};

struct EventTag {
  ContextTag* context = nullptr;
  bool with_timing = true;
  emulator::Ticket ticket;
  std::shared_ptr<std::atomic<double>> reached_at_s;  // Null: not recorded.
};

struct FunctionTag {
  const emulator::KernelEntry* entry = nullptr;
};

struct ModuleTag {
  std::vector<std::unique_ptr<FunctionTag>> functions;
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

// What cuMemAlloc, cuMemHostAlloc and cuMemHostRegister gave.
struct Block {
  enum class Kind { device, pinned, registered };
  Kind kind = Kind::device;
  std::uint64_t size_bytes = 0;    // As asked for.
  std::uint64_t mapped_bytes = 0;  // With the rest of its last page.
  int device = 0;
};

struct World {
  std::mutex mutex;
  int pid = 0;  // 0: not started. After a fork it is another process's.
  std::vector<std::unique_ptr<cuda::ContextTag>> contexts;  // By device.
  std::map<cuda::Handle, std::shared_ptr<Physical>> handles;
  cuda::Handle next_handle = 0x1000;
  std::map<cuda::DevicePtr, std::uint64_t> reservations;
  std::map<cuda::DevicePtr, Mapping> mappings;
  std::map<cuda::DevicePtr, Block> blocks;
  std::vector<std::uint64_t> used_bytes;  // By device.
  std::set<cuda::StreamTag*> streams;
  std::set<cuda::EventTag*> events;
  std::set<cuda::ModuleTag*> modules;
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

// Queues work on `stream` (null: the default stream) of the current context, with the order that
// the default stream imposes. Throws kInvalidHandle.
Ticket enqueue(cuda::Stream stream, std::function<void()> work);
// All that was queued in `context` so far.
[[nodiscard]] std::vector<Ticket> all_work(cuda::ContextTag& context);
// Throws the error that has become sticky.
void report_sticky(const cuda::ContextTag& context);

// vmm.cpp: inaccessible addresses; freed ones stay so for long.
[[nodiscard]] cuda::DevicePtr reserve_addresses(std::uint64_t size_bytes, std::uint64_t alignment);
void free_addresses(cuda::DevicePtr at, std::uint64_t size_bytes);

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
