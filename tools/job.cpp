#include "tools/job.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>

#include "causeway/error.h"
#include "tools/base/process.h"

namespace causeway::tools {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kTermPatience{5};
// When a rank fails, others often fail alike, and only one of them says why.
constexpr std::chrono::seconds kLastWords{1};
constexpr std::size_t kMaxLineBytes = 65536;
constexpr std::size_t kReadBytes = 16384;
constexpr int kReadsPerPipe = 65536 / kReadBytes + 1;  // pipe(7): 64 KiB.

// Lines of one rank, printed whole so that two ranks never mix within a line.
class PrefixedOutput {
 public:
  PrefixedOutput(int rank, UniqueFd fd) : rank_(rank), fd_(std::move(fd)) {}
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

  // Reads what is there; closes at the end.
  void pump() {
    char buffer[kReadBytes];
    const auto count = ::read(fd_.get(), buffer, sizeof buffer);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (count <= 0) return close();
    pending_.append(buffer, static_cast<std::size_t>(count));
    for (auto end = pending_.find('\n'); end != std::string::npos; end = pending_.find('\n')) {
      print(pending_.substr(0, end));
      pending_.erase(0, end + 1);
    }
    if (pending_.size() > kMaxLineBytes) print(std::exchange(pending_, ""));
  }

  // What is still in the pipe after the rank has ended. A child that it left behind may keep the
  // pipe open, or write to it, for ever: this neither waits for the end nor reads more than a pipe
  // holds.
  void drain() {
    for (int reads = 0; fd_.valid() && reads < kReadsPerPipe; ++reads) {
      pollfd entry{fd_.get(), POLLIN, 0};
      if (::poll(&entry, 1, 0) <= 0) break;
      pump();
    }
    if (fd_.valid()) close();
  }

 private:
  void print(const std::string& line) const { fmt::print(stderr, "[rank {}] {}\n", rank_, line); }
  void close() {
    if (!pending_.empty()) print(std::exchange(pending_, ""));
    fd_.reset();
  }

  int rank_;
  UniqueFd fd_;
  std::string pending_;
};

struct Rank {
  Process process;
  std::optional<int> exit_code;
};

// SIGINT, SIGTERM, SIGHUP and SIGCHLD as a descriptor, while it lives.
class SignalSource {
 public:
  SignalSource() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, number);
    ::sigprocmask(SIG_BLOCK, &set, &before_);
    fd_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd_.valid()) throw system_error("cannot create a signalfd", errno);
  }
  SignalSource(const SignalSource&) = delete;
  SignalSource& operator=(const SignalSource&) = delete;
  ~SignalSource() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] std::optional<signalfd_siginfo> next() const {
    signalfd_siginfo info{};
    if (::read(fd_.get(), &info, sizeof info) != sizeof info) return std::nullopt;
    return info;
  }

 private:
  sigset_t before_{};
  UniqueFd fd_;
};

class Job {
 public:
  // `parent_fd` becomes readable when the program that asked for the job ends.
  explicit Job(int parent_fd) : parent_fd_(parent_fd) {}
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job() { kill_descendants(); }  // Ranks are among them only after an exception or a kill.

  int run(const std::vector<RankPlace>& places, const std::vector<std::string>& command) {
    const auto group = random_hex(8);
    for (std::size_t i = 0; i < places.size(); ++i)
      start(static_cast<int>(i), places, group, command);
    while (running() > 0) {
      if (!wait_for_event()) return 128 + SIGKILL;
      for (auto info = signals_.next(); info; info = signals_.next()) handle(*info);
      reap();
      if (last_words_until_ && Clock::now() >= *last_words_until_) end_others();
      if (deadline_ && Clock::now() >= *deadline_) {
        for (std::size_t i = 0; i < ranks_.size(); ++i) kill_rank(i, SIGKILL);
        deadline_.reset();
      }
    }
    kill_descendants();  // What the ranks left behind must not write on.
    for (auto& output : outputs_) output.drain();
    return result_;
  }

