// What the pipeline through pinned memory costs: device_bench [--mib N] [--rounds N]
//
// Method: two transports over loopback TCP on a thread each, a device of the driver that is found
//         (CAUSEWAY_CUDA_LIBRARY) at both ends. In each round one write and one read of N MiB (64)
//         between host memories, then between devices, then the device's copies alone. The table
//         gives medians, and what the devices' transfers reach of the slower of the other two.
// Exit:   0 measured, 1 failed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <future>
#include <string>
#include <vector>

#include "tests/transport/device_end.h"
#include "transport/transfer/rails.h"
#include "transport/ucx/ucx_transport.h"

using namespace causeway;
using End = test::DeviceEnd;
using Clock = std::chrono::steady_clock;

namespace {

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Bench {
 public:
  explicit Bench(std::size_t size)
      : size_(size),
        context_(CudaContext::retain(CudaDriver::open(), 0)),
        near_("bench-near", context_, size),
        far_("bench-far", context_, size) {
    far_.thread.run_on([&] {
      far_.transport = make_ucx_transport(
          far_.thread.context(), {"127.0.0.1:0", "far", &far_,
                                  [&](auto channel) { accepted_.push_back(std::move(channel)); }});
    });
    near_.thread.run_on([&] {
      near_.transport = make_ucx_transport(near_.thread.context(), {"", "near", nullptr, {}});
      rails_ = std::make_unique<Rails>(
          near_.thread.context(), "far", [&](const auto& address, Deadline deadline, auto done) {
            near_.transport->connect(address, {Hello::Role::client, "near", 7, ""}, deadline,
                                     std::move(done));
          });
      rails_->set_addresses({far_.transport->address()});
    });
  }
  ~Bench() {
    near_.thread.run_on([&] { rails_.reset(), near_.transport.reset(), near_.staging.reset(); });
    far_.thread.run_on([&] { accepted_.clear(), far_.transport.reset(), far_.staging.reset(); });
  }

  // Bytes per second.
  double transfer(bool is_write, bool on_device) {
    const auto start = Clock::now();
    std::optional<Transfer> transfer;
    near_.thread.wait_for([&](const Completion& done) {
      const auto pin = [this, on_device](std::size_t, std::uint64_t offset, std::uint64_t size) {
        return near_.memory(on_device, offset, size);
      };
      const TransferOptions options{Clock::now() + std::chrono::minutes(1), false, done};
      const std::vector<TransferPiece> pieces{{{7, on_device ? 2u : 1u, 0}, size_}};
      transfer =
          is_write ? rails_->write(pieces, pin, options) : rails_->read(pieces, pin, options);
    });
    const auto took = seconds_since(start);
    near_.thread.run_on([&] { transfer.reset(); });
    return static_cast<double>(size_) / took;
  }

  // The device's copies one way, as the pipeline makes them.
  double copies(bool is_in) {
    const auto start = Clock::now();
    near_.thread.wait_for([&](const Completion& done) {
      auto& staging = *near_.staging;
      const auto chunk = staging.report().chunk_bytes;
      const auto left = std::make_shared<std::size_t>((size_ + chunk - 1) / chunk);
      const auto ended = [left, done](const std::optional<Error>& error) {
        if (--*left == 0) done(error, 0);
      };
      slot_ = staging.own().take();
      for (std::size_t at = 0; at < size_; at += chunk) {
        auto* const device = near_.device->bytes().data() + at;
        const auto bytes = std::min<std::size_t>(chunk, size_ - at);
        if (is_in)
          staging.copy_in(device, slot_, bytes, ended);
        else
          staging.copy_out(slot_, device, bytes, ended);
      }
      slot_ = nullptr;
    });
    return static_cast<double>(size_) / seconds_since(start);
  }

  [[nodiscard]] const StagingReport& report() const { return near_.staging->report(); }

 private:
  const std::size_t size_;
  std::shared_ptr<CudaContext> context_;
  End near_, far_;
  StagingSlotPtr slot_;
  std::vector<std::shared_ptr<Channel>> accepted_;
  std::unique_ptr<Rails> rails_;
};

double median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2] / 1e9;
}

int run(std::size_t mib, int rounds) {
  Bench bench(mib << 20);
  for (int i = 0; i < 3; ++i) bench.transfer(true, false), bench.transfer(false, false);
  std::printf("%s, %zu slots on either side, chunks of %.0f KiB:", bench.report().device.c_str(),
              bench.report().slots, static_cast<double>(bench.report().chunk_bytes) / 1024);
  for (const auto& trial : bench.report().trials)
    std::printf("  %.0f KiB %.2f GB/s", static_cast<double>(trial.chunk_bytes) / 1024,
                trial.bytes_per_second / 1e9);
  std::printf("\n%zu MiB   host to host   device to device   device alone   of the slower\n", mib);
  for (const bool is_write : {true, false}) {
    std::vector<double> host, device, copies;
    for (int i = 0; i < rounds; ++i) {
      host.push_back(bench.transfer(is_write, false));
      device.push_back(bench.transfer(is_write, true));
      copies.push_back(std::min(bench.copies(true), bench.copies(false)));
    }
    const auto slower = std::min(median(host), median(copies));
    std::printf("%-8s %9.2f GB/s %13.2f GB/s %11.2f GB/s %11.2f\n", is_write ? "write" : "read",
                median(host), median(device), median(copies), median(device) / slower);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::size_t mib = 64;
    int rounds = 9;
    for (int i = 1; i + 1 < argc; i += 2) {
      const std::string word = argv[i];
      if (word == "--mib") mib = std::stoul(argv[i + 1]);
      if (word == "--rounds") rounds = std::stoi(argv[i + 1]);
    }
    return run(mib, rounds);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "device_bench: %s\n", error.what());
  }
  return 1;
}
