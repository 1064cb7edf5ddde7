// Goal:   from another machine a daemon's data plane is there at the address that was configured
// and
//         at no other, and whoever has no valid token gets a refusal and nothing else.
// Method: the daemon runs in a network namespace with two network cards, and is told one of them;
//         this program tries every port that listens there, at every address. Needs root; without
//         it the test says so and passes.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/transport/raw_caller.h"
#include "transport/ucx/ucx_transport.h"

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/conformance/channel_suite.h"

using namespace channel_suite;
using causeway::test::RawCaller;

namespace {

constexpr const char* kTold = "10.97.1.1";
constexpr const char* kOther = "10.97.2.1";

// Ports that listen in the daemon's namespace, on any address.
std::set<int> listening_ports() {
  std::set<int> ports;
  for (const char* const table : {"tcp", "tcp6"}) {
    std::ifstream file("/proc/" + std::string(std::getenv("CAUSEWAY_TEST_FAR")) + "/net/" + table);
    std::string line;
    while (std::getline(file, line)) {
      std::istringstream words(line);
      std::string number, local, remote, state;
      words >> number >> local >> remote >> state;
      if (state == "0A") ports.insert(std::stoi(local.substr(local.rfind(':') + 1), nullptr, 16));
    }
  }
  return ports;
}

std::string address(const char* host, int port) {
  return std::string(host) + ":" + std::to_string(port);
}

std::string value_of(const std::string& name) {
  const char* const value = std::getenv(name.c_str());
  return value != nullptr ? value : "";
}

Result call(const std::string& to, Hello hello) {
  IoThread thread("client");
  std::unique_ptr<Transport> transport;
  thread.run_on([&] { transport = make_ucx_transport(thread.context(), {"", "me", nullptr, {}}); });
  Side side;
  const auto result = connect(thread, *transport, to, std::move(hello), side, in(5s));
  thread.run_on([&] {
    side.channel.reset();
    transport.reset();
  });
  return result;
}

}  // namespace

TEST_CASE("near: the data port is where it was told to be, and nowhere else") {
  if (value_of("CAUSEWAY_TEST_FAR").empty()) return;
  const auto data = value_of("CAUSEWAY_TEST_DATA");

  REQUIRE(data.starts_with(kTold));
  const int door = std::stoi(data.substr(data.rfind(':') + 1));
  const auto ports = listening_ports();
  CHECK(ports.size() >= 3);  // The door, UCX's two, the control plane's.
  CHECK(ports.contains(door));
  for (const int port : ports) {
    INFO(port);
    CHECK_FALSE(RawCaller(address(kOther, port)).is_connected());
    // UCX's own are at the same address, and take nobody's packets.
    CHECK(RawCaller(address(kTold, port)).is_connected() == (port == door));
  }
}

TEST_CASE("near: without a valid token there is a refusal, and nothing else") {
  if (value_of("CAUSEWAY_TEST_FAR").empty()) return;
  const auto data = value_of("CAUSEWAY_TEST_DATA");
  const auto token = value_of("CAUSEWAY_TEST_TOKEN");
  REQUIRE_FALSE(token.empty());
  using Role = Hello::Role;
  for (const auto& credential : {std::string(), std::string("secret"), token.substr(1), token + "0",
                                 std::string(255, 'x')}) {
    INFO(credential.size());
    for (const auto role : {Role::client, Role::node, Role::worker})
      for (const SessionId session : {SessionId{0}, SessionId{1}, ~SessionId{0}}) {
        const auto result = call(data, {role, "stranger", session, credential});
        INFO(result.text);
        // A daemon knows no workers, whatever they show.
        CHECK((result.code == Errc::unauthenticated ||
               (role == Role::worker && result.code == Errc::permission_denied)));
      }
  }
  CHECK_FALSE(call(data, {Role::node, "friend", 0, token}).code);
  // Whoever speaks no greeting hears nothing at all.
  for (const std::string text : {"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", ""}) {
    RawCaller caller(data);
    REQUIRE(caller.is_connected());
    caller.send(std::as_bytes(std::span(text)));
    CHECK(caller.read(4096).size() <= 300);  // At most why it is refused.
  }
}

TEST_CASE("a data port is reachable at its configured address only, and with a token only") {
  if (std::system("unshare -n sh -c 'ip link add va type veth peer name vb' 2>/dev/null") != 0) {
    MESSAGE("skipped: needs root, unshare, ip and veth devices");
    return;
  }
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string script = R"sh(
    set -e
    mount -t sysfs sysfs /sys
    ip link set lo up
    folder=$(mktemp -d)
    unshare -n -m sh -c "
      mount -t sysfs sysfs /sys; ip link set lo up
      for i in \$(seq 500); do
        ip addr show dev c1 2>/dev/null | grep -q 10.97.1.1 &&
          ip addr show dev c2 2>/dev/null | grep -q 10.97.2.1 && break
        sleep 0.01
      done
      exec $2 --node far --contribute host0=16MiB --listen 127.0.0.1:0 \
        --data-listen 10.97.1.1:0 --socket $folder/socket --token-file $folder/token \
        --state-file $folder/state" > $folder/log 2>&1 & far=$!
    trap "kill $far 2>/dev/null; rm -rf $folder" EXIT
    for i in $(seq 500); do
      [ "$(readlink /proc/$far/ns/net)" = "$(readlink /proc/$$/ns/net)" ] || break
      sleep 0.01
    done
    for n in 1 2; do
      ip link add n$n type veth peer name c$n netns $far
      ip addr add 10.97.$n.2/24 dev n$n
      ip link set n$n up
      nsenter -t $far -n sh -c "ip link set c$n up; ip addr add 10.97.$n.1/24 dev c$n"
    done
    for i in $(seq 1000); do [ -s $folder/state ] && break; sleep 0.01; done
    data=$(sed "s/.*\"data\":\"\([^\"]*\)\".*/\1/" $folder/state)
    CAUSEWAY_TEST_FAR=$far CAUSEWAY_TEST_DATA=$data CAUSEWAY_TEST_TOKEN=$(cat $folder/token) \
      "$1" --test-case="near: *" || { cat $folder/log; exit 1; })sh";
  CHECK(std::system(("unshare -n -m sh -c '" + script + "' sh \"" + self + "\" \"" CAUSEWAYD "\"")
                        .c_str()) == 0);
}
