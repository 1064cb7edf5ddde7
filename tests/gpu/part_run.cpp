#include "tests/gpu/part_run.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <sstream>

#include "tools/base/process.h"

namespace causeway::gpu {

namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

constexpr int kAbsent = 77;
constexpr std::size_t kMostOutput = std::size_t{8} << 20;
constexpr std::size_t kShownBytes = 4000;
constexpr auto kMercy = std::chrono::seconds(2);  // From SIGTERM to SIGKILL.
constexpr std::chrono::seconds kLeastForCase{5};
constexpr auto kGivenUp = std::chrono::seconds(5);

// What a program says, up to a bound; the rest is dropped.
class Output {
 public:
  explicit Output(tools::UniqueFd end) : end_(std::move(end)) {
    ::fcntl(end_.get(), F_SETFL, O_NONBLOCK);
  }
  [[nodiscard]] int fd() const { return end_.get(); }
  [[nodiscard]] const std::string& text() const { return text_; }
  // False once there is no more for now, or for good.
  bool read_some() {
    std::array<char, 65536> buffer{};
    const auto count = ::read(end_.get(), buffer.data(), buffer.size());
    if (count == 0) end_.reset();
    if (count <= 0) return false;
    const auto room = kMostOutput - std::min(kMostOutput, text_.size());
    text_.append(buffer.data(), std::min(room, static_cast<std::size_t>(count)));
    return true;
  }
  [[nodiscard]] std::string end() const {
    return text_.size() <= kShownBytes ? text_ : text_.substr(text_.size() - kShownBytes);
  }

 private:
  tools::UniqueFd end_;
  std::string text_;
};

// All of it, or its last line.
json::value parse(const std::string& text) {
  boost::system::error_code error;
  auto value = json::parse(text, error);
  if (!error) return value;
  const auto end = text.find_last_not_of('\n');
  if (end == std::string::npos) return nullptr;
  const auto start = text.rfind('\n', end);
  value = json::parse(text.substr(start == std::string::npos ? 0 : start + 1), error);
  return error ? json::value(nullptr) : value;
}

// Text of any program: JSON wants UTF-8, and no control characters are of interest.
std::string plain(std::string text) {
  for (char& c : text)
    if (c != '\n' && (c < ' ' || c > '~')) c = '?';
  return text;
}

std::string how_it_ended(int status) {
  return WIFSIGNALED(status) ? "ended by signal " + std::to_string(WTERMSIG(status))
                             : "exit code " + std::to_string(WEXITSTATUS(status));
}

struct Run {
  bool is_late = false;
  bool is_killed = false;
  bool is_given_up = false;
  int status = 0;
};

Run attend(const tools::Process& process, Output& out, Output& err, Clock::time_point deadline) {
  Run run;
  const auto given_up = deadline + kGivenUp;
  while (!process.wait_ended(Clock::now())) {
    if (!run.is_late && Clock::now() > deadline) {
      run.is_late = true;  // doctest writes the results that it has on SIGTERM.
      ::kill(-process.id().pid, SIGTERM);
    }
    if (!run.is_killed && Clock::now() > deadline + kMercy) {
      run.is_killed = true;
      ::kill(-process.id().pid, SIGKILL);
    }
    if (Clock::now() > given_up) {
      run.is_given_up = true;
      return run;
    }
    pollfd events[] = {{process.fd(), POLLIN, 0}, {out.fd(), POLLIN, 0}, {err.fd(), POLLIN, 0}};
    (void)::poll(events, 3, 50);
    (void)out.read_some();
    (void)err.read_some();
  }
  while (out.read_some()) {
  }
  while (err.read_some()) {
  }
  ::waitpid(process.id().pid, &run.status, 0);
  return run;
}

// What doctest lists: a name a line, between two lines of '='.
std::vector<std::string> case_names(const std::string& listing) {
  std::vector<std::string> names;
  bool is_inside = false;
  std::istringstream lines(listing);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("====")) {
      if (is_inside) break;
      is_inside = true;
    } else if (is_inside) {
      names.push_back(line);
    }
  }
  return names;
}

