// Goal:   the host body keeps the promises of MemoryBackend, and no peer's descriptor can harm us.
// Method: the conformance suite; then what only the host has: seals, names, NUMA, system limits.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "allocator/host/host_backend.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/conformance/memory_backend_suite.h"

using causeway::Errc;
using causeway::HostBackend;
using causeway::kHostGranuleBytes;
using causeway::UniqueFd;
using causeway::test::code_of;

namespace {

struct HostBody {
  static std::unique_ptr<causeway::MemoryBackend> make(std::uint64_t granules) {
    return std::make_unique<HostBackend>(
        HostBackend::Options{"test/gpu0", granules * kHostGranuleBytes});
  }
  static void store(std::byte* to, std::span<const std::byte> bytes) {
    std::memcpy(to, bytes.data(), bytes.size());
  }
  static void load(std::span<std::byte> bytes, const std::byte* from) {
    std::memcpy(bytes.data(), from, bytes.size());
  }
  static int run_in_child(const std::function<int()>& function) {
    return causeway::test::run_in_child(function);
  }
  static causeway::test::Child start(const std::function<int()>& function) {
    return causeway::test::Child::start(function);
  }
};

UniqueFd memfd(std::uint64_t size_bytes, int seals, unsigned flags = MFD_ALLOW_SEALING) {
  UniqueFd fd(::memfd_create("hostile", MFD_CLOEXEC | flags));
  REQUIRE(fd);
  REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) == 0);
  REQUIRE((seals == 0 || ::fcntl(fd.get(), F_ADD_SEALS, seals) == 0));
  return fd;
}

Errc import_code(UniqueFd fd) {
  HostBackend backend({"test/gpu0"});
  return code_of([&] { (void)backend.import_segment(std::move(fd), kHostGranuleBytes); });
}

}  // namespace

namespace causeway::test {
CAUSEWAY_MEMORY_BACKEND_SUITE(HostBody);
}

TEST_CASE("a descriptor that could take bytes away later is refused") {
  constexpr int kSealed = F_SEAL_SHRINK | F_SEAL_GROW;
  CHECK(import_code(memfd(kHostGranuleBytes, kSealed)) == Errc::internal);  // A fair one: no throw.
  CHECK(import_code(memfd(kHostGranuleBytes, 0)) == Errc::protocol);
  CHECK(import_code(memfd(kHostGranuleBytes, F_SEAL_SHRINK)) == Errc::protocol);
  CHECK(import_code(memfd(kHostGranuleBytes, F_SEAL_GROW)) == Errc::protocol);
  CHECK(import_code(memfd(kHostGranuleBytes - 4096, kSealed)) == Errc::protocol);
  CHECK(import_code(memfd(kHostGranuleBytes, kSealed | F_SEAL_WRITE)) == Errc::protocol);
  CHECK(import_code(memfd(kHostGranuleBytes, kSealed | F_SEAL_FUTURE_WRITE)) == Errc::protocol);
  const auto writable = memfd(kHostGranuleBytes, kSealed);
  const auto path = "/proc/self/fd/" + std::to_string(writable.get());
  CHECK(import_code(UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC))) == Errc::protocol);
  CHECK(import_code(UniqueFd(::open(path.c_str(), O_PATH | O_CLOEXEC))) == Errc::protocol);
  // Huge pages may run out under a mapping, whatever the seals say.
  constexpr std::uint64_t kHuge = 2 * 1024 * 1024;
  if (UniqueFd probe(::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB)); !probe) {
    MESSAGE("no huge pages here: not tried");
  } else {
    auto huge = memfd(kHuge, kSealed, MFD_ALLOW_SEALING | MFD_HUGETLB);
    HostBackend backend({"test/gpu0"});
    CHECK(code_of([&] { (void)backend.import_segment(std::move(huge), kHuge); }) == Errc::protocol);
  }
}

TEST_CASE("a descriptor that is no memory is refused") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd writing(ends[1]);
  CHECK(import_code(UniqueFd(ends[0])) == Errc::protocol);
  for (const char* path : {"/dev/zero", "/dev/null", "/", "/proc/self/maps"})
    CHECK(import_code(UniqueFd(::open(path, O_RDONLY | O_CLOEXEC))) == Errc::protocol);
  std::FILE* const file = std::tmpfile();
  REQUIRE(file != nullptr);
  REQUIRE(::ftruncate(::fileno(file), kHostGranuleBytes) == 0);
  CHECK(import_code(UniqueFd(::dup(::fileno(file)))) == Errc::protocol);
  std::fclose(file);
}

