#include "allocator/host/host_backend.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include <cerrno>
#include <climits>
#include <utility>
#include <vector>

#include "allocator/error.h"

namespace causeway {

namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

// What the system's refusal means and what to do about it.
Error refusal(const std::string& what, int error_number) {
  switch (error_number) {
    case EMFILE:
      return {Errc::exhausted,
              what + ": this process has no file descriptor left; raise `ulimit -n`"};
    case ENFILE:
      return {Errc::exhausted,
              what + ": the system has no file descriptor left; raise fs.file-max"};
    case ENOMEM:
      return {Errc::exhausted,
              what +
                  ": no address space, kernel memory or mapping left; if /proc/self/maps has"
                  " close to vm.max_map_count lines, raise that"};
    default:
      return system_error(what, error_number);
  }
}

template <typename Call>
int retry(Call call) {
  int result = 0;
  do result = call();
  while (result < 0 && errno == EINTR);
  return result;
}

int fd_of(std::uint64_t handle) noexcept { return static_cast<int>(handle); }

int flags_of(Protection protection) noexcept {
  switch (protection) {
    case Protection::none:
      return PROT_NONE;
    case Protection::read:
      return PROT_READ;
    case Protection::read_write:
      break;
  }
  return PROT_READ | PROT_WRITE;
}

}  // namespace

HostBackend::HostBackend(Options options) : options_(std::move(options)) {
  if (options_.name.empty() || options_.name.size() > 200)  // The system's limit is 249.
    throw Error(Errc::invalid_argument,
                "a host backend needs a name of 1 to 200 bytes; this one has " +
                    std::to_string(options_.name.size()));
  if (!options_.numa_node) return;
  binds_numa_node_ = true;  // Makes create_file() try.
  const auto probe = create_file(kHostGranuleBytes);
  binds_numa_node_ = prefer_numa_node(probe.get(), kHostGranuleBytes);
}

void HostBackend::take_capacity(std::uint64_t size_bytes) {
  auto used = used_bytes_.load();
  do {
    const auto available = options_.capacity_bytes - used;
    if (size_bytes > available)
      throw Error(Errc::out_of_memory,
                  fmt::format("{}: {} bytes needed, {} bytes available of {}", options_.name,
                              size_bytes, available, options_.capacity_bytes));
  } while (!used_bytes_.compare_exchange_weak(used, used + size_bytes));
}

UniqueFd HostBackend::create_file(std::uint64_t size_bytes) const {
  const auto what = fmt::format("{}: cannot create {} bytes", options_.name, size_bytes);
  if (size_bytes > static_cast<std::uint64_t>(LLONG_MAX))
    throw Error(Errc::invalid_argument, what + ": larger than any file");
  const auto file_name = "causeway:" + options_.name;
  UniqueFd fd(::memfd_create(file_name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) throw refusal(what, errno);
  if (retry([&] { return ::ftruncate(fd.get(), static_cast<off_t>(size_bytes)); }) != 0)
    throw refusal(what, errno);
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals | F_SEAL_SEAL) != 0) throw refusal(what, errno);
  return fd;
}

bool HostBackend::prefer_numa_node(int fd, std::uint64_t size_bytes) const {
  // A policy set through a shared mapping stays with the file, for every process that maps it.
  void* at = ::mmap(nullptr, size_bytes, PROT_NONE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) throw refusal(options_.name + ": cannot place memory", errno);
  constexpr unsigned kBits = CHAR_BIT * sizeof(unsigned long);
  const unsigned node = *options_.numa_node;
  std::vector<unsigned long> mask(node / kBits + 1);
  mask[node / kBits] = 1UL << (node % kBits);
  // MPOL_PREFERRED and not MPOL_BIND: on a full node the bytes go elsewhere, nobody is killed.
  // The kernel reads one bit less than it is told of.
  const auto result =
      ::syscall(SYS_mbind, at, size_bytes, MPOL_PREFERRED, mask.data(), mask.size() * kBits + 1, 0);
  const int error_number = errno;
  ::munmap(at, size_bytes);
  if (result == 0) return true;
  if (error_number == EPERM || error_number == ENOSYS) return false;
  if (error_number == EINVAL)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: there is no NUMA node {} here; see `numactl --hardware`",
                            options_.name, node));
  throw refusal(fmt::format("{}: cannot place memory on NUMA node {}", options_.name, node),
                error_number);
}

