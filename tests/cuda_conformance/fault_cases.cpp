// Programs that are wrong, each in a process of its own: what the driver says, and that it goes on
// saying it. And memory that crosses processes.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "tests/allocator/cuda/program.h"
#include "tests/cuda_conformance/driver.h"
#include "tests/cuda_conformance/kernels.h"

using namespace causeway::conformance;
using causeway::test::kCaught;
using causeway::test::kNotCaught;
using causeway::test::kWrongError;

namespace {

constexpr const char* kHandleVariable = "CAUSEWAY_CONFORMANCE_HANDLE";

// An illegal address is told when its work is waited for, and by every call from then on.
int caught_at_end() {
  const auto result = api().cuCtxSynchronize();
  if (result == kSuccess) return kNotCaught;
  if (result != kIllegalAddress) {
    std::fprintf(stderr, "%s instead of an illegal address\n", name_of(result).c_str());
    return kWrongError;
  }
  DevicePtr at = 0;
  const bool stays =
      api().cuMemAlloc(&at, 4096) == kIllegalAddress && api().cuCtxSynchronize() == kIllegalAddress;
  return stays ? kCaught : kWrongError;
}

// Never given back, since a broken context takes nothing; reachable, so that it is no leak.
template <typename T, typename... Arguments>
T& kept(Arguments&&... arguments) {
  static auto* const all = new std::vector<T*>;
  all->push_back(new T(std::forward<Arguments>(arguments)...));
  return *all->back();
}

// As every program begins.
Code& start() {
  Context context = nullptr;
  NEED(api().cuDevicePrimaryCtxRetain(&context, 0));
  NEED(api().cuCtxSetCurrent(context));
  return kept<Code>();
}

int touch_nothing() {
  auto& code = start();
  NEED(code.touch(nullptr, 16));
  return caught_at_end();
}

int touch_before_access() {
  auto& code = start();
  auto& memory = kept<Mapped>(std::size_t{1}, Mapped::Grant::none);
  NEED(code.touch(nullptr, memory.at()));
  return caught_at_end();
}

int touch_after_access_is_taken() {
  auto& code = start();
  auto& memory = kept<Mapped>();
  NEED(grant(memory.at(), memory.size(), kAccessNone));
  NEED(code.touch(nullptr, memory.at()));
  return caught_at_end();
}

int touch_after_unmap() {
  auto& code = start();
  auto& memory = kept<Mapped>();
  memory.unmap();
  NEED(code.touch(nullptr, memory.at()));
  return caught_at_end();
}

int unmap_under_queued_kernel() {
  auto& code = start();
  auto& memory = kept<Mapped>();
  auto& stream = kept<OwnedStream>();
  auto& gate = kept<Gate>(code, Stream(stream));
  NEED(code.touch(stream, memory.at()));
  memory.unmap();
  gate.open();
  return caught_at_end();
}

int write_where_only_reading_is_granted() {
  auto& code = start();
  auto& memory = kept<Mapped>();
  if (grant(memory.at(), memory.size(), kAccessRead) != kSuccess) return kCaught;  // Refused.
  NEED(code.touch(nullptr, memory.at()));
  return caught_at_end();
}

// A copy may be refused at once, or be the end of the context.
int copy_before_access() {
  (void)start();
  auto& memory = kept<Mapped>(std::size_t{1}, Mapped::Grant::none);
  auto& host = kept<HostBytes>(std::size_t{4096});
  const auto result = api().cuMemcpyDtoHAsync(host.bytes(), memory.at(), 4096, nullptr);
  std::fprintf(stderr, "a copy before access: %s at once\n", name_of(result).c_str());
  if (result == kInvalidValue) return kCaught;
  return result == kSuccess ? caught_at_end() : kWrongError;
}

int broken_elsewhere_too() {
  auto& code = start();
  auto& one = kept<OwnedStream>();
  auto& two = kept<OwnedStream>();
  NEED(code.touch(one, 16));
  if (api().cuStreamSynchronize(one) != kIllegalAddress) return kNotCaught;
  return api().cuStreamSynchronize(two) == kIllegalAddress ? kCaught : kWrongError;
}

int open_handle() {
  auto& code = start();
  IpcMemHandle handle;
  const std::string text = std::getenv(kHandleVariable);
  for (std::size_t i = 0; i < sizeof handle.bytes; ++i)
    handle.bytes[i] = static_cast<char>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  DevicePtr at = 0;
  DevicePtr again = 0;
  NEED(api().cuIpcOpenMemHandle(&at, handle, kIpcLazyPeerAccess));
  NEED(api().cuIpcOpenMemHandle(&again, handle, kIpcLazyPeerAccess));
  std::uint32_t word = 0;
  NEED(api().cuMemcpyDtoH(&word, at, sizeof word));
  NEED(code.fill(nullptr, at, word + 1, 4));
  NEED(api().cuCtxSynchronize());
  NEED(api().cuIpcCloseMemHandle(at));
  if (again != at) return 2;
  NEED(api().cuIpcCloseMemHandle(at));
  return word == 41 && api().cuIpcCloseMemHandle(at) != kSuccess ? 0 : 1;
}

// Not with this process's settings of the software driver: these programs leak.
int run(const std::string& name) { return causeway::test::run_to_end(name); }

}  // namespace

