#include "tools/daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <iterator>

#include "causeway/error.h"
#include "tools/base/interrupt.h"

namespace causeway::tools {

namespace json = boost::json;

namespace {

UniqueFd open_or_throw(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (!fd.valid()) throw system_error("cannot open " + path, errno);
  return fd;
}

std::string log_tail(const DaemonFiles& files) {
  const auto text = read_file(files.log()).value_or("");
  if (text.empty()) return "it wrote no log";
  return "the end of its log:\n" + last_lines(text, 8);
}

}  // namespace

std::string daemon_program() {
  const auto path = executable_folder() + "/causewayd";
  if (::access(path.c_str(), X_OK) != 0)
    throw Error(Errc::not_found, "there is no daemon program " + path +
                                     ": build the target causewayd, or install the whole of it");
  return path;
}

Process start_daemon(const DaemonFiles& files, std::vector<std::string> arguments) {
  ::unlink(
      files.state().c_str());  // Else the state of an earlier daemon would look like this one's.
  SpawnOptions options;
  options.command = {daemon_program()};
  for (auto& argument : arguments) options.command.push_back(std::move(argument));
  for (const auto& argument :
       {std::string("--socket"), files.socket(), std::string("--state-file"), files.state()})
    options.command.push_back(argument);
  options.new_session = true;
  const auto null = open_or_throw("/dev/null", O_RDONLY);
  const auto log = open_or_throw(files.log(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
  options.stdin_fd = null.get();
  options.stdout_fd = log.get();
  options.stderr_fd = log.get();
  return spawn(options, [&](const ProcessId& id) {
    write_private_file(files.pid(), id.to_string() + "\n");
  });
}

DaemonState wait_ready(const Process& daemon, const DaemonFiles& files,
                       std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    if (auto state = read_daemon_state(files)) return *state;
    throw_if_interrupted();
    // Waking every 20 ms is how the state file is noticed; the daemon's end is noticed at once.
    const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
    if (daemon.wait_ended(soon))
      throw Error(Errc::internal, fmt::format("the daemon of node {} ended before it was ready; {}",
                                              files.stem, log_tail(files)));
    if (soon > deadline)
      throw Error(Errc::timed_out, fmt::format("the daemon of node {} was not ready in time; {}",
                                               files.stem, log_tail(files)));
  }
}

std::optional<Process> find_daemon(const DaemonFiles& files) {
  const auto text = read_file(files.pid());
  if (!text) return std::nullopt;
  const auto id = ProcessId::parse(*text);
  return id ? Process::open(*id) : std::nullopt;
}

std::optional<DaemonState> read_daemon_state(const DaemonFiles& files) {
  const auto text = read_file(files.state());
  if (!text) return std::nullopt;
  boost::system::error_code error;
  const auto value = json::parse(*text, error);
  if (error || !value.is_object()) return std::nullopt;
  const auto field = [&](const char* name) -> std::string {
    const auto* found = value.get_object().if_contains(name);
    return found != nullptr && found->is_string() ? std::string(found->get_string()) : "";
  };
  DaemonState state{field("node"), field("control"), field("data"), field("socket")};
  if (state.node.empty() || state.control_address.empty()) return std::nullopt;
  return state;
}

void remove_daemon_files(const DaemonFiles& files) {
  for (const auto& path : {files.state(), files.socket(), files.log(), files.pid()})
    ::unlink(path.c_str());
}

std::chrono::seconds ready_patience(const std::string& gpus) {
  constexpr std::chrono::seconds kForGpu{10};  // As --gpu-time is if nobody says otherwise.
  std::error_code ignored;
  const std::filesystem::directory_iterator known("/proc/driver/nvidia/gpus", ignored);
  const auto count = ignored || gpus == "emulated" ? 0 : std::distance(begin(known), end(known));
  return kReadyPatience + count * kForGpu;
}

}  // namespace causeway::tools
