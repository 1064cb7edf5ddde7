#include "transport/collective/reduction.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

namespace causeway {

namespace {

struct Half {
  std::uint16_t bits;
};
struct Bfloat {
  std::uint16_t bits;
};

float widen(Bfloat value) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

// To the nearest, ties to even, without branches, so that the compiler makes vectors of it.
Bfloat narrow(float value, Bfloat) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const std::uint32_t quiet = (bits >> 16) | 0x40;
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  return {static_cast<std::uint16_t>(is_nan ? quiet : rounded)};
}

float widen(Half value) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000) << 16;
  const std::uint32_t rest = static_cast<std::uint32_t>(value.bits & 0x7fff) << 13;
  // The exponent moves from bias 15 to 127; a multiplication does so for subnormal numbers too.
  const auto moved = std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) * 0x1p112F);
  const bool is_special = (value.bits & 0x7c00) == 0x7c00;
  return std::bit_cast<float>(sign | (is_special ? rest | 0x7f800000 : moved));
}

Half narrow(float value, Half) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  const std::uint32_t rest = bits & 0x7fffffff;
  const std::uint32_t normal =
      (rest - (112U << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;  // May round up to infinity.
  // Below 2^-14 the addition of 0.5 puts the rounded digits of a subnormal half at the bottom.
  const auto subnormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) + 0.5F) - 0x3f000000U;
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

template <typename T>
Wide<T> load(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof(T));
  if constexpr (kIsSmall<T>)
    return widen(value);
  else
    return value;
}

template <typename T>
void store(std::byte* at, Wide<T> wide) noexcept {
  if constexpr (kIsSmall<T>) {
    const T value = narrow(wide, T{});
    std::memcpy(at, &value, sizeof(T));
  } else {
    std::memcpy(at, &wide, sizeof(T));
  }
}

template <ReduceOp op, typename W>
W apply(W a, W b) noexcept {
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

template <typename Function>
void with_type(DataType type, const Function& function) {
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

template <typename Function>
void with_op(ReduceOp op, const Function& function) {
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::avg:
      return function(std::integral_constant<ReduceOp, ReduceOp::sum>{});
    case ReduceOp::max:
      return function(std::integral_constant<ReduceOp, ReduceOp::max>{});
    case ReduceOp::min:
      return function(std::integral_constant<ReduceOp, ReduceOp::min>{});
  }
}

template <typename T>
void divide(std::span<std::byte> values, int ranks) {
  for (std::size_t at = 0; at < values.size(); at += sizeof(T))
    store<T>(&values[at], load<T>(&values[at]) / static_cast<Wide<T>>(ranks));
}

}  // namespace

std::size_t size_of(DataType type) noexcept {
  std::size_t size_bytes = 0;
  with_type(type, [&]<typename T>(T) { size_bytes = sizeof(T); });
  return size_bytes;
}

std::string_view name_of(DataType type) noexcept {
  constexpr std::array kNames = {"f32", "f64", "f16", "bf16", "i32", "i64"};
  return kNames.at(static_cast<std::size_t>(type));
}

std::string_view name_of(ReduceOp op) noexcept {
  constexpr std::array kNames = {"sum", "avg", "max", "min"};
  return kNames.at(static_cast<std::size_t>(op));
}

void combine(const Reduction& how, std::span<std::byte> into, std::span<const std::byte> from) {
  with_type(how.type, [&]<typename T>(T) {
    with_op(how.op, [&]<ReduceOp op>(std::integral_constant<ReduceOp, op>) {
      std::byte* const a = into.data();
      const std::byte* const b = from.data();
      const std::size_t size_bytes = into.size();
      for (std::size_t at = 0; at < size_bytes; at += sizeof(T))
        store<T>(a + at, apply<op>(load<T>(a + at), load<T>(b + at)));
    });
  });
}

void combine_in_order(const Reduction& how, std::span<std::byte> into,
                      std::span<const std::span<const std::byte>> parts) {
  with_type(how.type, [&]<typename T>(T) {
    with_op(how.op, [&]<ReduceOp op>(std::integral_constant<ReduceOp, op>) {
      std::array<Wide<T>, 1024> sums;
      const std::size_t count = into.size() / sizeof(T);
      for (std::size_t first = 0; first < count; first += sums.size()) {
        const std::size_t size = std::min(sums.size(), count - first);
        for (std::size_t i = 0; i < size; ++i)
          sums[i] = load<T>(&parts[0][(first + i) * sizeof(T)]);
        for (const auto& part : parts.subspan(1))
          for (std::size_t i = 0; i < size; ++i)
            sums[i] = apply<op>(sums[i], load<T>(&part[(first + i) * sizeof(T)]));
        if (how.op == ReduceOp::avg)
          for (std::size_t i = 0; i < size; ++i) sums[i] /= static_cast<Wide<T>>(parts.size());
        for (std::size_t i = 0; i < size; ++i) store<T>(&into[(first + i) * sizeof(T)], sums[i]);
      }
    });
  });
}

void prepare(const Reduction& how, std::span<std::byte> values, int ranks) {
  if (how.op == ReduceOp::avg && how.type == DataType::f16) divide<Half>(values, ranks);
}

void finish(const Reduction& how, std::span<std::byte> values, int ranks) {
  if (how.op != ReduceOp::avg || how.type == DataType::f16) return;
  with_type(how.type, [&]<typename T>(T) { divide<T>(values, ranks); });
}

}  // namespace causeway
