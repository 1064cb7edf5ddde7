// Files and folders that belong to one user alone: where daemons keep sockets, tokens and pids.
//
// Shape:   everything lies under runtime_folder(), mode 0700; files are 0600 and appear whole.
// Errors:  Errc::io with the path and the system's reason; permission_denied if a folder or token
//          belongs to somebody else or others may read it.
// Threads: free functions; FileLock belongs to one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace causeway::tools {

// An open file descriptor; -1 holds nothing.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() { reset(); }
  void reset() noexcept;
  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] bool valid() const noexcept { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// ${XDG_RUNTIME_DIR:-/tmp}/causeway-UID, created if absent. In /tmp anybody could have made it
// first, so a folder that is not this user's own is refused.
[[nodiscard]] std::string runtime_folder();

// Creates `path` with mode 0700, or checks that it is this user's own, no link, and private.
void make_private_folder(const std::string& path);

// nullopt if there is no such file.
[[nodiscard]] std::optional<std::string> read_file(const std::string& path);
[[nodiscard]] std::string last_lines(const std::string& text, std::size_t count);

// Mode 0600, by a temporary file and a rename: a reader sees the old text or the whole new one.
void write_private_file(const std::string& path, std::string_view text);
// For results that the user asked for (mode by umask).
void write_file(const std::string& path, std::string_view text);

[[nodiscard]] std::string random_hex(std::size_t bytes);

// The token in `path`; a random one is written there first if the file is absent.
// Errors: permission_denied unless the file is this user's own and private; invalid_argument if
// the token has fewer than 16 characters.
[[nodiscard]] std::string load_or_create_token(const std::string& path);
// The same, but the file must exist. Errors: not_found.
[[nodiscard]] std::string load_token(const std::string& path);

// An exclusive flock, so that two `up` or `down` at once take turns.
// Errors: timed_out, naming the file, if another process holds it for longer than `patience`.
class FileLock {
 public:
  FileLock(const std::string& path, std::chrono::milliseconds patience);

 private:
  UniqueFd fd_;
};

}  // namespace causeway::tools
