// Goal:   nothing that comes from outside harms a daemon or another session.
// Method: raw sockets and raw channels against a real daemon; after each attack the same bystander
//         must be served, and the books must be as they were.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/json.hpp>
#include <cstring>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "allocator/unique_fd.h"
#include "causeway/topology_export.h"
#include "live_pool.h"
#include "runtime/control/client.h"
#include "runtime/control/server.h"
#include "tests/error_of.h"
#include "tests/runtime/topology/graph_maker.h"
#include "transport/blocking.h"
#include "transport/ucx/ucx_transport.h"

using namespace causeway;
using namespace causeway::test;
using namespace std::chrono_literals;
using Json = boost::json::object;

namespace {

constexpr auto kCluster = R"(
name: test
nodes:
  - name: a
    devices:
      - {gpu: rtx-5090, count: 1, capacity: 4 MiB}
)";
constexpr auto kLimit = 5s;

Json parse(const ControlReply& reply) { return boost::json::parse(reply.body).as_object(); }

struct Session {
  std::string session;
  std::string key;
  [[nodiscard]] Json json() const { return {{"session", session}, {"key", key}}; }
  [[nodiscard]] SessionId id() const { return std::stoull(session, nullptr, 16); }
};

// A session without a connection of its own, as curl would open one.
Session open_session(ControlClient& client, int ttl_ms = 60000) {
  const auto answer = parse(client.call(
      "POST", "/v1/sessions", serialize(Json{{"client", "test"}, {"ttl_ms", ttl_ms}}), kLimit));
  return {std::string(std::string_view(answer.at("session").as_string())),
          std::string(std::string_view(answer.at("key").as_string()))};
}

ControlReply lend(ControlClient& client, const Session& session, const char* region,
                  std::uint64_t offset, std::uint64_t size, bool map = false) {
  auto body = session.json();
  body["region"] = region;
  body["device"] = "gpu0";
  body["map"] = map;
  body["pieces"] = boost::json::array{Json{{"offset_bytes", offset}, {"size_bytes", size}}};
  return client.call("POST", "/v1/extents", serialize(body), kLimit);
}

// Sends raw bytes and returns what comes back until the peer is silent or closes.
std::string converse(const std::string& address, const std::string& bytes) {
  const auto [host, port] = parse_host_port(address);
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::connect(socket.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
  (void)::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  ::shutdown(socket.get(), SHUT_WR);
  std::string answer;
  char buffer[4096];
  for (;;) {
    pollfd entry{socket.get(), POLLIN, 0};
    if (::poll(&entry, 1, 3000) <= 0) break;
    const auto got = ::recv(socket.get(), buffer, sizeof buffer, 0);
    if (got <= 0) break;
    answer.append(buffer, static_cast<std::size_t>(got));
  }
  return answer;
}

}  // namespace

