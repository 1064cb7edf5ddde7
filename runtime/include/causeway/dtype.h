// How the elements of a tensor are stored: plain types, packed ones and the blocks of ggml's
// quantisation.
//
// Shape:   a type is blocks of `elements` values in `bytes` bytes; a plain type has blocks of one.
// Units:   bytes.
// Errors:  none; an unknown name is nullopt.
// Threads: pure functions.
// Source:  safetensors' format description (packed and 8-bit floats); ggml's block types, as
//          written by its GGUF files.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace causeway {

enum class DType : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u8,
  boolean,
  // More of safetensors'.
  u64,
  u32,
  u16,
  c64,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  f6_e2m3,
  f6_e3m2,
  f4,
  // ggml's: several values share a scale.
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q8_1,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  q8_k,
  iq2_xxs,
  iq2_xs,
  iq2_s,
  iq3_xxs,
  iq3_s,
  iq1_s,
  iq1_m,
  iq4_nl,
  iq4_xs,
  tq1_0,
  tq2_0,
  mxfp4,
  nvfp4,
  q1_0,
  q2_0,
};

struct DTypeBlock {
  std::uint32_t elements;
  std::uint32_t bytes;
  bool operator==(const DTypeBlock&) const = default;
};

// The spelling of safetensors ("F32", "F8_E4M3") or of ggml ("Q4_K", "IQ2_XXS").
[[nodiscard]] std::string_view to_string(DType value) noexcept;
[[nodiscard]] std::optional<DType> dtype_from_string(std::string_view name) noexcept;
[[nodiscard]] DTypeBlock block_of(DType value) noexcept;
// Bytes of one element; 0 where one has none of its own (packed and quantised types).
[[nodiscard]] std::uint64_t size_of(DType value) noexcept;
// Whether a safetensors file can hold it.
[[nodiscard]] bool is_safetensors_type(DType value) noexcept;
// By the number in a GGUF file; nullopt for a number that is free, or whose type was removed.
[[nodiscard]] std::optional<DType> dtype_from_ggml(std::uint32_t type) noexcept;

}  // namespace causeway