 private:
  void start(int rank, const std::vector<RankPlace>& places, const std::string& group,
             const std::vector<std::string>& command) {
    SpawnOptions options;
    options.command = command;
    options.environment = {{"CAUSEWAY_RANK", std::to_string(rank)},
                           {"CAUSEWAY_WORLD_SIZE", std::to_string(places.size())},
                           {"CAUSEWAY_GROUP", group},
                           {"CAUSEWAY_SOCKET", places[static_cast<std::size_t>(rank)].socket_path},
                           {"OPENBLAS_NUM_THREADS", "1"}};
    options.die_with_parent = true;
    UniqueFd read_end;
    UniqueFd write_end;
    UniqueFd null;
    if (rank > 0) {  // Rank 0 stays in our group: it may read from the terminal.
      auto pipe = make_pipe();
      read_end = std::move(pipe.read_end);
      write_end = std::move(pipe.write_end);
      null = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      options.new_group = true;
      options.stdin_fd = null.get();
      options.stdout_fd = options.stderr_fd = write_end.get();
    }
    ranks_.push_back({spawn(options), std::nullopt});
    if (rank > 0) outputs_.emplace_back(rank, std::move(read_end));
  }

  // False if the program that asked for the job is gone.
  bool wait_for_event() {
    std::vector<pollfd> entries = {{signals_.fd(), POLLIN, 0}, {parent_fd_, POLLIN, 0}};
    for (const auto& output : outputs_) entries.push_back({output.fd(), POLLIN, 0});
    int timeout_ms =
        -1;  // The end of a rank is a signal, so there is nothing to look for in between.
    if (const auto until = last_words_until_ ? last_words_until_ : deadline_) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - Clock::now());
      timeout_ms = static_cast<int>(std::max<std::int64_t>(left.count(), 0));
    }
    if (::poll(entries.data(), entries.size(), timeout_ms) <= 0) return true;
    for (std::size_t i = 0; i < outputs_.size(); ++i)
      if (entries[i + 2].revents != 0) outputs_[i].pump();
    return entries[1].revents == 0;
  }

  void handle(const signalfd_siginfo& info) {
    const int number = static_cast<int>(info.ssi_signo);
    if (number == SIGCHLD) return;
    // The terminal has sent its Ctrl-C to rank 0 already, which is in our group.
    const bool from_terminal = info.ssi_code == SI_KERNEL;
    for (std::size_t i = from_terminal ? 1 : 0; i < ranks_.size(); ++i) kill_rank(i, number);
    if (result_ == 0) result_ = 128 + number;
    begin_end();
  }

  void reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      const auto rank = std::ranges::find_if(
          ranks_, [pid](const Rank& entry) { return entry.process.id().pid == pid; });
      if (rank != ranks_.end())  // Else a child of a rank that came to us when the rank ended.
        ended(static_cast<std::size_t>(rank - ranks_.begin()), status);
    }
  }

  void ended(std::size_t i, int status) {
    const int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    ranks_[i].exit_code = code;
    if (code == 0 || deadline_ || result_ != 0) return;
    result_ = code;
    fmt::print(stderr, "causeway: rank {} {} {}; ending the others\n", i,
               WIFSIGNALED(status) ? "was ended by signal" : "failed with exit code",
               WIFSIGNALED(status) ? WTERMSIG(status) : code);
    if (WIFSIGNALED(status)) return end_others();
    last_words_until_ = Clock::now() + kLastWords;
  }

  void end_others() {
    last_words_until_.reset();
    for (std::size_t i = 0; i < ranks_.size(); ++i) kill_rank(i, SIGTERM);
    begin_end();
  }

  void begin_end() {
    if (!deadline_) deadline_ = Clock::now() + kTermPatience;
  }

  void kill_rank(std::size_t i, int number) {
    if (ranks_[i].exit_code) return;
    // Ranks above 0 lead a group: what they started is signalled with them.
    if (i > 0)
      ::kill(-ranks_[i].process.id().pid, number);
    else
      ranks_[i].process.signal(number);
  }

  [[nodiscard]] std::size_t running() const {
    std::size_t count = 0;
    for (const auto& rank : ranks_) count += rank.exit_code ? 0 : 1;
    return count;
  }

  int parent_fd_;
  SignalSource signals_;
  std::vector<Rank> ranks_;
  std::vector<PrefixedOutput> outputs_;
  std::optional<Clock::time_point> last_words_until_;  // Set once a rank has failed.
  std::optional<Clock::time_point> deadline_;          // Set once the job is ending.
  int result_ = 0;
};

// What the keeper sends when the job could not run.
struct Failure {
  Errc code;
  std::string message;
};

