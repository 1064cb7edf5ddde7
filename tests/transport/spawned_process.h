// A program started as a process of its own, read through a pipe, and gone with its owner.
//
// Errors:  start() throws causeway::Error if the program cannot be started.
// Threads: any one that outlives the program; the parent may have threads.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/base/process.h"

namespace causeway::test {

class SpawnedProcess {
 public:
  // Its standard output is read by read_line() and read_all().
  static SpawnedProcess start(const std::vector<std::string>& command) {
    auto pipe = tools::make_pipe();
    tools::SpawnOptions options;
    options.command = command;
    options.stdout_fd = pipe.write_end.get();
    options.die_with_parent = true;
    return {tools::spawn(options), std::move(pipe.read_end)};
  }

  SpawnedProcess(SpawnedProcess&& other) noexcept
      : process_(std::exchange(other.process_, std::nullopt)), out_(std::move(other.out_)) {}
  SpawnedProcess& operator=(SpawnedProcess&&) = delete;
  ~SpawnedProcess() {
    if (!process_) return;
    signal(SIGKILL);
    ::waitpid(process_->id().pid, nullptr, 0);
  }

  // After SIGSTOP it does stand still: the signal alone takes a moment, in which it still answers.
  void signal(int number) const {
    if (!process_) return;
    process_->signal(number);
    siginfo_t stopped{};
    if (number == SIGSTOP)
      ::waitid(P_PID, static_cast<id_t>(pid()), &stopped, WSTOPPED | WEXITED | WNOWAIT);
  }
  [[nodiscard]] pid_t pid() const { return process_->id().pid; }

  // Whether it has not ended by itself; afterwards it is never signalled again.
  [[nodiscard]] bool is_running() {
    if (process_ && ::waitpid(pid(), &status_, WNOHANG) == pid()) process_.reset();
    return process_.has_value();
  }
  // Waits for its end. The exit status, or the number of the signal that ended it below zero.
  int wait() {
    if (process_) ::waitpid(pid(), &status_, 0);
    process_.reset();
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
  }

  std::string read_line() {
    std::string line;
    for (char c = 0; ::read(out_.get(), &c, 1) == 1 && c != '\n';) line += c;
    return line;
  }
  std::string read_all() {
    std::string text;
    char buffer[4096];
    for (ssize_t n = 0; (n = ::read(out_.get(), buffer, sizeof(buffer))) > 0;)
      text.append(buffer, static_cast<std::size_t>(n));
    return text;
  }

 private:
  SpawnedProcess(tools::Process process, tools::UniqueFd out)
      : process_(std::move(process)), out_(std::move(out)) {}
  std::optional<tools::Process> process_;
  tools::UniqueFd out_;
  int status_ = 0;
};

}  // namespace causeway::test
