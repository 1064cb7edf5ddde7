#include "tests/runtime/placement/predictions/models.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "causeway/gpu_catalogue.h"

namespace causeway::predictions {

namespace {

struct Known {
  std::string_view prefix;
  std::uint32_t hidden, layers, heads, kv_heads, feed, vocabulary;
  bool gated, tied;
};

// Longer prefixes first.
constexpr std::array kModels{
    Known{"llama-3.1-8b", 4096, 32, 32, 8, 14336, 128256, true, false},
    Known{"llama-3-8b", 4096, 32, 32, 8, 14336, 128256, true, false},
    Known{"llama-3.1-70b", 8192, 80, 64, 8, 28672, 128256, true, false},
    Known{"llama-3.3-70b", 8192, 80, 64, 8, 28672, 128256, true, false},
    Known{"llama-3-70b", 8192, 80, 64, 8, 28672, 128256, true, false},
    Known{"llama-3.1-405b", 16384, 126, 128, 8, 53248, 128256, true, false},
    Known{"llama-2-7b", 4096, 32, 32, 32, 11008, 32000, true, false},
    Known{"llama-2-13b", 5120, 40, 40, 40, 13824, 32000, true, false},
    Known{"llama-2-70b", 8192, 80, 64, 8, 28672, 32000, true, false},
    Known{"tinyllama-1.1b", 2048, 22, 32, 4, 5632, 32000, true, false},
    Known{"mistral-7b", 4096, 32, 32, 8, 14336, 32000, true, false},
    Known{"qwen2.5-0.5b", 896, 24, 14, 2, 4864, 151936, true, true},
    Known{"qwen2.5-1.5b", 1536, 28, 12, 2, 8960, 151936, true, true},
    Known{"qwen2.5-3b", 2048, 36, 16, 2, 11008, 151936, true, true},
    Known{"qwen2.5-7b", 3584, 28, 28, 4, 18944, 152064, true, false},
    Known{"qwen2.5-14b", 5120, 48, 40, 8, 13824, 152064, true, false},
    Known{"qwen2.5-32b", 5120, 64, 40, 8, 27648, 152064, true, false},
    Known{"qwen2.5-72b", 8192, 80, 64, 8, 29568, 152064, true, false},
    Known{"qwen3-0.6b", 1024, 28, 16, 8, 3072, 151936, true, true},
    Known{"qwen3-1.7b", 2048, 28, 16, 8, 6144, 151936, true, true},
    Known{"qwen3-4b", 2560, 36, 32, 8, 9728, 151936, true, true},
    Known{"qwen3-8b", 4096, 36, 32, 8, 12288, 151936, true, false},
    Known{"qwen3-14b", 5120, 40, 40, 8, 17408, 151936, true, false},
    Known{"qwen3-32b", 5120, 64, 64, 8, 25600, 151936, true, false},
    Known{"llama-3.2-1b", 2048, 16, 32, 8, 8192, 128256, true, true},
    Known{"llama-3.2-3b", 3072, 28, 24, 8, 8192, 128256, true, true},
    Known{"mpt-125m", 768, 12, 12, 12, 3072, 50368, false, true},
    Known{"mpt-350m", 1024, 24, 16, 16, 4096, 50368, false, true},
    Known{"mpt-760m", 1536, 24, 12, 12, 6144, 50368, false, true},
    Known{"mpt-1b", 2048, 24, 16, 16, 8192, 50368, false, true},
    Known{"mpt-3b", 2560, 32, 20, 20, 10240, 50368, false, true},
    Known{"mpt-7b", 4096, 32, 32, 32, 16384, 50368, false, true},
    Known{"mpt-13b", 5120, 40, 40, 40, 20480, 50368, false, true},
    Known{"mpt-30b", 7168, 48, 56, 56, 28672, 50368, false, true},
    Known{"mpt-70b", 8192, 80, 64, 64, 32768, 50368, false, true},
    Known{"opt-350", 1024, 24, 16, 16, 4096, 50272, false, false},
};

struct Card {
  std::string_view name;
  double gigabytes, gigabytes_per_s, teraflops;
  double multiprocessor_ghz = 0;  // All of them, at their boost clock.
  double power_watts = 0;         // Ada cards whose power is less than their products want.
};

// Cards that the catalogue does not have: dense half precision, accumulation in fp32.
constexpr std::array kCards{
    Card{"h100-96gb(2.4tb/s,500w)", 96, 2400, 989.4, 132 * 1.83},
    Card{"a100-sxm-40", 40, 1555, 312, 108 * 1.41},
    Card{"a100-pcie-40", 40, 1555, 312, 108 * 1.41},
    Card{"l4", 24, 300, 121, 58 * 2.04, 72},
    Card{"l40", 48, 864, 181, 142 * 2.49, 300},
    Card{"a40", 48, 696, 149.7, 84 * 1.74},
    Card{"t4", 16, 320, 65, 40 * 1.59},
    Card{"t1200", 4, 192, 7.4, 16 * 1.425},
    Card{"v100", 16, 900, 125, 80 * 1.53},
    Card{"rtx4080", 16, 717, 97.5, 76 * 2.505},
    Card{"rtx4000-ada", 20, 360, 107, 48 * 2.175, 130},
    Card{"rtx5000-ada", 32, 576, 261, 100 * 2.55, 250},
    Card{"rtx6000-ada", 48, 960, 364, 142 * 2.505, 300},
    Card{"rtx-2080", 11, 616, 53.8, 68 * 1.545},
    Card{"titan-rtx", 24, 672, 130.5, 72 * 1.77},
    Card{"gh-96", 96, 4000, 989.4, 132 * 1.83},
    Card{"gh200", 96, 4000, 989.4, 132 * 1.83},
};

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// What is left of a name when its spelling does not count: "RTX 4090", "rtx-4090" and "RTX4090".
std::string plain(std::string_view name) {
  std::string text;
  for (const char c : name)
    if (c != '-' && c != ' ' && c != '_')
      text += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (text.starts_with("nvidia")) text.erase(0, 6);
  for (const std::string_view size : {"80gb", "80"})
    if (text.size() > size.size() && text.ends_with(size) && text.find("rtx") == text.npos)
      text.resize(text.size() - size.size());
  if (text == "h200" || text == "h100" || text == "a100") text += "sxm";
  if (text == "a6000") text = "rtxa6000";
  return text;
}

}  // namespace

std::optional<TransformerShape> known_model(const std::string& name) {
  const auto wanted = lower(name);
  const auto at = std::ranges::find_if(
      kModels, [&](const Known& model) { return wanted.starts_with(model.prefix); });
  if (at == kModels.end()) return std::nullopt;
  TransformerShape shape;
  shape.name = name;
  shape.hidden = at->hidden;
  shape.layers = at->layers;
  shape.heads = at->heads;
  shape.kv_heads = at->kv_heads;
  shape.feed_width = at->feed;
  shape.vocabulary = at->vocabulary;
  shape.gated_feed = at->gated;
  shape.tied_embeddings = at->tied;
  if (wanted.starts_with("qwen3")) shape.head_size = 128;
  return shape;
}

TransformerShape gpt(std::uint32_t hidden, std::uint32_t layers, std::uint32_t vocabulary) {
  TransformerShape shape;
  shape.name = "GPT";
  shape.hidden = hidden;
  shape.layers = layers;
  // arXiv:2205.05198, table 3; elsewhere heads are 128 wide.
  shape.heads = hidden == 6144 ? 64 : hidden == 25600 ? 160 : hidden == 20480 ? 128 : hidden / 128;
  shape.feed_width = 4 * hidden;
  shape.vocabulary = vocabulary;
  shape.tied_embeddings = true;
  return shape;
}

std::optional<DeviceRates> known_device(const std::string& name) {
  const auto wanted = plain(name.substr(0, name.find(' ')));
  for (const auto& model : gpu_models())
    if (plain(model.name) == wanted) return rates_of(model.name);
  const auto at =
      std::ranges::find_if(kCards, [&](const Card& card) { return plain(card.name) == wanted; });
  if (at == kCards.end()) return std::nullopt;
  const auto family = achieved_rates(at->name);
  DeviceRates rates{std::string(at->name), at->gigabytes * 1e9, at->teraflops * 1e12,
                    at->gigabytes_per_s * 1e9, family};
  if (at->multiprocessor_ghz > 0) rates.multiprocessor_hz = at->multiprocessor_ghz * 1e9;
  if (at->power_watts > 0) rates.power_flops_per_s = workstation_power_flops_per_s(at->power_watts);
  return rates;
}

}  // namespace causeway::predictions
