// config.json of Hugging Face models; an accepted architecture has a model whose sizes are within
// 64 bits, and which can be cut into layers.
#include "fuzz_target.h"
#include "runtime/sharding/models/config_json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = causeway_fuzz::parsed([&] { return causeway::read_config(text, "input"); });
  if (!config || !config->architecture) return 0;
  const auto& architecture = *config->architecture;
  architecture.validate();
  if (architecture.layers.size() > 128) return 0;  // Allowed, and as slow as it is long.
  const auto model = causeway::ModelDescription::from_architecture("m", architecture, config->type);
  double parameters = 0;
  for (const auto& layer : model.layers)
    for (const auto& tensor : layer.tensors)
      parameters += static_cast<double>(tensor.spec.elements());
  if (static_cast<double>(model.parameters()) > parameters * 1.0001)
    causeway_fuzz::fail("more parameters than values", std::string(text));
  if (model.active_parameters() > static_cast<double>(model.parameters()) * 1.0001)
    causeway_fuzz::fail("more parameters active than there are", std::string(text));
  for (const auto& layer : model.layers) {
    const auto costs = layer_costs(model, layer, 1 << 20);
    if (!(costs.matrix_flops_per_token >= 0 && costs.activation_bytes_per_token >= 0))
      causeway_fuzz::fail("a negative cost", layer.name);
  }
  (void)transformer_shape(model);
  return 0;
}
