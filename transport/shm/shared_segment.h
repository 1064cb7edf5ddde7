// Memory that several processes of one host map: a sealed memfd, found through /proc.
//
// Shape:   create() makes one; open() maps the one that another process holds as descriptor `fd`.
//          All pages exist from the start. It lives until its last mapping goes: a process that is
//          killed leaves nothing.
// Errors:  io (the system refused: another user's process, another pid namespace); protocol (not a
//          sealed file of that size).
// Threads: a value: one thread at a time; its bytes, whoever has rules for them.
// Source:  memfd_create(2), proc(5).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

#include "allocator/unique_fd.h"

namespace causeway::shm {

class SharedSegment {
 public:
  [[nodiscard]] static SharedSegment create(std::size_t size_bytes);
  [[nodiscard]] static SharedSegment open(pid_t process, int fd, std::size_t size_bytes);
  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&&) = delete;
  ~SharedSegment();

  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }
  // For others to open, until close_fd(): the mapping does not need it.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  void close_fd() noexcept { fd_.reset(); }

 private:
  SharedSegment(UniqueFd fd, std::size_t size_bytes);
  UniqueFd fd_;
  std::span<std::byte> bytes_;
};

}  // namespace causeway::shm
