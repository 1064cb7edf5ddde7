#include "runtime/topology/discovery/nvml.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <new>

#include "allocator/unique_fd.h"
#include "runtime/topology/discovery/nvml_calls.h"

namespace causeway {

namespace {

using Clock = std::chrono::steady_clock;

// Zeroed memory that a forked child shares.
class SharedReport {
 public:
  SharedReport()
      : at_(::mmap(nullptr, sizeof(NvmlReport), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                   -1, 0)) {
    if (at_ != MAP_FAILED) report_ = ::new (at_) NvmlReport{};
  }
  SharedReport(const SharedReport&) = delete;
  SharedReport& operator=(const SharedReport&) = delete;
  ~SharedReport() {
    if (at_ != MAP_FAILED) ::munmap(at_, sizeof(NvmlReport));
  }
  [[nodiscard]] NvmlReport* get() const noexcept { return report_; }

 private:
  void* at_;
  NvmlReport* report_ = nullptr;
};

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

[[noreturn]] void run_child(const std::string& library, NvmlReport& report, int alive) {
  ::prctl(PR_SET_NAME, "causeway-nvml");
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  // The caller's handlers would act for the caller.
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTERM, SIGINT})
    std::signal(signal, SIG_DFL);
  close_inherited(alive);
  fill_report(library, report);
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

// Fills in how the child ended. One that the driver holds in the kernel cannot be ended: it stays
// behind, with no descriptor of the caller's, until the driver lets it go.
void finish(pid_t child, int pipe, Clock::time_point deadline, NvmlReport& report) {
  constexpr std::chrono::milliseconds kGrace{1000};
  const bool in_time = wait_for_end(pipe, deadline);
  if (!in_time) {
    ::kill(child, SIGKILL);
    report.outcome = NvmlOutcome::timed_out;
    if (!wait_for_end(pipe, Clock::now() + kGrace)) return;
  }
  int status = 0;
  pid_t ended = 0;
  do ended = ::waitpid(child, &status, 0);
  while (ended < 0 && errno == EINTR);
  if (!in_time) return;
  // ECHILD: the caller ignores SIGCHLD or waits for any child. The report itself says how it went.
  const bool by_signal = ended == child && WIFSIGNALED(status);
  if (!by_signal && (report.is_complete || report.outcome != NvmlOutcome::complete)) return;
  report.outcome = NvmlOutcome::crashed;
  report.code = by_signal ? WTERMSIG(status) : 0;
}

}  // namespace

std::uint32_t NvmlReport::reported() const noexcept { return std::min(gpu_count, kMaxNvmlGpus); }

std::unique_ptr<const NvmlReport> ask_nvml(const std::string& library,
                                           std::chrono::milliseconds timeout) {
  auto result = std::make_unique<NvmlReport>();
  const auto refused = [&result](int error) {
    result->outcome = NvmlOutcome::no_child;
    result->code = error;
    return std::move(result);
  };
  const auto deadline =
      Clock::now() + std::min<std::chrono::milliseconds>(timeout, std::chrono::hours(1));
  const SharedReport shared;
  if (shared.get() == nullptr) return refused(errno);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return refused(errno);
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return refused(errno);
  if (child == 0) run_child(library, *shared.get(), writing.get());
  writing.reset();
  finish(child, reading.get(), deadline, *shared.get());
  *result = *shared.get();
  return result;
}

std::vector<std::string> missing_facts(const NvmlReport& report) {
  std::vector<std::string> facts;
  for (std::size_t i = 0; i < nvml_function_count(); ++i) {
    const auto& function = nvml_function(i);
    // The newer of two names may be missing as long as the older is there, and the other way round.
    const bool has_newer = i > 0 && nvml_function(i - 1).fact == nullptr &&
                           std::string_view(nvml_function(i - 1).name).starts_with(function.name) &&
                           (report.missing >> (i - 1) & 1) == 0;
    if ((report.missing >> i & 1) != 0 && function.fact != nullptr && !has_newer)
      facts.push_back(
          fmt::format("{}: {} is not in this driver's library", function.fact, function.name));
  }
  return facts;
}

std::string last_call(const NvmlReport& report) {
  return fmt::format("{} of GPU {}", nvml_function(report.function).name, report.subject);
}

std::string nvml_error(nvml::Return code) {
  const auto reason = [code]() -> std::string_view {
    switch (code) {
      case nvml::kNotSupported:
        return "not supported";
      case nvml::kNoPermission:
        return "no permission";
      case nvml::kDriverNotLoaded:
        return "the driver is not loaded";
      case nvml::kTimeout:
        return "the driver timed out";
      case nvml::kGpuIsLost:
        return "the GPU is lost: it has fallen off the bus";
      case nvml::kResetRequired:
        return "the GPU must be reset";
      case nvml::kBlocked:
        return "the operating system blocks the device";
      case nvml::kVersionMismatch:
        return "the library and the loaded driver are of different versions";
      default:
        return "an error";
    }
  }();
  return fmt::format("{} (NVML error {})", reason, code);
}

}  // namespace causeway
