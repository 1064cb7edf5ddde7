// Goal:   a peer in another process may die, stop or come back at any moment: whoever waits for it
//         learns so in time, nobody else notices, and no buffer is touched after its completion.
// Method: a second program, ucx_peer, killed and stopped by signals while transfers run.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/resource.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/transport/spawned_process.h"
#include "transport/ucx/ucx_transport.h"

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/conformance/channel_suite.h"

using namespace channel_suite;
using causeway::test::SpawnedProcess;

namespace {

constexpr auto kNoticed = 2s;  // What channel.h promises.
constexpr std::size_t kRegionBytes = 64 << 20;

struct Client {
  IoThread thread{"client"};
  std::unique_ptr<Transport> transport;
  std::vector<Side> sides;

  Client() {
    thread.run_on([&] {
      transport = make_ucx_transport(thread.context(), {"", "client", nullptr, {}});
    });
  }
  ~Client() {
    thread.run_on([&] {
      sides.clear();
      transport.reset();
    });
  }
  Side join(const std::string& address) {
    Side side;
    const auto result = connect(thread, *transport, address,
                                {Hello::Role::client, "alice", 7, "secret"}, side, in(20s));
    INFO(result.text);
    REQUIRE_FALSE(result.code);
    sides.push_back(side);
    return side;
  }
};

std::ptrdiff_t descriptors() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

SpawnedProcess start_peer(std::string& address) {
  auto peer = SpawnedProcess::start({UCX_PEER, "serve"});
  address = peer.read_line();
  REQUIRE_FALSE(address.empty());
  return peer;
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// "0100007F:1F90", as the kernel writes the local address of each TCP socket that this process
// listens with.
std::vector<std::string> listening_sockets() {
  std::set<std::string> own;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.starts_with("socket:[")) own.insert(target.substr(8, target.size() - 9));
  }
  std::vector<std::string> found;
  for (const char* table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::ifstream file(table);
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      std::string number, local, remote, state, queues, timer, retransmits, user, timeout, inode;
      words >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >>
          timeout >> inode;
      if (state == "0A" && own.contains(inode)) found.push_back(local);
    }
  }
  return found;
}

}  // namespace

TEST_CASE("bytes cross between processes") {
  std::string address;
  const auto peer = start_peer(address);
  Client client;
  const auto side = client.join(address);
  CHECK(side.channel->peer_name() == "peer");
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{4095}, std::size_t{16385}, std::size_t{1048577},
        std::size_t{8} << 20, kRegionBytes}) {
    INFO("size=", size);
    const auto source = pattern(size, size);
    REQUIRE_FALSE(side.write({7, 1, 0}, source).get().code);
    Bytes target(size);
    REQUIRE_FALSE(side.read(target, {7, 1, 0}).get().code);
    CHECK((target == source));
    if (size > 8 << 20) continue;
    Bytes echoed(size);
    auto received = side.receive(2, echoed);
    REQUIRE_FALSE(side.send(1, source).get().code);
    REQUIRE_FALSE(received.get().code);
    CHECK((echoed == source));
  }
}

TEST_CASE("a killed peer that had started a program is an error as soon") {
  auto peer = SpawnedProcess::start({UCX_PEER, "serve", "127.0.0.1", "6"});
  Client client;
  const auto side = client.join(peer.read_line());
  auto closing = side.closing();
  Bytes echoed(8);
  auto received = side.receive(2, echoed);
  REQUIRE_FALSE(side.send(1, pattern(8, 1)).get().code);
  REQUIRE_FALSE(received.get().code);  // So the peer has its channel, and the program runs.
  peer.signal(SIGKILL);
  const auto start = std::chrono::steady_clock::now();
  CHECK((closing.get().code == Errc::peer_lost));
  CHECK((std::chrono::steady_clock::now() - start < kNoticed));
}

// The inner runs: a peer in the network namespace of process CAUSEWAY_TEST_FAR, and a router in
// that of CAUSEWAY_TEST_ROUTER between. What the router drops, neither side's kernel is told of.
struct Far {
  Far() { side = client.join(peer.read_line()); }
  static bool is_there() { return std::getenv("CAUSEWAY_TEST_FAR") != nullptr; }
  static void drop_packets(bool is_on) {
    const std::string command = "nsenter -t " + std::string(std::getenv("CAUSEWAY_TEST_ROUTER")) +
                                " -n ip rule " + (is_on ? "add" : "del") + " pref 1 blackhole";
    REQUIRE(std::system(command.c_str()) == 0);
  }

