#include "transport/nccl/member.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <mutex>
#include <thread>

#include "transport/collective/complete.h"
#include "transport/collective/group.h"

namespace causeway::nccl {

using namespace std::chrono_literals;

namespace {

constexpr auto kShortest = 20us;
constexpr auto kLongest = std::chrono::microseconds(1ms);
// Beside the lanes of the channel communicator with the same tag.
constexpr std::uint64_t kWatchTag = 0xf;
static_assert(kWatchTag > collective::kLanes);
constexpr auto kForever = std::chrono::hours(24 * 3650);

// What rank 0 tells the others.
struct Welcome {
  UniqueId id;
  int version;
};

// Ends a communicator of which this rank has had all it wanted. The other ranks may not have: NCCL
// waits for them.
void farewell(const Functions& nccl, Comm comm, std::chrono::milliseconds patience) {
  const auto limit = std::chrono::steady_clock::now() + patience;
  auto state = nccl.CommFinalize(comm);
  while (state == kInProgress && std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(kLongest);
    const auto result = nccl.CommGetAsyncError(comm, &state);
    if (result != kSuccess) state = result;
  }
  if (state == kSuccess)
    nccl.CommDestroy(comm);
  else
    nccl.CommAbort(comm);
}

}  // namespace

// ncclCommInitRankConfig, on its thread. Whoever comes second, it or the member, has the result.
struct Member::Joining {
  std::mutex mutex;
  bool has_returned = false;
  bool is_abandoned = false;
  Comm comm = nullptr;
  Result result = kSuccess;
  std::optional<Error> failed;  // Of the device.
};

Member::Member(asio::io_context& io, NcclGroup own)
    : Turns(io),
      rank(own.rank),
      size(static_cast<int>(own.peers.size())),
      group_(std::move(own)),
      nccl_(group_.library->functions()),
      control_(make_channel_communicator(io, group_.rank, group_.peers, group_.tag, group_.names)),
      timer_(io) {}

Member::~Member() { abort_comm(); }  // If the io_context ended first.

std::string Member::describe() const {
  return fmt::format("{} (operation {})", name_of(call().kind), sequence());
}

Error Member::error(const char* call, Result result) const {
  return group_.library->error(describe() + ": " + call, result);
}

Stream Member::stream() const noexcept { return static_cast<Stream>(group_.stream->handle()); }

Step Member::run(const std::function<Step()>& work) {
  if (size == 1) co_return;  // Values are in place, and their own average.
  begin_ = Clock::now();
  std::optional<Error> failed;
  try {
    if (comm_ == nullptr) co_await connect();
    co_await agree();
    if (work) co_await work();
  } catch (const Error& error) {
    failed = error;
  } catch (const std::exception& error) {
    failed = Error(Errc::internal, error.what());
  }
  if (!failed) co_return;
  break_with(*failed);
  co_await let_go();
  throw Error(*broken());
}

void Member::on_break(const Error& error) {
  control_->abort(error);
  abort_comm();
  timer_.cancel();  // Whoever waits shall look.
}

void Member::leave() {
  Turns::leave();
  if (comm_ == nullptr) return;  // It was aborted, or never there.
  const auto call = [nccl = nccl_, comm = comm_, stream = group_.stream,
                     patience = group_.library->patience()] { farewell(nccl, comm, patience); };
  try {
    group_.library->aside().run("nccl-end", call);
    comm_ = nullptr;
  } catch (const Error&) {
    abort_comm();
  }
}

// NCCL's ranks in a domain do not hear of each other's ends.
void Member::watch() {
  is_watching_ = true;
  for (int peer = 0; peer < size; ++peer) {
    const auto& channel = group_.peers[static_cast<std::size_t>(peer)];
    if (!channel) continue;
    const int name = group_.names.empty() ? peer : group_.names[static_cast<std::size_t>(peer)];
    const auto byte = std::make_shared<std::byte>();
    channel->receive(
        (group_.tag & ~collective::Group::kTagBits) | kWatchTag, {byte.get(), 1},
        Clock::now() + kForever,
        [self = weak_from_this(), name, byte](std::optional<Error> failed, std::uint64_t) {
          const auto member = self.lock();
          if (!member) return;
          const auto code = failed ? failed->code() : Errc::protocol;
          const std::string what = failed ? failed->what() : "a message that nobody sends";
          const auto reason = what.find("because of ");  // The first one, told by a rank.
          member->break_with(Error(code, reason == std::string::npos
                                             ? fmt::format("because of rank {}: {}", name, what)
                                             : what.substr(reason)));
        });
  }
}

Step Member::connect() {
  if (!is_watching_) watch();
  Welcome welcome{};
  welcome.version = group_.library->version();
  if (rank == 0) co_await make_id(welcome.id);
  co_await collective::complete(*control_, [&](Communicator& all, auto done) {
    all.broadcast(std::as_writable_bytes(std::span(&welcome, 1)), 0, deadline(), std::move(done));
  });
  if (welcome.version != group_.library->version())
    throw Error(Errc::unsupported,
                fmt::format("rank 0 has NCCL {}, this rank {}: all need the same",
                            nccl_version_text(welcome.version),
                            nccl_version_text(group_.library->version())));
  co_await join_ranks(welcome.id);
}

Step Member::make_id(UniqueId& id) {
  struct Making {
    UniqueId id{};
    Result result = kSuccess;
    std::atomic<bool> has_returned = false;
  };
  const auto making = std::make_shared<Making>();
  group_.library->aside().run("nccl-id", [nccl = nccl_, making] {
    making->result = nccl.GetUniqueId(&making->id);
    making->has_returned = true;
  });
  while (!making->has_returned) co_await pause();
  if (making->result != kSuccess) throw error("ncclGetUniqueId", making->result);
  id = making->id;
}

Step Member::join_ranks(UniqueId id) {
  joining_ = std::make_shared<Joining>();
  const auto ended = std::make_shared<std::atomic<bool>>(false);
  ended_ = ended;
  group_.library->aside().run("nccl-begin", [nccl = nccl_, joining = joining_, ended,
                                             stream = group_.stream, id, ranks = size, own = rank] {
    Config config;
    config.blocking = 0;
    Comm comm = nullptr;
    auto result = kSuccess;
    std::optional<Error> failed;
    try {
      stream->make_current();
      result = nccl.CommInitRankConfig(&comm, ranks, id, own, &config);
    } catch (const Error& error) {
      failed = error;
    }
    bool is_abandoned = false;
    {
      const std::lock_guard lock(joining->mutex);
      joining->has_returned = true;
      joining->comm = comm;
      joining->result = result;
      joining->failed = failed;
      is_abandoned = joining->is_abandoned;
    }
    if (is_abandoned && comm != nullptr) nccl.CommAbort(comm);
    *ended = true;
  });
  for (;;) {
    co_await pause();
    const std::lock_guard lock(joining_->mutex);
    if (joining_->has_returned) break;
  }
  const auto joining = joining_;
  take_comm();
  if (joining->failed) throw Error(*joining->failed);
  co_await settled("ncclCommInitRankConfig", joining->result);
  if (comm_ == nullptr) throw error("ncclCommInitRankConfig", kInternalError);
}

// From the thread that makes it. Still running, it aborts what it makes.
void Member::take_comm() {
  const auto joining = std::exchange(joining_, nullptr);
  if (!joining) return;
  const std::lock_guard lock(joining->mutex);
  if (joining->has_returned) {
    comm_ = joining->comm;
    ended_ = nullptr;
  }
  joining->is_abandoned = true;
}

void Member::abort_comm() {
  take_comm();
  const auto comm = std::exchange(comm_, nullptr);
  if (comm == nullptr) return;
  const auto ended = std::make_shared<std::atomic<bool>>(false);
  ended_ = ended;
  const auto call = [nccl = nccl_, comm, ended, stream = group_.stream] {
    nccl.CommAbort(comm);
    *ended = true;
  };
  try {
    group_.library->aside().run("nccl-abort", call);
  } catch (const Error&) {
    call();  // Rather a loop that waits than a kernel that never ends.
  }
}

// Until NCCL does not touch the values any more. When ncclCommAbort has returned, kernels may still
// be on their way out: of several ranks in a process only the last abort waits for them.
Step Member::let_go() {
  const auto limit = Clock::now() + group_.library->patience();
  if (ended_ == nullptr) co_return;  // There was no communicator yet.
  bool is_free = false;
  try {
    co_await doze(limit, [this] { return ended_->load(); });
    if (ended_->load()) {
      group_.stream->mark();
      co_await doze(limit, [&] { return is_free = group_.stream->is_reached(); });
    }
  } catch (const Error&) {
    is_free = true;  // The device is gone, and so are its kernels.
  }
  if (!is_free)
    broke_with(
        Error(broken()->code(), fmt::format("{}; NCCL did not let go of the values in {} ms: "
                                            "they are not safe to use before this process ends",
                                            broken()->what(), group_.library->patience().count())));
}

Step Member::doze(Clock::time_point limit, std::function<bool()> is_met) {
  while (!is_met() && Clock::now() < limit) {
    timer_.expires_after(kLongest);
    boost::system::error_code ignored;
    co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
}

Step Member::agree() {
  const auto own = std::uint64_t{sequence()} << 32 | call().fingerprint;
  const auto calls = co_await collective::gather(*control_, own, deadline());
  const auto other = std::ranges::find_if(calls, [own](auto call) { return call != own; });
  if (other != calls.end())
    throw Error(Errc::invalid_argument,
                fmt::format("{}: rank {} calls something else, or with another size, type or root",
                            describe(), other - calls.begin()));
}

Step Member::pause() {
  if (broken()) throw Error(*broken());
  const auto now = Clock::now();
  if (now >= deadline())
    throw Error(Errc::timed_out, describe() + " did not end in its time; NCCL was aborted");
  const auto taken = std::chrono::duration_cast<std::chrono::microseconds>(now - begin_);
  const auto next = now + std::clamp(taken / 8, kShortest, kLongest);
  timer_.expires_at(std::min(next, deadline()));
  boost::system::error_code ignored;
  co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  if (broken()) throw Error(*broken());
}

Step Member::settled(const char* call, Result result) {
  while (result == kInProgress) {
    co_await pause();
    const auto asked = nccl_.CommGetAsyncError(comm_, &result);
    if (asked != kSuccess) result = asked;
  }
  if (result != kSuccess) throw error(call, result);
}

Step Member::reached() {
  group_.stream->mark();
  for (;;) {
    const bool is_reached = group_.stream->is_reached();
    // Asked after the mark: a communicator that failed may have let its kernels run out.
    Result state = kSuccess;
    const auto asked = nccl_.CommGetAsyncError(comm_, &state);
    if (asked != kSuccess) state = asked;
    if (state != kSuccess && state != kInProgress) throw error("ncclCommGetAsyncError", state);
    if (is_reached) co_return;
    co_await pause();
  }
}

Step Member::grouped(const std::function<void(const Add&)>& each) {
  auto result = nccl_.GroupStart();
  if (result != kSuccess) throw error("ncclGroupStart", result);
  std::optional<Error> failed;
  each([&](const char* call, Result of_call) {
    if (of_call != kSuccess && of_call != kInProgress && !failed) failed = error(call, of_call);
  });
  // Also after a failure: an open group would swallow all that this thread calls.
  result = nccl_.GroupEnd();
  if (failed) throw Error(*failed);
  co_await settled("ncclGroupEnd", result);
}

}  // namespace causeway::nccl
