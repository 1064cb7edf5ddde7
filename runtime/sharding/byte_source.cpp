#include "runtime/sharding/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "causeway/error.h"

namespace causeway {

namespace {
constexpr std::uint64_t kPieceBytes = std::uint64_t{256} << 10;
}

ByteSource ByteSource::open(const std::string& path) {
  ByteSource source;
  source.path_ = path;
  // Not blocking: a fifo in the file's place must not hang the caller.
  source.fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (source.fd_ < 0 && errno == ENOENT) throw Error(Errc::not_found, path + ": no such file");
  if (source.fd_ < 0) throw system_error(path + ": cannot be opened", errno);
  struct stat info {};
  if (::fstat(source.fd_, &info) != 0) throw system_error(path + ": cannot be examined", errno);
  if (!S_ISREG(info.st_mode)) throw Error(Errc::io, path + ": is not a regular file");
  source.bytes_ = static_cast<std::uint64_t>(info.st_size);
  return source;
}

ByteSource ByteSource::over(std::span<const std::byte> image) {
  ByteSource source;
  source.bytes_ = image.size();
  source.window_ = image;
  return source;
}

ByteSource::ByteSource(ByteSource&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      bytes_(other.bytes_),
      at_(other.at_),
      piece_(std::move(other.piece_)),
      window_(other.window_),
      window_at_(other.window_at_) {}

ByteSource::~ByteSource() {
  if (fd_ >= 0) ::close(fd_);
}

void ByteSource::read(std::span<std::byte> target) {
  while (!target.empty()) {
    if (at_ < window_at_ || at_ - window_at_ >= window_.size()) fill();
    const auto rest = window_.subspan(at_ - window_at_);
    const auto count = std::min(rest.size(), target.size());
    std::memcpy(target.data(), rest.data(), count);
    target = target.subspan(count);
    at_ += count;
  }
}

void ByteSource::fill() {
  piece_.resize(std::min(kPieceBytes, left()));
  for (;;) {
    const auto got = ::pread(fd_, piece_.data(), piece_.size(), static_cast<off_t>(at_));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw system_error(path_ + ": cannot be read", errno);
    if (got == 0) throw Error(Errc::io, path_ + ": became shorter while it was read");
    window_ = std::span(piece_).first(static_cast<std::size_t>(got));
    window_at_ = at_;
    return;
  }
}

}  // namespace causeway
