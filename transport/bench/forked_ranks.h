// The ranks of one group as processes: forked from this program, joined by channels over UCX.
//
// Use:    ForkedRanks ranks({.count = 4}, [](RankProcess& rank) { rank.run(...); return 0; });
//         before the program has a thread. What the function returns is the child's exit status; an
//         exception is told on standard error, and the status is 1.
// Errors: the constructor throws causeway::Error if there is no memory or process to be had.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "allocator/unique_fd.h"
#include "transport/collective/blocking.h"
#include "transport/collective/make_communicator.h"
#include "transport/shm/sharing_transport.h"
#include "transport/ucx/ucx_transport.h"

namespace causeway::bench {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

struct GroupOptions {
  static constexpr std::size_t kMost = 64;
  std::size_t count = 2;
  std::size_t islands = 1;
  std::vector<std::pair<std::string, std::string>> places{};  // By rank: namespace, address.
  CommunicatorOptions made{};
  bool shares_messages = false;  // Else messages go over UCX whatever host ranks are on.
};

// What the processes and their parent have in common.
struct Board {
  std::atomic<std::uint32_t> listening;
  std::atomic<std::uint32_t> ready;
  char addresses[GroupOptions::kMost][64];
  std::atomic<std::int64_t> notes[GroupOptions::kMost];  // Whatever ranks want to tell.
};

class RankProcess {
 public:
  RankProcess(Board& board, std::size_t rank, const GroupOptions& options)
      : board_(board), rank_(rank) {
    const auto address = rank < options.places.size() ? options.places[rank].second : "127.0.0.1";
    auto& channels = channels_;
    channels.resize(options.count);
    std::atomic<std::size_t> connected{0};
    const auto accept = [&](std::shared_ptr<Channel> channel) {
      const auto from = channel->peer().session;
      channels[from] = std::move(channel);
      ++connected;
    };
    const auto make = [&](Transport::Accepted accepted) {
      return make_ucx_transport(io_.context(),
                                {address + ":0", "rank", &service_, std::move(accepted)});
    };
    io_.run_on([&] {
      transport_ = options.shares_messages
                       ? make_sharing_transport(io_.context(), {.on_accept = accept}, make)
                       : make(accept);
    });
    std::strncpy(board.addresses[rank], transport_->address().c_str(), 63);
    ++board.listening;
    const auto limit = Clock::now() + 20s;
    while (board.listening < options.count) wait_until(limit);
    for (std::size_t to = 0; to < rank; ++to)
      io_.wait_for([&](Completion done) {
        transport_->connect(
            board.addresses[to], {Hello::Role::worker, "rank", rank, ""}, Clock::now() + 20s,
            [&, to, done](std::optional<Error> error, std::shared_ptr<Channel> channel) {
              channels[to] = std::move(channel);
              ++connected;
              done(std::move(error), 0);
            });
      });
    while (connected < options.count - 1) wait_until(limit);
    auto made = options.made;
    made.island = rank * options.islands / options.count;
    io_.wait_for([&](Completion done) {
      make_communicator(
          io_.context(), static_cast<int>(rank), channels, made, Clock::now() + 20s,
          [this, done](std::optional<Error> error, std::unique_ptr<Communicator> ready) {
            communicator_ = std::move(ready);
            done(std::move(error), 0);
          });
    });
  }
  ~RankProcess() {
    io_.run_on([&] {
      communicator_.reset();
      channels_.clear();
      transport_.reset();
    });
  }

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] Board& board() noexcept { return board_; }

  // For messages beside the communicator's, on io()'s thread.
  [[nodiscard]] Channel& channel(std::size_t to) noexcept { return *channels_[to]; }
  [[nodiscard]] IoThread& io() noexcept { return io_; }

  using Call = std::function<void(Communicator&, Communicator::Done)>;
  void run(const Call& call) { run_and_wait(io_, *communicator_, call); }
  void barrier() {
    run([](Communicator& c, Communicator::Done done) { c.barrier(Clock::now() + 60s, done); });
  }

 private:
  class Anyone final : public DataService {
   public:
    void admit(const Hello&) override {}
    PinnedMemory pin(const Hello&, const RemoteAddress&, std::uint64_t, Access) override {
      throw Error(Errc::permission_denied, "only messages");
    }
  };
  static void wait_until(Clock::time_point limit) {
    if (Clock::now() > limit) throw Error(Errc::timed_out, "another rank did not come");
    std::this_thread::sleep_for(1ms);
  }

