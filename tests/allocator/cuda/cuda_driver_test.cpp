// Goal:   where there is no usable driver, the error says which library, why and what to do.
// Method: libraries that are none, and the software driver set to be too old, or not to start; each
//         in a program of its own, since a driver starts once a process.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "tests/allocator/cuda/emulator.h"
#include "tests/allocator/cuda/program.h"
#include "tests/allocator/cuda/program_main.h"
#include "tests/error_of.h"

using namespace causeway;
using namespace causeway::test;

namespace {

constexpr const char* kAdvice = "install NVIDIA's driver, or name another library";

bool has(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

// Whether opening the driver, as `config` makes it, is refused with `text`.
int open_refused(const std::string& config, const std::string& text) {
  return run_to_end(text, config);
}

}  // namespace

int run_program(const std::string& text) {
  try {
    (void)open_emulator();
  } catch (const Error& error) {
    if (error.code() == Errc::unsupported && has(error, CAUSEWAY_CUDA_EMULATOR_FILE) &&
        has(error, text))
      return kCaught;
    std::fprintf(stderr, "%s\n", error.what());
    return kWrongError;
  }
  return kNotCaught;
}

TEST_CASE("without a driver") {
  const auto error = error_of([] { (void)CudaDriver::open("/nowhere/libcuda.so.1"); });
  CHECK(error.code() == Errc::unsupported);
  CHECK(has(error, "no CUDA driver: /nowhere/libcuda.so.1: cannot open shared object file"));
  CHECK(has(error, kAdvice));
}

TEST_CASE("the library that the environment names is the one that is opened") {
  ::setenv("CAUSEWAY_CUDA_LIBRARY", "/nowhere/named.so", 1);
  CHECK(has(error_of([] { (void)CudaDriver::open(); }), "/nowhere/named.so"));
  ::unsetenv("CAUSEWAY_CUDA_LIBRARY");
}

TEST_CASE("with a library that is no driver, or one from before cuGetProcAddress") {
  const auto error = error_of([] { (void)CudaDriver::open("libm.so.6"); });
  CHECK(error.code() == Errc::unsupported);
  CHECK(has(error, "libm.so.6 has no cuGetProcAddress: CUDA 11.4 or newer is needed"));
  CHECK(has(error, kAdvice));
}

TEST_CASE("with a driver that is too old") {
  CHECK(open_refused("{version: 11040}", "") == kNotCaught);
  CHECK(open_refused("{version: 11030}",
                     "is a driver for CUDA 11.3: 11.4 or newer is needed; install") == kCaught);
  CHECK(open_refused("{version: 10020}", "is a driver for CUDA 10.2: 11.4") == kCaught);
}

TEST_CASE("with a driver that does not start") {
  CHECK(open_refused("{devices: []}", "cuInit failed: CUDA_ERROR_NO_DEVICE") == kCaught);
  CHECK(open_refused("{init_result: 34}", "this is the Toolkit's stub: put NVIDIA's") == kCaught);
  CHECK(open_refused("{init_result: 803}", "are of different versions: restart") == kCaught);
  CHECK(open_refused("{init_result: 4711}", "cuInit failed: CUDA error 4711 (unknown to this") ==
        kCaught);
}
