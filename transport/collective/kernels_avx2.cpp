// Compiled with -mavx2 -mf16c: nothing here may run before the processor was asked.
#include <cpuid.h>

#include "transport/collective/kernels_body.h"

namespace causeway::collective {

const Kernels* avx2_kernels() noexcept {
  static constexpr Kernels kTable{"avx2", combine_pair, combine_parts, divide_values};
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool has_f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  return has_f16c && __builtin_cpu_supports("avx2") ? &kTable : nullptr;
}

}  // namespace causeway::collective