TEST_CASE("an exported segment cannot be cut short by whoever holds it") {
  HostBackend backend({"test/gpu0", kHostGranuleBytes});
  const auto segment = backend.create(kHostGranuleBytes);
  const auto fd = backend.export_segment(segment);
  CHECK(::ftruncate(fd.get(), 0) != 0);
  CHECK(::ftruncate(fd.get(), 2 * kHostGranuleBytes) != 0);
  CHECK(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE) != 0);  // Nor frozen under its owner.
  CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("the process's maps name the device") {
  HostBackend backend({"desktop/gpu7", kHostGranuleBytes});
  const auto segment = backend.create(kHostGranuleBytes);
  auto range = backend.reserve(kHostGranuleBytes);
  backend.map(range, 0, segment);
  std::stringstream maps;
  maps << std::ifstream("/proc/self/maps").rdbuf();
  CHECK(maps.str().find("/memfd:causeway:desktop/gpu7") != std::string::npos);
}

TEST_CASE("out of file descriptors is an error that says so, and nothing is lost") {
  HostBackend backend({"test/gpu0", 2 * kHostGranuleBytes});
  const auto segment = backend.create(kHostGranuleBytes);
  rlimit old = {};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &old) == 0);
  const int lowest_free = ::dup(0);
  REQUIRE(lowest_free >= 0);
  ::close(lowest_free);
  const rlimit none = {static_cast<rlim_t>(lowest_free), old.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  const auto create_code = code_of([&] { (void)backend.create(kHostGranuleBytes); });
  const auto export_code = code_of([&] { (void)backend.export_segment(segment); });
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &old) == 0);
  CHECK(create_code == Errc::exhausted);
  CHECK(export_code == Errc::exhausted);
  CHECK(backend.used_bytes() == kHostGranuleBytes);
  CHECK(backend.create(kHostGranuleBytes));
}

TEST_CASE("sizes beyond the machine are refused and counted nowhere") {
  const auto most = ~std::uint64_t{0} / kHostGranuleBytes * kHostGranuleBytes;
  HostBackend backend({"test/gpu0", ~std::uint64_t{0}});
  for (const auto size_bytes : {most, most / 2 + kHostGranuleBytes, std::uint64_t{1} << 62})
    CHECK(code_of([&] {
            (void)backend.reserve(size_bytes / kHostGranuleBytes * kHostGranuleBytes);
          }) == Errc::exhausted);
  CHECK(code_of([&] { (void)backend.create(most); }) == Errc::invalid_argument);
  CHECK(backend.used_bytes() == 0);
}

TEST_CASE("memory is sparse: 256 GiB cost what is touched") {
  constexpr auto kSize = std::uint64_t{1} << 38;
  HostBackend backend({"test/gpu0", kSize});
  const auto segment = backend.create(kSize);
  auto range = backend.reserve(kSize);
  backend.map(range, 0, segment);
  backend.set_access(range, 0, kSize, causeway::Protection::read_write);
  range.data()[kSize - 1] = std::byte{1};
  CHECK(range.data()[kSize - 1] == std::byte{1});
}

TEST_CASE("a NUMA node is preferred where the system lets us, and must exist") {
  const HostBackend plain({"test/host0", kHostGranuleBytes});
  CHECK_FALSE(plain.binds_numa_node());
  HostBackend backend({"test/host0", kHostGranuleBytes, 0U});
  MESSAGE(
      "NUMA placement: " << std::string(backend.binds_numa_node() ? "yes" : "not permitted here"));
  const auto segment = backend.create(kHostGranuleBytes);
  auto range = backend.reserve(kHostGranuleBytes);
  backend.map(range, 0, segment);
  backend.set_access(range, 0, kHostGranuleBytes, causeway::Protection::read_write);
  range.data()[0] = std::byte{1};
  if (!backend.binds_numa_node()) return;
  for (const unsigned node : {1000U, 100000U})
    CHECK(code_of([&] {
            HostBackend({"test/host0", kHostGranuleBytes, node});
          }) == Errc::invalid_argument);
  std::stringstream maps;
  maps << std::ifstream("/proc/self/numa_maps").rdbuf();
  if (!maps.str().empty())
    CHECK(maps.str().find("prefer:0 file=/memfd:causeway:test/host0") != std::string::npos);
}

TEST_CASE("a backend needs a name that fits") {
  CHECK(code_of([] { HostBackend({""}); }) == Errc::invalid_argument);
  CHECK(code_of([] { HostBackend({std::string(201, 'x')}); }) == Errc::invalid_argument);
}
