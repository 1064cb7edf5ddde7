// How fast channels copy between two processes over loopback TCP, against ucx_perftest in the same
// minute, or through shared memory:
//   ucx_copy_bench [--json] [--rounds N] [--sizes BYTES,BYTES] [--no-perftest]
//       [--shared-memory] [--settings PART,EAGER,STREAM]
//
// Method: the server is this program started again; it listens, serves one region, takes messages,
//         echoes those of tag 1, and is driven by events as a daemon is. The link is probed first
//         and has the settings that it chose, as every rail has. A round measures write,
//         read, send and `ucx_perftest -t tag_bw` one after the other; the medians of the rounds
//         are printed. Each keeps outstanding() operations in flight, as ucx_perftest keeps a
//         window of its own. Sends count until the server says that it has all of them.
//         ucx_perftest runs with the environment as it is, and UCX_TLS=tcp.
//         Through shared memory the region is a memfd that both processes map, as a pool maps one
//         on its own node: write and read are memcpy; sends go through rings
//         (shm/sharing_transport.h).
// Exit:   0 measured, 1 failed.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <future>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "allocator/unique_fd.h"
#include "tests/transport/spawned_process.h"
#include "transport/blocking.h"
#include "transport/shm/sharing_transport.h"
#include "transport/transfer/probe.h"
#include "transport/ucx/ucx_transport.h"

using namespace causeway;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPerSample = 300ms;
constexpr std::size_t kMostOutstanding = 32;

enum class Operation : std::uint8_t { write, read, send };
enum Tag : std::uint64_t { kEcho = 1, kEchoed, kMessage, kTotal, kAllThere };

// Small ones are many, or their latency would be measured.
std::size_t outstanding(std::size_t size) { return size <= 64 << 10 ? kMostOutstanding : 4; }

using Process = test::SpawnedProcess;

class OneRegion final : public DataService {
 public:
  explicit OneRegion(std::size_t size) : bytes_(size) {}
  void admit(const Hello&) override {}
  PinnedMemory pin(const Hello&, const RemoteAddress& address, std::uint64_t size,
                   Access) override {
    if (address.offset_bytes > bytes_.size() || size > bytes_.size() - address.offset_bytes)
      throw Error(Errc::out_of_bounds, "outside of the region");
    return {std::span(bytes_).subspan(address.offset_bytes, size), nullptr};
  }
  [[nodiscard]] std::span<std::byte> bytes() noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

void ignore(const std::optional<Error>&, std::uint64_t) {}

void echo(const std::shared_ptr<Channel>& channel,
          const std::shared_ptr<std::vector<std::byte>>& buffer) {
  channel->receive(kEcho, *buffer, Clock::now() + 1h,
                   [=](std::optional<Error> error, std::uint64_t n) {
                     if (error) return;
                     channel->send(kEchoed, std::span(*buffer).first(n), Clock::now() + 1h,
                                   [=](const std::optional<Error>& failed, std::uint64_t) {
                                     if (!failed) echo(channel, buffer);
                                   });
                   });
}

// Takes messages, and answers a total once so many bytes have come.
class Inbox : public std::enable_shared_from_this<Inbox> {
 public:
  Inbox(std::shared_ptr<Channel> channel, std::span<std::byte> target)
      : channel_(std::move(channel)), target_(target) {}
  void open() {
    for (std::size_t i = 0; i < kMostOutstanding; ++i) take();
    await_total();
  }

 private:
  void take() {
    channel_->receive(
        kMessage, target_, Clock::now() + 1h,
        [self = shared_from_this()](const std::optional<Error>& error, std::uint64_t bytes) {
          if (error) return;
          self->bytes_ += bytes;
          self->answer();
          self->take();
        });
  }
  void await_total() {
    channel_->receive(
        kTotal, std::as_writable_bytes(std::span(&total_, 1)), Clock::now() + 1h,
        [self = shared_from_this()](const std::optional<Error>& error, std::uint64_t) {
          if (error) return;
          self->answer();
        });
  }
  void answer() {
    if (total_ == 0 || bytes_ != total_) return;
    total_ = bytes_ = 0;
    channel_->send(kAllThere, {}, Clock::now() + 10s, ignore);
    await_total();
  }

