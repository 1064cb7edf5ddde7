// Goal:   memory of a GPU crosses processes by descriptor, and the software driver catches programs
//         that are wrong.
// Method: this executable again, as other programs.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "allocator/cuda/cuda_backend.h"
#include "allocator/cuda/plain_memory.h"
#include "tests/allocator/cuda/emulator.h"
#include "tests/allocator/cuda/program.h"
#include "tests/allocator/cuda/program_main.h"
#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/image.h"
#include "tests/error_of.h"

using namespace causeway;
using namespace causeway::test;

namespace {

constexpr std::uint64_t kGranule = std::uint64_t{2} << 20;
constexpr const char* kLeaksCount = "{check_leaks: true}";
constexpr auto kDeadline = std::chrono::seconds(10);

std::shared_ptr<CudaContext> gpu0() { return CudaContext::retain(open_emulator(), 0); }

// A device of two granules with a stream, and one granule of it in a range.
struct Gpu {
  explicit Gpu(std::optional<cuda::Location> memory = std::nullopt)
      : context(gpu0()),
        backend(context, {"test/gpu0", 2 * kGranule, memory}),
        stream(context),
        range(backend.reserve(kGranule)) {}

  void map(const Segment& segment, bool with_access = true) {
    backend.map(range, 0, segment);
    if (with_access) backend.set_access(range, 0, kGranule, Protection::read_write);
  }
  void fill(unsigned char value) {
    stream.fill(range.data(), value, kGranule);
    stream.synchronize();
  }
  bool is_filled_with(int value) {
    std::vector<std::byte> bytes(kGranule);
    stream.copy_out(bytes.data(), range.data(), kGranule);
    stream.synchronize();
    return std::ranges::count(bytes, std::byte(value)) == kGranule;
  }

  std::shared_ptr<CudaContext> context;
  CudaBackend backend;
  CudaStream stream;
  Reservation range;
};

std::atomic<bool> started{false};
std::atomic<bool> may_end{false};

const std::byte* address_in(void* const* parameters) {
  return *static_cast<const std::byte* const*>(parameters[0]);
}

// Kernels: read once; wait until told; read until it faults or the time is over.
void read_once(const emulator::KernelThread&, void* const* parameters) {
  (void)*static_cast<const volatile std::byte*>(address_in(parameters));
}
void wait_until_told(const emulator::KernelThread&, void* const*) {
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (!may_end && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}
void read_on(const emulator::KernelThread&, void* const* parameters) {
  const volatile std::byte* const at = address_in(parameters);
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (std::chrono::steady_clock::now() < end) {
    (void)*at;
    started = true;
  }
}

void launch(const Gpu& gpu, const char* name) {
  static constexpr std::size_t kSizes[] = {sizeof(void*)};
  static constexpr emulator::KernelEntry kKernels[] = {
      {"read_once", read_once, 1, kSizes},
      {"wait_until_told", wait_until_told, 1, kSizes},
      {"read_on", read_on, 1, kSizes}};
  static const emulator::KernelImage image{emulator::kImageMagic, std::size(kKernels), kKernels};
  const auto check = [](int result, const char* call) {
    if (result != 0) throw std::runtime_error(std::string(call) + ": " + std::to_string(result));
  };
  const CudaContext::Current current(*gpu.context);
  cuda::Module module = nullptr;
  cuda::Function function = nullptr;
  check(emulator_function<decltype(cuda::cuModuleLoadData)>("cuModuleLoadData")(&module, &image),
        "cuModuleLoadData");
  check(emulator_function<decltype(cuda::cuModuleGetFunction)>("cuModuleGetFunction")(&function,
                                                                                      module, name),
        "cuModuleGetFunction");
  const auto* at = gpu.range.data();
  void* parameters[] = {&at};
  check(emulator_function<decltype(cuda::cuLaunchKernel)>("cuLaunchKernel")(
            function, 1, 1, 1, 1, 1, 1, 0, gpu.stream.handle(), parameters, nullptr),
        "cuLaunchKernel");
}

// Whether `call` is answered with the driver's error `name`.
int caught(const std::string& name, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    if (std::string(error.what()).find(name) != std::string::npos) return kCaught;
    std::fprintf(stderr, "%s instead of %s\n", error.what(), name.c_str());
    return kWrongError;
  }
  return kNotCaught;
}

// An illegal address is told when the stream is waited for, and by every call from then on.
int caught_at_end(Gpu& gpu) {
  const auto at_end = caught("CUDA_ERROR_ILLEGAL_ADDRESS", [&] { gpu.stream.synchronize(); });
  if (at_end != kCaught) return at_end;
  return caught("CUDA_ERROR_ILLEGAL_ADDRESS", [&] { (void)gpu.backend.create(kGranule); });
}

int load_of_host_memory(bool with_access) {
  Gpu gpu(cuda::Location{cuda::kLocationHostNuma, 0});
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment, with_access);
  return static_cast<int>(*static_cast<volatile std::byte*>(gpu.range.data()));
}

