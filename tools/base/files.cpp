#include "tools/base/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "causeway/error.h"

namespace causeway::tools {

namespace {

constexpr std::size_t kMinTokenCharacters = 16;

Error io_error(const std::string& what) { return system_error(what, errno); }

void write_all(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const auto written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw io_error("cannot write " + path);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

std::string read_all(int fd, const std::string& path) {
  std::string text;
  char buffer[65536];
  for (;;) {
    const auto count = ::read(fd, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw io_error("cannot read " + path);
    if (count == 0) return text;
    text.append(buffer, static_cast<std::size_t>(count));
  }
}

std::string checked_token(int fd, const std::string& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) throw io_error("cannot inspect token file " + path);
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0)
    throw Error(Errc::permission_denied,
                fmt::format("token file {} (mode {:04o}, owner {}) is not private to user {}: "
                            "run chmod 600 on it, or name another with --token-file",
                            path, info.st_mode & 07777, info.st_uid, ::geteuid()));
  auto token = read_all(fd, path);
  while (!token.empty() && (token.back() == '\n' || token.back() == '\r' || token.back() == ' '))
    token.pop_back();
  if (token.size() < kMinTokenCharacters)
    throw Error(Errc::invalid_argument,
                fmt::format("token file {} holds {} characters; a token needs at least {}", path,
                            token.size(), kMinTokenCharacters));
  return token;
}

}  // namespace

void UniqueFd::reset() noexcept {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

std::string runtime_folder() {
  const char* base = std::getenv("XDG_RUNTIME_DIR");
  const std::string root = base != nullptr && *base != '\0' ? base : "/tmp";
  auto folder = fmt::format("{}/causeway-{}", root, ::geteuid());
  make_private_folder(folder);
  return folder;
}

void make_private_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0) return;
  if (errno != EEXIST) throw io_error("cannot create folder " + path);
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) throw io_error("cannot inspect folder " + path);
  if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0)
    throw Error(Errc::permission_denied,
                fmt::format("{} exists but is not a private folder of user {} (mode {:04o}, owner "
                            "{}): remove it, or set XDG_RUNTIME_DIR",
                            path, ::geteuid(), info.st_mode & 07777, info.st_uid));
}

std::optional<std::string> read_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return std::nullopt;
  if (!fd.valid()) throw io_error("cannot open " + path);
  return read_all(fd.get(), path);
}

std::string last_lines(const std::string& text, std::size_t count) {
  auto end = text.size();
  while (end > 0 && text[end - 1] == '\n') --end;
  auto begin = end;
  for (; begin > 0; --begin)
    if (text[begin - 1] == '\n' && --count == 0) break;
  return text.substr(begin, end - begin);
}

void write_private_file(const std::string& path, std::string_view text) {
  const auto temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  ::unlink(temporary.c_str());
  {
    const UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd.valid()) throw io_error("cannot create " + temporary);
    write_all(fd.get(), text, temporary);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const auto error = io_error("cannot rename " + temporary + " to " + path);
    ::unlink(temporary.c_str());
    throw error;
  }
}

void write_file(const std::string& path, std::string_view text) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd.valid()) throw io_error("cannot write " + path);
  write_all(fd.get(), text, path);
}

std::string random_hex(std::size_t bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes; ++i) {
    unsigned char byte = 0;
    while (::getrandom(&byte, 1, 0) != 1)
      if (errno != EINTR) throw io_error("cannot get random bytes");
    text += fmt::format("{:02x}", byte);
  }
  return text;
}

std::string load_or_create_token(const std::string& path) {
  {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (fd.valid()) write_all(fd.get(), random_hex(32) + "\n", path);
    if (!fd.valid() && errno != EEXIST) throw io_error("cannot create token file " + path);
  }
  return load_token(path);
}

std::string load_token(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT)
    throw Error(Errc::not_found, "there is no token file " + path);
  if (!fd.valid()) throw io_error("cannot open token file " + path);
  return checked_token(fd.get(), path);
}

FileLock::FileLock(const std::string& path, std::chrono::milliseconds patience)
    : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
  if (!fd_.valid()) throw io_error("cannot open lock " + path);
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) throw io_error("cannot lock " + path);
    if (std::chrono::steady_clock::now() >= deadline)
      throw Error(Errc::timed_out, "another causeway command has held " + path + " for " +
                                       std::to_string(patience.count()) + " ms; try again");
    ::poll(nullptr, 0, 20);  // flock has no deadline of its own.
  }
}

}  // namespace causeway::tools
