#include "daemons.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

#include "live_pool.h"

namespace causeway::test {

namespace {

using namespace std::chrono_literals;

constexpr auto kCluster = R"(
name: campaign
nodes:
  - {name: a, devices: [{gpu: rtx-5090, capacity: 64 MiB}]}
  - {name: b, devices: [{gpu: rtx-5090, capacity: 64 MiB}]}
  - {name: c, devices: [{gpu: rtx-5090, capacity: 64 MiB}]}
links:
  - {between: [a, b], bandwidth: 1 GB/s, latency: 100 us}
  - {between: [a, c], bandwidth: 1 GB/s, latency: 100 us}
  - {between: [b, c], bandwidth: 1 GB/s, latency: 100 us}
)";
constexpr auto kDiskOptions = "size=256k";

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// UCX opens some that a program which is started would have, too.
void keep_descriptors_to_ourselves() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    if (const int fd = std::stoi(entry.path().filename()); fd > STDERR_FILENO)
      ::fcntl(fd, F_SETFD, FD_CLOEXEC);
}

}  // namespace

int descriptors_of(pid_t process) {
  std::error_code gone;
  const std::filesystem::directory_iterator list("/proc/" + std::to_string(process) + "/fd", gone);
  return gone ? -1 : static_cast<int>(std::distance(begin(list), end(list)));
}

std::int64_t memory_kib_of(pid_t process) {
  std::istringstream status(read_text("/proc/" + std::to_string(process) + "/status"));
  for (std::string word; status >> word;)
    if (std::int64_t kib = 0; word == "RssAnon:" && status >> kib) return kib;
  return -1;
}

Daemons::Daemons(Network& network) : network_(network), log_pipe_(tools::make_pipe()) {
  std::string pattern = "/tmp/causeway-faults-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make a folder");
  folder_ = pattern;
  std::filesystem::create_directory(folder_ + "/logs");
  if (Network::is_entered())
    has_disk_ =
        ::mount("tmpfs", (folder_ + "/logs").c_str(), "tmpfs", MS_NOSUID, kDiskOptions) == 0;
  std::ofstream(folder_ + "/cluster.yaml") << kCluster;
  std::ofstream(folder_ + "/token") << token() << "\n";
  std::filesystem::permissions(folder_ + "/token", std::filesystem::perms::owner_read);
  ::fcntl(log_pipe_.read_end.get(), F_SETFL, O_NONBLOCK);
  reader_ = std::jthread([this](const std::stop_token& stop) { drain(stop); });
}

