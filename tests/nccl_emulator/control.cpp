// The world itself, its rules' keeper, the test's functions and the device.
#include "tests/nccl_emulator/control.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "tests/nccl_emulator/world.h"

namespace nccl_emulator {

World& world() {
  static World* one = new World;  // Threads may come after the process's end has begun.
  return *one;
}

Here& here() {
  thread_local Here one;
  return one;
}

void violation(const std::string& text) {
  auto& w = world();
  if (w.violations++ == 0) w.first_violation = text;
  std::fprintf(stderr, "nccl_emulator: %s\n", text.c_str());
}

// True if this call shall fail.
bool fails() {
  auto& w = world();
  if (++w.calls != w.faults.fail_call) return false;
  w.is_spent = true;
  return true;
}

void may_block(const char* call) {
  if (here().is_loop) violation(std::string(call) + " on the thread of a loop: it may block");
}

void not_in_group(const char* call) {
  if (here().group.depth > 0) violation(std::string(call) + " inside of a group");
}

}  // namespace nccl_emulator

using namespace nccl_emulator;

extern "C" {

void nccl_emulator_reset(const NcclEmulatorFaults* faults) {
  const Lock lock(world().mutex);
  auto& w = world();
  w.faults = *faults;
  w.calls = w.aborts = w.destroyed = w.violations = 0;
  w.is_spent = false;
  w.first_violation.clear();
  w.cliques.clear();
  w.comms.clear();
  w.changed.notify_all();
}

void nccl_emulator_set(const NcclEmulatorFaults* faults) {
  const Lock lock(world().mutex);
  world().faults = *faults;
  world().changed.notify_all();
}

int nccl_emulator_calls() {
  const Lock lock(world().mutex);
  return world().calls;
}

int nccl_emulator_is_fault_spent() {
  const Lock lock(world().mutex);
  return world().is_spent ? 1 : 0;
}

int nccl_emulator_live() {
  const Lock lock(world().mutex);
  return static_cast<int>(std::ranges::count_if(
      world().comms, [](const auto& comm) { return comm->state != Comm::State::gone; }));
}

int nccl_emulator_aborts() {
  const Lock lock(world().mutex);
  return world().aborts;
}

int nccl_emulator_destroyed() {
  const Lock lock(world().mutex);
  return world().destroyed;
}

int nccl_emulator_violations(char* text, std::size_t size) {
  const Lock lock(world().mutex);
  std::snprintf(text, size, "%s", world().first_violation.c_str());
  return world().violations;
}

void nccl_emulator_use_cuda(const NcclEmulatorCuda* driver) {
  const Lock lock(world().mutex);
  world().cuda = driver != nullptr ? *driver : NcclEmulatorCuda{};
}

void nccl_emulator_this_is_a_loop() { here().is_loop = true; }

int nccl_emulator_make_current(void* stream) {
  const Lock lock(world().mutex);
  if (fails()) return 1;
  here().current = static_cast<Device*>(stream);
  return 0;
}

void* nccl_emulator_stream() {
  const Lock lock(world().mutex);
  auto* stream = world().streams.emplace_back(std::make_unique<Device>()).get();
  world().known_streams.insert(stream);
  return stream;
}

void nccl_emulator_free_stream(void* stream) {
  const Lock lock(world().mutex);
  auto* device = static_cast<Device*>(stream);
  if (!device->tasks.empty()) violation("a stream is freed that has work");
  for (const auto& comm : world().comms)
    if (comm->stream == device && comm->state != Comm::State::gone)
      violation("a stream is freed before its communicator has ended");
  world().known_streams.erase(device);
  device->tasks.clear();
}

// A launch that is still with NCCL would come behind what is queued now.
static void check_order(Device* stream, const char* what) {
  for (const auto& comm : world().comms)
    if (comm->stream == stream && comm->state == Comm::State::launches)
      violation(std::string(what) + " before the launch was on the stream");
}

int nccl_emulator_copy(void* stream, void* to, const void* from, std::size_t size) {
  const Lock lock(world().mutex);
  not_in_group(__func__);
  if (fails()) return 1;
  auto* device = static_cast<Device*>(stream);
  check_order(device, "a copy");
  Task task;
  task.to = static_cast<std::byte*>(to);
  task.from = static_cast<const std::byte*>(from);
  task.size = size;
  device->tasks.push_back(std::move(task));
  progress();
  return 0;
}

int nccl_emulator_mark(void* stream) {
  const Lock lock(world().mutex);
  not_in_group(__func__);
  if (fails()) return 1;
  auto* device = static_cast<Device*>(stream);
  check_order(device, "a mark");
  Task task;
  task.mark = ++device->marks;
  device->tasks.push_back(std::move(task));
  progress();
  return 0;
}

int nccl_emulator_is_reached(void* stream, int* is_reached) {
  const Lock lock(world().mutex);
  if (fails()) return 1;
  progress();
  const auto* device = static_cast<Device*>(stream);
  *is_reached = device->reached == device->marks ? 1 : 0;
  return 0;
}

}  // extern "C"
