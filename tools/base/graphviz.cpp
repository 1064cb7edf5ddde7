#include "tools/base/graphviz.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <optional>
#include <string_view>

#include "causeway/error.h"
#include "tools/base/files.h"
#include "tools/base/process.h"

namespace causeway::tools {

namespace {

// A file in memory. Unlike a pipe it needs nobody at its other end while `dot` runs.
UniqueFd memory_file(std::string_view text) {
  UniqueFd file(::memfd_create("dot", MFD_CLOEXEC));
  if (!file.valid()) throw system_error("cannot make a file in memory", errno);
  while (!text.empty()) {
    const auto count = ::write(file.get(), text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw system_error("cannot write a file in memory", errno);
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  if (::lseek(file.get(), 0, SEEK_SET) < 0) throw system_error("cannot rewind", errno);
  return file;
}

std::string read_all(const UniqueFd& file) {
  const auto size = ::lseek(file.get(), 0, SEEK_END);
  if (size < 0) throw system_error("cannot read what dot wrote", errno);
  std::string text(static_cast<std::size_t>(size), '\0');
  std::size_t at = 0;
  while (at < text.size()) {
    const auto count =
        ::pread(file.get(), text.data() + at, text.size() - at, static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw system_error("cannot read what dot wrote", count < 0 ? errno : EIO);
    at += static_cast<std::size_t>(count);
  }
  return text;
}

Process start_dot(const SpawnOptions& options) {
  try {
    return spawn(options);
  } catch (const Error& error) {
    if (error.code() != Errc::not_found) throw;
    throw Error(Errc::not_found,
                "graphviz's 'dot' is not installed, and draws the picture; install the package "
                "graphviz, or write the drawing's text with --format dot");
  }
}

}  // namespace

std::string dot_to_svg(const std::string& dot, std::chrono::seconds limit) {
  const auto in = memory_file(dot);
  const auto out = memory_file("");
  const auto err = memory_file("");
  SpawnOptions options;
  options.command = {"dot", "-Tsvg"};
  options.stdin_fd = in.get();
  options.stdout_fd = out.get();
  options.stderr_fd = err.get();
  options.die_with_parent = true;
  const auto process = start_dot(options);
  const bool ended = process.wait_ended(std::chrono::steady_clock::now() + limit);
  if (!ended) process.signal(SIGKILL);
  int status = 0;
  while (::waitpid(process.id().pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!ended)
    throw Error(Errc::timed_out,
                fmt::format("dot: drew for {} s without an end; draw fewer nodes, or write the "
                            "drawing's text with --format dot",
                            limit.count()));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw Error(Errc::io, fmt::format("dot: failed: {}", last_lines(read_all(err), 3)));
  return read_all(out);
}

}  // namespace causeway::tools
