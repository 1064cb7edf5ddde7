// A software libnccl.so.2 for tests: it moves bytes between the ranks of one process, and watches
// that its caller keeps NCCL's rules. Its device is the host's memory. It shows that the calls are
// right, not that a GPU would do them.
//
// Shape:   NCCL's functions are here; what they know is in world.h, and control.h steers it.
// Rules:   non-blocking communicators; no call on one that is in progress, but polls and an abort;
//          none after its end; each ended once; groups that end where they began; the same
//          collectives in the same order on all ranks; sends that meet their receives; a mark or
//          copy only when the launch before is on the stream; values that nobody touches between
//          launch and run; the device made current before the begin; nothing that may block on a
//          loop's thread; ncclCommDestroy only after ncclCommFinalize has ended.
// Threads: any; one lock.
#include <algorithm>
#include <cstring>
#include <string>

#include "tests/nccl_emulator/world.h"

using namespace nccl_emulator;

namespace {

Comm* known(nccl::Comm handle, const char* call) {
  const auto& comms = world().comms;
  const auto found = std::ranges::find_if(
      comms, [handle](const auto& comm) { return static_cast<void*>(comm.get()) == handle; });
  if (found == comms.end()) {
    violation(std::string(call) + " of no communicator");
    return nullptr;
  }
  if ((*found)->state == Comm::State::gone) {
    violation(std::string(call) + " of a communicator that has ended");
    return nullptr;
  }
  return found->get();
}

// A launch on its way to the head of a CUDA stream.
struct Arrival {
  Device* stream;
  std::unique_ptr<Launch> launch;
};

// On the stream's thread, which goes on when the launch has run or its communicator is gone.
void arrive(void* data) {
  const std::unique_ptr<Arrival> own(static_cast<Arrival*>(data));
  Lock lock(world().mutex);
  if (own->launch->comm->state == Comm::State::gone) return;
  const auto* const launch = own->launch.get();
  auto& tasks = own->stream->tasks;
  Task task;
  task.launch = std::move(own->launch);
  tasks.push_back(std::move(task));
  progress();
  world().changed.notify_all();
  world().changed.wait(lock, [&] {
    return std::ranges::none_of(tasks,
                                [&](const Task& each) { return each.launch.get() == launch; });
  });
}

void put_on_stream(Comm& comm) {
  auto& launch = comm.next;
  comm.state = Comm::State::ready;
  if (comm.stream->cuda != nullptr) {
    auto arrival = std::make_unique<Arrival>(Arrival{comm.stream, std::move(launch)});
    if (world().cuda.launch_host_func(comm.stream->cuda, arrive, arrival.get()) == 0)
      (void)arrival.release();
    else
      comm.failure = nccl::kUnhandledCudaError;
    return;
  }
  launch->has_digest = comm.stream->tasks.empty();
  if (launch->has_digest) launch->digest = digest(*launch);
  Task task;
  task.launch = std::move(launch);
  comm.stream->tasks.push_back(std::move(task));
}

// The device that a caller means; null: none.
Device* device_of(nccl::Stream stream) {
  auto& w = world();
  if (w.cuda.launch_host_func == nullptr) {
    auto* const own = reinterpret_cast<Device*>(stream);
    return w.known_streams.contains(own) ? own : nullptr;
  }
  if (stream == nullptr) return nullptr;
  for (auto* const known : w.known_streams)
    if (known->cuda == stream) return known;
  auto* const made = w.streams.emplace_back(std::make_unique<Device>()).get();
  made->cuda = stream;
  w.known_streams.insert(made);
  return made;
}

Result begin_launch(Comm& comm, Device* stream, std::vector<Call> calls) {
  if (comm.state != Comm::State::ready) {
    violation("a communicator is used while it is in progress");
    return nccl::kInvalidUsage;
  }
  if (comm.stream != nullptr && comm.stream != stream && !comm.stream->tasks.empty())
    violation("a communicator's work on two streams at once");
  comm.stream = stream;
  comm.next.reset(new Launch{&comm, std::move(calls), 0, false});
  comm.state = Comm::State::launches;
  comm.polls_left = world().faults.polls;
  if (comm.polls_left > 0) return nccl::kInProgress;
  put_on_stream(comm);
  return nccl::kSuccess;
}

Result add(const char* name, nccl::Comm handle, nccl::Stream stream, const Call& call) {
  const Lock lock(world().mutex);
  if (fails()) return world().faults.fail_result;
  auto* comm = known(handle, name);
  if (comm == nullptr) return nccl::kInvalidArgument;
  auto* const device = device_of(stream);
  if (device == nullptr) {
    violation(std::string(name) + " on no stream");
    return nccl::kInvalidArgument;
  }
  if (call.root < 0 || call.root >= comm->clique->ranks) {
    violation(std::string(name) + " names a rank that is not there");
    return nccl::kInvalidArgument;
  }
  if (!is_collective(call) && here().group.depth == 0)
    violation(std::string(name) + " outside of a group: two ranks could wait for each other");
  if (here().group.depth == 0) {
    const auto result = begin_launch(*comm, device, {call});
    progress();
    return result;
  }
  if (comm->state != Comm::State::ready)
    violation("a communicator is used while it is in progress");
  here().group.calls.emplace_back(comm, call);
  here().group.streams[comm] = device;
  return nccl::kSuccess;
}

void remove(Comm& comm) {
  comm.state = Comm::State::gone;
  comm.next.reset();
  comm.clique->is_broken = true;
  if (comm.stream != nullptr)
    std::erase_if(comm.stream->tasks,
                  [&](const Task& task) { return task.launch && task.launch->comm == &comm; });
  world().changed.notify_all();
}

// One poll: what is in progress comes nearer.
Result poll(Comm& comm) {
  const auto& faults = world().faults;
  ++comm.polls;
  if (faults.fail_async_poll != 0 && comm.rank == faults.fail_async_rank &&
      comm.polls >= faults.fail_async_poll)
    comm.failure = faults.fail_result;
  if (comm.failure != nccl::kSuccess) return comm.failure;
  if (comm.state == Comm::State::ready || comm.state == Comm::State::ended) return nccl::kSuccess;
  if (comm.polls_left > 0 && --comm.polls_left > 0) return nccl::kInProgress;
  const auto& others = comm.clique->comms;
  switch (comm.state) {
    case Comm::State::begins:
      if (static_cast<int>(others.size()) < comm.clique->ranks) return nccl::kInProgress;
      comm.state = Comm::State::ready;
      break;
    case Comm::State::launches:
      put_on_stream(comm);
      break;
    case Comm::State::ends:
      if (!std::ranges::all_of(
              others, [](const auto& entry) { return entry.second->state >= Comm::State::ends; }))
        return nccl::kInProgress;
      comm.state = Comm::State::ended;
      break;
    default:
      break;
  }
  return nccl::kSuccess;
}

const std::byte* bytes(const void* p) { return static_cast<const std::byte*>(p); }
std::byte* bytes(void* p) { return static_cast<std::byte*>(p); }

}  // namespace

