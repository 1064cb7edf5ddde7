// Numbers that depend on a key alone, never on the order in which they are drawn.
//
// Threads: plain values.
// Source:  SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
//          OOPSLA 2014. FNV-1a for names.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <numbers>
#include <string_view>

namespace train_gpt {

[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t value) noexcept {
  value += 0x9E3779B97F4A7C15U;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9U;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBU;
  return value ^ (value >> 31);
}

[[nodiscard]] constexpr std::uint64_t mix_all(std::initializer_list<std::uint64_t> parts) noexcept {
  std::uint64_t key = 0;
  for (const auto part : parts) key = mix(key ^ part);
  return key;
}

[[nodiscard]] constexpr std::uint64_t hash_of(std::string_view text) noexcept {
  std::uint64_t hash = 0xCBF29CE484222325U;
  for (const char letter : text)
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001B3U;
  return hash;
}

class Random {
 public:
  explicit constexpr Random(std::uint64_t key) noexcept : state_(key) {}

  [[nodiscard]] constexpr std::uint64_t next() noexcept {
    state_ += 0x9E3779B97F4A7C15U;
    return mix(state_);
  }
  // In [0, 1).
  [[nodiscard]] double uniform() noexcept { return static_cast<double>(next() >> 11) * 0x1p-53; }
  // Mean 0, variance 1 (Box and Muller).
  [[nodiscard]] double normal() noexcept {
    const auto radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  std::uint64_t state_;
};

}  // namespace train_gpt