std::uint64_t HostBackend::do_create(std::uint64_t size_bytes) {
  take_capacity(size_bytes);
  try {
    auto fd = create_file(size_bytes);
    if (binds_numa_node_) (void)prefer_numa_node(fd.get(), size_bytes);
    return static_cast<std::uint64_t>(fd.release());
  } catch (...) {
    used_bytes_ -= size_bytes;
    throw;
  }
}

void HostBackend::do_destroy(std::uint64_t handle, std::uint64_t size_bytes,
                             bool created) noexcept {
  ::close(fd_of(handle));
  if (created) used_bytes_ -= size_bytes;
}

std::byte* HostBackend::do_reserve(std::uint64_t size_bytes) {
  // The system aligns to its pages only: reserve a granule more and trim both ends.
  const auto padded_bytes = size_bytes + kHostGranuleBytes;
  void* at = padded_bytes < size_bytes ? (errno = ENOMEM, MAP_FAILED)
                                       : ::mmap(nullptr, padded_bytes, PROT_NONE,
                                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED)
    throw refusal(
        fmt::format("{}: cannot reserve {} bytes of addresses", options_.name, size_bytes), errno);
  auto* const start = static_cast<std::byte*>(at);
  const auto misaligned = reinterpret_cast<std::uintptr_t>(start) % kHostGranuleBytes;
  const auto head_bytes = misaligned == 0 ? 0 : kHostGranuleBytes - misaligned;
  if (head_bytes > 0) ::munmap(start, head_bytes);
  ::munmap(start + head_bytes + size_bytes, kHostGranuleBytes - head_bytes);
  return start + head_bytes;
}

void HostBackend::do_free(std::byte* data, std::uint64_t size_bytes) noexcept {
  ::munmap(data, size_bytes);
}

void HostBackend::do_map(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle) {
  map_file(at, size_bytes, handle, Protection::none);
}

void HostBackend::do_unmap(std::byte* at, std::uint64_t size_bytes) {
  if (::mmap(at, size_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED)
    throw refusal(fmt::format("{}: cannot unmap {} bytes", options_.name, size_bytes), errno);
}

void HostBackend::do_set_access(std::byte* at, std::uint64_t size_bytes, Protection protection) {
  if (::mprotect(at, size_bytes, flags_of(protection)) != 0)
    throw refusal(fmt::format("{}: cannot set access of {} bytes", options_.name, size_bytes),
                  errno);
}

// One call takes the place of what was mapped: no other thread sees a gap.
void HostBackend::do_remap(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle,
                           Protection protection) {
  map_file(at, size_bytes, handle, protection);
}

void HostBackend::map_file(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle,
                           Protection protection) const {
  if (::mmap(at, size_bytes, flags_of(protection), MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
             fd_of(handle), 0) == MAP_FAILED)
    throw refusal(fmt::format("{}: cannot map {} bytes", options_.name, size_bytes), errno);
}

UniqueFd HostBackend::do_export(std::uint64_t handle) {
  UniqueFd fd(::fcntl(fd_of(handle), F_DUPFD_CLOEXEC, 0));
  if (!fd) throw refusal(options_.name + ": cannot export a segment", errno);
  return fd;
}

std::uint64_t HostBackend::do_import(UniqueFd fd, std::uint64_t size_bytes) {
  const auto refuse = [&](const std::string& why) {
    return Error(Errc::protocol, fmt::format("{}: refused to import {} bytes: {}; ask the peer for"
                                             " an exported segment",
                                             options_.name, size_bytes, why));
  };
  // Shared memory only: pages of a file, a huge-page or a user-space file system can vanish.
  struct statfs system = {};
  if (retry([&] { return ::fstatfs(fd.get(), &system); }) != 0 || system.f_type != TMPFS_MAGIC)
    throw refuse("the descriptor is not a memfd");
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals)
    throw refuse("the memfd is not sealed against shrinking and growing");
  if ((seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0 ||
      (::fcntl(fd.get(), F_GETFL) & O_ACCMODE) != O_RDWR)
    throw refuse("the memfd is not writable");
  struct stat status = {};
  if (::fstat(fd.get(), &status) != 0) throw refusal(options_.name + ": fstat", errno);
  if (static_cast<std::uint64_t>(status.st_size) != size_bytes)
    throw refuse(fmt::format("the memfd has {} bytes", status.st_size));
  return static_cast<std::uint64_t>(fd.release());
}

}  // namespace causeway
