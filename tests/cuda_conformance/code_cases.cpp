// Modules, libraries, kernels and their launches.
#include <array>

#include "tests/cuda_conformance/driver.h"
#include "tests/cuda_conformance/kernels.h"

using namespace causeway::conformance;

namespace {

struct Pair {
  std::uint64_t first, second;
};

void check_mixed(const DeviceBytes& out) {
  std::array<std::uint64_t, 5> found{};
  NEED(api().cuMemcpyDtoH(found.data(), out.at(), sizeof found));
  CHECK(found == std::array<std::uint64_t, 5>{200, 0xfedcba98, std::uint64_t{1} << 60, 3, 4});
}

Result launch(Function function, std::array<unsigned, 3> grid, std::array<unsigned, 3> block,
              unsigned shared_bytes, void** parameters, void** extra = nullptr) {
  return api().cuLaunchKernel(function, grid[0], grid[1], grid[2], block[0], block[1], block[2],
                              shared_bytes, nullptr, parameters, extra);
}

class OwnedLibrary {
 public:
  OwnedLibrary() {
    NEED(api().cuLibraryLoadData(&library_, kernel_image(is_software_driver()), nullptr, nullptr, 0,
                                 nullptr, nullptr, 0));
  }
  OwnedLibrary(const OwnedLibrary&) = delete;
  OwnedLibrary& operator=(const OwnedLibrary&) = delete;
  ~OwnedLibrary() { (void)api().cuLibraryUnload(library_); }
  operator Library() const { return library_; }  // NOLINT

 private:
  Library library_ = nullptr;
};

}  // namespace

TEST_CASE("code: what is none is refused") {
  const Gpu gpu;
  Module module = nullptr;
  static constexpr char kText[] = "this is neither an image nor a text of PTX, whatever it says\n";
  const auto result = api().cuModuleLoadData(&module, kText);
  constexpr Result kInvalidPtx = 218;
  const bool is_refused = result == kInvalidImage || result == kInvalidPtx;
  CHECK_MESSAGE(is_refused, name_of(result));
  ANSWERS(api().cuModuleLoadData(&module, nullptr), kInvalidValue);
  ANSWERS(api().cuModuleLoadDataEx(nullptr, kText, 0, nullptr, nullptr), kInvalidValue);
}

TEST_CASE("code: a function by its name") {
  const Gpu gpu;
  const Code code;
  Function function = nullptr;
  ANSWERS(api().cuModuleGetFunction(&function, code.module(), "no_such"), kNotFound);
  ANSWERS(api().cuModuleGetFunction(&function, code.module(), nullptr), kInvalidValue);
  int threads = 0;
  constexpr int kMostThreadsOfBlock = 0;
  NEED(api().cuFuncGetAttribute(&threads, kMostThreadsOfBlock, code["fill"]));
  CHECK(threads >= 64);
  int blocks = 0;
  NEED(api().cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, code["fill"], 64, 0));
  CHECK(blocks > 0);
}

TEST_CASE("code: where a function's parameters lie") {
  const Gpu gpu;
  SKIP_WITHOUT(api().cuFuncGetParamInfo != nullptr);
  const Code code;
  const std::array<std::pair<std::size_t, std::size_t>, 5> expected{
      {{0, 1}, {4, 4}, {8, 8}, {16, 16}, {32, 8}}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    std::size_t offset = 99;
    std::size_t size = 99;
    NEED(api().cuFuncGetParamInfo(code["mixed"], i, &offset, &size));
    CHECK(std::pair(offset, size) == expected[i]);
    NEED(api().cuFuncGetParamInfo(code["mixed"], i, &offset, nullptr));
  }
  std::size_t offset = 0;
  ANSWERS(api().cuFuncGetParamInfo(code["mixed"], 5, &offset, nullptr), kInvalidValue);
}