Daemons::~Daemons() {
  for (const char node : {'a', 'b', 'c'})
    if (processes_.contains(node)) kill(node);
  if (has_disk_) ::umount2((folder_ + "/logs").c_str(), MNT_DETACH);
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string Daemons::token() { return "0123456789abcdef0123456789abcdef"; }

std::string Daemons::path(char node, const char* suffix) const {
  return folder_ + "/" + node + suffix;
}
std::string Daemons::socket(char node) const { return path(node, ".sock"); }
std::string Daemons::control(char node) const { return addresses_.at(node); }
std::string Daemons::data(char node) const { return state_value(node, "data"); }

std::string Daemons::state_value(char node, const std::string& field) const {
  const auto document = boost::json::parse(read_text(path(node, ".json")));
  return std::string(std::string_view(document.at(field).as_string()));
}

std::string Daemons::log_tail(char node) const {
  const auto text = read_text(folder_ + "/logs/" + node);
  return text.substr(text.size() > 1500 ? text.size() - 1500 : 0);
}

void Daemons::start(char node) {
  keep_descriptors_to_ourselves();
  const auto host = Network::host(node);
  auto data = host + ":0";
  if (Network::is_entered()) data += "," + Network::host(node, Network::second) + ":0";
  const bool is_new = !addresses_.contains(node);
  tools::SpawnOptions options;
  options.command = network_.prefix(node);
  for (const std::string& word :
       {std::string(CAUSEWAYD), std::string("--cluster"), folder_ + "/cluster.yaml",
        std::string("--node"), std::string(1, node), std::string("--token-file"),
        folder_ + "/token", std::string("--socket"), socket(node), std::string("--state-file"),
        path(node, ".json"), std::string("--listen"), is_new ? host + ":0" : addresses_[node],
        std::string("--data-listen"), data})
    options.command.push_back(word);
  if (node != 'a') options.command.insert(options.command.end(), {"--join", addresses_.at('a')});
  options.die_with_parent = true;
  UniqueFd log;
  if (node != 'c')  // Its log begins anew, or the disk would be full by itself some time.
    log = UniqueFd(::open((folder_ + "/logs/" + node).c_str(),
                          O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  options.stdout_fd = options.stderr_fd = log ? log.get() : log_pipe_.write_end.get();
  std::filesystem::remove(path(node, ".json"));
  processes_.insert_or_assign(node, tools::spawn(options));
  const bool ended = !eventually(
      [&] { return std::filesystem::exists(path(node, ".json")) || !is_running(node); }, 30s);
  if (ended || !processes_.contains(node))
    throw std::runtime_error(fmt::format("daemon {} is not ready: {}", node, log_tail(node)));
  addresses_[node] = state_value(node, "control");
}

bool Daemons::is_running(char node) {
  const auto process = processes_.find(node);
  if (process == processes_.end()) return false;
  int status = 0;
  if (::waitpid(process->second.id().pid, &status, WNOHANG) == 0) return true;
  processes_.erase(process);
  own_ends_[node] = status;
  return false;
}

std::string Daemons::take_own_end(char node) {
  if (is_running(node) || own_ends_.count(node) == 0) return "";
  auto text = fmt::format("daemon {} ended by itself with status {:#x}: {}", node, own_ends_[node],
                          log_tail(node));
  own_ends_.erase(node);
  return text;
}

void Daemons::kill(char node) {
  if (!is_running(node)) return;
  const auto process = processes_.find(node);
  process->second.signal(SIGKILL);
  ::waitpid(process->second.id().pid, nullptr, 0);
  processes_.erase(process);
}

std::string Daemons::stop(char node) {
  const auto process = processes_.find(node);
  if (process == processes_.end()) return fmt::format("daemon {} had ended by itself", node);
  process->second.signal(SIGTERM);
  int status = 0;
  const auto pid = process->second.id().pid;
  if (!eventually([&] { return ::waitpid(pid, &status, WNOHANG) == pid; }, 30s)) {
    kill(node);
    return fmt::format("daemon {} did not end within 30 s of SIGTERM", node);
  }
  processes_.erase(process);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  return fmt::format("daemon {} ended with status {:#x}: {}", node, status, log_tail(node));
}

void Daemons::signal(char node, int number) const {
  if (const auto process = processes_.find(node); process != processes_.end())
    process->second.signal(number);
}

pid_t Daemons::pid(char node) const {
  const auto process = processes_.find(node);
  return process == processes_.end() ? -1 : process->second.id().pid;
}

int Daemons::descriptors(char node) const { return descriptors_of(pid(node)); }
std::int64_t Daemons::memory_kib(char node) const { return memory_kib_of(pid(node)); }

void Daemons::fill_disk() {
  const UniqueFd file(
      ::open((folder_ + "/logs/filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  const std::string page(4096, 'x');
  while (::write(file.get(), page.data(), page.size()) > 0) {
  }
}

void Daemons::empty_disk() { ::unlink((folder_ + "/logs/filler").c_str()); }

void Daemons::read_log_pipe(bool is_read) {
  is_read_ = is_read;
  if (is_read) return;
  // A descriptor of its own: the daemon's must keep its own manners.
  const UniqueFd pipe(::open(fmt::format("/proc/self/fd/{}", log_pipe_.write_end.get()).c_str(),
                             O_WRONLY | O_NONBLOCK | O_CLOEXEC));
  const std::string line(64, 'x');
  while (::write(pipe.get(), line.data(), line.size()) > 0) {
  }
}

void Daemons::drain(const std::stop_token& stop) {
  std::string buffer(1 << 16, '\0');
  while (!stop.stop_requested()) {
    std::this_thread::sleep_for(10ms);
    while (is_read_ && ::read(log_pipe_.read_end.get(), buffer.data(), buffer.size()) > 0) {
    }
  }
}

}  // namespace causeway::test