TEST_CASE("malformed and hostile requests are refused, and the daemon goes on serving") {
  LivePool live(kCluster, {"a"});
  auto bystander = live.connect("a");
  const auto address = live.control("a");
  const auto authorization = "Authorization: Bearer " + live.token() + "\r\n";
  const auto post = [&](const std::string& path, const std::string& body) {
    return converse(address, "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + authorization +
                                 "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
                                 body);
  };
  struct Attack {
    const char* what;
    std::string answer;
    const char* expected;
  };
  const std::string deep(100000, '[');
  const Attack attacks[] = {
      {"not HTTP", converse(address, std::string(300, '\xff') + "\r\n\r\n"), "400"},
      {"no token", converse(address, "GET /v1/pool HTTP/1.1\r\nHost: x\r\n\r\n"), "401"},
      {"a wrong token",
       converse(address, "GET /v1/pool HTTP/1.1\r\nAuthorization: Bearer nope\r\n\r\n"), "401"},
      {"a header without end", converse(address, "GET / HTTP/1.1\r\nX: " + std::string(20000, 'x')),
       "400"},
      {"a body said to be huge",
       converse(address, "POST /v1/sessions HTTP/1.1\r\n" + authorization +
                             "Content-Length: 99999999999\r\n\r\n{}"),
       "400"},
      {"a truncated body",
       converse(address, "POST /v1/sessions HTTP/1.1\r\n" + authorization +
                             "Content-Length: 100\r\n\r\n{\"cli"),
       ""},
      {"an unknown path", post("/v1/nothing", "{}"), "404"},
      {"an unknown method",
       converse(address, "BREW /v1/pool HTTP/1.1\r\n" + authorization + "\r\n"), "400"},
      {"no JSON", post("/v1/sessions", "client=me"), "400"},
      {"JSON nested too deep", post("/v1/sessions", deep), "400"},
      {"a wrong type", post("/v1/sessions", R"({"client": 7})"), "400"},
      {"a name with a line end", post("/v1/sessions", "{\"client\": \"a\\nb\"}"), "400"},
      {"a negative time", post("/v1/sessions", R"({"client": "x", "ttl_ms": -1})"), "400"},
      {"a number too large", post("/v1/sessions", R"({"client": "x", "ttl_ms": 1e300})"), "400"},
      {"a bad session", post("/v1/extents", R"({"session": "zz", "key": ""})"), "400"},
      {"a false node",
       post("/v1/nodes", R"({"name": "b", "control": "x", "data": "y", "cluster": "nodes: [[[["})"),
       "400"},
  };
  for (const auto& attack : attacks) {
    INFO(attack.what, ": ", attack.answer);
    if (*attack.expected)
      CHECK(attack.answer.starts_with("HTTP/1.1 " + std::string(attack.expected)));
    if (*attack.expected) CHECK(attack.answer.find("\"error\"") != std::string::npos);
  }
  CHECK(bystander.allocate(65536).size_bytes() == 65536);
  CHECK(live.daemon("a").is_running());
}

TEST_CASE("strangers cannot keep users out") {
  LivePool live(kCluster, {"a"});
  const auto [host, port] = parse_host_port(live.control("a"));
  std::vector<UniqueFd> idle;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int i = 0; i < 900; ++i) {
    idle.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(idle.back().get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
  }
  CHECK(live.connect("a").allocate(65536).size_bytes() == 65536);
  idle.clear();
  ControlClient client(live.control("a"), live.token(), "a");
  CHECK(eventually([&] {
    try {
      return client.call("GET", "/v1/node", "", kLimit).body.find("a/gpu0") != std::string::npos;
    } catch (const Error&) {
      return false;
    }
  }));
}

// Requests that the daemon is answering, without the one that asks.
static int running(ControlClient& client) {
  const auto metrics = client.call("GET", "/metrics", "", kLimit).body;
  constexpr std::string_view kName = "\ncauseway_control_requests_running ";
  const auto at = metrics.find(kName);
  REQUIRE(at != std::string::npos);
  return std::stoi(metrics.substr(at + kName.size())) - 1;
}

static Json member(const Json& session, int rank);

TEST_CASE("where a member of a group is called is in digits") {
  LivePool live(kCluster, {"a"});
  ControlClient client("unix:" + live.socket("a"), "", "a");
  auto body = member(open_session(client).json(), 0);
  body["address"] = "localhost:1";
  const auto failed =
      error_of([&] { client.call("POST", "/v1/group-members/g", serialize(body), kLimit); });
  CHECK(failed.code() == Errc::invalid_argument);
  CHECK(std::string(failed.what()).find("digits") != std::string::npos);
}

// What crossed between the nodes, in all.
static std::uint64_t routed_bytes(ControlClient& client) {
  const auto pool = parse(client.call("GET", "/v1/pool", "", kLimit));
  std::uint64_t bytes = 0;
  for (const auto& route : pool.at("routes").as_array())
    bytes += route.at("bytes").to_number<std::uint64_t>();
  return bytes;
}

static Json member(const Json& session, int rank) {
  auto body = session;
  body["rank"] = rank;
  body["node"] = "a";
  body["address"] = "127.0.0.1:1";
  body["timeout_ms"] = 3600000;
  return body;
}

TEST_CASE("a member of a group whose client goes away while it waits fails the group") {
  LivePool live(kCluster, {"a"});
  ControlClient observer("unix:" + live.socket("a"), "", "a");
  for (const bool attached : {false, true}) {
    CAPTURE(attached);
    // An attached session waits over the connection that holds it: both end with the client.
    ControlClient client("unix:" + live.socket("a"), "", "a");
    Json session = open_session(observer).json();
    if (attached) {
      session = parse(client.call("POST", "/v1/sessions", R"({"client": "brief"})", kLimit));
      session = Json{{"session", session.at("session")}, {"key", session.at("key")}};
    }
    auto group = session;
    group["world"] = 3;
    observer.call("POST", "/v1/groups/g", serialize(group), kLimit);
    const auto other = open_session(observer).json();
    std::optional<Error> failed;
    std::thread survivor([&] {
      ControlClient waits("unix:" + live.socket("a"), "", "a");
      failed = error_of(
          [&] { waits.call("POST", "/v1/group-members/g", serialize(member(other, 1)), 60s); });
    });
    CHECK(eventually([&] { return running(observer) == 1; }));
    CHECK(code_of([&] {
            client.call("POST", "/v1/group-members/g", serialize(member(session, 0)), 200ms);
          }) == Errc::timed_out);  // And so the client closes its connection.
    CHECK(eventually([&] { return running(observer) == 0; }, 2s));
    const auto left = observer.call("DELETE", "/v1/sessions", serialize(other), kLimit).body;
    survivor.join();
    CHECK(left == "{}");
    REQUIRE(failed);
    CHECK(failed->code() == Errc::peer_lost);
    CHECK(std::string(failed->what()).find("rank 0") != std::string::npos);
    CHECK(observer.call("GET", "/v1/node", "", kLimit).body.find("brief") == std::string::npos);
  }
}

TEST_CASE("a transfer whose client goes away ends, within a node and between two") {
  constexpr auto kTwoNodes = R"(
name: test
nodes:
  - {name: a, devices: [{gpu: rtx-5090, capacity: 4 MiB}]}
  - {name: b, devices: [{gpu: rtx-5090, capacity: 4 MiB}]}
)";
  LivePool live(kTwoNodes, {"a", "b"});
  ControlClient a("unix:" + live.socket("a"), "", "a");
  ControlClient b("unix:" + live.socket("b"), "", "b");
  const auto session = open_session(a);
  auto same = session.json();
  same["client"] = "test";
  same["ttl_ms"] = 60000;
  b.call("POST", "/v1/sessions", serialize(same), kLimit);
  lend(a, session, "1", 0, 4 << 20);
  lend(b, session, "1", 0, 4 << 20);
  for (const char* kind : {"within", "push", "pull"}) {
    CAPTURE(kind);
    auto body = session.json();
    body["kind"] = kind;
    body["peer"] = "b";
    body["from"] = "1";
    body["to"] = "1";
    body["timeout_ms"] = 3600000;
    boost::json::array pieces;
    const Json piece{
        {"to_offset_bytes", 0}, {"from_offset_bytes", 2 << 20}, {"size_bytes", 2 << 20}};
    for (int i = 0; i < 40'000; ++i) pieces.push_back(piece);  // 80 GiB.
    body["pieces"] = std::move(pieces);
    ControlClient client("unix:" + live.socket("a"), "", "a");
    CHECK(code_of([&] { client.call("POST", "/v1/transfers", serialize(body), 500ms); }) ==
          Errc::timed_out);
    CHECK(eventually([&] { return running(a) == 0; }, 2s));
    // What was in flight ends, and nothing follows.
    std::uint64_t seen = 0;
    int unchanged = 0;
    CHECK(eventually(
        [&] {
          const auto now = routed_bytes(a);
          unchanged = now == std::exchange(seen, now) ? unchanged + 1 : 0;
          return unchanged == 20;
        },
        5s));
  }
  // The memory comes back although the session lives: nothing holds it any more.
  for (auto* node : {&a, &b}) {
    auto whole = session.json();
    whole["region"] = "1";
    whole["offset_bytes"] = 0;
    whole["size_bytes"] = 4 << 20;
    node->call("DELETE", "/v1/extents", serialize(whole), kLimit);
  }
  CHECK(eventually([&] { return live.used_bytes() == 0; }, 2s));
}

TEST_CASE("a node publishes its machine with itself, and its own only") {
  LivePool live(kCluster, {"a"});
  ControlClient client(live.control("a"), live.token(), "a");
  const auto version = [&] {
    return std::string(std::string_view(parse(client.call("GET", "/v1/pool/memory", "", kLimit))
                                            .at("topology_version")
                                            .as_string()));
  };
  const auto graph = [&] {
    return graph_from_json(client.call("GET", "/v1/topology", "", kLimit).body, "the daemon");
  };
  const auto join = [&](ControlClient& node, const std::string& topology,
                        const std::string& data = "127.0.0.1:1") {
    return node.call(
        "POST", "/v1/nodes",
        serialize(Json{{"name", "b"},
                       {"control", "127.0.0.1:1"},
                       {"data", data},
                       {"cluster", "{name: b, nodes: [{name: b, devices: [{host: 1 MiB}]}]}"},
                       {"topology", topology}}),
        kLimit);
  };
  const auto first = version();
  CHECK(graph().find("a/gpu0") != nullptr);
  GraphMaker machine("b"), foreign("a");
  machine.node("b").add("nic0");
  foreign.node("a").add("nic0");
  {
    ControlClient node(live.control("a"), live.token(), "a");
    for (const auto& bad :
         {std::string("{"), graph_to_json(foreign.graph()), std::string(std::size_t{2} << 20, ' ')})
      CHECK_THROWS_AS((void)join(node, bad), Error);
    CHECK(code_of([&] { (void)join(node, graph_to_json(machine.graph()), "localhost:1"); }) ==
          Errc::invalid_argument);  // Names are for the control plane.
    CHECK(version() == first);
    (void)join(node, graph_to_json(machine.graph()));
    CHECK(version() != first);
    CHECK(graph().find("b/nic0") != nullptr);
    CHECK(graph().find("b/host0")->capacity_bytes == 1 << 20);
  }
  CHECK(eventually([&] { return graph().find("b/nic0") == nullptr; }, kLimit));
  CHECK(live.connect("a").topology().find(DeviceName::parse("a/gpu0"))->available_bytes == 4 << 20);
}

TEST_CASE("random bytes on the control port do no harm") {
  LivePool live(kCluster, {"a"});
  auto bystander = live.connect("a");
  const std::string seeds[] = {"GET /v1/pool HTTP/1.1\r\nHost: x\r\n\r\n",
                               "POST /v1/sessions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"};
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    INFO("seed=", seed);
    std::mt19937_64 random(seed);
    auto bytes = seeds[seed % 2];
    for (auto changes = 1 + random() % 8; changes > 0; --changes)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    (void)converse(live.control("a"), bytes + "\r\n\r\n");
  }
  CHECK(bystander.allocate(65536).size_bytes() == 65536);
}

TEST_CASE("lending checks device, size and overlap, and changes nothing when it refuses") {
  LivePool live(kCluster, {"a"});
  ControlClient client("unix:" + live.socket("a"), "", "a");
  const auto session = open_session(client);
  lend(client, session, "1", 0, 65536);
  CHECK(code_of([&] { lend(client, session, "1", 0, 65536); }) == Errc::already_exists);
  lend(client, session, "3", 131072, 65536);
  CHECK(code_of([&] { lend(client, session, "3", 65536, 131072); }) == Errc::already_exists);
  lend(client, session, "3", 0, 131072);  // In front of what is there.
  auto third = session.json();
  third["region"] = "3";
  third["offset_bytes"] = 0;
  third["size_bytes"] = 196608;
  client.call("DELETE", "/v1/extents", serialize(third), kLimit);
  CHECK(code_of([&] { lend(client, session, "2", 0, 0); }) == Errc::invalid_argument);
  CHECK(code_of([&] { lend(client, session, "2", ~0ull - 10, 65536); }) == Errc::invalid_argument);
  CHECK(code_of([&] { lend(client, session, "2", 0, 1ull << 60); }) == Errc::out_of_memory);
  CHECK(code_of([&] { lend(client, session, "2", 0, 5 << 20); }) == Errc::out_of_memory);
  CHECK(live.used_bytes() == 65536);
  lend(client, session, "2", 65536, 65536);
  auto rename = session.json();
  rename["from"] = "2";
  rename["to"] = "1";
  client.call("POST", "/v1/extents/rename", serialize(rename), kLimit);
  auto whole = session.json();
  whole["region"] = "1";
  whole["offset_bytes"] = 0;
  whole["size_bytes"] = 131072;
  client.call("DELETE", "/v1/extents", serialize(whole), kLimit);
  CHECK(live.used_bytes() == 0);
  CHECK(code_of([&] { client.call("DELETE", "/v1/extents", serialize(whole), kLimit); }) ==
        Errc::not_found);
}

TEST_CASE("a session can be used only with its key, and only for its own regions") {
  LivePool live(kCluster, {"a"});
  ControlClient client("unix:" + live.socket("a"), "", "a");
  const auto owner = open_session(client);
  const auto other = open_session(client);
  lend(client, owner, "1", 0, 65536);
  const Session thief{owner.session, other.key};
  CHECK(code_of([&] { lend(client, thief, "2", 0, 65536); }) == Errc::unauthenticated);
  auto take = thief.json();
  CHECK(code_of([&] { client.call("DELETE", "/v1/sessions", serialize(take), kLimit); }) ==
        Errc::unauthenticated);
  auto theirs = other.json();
  theirs["region"] = "1";
  theirs["offset_bytes"] = 0;
  theirs["size_bytes"] = 65536;
  CHECK(code_of([&] { client.call("DELETE", "/v1/extents", serialize(theirs), kLimit); }) ==
        Errc::not_found);
  CHECK(live.used_bytes() == 65536);
}

TEST_CASE("a session that is not renewed ends, with its memory") {
  LivePool live(kCluster, {"a"});
  ControlClient client("unix:" + live.socket("a"), "", "a");
  const auto brief = open_session(client, 400);
  const auto kept = open_session(client, 60000);
  lend(client, brief, "1", 0, 65536);
  lend(client, kept, "1", 0, 65536);
  CHECK(eventually([&] { return live.used_bytes() == 65536; }, 3s));
  CHECK(code_of([&] { lend(client, brief, "2", 0, 65536); }) == Errc::unauthenticated);
}

TEST_CASE("descriptors come with extents on the unix socket, each for its own bytes only") {
  LivePool live(kCluster, {"a"});
  ControlClient client("unix:" + live.socket("a"), "", "a");
  const auto session = open_session(client);
  auto reply = lend(client, session, "1", 0, 131072, true);
  REQUIRE(reply.fds.size() == 1);
  CHECK(::lseek(reply.fds[0].get(), 0, SEEK_END) == 131072);
  ControlClient remote(live.control("a"), live.token(), "a");
  CHECK(lend(remote, session, "2", 0, 65536, true).fds.empty());
}

TEST_CASE("a data message for another session's region takes no byte") {
  LivePool live(kCluster, {"a"});
  ControlClient client("unix:" + live.socket("a"), "", "a");
  const auto owner = open_session(client);
  const auto other = open_session(client);
  const auto fds = lend(client, owner, "1", 0, 65536, true).fds;
  lend(client, other, "7", 0, 65536);
  IoThread io("test-io");
  std::unique_ptr<Transport> transport;
  std::shared_ptr<Channel> channel;
  io.run_on([&] {
    transport = make_ucx_transport(
        io.context(), {.listen = "", .name = "test", .service = nullptr, .on_accept = {}});
  });
  const auto deadline = [] { return std::chrono::steady_clock::now() + 5s; };
  const auto connect = [&](Hello hello) {
    io.wait_for([&](Completion done) {
      transport->connect(live.data("a"), std::move(hello), deadline(),
                         [&, done](std::optional<Error> error, std::shared_ptr<Channel> made) {
                           channel = std::move(made);
                           done(std::move(error), 0);
                         });
    });
  };
  CHECK(code_of([&] {
          connect({Hello::Role::client, "x", owner.id(), other.key});
        }) == Errc::unauthenticated);
  CHECK(code_of([&] {
          connect({Hello::Role::node, "x", 0, "not the token of the pool"});
        }) == Errc::unauthenticated);
  connect({Hello::Role::client, "x", other.id(), other.key});
  std::vector<std::byte> bytes(4096, std::byte{0xab});
  const auto write = [&](RemoteAddress to) {
    io.wait_for([&](Completion done) { channel->write(to, bytes, deadline(), std::move(done)); });
  };
  CHECK(code_of([&] { write({owner.id(), 1, 0}); }) == Errc::permission_denied);
  CHECK(code_of([&] { write({other.id(), 1, 0}); }) == Errc::permission_denied);
  CHECK(code_of([&] { write({other.id(), 7, 65536 - 4095}); }) == Errc::out_of_bounds);
  CHECK(code_of([&] { write({other.id(), 7, ~0ull - 100}); }) == Errc::out_of_bounds);
  write({other.id(), 7, 0});
  std::vector<char> seen(65536, 'x');
  REQUIRE(::pread(fds[0].get(), seen.data(), seen.size(), 0) == 65536);
  CHECK(std::ranges::all_of(seen, [](char c) { return c == 0; }));
  io.run_on([&] {
    channel.reset();
    transport.reset();
  });
}

TEST_CASE("metrics and the page are served; the page without a token, the rest with") {
  LivePool live(kCluster, {"a"});
  ControlClient client(live.control("a"), live.token(), "a");
  const auto metrics = client.call("GET", "/metrics", "", kLimit).body;
  CHECK(metrics.find(
            "causeway_device_capacity_bytes{device=\"a/gpu0\",model=\"rtx-5090\"} 4194304") !=
        std::string::npos);
  ControlClient stranger(live.control("a"), "", "a");
  CHECK(stranger.call("GET", "/", "", kLimit).body.find("<!doctype html>") == 0);
  CHECK(code_of([&] { stranger.call("GET", "/metrics", "", kLimit); }) == Errc::unauthenticated);
}
