// The loops behind kernels.h, compiled once per set of instructions. To be included by one .cpp per
// set only, which then defines the table of that set.
//
// Everything has internal linkage and nothing of the standard library is called: an inline function
// compiled with AVX2 here could otherwise become the one that all of the program uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "transport/collective/kernels.h"

namespace causeway::collective {

namespace {

struct Half {
  std::uint16_t bits;
};
struct Bfloat {
  std::uint16_t bits;
};

inline float widen(Bfloat value) noexcept {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(value.bits) << 16);
}

// To the nearest, ties to even, without branches, so that the compiler makes vectors of it.
inline Bfloat narrow(float value, Bfloat) noexcept {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const std::uint32_t quiet = (bits >> 16) | 0x40;
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  return {static_cast<std::uint16_t>(is_nan ? quiet : rounded)};
}

inline float widen(Half value) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000) << 16;
  const std::uint32_t rest = static_cast<std::uint32_t>(value.bits & 0x7fff) << 13;
  // The exponent moves from bias 15 to 127; a multiplication does so for subnormal numbers too.
  const float scaled = __builtin_bit_cast(float, rest) * 0x1p112F;
  const auto moved = __builtin_bit_cast(std::uint32_t, scaled);
  // A signalling NaN becomes a quiet one, as the processor's own conversion has it.
  const std::uint32_t nan = rest > 0x0f800000U ? 0x400000U : 0U;
  const bool is_special = (value.bits & 0x7c00) == 0x7c00;
  return __builtin_bit_cast(float, sign | (is_special ? rest | 0x7f800000 | nan : moved));
}

inline Half narrow(float value, Half) noexcept {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  const std::uint32_t rest = bits & 0x7fffffff;
  const std::uint32_t normal =
      (rest - (112U << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;  // May round up to infinity.
  // Below 2^-14 the addition of 0.5 puts the rounded digits of a subnormal half at the bottom.
  const float shifted = __builtin_bit_cast(float, rest) + 0.5F;
  const auto subnormal = __builtin_bit_cast(std::uint32_t, shifted) - 0x3f000000U;
  std::uint32_t result = rest < (113U << 23) ? subnormal : normal;
  result = rest >= 0x47800000U ? 0x7c00 : result;                          // 65536 and more.
  result = rest > 0x7f800000U ? 0x7e00 | ((rest >> 13) & 0x3ff) : result;  // NaN
  return {static_cast<std::uint16_t>(sign | result)};
}

template <typename T>
constexpr bool kIsSmall = std::is_same_v<T, Half> || std::is_same_v<T, Bfloat>;

// What a type is calculated in.
template <typename T>
using Wide = std::conditional_t<kIsSmall<T>, float, T>;

constexpr std::size_t kBlock = 512;  // Values that are wide for a while: they stay in the L1 cache.

template <typename T>
void load(Wide<T>* __restrict to, const std::byte* __restrict from, std::size_t count) noexcept {
  std::size_t i = 0;
#ifdef __F16C__
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 8 <= count; i += 8)
      _mm256_storeu_ps(
          to + i,
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * sizeof(T)))));
#endif
  for (; i < count; ++i) {
    T value;
    __builtin_memcpy(&value, from + i * sizeof(T), sizeof(T));
    if constexpr (kIsSmall<T>)
      to[i] = widen(value);
    else
      to[i] = value;
  }
}

template <typename T>
void store(std::byte* __restrict to, const Wide<T>* __restrict from, std::size_t count) noexcept {
  std::size_t i = 0;
#ifdef __F16C__
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 8 <= count; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * sizeof(T)),
                       _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < count; ++i) {
    T value;
    if constexpr (kIsSmall<T>)
      value = narrow(from[i], T{});
    else
      value = from[i];
    __builtin_memcpy(to + i * sizeof(T), &value, sizeof(T));
  }
}

