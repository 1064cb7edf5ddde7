// Goal:   who was not admitted gets nowhere: not past the door with any bytes, not to UCX's ports
// at
//         all, and not between a peer and its place. And a peer may vanish in each phase.
// Method: raw TCP connections against a transport in this process, whose listening sockets the
// kernel
//         names. CAUSEWAY_TEST_SEED=<seed> replays one random greeting.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <sys/resource.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/transport/raw_caller.h"
#include "transport/ucx/door.h"
#include "transport/ucx/guard.h"
#include "transport/ucx/ucx_transport.h"

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/conformance/channel_suite.h"

using namespace channel_suite;
using causeway::test::RawCaller;
using causeway::ucx::decode_failure;
using causeway::ucx::decode_welcome;
using causeway::ucx::frame;
using causeway::ucx::FrameKind;
using causeway::ucx::Greeting;

namespace {

struct Server {
  Memory memory;
  IoThread thread{"server"};
  std::unique_ptr<Transport> transport;
  std::vector<std::shared_ptr<Channel>> channels;

  Server() {
    memory.regions[{7, 1}].bytes = Bytes(1 << 20);
    thread.run_on([&] {
      transport = make_ucx_transport(thread.context(), {"127.0.0.1:0", "server", &memory,
                                                        [&](std::shared_ptr<Channel> channel) {
                                                          channels.push_back(std::move(channel));
                                                        }});
    });
  }
  ~Server() {
    thread.run_on([&] {
      channels.clear();
      transport.reset();
    });
  }
  [[nodiscard]] const std::string& address() const { return transport->address(); }
};

Greeting alice() { return {42, {Hello::Role::client, "alice", 7, "secret"}}; }

// Connects, moves some bytes, and says how long the connecting took.
std::chrono::duration<double> check_serves(const Server& server) {
  IoThread thread("client");
  std::unique_ptr<Transport> transport;
  Side side;
  thread.run_on([&] {
    transport = make_ucx_transport(thread.context(), {"", "client", nullptr, {}});
  });
  const auto start = std::chrono::steady_clock::now();
  const auto result = connect(thread, *transport, server.address(), alice().hello, side, in(20s));
  const auto took = std::chrono::steady_clock::now() - start;
  INFO(result.text);
  REQUIRE_FALSE(result.code);
  const auto source = pattern(100000, 5);
  Bytes target(source.size());
  CHECK_FALSE(side.write({7, 1, 0}, source).get().code);
  CHECK_FALSE(side.read(target, {7, 1, 0}).get().code);
  CHECK((target == source));
  side.drop();
  thread.run_on([&] { transport.reset(); });
  return took;
}

// The addresses where this process listens, apart from `known`.
std::set<std::string> listening(const std::string& known = {}) {
  std::set<std::string> own, found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.starts_with("socket:[")) own.insert(target.substr(8, target.size() - 9));
  }
  std::ifstream table("/proc/self/net/tcp");
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string number, local, remote, state, queues, timer, retransmits, user, timeout, inode;
    words >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >>
        timeout >> inode;
    if (state != "0A" || !own.contains(inode)) continue;
    const auto port = std::stoi(local.substr(local.find(':') + 1), nullptr, 16);
    const auto address = "127.0.0.1:" + std::to_string(port);
    if (address != known) found.insert(address);
  }
  return found;
}

