// How fast the processes of one host all-reduce floats over loopback:
//   collective_bench [--ranks N] [--sizes BYTES,BYTES] [--rounds N] [--in-rank-order]
//                    [--no-shared-memory] [--slot-bytes N] [--islands N] [--flat]
//                    [--at NAMESPACE/ADDRESS,...]
//
// Method: the ranks are this program, forked before it has a thread; each pair has a channel over
//         UCX; batches of operations (peers/batches.h). `peers/all_reduce.sh` sets gloo and Open
//         MPI beside it. One line per size: bytes, ranks, median seconds per operation, and the
//         bytes per second that this is (size by time), as gloo and nccl-tests say it ("algbw").
// Exit:   0 measured, 1 failed.
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
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "allocator/unique_fd.h"
#include "tests/transport/peers/batches.h"
#include "transport/collective/blocking.h"
#include "transport/collective/make_communicator.h"
#include "transport/ucx/ucx_transport.h"

using namespace causeway;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kMaxRanks = 64;

struct Options {
  std::size_t ranks = 2;
  std::vector<std::size_t> sizes{64 << 10, 1 << 20, 4 << 20, 64 << 20};
  int rounds = 5;
  Reduction how{};
  std::size_t islands = 1;
  std::vector<std::pair<std::string, std::string>> places{};  // By rank: namespace, address.
  CommunicatorOptions made{};
};

// What the processes have in common.
struct Board {
  std::atomic<std::uint32_t> listening;
  char addresses[kMaxRanks][64];
};

class Anyone final : public DataService {
 public:
  void admit(const Hello&) override {}
  PinnedMemory pin(const Hello&, const RemoteAddress&, std::uint64_t, Access) override {
    throw Error(Errc::permission_denied, "only messages");
  }
};

class Rank {
 public:
  Rank(Board& board, std::size_t rank, const Options& options) {
    const auto ranks = options.ranks;
    const auto address = rank < options.places.size() ? options.places[rank].second : "127.0.0.1";
    std::vector<std::shared_ptr<Channel>> channels(ranks);
    std::atomic<std::size_t> connected{0};
    io_.run_on([&] {
      transport_ = make_ucx_transport(
          io_.context(), {address + ":0", "rank", &service_, [&](std::shared_ptr<Channel> channel) {
                            const auto from = channel->peer().session;
                            channels[from] = std::move(channel);
                            ++connected;
                          }});
    });
    std::strncpy(board.addresses[rank], transport_->address().c_str(), 63);
    ++board.listening;
    const auto limit = Clock::now() + 20s;
    while (board.listening < ranks) wait_until(limit);
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
    while (connected < ranks - 1) wait_until(limit);
    auto made = options.made;
    made.island = rank * options.islands / ranks;
    io_.wait_for([&](Completion done) {
      make_communicator(
          io_.context(), static_cast<int>(rank), std::move(channels), made, Clock::now() + 20s,
          [this, done](std::optional<Error> error, std::unique_ptr<Communicator> ready) {
            communicator_ = std::move(ready);
            done(std::move(error), 0);
          });
    });
  }
  ~Rank() {
    io_.run_on([&] {
      communicator_.reset();
      transport_.reset();
    });
  }

  using Call = std::function<void(Communicator&, Communicator::Done)>;
  void run(const Call& call) { run_and_wait(io_, *communicator_, call); }
  void barrier() {
    run([](Communicator& c, Communicator::Done done) { c.barrier(Clock::now() + 60s, done); });
  }
  void batch(std::span<std::byte> values, const Reduction& how, int times) {
    barrier();
    for (int i = 0; i < times; ++i)
      run([&](Communicator& c, Communicator::Done done) {
        c.all_reduce(values, how, Clock::now() + 60s, done);
      });
  }

  static void wait_until(Clock::time_point limit) {
    if (Clock::now() > limit) throw Error(Errc::timed_out, "another rank did not come");
    std::this_thread::sleep_for(1ms);
  }

  // The same number for all ranks: rank 0's.
  int agree(int number) {
    run([&](Communicator& c, Communicator::Done done) {
      c.broadcast(std::as_writable_bytes(std::span(&number, 1)), 0, Clock::now() + 60s, done);
    });
    return number;
  }

