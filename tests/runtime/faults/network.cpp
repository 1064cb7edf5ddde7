#include "network.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "live_pool.h"

namespace causeway::test {

namespace {

constexpr Network::Card kCards[] = {Network::first, Network::second};
constexpr const char* kEntered = "CAUSEWAY_TEST_NETWORK";

void run(const std::string& command) {
  if (std::system(command.c_str()) != 0) throw std::runtime_error("failed: " + command);
}

std::string number(char node) { return std::to_string(node - 'a' + 1); }

std::string name_of(Network::Card card) { return "e" + std::to_string(card); }

std::string net_of(char node, Network::Card card) {
  return (card == Network::first ? "10.97." : "10.98.") + number(node);
}

std::string network_of(const std::string& process) {
  std::error_code gone;
  return std::filesystem::read_symlink("/proc/" + process + "/ns/net", gone).string();
}

std::string program_of(pid_t process) {
  std::error_code gone;
  return std::filesystem::read_symlink("/proc/" + std::to_string(process) + "/exe", gone)
      .filename()
      .string();
}

tools::Process hold_namespaces() {
  tools::SpawnOptions options;
  // UCX looks for devices in /sys.
  options.command = {"unshare", "-n", "-m",
                     "sh",      "-c", "mount -t sysfs sysfs /sys && exec sleep infinity"};
  options.die_with_parent = true;
  auto process = tools::spawn(options);
  const auto pid = process.id().pid;
  if (!eventually([&] {
        return program_of(pid) == "sleep" && network_of(std::to_string(pid)) != network_of("self");
      }))
    throw std::runtime_error("cannot make a network namespace");
  return process;
}

}  // namespace

bool Network::is_possible() {
  return std::system(
             "unshare -n -m sh -c 'ip link add va type veth peer name vb && "
             "tc qdisc add dev va root tbf rate 8bit burst 1b limit 1b && "
             "mount -t sysfs sysfs /sys && echo 1 > /proc/sys/net/ipv4/ip_forward' "
             ">/dev/null 2>&1") == 0;
}

bool Network::is_entered() { return std::getenv(kEntered) != nullptr; }

void Network::enter(char** argv) {
  ::setenv(kEntered, "1", 1);
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::vector<char*> command;
  for (const char* word : {"unshare", "-n", "-m", self.c_str()})
    command.push_back(const_cast<char*>(word));
  for (char** word = argv + 1; *word != nullptr; ++word) command.push_back(*word);
  command.push_back(nullptr);
  ::execvp(command[0], command.data());
}

Network::Network() {
  if (!is_entered()) return;
  run("mount -t sysfs sysfs /sys && ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_forward");
  for (const char node : {'a', 'b', 'c'}) {
    machines_.push_back({hold_namespaces()});
    run_there(node, "ip link set lo up");
    for (const auto card : kCards) add_card(node, card);
  }
}

void Network::add_card(char node, Card card) const {
  const auto here = interface_towards(node, card);
  const auto there = name_of(card);
  run("ip link add " + here + " type veth peer name " + there + " netns " +
      std::to_string(machines_.back().holder.id().pid) + " && ip addr add " + net_of(node, card) +
      ".2/24 dev " + here + " && ip link set " + here + " up");
  run_there(node, "ip addr add " + host(node, card) + "/24 dev " + there);
  start_card(node, card);
}

// What goes to the other nodes' cards of the same number leaves by this one.
void Network::start_card(char node, Card card) const {
  const auto name = name_of(card);
  const std::string to = card == first ? "default" : "10.98.0.0/16";
  run_there(node, "ip link set " + name + " up; ip route add " + to + " via " + net_of(node, card) +
                      ".2 dev " + name);
  // UCX takes no card that is not running yet.
  run_there(node, "for i in $(seq 1000); do grep -q up /sys/class/net/" + name +
                      "/operstate && exit 0; sleep 0.005; done; exit 1");
}

Network::~Network() {
  for (const auto& machine : machines_) {
    machine.holder.signal(SIGKILL);
    ::waitpid(machine.holder.id().pid, nullptr, 0);
  }
}

std::string Network::host(char node, Card card) {
  return is_entered() ? net_of(node, card) + ".1" : "127.0.0.1";
}

std::string Network::interface_towards(char node, Card card) {
  return is_entered() ? "h" + std::to_string(card) + number(node) : "lo";
}

std::vector<std::string> Network::prefix(char node) const {
  if (machines_.empty()) return {};
  const auto& holder = machines_[static_cast<std::size_t>(node - 'a')].holder;
  return {"nsenter", "-t", std::to_string(holder.id().pid), "-n", "-m"};
}

void Network::run_there(char node, const std::string& command) const {
  std::string whole;
  for (const auto& word : prefix(node)) whole += word + " ";
  run(whole + "sh -c '" + command + "'");
}

void Network::cut(char node, Card card, bool silent) {
  auto& state = machine(node).cards[static_cast<std::size_t>(card)];
  if (silent) {  // A bucket that no packet fits into.
    const std::string drop = " root tbf rate 8bit burst 1b limit 1b";
    run("tc qdisc replace dev " + interface_towards(node, card) + drop);
    run_there(node, "tc qdisc replace dev " + name_of(card) + drop);
    state.is_silent = true;
  } else {
    run_there(node, "ip link set " + name_of(card) + " down");
    state.is_down = true;
  }
}

void Network::cut(char node, bool silent) {
  for (const auto card : kCards) cut(node, card, silent);
}

void Network::mend(char node, Card card) {
  auto& state = machine(node).cards[static_cast<std::size_t>(card)];
  if (std::exchange(state.is_silent, false)) {
    run("tc qdisc del dev " + interface_towards(node, card) + " root");
    run_there(node, "tc qdisc del dev " + name_of(card) + " root");
  }
  if (std::exchange(state.is_down, false)) start_card(node, card);
}

void Network::mend(char node) {
  for (const auto card : kCards) mend(node, card);
}

}  // namespace causeway::test
