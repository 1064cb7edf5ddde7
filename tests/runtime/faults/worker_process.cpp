#include "worker_process.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <utility>

#include "live_pool.h"

namespace causeway::test {

using Clock = std::chrono::steady_clock;

WorkerProcess::WorkerProcess(const WorkerOptions& options) {
  auto in = tools::make_pipe();
  auto out = tools::make_pipe();
  tools::SpawnOptions spawn;
  spawn.command = {std::filesystem::read_symlink("/proc/self/exe").string(), "worker"};
  for (auto& argument : options.to_arguments()) spawn.command.push_back(std::move(argument));
  spawn.stdin_fd = in.read_end.get();
  spawn.stdout_fd = out.write_end.get();
  spawn.die_with_parent = true;
  process_ = tools::spawn(spawn);
  in_ = std::move(in.write_end);
  out_ = std::move(out.read_end);
}

WorkerProcess::~WorkerProcess() { kill(); }

void WorkerProcess::say(const std::string& command) const {
  const auto line = command + "\n";
  // If it is gone, that shows when it is listened to.
  static_cast<void>(::write(in_.get(), line.data(), line.size()) < 0);
}

bool WorkerProcess::hears(const std::string& word, Clock::time_point deadline, std::string* rest) {
  for (;;) {
    for (auto end = buffer_.find('\n'); end != std::string::npos; end = buffer_.find('\n')) {
      const auto line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      if (line.starts_with("wrong ")) wrong.push_back(line.substr(6));
      if (!line.starts_with(word)) continue;
      if (rest != nullptr) *rest = line.substr(word.size());
      return true;
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{out_.get(), POLLIN, 0};
    if (::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(left, 0))) <= 0) return false;
    std::array<char, 4096> bytes{};
    const auto got = ::read(out_.get(), bytes.data(), bytes.size());
    if (got <= 0) return false;
    buffer_.append(bytes.data(), static_cast<std::size_t>(got));
  }
}

void WorkerProcess::signal(int number) const {
  if (process_) process_->signal(number);
}

void WorkerProcess::kill() {
  if (!process_) return;
  process_->signal(SIGKILL);
  ::waitpid(pid(), nullptr, 0);
  process_.reset();
  is_killed_ = true;
}

std::optional<int> WorkerProcess::wait(Clock::time_point deadline) {
  int status = 0;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  if (!process_ || !eventually([&] { return ::waitpid(pid(), &status, WNOHANG) == pid(); }, left))
    return std::nullopt;
  process_.reset();
  return status;
}

}  // namespace causeway::test