  std::shared_ptr<Channel> channel_;
  std::span<std::byte> target_;
  std::uint64_t bytes_ = 0;
  std::uint64_t total_ = 0;
};

// UCX, below what shares memory or alone.
std::unique_ptr<Transport> make_transport(boost::asio::io_context& context, bool shares_memory,
                                          UcxOptions options) {
  if (!shares_memory) return make_ucx_transport(context, std::move(options));
  auto on_accept = std::exchange(options.on_accept, {});
  return make_sharing_transport(context, {.on_accept = std::move(on_accept)},
                                [&](Transport::Accepted accepted) {
                                  options.on_accept = std::move(accepted);
                                  return make_ucx_transport(context, std::move(options));
                                });
}

int serve(std::size_t size, bool shares_memory) {
  OneRegion region(size);
  IoThread thread("bench-server");
  std::vector<std::shared_ptr<Channel>> channels;
  std::unique_ptr<Transport> transport;
  std::promise<void> gone;
  thread.run_on([&] {
    transport =
        make_transport(thread.context(), shares_memory,
                       {"127.0.0.1:0", "server", &region, [&](std::shared_ptr<Channel> channel) {
                          channel->on_close([&](const Error&) { gone.set_value(); });
                          echo(channel, std::make_shared<std::vector<std::byte>>(4096));
                          std::make_shared<Inbox>(channel, region.bytes())->open();
                          channels.push_back(std::move(channel));
                        }});
  });
  std::printf("%s\n", transport->address().c_str());
  std::fflush(stdout);
  gone.get_future().wait();
  thread.run_on([&] {
    channels.clear();
    transport.reset();
  });
  return 0;
}

// One sample: as many operations as fit into kPerSample. Sends go in bursts, since a channel ends
// when its peer has 4096 messages that nobody received.
class Copying {
 public:
  Copying(Channel& channel, Operation operation, std::span<std::byte> bytes)
      : channel_(channel), operation_(operation), bytes_(bytes) {}

  void begin(Completion done) {
    done_ = std::move(done);
    began_ = Clock::now();
    start_all();
  }
  [[nodiscard]] double gigabytes_per_s() const {
    return static_cast<double>(moved_) / std::chrono::duration<double>(took_).count() / 1e9;
  }

 private:
  static constexpr int kBurst = 2048;

  [[nodiscard]] bool is_over() const { return failure_ || Clock::now() - began_ >= kPerSample; }
  void start_all() {
    left_ = operation_ == Operation::send ? kBurst : std::numeric_limits<int>::max();
    burst_bytes_ = 0;
    for (std::size_t i = outstanding(bytes_.size()); i > 0; --i) start();
  }
  void start() {
    ++running_;
    --left_;
    auto finished = [this](std::optional<Error> error, std::uint64_t) {
      if (error) failure_ = std::move(error);
      if (!failure_) burst_bytes_ += bytes_.size();
      if (--running_; left_ > 0 && !is_over()) return start();
      if (running_ == 0) end_all();
    };
    const auto deadline = Clock::now() + 30s;
    switch (operation_) {
      case Operation::write:
        return channel_.write({1, 1, 0}, bytes_, deadline, std::move(finished));
      case Operation::read:
        return channel_.read(bytes_, {1, 1, 0}, deadline, std::move(finished));
      case Operation::send:
        return channel_.send(kMessage, bytes_, deadline, std::move(finished));
    }
  }
  void end_all() {
    if (failure_ || operation_ != Operation::send) return end(std::move(failure_));
    channel_.receive(kAllThere, {}, Clock::now() + 30s,
                     [this](std::optional<Error> error, std::uint64_t) { end(std::move(error)); });
    channel_.send(kTotal, std::as_bytes(std::span(&burst_bytes_, 1)), Clock::now() + 30s, ignore);
  }
  void end(std::optional<Error> error) {
    moved_ += burst_bytes_;
    if (!error && !is_over()) return start_all();
    took_ = Clock::now() - began_;
    done_(std::move(error), 0);
  }

