// Goal:   whichever call of the driver fails, the error names it, no byte is wrong and nothing is
//         lost.
// Method: one scenario over the whole backend on the software driver, with the 1st, 2nd, ... call
//         made to fail, until a run has none left to fail; what is held is counted after each step.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "allocator/cuda/cuda_backend.h"
#include "tests/allocator/cuda/emulator.h"

using causeway::CudaBackend;
using causeway::CudaContext;
using causeway::CudaStream;
using causeway::Errc;
using causeway::Error;
using causeway::Protection;
using causeway::cuda::Location;
using causeway::test::open_emulator;

namespace {

constexpr std::uint64_t kGranule = std::uint64_t{2} << 20;
constexpr unsigned long kMostCalls = 1000;

// Failures that destructors meet, and questions that have another answer: no error comes of them.
const std::set<std::string> kAbsorbed{
    "cuCtxPopCurrent",  "cuCtxPushCurrent", "cuDevicePrimaryCtxRelease",
    "cuMemAddressFree", "cuMemMap",         "cuMemRelease",
    "cuMemUnmap",       "cuStreamDestroy"};

unsigned long held() {
  std::array<char, 1024> text{};
  const auto count = CAUSEWAY_EMULATOR(causeway_cuda_held)(text.data(), text.size());
  INFO(text.data());
  return count;
}

std::size_t open_files() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(files), end(files)));
}

causeway::cuda::Context current_context() {
  using GetCurrent = causeway::cuda::Result(causeway::cuda::Context*);
  causeway::cuda::Context context = nullptr;
  CHECK(causeway::test::emulator_function<GetCurrent>("cuCtxGetCurrent")(&context) == 0);
  return context;
}

class Scenario {
 public:
  explicit Scenario(const std::optional<Location>& memory)
      : context_(CudaContext::retain(open_emulator(), 0)),
        backend_(context_, {"test/gpu0", 2 * kGranule, memory}),
        stream_(context_) {}

  void run() {
    const auto one = step([&] { return backend_.create(kGranule); });
    const auto two = step([&] { return backend_.create(kGranule); });
    auto range = step([&] { return backend_.reserve(2 * kGranule); });
    step([&] { backend_.map(range, 0, one); });
    step([&] { backend_.set_access(range, 0, kGranule, Protection::read_write); });
    check_bytes(range.data(), 0);
    fill(range.data(), 1);
    auto fd = step([&] { return backend_.export_segment(one); });
    const auto imported = step([&] { return backend_.import_segment(std::move(fd), kGranule); });
    step([&] { backend_.map(range, kGranule, imported); });
    step([&] { backend_.set_access(range, kGranule, kGranule, Protection::read); });
    check_bytes(range.data() + kGranule, 1);
    try {
      step([&] { backend_.remap(range, 0, two, Protection::read_write); });
    } catch (const Error&) {
      check_bytes(range.data(), 1);
      fill(range.data(), 3);  // It is as writable as it was.
      throw;
    }
    check_bytes(range.data(), 0);
    fill(range.data(), 2);
    check_bytes(range.data() + kGranule, 1);
    check_bytes(range.data(), 2);
    step([&] { backend_.unmap(range, 0, 2 * kGranule); });
  }

 private:
  // A call that throws has changed nothing.
  template <typename Call>
  std::invoke_result_t<Call> step(Call call) {
    const auto held_before = held();
    const auto used_before = backend_.used_bytes();
    try {
      return call();
    } catch (const Error&) {
      CHECK(held() == held_before);
      CHECK(backend_.used_bytes() == used_before);
      CHECK(current_context() == nullptr);
      throw;
    }
  }

  // Once more where the first was made to fail: the work must be over before its memory goes.
  void synchronize() {
    try {
      stream_.synchronize();
    } catch (const Error&) {
      stream_.synchronize();
      throw;
    }
  }

  void fill(std::byte* at, unsigned char value) {
    stream_.fill(at, value, kGranule);
    synchronize();
  }

