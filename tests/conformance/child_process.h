// Runs a function in a process of its own, for tests of what crosses processes and of what kills.
//
// Shape:   fork, run, _exit: no destructor of the parent's objects runs in the child. The
// function's
//          value is the exit code; an exception is printed and gives kChildThrew.
// Errors:  a child that is still there at the deadline is killed and reported as such.
// Threads: fork() only while the process has one thread.
#pragma once

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <utility>

#include "allocator/unique_fd.h"
#include "tools/base/death_signal.h"

namespace causeway::test {

inline constexpr int kChildThrew = 99;
inline constexpr int kChildDeadlineMs = 20000;

// Reaps its process; kills it first if nobody waited.
class Child {
 public:
  static Child start(const std::function<int()>& function) {
    std::fflush(nullptr);
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid < 0) throw std::runtime_error("fork failed");
    if (pid > 0) return Child(pid);
    if (!tools::die_with(parent)) ::_exit(kChildThrew);
    // A sanitizer would turn the signal into an exit code and a page of text.
    for (const int number : {SIGSEGV, SIGBUS}) std::signal(number, SIG_DFL);
    const rlimit no_core = {0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    try {
      ::_exit(function());
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
      ::_exit(kChildThrew);
    }
  }

  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Child& operator=(Child&&) = delete;
  ~Child() {
    if (pid_ < 0) return;
    kill();
    (void)wait();
  }

  void kill() const { ::kill(pid_, SIGKILL); }

  // The exit code; minus the signal's number if a signal ended it; -SIGKILL at the deadline.
  [[nodiscard]] int wait() {
    const UniqueFd exit_event(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    pollfd event = {exit_event.get(), POLLIN, 0};
    int ready = 0;
    do ready = ::poll(&event, 1, kChildDeadlineMs);
    while (ready < 0 && errno == EINTR);
    if (ready == 0) kill();
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }

 private:
  explicit Child(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

[[nodiscard]] inline int run_in_child(const std::function<int()>& function) {
  return Child::start(function).wait();
}

// A pair of connected sockets that carry file descriptors, as the control plane's does.
class FdSockets {
 public:
  FdSockets() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
      throw std::runtime_error("socketpair failed");
    const timeval deadline = {kChildDeadlineMs / 1000, 0};
    for (int i = 0; i < 2; ++i) {
      ends_[i].reset(ends[i]);
      ::setsockopt(ends[i], SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline);
    }
  }

  // End 0, in the program that was started with it.
  explicit FdSockets(UniqueFd end) { ends_[0] = std::move(end); }

  [[nodiscard]] int descriptor(int end) const noexcept { return ends_[end].get(); }

  void send(int end, int fd) const {
    Message message;
    std::memcpy(CMSG_DATA(message.control()), &fd, sizeof fd);
    if (::sendmsg(ends_[end].get(), &message.header, 0) != 1)
      throw std::runtime_error("sendmsg failed");
  }

  [[nodiscard]] UniqueFd receive(int end) const {
    Message message;
    if (::recvmsg(ends_[end].get(), &message.header, MSG_CMSG_CLOEXEC) != 1)
      throw std::runtime_error("no descriptor came before the deadline");
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(message.control()), sizeof fd);
    return UniqueFd(fd);
  }

 private:
  struct Message {
    Message() {
      header.msg_iov = &part;
      header.msg_iovlen = 1;
      header.msg_control = space;
      header.msg_controllen = sizeof space;
      *control() = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    }
    cmsghdr* control() { return CMSG_FIRSTHDR(&header); }

    char byte = 0;
    iovec part = {&byte, 1};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    msghdr header = {};
  };
  UniqueFd ends_[2];
};

}  // namespace causeway::test
