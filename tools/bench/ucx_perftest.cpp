#include "tools/bench/ucx_perftest.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <sstream>
#include <vector>

#include "causeway/error.h"
#include "tools/base/interrupt.h"
#include "tools/base/process.h"
#include "tools/bench/child.h"

namespace causeway::tools {

namespace {

using Clock = std::chrono::steady_clock;

// A port that is free now. ucx_perftest takes a number only, so another program may take it first:
// see start_server().
int free_port() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  // On every address, as ucx_perftest binds: connections that lately ended at one of them hold
  // ports.
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t length = sizeof address;
  if (!fd.valid() || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
    throw system_error("cannot find a free port", errno);
  return ntohs(address.sin_port);
}

// ucx_perftest says so only once its output buffer is full, so the kernel is asked. Connecting to
// find out would use up the one connection that the server accepts.
bool is_listening(int port) {
  std::istringstream lines(read_file("/proc/net/tcp").value_or(""));
  const auto local = fmt::format(":{:04X}", port);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string slot, local_address, remote_address, state;
    fields >> slot >> local_address >> remote_address >> state;
    if (local_address.ends_with(local) && state == "0A") return true;
  }
  return false;
}

using Way = PerftestWay;

SpawnOptions perftest_options(const std::vector<std::string>& command, int output, Way way) {
  SpawnOptions options;
  options.command = command;
  options.environment = {{"UCX_TLS", "tcp"}, {"UCX_NET_DEVICES", "lo"}};
  if (way == Way::shared_memory) options.environment = {{"UCX_TLS", "posix,cma"}};
  options.stdout_fd = options.stderr_fd = output;
  options.die_with_parent = true;
  return options;
}

struct Server {
  std::unique_ptr<Child> process;
  int port;
};

// A port that was free a moment ago may be taken when the server asks for it.
Server start_server(const std::string& program, Way way, Clock::time_point deadline) {
  constexpr int kTries = 3;
  const UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  int port = 0;
  for (int i = 0; i < kTries; ++i) {
    port = free_port();
    auto server = std::make_unique<Child>(
        perftest_options({program, "-p", std::to_string(port)}, null.get(), way));
    while (!is_listening(port)) {
      throw_if_interrupted();
      if (server->wait_ended(Clock::now() + std::chrono::milliseconds(2))) break;
      if (Clock::now() > deadline) break;
    }
    if (is_listening(port)) return {std::move(server), port};
  }
  throw Error(Errc::io, fmt::format("ucx_perftest does not listen on port {}", port));
}

std::string run(const std::string& program, const std::string& test, std::uint64_t size_bytes,
                std::uint64_t count, Way way, std::chrono::seconds patience) {
  const auto deadline = Clock::now() + patience;
  const auto [server, port] = start_server(program, way, deadline);
  auto client_pipe = make_pipe();
  const Child client(perftest_options(
      {program, "-p", std::to_string(port), "-t", test, "-s", std::to_string(size_bytes), "-n",
       std::to_string(count), "-w", std::to_string(1 + count / 10), "-f", "-v", "127.0.0.1"},
      client_pipe.write_end.get(), way));
  client_pipe.write_end.reset();
  return read_lines(client_pipe.read_end.get(), deadline);
}

// The first number above zero in the column of this title.
std::optional<double> parse_column(const std::string& output, std::string_view title) {
  std::istringstream lines(output);
  std::size_t column = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string field;
    if (column == 0) {
      for (std::size_t i = 1; std::getline(fields, field, ','); ++i)
        if (field == title) column = i;
      continue;
    }
    for (std::size_t i = 1; i <= column; ++i)
      if (!std::getline(fields, field, ',')) field.clear();
    char* end = nullptr;
    const double value = std::strtod(field.c_str(), &end);
    if (end != field.c_str() && value > 0) return value;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> find_ucx_perftest() {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/usr/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    auto program = folder + "/ucx_perftest";
    if (::access(program.c_str(), X_OK) == 0) return program;
  }
  return std::nullopt;
}

double run_ucx_perftest(const std::string& program, std::uint64_t size_bytes, std::uint64_t count,
                        std::chrono::seconds patience) {
  const auto output = run(program, "tag_bw", size_bytes, count, Way::loopback, patience);
  if (const auto rate = parse_ucx_perftest(output)) return *rate;
  throw Error(Errc::io, "ucx_perftest gave no figure: " + output);
}

double run_ucx_latency(const std::string& program, std::uint64_t size_bytes, std::uint64_t count,
                       PerftestWay way, std::chrono::seconds patience) {
  const auto output = run(program, "ucp_am_lat", size_bytes, count, way, patience);
  if (const auto microseconds = parse_column(output, "50.0_percentile_lat"))
    return *microseconds / 1e6;
  throw Error(Errc::io, "ucx_perftest gave no figure: " + output);
}

std::optional<double> parse_ucx_perftest(const std::string& output) {
  const auto mebibytes = parse_column(output, "overall_bw");
  return mebibytes ? std::optional(*mebibytes * 1048576.0) : std::nullopt;
}

}  // namespace causeway::tools
