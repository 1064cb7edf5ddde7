// Compiled with -mavx2 -mf16c: nothing here may run before the processor was asked.
#include "transport/collective/kernels_body.h"

namespace causeway::collective {

const Kernels* avx2_kernels() noexcept {
  static constexpr Kernels kTable{"avx2", combine_pair, combine_parts, divide_values};
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") ? &kTable : nullptr;
}

}  // namespace causeway::collective