extern "C" {

Result ncclGetVersion(int* version) {
#ifdef CAUSEWAY_OLD_NCCL
  *version = 21805;
#else
  const Lock lock(world().mutex);
  *version = world().faults.version != 0 ? world().faults.version : 22304;
#endif
  return nccl::kSuccess;
}

const char* ncclGetErrorString(Result result) {
  return result == nccl::kSuccess ? "no error" : "an error of the emulator";
}

const char* ncclGetLastError(nccl::Comm) { return ""; }

Result ncclGetUniqueId(nccl::UniqueId* id) {
  const Lock lock(world().mutex);
  may_block(__func__);
  if (fails()) return world().faults.fail_result;
  *id = {};
  const auto number = ++world().ids;
  std::memcpy(id->internal, &number, sizeof number);
  world().cliques[number] = std::make_shared<Clique>();
  return nccl::kSuccess;
}

#ifndef CAUSEWAY_BARE_NCCL
Result ncclCommInitRankConfig(nccl::Comm* out, int ranks, nccl::UniqueId id, int rank,
                              nccl::Config* config) {
  Lock lock(world().mutex);
  auto& w = world();
  *out = nullptr;
  may_block(__func__);
  if (fails()) return w.faults.fail_result;
  w.changed.wait(lock, [&] { return w.faults.is_begin_hung == 0; });
  if (config == nullptr || config->magic != 0xcafebeef || config->size < 48 ||
      config->version < 21900) {
    violation("a configuration that was not initialised");
    return nccl::kInvalidArgument;
  }
  if (config->blocking != 0) {
    violation("a blocking communicator");
    return nccl::kInvalidArgument;
  }
  void* current = here().current;
  if (w.cuda.get_current != nullptr && w.cuda.get_current(&current) != 0) current = nullptr;
  if (current == nullptr) violation("no device was made current before the begin");
  std::uint64_t number = 0;
  std::memcpy(&number, id.internal, sizeof number);
  const auto found = w.cliques.find(number);
  if (found == w.cliques.end()) {
    violation("a begin with an id that ncclGetUniqueId did not make");
    return nccl::kInvalidArgument;
  }
  auto& clique = *found->second;
  if (rank < 0 || rank >= ranks || (clique.ranks != 0 && clique.ranks != ranks) ||
      clique.comms.contains(rank)) {
    violation("a begin with a rank that is taken or not there");
    return nccl::kInvalidArgument;
  }
  clique.ranks = ranks;
  auto& comm = w.comms.emplace_back(std::make_unique<Comm>());
  comm->clique = found->second;
  comm->rank = rank;
  comm->polls_left = w.faults.polls;
  clique.comms[rank] = comm.get();
  *out = reinterpret_cast<nccl::Comm>(comm.get());
  return nccl::kInProgress;
}
#endif

Result ncclCommGetAsyncError(nccl::Comm handle, Result* result) {
  const Lock lock(world().mutex);
  not_in_group(__func__);
  if (fails()) return world().faults.fail_result;
  auto* comm = known(handle, __func__);
  if (comm == nullptr) return nccl::kInvalidArgument;
  *result = poll(*comm);
  progress();
  return nccl::kSuccess;
}

Result ncclCommFinalize(nccl::Comm handle) {
  const Lock lock(world().mutex);
  may_block(__func__);
  if (fails()) return world().faults.fail_result;
  auto* comm = known(handle, __func__);
  if (comm == nullptr) return nccl::kInvalidArgument;
  if (comm->state != Comm::State::ready) {
    violation("a communicator is finalized while it is in progress, or twice");
    return nccl::kInvalidArgument;
  }
  comm->state = Comm::State::ends;
  comm->polls_left = world().faults.polls;
  return nccl::kInProgress;
}

Result ncclCommDestroy(nccl::Comm handle) {
  const Lock lock(world().mutex);
  may_block(__func__);
  auto* comm = known(handle, __func__);
  if (comm == nullptr) return nccl::kInvalidArgument;
  if (comm->state != Comm::State::ended)
    violation("ncclCommDestroy before ncclCommFinalize has ended: it may block for ever");
  remove(*comm);
  ++world().destroyed;
  return fails() ? world().faults.fail_result : nccl::kSuccess;
}

Result ncclCommAbort(nccl::Comm handle) {
  Lock lock(world().mutex);
  auto& w = world();
  may_block(__func__);
  auto* comm = known(handle, __func__);
  if (comm == nullptr) return nccl::kInvalidArgument;
  w.changed.wait(lock, [&] { return w.faults.is_abort_hung == 0; });
  remove(*comm);
  ++w.aborts;
  progress();
  return fails() ? w.faults.fail_result : nccl::kSuccess;
}

Result ncclGroupStart() {
  const Lock lock(world().mutex);
  if (fails()) return world().faults.fail_result;
  ++here().group.depth;
  return nccl::kSuccess;
}

Result ncclGroupEnd() {
  const Lock lock(world().mutex);
  if (here().group.depth == 0) {
    violation("ncclGroupEnd without ncclGroupStart");
    return nccl::kInvalidUsage;
  }
  if (--here().group.depth > 0) return nccl::kSuccess;
  const auto ended = std::exchange(here().group, {});
  if (fails()) return world().faults.fail_result;
  Result result = nccl::kSuccess;
  for (const auto& [comm, stream] : ended.streams) {
    std::vector<Call> calls;
    for (const auto& [of, call] : ended.calls)
      if (of == comm) calls.push_back(call);
    if (const auto each = begin_launch(*comm, stream, std::move(calls)); each != nccl::kSuccess)
      result = each;
  }
  progress();
  return result;
}

Result ncclAllReduce(const void* from, void* to, std::size_t count, int type, int op,
                     nccl::Comm comm, nccl::Stream stream) {
  return add(__func__, comm, stream,
             {Kind::all_reduce, bytes(from), bytes(to), count, type, op, 0});
}

Result ncclReduceScatter(const void* from, void* to, std::size_t count, int type, int op,
                         nccl::Comm comm, nccl::Stream stream) {
  return add(__func__, comm, stream,
             {Kind::reduce_scatter, bytes(from), bytes(to), count, type, op, 0});
}

Result ncclReduce(const void* from, void* to, std::size_t count, int type, int op, int root,
                  nccl::Comm comm, nccl::Stream stream) {
  return add(__func__, comm, stream, {Kind::reduce, bytes(from), bytes(to), count, type, op, root});
}

Result ncclAllGather(const void* from, void* to, std::size_t count, int type, nccl::Comm comm,
                     nccl::Stream stream) {
  return add(__func__, comm, stream, {Kind::all_gather, bytes(from), bytes(to), count, type, 0, 0});
}

Result ncclBroadcast(const void* from, void* to, std::size_t count, int type, int root,
                     nccl::Comm comm, nccl::Stream stream) {
  return add(__func__, comm, stream,
             {Kind::broadcast, bytes(from), bytes(to), count, type, 0, root});
}

Result ncclSend(const void* from, std::size_t count, int type, int peer, nccl::Comm comm,
                nccl::Stream stream) {
  return add(__func__, comm, stream, {Kind::send, bytes(from), nullptr, count, type, 0, peer});
}

Result ncclRecv(void* to, std::size_t count, int type, int peer, nccl::Comm comm,
                nccl::Stream stream) {
  return add(__func__, comm, stream, {Kind::recv, nullptr, bytes(to), count, type, 0, peer});
}

}  // extern "C"