  Board& board_;
  const std::size_t rank_;
  Anyone service_;
  IoThread io_{"rank"};
  std::unique_ptr<Transport> transport_;
  std::vector<std::shared_ptr<Channel>> channels_;
  std::unique_ptr<Communicator> communicator_;
};

// Memory that forked processes see, too.
inline Board* make_board() {
  void* const shared =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) throw Error(Errc::exhausted, "no memory to share");
  return new (shared) Board{};
}

// A forked process that writes where it listens to the board's first address, and is killed when
// this goes.
class ServerProcess {
 public:
  explicit ServerProcess(const std::function<void(Board&)>& work) : board_(make_board()) {
    const auto parent = ::getpid();
    std::fflush(nullptr);
    child_ = ::fork();
    if (child_ < 0) throw Error(Errc::exhausted, "cannot start a process");
    if (child_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    try {
      work(*board_);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "server: %s\n", error.what());
    }
    ::_exit(1);
  }
  ~ServerProcess() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    ::munmap(board_, sizeof(Board));
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  [[nodiscard]] pid_t pid() const noexcept { return child_; }
  // Waits until it listens. Errors: timed_out.
  [[nodiscard]] std::string address() const {
    for (const auto limit = Clock::now() + 20s; board_->listening == 0;) {
      if (Clock::now() > limit) throw Error(Errc::timed_out, "the server does not listen");
      std::this_thread::sleep_for(1ms);
    }
    return board_->addresses[0];
  }

 private:
  Board* board_;
  pid_t child_ = -1;
};

class ForkedRanks {
 public:
  using Work = std::function<int(RankProcess&)>;

  ForkedRanks(const GroupOptions& options, const Work& work) : board_(make_board()) {
    const auto parent = ::getpid();
    std::fflush(nullptr);
    for (std::size_t rank = 0; rank < options.count; ++rank) {
      const pid_t child = ::fork();
      if (child < 0) throw Error(Errc::exhausted, "cannot start a process");
      if (child == 0) be_rank(parent, rank, options, work);
      children_.push_back(child);
    }
  }
  ~ForkedRanks() {
    for (std::size_t rank = 0; rank < children_.size(); ++rank) signal(rank, SIGKILL);
    for (const pid_t child : children_)
      if (child > 0) ::waitpid(child, nullptr, 0);
    ::munmap(board_, sizeof(Board));
  }
  ForkedRanks(const ForkedRanks&) = delete;
  ForkedRanks& operator=(const ForkedRanks&) = delete;

  [[nodiscard]] Board& board() noexcept { return *board_; }
  void signal(std::size_t rank, int number) const {
    if (children_[rank] > 0) ::kill(children_[rank], number);
  }
  // The exit status, or the number of the signal that ended it below zero.
  int wait(std::size_t rank) {
    int status = 0;
    ::waitpid(std::exchange(children_[rank], 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  // True if all end well. One that does not ends the others.
  bool wait_all() {
    bool is_good = true;
    for (std::size_t left = children_.size(); left > 0; --left) {
      int status = 0;
      const pid_t child = ::wait(&status);
      std::ranges::replace(children_, child, 0);
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
      is_good = false;
      for (std::size_t rank = 0; rank < children_.size(); ++rank) signal(rank, SIGTERM);
    }
    return is_good;
  }

 private:
  [[noreturn]] void be_rank(pid_t parent, std::size_t rank, const GroupOptions& options,
                            const Work& work) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    int status = 1;
    try {
      if (rank < options.places.size()) enter_namespace(options.places[rank].first);
      RankProcess self(*board_, rank, options);
      ++board_->ready;
      status = work(self);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %zu: %s\n", rank, error.what());
    }
    std::fflush(nullptr);
    ::_exit(status);  // What the parent had to do at its end is not the child's.
  }
  static void enter_namespace(const std::string& name) {
    const UniqueFd fd(::open(("/run/netns/" + name).c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd || ::setns(fd.get(), CLONE_NEWNET) != 0)
      throw system_error("cannot enter network namespace " + name, errno);
    // UCX looks for interfaces in /sys: there must be those of the namespace.
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0 ||
        ::mount("sysfs", "/sys", "sysfs", 0, nullptr) != 0)
      throw system_error("cannot show the interfaces of " + name, errno);
  }

  Board* board_;
  std::vector<pid_t> children_;
};

}  // namespace causeway::bench
