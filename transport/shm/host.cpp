#include "transport/shm/host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "allocator/error.h"

namespace causeway::shm {

Host this_host(std::uint64_t island) {
  Host host{};
  const UniqueFd file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (file && ::read(file.get(), host.boot.data(), host.boot.size()) == 36 &&
      ::stat("/proc/self/ns/pid", &status) == 0)
    host.pid_namespace = status.st_ino;
  host.user = ::geteuid();
  host.island = island;
  return host;
}

UniqueFd watch(pid_t process) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
  if (!fd) throw system_error("cannot watch a process", errno);
  return fd;
}

UniqueFd open_pipe(pid_t process, int fd) {
  const auto path = fmt::format("/proc/{}/fd/{}", process, fd);
  // To read, too: a pipe that nobody reads any more would end this process by SIGPIPE.
  UniqueFd pipe(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!pipe) throw system_error("cannot open " + path, errno);
  struct stat status {};
  if (::fstat(pipe.get(), &status) != 0 || !S_ISFIFO(status.st_mode))
    throw Error(Errc::protocol, path + " is not a pipe");
  return pipe;
}

}  // namespace causeway::shm