Bytes text(std::string_view characters) {
  const auto bytes = std::as_bytes(std::span(characters));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

TEST_CASE("bytes that are no greeting end their own connection") {
  const Server server;
  auto cut = frame(alice());
  auto wrong_magic = cut, long_body = cut, wrong_kind = cut, with_tail = cut, wrong_role = cut;
  wrong_magic[0] ^= std::byte{1};
  long_body[7] = std::byte{0xff};
  wrong_kind[5] = std::byte{2};
  with_tail[6] = static_cast<std::byte>(std::to_integer<int>(with_tail[6]) + 1);
  with_tail.push_back(std::byte{0});
  wrong_role[16] = std::byte{3};
  auto short_body = cut;
  short_body[6] = static_cast<std::byte>(std::to_integer<int>(short_body[6]) - 1);
  short_body.pop_back();
  int number = 0;
  for (const auto& bytes : {Bytes(2048), Bytes(64, std::byte{0xff}), pattern(4096, 3),
                            text("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), wrong_magic, long_body,
                            wrong_kind, with_tail, short_body, wrong_role}) {
    INFO("case ", number++);
    const RawCaller caller(server.address());
    REQUIRE(caller.is_connected());
    CHECK(caller.send(bytes));
    CHECK(caller.is_hung_up());  // And nothing was said.
  }
  check_serves(server);
}

TEST_CASE("a wrong credential is refused with the reason and nothing else") {
  Server server;
  const RawCaller caller(server.address());
  auto greeting = alice();
  greeting.hello.credential = "guess";
  REQUIRE(caller.send(frame(greeting)));
  const auto reply = caller.read_frame();
  REQUIRE(reply);
  CHECK((reply->first == FrameKind::refusal));
  const auto failure = decode_failure(reply->second);
  REQUIRE(failure);
  CHECK((failure->code() == Errc::unauthenticated));
  CHECK(caller.is_hung_up());
  server.thread.run_on([&] { CHECK(server.channels.empty()); });
}

TEST_CASE("another version of the protocol hears which one is spoken here") {
  const Server server;
  const RawCaller caller(server.address());
  auto bytes = frame(alice());
  bytes[4] = std::byte{9};
  REQUIRE(caller.send(bytes));
  const auto reply = caller.read_frame();
  REQUIRE(reply);
  const auto failure = decode_failure(reply->second);
  REQUIRE(failure);
  CHECK((failure->code() == Errc::unsupported));
  const std::string what = failure->what();
  CHECK(what.find("version 9") != std::string::npos);
  CHECK(what.find("version " + std::to_string(ucx::kProtocolVersion)) != std::string::npos);
  CHECK(caller.is_hung_up());
}

TEST_CASE("a greeting has a deadline, in whole and in drops") {
  const Server server;
  const RawCaller silent(server.address()), slow(server.address());
  const auto start = std::chrono::steady_clock::now();
  const auto bytes = frame(alice());
  std::atomic<bool> done = false;
  std::thread drops([&] {
    for (std::size_t i = 0; i < bytes.size() && !done; ++i) {
      if (!slow.send({&bytes[i], 1})) break;
      std::this_thread::sleep_for(200ms);
    }
  });
  CHECK(silent.is_hung_up());
  CHECK(slow.is_hung_up());
  done = true;
  drops.join();
  CHECK((std::chrono::steady_clock::now() - start < causeway::ucx::kPatience + 3s));
  check_serves(server);
}

TEST_CASE("a thousand idle strangers do not keep a peer out") {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
  setrlimit(RLIMIT_NOFILE, &files);
  const Server server;
  std::vector<RawCaller> strangers;
  SUBCASE("of one host") {
    for (int i = 0; i < 1000; ++i) strangers.emplace_back(server.address());
  }
  SUBCASE("of many hosts") {
    for (int i = 0; i < 1000; ++i)
      strangers.emplace_back(server.address(), ("127.0.1." + std::to_string(1 + i % 250)).c_str());
  }
  CHECK(check_serves(server).count() < 1.0);
  CHECK(strangers.front().is_hung_up());  // The oldest gave way.
}

TEST_CASE("who has just come keeps its place, however many others come from elsewhere") {
  const Server server;
  std::vector<RawCaller> strangers, peers;
  const auto come = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const auto number = strangers.size() % 250 + 1;
      strangers.emplace_back(server.address(), ("127.0.1." + std::to_string(number)).c_str());
    }
  };
  come(128);
  std::this_thread::sleep_for(250ms);  // Time that they had to speak.
  for (int i = 0; i < 40; ++i) {
    peers.emplace_back(server.address());
    come(2);
  }
  for (const auto& peer : peers) {
    peer.be_patient(2s);
    CHECK(peer.send(frame(alice())));
    const auto reply = peer.read_frame();
    CHECK((reply && reply->first == FrameKind::welcome));
  }
}

