#include "tools/bench/child.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>

#include "causeway/error.h"
#include "tools/base/interrupt.h"

namespace causeway::tools {

namespace {

using Clock = std::chrono::steady_clock;

// A file of no name: what a child writes to standard error, for later.
class Notes {
 public:
  Notes() : file_(std::tmpfile(), &std::fclose) {
    if (!file_) throw system_error("cannot open a temporary file", errno);
  }
  [[nodiscard]] int fd() const noexcept { return ::fileno(file_.get()); }
  [[nodiscard]] std::string text() const {
    std::string text(65536, '\0');
    const auto count = ::pread(fd(), text.data(), text.size(), 0);
    text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
    while (text.ends_with('\n')) text.pop_back();
    return text;
  }

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

}  // namespace

Child::Child(const SpawnOptions& options) : process_(spawn(options)) {}
Child::~Child() {
  process_.signal(SIGKILL);
  ::waitpid(process_.id().pid, nullptr, 0);
}
bool Child::wait_ended(Clock::time_point deadline) const { return process_.wait_ended(deadline); }

std::string read_lines(int fd, Clock::time_point deadline,
                       const std::function<void(const std::string& line)>& line) {
  std::string output;
  std::size_t told = 0;
  char buffer[4096];
  for (;;) {
    throw_if_interrupted();
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) throw Error(Errc::timed_out, "no end of the measurement in time: " + output);
    pollfd entry{fd, POLLIN, 0};
    if (::poll(&entry, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000))) <= 0) continue;
    const auto count = ::read(fd, buffer, sizeof buffer);
    if (count <= 0) return output;
    output.append(buffer, static_cast<std::size_t>(count));
    for (std::size_t end = 0; line && (end = output.find('\n', told)) != output.npos;
         told = end + 1)
      line(output.substr(told, end - told));
  }
}

void run_transport_bench(const std::vector<std::string>& arguments, Clock::time_point deadline,
                         const std::function<void(const std::string& line)>& line) {
  const auto program = executable_folder() + "/causeway-bench";
  if (::access(program.c_str(), X_OK) != 0)
    throw Error(Errc::not_found, "there is no program " + program +
                                     ": build the target causeway-bench, or install all of it");
  const Notes notes;
  auto pipe = make_pipe();
  SpawnOptions options;
  options.command = {program};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  options.stdout_fd = pipe.write_end.get();
  options.stderr_fd = notes.fd();
  options.die_with_parent = true;
  const Child child(options);
  pipe.write_end.reset();
  read_lines(pipe.read_end.get(), deadline, line);
  // What it says of itself is all there is: a measurement that fails says why.
  if (const auto text = notes.text(); !text.empty())
    throw Error(Errc::io, "the measurement failed: " + last_lines(text, 5));
  if (!child.wait_ended(deadline)) throw Error(Errc::timed_out, "causeway-bench does not end");
}

}  // namespace causeway::tools