TEST_CASE("code: parameters one by one, and as one image") {
  const Gpu gpu;
  const Code code;
  const DeviceBytes out(64);
  std::uint8_t a = 200;
  std::uint32_t b = 0xfedcba98;
  std::uint64_t c = std::uint64_t{1} << 60;
  Pair d{3, 4};
  DevicePtr at = out.at();
  void* parameters[] = {&a, &b, &c, &d, &at};
  NEED(launch(code["mixed"], {1, 1, 1}, {1, 1, 1}, 0, parameters));
  check_mixed(out);
  NEED(api().cuMemsetD8(out.at(), 0, 64));
  struct {
    std::uint8_t a = 200;
    std::uint32_t b = 0xfedcba98;
    std::uint64_t c = std::uint64_t{1} << 60;
    Pair d{3, 4};
    DevicePtr out;
  } image;
  image.out = out.at();
  std::size_t size = sizeof image;
  void* extra[] = {kExtraBuffer, &image, kExtraSize, &size, kExtraEnd};
  NEED(launch(code["mixed"], {1, 1, 1}, {1, 1, 1}, 0, nullptr, extra));
  check_mixed(out);
  ANSWERS(launch(code["mixed"], {1, 1, 1}, {1, 1, 1}, 0, parameters, extra), kInvalidValue);
}

TEST_CASE("code: shapes that cannot be") {
  const Gpu gpu;
  const Code code;
  const DeviceBytes device(4096);
  auto at = device.at();
  void* parameters[] = {&at};
  ANSWERS(launch(code["touch"], {0, 1, 1}, {1, 1, 1}, 0, parameters), kInvalidValue);
  ANSWERS(launch(code["touch"], {1, 1, 1}, {1, 0, 1}, 0, parameters), kInvalidValue);
  ANSWERS(launch(code["touch"], {1, 1, 1}, {2048, 1, 1}, 0, parameters), kInvalidValue);
  ANSWERS(launch(code["touch"], {1, 1, 1}, {64, 64, 1}, 0, parameters), kInvalidValue);
  ANSWERS(launch(code["touch"], {1, 70000, 1}, {1, 1, 1}, 0, parameters), kInvalidValue);
  ANSWERS(launch(code["touch"], {1, 1, 1}, {1, 1, 1}, 1 << 20, parameters), kInvalidValue);
  NEED(launch(code["touch"], {1, 1, 1}, {1, 1, 1}, 0, parameters));
  NEED(api().cuCtxSynchronize());
}

TEST_CASE("code: a kernel follows an address that lies in memory") {
  const Gpu gpu;
  const Code code;
  const DeviceBytes target(64);
  const DeviceBytes where(64);
  const DeviceBytes out(64);
  const auto address = target.at() + 12;
  NEED(api().cuMemsetD32(target.at(), 55, 16));
  NEED(api().cuMemcpyHtoD(where.at(), &address, sizeof address));
  auto from = where.at();
  auto to = out.at();
  void* parameters[] = {&from, &to};
  NEED(launch(code["follow"], {1, 1, 1}, {1, 1, 1}, 0, parameters));
  NEED(api().cuCtxSynchronize());
  CHECK(out.words()[0] == 55);
}

TEST_CASE("code: a launch with a list of what is special about it") {
  const Gpu gpu;
  const Code code;
  const DeviceBytes device(4096);
  auto at = device.at();
  std::uint32_t first = 60;
  std::uint32_t count = 64;
  void* parameters[] = {&at, &first, &count};
  LaunchAttribute attributes[2];
  attributes[0].id = 0;  // To be ignored.
  attributes[1].id = kLaunchCooperative;
  attributes[1].value.cooperative = 1;
  LaunchConfig config;
  config.grid[0] = 2;
  config.grid[1] = config.grid[2] = 1;
  config.block[0] = 32;
  config.block[1] = config.block[2] = 1;
  NEED(api().cuLaunchKernelEx(&config, code["fill"], parameters, nullptr));
  config.attributes = attributes;
  config.attribute_count = 2;
  NEED(api().cuLaunchKernelEx(&config, code["fill"], parameters, nullptr));
  NEED(api().cuCtxSynchronize());
  CHECK(device.words()[63] == 123);
  config.grid[0] = 1 << 20;  // More than can be there at once.
  ANSWERS(api().cuLaunchKernelEx(&config, code["fill"], parameters, nullptr),
          kCooperativeLaunchTooLarge);
}