TEST_CASE("a process out of descriptors accepts again when some come free") {
  const Server server;
  RawCaller caller;  // While there are descriptors.
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  auto none = before;
  none.rlim_cur = 3;
  setrlimit(RLIMIT_NOFILE, &none);
  caller.connect(server.address());
  const bool sent = caller.send(frame(alice()));
  caller.be_patient(300ms);
  const auto early = caller.read(1);
  setrlimit(RLIMIT_NOFILE, &before);
  REQUIRE(sent);
  CHECK(early.empty());
  caller.be_patient(10s);
  const auto reply = caller.read_frame();
  REQUIRE(reply);
  CHECK((reply->first == FrameKind::welcome));
  check_serves(server);
}

TEST_CASE("nobody takes the descriptors that UCX needs, or nobody is sent to it") {
  const Server server;
  std::vector<RawCaller> callers(5);  // While there are descriptors.
  std::vector<int> taken;
  const auto take_all = [&] {  // Others of this process, who need not say who they are.
    for (int fd = 0; (fd = ::dup(STDERR_FILENO)) >= 0;) taken.push_back(fd);
  };
  const auto give = [&](int count) {
    for (; count > 0 && !taken.empty(); --count, taken.pop_back()) ::close(taken.back());
  };
  const auto greet = [&](RawCaller& caller) {
    give(1);  // For the door.
    caller.connect(server.address());
    return caller.send(frame(alice())) ? caller.read_frame() : std::nullopt;
  };
  const auto is_exhausted = [](const auto& reply) {
    if (!reply || reply->first != FrameKind::refusal) return false;
    const auto failure = decode_failure(reply->second);
    return failure && failure->code() == Errc::exhausted;
  };
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  auto few = before;
  few.rlim_cur = std::min<rlim_t>(before.rlim_cur, 256);
  setrlimit(RLIMIT_NOFILE, &few);
  take_all();
  const auto first = greet(callers[0]);  // What is held back does for it,
  bool accepted = false;
  if (first && first->first == FrameKind::welcome) {
    const auto welcome = decode_welcome(first->second);
    callers[4].connect("127.0.0.1:" + std::to_string(welcome->port));
    callers[4].be_patient(200ms);
    accepted = callers[4].is_connected() && !callers[4].is_answered();
  }
  std::this_thread::sleep_for(50ms);  // Its accept() is UCX's own thread's.
  take_all();                         // and while it is free, others may take it.
  const auto second = greet(callers[1]);
  callers[0].reset();
  const auto third = greet(callers[2]);
  give(static_cast<int>(taken.size()));
  setrlimit(RLIMIT_NOFILE, &before);
  REQUIRE(first);
  CHECK((first->first == FrameKind::welcome));
  CHECK(accepted);
  CHECK(is_exhausted(second));
  CHECK(is_exhausted(third));
  check_serves(server);
}

TEST_CASE("UCX's ports take no packet from anyone who is not being admitted") {
  const Server server;
  check_serves(server);  // And none after it.
  const auto ports = listening(server.address());
  CHECK(ports.size() == 2);  // Of its connections and of its data.
  for (const auto& port : ports)
    for (const char* from : {"127.0.0.1", "127.0.0.2"}) {
      INFO(port, " from ", std::string(from));
      const RawCaller stranger(port, from);
      CHECK_FALSE(stranger.is_connected());
    }
  check_serves(server);
}

TEST_CASE("while one host is let in, others still are not") {
  const Server server;
  const RawCaller guest(server.address());
  REQUIRE(guest.send(frame(alice())));
  const auto reply = guest.read_frame();
  REQUIRE(reply);
  const auto welcome = decode_welcome(reply->second);
  REQUIRE(welcome);
  const auto port = "127.0.0.1:" + std::to_string(welcome->port);
  CHECK(RawCaller(port).is_connected());
  CHECK_FALSE(RawCaller(port, "127.0.0.2").is_connected());
}

