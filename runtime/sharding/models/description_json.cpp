// ModelDescription as JSON; docs/models.md has the keys.
#include <boost/json.hpp>

#include "causeway/model_description.h"

namespace causeway {

namespace json = boost::json;

namespace {

json::object to_json(const AttentionShape& a) {
  json::object object{{"heads", a.heads},
                      {"kv_heads", a.kv_heads},
                      {"key_dim", a.key_dim},
                      {"value_dim", a.value_dim}};
  if (a.window > 0) object["window"] = a.window;
  if (a.kv_latent > 0) {
    object["kv_latent"] = a.kv_latent;
    object["q_latent"] = a.q_latent;
    object["rope_dim"] = a.rope_dim;
  }
  return object;
}

json::object to_json(const FeedForwardShape& f) {
  json::object object{{"width", f.width}, {"gated", f.gated}};
  if (f.experts > 0) {
    object["experts"] = f.experts;
    object["experts_per_token"] = f.experts_per_token;
    object["expert_width"] = f.expert_width;
    object["shared_width"] = f.shared_width;
  }
  return object;
}

json::object to_json(const ModelTensor& tensor) {
  json::object object{{"name", tensor.spec.name},
                      {"dtype", to_string(tensor.spec.dtype)},
                      {"shape", json::value_from(tensor.spec.shape)},
                      {"bytes", tensor.spec.size_bytes()},
                      {"parameters", tensor.parameters},
                      {"role", to_string(tensor.role)}};
  if (!tensor.is_known) object["known"] = false;
  return object;
}

template <typename T>
json::value or_null(const std::optional<T>& value) {
  return value ? json::value(*value) : json::value(nullptr);
}

json::object to_json(const ModelDescription& model, const ModelLayer& layer, std::uint64_t context,
                     std::uint64_t hidden) {
  const auto costs = layer_costs(model, layer, context, hidden);
  json::object object{{"name", layer.name},
                      {"parameters", layer.parameters()},
                      {"weight_bytes", layer.weight_bytes()},
                      {"matrix_flops_per_token", costs.matrix_flops_per_token},
                      {"attention_flops_per_token", or_null(costs.attention_flops_per_token)},
                      {"kv_values_per_token", or_null(costs.kv_values_per_token)},
                      {"cached_tokens", costs.cached_tokens},
                      {"activation_bytes_per_token", costs.activation_bytes_per_token}};
  if (layer.block && model.architecture) {
    const auto& shape = model.architecture->layers.at(*layer.block);
    object["attention"] = to_json(shape.attention);
    object["feed_forward"] = to_json(shape.feed_forward);
  }
  json::array tensors;
  for (const auto& tensor : layer.tensors) tensors.push_back(to_json(tensor));
  object["tensors"] = std::move(tensors);
  return object;
}

}  // namespace

std::string ModelDescription::to_json(std::uint64_t context) const {
  json::object object{{"name", name},
                      {"origin", origin},
                      {"context", context},
                      {"parameters", parameters()},
                      {"active_parameters", active_parameters()},
                      {"weight_bytes", weight_bytes()}};
  if (architecture)
    object["architecture"] = {{"family", architecture->family},
                              {"layers", architecture->layers.size()},
                              {"hidden", architecture->hidden},
                              {"vocabulary", architecture->vocabulary},
                              {"context", architecture->context},
                              {"learned_positions", architecture->learned_positions},
                              {"tied_embeddings", architecture->tied_embeddings}};
  json::array list;
  const auto hidden = hidden_size(*this);
  for (const auto& layer : layers) list.push_back(causeway::to_json(*this, layer, context, hidden));
  object["layers"] = std::move(list);
  object["notes"] = json::value_from(notes);
  return json::serialize(object);
}

}  // namespace causeway
