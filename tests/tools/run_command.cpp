#include "tests/tools/run_command.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace causeway::test {

namespace {

using Clock = std::chrono::steady_clock;

void read_some(tools::UniqueFd& fd, std::string& text) {
  std::array<char, 65536> buffer{};
  const auto count = ::read(fd.get(), buffer.data(), buffer.size());
  if (count > 0)
    text.append(buffer.data(), static_cast<std::size_t>(count));
  else
    fd.reset();
}

}  // namespace

RunningCommand::RunningCommand(std::vector<std::string> command,
                               std::vector<std::pair<std::string, std::string>> environment) {
  auto out = tools::make_pipe();
  auto err = tools::make_pipe();
  const tools::UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  tools::SpawnOptions options;
  options.command = std::move(command);
  options.environment = std::move(environment);
  options.stdin_fd = null.get();
  options.stdout_fd = out.write_end.get();
  options.stderr_fd = err.write_end.get();
  options.die_with_parent = true;
  out_ = std::move(out.read_end);
  err_ = std::move(err.read_end);
  process_ = tools::spawn(options);
}

RunningCommand::~RunningCommand() {
  if (reaped_) return;
  process_->signal(SIGKILL);
  ::waitpid(process_->id().pid, nullptr, 0);
}

void RunningCommand::pump(std::chrono::milliseconds wait) {
  std::array<pollfd, 3> entries = {pollfd{out_.get(), POLLIN, 0}, pollfd{err_.get(), POLLIN, 0},
                                   pollfd{process_->fd(), POLLIN, 0}};
  if (::poll(entries.data(), entries.size(), static_cast<int>(wait.count())) <= 0) return;
  if (entries[0].revents != 0) read_some(out_, result_.out);
  if (entries[1].revents != 0) read_some(err_, result_.err);
}

bool RunningCommand::wait_output(const std::string& text, std::chrono::seconds limit) {
  const auto deadline = Clock::now() + limit;
  const auto found = [&]() {
    return result_.out.find(text) != std::string::npos ||
           result_.err.find(text) != std::string::npos;
  };
  while (!found()) {
    if ((!out_.valid() && !err_.valid()) || Clock::now() > deadline) return false;
    pump(std::chrono::milliseconds(100));
  }
  return true;
}

CommandResult RunningCommand::finish(std::chrono::seconds limit) {
  const auto deadline = Clock::now() + limit;
  while (!process_->wait_ended(Clock::now())) {
    if (Clock::now() > deadline) process_->signal(SIGKILL);
    pump(std::chrono::milliseconds(100));
  }
  // Nothing more comes from the program itself; what it left running may hold the pipes open.
  for (auto* fd : {&out_, &err_}) {
    auto& text = fd == &out_ ? result_.out : result_.err;
    for (pollfd entry{fd->get(), POLLIN, 0}; fd->valid() && ::poll(&entry, 1, 0) > 0;)
      read_some(*fd, text);
  }
  int status = 0;
  ::waitpid(process_->id().pid, &status, 0);
  reaped_ = true;
  result_.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return result_;
}

CommandResult run_command(std::vector<std::string> command,
                          std::vector<std::pair<std::string, std::string>> environment,
                          std::chrono::seconds limit) {
  return RunningCommand(std::move(command), std::move(environment)).finish(limit);
}

TemporaryFolder::TemporaryFolder() {
  std::string name = "/tmp/cw-test-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

std::vector<int> processes_with(const std::string& text) {
  std::vector<int> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const auto name = entry.path().filename().string();
    if (!std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; })) continue;
    if (std::stoi(name) == ::getpid()) continue;
    std::string line;
    try {
      line = tools::read_file(entry.path().string() + "/cmdline").value_or("");
    } catch (const std::exception&) {  // It ended meanwhile.
    }
    std::ranges::replace(line, '\0', ' ');
    if (line.find(text) != std::string::npos) found.push_back(std::stoi(name));
  }
  return found;
}

bool wait_no_process_with(const std::string& text, std::chrono::seconds limit) {
  const auto deadline = Clock::now() + limit;
  while (!processes_with(text).empty()) {
    if (Clock::now() > deadline) return false;
    ::poll(nullptr, 0, 20);
  }
  return true;
}

}  // namespace causeway::test
