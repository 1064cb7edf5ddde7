// How fast channels copy between two processes over loopback TCP, against ucx_perftest in the same
// minute: ucx_copy_bench [--json] [--rounds N] [--sizes BYTES,BYTES] [--no-perftest]
//
// Method: the server is this program started again; it listens, serves one region, echoes messages
//         of tag 1, and is driven by events as a daemon is. A round measures write, read and
//         `ucx_perftest -t tag_bw` one after the other; the medians of the rounds are printed. Each
//         keeps kOutstanding operations in flight, as ucx_perftest keeps a window of its own.
//         ucx_perftest runs with the environment as it is, and UCX_TLS=tcp.
// Exit:   0 measured, 1 failed.
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <future>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/transport/spawned_process.h"
#include "transport/blocking.h"
#include "transport/ucx/ucx_transport.h"

using namespace causeway;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kOutstanding = 4;
constexpr auto kPerSample = 300ms;

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

 private:
  std::vector<std::byte> bytes_;
};

void echo(const std::shared_ptr<Channel>& channel,
          const std::shared_ptr<std::vector<std::byte>>& buffer) {
  channel->receive(1, *buffer, Clock::now() + 1h, [=](std::optional<Error> error, std::uint64_t n) {
    if (error) return;
    channel->send(2, std::span(*buffer).first(n), Clock::now() + 1h,
                  [=](const std::optional<Error>& failed, std::uint64_t) {
                    if (!failed) echo(channel, buffer);
                  });
  });
}

int serve(std::size_t size) {
  OneRegion region(size);
  IoThread thread("bench-server");
  std::vector<std::shared_ptr<Channel>> channels;
  std::unique_ptr<Transport> transport;
  std::promise<void> gone;
  thread.run_on([&] {
    transport = make_ucx_transport(
        thread.context(), {"127.0.0.1:0", "server", &region, [&](std::shared_ptr<Channel> channel) {
                             channel->on_close([&](const Error&) { gone.set_value(); });
                             echo(channel, std::make_shared<std::vector<std::byte>>(4096));
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

struct Client {
  IoThread thread{"bench-client"};
  std::unique_ptr<Transport> transport;
  std::shared_ptr<Channel> channel;

  explicit Client(const std::string& address) {
    thread.run_on([&] {
      transport = make_ucx_transport(thread.context(), {"", "client", nullptr, {}});
    });
    thread.wait_for([&](const Completion& done) {
      transport->connect(address, Hello{Hello::Role::client, "bench", 1, ""}, Clock::now() + 10s,
                         [this, done](std::optional<Error> error, std::shared_ptr<Channel> made) {
                           channel = std::move(made);
                           done(std::move(error), 0);
                         });
    });
  }
  ~Client() {
    thread.run_on([&] {
      channel.reset();
      transport.reset();
    });
  }

  // GB/s with kOutstanding operations in flight, for kPerSample.
  double copy(bool is_write, std::vector<std::byte>& buffer, std::size_t size) {
    struct State {
      std::size_t running = 0;
      std::uint64_t moved = 0;
      Clock::time_point began = Clock::now();
    };
    State state;
    double rate = 0;
    thread.wait_for([&](const Completion& done) {
      auto next = std::make_shared<std::function<void()>>();
      *next = [&, done, size, is_write, self = std::weak_ptr(next)] {
        ++state.running;
        auto finished = [&, done, size, keep = self.lock()](std::optional<Error> error,
                                                            std::uint64_t) {
          --state.running;
          if (error) return done(std::move(error), 0);
          state.moved += size;
          const auto elapsed = Clock::now() - state.began;
          if (elapsed < kPerSample) return (*keep)();
          if (state.running > 0) return;
          rate = static_cast<double>(state.moved) / std::chrono::duration<double>(elapsed).count();
          done(std::nullopt, 0);
        };
        const std::span bytes(buffer.data(), size);
        if (is_write)
          channel->write({1, 1, 0}, bytes, Clock::now() + 30s, std::move(finished));
        else
          channel->read(bytes, {1, 1, 0}, Clock::now() + 30s, std::move(finished));
      };
      state.began = Clock::now();
      for (std::size_t i = 0; i < kOutstanding; ++i) (*next)();
    });
    return rate / 1e9;
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
        channel->receive(2, in, Clock::now() + 10s,
                         [&, done, keep = self.lock()](std::optional<Error> error, std::uint64_t) {
                           if (error || ++trips == kTrips) return done(std::move(error), 0);
                           (*keep)();
                         });
        channel->send(1, out, Clock::now() + 10s,
                      [](const std::optional<Error>&, std::uint64_t) {});
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
      throw Error(
          Errc::invalid_argument,
          "usage: ucx_copy_bench [--json] [--rounds N] [--sizes BYTES,BYTES] [--no-perftest]");
    }
  }
  return options;
}

int measure(const Options& options, const char* self) {
  const auto largest = *std::ranges::max_element(options.sizes);
  auto server = Process::start({self, "--serve", std::to_string(largest)});
  Client client(server.read_line());
  std::vector<std::byte> buffer(largest, std::byte{1});
  if (!options.json)
    std::printf("%10s %12s %12s %12s %12s %12s\n", "bytes", "write GB/s", "read GB/s",
                "tag_bw GB/s", "write ratio", "read ratio");
  std::string json;
  for (const auto size : options.sizes) {
    std::vector<double> writes, reads, tags, write_ratios, read_ratios;
    for (int round = 0; round < options.rounds; ++round) {
      writes.push_back(client.copy(true, buffer, size));
      reads.push_back(client.copy(false, buffer, size));
      if (!options.perftest) continue;
      tags.push_back(perftest(size));
      write_ratios.push_back(writes.back() / tags.back());
      read_ratios.push_back(reads.back() / tags.back());
    }
    const double figures[] = {median(writes), median(reads), median(tags), median(write_ratios),
                              median(read_ratios)};
    if (!options.json)
      std::printf("%10zu %12.2f %12.2f %12.2f %12.2f %12.2f\n", size, figures[0], figures[1],
                  figures[2], figures[3], figures[4]);
    char line[256];
    std::snprintf(
        line, sizeof(line),
        R"(%s{"bytes":%zu,"write_gb_s":%.3f,"read_gb_s":%.3f,"tag_bw_gb_s":%.3f,"write_ratio":%.3f,"read_ratio":%.3f})",
        json.empty() ? "" : ",", size, figures[0], figures[1], figures[2], figures[3], figures[4]);
    json += line;
  }
  const auto half_trip_us = client.ping_pong();
  if (options.json)
    std::printf(R"({"copies":[%s],"half_round_trip_8_bytes_us":%.1f})"
                "\n",
                json.c_str(), half_trip_us);
  else
    std::printf("half a round trip of 8 bytes: %.1f us\n", half_trip_us);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 3 && std::string(argv[1]) == "--serve")
      return serve(std::strtoull(argv[2], nullptr, 10));
    return measure(parse(argc, argv), argv[0]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ucx_copy_bench: %s\n", error.what());
    return 1;
  }
}