  SpawnedProcess peer =
      SpawnedProcess::start({"/usr/bin/nsenter", "-t", std::getenv("CAUSEWAY_TEST_FAR"), "-n", "-m",
                             UCX_PEER, "serve", "10.99.2.2"});
  Client client;
  Side side;
};

TEST_CASE("far: packets that are lost for most of a second cost no channel") {
  if (!Far::is_there()) return;
  const Far far;
  auto closing = far.side.closing();
  for (int round = 0; round < 4; ++round) {
    INFO("round=", round);
    std::this_thread::sleep_for(std::chrono::milliseconds(500 + 130 * round));
    Far::drop_packets(true);
    std::this_thread::sleep_for(900ms);
    Far::drop_packets(false);
    // Past the time in which it would be given up.
    const bool is_over = closing.wait_for(1800ms) == std::future_status::ready;
    const auto text = is_over ? closing.get().text : "";
    INFO(text);
    REQUIRE_FALSE(is_over);
    const auto bytes = pattern(1 << 20, 1);
    const auto result = far.side.write({7, 1, 0}, bytes, in(10s)).get();
    INFO(result.text);
    REQUIRE_FALSE(result.code);
  }
}

TEST_CASE("far: a machine that vanishes is an error within about two seconds") {
  if (!Far::is_there()) return;
  const Far far;
  auto closing = far.side.closing();
  std::this_thread::sleep_for(1500ms);  // A silence does not end it.
  REQUIRE((closing.wait_for(0s) == std::future_status::timeout));
  const auto start = std::chrono::steady_clock::now();
  Far::drop_packets(true);
  const auto reason = closing.get();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  MESSAGE("noticed after " << took.count() << " s: " << reason.text);
  CHECK((reason.code == Errc::peer_lost));
  CHECK(reason.text.find("no answer") != std::string::npos);
  CHECK(took.count() < 2.0);
  Far::drop_packets(false);
}

// Here the kernel does not even send.
TEST_CASE("far: an own interface that is gone is an error within two seconds") {
  if (!Far::is_there()) return;
  for (const std::string change : {"addr del 10.99.1.2/24 dev va", "link set va down"}) {
    INFO(change);
    if (change.starts_with("link"))
      REQUIRE(std::system("ip addr add 10.99.1.2/24 dev va; ip route add default via 10.99.1.1") ==
              0);
    const Far far;
    auto closing = far.side.closing();
    REQUIRE((closing.wait_for(500ms) == std::future_status::timeout));
    REQUIRE(std::system(("ip " + change).c_str()) == 0);
    REQUIRE((closing.wait_for(2s) == std::future_status::ready));
    CHECK((closing.get().code == Errc::peer_lost));
  }
}

TEST_CASE("a machine that vanishes is an error within two seconds, lost packets are none") {
  if (std::system("unshare -n sh -c 'ip link add va type veth peer name vb' 2>/dev/null") != 0) {
    MESSAGE("skipped: needs root, unshare, ip and veth devices");
    return;
  }
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string script = R"sh(
    set -e
    mount -t sysfs sysfs /sys  # Where UCX looks for devices.
    in_other() {  # A network of its own: its process.
      unshare -n -m sh -c "mount -t sysfs sysfs /sys; exec sleep 60" & other=$!
      for i in $(seq 500); do
        [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ] || break
        sleep 0.01
      done
    }
    connect() {  # $1 and its device $2 at 10.99.$4.2 to the router, with its device $3.
      nsenter -t $router -n ip link add $3 type veth peer name $2 netns $1
      nsenter -t $1 -n sh -c "
        ip link set lo up; ip addr add 10.99.$4.2/24 dev $2; ip link set $2 up"
      nsenter -t $router -n sh -c "ip addr add 10.99.$4.1/24 dev $3; ip link set $3 up"
      nsenter -t $1 -n ip route add default via 10.99.$4.1
    }
    in_other; router=$other
    in_other; far=$other
    nsenter -t $router -n sh -c "echo 1 > /proc/sys/net/ipv4/ip_forward"
    connect $$ va ra 1
    connect $far vb rb 2
    for i in $(seq 500); do
      nsenter -t $far -n -m test -e /sys/class/net/vb && break
      sleep 0.01
    done
    code=0
    CAUSEWAY_TEST_FAR=$far CAUSEWAY_TEST_ROUTER=$router "$1" --test-case="far: *" || code=$?
    kill $far $router
    exit $code)sh";
  CHECK(std::system(("unshare -n -m sh -c '" + script + "' sh \"" + self + "\"").c_str()) == 0);
}

