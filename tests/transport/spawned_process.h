// A program started as a process of its own, read through a pipe, and gone with its owner.
//
// Errors:  start() throws causeway::Error if the program cannot be started.
// Threads: any one; posix_spawn, so the parent may have threads.
#pragma once

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include "allocator/error.h"

extern char** environ;

namespace causeway::test {

class SpawnedProcess {
 public:
  // Its standard output is read by read_line() and read_all().
  static SpawnedProcess start(const std::vector<std::string>& command) {
    int ends[2];
    if (::pipe(ends) != 0) throw system_error("cannot make a pipe", errno);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    std::vector<char*> arguments;
    for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_t pid = -1;
    const int failed =
        posix_spawnp(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    if (failed == 0) return SpawnedProcess(pid, ends[0]);
    ::close(ends[0]);
    throw system_error("cannot start " + command[0], failed);
  }

  SpawnedProcess(SpawnedProcess&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)), out_(std::exchange(other.out_, -1)) {}
  SpawnedProcess& operator=(SpawnedProcess&&) = delete;
  ~SpawnedProcess() {
    if (out_ >= 0) ::close(out_);
    if (pid_ < 0) return;
    signal(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void signal(int number) const {
    if (pid_ >= 0) ::kill(pid_, number);
  }

  [[nodiscard]] pid_t pid() const { return pid_; }

  // Whether it has not ended by itself; afterwards it is never signalled again.
  [[nodiscard]] bool is_running() {
    if (pid_ >= 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = -1;
    return pid_ >= 0;
  }
  // Waits for its end. The exit status, or the number of the signal that ended it below zero.
  int wait() {
    if (pid_ >= 0) ::waitpid(std::exchange(pid_, -1), &status_, 0);
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
  }

  std::string read_line() {
    std::string line;
    for (char c = 0; ::read(out_, &c, 1) == 1 && c != '\n';) line += c;
    return line;
  }
  std::string read_all() {
    std::string text;
    char buffer[4096];
    for (ssize_t n = 0; (n = ::read(out_, buffer, sizeof(buffer))) > 0;)
      text.append(buffer, static_cast<std::size_t>(n));
    return text;
  }

 private:
  SpawnedProcess(pid_t pid, int out) : pid_(pid), out_(out) {}
  pid_t pid_;
  int out_;
  int status_ = 0;
};

}  // namespace causeway::test
