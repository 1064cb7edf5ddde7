// How fast a transfer goes over the rails to a ucx_peer: rails_bench ADDRESS,ADDRESS [--read]
// [--verify] [--seconds N]
//
// Method: transfers of 256 MiB one after the other for N seconds (3), after one that is not
// counted,
//         in which the rails learn their rates. rails_bench.sh runs it between network namespaces.
// Exit:   0 measured, 1 failed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "transport/addresses.h"
#include "transport/blocking.h"
#include "transport/transfer/rails.h"
#include "transport/ucx/ucx_transport.h"

using namespace causeway;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t kRegionBytes = 64 << 20;
constexpr std::size_t kTimes = 4;

struct Bench {
  IoThread thread{"rails-bench"};
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Rails> rails;
  std::vector<std::byte> bytes = std::vector<std::byte>(kRegionBytes, std::byte{1});

  explicit Bench(const std::string& addresses) {
    thread.run_on([&] {
      transport = make_ucx_transport(thread.context(), {"", "bench", nullptr, {}});
      rails = std::make_unique<Rails>(
          thread.context(), "peer",
          [this](const std::string& address, Deadline deadline, Transport::Connected connected) {
            transport->connect(address, {Hello::Role::client, "bench", 7, ""}, deadline,
                               std::move(connected));
          });
      rails->set_addresses(split_addresses(addresses));
    });
  }
  ~Bench() {
    thread.run_on([&] {
      rails.reset();
      transport.reset();
    });
  }

  // The rails find their settings while nothing moves.
  void await_probes() {
    const auto limit = Clock::now() + std::chrono::seconds(5);
    for (bool is_done = false; !is_done && Clock::now() < limit;
         std::this_thread::sleep_for(std::chrono::milliseconds(5)))
      thread.run_on([&] {
        is_done = std::ranges::all_of(rails->status(),
                                      [](const auto& rail) { return rail.probe.has_value(); });
      });
  }

  std::uint64_t copy(bool is_read, bool verify) {
    std::optional<Transfer> transfer;
    const auto moved = thread.wait_for([&](const Completion& done) {
      const std::vector<TransferPiece> pieces(kTimes, {{7, 1, 0}, kRegionBytes});
      const auto pin = [this](std::size_t, std::uint64_t offset, std::uint64_t size) {
        return PinnedMemory{std::span(bytes).subspan(offset, size), nullptr};
      };
      const TransferOptions options{Clock::now() + std::chrono::minutes(1), verify, done};
      transfer = is_read ? rails->read(pieces, pin, options) : rails->write(pieces, pin, options);
    });
    thread.run_on([&] { transfer.reset(); });
    return moved;
  }
};

int run(const std::string& addresses, bool is_read, bool verify, double seconds) {
  Bench bench(addresses);
  bench.copy(is_read, verify);
  bench.await_probes();
  std::vector<Rails::Status> before, after;
  bench.thread.run_on([&] { before = bench.rails->status(); });
  const auto start = Clock::now();
  std::uint64_t moved = 0;
  std::chrono::duration<double> took{};
  for (; took.count() < seconds; took = Clock::now() - start) moved += bench.copy(is_read, verify);
  bench.thread.run_on([&] { after = bench.rails->status(); });
  std::printf("%s%s %.3f Gbit/s", is_read ? "read" : "write", verify ? " verified" : "",
              static_cast<double>(moved) * 8e-9 / took.count());
  for (std::size_t i = 0; i < after.size(); ++i) {
    const auto part = after[i].sent_bytes + after[i].received_bytes - before[i].sent_bytes -
                      before[i].received_bytes;
    std::printf("  %s %.1f%%", after[i].address.c_str(),
                100 * static_cast<double>(part) / static_cast<double>(moved));
    if (!after[i].probe) continue;
    std::printf(" (%s", after[i].probe->reason.c_str());
    for (const auto& trial : after[i].probe->trials)
      std::printf("; %ju KiB%s: %.2f, %.2f GB/s",
                  static_cast<std::uintmax_t>(trial.operation_bytes >> 10),
                  trial.settings.by_stream                                  ? " by the stream"
                  : trial.settings.eager_bytes >= trial.settings.part_bytes ? " unasked in parts"
                  : trial.settings.eager_bytes >= trial.operation_bytes     ? " unasked"
                                                                            : "",
                  trial.write_bytes_per_second / 1e9, trial.read_bytes_per_second / 1e9);
    std::printf(")");
  }
  std::printf("\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    bool is_read = false, verify = false;
    double seconds = 3;
    std::string addresses;
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      if (word == "--read")
        is_read = true;
      else if (word == "--verify")
        verify = true;
      else if (word == "--seconds" && i + 1 < argc)
        seconds = std::stod(argv[++i]);
      else
        addresses = word;
    }
    if (!addresses.empty()) return run(addresses, is_read, verify, seconds);
    std::fprintf(stderr, "usage: rails_bench ADDRESS,ADDRESS [--read] [--verify] [--seconds N]\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rails_bench: %s\n", error.what());
  }
  return 1;
}