int run_program(const std::string& name) {
  if (name == "print-ptx") return std::puts(static_cast<const char*>(kernel_image(false))) < 0;
  const std::map<std::string, std::function<int()>> programs{
      {"touch nothing", touch_nothing},
      {"touch before access", touch_before_access},
      {"touch after access is taken", touch_after_access_is_taken},
      {"touch after unmap", touch_after_unmap},
      {"unmap under a queued kernel", unmap_under_queued_kernel},
      {"write where only reading is granted", write_where_only_reading_is_granted},
      {"copy before access", copy_before_access},
      {"broken elsewhere too", broken_elsewhere_too},
      {"open handle", open_handle}};
  try {
    return programs.at(name)();
  } catch (...) {  // A NEED outside a test case.
    return causeway::test::kChildThrew;
  }
}

TEST_CASE("fault: a kernel touches what is nobody's") {
  CHECK(run("touch nothing") == kCaught);
  CHECK(run("broken elsewhere too") == kCaught);
}

TEST_CASE("fault: a kernel or a copy before access is granted") {
  SKIP_WITHOUT(has_vmm());
  CHECK(run("touch before access") == kCaught);
  CHECK(run("touch after access is taken") == kCaught);
  CHECK(run("copy before access") == kCaught);
}

TEST_CASE("fault: a kernel after its memory is unmapped") {
  SKIP_WITHOUT(has_vmm());
  CHECK(run("touch after unmap") == kCaught);
  CHECK(run("unmap under a queued kernel") == kCaught);
}

TEST_CASE("fault: a kernel writes where it may only read") {
  SKIP_WITHOUT(has_vmm());
  CHECK(run("write where only reading is granted") == kCaught);
}

TEST_CASE("handle: plain memory opens in another process") {
  const Gpu gpu;
  DeviceBytes device(4096);
  NEED(api().cuMemsetD32(device.at(), 41, 4));
  NEED(api().cuCtxSynchronize());
  IpcMemHandle handle;
  NEED(api().cuIpcGetMemHandle(&handle, device.at()));
  std::string text;
  for (const char byte : handle.bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(byte));
    text += digits;
  }
  ::setenv(kHandleVariable, text.c_str(), 1);
  CHECK(run("open handle") == 0);
  CHECK(device.words()[3] == 45);
  DevicePtr at = 0;
  CHECK(api().cuIpcOpenMemHandle(&at, handle, kIpcLazyPeerAccess) != kSuccess);  // Not here.
  ANSWERS(api().cuIpcCloseMemHandle(device.at()), kInvalidValue);
  const HostBytes host(64);
  ANSWERS(api().cuIpcGetMemHandle(&handle, host.at()), kInvalidValue);
}
