// Goal:   values are combined as their types say, for every bit pattern of the small ones.
// Method: halves and bfloats against a search over all values that they can have, in double.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "transport/collective/reduction.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "transport/collective/kernels.h"

using namespace causeway;

namespace {

template <typename T>
std::span<std::byte> bytes_of(std::vector<T>& values) {
  return std::as_writable_bytes(std::span(values));
}

template <typename T>
std::vector<T> combined(Reduction how, std::vector<T> a, std::vector<T> b) {
  combine(how, bytes_of(a), bytes_of(b));
  return a;
}

// What 16 bits mean, from the definition of the formats.
double meaning(std::uint16_t bits, int exponent_bits) {
  const int digits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits & 0x7fff) >> digits;
  const int fraction = bits & ((1 << digits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - digits);
  return sign * std::ldexp(fraction + (1 << digits), exponent - bias - digits);
}

struct Small {
  DataType type;
  int exponent_bits;
  // Values from 0 up to infinity, in order: that of their bits.
  std::vector<double> values{};

  explicit Small(DataType t) : type(t), exponent_bits(t == DataType::f16 ? 5 : 8) {
    for (std::uint16_t bits = 0; !std::isinf(meaning(bits, exponent_bits)); ++bits)
      values.push_back(meaning(bits, exponent_bits));
    // Where infinity would stand if it were a number: from half way on, numbers are rounded to it.
    values.push_back(values.back() + (values.back() - values[values.size() - 2]));
  }

  std::uint16_t nearest(double value) const {
    const double size = std::abs(value);
    const auto above = std::lower_bound(values.begin(), values.end(), size);
    auto bits = static_cast<std::size_t>(above - values.begin());
    if (above == values.end())
      bits = values.size() - 1;
    else if (bits > 0 && *above != size) {
      const double up = *above - size, down = size - values[bits - 1];
      if (down < up || (down == up && bits % 2 != 0)) --bits;
    }
    return static_cast<std::uint16_t>(bits | (std::signbit(value) ? 0x8000 : 0));
  }
};

}  // namespace

TEST_CASE("halves and bfloats: every value survives, every sum is the nearest") {
  for (const auto type : {DataType::f16, DataType::bf16}) {
    INFO(name_of(type));
    const Small small(type);
    std::vector<std::uint16_t> all(65536);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
    const auto same = combined({type, ReduceOp::max}, all, all);
    int wrong = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool is_nan = std::isnan(meaning(all[i], small.exponent_bits));
      wrong += is_nan ? !std::isnan(meaning(same[i], small.exponent_bits)) : same[i] != all[i];
    }
    CHECK(wrong == 0);

    std::mt19937 random(7);
    auto others = all;
    std::shuffle(others.begin(), others.end(), random);
    // Close ones too, whose sums round in every way.
    for (std::size_t i = 0; i < others.size(); i += 2)
      others[i] = static_cast<std::uint16_t>(all[i] ^ (random() & 0x83ff));
    const auto sums = combined({type, ReduceOp::sum}, all, others);
    for (std::size_t i = 0; i < all.size(); ++i) {
      // Rounded twice: to a float, as said, and then to what it is stored in.
      const auto a = static_cast<float>(meaning(all[i], small.exponent_bits));
      const auto b = static_cast<float>(meaning(others[i], small.exponent_bits));
      const float sum = a + b;
      const bool right = std::isnan(sum) ? std::isnan(meaning(sums[i], small.exponent_bits))
                                         : sums[i] == small.nearest(sum);
      if (right) continue;
      INFO(all[i], " + ", others[i], " = ", sums[i], ", not ", small.nearest(sum));
      FAIL_CHECK("wrong sum");
      break;
    }
  }
}

TEST_CASE("operations of each type") {
  const std::vector<float> a{1, -2, 3}, b{4, -1, 3};
  CHECK(combined({DataType::f32, ReduceOp::sum}, a, b) == std::vector<float>{5, -3, 6});
  CHECK(combined({DataType::f32, ReduceOp::max}, a, b) == std::vector<float>{4, -1, 3});
  CHECK(combined({DataType::f32, ReduceOp::min}, a, b) == std::vector<float>{1, -2, 3});
  CHECK(combined({DataType::f64, ReduceOp::sum}, std::vector<double>{1e300}, {2e300}).at(0) ==
        3e300);
  CHECK(combined({DataType::i64, ReduceOp::max}, std::vector<std::int64_t>{-5}, {-7}).at(0) == -5);
  const auto most = std::numeric_limits<std::int32_t>::max();
  CHECK(combined({DataType::i32, ReduceOp::sum}, std::vector<std::int32_t>{most}, {1}).at(0) ==
        std::numeric_limits<std::int32_t>::min());
  CHECK(size_of(DataType::bf16) == 2);
  CHECK(size_of(DataType::f64) == 8);
}

