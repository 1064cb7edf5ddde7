#include "transport/shm/shared_segment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <utility>

#include "allocator/error.h"

namespace causeway::shm {

namespace {
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
}

SharedSegment::SharedSegment(UniqueFd fd, std::size_t size_bytes) : fd_(std::move(fd)) {
  void* const at =
      ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_.get(), 0);
  if (at == MAP_FAILED)
    throw system_error(fmt::format("cannot map {} bytes to share", size_bytes), errno);
  bytes_ = {static_cast<std::byte*>(at), size_bytes};
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : fd_(std::move(other.fd_)), bytes_(std::exchange(other.bytes_, {})) {}

SharedSegment::~SharedSegment() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

SharedSegment SharedSegment::create(std::size_t size_bytes) {
  const auto what = fmt::format("cannot make {} bytes to share", size_bytes);
  UniqueFd fd(::memfd_create("causeway:ranks", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  // fallocate() and not ftruncate(): memory that is not there is an error now, not a SIGBUS later.
  if (!fd || ::fallocate(fd.get(), 0, 0, static_cast<off_t>(size_bytes)) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0)
    throw system_error(what, errno);
  return {std::move(fd), size_bytes};
}

SharedSegment SharedSegment::open(pid_t process, int fd, std::size_t size_bytes) {
  const auto path = fmt::format("/proc/{}/fd/{}", process, fd);
  // O_NONBLOCK: what is there may be a pipe, if the peer lies.
  UniqueFd own(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!own) throw system_error("cannot open " + path, errno);
  struct stat status {};
  const int seals = ::fcntl(own.get(), F_GET_SEALS);
  if (::fstat(own.get(), &status) != 0 || seals < 0 || (seals & kSeals) != kSeals ||
      status.st_size != static_cast<off_t>(size_bytes))
    throw Error(Errc::protocol,
                fmt::format("{} is not a sealed file of {} bytes", path, size_bytes));
  return {std::move(own), size_bytes};
}

}  // namespace causeway::shm
