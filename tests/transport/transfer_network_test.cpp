// Goal:   a transfer over two network cards survives the loss of one, in the real thing.
// Method: the peer is another process (ucx_peer) in a network namespace of its own, joined to this
// one
//         by two veth pairs that tc shapes; one is taken down in mid-transfer. Needs root; without
//         it the test says so and passes. Rates are measured by rails_bench.sh.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <cstdlib>
#include <filesystem>

#include "tests/transport/spawned_process.h"
#include "transport/addresses.h"
#include "transport/transfer/rails.h"
#include "transport/ucx/ucx_transport.h"

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/conformance/channel_suite.h"

using namespace channel_suite;
using causeway::test::SpawnedProcess;

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kRegionBytes = 64 << 20;
constexpr auto kNoticed = 2s;  // What channel.h promises of a lost peer.

// The inner run: the other end in the network namespace of process CAUSEWAY_TEST_FAR.
struct Far {
  Far() {
    const auto addresses = split_addresses(peer.read_line());
    thread.run_on([&] {
      transport = make_ucx_transport(thread.context(), {"", "client", nullptr, {}});
      rails = std::make_unique<Rails>(
          thread.context(), "far",
          [this](const std::string& address, Deadline deadline, Transport::Connected connected) {
            transport->connect(address, {Hello::Role::client, "alice", 7, "secret"}, deadline,
                               std::move(connected));
          });
      rails->set_addresses(addresses);
    });
  }
  ~Far() {
    thread.run_on([&] {
      rails.reset();
      transport.reset();
    });
  }
  static bool is_there() { return std::getenv("CAUSEWAY_TEST_FAR") != nullptr; }
  static void there(const std::string& command) {
    const auto whole =
        "nsenter -t " + std::string(std::getenv("CAUSEWAY_TEST_FAR")) + " -n " + command;
    REQUIRE(std::system(whole.c_str()) == 0);
  }

  // The 64 MiB of the region `times` times, one after the other. `meanwhile` runs at half of it.
  Result copy(bool is_write, Bytes& bytes, std::size_t times, bool verify,
              const std::function<void()>& meanwhile = {}) {
    std::promise<Result> promise;
    std::optional<Transfer> transfer;
    std::vector<TransferPiece> pieces(times, {{7, 1, 0}, kRegionBytes});
    const TransferOptions options{
        in(60s), verify, [&](std::optional<Error> error, auto size) {
          promise.set_value(error ? Result{error->code(), error->what(), size}
                                  : Result{std::nullopt, "", size});
        }};
    const auto pin = [&](std::size_t, std::uint64_t offset, std::uint64_t size) {
      return PinnedMemory{std::span(bytes).subspan(offset, size), nullptr};
    };
    thread.run_on([&] {
      transfer = is_write ? rails->write(pieces, pin, options) : rails->read(pieces, pin, options);
    });
    auto result = promise.get_future();
    for (bool is_half = !meanwhile;
         !is_half && result.wait_for(1ms) != std::future_status::ready;) {
      thread.run_on([&] {
        is_half = transfer->progress().done_bytes * 2 > transfer->progress().total_bytes;
      });
      if (is_half) meanwhile();
    }
    const auto got = result.get();
    thread.run_on([&] { transfer.reset(); });
    return got;
  }
  std::vector<Rails::Status> status() {
    std::vector<Rails::Status> list;
    thread.run_on([&] { list = rails->status(); });
    return list;
  }

  SpawnedProcess peer =
      SpawnedProcess::start({"/usr/bin/nsenter", "-t", std::getenv("CAUSEWAY_TEST_FAR"), "-n", "-m",
                             UCX_PEER, "serve", "10.99.1.2,10.99.2.2"});
  IoThread thread{"client"};
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Rails> rails;
};

}  // namespace

TEST_CASE("far: both cards carry their share") {
  if (!Far::is_there()) return;
  Far far;
  auto source = pattern(kRegionBytes, 1);
  const auto wrote = far.copy(true, source, 4, false);
  INFO(wrote.text);
  REQUIRE_FALSE(wrote.code);
  for (const auto& rail : far.status()) {
    INFO(rail.address);
    CHECK(rail.is_open);
    CHECK(rail.sent_bytes > kRegionBytes);  // Of four.
  }
  Bytes target(kRegionBytes);
  REQUIRE_FALSE(far.copy(false, target, 1, false).code);
  CHECK((target == source));
}