namespace {

// Whether the other end, of this process, has accepted the caller and read all that it sent.
bool is_taken(const RawCaller& caller) {
  const auto until = std::chrono::steady_clock::now() + 5s;
  while (std::chrono::steady_clock::now() < until) {
    std::ifstream table("/proc/self/net/tcp");
    for (std::string line; std::getline(table, line);) {
      std::istringstream words(line);
      std::string number, local, remote, state, queues, timer, retransmits, user, timeout, inode;
      words >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >>
          timeout >> inode;
      // An end that nobody has accepted has no inode.
      if (remote == caller.kernel_name() && state != "0A" && inode != "0" &&
          queues.ends_with(":00000000"))
        return true;
    }
    if (caller.is_answered()) return true;  // It has hung up already.
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

}  // namespace

TEST_CASE("a peer may hang up in each phase of the greeting") {
  const Server server;
  const auto bytes = frame(alice());
  for (const bool with_reset : {false, true})
    for (const std::size_t sent : {std::size_t{0}, std::size_t{5}, std::size_t{8}, std::size_t{20},
                                   bytes.size() - 1, bytes.size(), bytes.size() + 1}) {
      INFO("sent=", sent, " with_reset=", with_reset);
      RawCaller caller(server.address());
      auto some = bytes;
      some.resize(sent);
      REQUIRE(caller.send(some));
      if (sent == bytes.size() && with_reset) REQUIRE(caller.read_frame());
      if (with_reset) {
        REQUIRE(is_taken(caller));
        caller.reset();
      }
    }
  check_serves(server);
  for (const auto& port : listening(server.address())) {
    INFO(port);  // Whoever was let in has left, and the door behind UCX is shut again.
    CHECK_FALSE(RawCaller(port).is_connected());
  }
}

TEST_CASE("random greetings are answered or dropped") {
  const Server server;
  const auto run = [&](std::uint64_t seed) {
    INFO("seed=", seed);
    std::mt19937_64 random(seed);
    auto bytes = frame(alice());
    for (auto changes = 1 + random() % 4; changes > 0; --changes)
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    if (random() % 3 == 0) bytes.resize(random() % bytes.size());
    RawCaller caller(server.address());
    REQUIRE(caller.send(bytes));
    caller.say_no_more();
    (void)caller.read_frame();  // The answer, or the end: the door has judged it.
    caller.reset();
  };
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) return run(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 200; ++seed) run(seed);
  check_serves(server);
}

TEST_CASE("a server that is none is an error that says so") {
  // A listening socket whose owner answers with noise, or not at all.
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in own{};
  own.sin_family = AF_INET;
  own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(own);
  REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&own), size) == 0);
  REQUIRE(::listen(fd, 4) == 0);
  REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) == 0);
  const auto address = "127.0.0.1:" + std::to_string(ntohs(own.sin_port));
  IoThread thread("client");
  std::unique_ptr<Transport> transport;
  thread.run_on([&] {
    transport = make_ucx_transport(thread.context(), {"", "client", nullptr, {}});
  });
  Side side;
  const auto silent = connect(thread, *transport, address, alice().hello, side, in(300ms));
  CHECK((silent.code == Errc::timed_out));
  std::thread noise([&] {
    for (int i = 0; i < 2; ++i) {  // The silent one waits in the queue.
      const int caller = ::accept(fd, nullptr, nullptr);
      const Bytes bytes(64, std::byte{0x48});
      (void)!::send(caller, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      ::close(caller);
    }
  });
  const auto noisy = connect(thread, *transport, address, alice().hello, side, in(5s));
  noise.join();
  INFO(noisy.text);
  CHECK((noisy.code == Errc::protocol || noisy.code == Errc::peer_lost));
  thread.run_on([&] { transport.reset(); });
  ::close(fd);
}

namespace {

// A guarded listening socket, bound by the kernel to any address.
struct GuardedPort {
  int fd = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  causeway::ucx::SocketGuard guard;
  std::string port;