  Channel& channel_;
  Operation operation_;
  std::span<std::byte> bytes_;
  Completion done_;
  std::size_t running_ = 0;
  int left_ = 0;
  std::uint64_t burst_bytes_ = 0;
  std::uint64_t moved_ = 0;
  Clock::time_point began_;
  Clock::duration took_{};
  std::optional<Error> failure_;
};

struct Client {
  IoThread thread{"bench-client"};
  std::unique_ptr<Transport> transport;
  std::shared_ptr<Channel> channel;

  Client(const std::string& address, bool shares_memory) {
    thread.run_on([&] {
      transport = make_transport(thread.context(), shares_memory, {"", "client", nullptr, {}});
    });
    thread.wait_for([&](const Completion& done) {
      transport->connect(address, Hello{Hello::Role::client, "bench", 1, ""}, Clock::now() + 10s,
                         [this, done](std::optional<Error> error, std::shared_ptr<Channel> made) {
                           channel = std::move(made);
                           done(std::move(error), 0);
                         });
    });
    if (shares_memory) return;
    const auto probe = std::make_shared<Probe>();
    thread.wait_for([&](const Completion& done) { run_slices(probe, done); });
    std::fprintf(stderr, "the link's settings: %s\n", probe->report().reason.c_str());
  }
  ~Client() {
    thread.run_on([&] {
      channel.reset();
      transport.reset();
    });
  }

  // As rails are probed before they have work; the channel has what was chosen then.
  void run_slices(const std::shared_ptr<Probe>& probe, const Completion& done) {
    if (probe->is_done()) return done(std::nullopt, 0);
    probe->run_slice(channel, [this, probe, done] { run_slices(probe, done); });
  }

  // GB/s with outstanding() operations in flight, for kPerSample.
  double copy(Operation operation, std::vector<std::byte>& buffer, std::size_t size) {
    Copying copying{*channel, operation, std::span(buffer.data(), size)};
    thread.wait_for([&](const Completion& done) { copying.begin(done); });
    return copying.gigabytes_per_s();
  }

