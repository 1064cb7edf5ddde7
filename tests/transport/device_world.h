// One server and one client with memory on devices of the software driver, all on the test's
// thread.
//
// Shape:   a Body makes transports over local, ucx or shared memory. Region 1 of session 7 is host
//          memory, region 2 a device's. Memory of a device is looked at by copies of the test's
//          own.
// Threads: one; lanes of copies are the staging's.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/allocator/cuda/emulator.h"
#include "tests/conformance/channel_suite.h"
#include "tests/transport/run_until.h"
#include "transport/device/staging.h"
#include "transport/local/local_transport.h"
#include "transport/shm/sharing_transport.h"
#include "transport/transfer/rails.h"
#include "transport/ucx/ucx_transport.h"

namespace causeway::test {

using channel_suite::Bytes;
using channel_suite::in;
using channel_suite::pattern;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

inline std::string held_text() {
  std::string text(4096, '\0');
  CAUSEWAY_EMULATOR(causeway_cuda_held)(text.data(), text.size());
  return text.c_str();
}
inline unsigned long held() { return CAUSEWAY_EMULATOR(causeway_cuda_held)(nullptr, 0); }

// Memory of a device that is written and read from outside of what is tested.
class DeviceBytes {
 public:
  DeviceBytes(std::shared_ptr<CudaContext> context, std::size_t size)
      : memory_(CudaPlainMemory::on_device(context, size)), stream_(std::move(context)) {}
  [[nodiscard]] std::span<std::byte> bytes() const { return memory_.bytes(); }
  void fill(std::byte value) {
    stream_.fill(bytes().data(), static_cast<unsigned char>(value), bytes().size());
    synchronize();
  }
  void set(std::size_t offset, std::span<const std::byte> from) {
    stream_.copy_in(bytes().data() + offset, from.data(), from.size());
    synchronize();
  }
  [[nodiscard]] Bytes get() {
    Bytes result(bytes().size());
    stream_.copy_out(result.data(), bytes().data(), result.size());
    synchronize();
    return result;
  }

 private:
  // Once more where the first was made to fail: the work must be over before its memory goes.
  void synchronize() {
    try {
      stream_.synchronize();
    } catch (const Error&) {
      stream_.synchronize();
    }
  }

  CudaPlainMemory memory_;
  CudaStream stream_;
};

struct DeviceRegions final : DataService {
  Bytes host;
  std::span<std::byte> device;
  DeviceStaging* staging = nullptr;
  std::shared_ptr<int> pins = std::make_shared<int>(0);
  std::function<void(Access)> on_pin;

  void admit(const Hello&) override {}
  PinnedMemory pin(const Hello&, const RemoteAddress& address, std::uint64_t size,
                   Access access) override {
    if (on_pin) on_pin(access);
    const auto bytes = address.region == 2 ? device : std::span(host);
    if (address.offset_bytes > bytes.size() || size > bytes.size() - address.offset_bytes)
      throw Error(Errc::out_of_bounds, "outside of the region");
    return {bytes.subspan(address.offset_bytes, size), pins,
            address.region == 2 ? staging : nullptr};
  }
};

struct LocalBody {
  explicit LocalBody(boost::asio::io_context& io) : network(io) {}
  LocalNetwork network;
  std::unique_ptr<Transport> server(DataService* service, Transport::Accepted accepted) {
    return make_local_transport(network, {true, "server", service, std::move(accepted)});
  }
  std::unique_ptr<Transport> client() {
    return make_local_transport(network, {false, "client", nullptr, {}});
  }
};

struct UcxBody {
  explicit UcxBody(boost::asio::io_context& loop) : io(loop) {}
  boost::asio::io_context& io;
  std::unique_ptr<Transport> server(DataService* service, Transport::Accepted accepted) {
    return make_ucx_transport(io, {"127.0.0.1:0", "server", service, std::move(accepted)});
  }
  std::unique_ptr<Transport> client() {
    return make_ucx_transport(io, {"", "client", nullptr, {}});
  }
};

struct ShmBody {
  explicit ShmBody(boost::asio::io_context& io) : below(io) {}
  UcxBody below;
  std::unique_ptr<Transport> server(DataService* service, Transport::Accepted accepted) {
    return make_sharing_transport(
        below.io, {.on_accept = std::move(accepted)},
        [this, service](Transport::Accepted own) { return below.server(service, std::move(own)); });
  }
  std::unique_ptr<Transport> client() {
    return make_sharing_transport(below.io, {}, [this](Transport::Accepted own) {
      return make_ucx_transport(below.io, {"", "client", nullptr, std::move(own)});
    });
  }
};

template <typename Body>
class DeviceWorld {
 public:
  explicit DeviceWorld(DeviceStaging::Options options = {}, int near_gpu = 0, int far_gpu = 1)
      : driver(open_emulator()),
        near_context(CudaContext::retain(driver, near_gpu)),
        far_context(CudaContext::retain(driver, far_gpu)),
        near(io, near_context, options),
        far(io, far_context, options),
        body(io) {
    regions.staging = &far;
    server = body.server(&regions, [this](auto channel) { accepted.push_back(channel); });
    client = body.client();
    rails = std::make_unique<Rails>(
        io, "server",
        [this](const std::string& address, Deadline deadline, Transport::Connected connected) {
          client->connect(address, {Hello::Role::client, "alice", 7, ""}, deadline,
                          [this, connected = std::move(connected)](
                              std::optional<Error> error, std::shared_ptr<Channel> channel) {
                            if (channel) channels.push_back(channel);
                            connected(std::move(error), std::move(channel));
                          });
        });
    rails->set_addresses({server->address()});
  }
  ~DeviceWorld() {
    rails.reset();
    channels.clear();
    run_until([] { return false; }, 20ms);
    accepted.clear();
    client.reset();
    server.reset();
    run_until([this] { return regions.pins.use_count() == 1; }, 5s);
    io.restart();
    io.poll();
  }

  template <typename Test>
  bool run_until(Test test, Clock::duration time = 60s) {
    return test::run_until(io, std::move(test), time);
  }
  bool finish(const Transfer& transfer) {
    return run_until([&] { return transfer.is_done(); });
  }

  PinLocal local(std::span<std::byte> bytes, bool on_device) {
    return [this, bytes, on_device](std::size_t, std::uint64_t offset, std::uint64_t size) {
      return PinnedMemory{bytes.subspan(offset, size), pins, on_device ? &near : nullptr};
    };
  }
  Transfer copy(bool is_write, std::span<std::byte> bytes, bool near_device, RemoteAddress remote,
                Clock::duration time = 60s, bool verify = false) {
    const TransferOptions options{Clock::now() + time, verify, {}};
    std::vector<TransferPiece> pieces{{remote, bytes.size()}};
    return is_write ? rails->write(std::move(pieces), local(bytes, near_device), options)
                    : rails->read(std::move(pieces), local(bytes, near_device), options);
  }

  boost::asio::io_context io;
  std::shared_ptr<CudaDriver> driver;
  std::shared_ptr<CudaContext> near_context, far_context;
  DeviceStaging near, far;
  DeviceRegions regions;
  std::vector<std::shared_ptr<Channel>> accepted, channels;
  Body body;
  std::unique_ptr<Transport> server, client;
  std::unique_ptr<Rails> rails;
  std::shared_ptr<int> pins = std::make_shared<int>(0);
};

inline std::string text_of(const Transfer& transfer) {
  return transfer.error() ? transfer.error()->what() : "";
}

}  // namespace causeway::test
