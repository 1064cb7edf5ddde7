// Who can share memory with whom, and how a process of this host is found and watched.
//
// Shape:   processes of equal Hosts can open each other's descriptors under /proc, if at all.
// Errors:  open_pipe() and watch() throw io (another user's process, another pid namespace, no
//          descriptor left), open_pipe() protocol if what is there is no pipe. this_host() has
//          none: where the system says too little, is_known() is false.
// Threads: any.
// Source:  proc(5), pidfd_open(2).
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>

#include "allocator/unique_fd.h"

namespace causeway::shm {

struct Host {
  std::array<char, 36> boot;
  std::uint64_t pid_namespace;
  std::uint64_t user;
  std::uint64_t island;  // Named by the caller: hosts that share nothing with each other.
  bool operator==(const Host&) const = default;
  [[nodiscard]] bool is_known() const noexcept { return pid_namespace != 0; }
};

[[nodiscard]] Host this_host(std::uint64_t island);

// A descriptor that is readable when the process has ended.
[[nodiscard]] UniqueFd watch(pid_t process);

// The pipe that `process` has as descriptor `fd`, to write to. Never blocks, and never fails for
// want of readers.
[[nodiscard]] UniqueFd open_pipe(pid_t process, int fd);

}  // namespace causeway::shm