  // Half a round trip of 8 bytes, in microseconds.
  double ping_pong() {
    constexpr int kTrips = 4000;
    std::vector<std::byte> out(8), in(8);
    int trips = 0;
    const auto began = Clock::now();
    thread.wait_for([&](const Completion& done) {
      auto next = std::make_shared<std::function<void()>>();
      *next = [&, done, self = std::weak_ptr(next)] {
        channel->receive(kEchoed, in, Clock::now() + 10s,
                         [&, done, keep = self.lock()](std::optional<Error> error, std::uint64_t) {
                           if (error || ++trips == kTrips) return done(std::move(error), 0);
                           (*keep)();
                         });
        channel->send(kEcho, out, Clock::now() + 10s, ignore);
      };
      (*next)();
    });
    return std::chrono::duration<double, std::micro>(Clock::now() - began).count() / kTrips / 2;
  }
};

// GB/s of ucx_perftest with the user's environment, but over TCP: between two processes of one host
// it would take shared memory.
double perftest(std::size_t size) {
  static int port = 20000 + getpid() % 20000;
  const auto count = std::to_string(std::max<std::size_t>(20, (std::size_t{1} << 30) / size));
  const auto bytes = std::to_string(size);
  const auto port_text = std::to_string(++port);
  ::setenv("UCX_TLS", "tcp", 0);
  auto server = Process::start({"ucx_perftest", "-p", port_text});
  std::vector<std::string> command{"ucx_perftest", "127.0.0.1", "-t",  "tag_bw", "-s",
                                   bytes,          "-n",        count, "-w",     "20",
                                   "-f",           "-v",        "-p",  port_text};
  for (const auto limit = Clock::now() + 15s; Clock::now() < limit;) {  // Until the server listens.
    auto client = Process::start(command);
    const auto text = client.read_all();
    // CSV: iterations,50%,avg,overall latency,avg,overall bandwidth (MiB/s),...
    const auto line = text.substr(text.find_last_of('\n', text.size() - 2) + 1);
    std::vector<double> fields;
    for (std::size_t at = 0; at < line.size();) {
      const auto comma = std::min(line.find(',', at), line.size());
      fields.push_back(std::strtod(line.substr(at, comma - at).c_str(), nullptr));
      at = comma + 1;
    }
    if (fields.size() >= 6 && fields[5] > 0) return fields[5] * 1048576 / 1e9;
    std::this_thread::sleep_for(20ms);
  }
  throw Error(Errc::unsupported, "ucx_perftest gave no figure; is ucx-utils installed?");
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values.empty() ? 0 : values[values.size() / 2];
}

struct Options {
  bool json = false;
  bool perftest = true;
  bool shared_memory = false;
  std::optional<LinkSettings> settings;  // Instead of what the probe finds.
  int rounds = 5;
  std::vector<std::size_t> sizes{std::size_t{1} << 20, std::size_t{4} << 20, std::size_t{64} << 20};
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "--json") {
      options.json = true;
    } else if (word == "--no-perftest") {
      options.perftest = false;
    } else if (word == "--shared-memory") {
      options.shared_memory = true;
    } else if (word == "--settings" && !value.empty()) {
      auto& settings = options.settings.emplace();
      int by_stream = 0;
      if (std::sscanf(argv[++i], "%lu,%lu,%d", &settings.part_bytes, &settings.eager_bytes,
                      &by_stream) != 3)
        throw Error(Errc::invalid_argument, "--settings takes three numbers: 1048576,16384,1");
      settings.by_stream = by_stream != 0;
    } else if (word == "--rounds" && !value.empty()) {
      options.rounds = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--sizes" && !value.empty()) {
      options.sizes.clear();
      for (const char* at = argv[++i]; *at != '\0';) {
        char* end = nullptr;
        options.sizes.push_back(std::strtoull(at, &end, 10));
        if (end == at || options.sizes.back() == 0)
          throw Error(Errc::invalid_argument, "--sizes takes numbers: --sizes 1048576,4194304");
        at = *end == ',' ? end + 1 : end;
      }
    } else {
      throw Error(Errc::invalid_argument,
                  "usage: ucx_copy_bench [--json] [--rounds N] [--sizes BYTES,BYTES] "
                  "[--no-perftest] [--shared-memory] [--settings PART,EAGER,STREAM]");
    }
  }
  return options;
}

struct Figures {
  std::vector<double> write, read, send, tag;
};

// One line of the table, or one object of the JSON.
void print(const Options& options, std::size_t size, const Figures& figures, bool is_first) {
  const auto write = median(figures.write), read = median(figures.read),
             send = median(figures.send), tag = median(figures.tag);
  const auto ratios = [&](const std::vector<double>& values) {
    std::vector<double> list;
    for (std::size_t i = 0; i < figures.tag.size(); ++i) list.push_back(values[i] / figures.tag[i]);
    return median(list);
  };
  const auto write_ratio = ratios(figures.write), read_ratio = ratios(figures.read);
  if (!options.json) {
    if (is_first)
      std::printf("%10s %12s %12s %12s %12s %12s %12s\n", "bytes", "write GB/s", "read GB/s",
                  "send GB/s", "tag_bw GB/s", "write ratio", "read ratio");
    std::printf("%10zu %12.2f %12.2f %12.2f %12.2f %12.2f %12.2f\n", size, write, read, send, tag,
                write_ratio, read_ratio);
    return;
  }
  std::printf(
      R"(%s{"bytes":%zu,"write_gb_s":%.3f,"read_gb_s":%.3f,"send_gb_s":%.3f,"tag_bw_gb_s":%.3f,"write_ratio":%.3f,"read_ratio":%.3f})",
      is_first ? R"({"copies":[)" : ",", size, write, read, send, tag, write_ratio, read_ratio);
}