int kernel_before_access() {
  Gpu gpu;
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment, false);
  launch(gpu, "read_once");
  return caught_at_end(gpu);
}

int copy_before_access() {
  Gpu gpu;
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment, false);
  return caught("CUDA_ERROR_INVALID_VALUE", [&] { (void)gpu.is_filled_with(0); });
}

int unmap_under_kernel() {
  Gpu gpu;
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment);
  launch(gpu, "read_on");
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (!started && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  gpu.backend.unmap(gpu.range, 0, kGranule);
  return caught_at_end(gpu);
}

int unmap_under_copy() {
  Gpu gpu;
  const auto to = CudaPlainMemory::pinned(gpu.context, 4096);  // Else the copy waits itself.
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment);
  launch(gpu, "wait_until_told");
  gpu.stream.copy_out(to.bytes().data(), gpu.range.data(), 4096);  // Waits for the kernel.
  gpu.backend.unmap(gpu.range, 0, kGranule);
  may_end = true;
  return caught_at_end(gpu);
}

int kernel_after_free() {
  Gpu gpu;
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment);
  launch(gpu, "wait_until_told");
  launch(gpu, "read_once");
  gpu.range = Reservation();
  may_end = true;
  return caught_at_end(gpu);
}

int copy_after_free() {
  Gpu gpu;
  std::byte byte{};
  const auto* const at = gpu.range.data();
  gpu.range = Reservation();
  return caught("CUDA_ERROR_INVALID_VALUE", [&] { gpu.stream.copy_out(&byte, at, 1); });
}

// As its driver's settings say, the kernel takes 0.2 s.
int slow_kernel() {
  Gpu gpu;
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment);
  const auto start = std::chrono::steady_clock::now();
  launch(gpu, "read_once");
  const bool was_idle = gpu.stream.is_idle();
  gpu.stream.synchronize();
  const auto took = std::chrono::steady_clock::now() - start;
  return !was_idle && took >= std::chrono::milliseconds(200) ? 0 : 1;
}

int leak() {
  const auto context = gpu0();
  cuda::AllocationProp prop;
  prop.type = cuda::kAllocationPinned;
  prop.location = {cuda::kLocationDevice, 0};
  cuda::Handle handle = 0;
  return context->functions().cuMemCreate(&handle, kGranule, &prop, 0);
}

int be_in_order() {
  Gpu gpu;
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment);
  gpu.fill(1);
  return gpu.is_filled_with(1) ? 0 : 1;
}

int borrow() {
  Gpu gpu;
  const auto segment = gpu.backend.import_segment(UniqueFd(kFd), kGranule);
  gpu.map(segment);
  if (!gpu.is_filled_with(7)) return 1;
  gpu.fill(8);
  return 0;
}

int lend_and_die() {
  const FdSockets sockets{UniqueFd(kFd)};
  Gpu gpu;
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment);
  gpu.fill(9);
  sockets.send(0, gpu.backend.export_segment(segment).get());
  return ::raise(SIGKILL);
}

int borrow_and_die() {
  Gpu gpu;
  const auto segment = gpu.backend.import_segment(UniqueFd(kFd), kGranule);
  gpu.map(segment);
  gpu.fill(10);
  return ::raise(SIGKILL);
}

// The text with which a descriptor is refused.
std::string refusal(UniqueFd fd, std::uint64_t size_bytes = kGranule) {
  Gpu gpu;
  const auto held_before = CAUSEWAY_EMULATOR(causeway_cuda_held)(nullptr, 0);
  const auto error = error_of([&] { (void)gpu.backend.import_segment(std::move(fd), size_bytes); });
  CHECK(error.code() == Errc::protocol);
  CHECK(CAUSEWAY_EMULATOR(causeway_cuda_held)(nullptr, 0) == held_before);
  return error.what();
}

}  // namespace

