#include "allocator/guarded_child.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "allocator/unique_fd.h"

namespace causeway {

namespace {

using Clock = std::chrono::steady_clock;

// A child that hangs in the driver must not hold the caller's sockets and locks open. The driver's
// own descriptors stay: if the caller uses NVML itself, the library in the child goes on with them.
void close_inherited(int keep) {
  DIR* folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return;
  while (const auto* entry = ::readdir(folder)) {
    const int fd = std::atoi(entry->d_name);
    if (fd <= STDERR_FILENO || fd == keep || fd == ::dirfd(folder)) continue;
    std::array<char, 64> path{};
    std::snprintf(path.data(), path.size(), "/proc/self/fd/%d", fd);
    std::array<char, 32> target{};
    const auto size = ::readlink(path.data(), target.data(), target.size());
    const std::string_view name(target.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
    if (!name.starts_with("/dev/nvidia")) ::close(fd);
  }
  ::closedir(folder);
}

[[noreturn]] void run_child(const char* name, const std::function<void()>& function, int alive) {
  ::prctl(PR_SET_NAME, name);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  // The caller's handlers would act for the caller.
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTERM, SIGINT})
    std::signal(signal, SIG_DFL);
  close_inherited(alive);
  try {
    function();
  } catch (...) {  // What was written until then is the report.
  }
  ::_exit(0);
}

// True if the child closed its end of the pipe, which it does by ending.
bool wait_for_end(int pipe, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{pipe, 0, 0};
    const int ready =
        ::poll(&entry, 1, static_cast<int>(std::clamp<decltype(left)>(left, 0, 1'000'000)));
    if (ready > 0) return true;
    if (ready == 0 && Clock::now() >= deadline) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
}

// How the child ended. One that the driver holds in the kernel cannot be ended: it stays behind,
// with no descriptor of the caller's, until the driver lets it go.
ChildEnd finish(pid_t child, int pipe, const std::function<Clock::time_point()>& deadline) {
  constexpr std::chrono::milliseconds kGrace{1000};
  bool in_time = false;
  for (auto end = deadline(); !(in_time = wait_for_end(pipe, end));) {
    const auto later = deadline();
    if (later <= end) break;
    end = later;
  }
  if (!in_time) {
    ::kill(child, SIGKILL);
    if (!wait_for_end(pipe, Clock::now() + kGrace)) return {ChildEnd::How::timed_out, 0};
  }
  int status = 0;
  pid_t ended = 0;
  do ended = ::waitpid(child, &status, 0);
  while (ended < 0 && errno == EINTR);
  if (!in_time) return {ChildEnd::How::timed_out, 0};
  // ECHILD: the caller ignores SIGCHLD or waits for any child.
  if (ended == child && WIFSIGNALED(status)) return {ChildEnd::How::crashed, WTERMSIG(status)};
  return {};
}

}  // namespace

ChildEnd run_guarded(const char* name, const std::function<void()>& function,
                     std::chrono::milliseconds timeout) {
  return run_guarded(name, function, [timeout] { return timeout; });
}

ChildEnd run_guarded(const char* name, const std::function<void()>& function,
                     const std::function<std::chrono::milliseconds()>& timeout) {
  const auto deadline = [&, start = Clock::now()] {
    return start + std::min<std::chrono::milliseconds>(timeout(), std::chrono::hours(1));
  };
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return {ChildEnd::How::no_child, errno};
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return {ChildEnd::How::no_child, errno};
  if (child == 0) run_child(name, function, writing.get());
  writing.reset();
  return finish(child, reading.get(), deadline);
}

SharedPages::SharedPages(std::size_t size_bytes)
    : size_bytes_(size_bytes),
      at_(::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
  if (at_ == MAP_FAILED) at_ = nullptr;
}

SharedPages::~SharedPages() {
  if (at_ != nullptr) ::munmap(at_, size_bytes_);
}

}  // namespace causeway