TEST_CASE("no socket of a transport is inherited by the programs that its process starts") {
  IoThread thread("server");
  std::unique_ptr<Transport> transport;
  std::shared_ptr<Channel> accepted;
  Memory memory;
  memory.regions[{7, 1}].bytes = Bytes(100'000);
  thread.run_on([&] {
    transport = make_ucx_transport(thread.context(),
                                   {"127.0.0.1:0", "server", &memory,
                                    [&](std::shared_ptr<Channel> channel) { accepted = channel; }});
  });
  {
    Client client;
    const auto side = client.join(transport->address());
    const char* const wish = std::getenv("CAUSEWAY_LINK_STREAM");
    const bool has_stream = wish != nullptr && std::string(wish) != "no";
    const Bytes source(100'000);
    const auto limit = in(10s);
    const auto is_streaming = [&] {
      bool is = false;
      side.thread->run_on([&] { is = side.channel->counters().streamed_bytes > 0; });
      return is;
    };
    while (has_stream && !is_streaming() && std::chrono::steady_clock::now() < limit)
      REQUIRE_FALSE(side.write({7, 1, 0}, source).get().code);
    int own = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      sockaddr_in bound{};
      socklen_t size = sizeof(bound);
      const int fd = std::stoi(entry.path().filename());
      if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) continue;
      if (bound.sin_family != AF_INET) continue;
      const auto address = "127.0.0.1:" + std::to_string(ntohs(bound.sin_port));
      sockaddr_in peer{};
      size = sizeof(peer);
      const bool is_connected = getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0;
      const bool is_called = is_connected && "127.0.0.1:" + std::to_string(ntohs(peer.sin_port)) ==
                                                 transport->address();
      if (address != transport->address() && !is_called) continue;
      INFO(address, is_connected ? " connected" : " listening");
      ++own;
      CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    }
    // The door's, and both ends of the lifeline and of the stream.
    CHECK(own == (has_stream ? 5 : 3));
  }
  thread.run_on([&] {
    accepted.reset();
    transport.reset();
  });
}

