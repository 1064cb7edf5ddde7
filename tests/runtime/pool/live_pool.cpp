#include "live_pool.h"

#include <fcntl.h>
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
#include <utility>

#include "allocator/unique_fd.h"

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

Process::Process(std::vector<std::string> arguments,
                 const std::map<std::string, std::string>& environment, const std::string& output) {
  tools::SpawnOptions options;
  options.command = std::move(arguments);
  options.environment = {environment.begin(), environment.end()};
  options.die_with_parent = true;
  UniqueFd file;
  if (!output.empty()) {
    file = UniqueFd(::open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!file) throw std::runtime_error("cannot write " + output);
    options.stdout_fd = options.stderr_fd = file.get();
  }
  process_ = tools::spawn(options);
}

Process::Process(Process&& other) noexcept
    : process_(std::exchange(other.process_, std::nullopt)), status_(other.status_) {}

Process& Process::operator=(Process&& other) noexcept {
  std::swap(process_, other.process_);
  std::swap(status_, other.status_);
  return *this;
}

Process::~Process() {
  if (!process_) return;
  process_->signal(SIGKILL);
  ::waitpid(id().pid, nullptr, 0);
}

bool Process::is_running() {
  if (!process_) return false;
  if (::waitpid(id().pid, &status_, WNOHANG) == 0) return true;
  process_.reset();
  return false;
}

void Process::signal(int number) const {
  if (process_) process_->signal(number);
}

int Process::wait(std::chrono::milliseconds limit) {
  if (!eventually([&] { return !is_running(); }, limit))
    throw std::runtime_error("a process did not end in time");
  return WIFSIGNALED(status_) ? -WTERMSIG(status_) : WEXITSTATUS(status_);
}

LivePool::LivePool(const std::string& cluster_yaml, const std::vector<std::string>& nodes,
                   std::vector<std::string> options, std::map<std::string, std::string> environment)
    : token_("0123456789abcdef0123456789abcdef"),
      nodes_(nodes),
      options_(std::move(options)),
      environment_(std::move(environment)) {
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
  arguments.insert(arguments.end(), options_.begin(), options_.end());
  const auto log = folder_ + "/" + node + ".log";
  daemons_[node] = Process(arguments, environment_, log);
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
