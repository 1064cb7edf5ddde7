// Goal:   the CUDA body keeps the promises of MemoryBackend, on any libcuda.so.1.
// Method: the conformance suite, but for its cases with a second process, since the driver does not
//         survive a fork; an access is a copy by the driver. By default against the software
//         driver; CAUSEWAY_CUDA_LIBRARY names another.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "allocator/cuda/cuda_backend.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "tests/conformance/memory_backend_suite.h"

namespace {

std::shared_ptr<causeway::CudaContext> gpu0() {
  ::setenv("CAUSEWAY_CUDA_LIBRARY", CAUSEWAY_CUDA_EMULATOR_FILE, 0);
  static const auto driver = causeway::CudaDriver::open();
  return causeway::CudaContext::retain(driver, 0);
}

struct CudaBody {
  static std::unique_ptr<causeway::MemoryBackend> make(std::uint64_t granules) {
    constexpr std::uint64_t kGranule = std::uint64_t{2} << 20;
    return std::make_unique<causeway::CudaBackend>(
        gpu0(), causeway::CudaBackend::Options{"test/gpu0", granules * kGranule});
  }
  static void store(std::byte* to, std::span<const std::byte> bytes) {
    causeway::CudaStream stream(gpu0());
    stream.copy_in(to, bytes.data(), bytes.size());
    stream.synchronize();
  }
  static void load(std::span<std::byte> bytes, const std::byte* from) {
    causeway::CudaStream stream(gpu0());
    stream.copy_out(bytes.data(), from, bytes.size());
    stream.synchronize();
  }
  // Not a child: an access that is not granted is the driver's refusal.
  static int run_in_child(const std::function<int()>& function) {
    try {
      return function();
    } catch (const causeway::Error&) {
      return -SIGSEGV;
    }
  }
};

}  // namespace

namespace causeway::test {
TEST_CASE_TEMPLATE_INVOKE(backend_zero, CudaBody);
TEST_CASE_TEMPLATE_INVOKE(backend_alias, CudaBody);
TEST_CASE_TEMPLATE_INVOKE(backend_access, CudaBody);
TEST_CASE_TEMPLATE_INVOKE(backend_remap, CudaBody);
TEST_CASE_TEMPLATE_INVOKE(backend_arguments, CudaBody);
TEST_CASE_TEMPLATE_INVOKE(backend_ranges, CudaBody);
TEST_CASE_TEMPLATE_INVOKE(backend_capacity, CudaBody);
TEST_CASE_TEMPLATE_INVOKE(backend_threads, CudaBody);
TEST_CASE_TEMPLATE_INVOKE(backend_moves, CudaBody);
TEST_CASE_TEMPLATE_INVOKE(backend_import_size, CudaBody);
}  // namespace causeway::test
