// Goal:   the stream that NCCL is given on a GPU keeps DeviceStream's promises: order, marks that
//         wait for nobody, memory that stays where it was, errors with the driver's word.
// Method: on the software driver, slowed so that what is queued has not run yet.
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_NO_POSIX_SIGNALS  // The software driver catches faults of its streams.
#include "transport/nccl/cuda_device_stream.h"

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "tests/error_of.h"

using namespace causeway;
using causeway::test::error_of;
using Clock = std::chrono::steady_clock;

namespace {

std::shared_ptr<CudaContext> gpu() { return CudaContext::retain(CudaDriver::open(), 0); }

template <typename Function>
Function driver_call(const char* name) {
  void* library = ::dlopen(CAUSEWAY_CUDA_EMULATOR_FILE, RTLD_NOW | RTLD_NOLOAD);
  REQUIRE(library != nullptr);
  return reinterpret_cast<Function>(::dlsym(library, name));
}
unsigned long held() {
  return driver_call<unsigned long (*)(char*, unsigned long)>("causeway_cuda_held")(nullptr, 0);
}

bool becomes_reached(DeviceStream& stream) {
  for (const auto end = Clock::now() + std::chrono::seconds(20); Clock::now() < end;
       std::this_thread::sleep_for(std::chrono::milliseconds(1)))
    if (stream.is_reached()) return true;
  return false;
}

std::vector<std::byte> contents(const std::shared_ptr<CudaContext>& context,
                                std::span<const std::byte> at) {
  CudaStream reader(context);
  std::vector<std::byte> bytes(at.size());
  reader.copy_out(bytes.data(), at.data(), at.size());
  reader.synchronize();
  return bytes;
}

}  // namespace

TEST_CASE("copies run in order, and a mark is reached behind them and not before") {
  const auto context = gpu();
  CudaDeviceStream stream(context);
  CHECK(stream.is_reached());  // Nothing was queued.
  const auto memory = stream.scratch(3 * 4096);
  const auto a = memory.subspan(0, 4096), b = memory.subspan(4096, 4096),
             c = memory.subspan(2 * 4096, 4096);
  CudaStream writer(context);
  writer.fill(a.data(), 1, a.size());
  writer.fill(b.data(), 2, b.size());
  writer.fill(c.data(), 3, c.size());
  writer.synchronize();
  stream.make_current();
  const auto start = Clock::now();
  stream.copy(b, a);  // Each takes 20 ms at least.
  stream.copy(c, b);
  stream.mark();
  CHECK_FALSE(stream.is_reached());
  CHECK(Clock::now() - start < std::chrono::milliseconds(20));
  stream.copy(a, c);
  stream.mark();  // Forgets the one before.
  REQUIRE(becomes_reached(stream));
  CHECK(Clock::now() - start >= std::chrono::milliseconds(80));
  for (const auto part : {a, b, c})
    CHECK(contents(context, part) == std::vector<std::byte>(4096, std::byte{1}));
}

TEST_CASE("scratch memory stays, and what it was before stays usable") {
  CudaDeviceStream stream(gpu());
  const auto small = stream.scratch(1024);
  CHECK(small.size() >= 1024);
  CHECK(stream.scratch(1024).data() == small.data());
  CHECK(stream.scratch(1).data() == small.data());
  const auto large = stream.scratch(1 << 20);
  CHECK(large.size() >= 1 << 20);
  CHECK(stream.scratch(1024).data() == large.data());
  stream.copy(large.first(1024), small.first(1024));  // Not freed.
  stream.mark();
  CHECK(becomes_reached(stream));
}

TEST_CASE("its end waits for nothing, and frees what nobody uses") {
  const auto context = gpu();
  const auto before = held();
  {
    CudaDeviceStream stream(context);
    (void)stream.scratch(4096);
  }
  CHECK(held() == before);
  const auto start = Clock::now();
  {
    CudaDeviceStream stream(context);
    const auto memory = stream.scratch(4096);
    for (int i = 0; i < 10; ++i) stream.copy(memory.first(1024), memory.last(1024));
  }
  CHECK(Clock::now() - start < std::chrono::milliseconds(100));
  CHECK(held() == before + 1);  // Its scratch memory, which is still copied.
  context->make_current();
  CHECK(context->functions().cuCtxSynchronize() == cuda::kSuccess);
}

TEST_CASE("what the driver refuses is told with its word for it, and leaves nothing") {
  const auto context = gpu();
  const auto before = held();
  const auto fail = driver_call<void (*)(const char*, unsigned long, int)>("causeway_cuda_fail");
  const auto refused = [&](const char* call, auto&& use) {
    CudaDeviceStream stream(context);
    const auto memory = stream.scratch(2048);
    fail(call, 1, 999);
    const auto error = error_of([&] { use(stream, memory); });
    fail(nullptr, 0, 0);
    INFO("call=", call, " error=", std::string(error.what()));
    CHECK(std::string(error.what()).find(call) != std::string::npos);
    CHECK(std::string(error.what()).find("CUDA_ERROR_UNKNOWN") != std::string::npos);
  };
  refused("cuMemAlloc", [](auto& stream, auto) { (void)stream.scratch(4096); });
  refused("cuMemcpyAsync",
          [](auto& stream, auto memory) { stream.copy(memory.first(8), memory.last(8)); });
  refused("cuEventRecord", [](auto& stream, auto) { stream.mark(); });
  refused("cuEventQuery", [](auto& stream, auto) { (void)stream.is_reached(); });
  refused("cuCtxSetCurrent", [](auto& stream, auto) { stream.make_current(); });
  CHECK(held() == before);
}

int main(int argc, char** argv) {
  ::setenv("CAUSEWAY_CUDA_LIBRARY", CAUSEWAY_CUDA_EMULATOR_FILE, 1);
  ::setenv("CAUSEWAY_CUDA_EMULATOR", "{devices: 1, stream_delay_us: 20000, strict_contexts: true}",
           1);
  return doctest::Context(argc, argv).run();
}
