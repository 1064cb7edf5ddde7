// Goal:   the probe tells what a driver can really do, and outlives one that hangs or crashes.
// Method: software drivers with one ability less each. The driver lives in the probe's child alone,
//         so that each probe may meet another machine.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <cstdlib>

#include "allocator/cuda/cuda_backend.h"
#include "allocator/cuda/probe.h"
#include "tests/allocator/cuda/emulator.h"

using namespace causeway;
using namespace causeway::test;
using namespace std::chrono_literals;
using Outcome = CudaProbe::Outcome;

namespace {

std::unique_ptr<const CudaProbe> probe(const char* machine,
                                       std::chrono::milliseconds timeout = 20s) {
  ::setenv("CAUSEWAY_CUDA_EMULATOR", machine, 1);
  return probe_cuda(timeout, CAUSEWAY_CUDA_EMULATOR_FILE);
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string all_lines(const CudaProbe& report) {
  std::string text;
  for (const auto& line : report.to_lines()) text += line + "\n";
  return text;
}

}  // namespace

TEST_CASE("a driver that can do everything") {
  const auto report = probe("{devices: [{name: One, memory_mib: 64}, {name: Two}]}");
  CHECK(report->outcome == Outcome::complete);
  CHECK(report->trouble() == "");
  CHECK(report->driver_version == 12040);
  REQUIRE(report->gpu_count == 2);
  REQUIRE(report->probed == 2);
  const auto& gpu = report->gpus[0];
  CHECK(std::string(gpu.name.data()) == "One");
  CHECK(std::string(gpu.bus_id.data()) == "0000:10:00.0");
  CHECK(std::string(gpu.uuid.data()) == "GPU-e0000000-0000-0000-0000-000000000000");
  CHECK(std::string(report->gpus[1].uuid.data()) == "GPU-e0000000-0000-0000-0000-000000000001");
  CHECK(gpu.total_bytes == 64 << 20);
  CHECK(gpu.free_bytes == 64 << 20);
  for (std::uint32_t i = 0; i < 2; ++i) {
    CHECK(report->can_lend(i));
    CHECK(report->gpus[i].host_memory == Tried::yes);
    CHECK(report->gpus[i].mixed_range == Tried::yes);
    CHECK(report->gpus[i].mixed_grant == Tried::yes);
    CHECK(std::string(report->gpus[i].problem.data()) == "");
    CHECK(report->peers[i][1 - i] == Tried::yes);
    CHECK(report->peers[i][i] == Tried::unknown);
  }
  CHECK_FALSE(report->can_lend(2));
  CHECK(has(all_lines(*report), "CUDA driver 12.4, 2 GPUs\nGPU 0: One at 0000:10:00.0, "));
  CHECK(has(all_lines(*report), "reaches GPU 1\n"));
}

TEST_CASE("without a driver, or with one that does not start") {
  const auto report = probe_cuda(20s, "/nowhere/libcuda.so.1");
  CHECK(report->outcome == Outcome::no_driver);
  CHECK(has(report->trouble(), "no CUDA driver: /nowhere/libcuda.so.1"));
  CHECK(has(report->trouble(), "install NVIDIA's driver"));
  CHECK(report->probed == 0);
  CHECK(has(probe("{version: 11030}")->trouble(), "11.4 or newer is needed"));
  const auto none = probe("{devices: []}");
  CHECK(none->outcome == Outcome::no_driver);
  CHECK(has(none->trouble(), "CUDA_ERROR_NO_DEVICE"));
}

TEST_CASE("a driver that hangs") {
  const auto start = std::chrono::steady_clock::now();
  const auto report = probe("{calls_us: {cuInit: 60000000}}", 300ms);
  CHECK(report->outcome == Outcome::timed_out);
  CHECK(std::chrono::steady_clock::now() - start < 20s);
  CHECK(has(report->trouble(), "did not answer in time when asked for the start of the driver"));
}

// As without persistence mode: each GPU has to start.
TEST_CASE("the time is for each GPU") {
  const auto report = probe("{devices: 3, calls_us: {cuDevicePrimaryCtxRetain: 3000000}}", 6000ms);
  CHECK(report->trouble() == "");
  CHECK(report->can_lend(2));
}

TEST_CASE("a driver that hangs at one of several GPUs ends with their time") {
  const auto start = std::chrono::steady_clock::now();
  const auto report = probe("{devices: 3, calls_us: {cuDevicePrimaryCtxRetain: 60000000}}", 200ms);
  CHECK(report->outcome == Outcome::timed_out);
  CHECK(std::chrono::steady_clock::now() - start >= 600ms);
  CHECK(std::chrono::steady_clock::now() - start < 20s);
  CHECK(has(report->trouble(), "when asked for memory of GPU 0"));
}

TEST_CASE("what was proved before a crash counts") {
  const auto at_import = probe("{devices: 1, crashes: {cuMemImportFromShareableHandle: 4}}");
  CHECK(at_import->outcome == Outcome::crashed);
  CHECK(at_import->code == SIGILL);
  CHECK(has(at_import->trouble(), "crashed (signal 4) when asked for a descriptor of GPU 0"));
  CHECK(at_import->gpus[0].memory == Tried::yes);
  CHECK_FALSE(at_import->can_lend(0));
  const auto at_peers = probe("{crashes: {cuDeviceCanAccessPeer: 6}}");
  CHECK(at_peers->outcome == Outcome::crashed);
  CHECK(at_peers->can_lend(0));
  CHECK(at_peers->can_lend(1));
  CHECK(at_peers->peers[0][1] == Tried::unknown);
}

TEST_CASE("a GPU that cannot lend says why") {
  const auto no_vmm = probe("{vmm: false}");
  CHECK(no_vmm->outcome == Outcome::complete);
  CHECK_FALSE(no_vmm->can_lend(0));
  CHECK(has(no_vmm->gpus[0].problem.data(), "GPU 0 has no virtual memory management"));
  const auto no_fd = probe("{posix_fd: false}");
  CHECK_FALSE(no_fd->can_lend(0));
  CHECK(has(no_fd->gpus[0].problem.data(), "memory that processes can share"));
  const auto full = probe("{devices: [{memory_mib: 1}]}");
  CHECK_FALSE(full->can_lend(0));
  CHECK(has(full->gpus[0].problem.data(), "1048576 bytes"));
}

TEST_CASE("host memory and mixed ranges are told apart") {
  const auto none = probe("{host_numa_vmm: false}");
  CHECK(none->can_lend(0));
  CHECK(none->gpus[0].host_memory == Tried::no);
  CHECK(none->gpus[0].mixed_range == Tried::no);
  const auto apart = probe("{mixed_ranges: false}");
  CHECK(apart->can_lend(0));
  CHECK(apart->gpus[0].host_memory == Tried::yes);
  CHECK(apart->gpus[0].mixed_range == Tried::no);
  CHECK(apart->gpus[0].mixed_grant != Tried::yes);
  CHECK(has(apart->gpus[0].problem.data(), "CUDA_ERROR_NOT_SUPPORTED"));
}

TEST_CASE("peer access counts only where the bytes arrive") {
  const auto lied = probe("{peers_work: false}");
  CHECK(lied->can_lend(0));
  CHECK(lied->peers[0][1] == Tried::no);
  CHECK(lied->peers[1][0] == Tried::no);
  CHECK(has(lied->gpus[0].problem.data(),
            "GPU 0 reading GPU 1: other bytes came back than were written"));
  const auto islands = probe("{devices: [{island: 0}, {island: 1}, {island: 0}]}");
  CHECK(islands->peers[0][1] == Tried::no);
  CHECK(islands->peers[0][2] == Tried::yes);
  CHECK(islands->peers[2][0] == Tried::yes);
  CHECK(std::string(islands->gpus[0].problem.data()) == "");
}

TEST_CASE("a process that cannot have a child says so") {
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit none{0, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  const auto report = probe("{}");
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(report->outcome == Outcome::no_child);
  CHECK(has(report->trouble(), "no process could be started to try the CUDA driver: "));
}

TEST_CASE("the process that probed can use the driver; probing again then fails in order") {
  const auto context = CudaContext::retain(open_emulator(), 0);
  CHECK(CudaBackend(context, {"test/gpu0", 4 << 20}).create(2 << 20).size_bytes() == 2 << 20);
  CHECK(context->driver().find_device("GPU-e0000000-0000-0000-0000-000000000001") == 1);
  CHECK_FALSE(context->driver().find_device("GPU-00000000-0000-0000-0000-000000000000"));
  const auto report = probe("{}");
  CHECK(report->outcome == Outcome::no_driver);
  CHECK(has(report->trouble(), "CUDA_ERROR_NOT_INITIALIZED"));
}