 private:
  Anyone service_;
  IoThread io_{"rank"};
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Communicator> communicator_;
};

void enter_namespace(const std::string& name) {
  const UniqueFd fd(::open(("/run/netns/" + name).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || ::setns(fd.get(), CLONE_NEWNET) != 0)
    throw system_error("cannot enter network namespace " + name, errno);
  // UCX looks for interfaces in /sys: there must be those of the namespace.
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0 ||
      ::mount("sysfs", "/sys", "sysfs", 0, nullptr) != 0)
    throw system_error("cannot show the interfaces of " + name, errno);
}

int work(Board& board, std::size_t rank, const Options& options) {
  if (rank < options.places.size()) enter_namespace(options.places[rank].first);
  Rank self(board, rank, options);
  for (const auto size : options.sizes) {
    std::vector<float> values(size / sizeof(float), 1.0F);
    const auto bytes = std::as_writable_bytes(std::span(values));
    const double seconds = bench::median_seconds(
        options.rounds, [&](int times) { self.batch(bytes, options.how, times); },
        [&](int times) { return self.agree(times); }, [&] { std::ranges::fill(values, 1.0F); });
    if (rank == 0) bench::print("causeway", size, static_cast<int>(options.ranks), seconds);
  }
  self.barrier();
  return 0;
}

std::size_t number(std::string_view text) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value == 0)
    throw Error(Errc::invalid_argument, "'" + std::string(text) + "' is no number above 0");
  return value;
}

Options parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--in-rank-order") {
      options.how.in_rank_order = true;
      continue;
    }
    if (word == "--flat") {
      options.made.has_islands = false;
      continue;
    }
    if (word == "--no-shared-memory") {
      options.made.shares_memory = false;
      continue;
    }
    if (i + 1 == count) throw Error(Errc::invalid_argument, "what is '" + std::string(word) + "'?");
    std::string_view value = words[++i];
    if (word == "--ranks") {
      options.ranks = std::min(number(value), kMaxRanks);
    } else if (word == "--rounds") {
      options.rounds = static_cast<int>(number(value));
    } else if (word == "--at") {
      while (!value.empty()) {
        const auto comma = std::min(value.find(','), value.size());
        const auto at = value.substr(0, comma);
        const auto slash = std::min(at.find('/'), at.size());
        options.places.emplace_back(at.substr(0, slash), at.substr(std::min(slash + 1, at.size())));
        value.remove_prefix(std::min(comma + 1, value.size()));
      }
    } else if (word == "--islands") {
      options.islands = number(value);
    } else if (word == "--slot-bytes") {
      options.made.slot_bytes = number(value);
    } else if (word == "--sizes") {
      options.sizes.clear();
      while (!value.empty()) {
        const auto comma = std::min(value.find(','), value.size());
        options.sizes.push_back(number(value.substr(0, comma)));
        value.remove_prefix(std::min(comma + 1, value.size()));
      }
    } else {
      throw Error(Errc::invalid_argument, "what is '" + std::string(word) + "'?");
    }
  }
  return options;
}

int run(const Options& options) {
  void* const shared =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) throw Error(Errc::exhausted, "no memory to share");
  auto& board = *new (shared) Board{};
  const auto parent = ::getpid();
  std::vector<pid_t> children;
  for (std::size_t rank = 0; rank < options.ranks; ++rank) {
    const pid_t child = ::fork();
    if (child < 0) throw Error(Errc::exhausted, "cannot start a process");
    if (child > 0) {
      children.push_back(child);
      continue;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    try {
      std::exit(work(board, rank, options));
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %zu: %s\n", rank, error.what());
      std::exit(1);
    }
  }
  bool is_good = true;
  for (std::size_t left = children.size(); left > 0; --left) {
    int status = 0;
    const pid_t child = ::wait(&status);
    std::erase(children, child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    is_good = false;
    for (const pid_t other : children) ::kill(other, SIGTERM);  // They may wait for it.
  }
  return is_good ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run(parse(count, words));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "collective_bench: %s\n", error.what());
    return 1;
  }
}
