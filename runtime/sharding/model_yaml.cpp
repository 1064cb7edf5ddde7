// ModelSpec as YAML; docs/model-and-plan-files.md has the keys.
#include <fmt/format.h>
#include <sys/stat.h>

#include "causeway/model.h"
#include "causeway/model_description.h"
#include "runtime/topology/yaml_tree.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxModelBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxEntries = std::size_t{1} << 20;
constexpr std::size_t kMaxExtents = 16;
constexpr std::uint64_t kMaxTokens = std::uint64_t{1} << 32;
constexpr std::uint64_t kAnyNumber = ~std::uint64_t{0};

TensorSpec read_tensor(const YamlField& entry) {
  entry.expect_map("a tensor", {"name", "dtype", "shape", "tied_to"});
  TensorSpec tensor;
  tensor.name = entry.require("name", "the tensor's name").text("the tensor's name");
  const auto dtype = entry.require("dtype", "such as F32 or BF16");
  const auto& spelling = dtype.text("such as F32 or BF16");
  const auto value = dtype_from_string(spelling);
  if (!value)
    throw dtype.error(
        fmt::format("'{}' is unknown; write F64, F32, F16, BF16, I64, I32, I16, I8, "
                    "U8, BOOL or another type of safetensors or ggml",
                    spelling.substr(0, 32)));
  tensor.dtype = *value;
  const auto shape = entry.require("shape", "a list such as [768, 768]");
  for (const auto& extent : shape.items("a list such as [768, 768]", kMaxExtents))
    tensor.shape.push_back(extent.whole_number(0, kAnyNumber));
  if (const auto source = entry.find("tied_to"))
    tensor.tied_to = source->text("the name of a tensor of a layer before");
  return tensor;
}

LayerSpec read_layer(const YamlField& entry) {
  entry.expect_map("a layer", {"name", "forward_flops", "activation_bytes", "output_bytes",
                               "read_bytes", "tensors"});
  LayerSpec layer;
  layer.name = entry.require("name", "the layer's name").text("the layer's name");
  if (const auto flops = entry.find("forward_flops")) layer.forward_flops = flops->number(0, 1e30);
  if (const auto bytes = entry.find("activation_bytes")) layer.activation_bytes = bytes->bytes();
  if (const auto bytes = entry.find("output_bytes")) layer.output_bytes = bytes->bytes();
  if (const auto bytes = entry.find("read_bytes")) layer.read_bytes = bytes->bytes();
  if (const auto tensors = entry.find("tensors"))
    for (const auto& tensor : tensors->items("[{name: w, dtype: F32, shape: [4]}]", kMaxEntries))
      layer.tensors.push_back(read_tensor(tensor));
  return layer;
}

}  // namespace

ModelSpec ModelSpec::from_yaml(std::string_view text, const std::string& origin) {
  const YamlNode tree = parse_yaml(text, origin, kMaxModelBytes);
  const YamlField root(tree, origin);
  root.expect_map("a model", {"name", "gradient_bytes_per_weight_byte",
                              "optimizer_bytes_per_weight_byte", "layers"});
  ModelSpec model;
  model.name = root.require("name", "name: gpt").text("name: gpt");
  if (const auto ratio = root.find("gradient_bytes_per_weight_byte"))
    model.gradient_bytes_per_weight_byte = ratio->number(0, kMaxStateRatio);
  if (const auto ratio = root.find("optimizer_bytes_per_weight_byte"))
    model.optimizer_bytes_per_weight_byte = ratio->number(0, kMaxStateRatio);
  const auto layers = root.require("layers", "a list such as [{name: embed, tensors: [...]}]");
  for (const auto& layer : layers.items("[{name: embed, tensors: [...]}]", kMaxEntries))
    model.layers.push_back(read_layer(layer));
  try {
    model.validate();
  } catch (const Error& error) {
    throw layers.error(error.what());
  }
  return model;
}

std::string ModelSpec::to_yaml() const {
  auto text = fmt::format(
      "name: {}\ngradient_bytes_per_weight_byte: {}\noptimizer_bytes_per_weight_byte: "
      "{}\nlayers:\n",
      yaml_scalar(name), yaml_number(gradient_bytes_per_weight_byte),
      yaml_number(optimizer_bytes_per_weight_byte));
  for (const auto& layer : layers) {
    text += fmt::format(
        "  - name: {}\n    forward_flops: {}\n    activation_bytes: {}\n    output_bytes: {}\n",
        yaml_scalar(layer.name), yaml_number(layer.forward_flops), layer.activation_bytes,
        layer.output_bytes);
    if (layer.read_bytes) text += fmt::format("    read_bytes: {}\n", *layer.read_bytes);
    if (!layer.tensors.empty()) text += "    tensors:\n";
    for (const auto& tensor : layer.tensors)
      text += fmt::format(
          "      - {{name: {}, dtype: {}, shape: [{}]{}}}\n", yaml_scalar(tensor.name),
          to_string(tensor.dtype), fmt::join(tensor.shape, ", "),
          tensor.tied_to.empty() ? "" : fmt::format(", tied_to: {}", yaml_scalar(tensor.tied_to)));
  }
  return text;
}

namespace {

ModelSpec chain_of(const std::string& path, const Workload& workload) {
  const auto model = ModelDescription::read(path);
  try {
    return model_spec(model, workload);
  } catch (const Error& error) {
    throw Error(Errc::parse, path + ": " + error.what());
  }
}

}  // namespace

ModelSpec ModelSpec::from_safetensors(const std::string& path,
                                      std::uint64_t tokens_per_micro_batch) {
  if (tokens_per_micro_batch < 1 || tokens_per_micro_batch > kMaxTokens)
    throw Error(Errc::invalid_argument, fmt::format("{} tokens per micro-batch; write 1 to {}",
                                                    tokens_per_micro_batch, kMaxTokens));
  Workload workload;
  workload.tokens = tokens_per_micro_batch;
  workload.copy_tied_head = false;
  return chain_of(path, workload);
}

ModelSpec ModelSpec::from_path(const std::string& path) {
  struct stat info {};
  const bool folder = ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  const bool index = path.ends_with(".safetensors.index.json") || path.ends_with("config.json");
  if (folder || index || path.ends_with(".safetensors") || path.ends_with(".gguf"))
    return chain_of(path, {});
  return from_yaml(read_text_file(path, kMaxModelBytes), path);
}

}  // namespace causeway
