// causeway model: what a model's files say, before anything is placed.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "causeway/cluster.h"
#include "causeway/model_description.h"
#include "tools/base/terminal.h"
#include "tools/commands/command.h"

namespace causeway::tools {

namespace {

struct ModelOptions {
  std::string path;
  std::uint64_t context = 0;
  std::string kv_type = "F16";
  bool every_layer = false;
  bool tensors = false;
};

constexpr std::uint64_t kUsualContext = 4096;

// "6.74 B", "124 M": counts of parameters and operations.
std::string format_count(double count) {
  constexpr std::pair<double, const char*> kUnits[] = {
      {1e15, " P"}, {1e12, " T"}, {1e9, " B"}, {1e6, " M"}, {1e3, " k"}};
  for (const auto& [unit, name] : kUnits)
    if (count >= unit) return fmt::format("{:.3g}{}", count / unit, name);
  return fmt::format("{:.0f}", count);
}

double kv_bytes(const LayerCosts& costs, DType type) {
  const auto [elements, bytes] = block_of(type);
  return static_cast<double>(costs.kv_values_per_token.value_or(0)) * bytes / elements;
}

// "BF16", or "Q4_K, Q6_K, F32" by what they hold.
std::string types_of(const ModelLayer& layer) {
  std::map<DType, std::uint64_t> bytes;
  for (const auto& tensor : layer.tensors) bytes[tensor.spec.dtype] += tensor.spec.size_bytes();
  std::vector<std::pair<DType, std::uint64_t>> order(bytes.begin(), bytes.end());
  std::ranges::stable_sort(order, std::greater<>(), [](const auto& entry) { return entry.second; });
  constexpr std::size_t kShown = 3;
  std::string text;
  for (std::size_t i = 0; i < std::min(order.size(), kShown); ++i)
    text += fmt::format("{}{}", text.empty() ? "" : ", ", to_string(order[i].first));
  return order.size() > kShown ? text + ", ..." : text;
}

std::string window_of(const ModelDescription& model, const ModelLayer& layer) {
  if (!layer.block || !model.architecture) return "";
  const auto& [attention, feed] = model.architecture->layers.at(*layer.block);
  std::string text;
  if (attention.window > 0) text += fmt::format("window {}", attention.window);
  if (feed.experts > 0)
    text += fmt::format("{}{} of {} experts", text.empty() ? "" : ", ", feed.experts_per_token,
                        feed.experts);
  if (attention.kv_latent > 0) text += text.empty() ? "latent" : ", latent";
  return text;
}

std::vector<std::string> layer_row(const ModelDescription& model, const ModelLayer& layer,
                                   std::uint64_t context, std::uint64_t hidden, DType kv_type) {
  const auto costs = layer_costs(model, layer, context, hidden);
  const auto attention = costs.attention_flops_per_token;
  return {std::to_string(layer.tensors.size()),
          format_bytes(layer.weight_bytes()),
          types_of(layer),
          format_count(static_cast<double>(layer.parameters())),
          format_count(costs.matrix_flops_per_token + attention.value_or(0)) +
              (attention ? "" : " + ?"),
          costs.kv_values_per_token
              ? format_bytes(static_cast<std::uint64_t>(kv_bytes(costs, kv_type)))
              : "?",
          window_of(model, layer)};
}

std::string layers_text(const ModelDescription& model, std::uint64_t context, DType kv_type,
                        bool every_layer) {
  Table table({{"LAYER", false, true},
               {"TENSORS", true},
               {"WEIGHTS", true},
               {"TYPES"},
               {"PARAMETERS", true},
               {"FLOPS/TOKEN", true},
               {"KV/TOKEN", true},
               {""}});
  const auto hidden = hidden_size(model);
  for (std::size_t first = 0; first < model.layers.size();) {
    const auto row = layer_row(model, model.layers[first], context, hidden, kv_type);
    auto end = first + 1;
    // Layers alike in all figures stand in one line.
    while (!every_layer && end < model.layers.size() &&
           layer_row(model, model.layers[end], context, hidden, kv_type) == row)
      ++end;
    std::vector<Cell> cells{{end - first == 1
                                 ? model.layers[first].name
                                 : fmt::format("{} .. {} ({})", model.layers[first].name,
                                               model.layers[end - 1].name, end - first)}};
    for (const auto& text : row) cells.push_back({text});
    table.add(std::move(cells));
    first = end;
  }
  return table.to_string();
}

std::string tensors_text(const ModelDescription& model) {
  Table table({{"TENSOR", false, true}, {"TYPE"}, {"SHAPE"}, {"BYTES", true}, {"ROLE"}, {"LAYER"}});
  for (const auto& layer : model.layers)
    for (const auto& tensor : layer.tensors)
      table.add({{tensor.spec.name},
                 {std::string(to_string(tensor.spec.dtype))},
                 {fmt::format("[{}]", fmt::join(tensor.spec.shape, ", "))},
                 {format_bytes(tensor.spec.size_bytes())},
                 {tensor.is_known ? std::string(to_string(tensor.role)) : "unknown"},
                 {layer.name}});
  return table.to_string();
}

std::string totals_text(const ModelDescription& model, std::uint64_t context, DType kv_type) {
  double kv = 0;
  double flops = 0;
  bool is_whole = true;
  const auto hidden = hidden_size(model);
  for (const auto& layer : model.layers) {
    const auto costs = layer_costs(model, layer, context, hidden);
    kv += kv_bytes(costs, kv_type) * static_cast<double>(costs.cached_tokens);
    flops += costs.matrix_flops_per_token + costs.attention_flops_per_token.value_or(0);
    is_whole = is_whole && costs.kv_values_per_token && costs.attention_flops_per_token;
  }
  const auto parameters = model.parameters();
  const auto active = model.active_parameters();
  auto text =
      fmt::format("{} parameters ({})", format_count(static_cast<double>(parameters)), parameters);
  if (active < static_cast<double>(parameters) * 0.999)
    text += fmt::format(", {} active per token", format_count(active));
  text += fmt::format(", {} of weights\n", format_bytes(model.weight_bytes()));
  text +=
      fmt::format("At {} tokens of context: {} FLOPs per token forward, {} of KV cache ({}){}\n",
                  context, format_count(flops), format_bytes(static_cast<std::uint64_t>(kv)),
                  to_string(kv_type), is_whole ? "" : "; what is marked ? is left out");
  return text;
}

int run_show(const ModelOptions& options, bool json) {
  const auto model = ModelDescription::read(options.path);
  const auto kv_type = dtype_from_string(options.kv_type);
  if (!kv_type)
    throw Error(Errc::invalid_argument,
                fmt::format("--kv-type: '{}' is unknown; write F16, BF16, F8_E4M3 or Q8_0",
                            options.kv_type));
  const auto longest = model.architecture ? model.architecture->context : 0;
  const auto context = options.context > 0 ? options.context
                       : longest > 0       ? std::min(longest, kUsualContext)
                                           : kUsualContext;
  if (json) {
    fmt::print("{}\n", model.to_json(context));
    return kExitOk;
  }
  fmt::print("{}: {}{}\n\n", model.name,
             model.architecture ? model.architecture->family + ", from " : std::string("from "),
             model.origin);
  if (options.tensors) fmt::print("{}\n", tensors_text(model));
  fmt::print("{}\n{}", layers_text(model, context, *kv_type, options.every_layer),
             totals_text(model, context, *kv_type));
  for (const auto& note : model.notes)
    fmt::print("{}\n", coloured(Colour::yellow, "Note: " + note));
  return kExitOk;
}

}  // namespace

void add_model(CLI::App& app, Shell& shell) {
  auto* model = app.add_subcommand("model", "What a model's files say: layers, tensors, costs");
  model->require_subcommand(1);
  model->footer(std::string("Example:\n  causeway model show Llama-2-7b-hf\n\n") + kExitCodesText);
  auto options = std::make_shared<ModelOptions>();
  auto* show = add_command(*model, shell, "show", "Layers, tensors, parameters, FLOPs and KV cache",
                           "causeway model show mixtral.Q4_K_M.gguf --context 32768",
                           [options, &shell]() { return run_show(*options, shell.json); });
  show->add_option(
          "MODEL", options->path,
          "A Hugging Face folder, its config.json or index, a .safetensors or a .gguf file")
      ->required();
  show->add_option("--context", options->context, "Tokens of context for FLOPs and KV cache")
      ->type_name("N")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 32));
  show->add_option("--kv-type", options->kv_type, "Of the KV cache (F16)")->type_name("TYPE");
  show->add_flag("--every-layer", options->every_layer, "One line for each layer");
  show->add_flag("--tensors", options->tensors, "List every tensor as well");
}

}  // namespace causeway::tools
