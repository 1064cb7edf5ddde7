#include "tests/cuda_conformance/kernels.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>

#include "tests/cuda_emulator/image.h"

namespace causeway::conformance {

namespace {

using emulator::KernelEntry;
using emulator::KernelThread;

// As old a dialect as will do: every card from Volta on takes it.
constexpr const char* kPtx = R"(
.version 7.0
.target sm_70
.address_size 64

.visible .entry fill(.param .u64 out, .param .u32 first, .param .u32 count) {
  .reg .pred %over;
  .reg .b32 %i, %block, %size, %n, %v;
  .reg .b64 %at, %offset;
  mov.u32 %i, %tid.x;
  mov.u32 %block, %ctaid.x;
  mov.u32 %size, %ntid.x;
  mad.lo.u32 %i, %block, %size, %i;
  ld.param.u32 %n, [count];
  setp.ge.u32 %over, %i, %n;
  @%over bra done;
  ld.param.u32 %v, [first];
  add.u32 %v, %v, %i;
  ld.param.u64 %at, [out];
  mul.wide.u32 %offset, %i, 4;
  add.u64 %at, %at, %offset;
  st.u32 [%at], %v;
done:
  ret;
}

.visible .entry follow(.param .u64 where, .param .u64 out) {
  .reg .b32 %v;
  .reg .b64 %at;
  ld.param.u64 %at, [where];
  ld.u64 %at, [%at];
  ld.u32 %v, [%at];
  ld.param.u64 %at, [out];
  st.u32 [%at], %v;
  ret;
}

.visible .entry touch(.param .u64 at) {
  .reg .b32 %v;
  .reg .b64 %at;
  ld.param.u64 %at, [at];
  ld.volatile.u32 %v, [%at];
  st.volatile.u32 [%at], %v;
  ret;
}

.visible .entry wait_flag(.param .u64 flag, .param .u64 out) {
  .reg .pred %zero;
  .reg .b32 %v;
  .reg .b64 %at;
  ld.param.u64 %at, [flag];
again:
  ld.volatile.u32 %v, [%at];
  setp.eq.u32 %zero, %v, 0;
  @%zero bra again;
  ld.param.u64 %at, [out];
  mov.u32 %v, 1;
  st.u32 [%at], %v;
  ret;
}

.visible .entry mixed(.param .u8 a, .param .u32 b, .param .u64 c, .param .align 8 .b8 d[16],
                      .param .u64 out) {
  .reg .b32 %w;
  .reg .b64 %v, %at;
  ld.param.u64 %at, [out];
  ld.param.u8 %w, [a];
  cvt.u64.u32 %v, %w;
  st.u64 [%at], %v;
  ld.param.u32 %w, [b];
  cvt.u64.u32 %v, %w;
  st.u64 [%at+8], %v;
  ld.param.u64 %v, [c];
  st.u64 [%at+16], %v;
  ld.param.u64 %v, [d];
  st.u64 [%at+24], %v;
  ld.param.u64 %v, [d+8];
  st.u64 [%at+32], %v;
  ret;
}

.visible .entry read_all(.param .u64 in, .param .u64 out, .param .u64 count) {
  .reg .pred %over;
  .reg .b32 %i, %block, %size, %blocks, %a, %b, %c, %d, %sum;
  .reg .b64 %in, %out, %n, %at, %step, %offset;
  ld.param.u64 %in, [in];
  ld.param.u64 %out, [out];
  ld.param.u64 %n, [count];
  mov.u32 %i, %tid.x;
  mov.u32 %block, %ctaid.x;
  mov.u32 %size, %ntid.x;
  mov.u32 %blocks, %nctaid.x;
  mad.lo.u32 %i, %block, %size, %i;
  cvt.u64.u32 %at, %i;
  mul.lo.u32 %blocks, %blocks, %size;
  cvt.u64.u32 %step, %blocks;
  mov.u32 %sum, 0;
again:
  setp.ge.u64 %over, %at, %n;
  @%over bra done;
  shl.b64 %offset, %at, 4;
  add.u64 %offset, %offset, %in;
  ld.v4.u32 {%a, %b, %c, %d}, [%offset];
  xor.b32 %sum, %sum, %a;
  xor.b32 %sum, %sum, %b;
  xor.b32 %sum, %sum, %c;
  xor.b32 %sum, %sum, %d;
  add.u64 %at, %at, %step;
  bra again;
done:
  atom.xor.b32 %a, [%out], %sum;
  ret;
}
)";

template <typename T>
T argument(void* const* parameters, int index) {
  T value;
  std::memcpy(&value, parameters[index], sizeof value);
  return value;
}

void fill(const KernelThread& thread, void* const* parameters) {
  const auto i = thread.block_index[0] * thread.block[0] + thread.thread_index[0];
  if (i >= argument<std::uint32_t>(parameters, 2)) return;
  argument<std::uint32_t*>(parameters, 0)[i] = argument<std::uint32_t>(parameters, 1) + i;
}

void follow(const KernelThread&, void* const* parameters) {
  *argument<std::uint32_t*>(parameters, 1) = **argument<std::uint32_t**>(parameters, 0);
}

void touch(const KernelThread&, void* const* parameters) {
  auto* const at = argument<volatile std::uint32_t*>(parameters, 0);
  *at = *at;
}

void wait_flag(const KernelThread&, void* const* parameters) {
  const std::atomic_ref flag(*argument<std::uint32_t*>(parameters, 0));
  while (flag.load() == 0) std::this_thread::yield();
  *argument<std::uint32_t*>(parameters, 1) = 1;
}

void mixed(const KernelThread&, void* const* parameters) {
  auto* const out = argument<std::uint64_t*>(parameters, 4);
  out[0] = argument<std::uint8_t>(parameters, 0);
  out[1] = argument<std::uint32_t>(parameters, 1);
  out[2] = argument<std::uint64_t>(parameters, 2);
  std::memcpy(&out[3], parameters[3], 2 * sizeof *out);
}

// One thread of the host reads what the grid's first would: the rest have nothing left.
void read_all(const KernelThread& thread, void* const* parameters) {
  if (thread.block_index[0] != 0 || thread.thread_index[0] != 0) return;
  const auto* const in = argument<const std::uint64_t*>(parameters, 0);
  const auto words = 2 * argument<std::uint64_t>(parameters, 2);
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < words; ++i) sum ^= in[i];
  *argument<std::uint32_t*>(parameters, 1) ^= static_cast<std::uint32_t>(sum ^ (sum >> 32));
}

constexpr std::size_t kFill[] = {8, 4, 4};
constexpr std::size_t kFollow[] = {8, 8};
constexpr std::size_t kTouch[] = {8};
constexpr std::size_t kMixed[] = {1, 4, 8, 16, 8};
constexpr std::size_t kReadAll[] = {8, 8, 8};
constexpr KernelEntry kKernels[] = {
    {"fill", fill, 3, kFill},    {"follow", follow, 2, kFollow},
    {"touch", touch, 1, kTouch}, {"wait_flag", wait_flag, 2, kFollow},
    {"mixed", mixed, 5, kMixed}, {"read_all", read_all, 3, kReadAll}};
constexpr emulator::KernelImage kImage{emulator::kImageMagic, std::size(kKernels), kKernels};

}  // namespace

const void* kernel_image(bool is_software_driver) {
  return is_software_driver ? static_cast<const void*>(&kImage) : kPtx;
}

}  // namespace causeway::conformance