int run_program(const std::string& name) {
  const std::map<std::string, std::function<int()>> programs{
      {"load before access", [] { return load_of_host_memory(false); }},
      {"load with access", [] { return load_of_host_memory(true); }},
      {"kernel before access", kernel_before_access},
      {"copy before access", copy_before_access},
      {"unmap under a kernel", unmap_under_kernel},
      {"unmap under a copy", unmap_under_copy},
      {"kernel after free", kernel_after_free},
      {"copy after free", copy_after_free},
      {"slow kernel", slow_kernel},
      {"leak", leak},
      {"in order", be_in_order},
      {"borrow", borrow},
      {"lend and die", lend_and_die},
      {"borrow and die", borrow_and_die}};
  return programs.at(name)();
}

TEST_CASE("a program in order passes, with its leaks counted") {
  CHECK(run_to_end("in order", kLeaksCount) == 0);
}

TEST_CASE("an access before set_access is caught") {
  CHECK(run_to_end("load with access") == 0);
  CHECK(run_to_end("load before access") == -SIGSEGV);
  CHECK(run_to_end("kernel before access") == kCaught);
  CHECK(run_to_end("copy before access") == kCaught);
}

TEST_CASE("an unmap under running work is caught") {
  CHECK(run_to_end("unmap under a kernel") == kCaught);
  CHECK(run_to_end("unmap under a copy") == kCaught);
}

TEST_CASE("a use after free is caught") {
  CHECK(run_to_end("kernel after free") == kCaught);
  CHECK(run_to_end("copy after free") == kCaught);
}

TEST_CASE("a kernel takes as long as the settings say") {
  CHECK(run_to_end("slow kernel", "{kernels_us: {read_once: 200000}}") == 0);
}

TEST_CASE("a leak is the exit code") {
  CHECK(run_to_end("leak", kLeaksCount) == 97);
  CHECK(run_to_end("leak") == 0);
}

TEST_CASE("bytes of a device cross processes, both ways") {
  Gpu gpu;
  const auto segment = gpu.backend.create(kGranule);
  gpu.map(segment);
  gpu.fill(7);
  const auto fd = gpu.backend.export_segment(segment);
  CHECK(run_to_end("borrow", kLeaksCount, fd.get()) == 0);
  CHECK(gpu.is_filled_with(8));
}

TEST_CASE("bytes outlive their owner") {
  Gpu gpu;
  const FdSockets sockets;
  auto owner = start_program("lend and die", {}, sockets.descriptor(1));
  auto fd = sockets.receive(0);
  CHECK(owner.wait() == -SIGKILL);
  const auto segment = gpu.backend.import_segment(std::move(fd), kGranule);
  gpu.map(segment);
  CHECK(gpu.is_filled_with(9));
  CHECK(gpu.backend.used_bytes() == 0);
}

TEST_CASE("a borrower that is killed costs its owner nothing") {
  Gpu gpu;
  {
    const auto segment = gpu.backend.create(kGranule);
    gpu.map(segment);
    const auto fd = gpu.backend.export_segment(segment);
    CHECK(run_to_end("borrow and die", {}, fd.get()) == -SIGKILL);
    CHECK(gpu.is_filled_with(10));
    gpu.backend.unmap(gpu.range, 0, kGranule);
  }
  CHECK(gpu.backend.used_bytes() == 0);
  CHECK(gpu.backend.create(2 * kGranule).size_bytes() == 2 * kGranule);
}

TEST_CASE("a descriptor of something else is refused, and the text says what to do") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd writing(ends[1]);
  const auto text = refusal(UniqueFd(ends[0]));
  CHECK(text.find("test/gpu0: refused to import 2097152 bytes") != std::string::npos);
  CHECK(text.find("cuMemImportFromShareableHandle failed: CUDA_ERROR_INVALID_VALUE") !=
        std::string::npos);
  CHECK(text.find("ask the peer for an exported segment") != std::string::npos);
  for (const char* path : {"/dev/zero", "/dev/null", "/", "/proc/self/maps"})
    CHECK(refusal(UniqueFd(::open(path, O_RDONLY | O_CLOEXEC))) != "");
  UniqueFd plain(::memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(::ftruncate(plain.get(), kGranule) == 0);
  CHECK(refusal(std::move(plain)) != "");
  CHECK(refusal(UniqueFd(1 << 20)) != "");  // Not open.
}

TEST_CASE("a segment of another size than was said is refused") {
  Gpu gpu;
  const auto segment = gpu.backend.create(kGranule);
  CHECK(refusal(gpu.backend.export_segment(segment), 2 * kGranule) != "");
  const auto large = gpu.backend.create(kGranule);
  CHECK(refusal(gpu.backend.export_segment(large), 3 * kGranule) != "");
}