  GuardedPort() {
    REQUIRE(::listen(fd, 64) == 0);
    sockaddr_in6 own{};
    socklen_t size = sizeof(own);
    REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) == 0);
    guard.close_port(ntohs(own.sin6_port));
    port = std::to_string(ntohs(own.sin6_port));
  }
  ~GuardedPort() {
    if (fd >= 0) ::close(fd);
  }
  GuardedPort(const GuardedPort&) = delete;

  auto let_in(const std::string& host) {
    const auto bytes = causeway::ucx::parse_address(host + ":0").host();
    return guard.let_in({&bytes, 1});
  }
  [[nodiscard]] bool takes(const std::string& host) const {
    return RawCaller(host + ":" + port).is_connected();
  }
};

}  // namespace

TEST_CASE("a guard takes the hosts that are let in, and no other") {
  GuardedPort guarded;
  CHECK_FALSE(guarded.takes("127.0.0.1"));
  for (const std::string host : {"127.0.0.1", "[::1]"}) {
    if (host == "[::1]" && !std::filesystem::exists("/proc/net/if_inet6")) continue;
    INFO(host);
    const auto pass = guarded.let_in(host);
    CHECK(guarded.takes(host));
    CHECK_FALSE(guarded.takes(host == "[::1]" ? "127.0.0.1" : "[::1]"));
  }
  CHECK_FALSE(guarded.takes("127.0.0.1"));
}

TEST_CASE("a guard that is full refuses who comes, and nobody who is in gives way") {
  GuardedPort guarded;
  std::vector<causeway::ucx::SocketGuard::Pass> passes;
  passes.push_back(guarded.let_in("127.0.0.1"));
  const auto fill = [&] {
    try {
      for (int i = 1; i < 200; ++i)
        passes.push_back(guarded.let_in("[::1:2:" + std::to_string(i) + "]"));
    } catch (const Error& error) {
      INFO(error.what());
      CHECK((error.code() == Errc::exhausted));
      return;
    }
    FAIL("200 hosts were let in at once");
  };
  fill();
  const auto fitted = passes.size();
  MESSAGE(fitted << " hosts fit");
  CHECK(fitted <= 64);
  if (std::getenv("CAUSEWAY_TEST_SMALL_FILTER") != nullptr) CHECK(fitted < 64);
  CHECK(guarded.takes("127.0.0.1"));
  passes.push_back(guarded.let_in("127.0.0.1"));  // It is in already.
  passes.erase(passes.begin());
  CHECK(guarded.takes("127.0.0.1"));
  passes.pop_back();
  CHECK_FALSE(guarded.takes("127.0.0.1"));
  fill();
  CHECK_THROWS_AS(static_cast<void>(guarded.let_in("[::1]")), Error);
  CHECK_FALSE(guarded.takes("[::1]"));  // Who was refused is not in.
  passes.clear();
  CHECK_FALSE(guarded.takes("127.0.0.1"));
  passes.push_back(guarded.let_in("127.0.0.1"));
  CHECK(guarded.takes("127.0.0.1"));
  fill();  // As many as before.
  CHECK(passes.size() == fitted);
}

TEST_CASE("a guard whose port UCX has closed says so") {
  GuardedPort guarded;
  ::close(std::exchange(guarded.fd, -1));
  try {
    static_cast<void>(guarded.let_in("127.0.0.1"));
    FAIL("let in");
  } catch (const Error& error) {
    CHECK((error.code() == Errc::io));
    CHECK(std::string(error.what()).find(guarded.port + " for good") != std::string::npos);
  }
}

TEST_CASE("a guard is full where the kernel grants only a short filter") {
  if (std::getenv("CAUSEWAY_TEST_SMALL_FILTER") != nullptr) return;  // This is the inner run.
  const std::string alone = "unshare -n sh -c 'ip link set lo up && ";
  const std::string limit = "sysctl -qw net.core.optmem_max=8192";
  if (std::system((alone + limit + "' 2>/dev/null").c_str()) != 0) {
    MESSAGE("skipped: needs root, unshare, ip and a limit of optmem_max per network namespace");
    return;
  }
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto command = alone + limit + " && CAUSEWAY_TEST_SMALL_FILTER=1 exec \"" + self +
                       "\" --test-case=\"a guard that is full*\"'";
  CHECK(std::system(command.c_str()) == 0);
}