template <ReduceOp op, typename W>
inline W apply(W a, W b) noexcept {
  if constexpr (op == ReduceOp::max || op == ReduceOp::min) {
    const bool takes_a = op == ReduceOp::max ? a > b : a < b;
    if constexpr (std::is_floating_point_v<W>)
      return takes_a || a != a ? a : b;
    else
      return takes_a ? a : b;
  } else if constexpr (std::is_integral_v<W>) {
    using U = std::make_unsigned_t<W>;
    return static_cast<W>(static_cast<U>(a) + static_cast<U>(b));
  } else {
    return a + b;
  }
}

template <typename T, ReduceOp op>
void add(Wide<T>* __restrict sums, const std::byte* __restrict from, std::size_t count) noexcept {
  if constexpr (kIsSmall<T>) {
    Wide<T> wide[kBlock];
    load<T>(wide, from, count);
    for (std::size_t i = 0; i < count; ++i) sums[i] = apply<op>(sums[i], wide[i]);
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      T value;
      __builtin_memcpy(&value, from + i * sizeof(T), sizeof(T));
      sums[i] = apply<op>(sums[i], value);
    }
  }
}

template <typename T, ReduceOp op>
void reduce(std::byte* into, const std::byte* const* parts, std::size_t parts_count,
            std::size_t count, bool is_average) noexcept {
  Wide<T> sums[kBlock];
  for (std::size_t first = 0; first < count; first += kBlock) {
    const std::size_t size = count - first < kBlock ? count - first : kBlock;
    const std::size_t offset = first * sizeof(T);
    load<T>(sums, parts[0] + offset, size);
    for (std::size_t p = 1; p < parts_count; ++p) add<T, op>(sums, parts[p] + offset, size);
    if (is_average)
      for (std::size_t i = 0; i < size; ++i) sums[i] /= static_cast<Wide<T>>(parts_count);
    store<T>(into + offset, sums, size);
  }
}

template <typename T>
void divide_all(std::byte* values, std::size_t count, int by) noexcept {
  Wide<T> wide[kBlock];
  for (std::size_t first = 0; first < count; first += kBlock) {
    const std::size_t size = count - first < kBlock ? count - first : kBlock;
    std::byte* const at = values + first * sizeof(T);
    load<T>(wide, at, size);
    for (std::size_t i = 0; i < size; ++i) wide[i] /= static_cast<Wide<T>>(by);
    store<T>(at, wide, size);
  }
}

template <typename Function>
inline void with_type(DataType type, const Function& function) {
  switch (type) {
    case DataType::f32:
      return function(float{});
    case DataType::f64:
      return function(double{});
    case DataType::f16:
      return function(Half{});
    case DataType::bf16:
      return function(Bfloat{});
    case DataType::i32:
      return function(std::int32_t{});
    case DataType::i64:
      return function(std::int64_t{});
  }
}

template <ReduceOp op>
void reduce_any(DataType type, std::byte* into, const std::byte* const* parts,
                std::size_t parts_count, std::size_t count, bool is_average) noexcept {
  with_type(type,
            [&]<typename T>(T) { reduce<T, op>(into, parts, parts_count, count, is_average); });
}

void reduce_by(DataType type, ReduceOp op, std::byte* into, const std::byte* const* parts,
               std::size_t parts_count, std::size_t count, bool is_average) noexcept {
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::avg:
      return reduce_any<ReduceOp::sum>(type, into, parts, parts_count, count, is_average);
    case ReduceOp::max:
      return reduce_any<ReduceOp::max>(type, into, parts, parts_count, count, false);
    case ReduceOp::min:
      return reduce_any<ReduceOp::min>(type, into, parts, parts_count, count, false);
  }
}

void combine_pair(DataType type, ReduceOp op, std::byte* into, const std::byte* from,
                  std::size_t count) {
  const std::byte* const parts[] = {into, from};
  reduce_by(type, op, into, parts, 2, count, false);
}

void combine_parts(DataType type, ReduceOp op, std::byte* into, const std::byte* const* parts,
                   std::size_t parts_count, std::size_t count) {
  reduce_by(type, op, into, parts, parts_count, count, op == ReduceOp::avg);
}

void divide_values(DataType type, std::byte* values, std::size_t count, int by) {
  with_type(type, [&]<typename T>(T) { divide_all<T>(values, count, by); });
}

}  // namespace

}  // namespace causeway::collective
