#include "transport/collective/kernels.h"

#include "transport/collective/kernels_body.h"

namespace causeway::collective {

const Kernels& baseline_kernels() noexcept {
  static constexpr Kernels kTable{"baseline", combine_pair, combine_parts, divide_values};
  return kTable;
}

#ifndef CAUSEWAY_HAS_AVX2_KERNELS
const Kernels* avx2_kernels() noexcept { return nullptr; }
#endif

const Kernels& kernels() noexcept {
  static const Kernels& best = avx2_kernels() != nullptr ? *avx2_kernels() : baseline_kernels();
  return best;
}

}  // namespace causeway::collective