void print_half_trip(const Options& options, double half_trip_us) {
  std::printf(options.json ? R"(],"half_round_trip_8_bytes_us":%.2f})"
                             "\n"
                           : "half a round trip of 8 bytes: %.2f us\n",
              half_trip_us);
}

int measure(const Options& options, const char* self) {
  const auto largest = *std::ranges::max_element(options.sizes);
  auto server = Process::start({self, "--serve", std::to_string(largest)});
  Client client(server.read_line(), false);
  if (options.settings)
    client.thread.run_on([&] { client.channel->set_settings(*options.settings); });
  std::vector<std::byte> buffer(largest, std::byte{1});
  for (const auto size : options.sizes) {
    Figures figures;
    for (int round = 0; round < options.rounds; ++round) {
      figures.write.push_back(client.copy(Operation::write, buffer, size));
      figures.read.push_back(client.copy(Operation::read, buffer, size));
      figures.send.push_back(client.copy(Operation::send, buffer, size));
      if (options.perftest) figures.tag.push_back(perftest(size));
    }
    print(options, size, figures, size == options.sizes.front());
  }
  print_half_trip(options, client.ping_pong());
  return 0;
}

std::byte* map(int fd, std::size_t size) {
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (at == MAP_FAILED) throw Error(Errc::exhausted, "no memory to share");
  return static_cast<std::byte*>(at);
}

// The other process: maps the region, says so, and stays until its parent ends it.
int share(const std::string& path, std::size_t size) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) throw system_error("cannot open " + path, errno);
  std::memset(map(fd.get(), size), 2, size);
  std::printf("mapped\n");
  std::fflush(stdout);
  std::this_thread::sleep_for(1h);
  return 0;
}

double copy_mapped(std::byte* to, const std::byte* from, std::size_t size) {
  std::uint64_t moved = 0;
  const auto began = Clock::now();
  do {
    std::memcpy(to, from, size);
    asm volatile("" : : "r"(to) : "memory");  // Else repeated copies of the same bytes are dropped.
    moved += size;
  } while (Clock::now() - began < kPerSample);
  return static_cast<double>(moved) / std::chrono::duration<double>(Clock::now() - began).count() /
         1e9;
}

int measure_shared(const Options& options, const char* self) {
  const auto largest = *std::ranges::max_element(options.sizes);
  const UniqueFd fd(::memfd_create("ucx_copy_bench", MFD_CLOEXEC));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(largest)) != 0)
    throw system_error("no memory to share", errno);
  auto* const region = map(fd.get(), largest);
  auto other = Process::start(
      {self, "--share", "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd.get()),
       std::to_string(largest)});
  if (other.read_line() != "mapped") throw Error(Errc::io, "the other process maps nothing");
  auto server = Process::start({self, "--serve", std::to_string(largest), "shared"});
  Client client(server.read_line(), true);
  if (!shares_memory(*client.channel)) throw Error(Errc::unsupported, "no memory is shared");
  std::vector<std::byte> buffer(largest, std::byte{1});
  for (const auto size : options.sizes) {
    Figures figures;
    for (int round = 0; round < options.rounds; ++round) {
      figures.write.push_back(copy_mapped(region, buffer.data(), size));
      figures.read.push_back(copy_mapped(buffer.data(), region, size));
      figures.send.push_back(client.copy(Operation::send, buffer, size));
    }
    print(options, size, figures, size == options.sizes.front());
  }
  print_half_trip(options, client.ping_pong());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if ((argc == 3 || argc == 4) && std::string(argv[1]) == "--serve")
      return serve(std::strtoull(argv[2], nullptr, 10), argc == 4);
    if (argc == 4 && std::string(argv[1]) == "--share")
      return share(argv[2], std::strtoull(argv[3], nullptr, 10));
    const auto options = parse(argc, argv);
    return options.shared_memory ? measure_shared(options, argv[0]) : measure(options, argv[0]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ucx_copy_bench: %s\n", error.what());
    return 1;
  }
}