TEST_CASE("far: a card that is lost in mid-transfer costs speed, not the transfer") {
  if (!Far::is_there()) return;
  for (const bool is_write : {true, false}) {
    INFO("is_write=", is_write);
    Far far;
    auto source = pattern(kRegionBytes, is_write);
    REQUIRE_FALSE(far.copy(true, source, 1, false).code);
    Bytes target(kRegionBytes);
    Clock::time_point cut;
    const auto got = far.copy(is_write, is_write ? source : target, 6, true, [&] {
      Far::there("ip link set vb down");
      cut = Clock::now();
    });
    const std::chrono::duration<double> took = Clock::now() - cut;
    INFO(got.text);
    REQUIRE_FALSE(got.code);
    REQUIRE(cut != Clock::time_point{});
    CHECK(got.bytes == 6 * kRegionBytes);
    MESSAGE(std::string(is_write ? "write" : "read")
            << ": done " << took.count() << " s after the loss");
    // Half of 384 MiB by one card of 1 Gbit/s, behind the time to notice.
    CHECK(took < kNoticed + 8s);
    const auto after = far.status();
    INFO("channels ", after[0].channels, after[0].probe ? ", " + after[0].probe->reason : "");
    CHECK(after[0].losses >= 1);  // One of each channel of the card.
    CHECK(after[1].losses == 0);
    if (is_write) REQUIRE_FALSE(far.copy(false, target, 1, false).code);
    CHECK((target == source));
    Far::there("ip link set vb up");
    const auto limit = in(15s);
    while (!far.status()[0].is_open && Clock::now() < limit) std::this_thread::sleep_for(50ms);
    CHECK(far.status()[0].is_open);
    REQUIRE_FALSE(far.copy(true, source, 2, false).code);
    CHECK(far.status()[0].sent_bytes > after[0].sent_bytes);
  }
}

TEST_CASE("a transfer survives the loss of one of two network cards") {
  if (std::system(
          "unshare -n sh -c 'ip link add va type veth peer name vb && "
          "tc qdisc add dev va root tbf rate 1gbit burst 256kb latency 20ms' 2>/dev/null") != 0) {
    MESSAGE("skipped: needs root, unshare, ip, tc and veth devices");
    return;
  }
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string script = R"sh(
    set -e
    mount -t sysfs sysfs /sys  # Where UCX looks for devices.
    unshare -n -m sh -c "mount -t sysfs sysfs /sys; exec sleep 200" & far=$!
    for i in $(seq 500); do
      [ "$(readlink /proc/$far/ns/net)" = "$(readlink /proc/$$/ns/net)" ] || break
      sleep 0.01
    done
    pair() {  # Device $1 here and $2 there, on 10.99.$3.0/24.
      ip link add $1 type veth peer name $2 netns $far
      ip addr add 10.99.$3.1/24 dev $1
      ip link set $1 up
      tc qdisc add dev $1 root tbf rate 1gbit burst 256kb latency 20ms
      nsenter -t $far -n sh -c "
        ip link set lo up; ip addr add 10.99.$3.2/24 dev $2; ip link set $2 up
        tc qdisc add dev $2 root tbf rate 1gbit burst 256kb latency 20ms"
    }
    ip link set lo up
    pair va vb 1
    pair vc vd 2
    for i in $(seq 500); do  # UCX takes no card that is not running yet.
      nsenter -t $far -n -m grep -q up /sys/class/net/vb/operstate &&
        nsenter -t $far -n -m grep -q up /sys/class/net/vd/operstate &&
        grep -q up /sys/class/net/va/operstate && grep -q up /sys/class/net/vc/operstate && break
      sleep 0.01
    done
    code=0
    CAUSEWAY_TEST_FAR=$far "$1" --test-case="far: *" || code=$?
    kill $far
    exit $code)sh";
  CHECK(std::system(("unshare -n -m sh -c '" + script + "' sh \"" + self + "\"").c_str()) == 0);
}