void send_failure(int fd, Errc code, const std::string& message) {
  const auto text = std::string(to_string(code)) + "\n" + message;
  (void)!::write(fd, text.data(), text.size());  // Shorter than a pipe's buffer.
}

std::optional<Failure> receive_failure(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t count = 0; (count = ::read(fd, buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(count));
  const auto end = text.find('\n');
  if (end == std::string::npos) return std::nullopt;
  return Failure{errc_from_string(text.substr(0, end)), text.substr(end + 1)};
}

// What a keeper needs to know of the job.
struct Work {
  const std::vector<RankPlace>& ranks;
  const std::vector<std::string>& command;
  int failure_fd;
};

// Between this program and the ranks. This program and its keepers are each the reaper of all that
// is below them, and end with the one above: whichever of them is left ends the job. With one
// keeper, killing both ends at once would leave what the ranks had started.
constexpr int kKeepers = 2;

int run_below(int keepers, const Work& work, int parent_fd);

[[noreturn]] void run_keeper(int keepers, const Work& work, int parent_fd) {
  int result = 1;
  try {
    result = run_below(keepers, work, parent_fd);
  } catch (const Error& error) {
    send_failure(work.failure_fd, error.code(), error.what());
  } catch (const std::exception& error) {
    send_failure(work.failure_fd, Errc::internal, error.what());
  }
  std::fflush(nullptr);
  ::_exit(result);
}

// Waits for the keeper; hands signals on to it. Returns early if the process above is gone.
int wait_for_keeper(pid_t keeper, const SignalSource& signals, int parent_fd) {
  int status = 0;
  while (::waitpid(keeper, &status, WNOHANG) == 0) {
    std::array<pollfd, 2> entries = {pollfd{signals.fd(), POLLIN, 0}, {parent_fd, POLLIN, 0}};
    ::poll(entries.data(), entries.size(), -1);
    if (entries[1].revents != 0) return 128 + SIGKILL;
    // What the terminal sends reaches the keeper too: it is in our group.
    for (auto info = signals.next(); info; info = signals.next())
      if (info->ssi_signo != SIGCHLD && info->ssi_code != SI_KERNEL)
        ::kill(keeper, static_cast<int>(info->ssi_signo));
  }
  if (!WIFSIGNALED(status)) return WEXITSTATUS(status);
  fmt::print(stderr, "causeway: the job's keeper was ended by signal {}; ending the job\n",
             WTERMSIG(status));
  return 128 + WTERMSIG(status);
}

void say_left(pid_t pid) {
  std::string name;
  try {
    name = read_file(fmt::format("/proc/{}/comm", pid)).value_or("");
  } catch (const Error&) {
    return;  // It has ended after all.
  }
  fmt::print(stderr,
             "causeway: process {} ({}) of the job could not be killed and is left behind; it may "
             "run as another user\n",
             pid, name.substr(0, name.find('\n')));
}

// Runs the job below so many keepers. `parent_fd` becomes readable when the process above ends.
int run_below(int keepers, const Work& work, int parent_fd) {
  const auto others =
      children_of(::getpid());  // A shell that became this program may have left some.
  // What loses its parent among the ranks' children becomes ours, and so can be found.
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
    throw system_error("cannot become a child subreaper", errno);
  if (keepers == 0) return Job(parent_fd).run(work.ranks, work.command);
  const SignalSource signals;  // Blocked from before the fork, so that none is lost.
  const UniqueFd self = open_pidfd(::getpid());
  if (!self.valid()) throw system_error("cannot open a pidfd", errno);
  std::fflush(nullptr);
  const pid_t keeper = ::fork();
  if (keeper < 0) throw system_error("cannot start the job's keeper", errno);
  if (keeper == 0) run_keeper(keepers - 1, work, self.get());
  const int result = wait_for_keeper(keeper, signals, parent_fd);
  const auto left = kill_descendants(others);
  if (keepers == kKeepers)  // The keepers' come to us.
    for (const pid_t pid : left) say_left(pid);
  return result;
}

}  // namespace

int run_job(const std::vector<RankPlace>& ranks, const std::vector<std::string>& command) {
  auto failure = make_pipe();
  const int result = run_below(kKeepers, {ranks, command, failure.write_end.get()}, -1);
  failure.write_end.reset();
  if (const auto error = receive_failure(failure.read_end.get()))
    throw Error(error->code, error->message);
  return result;
}

}  // namespace causeway::tools