  void check_bytes(const std::byte* at, int value) {
    bytes_.assign(kGranule, std::byte{0xff});
    stream_.copy_out(bytes_.data(), at, kGranule);
    synchronize();
    CHECK(bytes_[0] == std::byte(value));
    CHECK(std::memcmp(bytes_.data(), bytes_.data() + 1, kGranule - 1) == 0);
  }

  std::shared_ptr<CudaContext> context_;
  CudaBackend backend_;
  CudaStream stream_;
  std::vector<std::byte> bytes_;
};

// Which call failed in a run whose nth call is made to; nothing if the run had fewer.
std::optional<std::string> run_with_failure(const std::optional<Location>& memory,
                                            unsigned long nth, int result,
                                            const std::string& result_name) {
  const auto files_before = open_files();
  std::string text;
  CAUSEWAY_EMULATOR(causeway_cuda_fail)(nullptr, nth, result);
  try {
    Scenario(memory).run();
  } catch (const Error& error) {
    text = error.what();
    CHECK(error.code() != Errc::internal);
    // No peer is to blame for what this side has run out of.
    if (result == causeway::cuda::kOutOfMemory) CHECK(error.code() != Errc::protocol);
  }
  const char* name = nullptr;
  const bool has_failed = CAUSEWAY_EMULATOR(causeway_cuda_failed)(&name);
  const std::string failed = has_failed ? name : "";
  CAUSEWAY_EMULATOR(causeway_cuda_fail)(nullptr, 0, 0);
  CAPTURE(failed);
  CAPTURE(text);
  CHECK(held() == 0);
  CHECK(open_files() == files_before);
  CHECK(current_context() == nullptr);
  if (!has_failed) {
    CHECK(text == "");
    return std::nullopt;
  }
  if (text.empty())
    CHECK(kAbsorbed.contains(failed));
  else
    CHECK(text.find(failed + " failed: " + result_name) != std::string::npos);
  return failed;
}

void fail_each_call(const std::optional<Location>& memory, int result, const char* result_name) {
  std::set<std::string> failed;
  unsigned long nth = 1;
  for (; nth < kMostCalls; ++nth) {
    CAPTURE(nth);
    const auto name = run_with_failure(memory, nth, result, result_name);
    if (!name) break;
    failed.insert(*name);
  }
  CHECK(nth > 100);
  CHECK(nth < kMostCalls);
  for (const char* name : {"cuInit",
                           "cuDeviceGetAttribute",
                           "cuDevicePrimaryCtxRetain",
                           "cuCtxPushCurrent",
                           "cuCtxPopCurrent",
                           "cuStreamCreate",
                           "cuStreamSynchronize",
                           "cuMemsetD8Async",
                           "cuMemcpyDtoHAsync",
                           "cuMemGetAllocationGranularity",
                           "cuMemCreate",
                           "cuMemRelease",
                           "cuMemAddressReserve",
                           "cuMemAddressFree",
                           "cuMemMap",
                           "cuMemUnmap",
                           "cuMemSetAccess",
                           "cuMemGetAccess",
                           "cuMemRetainAllocationHandle",
                           "cuMemGetAllocationPropertiesFromHandle",
                           "cuMemExportToShareableHandle",
                           "cuMemImportFromShareableHandle"}) {
    CAPTURE(name);
    CHECK(failed.contains(name));
  }
}

}  // namespace

TEST_CASE("memory of a device: any call of the driver fails") {
  using namespace causeway::cuda;
  (void)open_emulator();  // Its first open makes files of its own.
  fail_each_call(std::nullopt, kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY");
  fail_each_call(std::nullopt, kInvalidValue, "CUDA_ERROR_INVALID_VALUE");
  fail_each_call(std::nullopt, kUnknown, "CUDA_ERROR_UNKNOWN");
}

TEST_CASE("memory of the host: any call of the driver fails") {
  using namespace causeway::cuda;
  (void)open_emulator();
  fail_each_call(Location{kLocationHostNuma, 0}, kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY");
}
