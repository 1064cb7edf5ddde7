// How values of several ranks become one.
//
// Shape:   combine() adds one rank's values to a partial result, between prepare() and finish();
//          combine_in_order() does all of it for all ranks' values at once. Values are packed, and
//          aligned or not.
// Units:   counts are of values unless they say bytes.
// Errors:  none: sizes are the caller's word. Integers wrap around; their average rounds to zero.
//          A NaN anywhere makes a sum, a maximum and a minimum NaN, in whatever order. An average
//          overflows where the sum does, but of f16, whose smallest values it may lose instead.
// Cost:    memory speed for f32, f64 and integers; a half or bfloat16 is a float in between.
// Threads: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace causeway {

enum class DataType : std::uint8_t { f32, f64, f16, bf16, i32, i64 };
enum class ReduceOp : std::uint8_t { sum, avg, max, min };

[[nodiscard]] std::size_t size_of(DataType type) noexcept;
[[nodiscard]] std::string_view name_of(DataType type) noexcept;  // "bf16"
[[nodiscard]] std::string_view name_of(ReduceOp op) noexcept;    // "sum"

struct Reduction {
  DataType type = DataType::f32;
  ReduceOp op = ReduceOp::sum;
  // Values are combined from rank 0 upwards and f16 and bf16 rounded once, at the end: the result
  // is that of one process, and does not depend on the sizes of messages or the way they take.
  bool in_rank_order = false;
};

// into[i] = op(into[i], from[i]), where avg is a sum.
void combine(const Reduction& how, std::span<std::byte> into, std::span<const std::byte> from);

// into[i] = op over all parts' [i], in the order of `parts`, for avg divided by their number.
// `into` may be one of the parts.
void combine_in_order(const Reduction& how, std::span<std::byte> into,
                      std::span<const std::span<const std::byte>> parts);

// What a rank does to its own values before they are combined: for avg of f16, the division by
// `ranks`, since a sum of halves overflows soon.
void prepare(const Reduction& how, std::span<std::byte> values, int ranks);
// What is done to the combined ones: for avg of the other types, the division.
void finish(const Reduction& how, std::span<std::byte> values, int ranks);

}  // namespace causeway
