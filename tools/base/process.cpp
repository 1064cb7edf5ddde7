#include "tools/base/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "causeway/error.h"
#include "tools/base/death_signal.h"

extern char** environ;

namespace causeway::tools {

namespace {

struct ProcessStat {
  char state;
  pid_t parent;
  std::uint64_t start_ticks;
};

std::optional<ProcessStat> stat_of(pid_t pid) {
  std::optional<std::string> text;
  try {
    text = read_file(fmt::format("/proc/{}/stat", pid));
  } catch (const Error&) {
    return std::nullopt;  // It ended between open and read.
  }
  // The name in parentheses may hold anything, so count from the last one.
  const auto close = text ? text->rfind(')') : std::string::npos;
  if (close == std::string::npos) return std::nullopt;
  std::istringstream rest(text->substr(close + 1));
  ProcessStat stat{};
  rest >> stat.state;
  std::string skipped;
  rest >> stat.parent;
  for (int field = 5; field <= 21; ++field) rest >> skipped;
  rest >> stat.start_ticks;
  if (!rest) return std::nullopt;
  return stat;
}

std::vector<std::string> merged_environment(
    const std::vector<std::pair<std::string, std::string>>& changes) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const auto name = text.substr(0, text.find('='));
    if (std::ranges::none_of(changes, [&](const auto& change) { return change.first == name; }))
      result.push_back(text);
  }
  for (const auto& [name, value] : changes) result.push_back(name + "=" + value);
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (auto& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// Moves `fd` to `target`; a descriptor that stands there already only loses close-on-exec.
bool place(int fd, int target) {
  if (fd < 0) return true;
  if (fd == target) return ::fcntl(fd, F_SETFD, 0) == 0;
  return ::dup2(fd, target) >= 0;
}

// In the child, between fork and exec: async-signal-safe calls only.
[[noreturn]] void run_child(const SpawnOptions& options, pid_t parent, int gate, int report,
                            char* const* argv, char* const* envp) {
  const auto fail = [report]() {
    const int error = errno;
    (void)!::write(report, &error, sizeof error);
    ::_exit(127);
  };
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int number : {SIGINT, SIGTERM, SIGPIPE, SIGHUP}) ::signal(number, SIG_DFL);
  if (options.die_with_parent && !die_with(parent)) fail();
  if (options.new_session && ::setsid() < 0) fail();
  if (options.new_group && ::setpgid(0, 0) != 0) fail();
  char go = 0;
  ssize_t count = 0;
  do count = ::read(gate, &go, 1);
  while (count < 0 && errno == EINTR);
  if (count != 1) ::_exit(127);  // The parent gave up or died.
  if (!place(options.stdin_fd, 0) || !place(options.stdout_fd, 1) || !place(options.stderr_fd, 2))
    fail();
  ::execvpe(argv[0], argv, envp);
  fail();
  ::_exit(127);
}

}  // namespace

// By its number: glibc has a function for it only from 2.36 on.
UniqueFd open_pidfd(pid_t pid) {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

std::string ProcessId::to_string() const { return fmt::format("{} {}", pid, start_ticks); }

std::optional<ProcessId> ProcessId::parse(const std::string& text) {
  std::istringstream stream(text);
  ProcessId id;
  if (!(stream >> id.pid >> id.start_ticks) || id.pid <= 1) return std::nullopt;
  return id;
}

std::optional<Process> Process::open(const ProcessId& id) {
  UniqueFd fd = open_pidfd(id.pid);
  if (!fd.valid()) return std::nullopt;
  // The pidfd is held now, so what /proc says about the pid is about the process behind it.
  const auto stat = stat_of(id.pid);
  if (!stat || stat->state == 'Z' || stat->start_ticks != id.start_ticks) return std::nullopt;
  return Process(id, std::move(fd));
}

bool Process::signal(int number) const {
  return ::syscall(SYS_pidfd_send_signal, fd_.get(), number, nullptr, 0) == 0;
}

bool Process::wait_ended(std::chrono::steady_clock::time_point deadline) const {
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd entry{fd_.get(), POLLIN, 0};
    const int ready =
        ::poll(&entry, 1, static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60000)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) throw system_error("cannot wait for a process", errno);
    if (left.count() <= 0) return false;
  }
}

