#include "runtime/sharding/models/tensor_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

namespace causeway {

namespace {

std::vector<std::string_view> components(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t at = 0; at <= name.size();) {
    const auto dot = std::min(name.find('.', at), name.size());
    parts.push_back(name.substr(at, dot - at));
    at = dot + 1;
  }
  return parts;
}

std::optional<std::uint32_t> number_of(std::string_view digits) {
  std::uint32_t number = 0;
  const auto* last = digits.data() + digits.size();
  const auto [end, status] = std::from_chars(digits.data(), last, number);
  return status == std::errc{} && end == last ? std::optional(number) : std::nullopt;
}

template <std::size_t N>
bool is_one_of(std::string_view word, const std::array<std::string_view, N>& words) {
  return std::ranges::find(words, word) != words.end();
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

constexpr std::array<std::string_view, 6> kStacks{"layers", "layer", "h", "blocks", "block", "blk"};
// The last components of what only scales a quantised matrix.
constexpr std::array<std::string_view, 12> kScales{
    "scales",           "qzeros",        "g_idx",
    "absmax",           "quant_map",     "weight_scale",
    "weight_scale_inv", "input_scale",   "weight_zero_point",
    "weight_shape",     "nested_absmax", "nested_quant_map"};
// A mask or a table of angles, also with a component behind it.
bool is_buffer(const std::vector<std::string_view>& parts, std::size_t rank) {
  const auto last = parts.back();
  if (last == "inv_freq" || last == "masked_bias" || last == "cos_cached" || last == "sin_cached")
    return true;
  if (parts.front() == "rope_freqs" || contains(parts.front(), "rope_factors")) return true;
  const auto owner = parts.size() > 1 ? parts[parts.size() - 2] : std::string_view();
  return last == "bias" && rank > 1 && (owner == "attn" || owner == "attention");
}

}  // namespace

std::optional<BlockName> block_name(std::string_view name) {
  const auto parts = components(name);
  std::size_t length = 0;
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    length += parts[i].size() + 1;
    if (!is_one_of(parts[i], kStacks)) continue;
    const auto number = number_of(parts[i + 1]);
    if (!number) continue;
    const auto rest = std::min(length + parts[i + 1].size() + 1, name.size());
    return BlockName{std::string(name.substr(0, length - 1)), *number,
                     std::string(name.substr(rest))};
  }
  return std::nullopt;
}

Place place_of(std::string_view name) {
  for (const auto part : components(name)) {
    if (part == "wte" || part == "wpe" || part == "project_in" || contains(part, "emb"))
      // GPT-NeoX calls its head embed_out.
      return part == "embed_out" ? Place::back : Place::front;
    if (part == "output" || part == "ln_f" || part == "project_out" || contains(part, "head") ||
        contains(part, "norm"))
      return Place::back;
  }
  return Place::unknown;
}

int stack_order(std::string_view stack) {
  return contains(stack, "enc") || contains(stack, "vis") || contains(stack, "audio") ? 0 : 1;
}

TensorRole role_of(const TensorSpec& tensor) {
  const auto parts = components(tensor.name);
  const auto last = parts.back();
  const auto rank = tensor.shape.size();
  if (is_buffer(parts, rank)) return TensorRole::buffer;
  if (is_one_of(last, kScales) || last.ends_with("_scales") ||
      contains(tensor.name, ".quant_state."))
    return TensorRole::scale;
  bool expert = false;
  for (const auto part : parts) {
    if (part == "shared_expert" || part == "shared_experts" || contains(part, "_shexp"))
      return rank > 1 ? TensorRole::shared_expert : TensorRole::vector;
    expert = expert || part == "experts" || contains(part, "_exps");
    if (part == "router" || part == "ffn_gate_inp" || part == "shared_expert_gate")
      return rank > 1 ? TensorRole::router : TensorRole::vector;
  }
  if (expert) return TensorRole::expert;
  const auto owner = parts.size() > 1 ? parts[parts.size() - 2] : std::string_view();
  if (owner == "gate" && rank > 1) return TensorRole::router;
  if (rank < 2) return TensorRole::vector;
  const auto front = place_of(tensor.name) == Place::front;
  return front && !contains(tensor.name, "project_in") ? TensorRole::embedding : TensorRole::weight;
}

std::string with_any_expert(std::string_view name) {
  constexpr std::string_view kExperts = "experts.";
  const auto at = name.find(kExperts);
  if (at == std::string_view::npos || (at > 0 && name[at - 1] != '.')) return std::string(name);
  const auto from = at + kExperts.size();
  const auto to = std::min(name.find('.', from), name.size());
  if (!number_of(name.substr(from, to - from))) return std::string(name);
  return std::string(name.substr(0, from)) + "*" + std::string(name.substr(to));
}

std::string unquantised_name(std::string_view name) {
  // Of gpt-oss: NAME is NAME_blocks and NAME_scales.
  if (constexpr std::string_view kBlocks = "_blocks"; name.ends_with(kBlocks))
    return std::string(name.substr(0, name.size() - kBlocks.size()));
  for (const std::string_view packed : {".qweight", ".weight_packed"})
    if (name.ends_with(packed))
      return std::string(name.substr(0, name.size() - packed.size())) + ".weight";
  return std::string(name);
}

}  // namespace causeway
