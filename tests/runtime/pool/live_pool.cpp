#include "live_pool.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace causeway::test {

namespace {

using namespace std::chrono_literals;

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(5ms);  // Only the pace of asking; the deadline decides.
  }
  return true;
}

Process::Process(const std::vector<std::string>& arguments,
                 const std::map<std::string, std::string>& environment, const std::string& output) {
  std::vector<char*> argv;
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    if (!environment.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  std::vector<char*> envp;
  for (auto& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  if (!output.empty()) {
    ::posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_APPEND,
                                       0600);
    ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
  }
  const int failed = ::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), envp.data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) throw std::runtime_error("cannot start " + arguments[0]);
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), status_(other.status_) {}

Process& Process::operator=(Process&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(status_, other.status_);
  return *this;
}

Process::~Process() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool Process::is_running() {
  if (pid_ < 0) return false;
  if (::waitpid(pid_, &status_, WNOHANG) == 0) return true;
  pid_ = -1;
  return false;
}

void Process::signal(int number) const {
  if (pid_ > 0) ::kill(pid_, number);
}

int Process::wait(std::chrono::milliseconds limit) {
  if (!eventually([&] { return !is_running(); }, limit))
    throw std::runtime_error("a process did not end in time");
  return WIFSIGNALED(status_) ? -WTERMSIG(status_) : WEXITSTATUS(status_);
}

LivePool::LivePool(const std::string& cluster_yaml, const std::vector<std::string>& nodes)
    : token_("0123456789abcdef0123456789abcdef"), nodes_(nodes) {
  std::string pattern = std::filesystem::temp_directory_path() / "causeway-test-XXXXXX";
  if (!::mkdtemp(pattern.data())) throw std::runtime_error("cannot make a folder for a test pool");
  folder_ = pattern;
  std::ofstream(folder_ + "/cluster.yaml") << cluster_yaml;
  std::ofstream(folder_ + "/token") << token_ << "\n";
  std::filesystem::permissions(folder_ + "/token", std::filesystem::perms::owner_read);
  for (const auto& node : nodes_) start(node);
}

LivePool::~LivePool() {
  daemons_.clear();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void LivePool::start(const std::string& node, const std::string& listen) {
  const auto state = folder_ + "/" + node + ".json";
  std::filesystem::remove(state);
  std::vector<std::string> arguments{CAUSEWAYD,
                                     "--cluster",
                                     folder_ + "/cluster.yaml",
                                     "--node",
                                     node,
                                     "--token-file",
                                     folder_ + "/token",
                                     "--socket",
                                     socket(node),
                                     "--state-file",
                                     state,
                                     "--listen",
                                     listen};
  if (node != nodes_.front()) {
    arguments.push_back("--join");
    arguments.push_back(control(nodes_.front()));
  }
  const auto log = folder_ + "/" + node + ".log";
  daemons_[node] = Process(arguments, {}, log);
  const bool ready = eventually(
      [&] { return std::filesystem::exists(state) || !daemons_[node].is_running(); }, 20s);
  if (!ready || !std::filesystem::exists(state))
    throw std::runtime_error("daemon " + node + " is not ready: " + read_text(log));
}

void LivePool::kill(const std::string& node) {
  daemons_[node].signal(SIGKILL);
  daemons_[node].wait(5s);
}

std::string LivePool::socket(const std::string& node) const {
  return folder_ + "/" + node + ".sock";
}

std::string LivePool::state_value(const std::string& node, const std::string& field) const {
  const auto document = boost::json::parse(read_text(folder_ + "/" + node + ".json"));
  return std::string(std::string_view(document.at(field).as_string()));
}

std::string LivePool::control(const std::string& node) const {
  return state_value(node, "control");
}
std::string LivePool::data(const std::string& node) const { return state_value(node, "data"); }

Pool LivePool::connect(const std::string& node) const {
  return Pool::connect({.socket_path = socket(node), .client_name = "test"});
}

std::uint64_t LivePool::used_bytes() const {
  std::uint64_t used = 0;
  auto pool = connect(nodes_.front());
  for (const auto& node : pool.status().nodes)
    for (const auto& device : node.devices) used += device.used_bytes;
  return used;
}

}  // namespace causeway::test
