// A model spec from the headers of safetensors files: layers from names, costs by estimate.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <set>

#include "causeway/model.h"
#include "causeway/safetensors.h"

namespace causeway {

namespace {

namespace fs = std::filesystem;

constexpr double kFlopsPerWeightAndToken = 2;
constexpr std::uint64_t kMaxTokens = std::uint64_t{1} << 32;
// s b h (34 + 5 a s / h) without the attention scores, which flash attention does not keep:
// Korthikanti et al., "Reducing activation recomputation in large transformer models", 2022.
constexpr std::uint64_t kActivationBytesPerHiddenAndToken = 34;

std::vector<std::string_view> components(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t at = 0; at <= name.size();) {
    const auto dot = std::min(name.find('.', at), name.size());
    parts.push_back(name.substr(at, dot - at));
    at = dot + 1;
  }
  return parts;
}

// "model.layers" and 7 for "model.layers.7.attn.q"; nullopt for a tensor of no numbered layer.
struct LayerKey {
  std::string stack;
  std::uint32_t index;
  auto operator<=>(const LayerKey&) const = default;
};

std::optional<LayerKey> layer_key(const std::string& name) {
  static const std::set<std::string_view> kStacks{"layers", "layer", "h", "blocks", "block"};
  const auto parts = components(name);
  std::size_t length = 0;
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    length += parts[i].size() + 1;
    if (!kStacks.contains(parts[i])) continue;
    const auto digits = parts[i + 1];
    std::uint32_t index = 0;
    const auto* last = digits.data() + digits.size();
    const auto [end, status] = std::from_chars(digits.data(), last, index);
    if (status == std::errc{} && end == last) return LayerKey{name.substr(0, length - 1), index};
  }
  return std::nullopt;
}

enum class Place { front, back, unknown };

Place place_of(const std::string& name) {
  for (const auto part : components(name)) {
    if (part == "wte" || part == "wpe" || part.find("emb") != std::string_view::npos)
      return Place::front;
    if (part == "output" || part == "ln_f" || part.find("head") != std::string_view::npos ||
        part.find("norm") != std::string_view::npos)
      return Place::back;
  }
  return Place::unknown;
}

// An encoder runs before what it feeds.
int stack_order(const std::string& stack) {
  return stack.find("enc") != std::string::npos || stack.find("vis") != std::string::npos ? 0 : 1;
}

std::vector<std::string> files_of(const std::string& path) {
  std::error_code ec;
  if (!fs::is_directory(path, ec)) return {path};
  std::vector<std::string> files;
  for (fs::directory_iterator at(path, ec), end; !ec && at != end; at.increment(ec))
    if (at->path().extension() == ".safetensors") files.push_back(at->path().string());
  if (ec) throw system_error(path + ": cannot be listed", ec.value());
  if (files.empty())
    throw Error(Errc::not_found, path + ": holds no .safetensors file; name a folder that does");
  std::ranges::sort(files);
  return files;
}

// Layers by stack and number, and what stands before and behind them.
struct Groups {
  LayerSpec front;
  std::map<LayerKey, LayerSpec> numbered;
  LayerSpec back;
};

Groups group(const std::string& path) {
  Groups groups;
  groups.front.name = "embed";
  groups.back.name = "head";
  std::map<std::string, std::string> owners;
  for (const auto& file : files_of(path)) {
    const auto opened = SafetensorsFile::open(file);
    for (const auto& [tensor, offset] : opened.entries()) {
      const auto [at, fresh] = owners.emplace(tensor.name, file);
      if (!fresh)
        throw Error(Errc::parse, fmt::format("{}: tensor '{}' is in {} too; keep one", file,
                                             tensor.name, at->second));
      if (const auto key = layer_key(tensor.name)) {
        auto& layer = groups.numbered[*key];
        layer.name = fmt::format("{}.{}", key->stack, key->index);
        layer.tensors.push_back(tensor);
        continue;
      }
      const auto place = place_of(tensor.name);
      const bool front =
          place == Place::front || (place == Place::unknown && groups.numbered.empty());
      (front ? groups.front : groups.back).tensors.push_back(tensor);
    }
  }
  return groups;
}

