#include "transport/collective/reduction.h"

#include <array>
#include <vector>

#include "transport/collective/kernels.h"

namespace causeway {

std::size_t size_of(DataType type) noexcept {
  switch (type) {
    case DataType::f16:
    case DataType::bf16:
      return 2;
    case DataType::f32:
    case DataType::i32:
      return 4;
    case DataType::f64:
    case DataType::i64:
      break;
  }
  return 8;
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
  collective::kernels().combine(how.type, how.op, into.data(), from.data(),
                                into.size() / size_of(how.type));
}

void combine_in_order(const Reduction& how, std::span<std::byte> into,
                      std::span<const std::span<const std::byte>> parts) {
  std::vector<const std::byte*> places;
  places.reserve(parts.size());
  for (const auto& part : parts) places.push_back(part.data());
  collective::kernels().combine_in_order(how.type, how.op, into.data(), places.data(),
                                         places.size(), into.size() / size_of(how.type));
}

void prepare(const Reduction& how, std::span<std::byte> values, int ranks) {
  if (how.op != ReduceOp::avg || how.type != DataType::f16) return;
  collective::kernels().divide(how.type, values.data(), values.size() / size_of(how.type), ranks);
}

void finish(const Reduction& how, std::span<std::byte> values, int ranks) {
  if (how.op != ReduceOp::avg || how.type == DataType::f16) return;
  collective::kernels().divide(how.type, values.data(), values.size() / size_of(how.type), ranks);
}

}  // namespace causeway