json::object result_of(const Part& part, const Run& run, const Output& out, const Output& err) {
  json::object result;
  const auto data = parse(out.text());
  const bool ended_well = !run.is_late && WIFEXITED(run.status) && WEXITSTATUS(run.status) == 0;
  const bool is_absent =
      !run.is_late && WIFEXITED(run.status) && WEXITSTATUS(run.status) == kAbsent;
  result["result"] = run.is_late  ? "timed_out"
                     : ended_well ? "passed"
                     : is_absent  ? "absent"
                                  : "failed";
  if (!data.is_null()) result["data"] = data;
  if (ended_well) {
    if (data.is_null()) result["output"] = plain(out.end());
    return result;
  }
  const auto* const why =
      data.is_object() ? data.as_object().if_contains(is_absent ? "absent" : "error") : nullptr;
  if (why != nullptr && why->is_string())
    result[is_absent ? "absent" : "error"] = *why;
  else if (run.is_late)
    result["error"] = "not done after " + std::to_string(part.limit.count()) + " s" +
                      (run.is_given_up ? "; it could not be killed and was left" : "");
  else
    result["error"] = how_it_ended(run.status);
  result["stderr"] = plain(err.end());
  if (data.is_null()) result["output"] = plain(out.end());
  return result;
}

}  // namespace

json::object run_part(const Part& part) {
  json::object result;
  const auto start = Clock::now();
  try {
    auto out = tools::make_pipe();
    auto err = tools::make_pipe();
    const tools::UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    tools::SpawnOptions options;
    options.command = part.command;
    options.stdin_fd = null.get();
    options.stdout_fd = out.write_end.get();
    options.stderr_fd = err.write_end.get();
    options.new_group = true;
    options.die_with_parent = true;
    Output said(std::move(out.read_end));
    Output complained(std::move(err.read_end));
    const auto process = tools::spawn(options);
    out.write_end.reset();
    err.write_end.reset();
    const auto run = attend(process, said, complained, start + part.limit);
    (void)tools::kill_descendants(
        run.is_given_up ? std::vector{process.id().pid} : std::vector<pid_t>{}, kGivenUp);
    result = result_of(part, run, said, complained);
  } catch (const std::exception& error) {
    result = {{"result", "failed"}, {"error", error.what()}};
  }
  result["seconds"] = std::chrono::duration<double>(Clock::now() - start).count();
  result["limit_s"] = part.limit.count();
  return result;
}

json::object run_cases(const Part& part) {
  const auto start = Clock::now();
  const auto end = start + part.limit;
  const auto seconds_left = [&] {
    return std::max(std::chrono::ceil<std::chrono::seconds>(end - Clock::now()),
                    std::chrono::seconds(0));
  };
  auto listing = part;
  listing.command.emplace_back("--list-test-cases");
  auto result = run_part(listing);
  const auto* const said = result.if_contains("output");
  const auto names = case_names(said != nullptr ? std::string(said->as_string()) : "");
  if (result.at("result").as_string() != "passed" || names.empty()) {
    result["result"] = "failed";
    return result;
  }
  json::array cases;
  int failed = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    Part one{part.name, part.command,
             std::min(seconds_left(), std::max(part.limit / 3, kLeastForCase))};
    for (const char* end_of_range : {"--first=", "--last="})
      one.command.push_back(end_of_range + std::to_string(i + 1));
    auto ran = one.limit.count() > 0 ? run_part(one) : not_started(one);
    ran["name"] = names[i];
    if (ran.at("result").as_string() == "passed")
      ran.erase("output");
    else
      ++failed;
    cases.push_back(std::move(ran));
  }
  result = {{"result", failed == 0 ? "passed" : "failed"},
            {"data",
             {{"passed", names.size() - static_cast<std::size_t>(failed)},
              {"failed", failed},
              {"cases", std::move(cases)}}},
            {"seconds", std::chrono::duration<double>(Clock::now() - start).count()},
            {"limit_s", part.limit.count()}};
  if (failed > 0)
    result["error"] = std::to_string(failed) + " of " + std::to_string(names.size()) + " cases";
  return result;
}

json::object not_started(const Part& part) {
  return {{"result", "not_started"},
          {"error", "the time for all parts was over"},
          {"limit_s", part.limit.count()}};
}

}  // namespace causeway::gpu