// The extent that most tensors of the numbered layers have: every matrix of a transformer block
// has the hidden size on one side.
std::uint64_t hidden_size(const Groups& groups) {
  std::map<std::uint64_t, std::size_t> seen;
  const auto count = [&seen](const LayerSpec& layer) {
    for (const auto& tensor : layer.tensors)
      for (const auto extent : std::set(tensor.shape.begin(), tensor.shape.end()))
        if (extent > 1) ++seen[extent];
  };
  for (const auto& [key, layer] : groups.numbered) count(layer);
  if (groups.numbered.empty()) {
    count(groups.front);
    count(groups.back);
  }
  const auto most = std::ranges::max_element(seen, {}, [](const auto& e) { return e.second; });
  return most == seen.end() ? 1 : most->first;
}

std::uint64_t element_bytes(const Groups& groups) {
  const auto& layer = groups.numbered.empty() ? groups.front : groups.numbered.begin()->second;
  const bool wide = !layer.tensors.empty() && (layer.tensors.front().dtype == DType::f32 ||
                                               layer.tensors.front().dtype == DType::f64);
  return wide ? 4 : 2;
}

std::uint64_t largest_extent(const LayerSpec& layer) {
  std::uint64_t largest = 1;
  for (const auto& tensor : layer.tensors)
    for (const auto extent : tensor.shape) largest = std::max(largest, extent);
  return largest;
}

// Saturating: a hostile shape must not wrap; validate() then refuses the sum.
std::uint64_t product(std::initializer_list<std::uint64_t> factors) {
  std::uint64_t result = 1;
  for (const auto factor : factors)
    if (__builtin_mul_overflow(result, factor, &result)) return ~std::uint64_t{0};
  return result;
}

double elements(const LayerSpec& layer) {
  double sum = 0;
  for (const auto& tensor : layer.tensors)
    sum += static_cast<double>(tensor.size_bytes() / size_of(tensor.dtype));
  return sum;
}

}  // namespace

ModelSpec ModelSpec::from_safetensors(const std::string& path,
                                      std::uint64_t tokens_per_micro_batch) {
  if (tokens_per_micro_batch < 1 || tokens_per_micro_batch > kMaxTokens)
    throw Error(Errc::invalid_argument, fmt::format("{} tokens per micro-batch; write 1 to {}",
                                                    tokens_per_micro_batch, kMaxTokens));
  auto groups = group(path);
  const auto tokens = tokens_per_micro_batch;
  const auto hidden = hidden_size(groups);
  const auto output_bytes = product({tokens, hidden, element_bytes(groups)});
  std::vector<std::pair<LayerKey, LayerSpec>> numbered(groups.numbered.begin(),
                                                       groups.numbered.end());
  std::ranges::stable_sort(numbered, {}, [](const auto& e) { return stack_order(e.first.stack); });

  ModelSpec model;
  const auto named = fs::path(path).lexically_normal();
  model.name = (named.has_filename() ? named : named.parent_path()).stem().string();
  const auto add = [&](LayerSpec layer, double flops, std::uint64_t activation_bytes,
                       std::uint64_t sent) {
    if (layer.tensors.empty()) return;
    layer.forward_flops = flops * static_cast<double>(tokens);
    layer.activation_bytes = activation_bytes;
    layer.output_bytes = sent;
    model.layers.push_back(std::move(layer));
  };
  add(std::move(groups.front), 0, 0, output_bytes);
  for (auto& [key, layer] : numbered) {
    const auto flops = kFlopsPerWeightAndToken * elements(layer);
    add(std::move(layer), flops, product({tokens, hidden, kActivationBytesPerHiddenAndToken}),
        output_bytes);
  }
  // The head keeps the logits: 4 bytes for each word of the vocabulary.
  const auto logits = product({tokens, largest_extent(groups.back), 4});
  const auto head_flops = kFlopsPerWeightAndToken * elements(groups.back);
  add(std::move(groups.back), head_flops, logits, 0);
  try {
    model.validate();
  } catch (const Error& error) {
    throw Error(Errc::parse, path + ": " + error.what());
  }
  return model;
}

}  // namespace causeway