TEST_CASE("NaN wins, whichever side it is on") {
  const float nan = std::nanf("");
  for (const auto op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min})
    for (const auto& value : combined({DataType::f32, op}, std::vector<float>{nan, 1}, {1, nan}))
      CHECK(std::isnan(value));
}

TEST_CASE("averages: halves do not overflow, integers round to zero") {
  std::vector<std::uint16_t> large{0x7bff, 0x7bff};  // 65504
  auto a = large, b = large;
  const Reduction halves{DataType::f16, ReduceOp::avg};
  prepare(halves, bytes_of(a), 2);
  prepare(halves, bytes_of(b), 2);
  combine(halves, bytes_of(a), bytes_of(b));
  finish(halves, bytes_of(a), 2);
  CHECK(a == large);
  std::vector<std::int32_t> c{-7}, d{0};
  const Reduction integers{DataType::i32, ReduceOp::avg};
  prepare(integers, bytes_of(c), 2);
  combine(integers, bytes_of(c), bytes_of(d));
  finish(integers, bytes_of(c), 2);
  CHECK(c.at(0) == -3);
}

TEST_CASE("in order: rounded once, whatever the number of values") {
  std::mt19937 random(3);
  const std::size_t count = 2500;  // Over two blocks and a half.
  std::vector<std::vector<std::uint16_t>> ranks(5, std::vector<std::uint16_t>(count));
  for (auto& rank : ranks)
    for (auto& value : rank) value = static_cast<std::uint16_t>(0x3f00 + random() % 0x200);
  std::vector<std::span<const std::byte>> parts;
  for (auto& rank : ranks) parts.push_back(bytes_of(rank));
  const Small bfloat(DataType::bf16);
  std::vector<std::uint16_t> expected(count);
  for (std::size_t i = 0; i < count; ++i) {
    float sum = 0;
    for (const auto& rank : ranks) sum += static_cast<float>(meaning(rank[i], 8));
    expected[i] = bfloat.nearest(sum / 5);
  }
  // In place, over the third part.
  combine_in_order({DataType::bf16, ReduceOp::avg, true}, bytes_of(ranks[2]), parts);
  CHECK(ranks[2] == expected);
}

TEST_CASE("every set of instructions gives the same bits") {
  const auto* const fast = collective::avx2_kernels();
  if (fast == nullptr) {
    MESSAGE("skipped: this processor has no AVX2");
    return;
  }
  const auto& plain = collective::baseline_kernels();
  std::mt19937_64 random(11);
  for (const auto type :
       {DataType::f32, DataType::f64, DataType::f16, DataType::bf16, DataType::i32, DataType::i64})
    for (const auto op : {ReduceOp::sum, ReduceOp::avg, ReduceOp::max, ReduceOp::min})
      for (const std::size_t count :
           {std::size_t{1}, std::size_t{7}, std::size_t{513}, std::size_t{65536}}) {
        INFO(name_of(type), " ", name_of(op), " ", count);
        // Any bits at all, at an odd address.
        std::vector<std::vector<std::byte>> ranks(3);
        std::vector<const std::byte*> parts;
        for (auto& rank : ranks) {
          rank.resize(count * size_of(type) + 1);
          for (auto& byte : rank) byte = static_cast<std::byte>(random());
          // Exponents that are alike, or most sums are one of the two.
          if (type == DataType::f32)
            for (std::size_t i = 4; i < rank.size(); i += 4) rank[i] = std::byte{0x3f};
          parts.push_back(&rank[1]);
        }
        std::vector<std::byte> a(count * size_of(type)), b(count * size_of(type));
        plain.combine_in_order(type, op, a.data(), parts.data(), 3, count);
        fast->combine_in_order(type, op, b.data(), parts.data(), 3, count);
        plain.divide(type, a.data(), count, 3);
        fast->divide(type, b.data(), count, 3);
        // Which of two NaNs comes out is the compiler's choice.
        const auto is_nan = [&](const std::vector<std::byte>& values, std::size_t at) {
          if (type == DataType::i32 || type == DataType::i64) return false;
          double wide = 0;
          float value = 0;
          std::uint16_t bits = 0;
          if (type == DataType::f64) std::memcpy(&wide, &values[at], 8);
          if (type == DataType::f32) std::memcpy(&value, &values[at], 4), wide = value;
          if (size_of(type) == 2) {
            std::memcpy(&bits, &values[at], 2);
            wide = meaning(bits, type == DataType::f16 ? 5 : 8);
          }
          return std::isnan(wide);
        };
        std::size_t wrong = 0;
        for (std::size_t at = 0; at < a.size(); at += size_of(type)) {
          const bool same = std::memcmp(&a[at], &b[at], size_of(type)) == 0;
          wrong += same || (is_nan(a, at) && is_nan(b, at)) ? 0 : 1;
        }
        CHECK(wrong == 0);
      }
}
