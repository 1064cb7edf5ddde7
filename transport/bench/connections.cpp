#include <dirent.h>
#include <sys/resource.h>

#include <sstream>

#include "transport/bench/bench.h"
#include "transport/bench/forked_ranks.h"

namespace causeway::bench {

namespace {

constexpr std::uint64_t kQuestion = 1;
constexpr std::uint64_t kAnswer = 2;
constexpr std::size_t kLines = 10;

std::uint64_t raise_descriptor_limit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

// What a process holds. Opens what it reads at the start: later there may be no descriptor left.
class Meter {
 public:
  explicit Meter(pid_t pid) {
    const auto folder = "/proc/" + std::to_string(pid);
    memory_.reset(::open((folder + "/statm").c_str(), O_RDONLY | O_CLOEXEC));
    files_.reset(::opendir((folder + "/fd").c_str()));
    if (!memory_ || !files_) throw system_error("cannot look into " + folder, errno);
  }
  [[nodiscard]] std::uint64_t resident_bytes() const {
    char text[256]{};
    if (::pread(memory_.get(), text, sizeof(text) - 1, 0) <= 0) return 0;
    std::uint64_t all = 0, resident = 0;
    std::istringstream(text) >> all >> resident;
    return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  [[nodiscard]] std::uint64_t descriptors() const {
    std::uint64_t count = 0;
    ::rewinddir(files_.get());
    while (const auto* const entry = ::readdir(files_.get()))
      if (entry->d_name[0] != '.') ++count;
    return count;
  }

 private:
  struct Closer {
    void operator()(DIR* folder) const noexcept { ::closedir(folder); }
  };
  UniqueFd memory_;
  std::unique_ptr<DIR, Closer> files_;
};

class Anyone final : public DataService {
 public:
  void admit(const Hello&) override {}
  PinnedMemory pin(const Hello&, const RemoteAddress&, std::uint64_t, Access) override {
    throw Error(Errc::permission_denied, "only messages");
  }
};

void answer(const std::shared_ptr<Channel>& channel) {
  channel->receive(
      kQuestion, {}, Clock::now() + 24h,
      [weak = std::weak_ptr(channel)](const std::optional<Error>& error, std::uint64_t) {
        const auto held = weak.lock();
        if (error || !held) return;
        held->send(kAnswer, {}, Clock::now() + 10s,
                   [](const std::optional<Error>&, std::uint64_t) {});
        answer(held);
      });
}

// Holds every channel until the process is killed.
class Server {
 public:
  explicit Server(Board& board) {
    io_.run_on([&] {
      transport_ = make_ucx_transport(io_.context(), {"127.0.0.1:0", "server", &service_,
                                                      [this](std::shared_ptr<Channel> channel) {
                                                        answer(channel);
                                                        channels_.push_back(std::move(channel));
                                                      }});
    });
    std::strncpy(board.addresses[0], transport_->address().c_str(), 63);
    ++board.listening;
    for (;;) ::pause();
  }

 private:
  Anyone service_;
  IoThread io_{"server"};
  std::unique_ptr<Transport> transport_;
  std::vector<std::shared_ptr<Channel>> channels_;
};

class Client {
 public:
  explicit Client(std::string address) : address_(std::move(address)) {
    io_.run_on([this] {
      transport_ = make_ucx_transport(io_.context(), {"", "client", nullptr, {}});
    });
  }
  ~Client() {
    io_.run_on([this] {
      channels_.clear();
      transport_.reset();
    });
  }

