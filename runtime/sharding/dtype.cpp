#include "causeway/dtype.h"

#include <algorithm>
#include <array>

namespace causeway {

namespace {

constexpr int kNotGgml = -1;

struct Info {
  DType value;
  std::string_view name;
  DTypeBlock block;
  bool is_safetensors;
  int ggml = kNotGgml;  // Its number in GGUF files.
};

// In the order of the enumeration, so that a value is its own index.
constexpr std::array kTypes{
    Info{DType::f64, "F64", {1, 8}, true, 28},
    Info{DType::f32, "F32", {1, 4}, true, 0},
    Info{DType::f16, "F16", {1, 2}, true, 1},
    Info{DType::bf16, "BF16", {1, 2}, true, 30},
    Info{DType::i64, "I64", {1, 8}, true, 27},
    Info{DType::i32, "I32", {1, 4}, true, 26},
    Info{DType::i16, "I16", {1, 2}, true, 25},
    Info{DType::i8, "I8", {1, 1}, true, 24},
    Info{DType::u8, "U8", {1, 1}, true},
    Info{DType::boolean, "BOOL", {1, 1}, true},
    Info{DType::u64, "U64", {1, 8}, true},
    Info{DType::u32, "U32", {1, 4}, true},
    Info{DType::u16, "U16", {1, 2}, true},
    Info{DType::c64, "C64", {1, 8}, true},
    Info{DType::f8_e4m3, "F8_E4M3", {1, 1}, true},
    Info{DType::f8_e5m2, "F8_E5M2", {1, 1}, true},
    Info{DType::f8_e8m0, "F8_E8M0", {1, 1}, true},
    Info{DType::f8_e4m3fnuz, "F8_E4M3FNUZ", {1, 1}, true},
    Info{DType::f8_e5m2fnuz, "F8_E5M2FNUZ", {1, 1}, true},
    Info{DType::f6_e2m3, "F6_E2M3", {4, 3}, true},
    Info{DType::f6_e3m2, "F6_E3M2", {4, 3}, true},
    Info{DType::f4, "F4", {2, 1}, true},
    Info{DType::q4_0, "Q4_0", {32, 18}, false, 2},
    Info{DType::q4_1, "Q4_1", {32, 20}, false, 3},
    Info{DType::q5_0, "Q5_0", {32, 22}, false, 6},
    Info{DType::q5_1, "Q5_1", {32, 24}, false, 7},
    Info{DType::q8_0, "Q8_0", {32, 34}, false, 8},
    Info{DType::q8_1, "Q8_1", {32, 36}, false, 9},
    Info{DType::q2_k, "Q2_K", {256, 84}, false, 10},
    Info{DType::q3_k, "Q3_K", {256, 110}, false, 11},
    Info{DType::q4_k, "Q4_K", {256, 144}, false, 12},
    Info{DType::q5_k, "Q5_K", {256, 176}, false, 13},
    Info{DType::q6_k, "Q6_K", {256, 210}, false, 14},
    Info{DType::q8_k, "Q8_K", {256, 292}, false, 15},
    Info{DType::iq2_xxs, "IQ2_XXS", {256, 66}, false, 16},
    Info{DType::iq2_xs, "IQ2_XS", {256, 74}, false, 17},
    Info{DType::iq2_s, "IQ2_S", {256, 82}, false, 22},
    Info{DType::iq3_xxs, "IQ3_XXS", {256, 98}, false, 18},
    Info{DType::iq3_s, "IQ3_S", {256, 110}, false, 21},
    Info{DType::iq1_s, "IQ1_S", {256, 50}, false, 19},
    Info{DType::iq1_m, "IQ1_M", {256, 56}, false, 29},
    Info{DType::iq4_nl, "IQ4_NL", {32, 18}, false, 20},
    Info{DType::iq4_xs, "IQ4_XS", {256, 136}, false, 23},
    Info{DType::tq1_0, "TQ1_0", {256, 54}, false, 34},
    Info{DType::tq2_0, "TQ2_0", {256, 66}, false, 35},
    Info{DType::mxfp4, "MXFP4", {32, 17}, false, 39},
    Info{DType::nvfp4, "NVFP4", {64, 36}, false, 40},
    Info{DType::q1_0, "Q1_0", {128, 18}, false, 41},
    Info{DType::q2_0, "Q2_0", {64, 18}, false, 42},
};

constexpr bool is_in_order() {
  for (std::size_t i = 0; i < kTypes.size(); ++i)
    if (static_cast<std::size_t>(kTypes[i].value) != i) return false;
  return kTypes.size() == static_cast<std::size_t>(DType::q2_0) + 1;
}
static_assert(is_in_order());

const Info& info(DType value) noexcept { return kTypes[static_cast<std::size_t>(value)]; }

}  // namespace

std::string_view to_string(DType value) noexcept { return info(value).name; }

std::optional<DType> dtype_from_string(std::string_view name) noexcept {
  const auto* const at = std::ranges::find(kTypes, name, &Info::name);
  return at == kTypes.end() ? std::nullopt : std::optional(at->value);
}

DTypeBlock block_of(DType value) noexcept { return info(value).block; }

std::uint64_t size_of(DType value) noexcept {
  const auto [elements, bytes] = info(value).block;
  return elements == 1 ? bytes : 0;
}

bool is_safetensors_type(DType value) noexcept { return info(value).is_safetensors; }

std::optional<DType> dtype_from_ggml(std::uint32_t type) noexcept {
  const auto* const at = std::ranges::find_if(kTypes, [type](const Info& entry) {
    return entry.ggml >= 0 && entry.ggml == static_cast<std::int64_t>(type);
  });
  return at == kTypes.end() ? std::nullopt : std::optional(at->value);
}

}  // namespace causeway