TEST_CASE("a process that is to have no streams takes none of its peers") {
  const char* const wish = std::getenv("CAUSEWAY_LINK_STREAM");
  const auto own = wish == nullptr ? std::nullopt : std::optional<std::string>(wish);
  ::setenv("CAUSEWAY_LINK_STREAM", "no", 1);
  std::string address;
  const auto peer = start_peer(address);
  ::unsetenv("CAUSEWAY_LINK_STREAM");
  if (own) ::setenv("CAUSEWAY_LINK_STREAM", own->c_str(), 1);
  Client client;
  const auto side = client.join(address);
  const Bytes source(100'000);
  REQUIRE_FALSE(side.write({7, 1, 0}, source).get().code);
  const auto before = descriptors();
  side.thread->run_on([&] { side.channel->set_settings({1 << 20, 16 << 10, true}); });
  std::uint64_t streamed = 0;
  for (const auto until = in(300ms); std::chrono::steady_clock::now() < until;) {
    REQUIRE_FALSE(side.write({7, 1, 0}, source).get().code);
    side.thread->run_on([&] { streamed = side.channel->counters().streamed_bytes; });
  }
  CHECK(streamed == 0);
  const auto limit = in(5s);
  while (descriptors() > before && std::chrono::steady_clock::now() < limit)
    std::this_thread::sleep_for(1ms);
  CHECK(descriptors() <= before);  // What asked for one is not kept.
}

TEST_CASE("a transport that is destroyed tells its peers") {
  IoThread thread("server");
  Memory memory;
  std::unique_ptr<Transport> transport;
  std::shared_ptr<Channel> accepted;
  std::promise<Error> ended;
  thread.run_on([&] {
    transport = make_ucx_transport(
        thread.context(), {"127.0.0.1:0", "server", &memory, [&](std::shared_ptr<Channel> channel) {
                             accepted = std::move(channel);
                             accepted->on_close([&](const Error& why) { ended.set_value(why); });
                           }});
  });
  {
    Client client;
    static_cast<void>(client.join(transport->address()));
    client.thread.run_on([&] { client.transport.reset(); });
  }
  const auto why = ended.get_future().get();
  INFO(std::string(why.what()));
  CHECK((why.code() == Errc::closed));
  thread.run_on([&] {
    accepted.reset();
    transport.reset();
  });
}

TEST_CASE("a channel that is closed after the end of its transport is let go") {
  std::string address;
  const auto peer = start_peer(address);
  Client client;
  auto side = client.join(address);
  client.thread.run_on([&] {
    client.sides.clear();
    client.transport.reset();
  });
  client.thread.run_on([&] {
    side.channel->close(Error(Errc::cancelled, "late"));
    CHECK_FALSE(side.channel->is_open());
    side.channel.reset();  // The leak sanitizer sees what is left.
  });
}

TEST_CASE("a killed peer is an error within two seconds, on busy and on idle channels") {
  for (int round = 0; round < 6; ++round) {
    INFO("round=", round);
    std::string address;
    const auto peer = start_peer(address);
    Client client;
    const auto busy = client.join(address);
    const auto idle = client.join(address);
    auto idle_closing = idle.closing();
    auto busy_closing = busy.closing();
    const auto source = pattern(kRegionBytes, 1);
    Bytes target(kRegionBytes), message(1 << 20), never(8);
    std::vector<std::future<Result>> results;
    if (round > 0) {
      for (int i = 0; i < 4; ++i) {
        results.push_back(busy.write({7, 1, 0}, source));
        results.push_back(busy.read(target, {7, 1, 0}));
        results.push_back(busy.send(3, message));  // Nobody receives these.
      }
    }
    auto waiting = busy.receive(9, never);
    // Let some of it happen: another part of the transfer in each round.
    Bytes small(8);
    for (int i = 0; i < round; ++i) REQUIRE_FALSE(idle.write({7, 1, 0}, small).get().code);
    const auto killed = std::chrono::steady_clock::now();
    peer.signal(SIGKILL);
    for (auto& result : results) {
      REQUIRE((result.wait_until(killed + kNoticed) == std::future_status::ready));
      const auto got = result.get();
      INFO(got.text);
      CHECK((!got.code || got.code == Errc::peer_lost));
      if (got.code) CHECK(got.text.find("peer") != std::string::npos);
    }
    REQUIRE((waiting.wait_until(killed + kNoticed) == std::future_status::ready));
    const auto got = waiting.get();
    INFO(got.text);
    CHECK((got.code == Errc::peer_lost));
    CHECK(got.text.find(address) != std::string::npos);
    for (auto* closing : {&idle_closing, &busy_closing}) {
      REQUIRE((closing->wait_until(killed + kNoticed) == std::future_status::ready));
      CHECK((closing->get().code == Errc::peer_lost));
    }
    CHECK_FALSE(idle.is_open());
    CHECK((idle.send(1, message).get().code == Errc::closed));
  }
}

TEST_CASE("a killed client costs the server nothing and others do not notice") {
  Memory memory;
  memory.regions[{7, 1}].bytes = Bytes(kRegionBytes);
  IoThread thread("server");
  std::map<std::string, Side> accepted;
  std::unique_ptr<Transport> server;
  std::promise<Result> lost;
  std::promise<void> came;
  thread.run_on([&] {
    server = make_ucx_transport(
        thread.context(),
        {"127.0.0.1:0", "server", &memory, [&](std::shared_ptr<Channel> channel) {
           if (channel->peer_name() == "hammer") {
             channel->on_close([&](const Error& e) { lost.set_value({e.code(), e.what(), 0}); });
             came.set_value();
           }
           accepted[channel->peer_name()] = {&thread, channel};
         }});
  });
  Client client;
  const auto honest = client.join(server->address());
  const auto hammer = SpawnedProcess::start({UCX_PEER, "hammer", server->address()});
  came.get_future().wait();
  const auto source = pattern(4 << 20, 3);
  const auto far = RemoteAddress{7, 1, 32 << 20};  // The hammer writes below.
  // Work beside the hammer until it has moved a good deal.
  for (ChannelCounters counters; counters.received_bytes < 64 << 20;) {
    REQUIRE_FALSE(honest.write(far, source).get().code);
    thread.run_on([&] { counters = accepted["hammer"].channel->counters(); });
  }
  auto in_flight = honest.write(far, source);
  const auto killed = std::chrono::steady_clock::now();
  hammer.signal(SIGKILL);
  auto noticed = lost.get_future();
  REQUIRE((noticed.wait_until(killed + kNoticed) == std::future_status::ready));
  const auto reason = noticed.get();
  CHECK((reason.code == Errc::peer_lost));
  CHECK(reason.text.find("hammer") != std::string::npos);
  CHECK_FALSE(in_flight.get().code);
  Bytes target(source.size());
  REQUIRE_FALSE(honest.read(target, far).get().code);
  CHECK((target == source));
  // UCX gives back what it held for the dead client within its teardown.
  const auto limit = in(5s);
  long pins = 0;
  do thread.run_on([&] { pins = memory.pins.use_count(); });
  while (pins > 1 && std::chrono::steady_clock::now() < limit);
  CHECK(pins == 1);
  thread.run_on([&] {
    accepted.clear();
    server.reset();
  });
}

TEST_CASE("a peer that stops in mid-transfer cannot touch a buffer after its completion") {
  for (const bool is_read : {true, false}) {
    INFO("is_read=", is_read);
    std::string address;
    const auto peer = start_peer(address);
    Client client;
    const auto side = client.join(address);
    Bytes buffer(kRegionBytes, std::byte{0x11});
    auto progress = is_read ? side.read(buffer, {7, 1, 0}, in(300ms))
                            : side.write({7, 1, 0}, buffer, in(300ms));
    peer.signal(SIGSTOP);  // At any point of it.
    const auto got = progress.get();
    INFO(got.text);
    CHECK((!got.code || got.code == Errc::timed_out));
    std::fill(buffer.begin(), buffer.end(), std::byte{0x5a});
    peer.signal(SIGCONT);
    // When a fresh channel has been served, the peer is past what it had in hand.
    const auto fresh = client.join(address);
    Bytes other(8 << 20);
    REQUIRE_FALSE(fresh.read(other, {7, 1, 0}).get().code);
    REQUIRE_FALSE(fresh.write({7, 1, 0}, other).get().code);
    CHECK((buffer == Bytes(kRegionBytes, std::byte{0x5a})));
  }
}

TEST_CASE("a stopped peer is slow, not lost") {
  std::string address;
  const auto peer = start_peer(address);
  Client client;
  const auto side = client.join(address);
  Bytes buffer(8);
  peer.signal(SIGSTOP);
  const auto late = side.read(buffer, {7, 1, 0}, in(2500ms)).get();
  INFO(late.text);
  CHECK((late.code == Errc::timed_out));
  CHECK(side.is_open());  // Nothing of ours was in its hands.
  peer.signal(SIGCONT);
  CHECK_FALSE(side.read(buffer, {7, 1, 0}).get().code);
}

TEST_CASE("only the chosen address is listened at") {
  IoThread thread("server");
  std::unique_ptr<Transport> server;
  Client client;  // Connects nowhere: it listens nowhere.
  CHECK(listening_sockets().empty());
  thread.run_on([&] {
    server = make_ucx_transport(thread.context(), {"127.0.0.1:0", "server", nullptr, {}});
  });
  const auto sockets = listening_sockets();
  CHECK(sockets.size() >= 1);
  for (const auto& socket : sockets) {
    INFO(socket);
    CHECK(socket.starts_with("0100007F:"));
  }
  thread.run_on([&] {
    CHECK_THROWS_AS(make_ucx_transport(thread.context(), {server->address(), "x", nullptr, {}}),
                    Error);  // Taken.
    for (const char* bad : {"127.0.0.1", "127.0.0.1:", ":1", "127.0.0.1:65536", "127.0.0.1:1x",
                            "::1:5", "203.0.113.9:0"}) {
      INFO(bad);
      CHECK_THROWS_AS(make_ucx_transport(thread.context(), {bad, "x", nullptr, {}}), Error);
    }
    server.reset();
  });
  for (const auto& socket : listening_sockets()) FAIL_CHECK("still listening: ", socket);
}

TEST_CASE("an idle channel burns no core") {
  std::string address;
  const auto peer = start_peer(address);
  Client client;
  const auto side = client.join(address);
  Bytes buffer(1 << 20);
  REQUIRE_FALSE(side.write({7, 1, 0}, buffer).get().code);
  const auto before = cpu_seconds();
  std::this_thread::sleep_for(1s);  // What is measured is this second.
  CHECK(cpu_seconds() - before < 0.05);
  CHECK_FALSE(side.write({7, 1, 0}, buffer).get().code);
}