  // Opens channels until there are `count`; why not, if one is refused.
  std::optional<Error> open(std::size_t count, std::size_t concurrency) {
    wanted_ = count;
    samples_.clear();
    refusal_.reset();
    const auto began = Clock::now();
    io_.wait_for([&](Completion done) {
      done_ = std::move(done);
      for (std::size_t i = 0; i < concurrency; ++i) open_next();
      if (opening_ == 0) finish();
    });
    took_s_ = seconds_since(began);
    std::ranges::sort(samples_);
    return refusal_;
  }
  // Asks over every channel at once. Errors: that of the first that does not answer.
  double ask_all() {
    const auto began = Clock::now();
    io_.wait_for([this](Completion done) {
      done_ = std::move(done);
      waiting_ = channels_.size();
      refusal_.reset();
      if (waiting_ == 0) return finish();
      for (const auto& channel : channels_) {
        channel->receive(kAnswer, {}, Clock::now() + 30s,
                         [this](std::optional<Error> error, std::uint64_t) {
                           if (error) refusal_ = std::move(error);
                           if (--waiting_ == 0) finish();
                         });
        channel->send(kQuestion, {}, Clock::now() + 30s,
                      [](const std::optional<Error>&, std::uint64_t) {});
      }
    });
    if (refusal_) throw Error(*refusal_);
    return seconds_since(began);
  }
  [[nodiscard]] std::size_t held() const noexcept { return channels_.size(); }
  [[nodiscard]] double open_s(double share) const {
    if (samples_.empty()) return 0;
    return samples_[static_cast<std::size_t>(share * static_cast<double>(samples_.size() - 1))];
  }
  [[nodiscard]] double open_per_s() const {
    return took_s_ > 0 ? static_cast<double>(samples_.size()) / took_s_ : 0;
  }

 private:
  static double seconds_since(Clock::time_point began) {
    return std::chrono::duration<double>(Clock::now() - began).count();
  }
  void finish() {
    if (done_) std::exchange(done_, nullptr)(std::nullopt, 0);
  }
  void open_next() {
    if (refusal_ || channels_.size() + opening_ >= wanted_) return;
    ++opening_;
    transport_->connect(
        address_, {Hello::Role::client, "bench", 1, ""}, Clock::now() + 20s,
        [this, began = Clock::now()](std::optional<Error> error, std::shared_ptr<Channel> channel) {
          --opening_;
          if (error) {
            refusal_ = std::move(error);
          } else {
            samples_.push_back(seconds_since(began));
            channels_.push_back(std::move(channel));
            open_next();
          }
          if (opening_ == 0) finish();
        });
  }

  std::string address_;
  IoThread io_{"client"};
  std::unique_ptr<Transport> transport_;
  std::vector<std::shared_ptr<Channel>> channels_;
  std::vector<double> samples_;
  std::size_t wanted_ = 0, opening_ = 0, waiting_ = 0;
  std::optional<Error> refusal_;
  Completion done_;
  double took_s_ = 0;
};

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return result + '"';
}

// What each process has before the first connection.
struct Usage {
  std::uint64_t server_bytes, client_bytes, server_descriptors;
  static Usage now(const Meter& server, const Meter& client) {
    return {server.resident_bytes(), client.resident_bytes(), server.descriptors()};
  }
};

void print(const Client& client, double answer_s, const Usage& before, const Usage& now,
           std::uint64_t limit) {
  const auto more = [](std::uint64_t after, std::uint64_t first) {
    return after > first ? after - first : 0;
  };
  std::printf(
      R"({"held":%zu,"open_p50_s":%.9f,"open_p99_s":%.9f,"open_per_s":%.1f,"answer_s":%.9f,"server_bytes":%ju,"client_bytes":%ju,"server_descriptors":%ju,"descriptor_limit":%ju})"
      "\n",
      client.held(), client.open_s(0.5), client.open_s(0.99), client.open_per_s(), answer_s,
      static_cast<std::uintmax_t>(more(now.server_bytes, before.server_bytes)),
      static_cast<std::uintmax_t>(more(now.client_bytes, before.client_bytes)),
      static_cast<std::uintmax_t>(more(now.server_descriptors, before.server_descriptors)),
      static_cast<std::uintmax_t>(limit));
  std::fflush(stdout);
}

}  // namespace

bool measure_connections(const ConnectionsBench& options) {
  const auto limit = raise_descriptor_limit();
  ServerProcess process([](Board& board) { const Server server(board); });
  Client client(process.address());
  const Meter there(process.pid()), here(::getpid());
  const auto before = Usage::now(there, here);
  for (std::size_t line = 1; line <= kLines; ++line) {
    const auto target = options.count * line / kLines;
    if (target == client.held()) continue;
    const auto refused = client.open(target, options.concurrency);
    print(client, client.ask_all(), before, Usage::now(there, here), limit);
    if (!refused) continue;
    std::printf("{\"refused\":%s}\n", quoted(refused->what()).c_str());
    break;
  }
  return true;
}

}  // namespace causeway::bench