Process spawn(const SpawnOptions& options,
              const std::function<void(const ProcessId&)>& before_exec) {
  auto gate = make_pipe();
  auto report = make_pipe();
  auto command = options.command;
  auto environment = merged_environment(options.environment);
  const auto argv = pointers(command);
  const auto envp = pointers(environment);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) throw system_error("cannot start " + command.front(), errno);
  if (pid == 0) {
    ::close(gate.write_end.get());  // Else the child itself would keep the gate from closing.
    run_child(options, parent, gate.read_end.get(), report.write_end.get(), argv.data(),
              envp.data());
  }
  report.write_end.reset();
  const auto stat = stat_of(pid);  // The child stays, at least as a zombie, until we wait for it.
  if (!stat) {
    gate.write_end.reset();
    ::waitpid(pid, nullptr, 0);
    throw Error(Errc::io, "cannot read /proc/" + std::to_string(pid) + "/stat: is /proc mounted?");
  }
  const ProcessId id{pid, stat->start_ticks};
  try {
    if (before_exec) before_exec(id);
  } catch (...) {
    gate.write_end.reset();
    ::waitpid(pid, nullptr, 0);
    throw;
  }
  auto process = Process::open(id);
  (void)!::write(gate.write_end.get(), "g", 1);
  int error = 0;
  ssize_t count = 0;
  do count = ::read(report.read_end.get(), &error, sizeof error);
  while (count < 0 && errno == EINTR);
  if (count == sizeof error || !process) {  // Exec closes the pipe; only a failure writes to it.
    ::waitpid(pid, nullptr, 0);
    if (count == sizeof error && error == ENOENT)
      throw Error(Errc::not_found, "there is no program '" + command.front() +
                                       "'; give a path, or put its folder into PATH");
    throw system_error("cannot start " + command.front(), count == sizeof error ? error : ECHILD);
  }
  return std::move(*process);
}

bool stop_all(const std::vector<Process>& processes, std::chrono::milliseconds patience) {
  for (const auto& process : processes) process.signal(SIGTERM);
  const auto deadline = std::chrono::steady_clock::now() + patience;
  bool polite = true;
  for (const auto& process : processes) {
    if (process.wait_ended(deadline)) continue;
    polite = false;
    process.signal(SIGKILL);
    // A killed process ends unless it is stuck in the kernel; then waiting longer does not help.
    (void)process.wait_ended(std::chrono::steady_clock::now() + std::chrono::seconds(5));
  }
  return polite;
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const auto pid = static_cast<pid_t>(std::atoi(entry.path().filename().c_str()));
    const auto stat = pid > 1 ? stat_of(pid) : std::nullopt;
    if (stat && stat->parent == parent) found.push_back(pid);
  }
  return found;
}

namespace {

// False if the child has not ended by then.
bool reap(pid_t child, std::chrono::steady_clock::time_point deadline) {
  constexpr int kPaceMs = 10;  // Should there be no descriptor to wait with.
  const UniqueFd fd = open_pidfd(child);
  for (;;) {
    if (::waitpid(child, nullptr, WNOHANG) != 0) return true;
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    pollfd entry{fd.get(), POLLIN, 0};  // poll() passes over -1.
    const int most = fd.valid() ? 60000 : kPaceMs;
    ::poll(&entry, 1, static_cast<int>(std::min<std::int64_t>(left.count(), most)));
  }
}

}  // namespace

std::vector<pid_t> kill_descendants(const std::vector<pid_t>& spared,
                                    std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  std::vector<pid_t> left;
  const auto passed_over = [&](pid_t pid) {
    return std::ranges::count(spared, pid) > 0 || std::ranges::count(left, pid) > 0;
  };
  // The children of one that ends become ours before we can reap it: look until there are none.
  for (;;) {
    auto found = children_of(::getpid());
    std::erase_if(found, passed_over);
    if (found.empty()) return left;
    // Ours to reap: no other has its number.
    for (const pid_t pid : found)
      if (::kill(pid, SIGKILL) != 0 && ::waitpid(pid, nullptr, WNOHANG) == 0) left.push_back(pid);
    std::erase_if(found, passed_over);
    for (const pid_t pid : found)
      if (!reap(pid, deadline)) left.push_back(pid);
  }
}

Pipe make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) throw system_error("cannot create a pipe", errno);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::string executable_folder() {
  std::array<char, 4096> path{};
  const auto length = ::readlink("/proc/self/exe", path.data(), path.size());
  if (length <= 0) throw system_error("cannot read /proc/self/exe", errno);
  const std::string text(path.data(), static_cast<std::size_t>(length));
  return text.substr(0, text.rfind('/'));
}

}  // namespace causeway::tools
