#include "causeway/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

namespace causeway {

namespace {

constexpr std::size_t kMaxNameBytes = 1024;
constexpr std::size_t kMaxLayers = 65536;
constexpr std::size_t kMaxTensors = std::size_t{1} << 20;
constexpr double kMaxFlops = 1e30;

Error refuse(const std::string& what) { return {Errc::invalid_argument, what}; }

void check_name(const std::string& name, const std::string& owner) {
  const bool control =
      std::ranges::any_of(name, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  if (name.empty() || name.size() > kMaxNameBytes || control)
    throw refuse(fmt::format("{}: a name has {} bytes{}; write 1 to {} without control characters",
                             owner, name.size(), control ? " and control characters" : "",
                             kMaxNameBytes));
}

void check_ratio(const std::string& model, const char* field, double value) {
  if (!(value >= 0 && value <= kMaxStateRatio))
    throw refuse(
        fmt::format("model '{}': {} is {}; write 0 to {}", model, field, value, kMaxStateRatio));
}

// Adds and refuses what passes the limit. Both are below it before, so the sum cannot wrap.
void add_limited(std::uint64_t& sum, std::uint64_t bytes, const std::string& owner) {
  if (bytes > kMaxTensorBytes || (sum += bytes) > kMaxTensorBytes)
    throw refuse(fmt::format("{}: brings a sum of sizes over {} bytes, the most there may be",
                             owner, kMaxTensorBytes));
}

// Where each tensor of the layers before is, for those that are tied to one.
using EarlierTensors = std::map<std::string_view, const TensorSpec*>;

void check_tie(const TensorSpec& tensor, const EarlierTensors& earlier, const std::string& owner) {
  const auto at = earlier.find(tensor.tied_to);
  if (at == earlier.end())
    throw refuse(fmt::format("{}: tensor '{}' is tied to '{}', which no layer before it has", owner,
                             tensor.name, tensor.tied_to));
  const auto& source = *at->second;
  if (!source.tied_to.empty() || source.dtype != tensor.dtype || source.shape != tensor.shape)
    throw refuse(
        fmt::format("{}: tensor '{}' is tied to '{}', which must be of its own and of the same "
                    "dtype and shape",
                    owner, tensor.name, source.name));
}

}  // namespace

std::uint64_t TensorSpec::elements() const {
  // A tensor without elements is empty, however large its other extents are.
  if (std::ranges::find(shape, std::uint64_t{0}) != shape.end()) return 0;
  std::uint64_t count = 1;
  for (const auto extent : shape)
    if (__builtin_mul_overflow(count, extent, &count))
      throw refuse(
          fmt::format("tensor '{}': the number of elements of shape [{}] does not fit 64 bits",
                      name, fmt::join(shape, ", ")));
  return count;
}

std::uint64_t TensorSpec::size_bytes() const {
  const auto count = elements();
  const auto block = block_of(dtype);
  if (count % block.elements != 0)
    throw refuse(
        fmt::format("tensor '{}': the {} elements of shape [{}] are not whole blocks of {} ({})",
                    name, count, fmt::join(shape, ", "), block.elements, to_string(dtype)));
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(count / block.elements, std::uint64_t{block.bytes}, &bytes))
    throw refuse(fmt::format("tensor '{}': the size of shape [{}] does not fit 64 bits", name,
                             fmt::join(shape, ", ")));
  return bytes;
}

std::uint64_t LayerSpec::weight_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& tensor : tensors)
    if (__builtin_add_overflow(bytes, tensor.size_bytes(), &bytes))
      throw refuse(fmt::format("layer '{}': its size does not fit 64 bits", name));
  return bytes;
}

std::uint64_t ModelSpec::weight_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& layer : layers)
    if (__builtin_add_overflow(bytes, layer.weight_bytes(), &bytes))
      throw refuse(fmt::format("model '{}': its size does not fit 64 bits", name));
  return bytes;
}

std::uint64_t ModelSpec::state_bytes(const LayerSpec& layer) const {
  const auto weights = static_cast<long double>(layer.weight_bytes());
  const auto part = [&](double ratio) {
    return std::ceil(weights * static_cast<long double>(ratio));
  };
  const auto bytes =
      weights + part(gradient_bytes_per_weight_byte) + part(optimizer_bytes_per_weight_byte);
  if (!(bytes < 0x1p63L))
    throw refuse(fmt::format("layer '{}': its state does not fit 64 bits", layer.name));
  return static_cast<std::uint64_t>(bytes);
}

std::uint64_t ModelSpec::state_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& layer : layers)
    if (__builtin_add_overflow(bytes, state_bytes(layer), &bytes))
      throw refuse(fmt::format("model '{}': its state does not fit 64 bits", name));
  return bytes;
}

void ModelSpec::validate() const {
  check_name(name, "model");
  check_ratio(name, "gradient_bytes_per_weight_byte", gradient_bytes_per_weight_byte);
  check_ratio(name, "optimizer_bytes_per_weight_byte", optimizer_bytes_per_weight_byte);
  if (layers.empty() || layers.size() > kMaxLayers)
    throw refuse(
        fmt::format("model '{}' has {} layers; give it 1 to {}", name, layers.size(), kMaxLayers));
  std::set<std::string_view> layer_names;
  std::set<std::string_view> tensor_names;
  EarlierTensors earlier;
  std::size_t ties = 0;
  std::uint64_t weights = 0;
  std::uint64_t activations = 0;
  for (const auto& layer : layers) {
    const auto owner = fmt::format("model '{}': layer '{}'", name, layer.name);
    check_name(layer.name, "model '" + name + "': layer");
    if (!layer_names.insert(layer.name).second)
      throw refuse(owner + ": a layer of that name is there already; rename one");
    if (!(layer.forward_flops >= 0 && layer.forward_flops <= kMaxFlops))
      throw refuse(fmt::format("{}: forward_flops is {}; write 0 to {}", owner, layer.forward_flops,
                               kMaxFlops));
    add_limited(activations, layer.activation_bytes, owner + ": activation_bytes");
    std::uint64_t output = 0;
    add_limited(output, layer.output_bytes, owner + ": output_bytes");
    std::uint64_t read = 0;
    add_limited(read, layer.read_bytes.value_or(0), owner + ": read_bytes");
    for (const auto& tensor : layer.tensors) {
      check_name(tensor.name, owner + ": tensor");
      if (!tensor_names.insert(tensor.name).second)
        throw refuse(
            fmt::format("{}: tensor '{}' is there already; rename one", owner, tensor.name));
      add_limited(weights, tensor.size_bytes(), fmt::format("{}: tensor '{}'", owner, tensor.name));
      if (tensor.tied_to.empty()) continue;
      check_tie(tensor, earlier, owner);
      if (++ties > kMaxTiedTensors)
        throw refuse(
            fmt::format("{}: more than {} tensors are tied to others", owner, kMaxTiedTensors));
    }
    for (const auto& tensor : layer.tensors) earlier.emplace(tensor.name, &tensor);
  }
  if (tensor_names.size() > kMaxTensors)
    throw refuse(fmt::format("model '{}' has {} tensors; at most {}", name, tensor_names.size(),
                             kMaxTensors));
}

}  // namespace causeway
