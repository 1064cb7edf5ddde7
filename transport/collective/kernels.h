// The inner loops of reductions, for the processor at hand.
//
// Shape:   one table of functions per set of instructions; kernels() gives the best that runs here.
//          All tables give the same bits. Values are packed, aligned or not.
// Units:   counts of values.
// Cost:    f32, f64 and integers: the speed of the cache; f16 and bf16 about half of it with AVX2.
// Threads: any.
#pragma once

#include <cstddef>

#include "transport/collective/reduction.h"

namespace causeway::collective {

struct Kernels {
  const char* name;  // "avx2"
  // into[i] = op(into[i], from[i]); avg is a sum.
  void (*combine)(DataType type, ReduceOp op, std::byte* into, const std::byte* from,
                  std::size_t count);
  // into[i] = op over all parts, in their order; for avg divided by their number.
  void (*combine_in_order)(DataType type, ReduceOp op, std::byte* into,
                           const std::byte* const* parts, std::size_t parts_count,
                           std::size_t count);
  void (*divide)(DataType type, std::byte* values, std::size_t count, int by);
};

[[nodiscard]] const Kernels& kernels() noexcept;
[[nodiscard]] const Kernels& baseline_kernels() noexcept;
// Null where this processor or build has none.
[[nodiscard]] const Kernels* avx2_kernels() noexcept;

}  // namespace causeway::collective