TEST_CASE("code: a cooperative launch") {
  const Gpu gpu;
  constexpr int kCooperative = 95;
  SKIP_WITHOUT(attribute(kCooperative) == 1);
  const Code code;
  const DeviceBytes device(4096);
  auto at = device.at();
  std::uint32_t first = 1;
  std::uint32_t count = 64;
  void* parameters[] = {&at, &first, &count};
  NEED(api().cuLaunchCooperativeKernel(code["fill"], 2, 1, 1, 32, 1, 1, 0, nullptr, parameters));
  NEED(api().cuCtxSynchronize());
  CHECK(device.words()[63] == 64);
  ANSWERS(api().cuLaunchCooperativeKernel(code["fill"], 1 << 20, 1, 1, 32, 1, 1, 0, nullptr,
                                          parameters),
          kCooperativeLaunchTooLarge);
}

TEST_CASE("code: libraries, whose kernels are of no context") {
  const Gpu gpu;
  const OwnedLibrary library;
  Kernel kernel = nullptr;
  ANSWERS(api().cuLibraryGetKernel(&kernel, library, "no_such"), kNotFound);
  NEED(api().cuLibraryGetKernel(&kernel, library, "fill"));
  const DeviceBytes device(4096);
  auto at = device.at();
  std::uint32_t first = 70;
  std::uint32_t count = 10;
  void* parameters[] = {&at, &first, &count};
  NEED(launch(kernel, {1, 1, 1}, {32, 1, 1}, 0, parameters));  // A launch takes either.
  NEED(api().cuCtxSynchronize());
  CHECK(device.words()[9] == 79);
  Function function = nullptr;
  Module module = nullptr;
  NEED(api().cuKernelGetFunction(&function, kernel));
  first = 80;
  NEED(launch(function, {1, 1, 1}, {32, 1, 1}, 0, parameters));
  NEED(api().cuCtxSynchronize());
  CHECK(device.words()[9] == 89);
  Function same = nullptr;
  NEED(api().cuLibraryGetModule(&module, library));
  NEED(api().cuModuleGetFunction(&same, module, "fill"));
  first = 90;
  NEED(launch(same, {1, 1, 1}, {32, 1, 1}, 0, parameters));
  NEED(api().cuCtxSynchronize());
  CHECK(device.words()[9] == 99);
  SKIP_WITHOUT(api().cuKernelGetParamInfo != nullptr);
  std::size_t offset = 0;
  std::size_t size = 0;
  NEED(api().cuKernelGetParamInfo(kernel, 1, &offset, &size));
  CHECK(offset == 8);
  CHECK(size == 4);
  ANSWERS(api().cuKernelGetParamInfo(kernel, 3, &offset, &size), kInvalidValue);
}

TEST_CASE("code: all of a large range is read") {
  const Gpu gpu;
  const Code code;
  constexpr std::uint64_t kBytes = 1 << 20;
  const DeviceBytes in(kBytes);
  const DeviceBytes out(64);
  NEED(api().cuMemsetD8(in.at(), 0, kBytes));
  NEED(api().cuMemsetD8(out.at(), 0, 64));
  NEED(api().cuMemsetD32(in.at() + kBytes - 4, 0x77, 1));
  NEED(api().cuMemsetD32(in.at() + 4096, 0x7000, 1));
  auto from = in.at();
  auto to = out.at();
  std::uint64_t count = kBytes / 16;
  void* parameters[] = {&from, &to, &count};
  NEED(launch(code["read_all"], {16, 1, 1}, {256, 1, 1}, 0, parameters));
  NEED(api().cuCtxSynchronize());
  CHECK(out.words()[0] == 0x7077);
}
