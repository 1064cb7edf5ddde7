#include "causeway/sharded_model.h"

#include <fmt/format.h>

#include <array>
#include <unordered_map>

namespace causeway {

namespace {
constexpr std::array kKinds{StateKind::weights, StateKind::gradients, StateKind::optimizer};

const char* to_string(StateKind kind) noexcept {
  switch (kind) {
    case StateKind::weights:
      return "weights";
    case StateKind::gradients:
      return "gradients";
    case StateKind::optimizer:
      return "optimizer";
  }
  return "state";
}

double bytes_per_weight_byte(const ModelSpec& model, StateKind kind) noexcept {
  switch (kind) {
    case StateKind::weights:
      return 1.0;
    case StateKind::gradients:
      return model.gradient_bytes_per_weight_byte;
    case StateKind::optimizer:
      return model.optimizer_bytes_per_weight_byte;
  }
  return 0.0;
}
}  // namespace

struct ShardedModel::State {
  struct Part {
    int stage;
    StateKind kind;
    Region region;
  };
  struct View {
    std::size_t part;
    std::uint64_t offset_bytes;
    std::uint64_t size_bytes;
  };
  std::vector<Part> parts;
  std::array<std::unordered_map<std::string, View>, kKinds.size()> views;  // By kind, by tensor.
};

ShardedModel::ShardedModel(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
ShardedModel::ShardedModel(ShardedModel&&) noexcept = default;
ShardedModel& ShardedModel::operator=(ShardedModel&&) noexcept = default;
ShardedModel::~ShardedModel() = default;

ShardedModel ShardedModel::place(Pool& pool, const ModelSpec& model, const Plan& plan,
                                 const std::vector<int>& stages) {
  auto state = std::make_unique<State>();
  for (const int index : stages) {
    const auto& stage = plan.stages.at(index);
    if (stage.end_layer > model.layers.size())
      throw Error(Errc::invalid_argument,
                  fmt::format("stage {} ends at layer {}, and model '{}' has {}", index,
                              stage.end_layer, model.name, model.layers.size()));
    for (const auto kind : kKinds) {
      auto& views = state->views[static_cast<std::size_t>(kind)];
      const double factor = bytes_per_weight_byte(model, kind);
      std::uint64_t at = 0;
      for (auto layer = stage.first_layer; layer < stage.end_layer; ++layer) {
        for (const auto& tensor : model.layers[layer].tensors) {
          // Tied to one of this stage: the same bytes.
          if (const auto source = views.find(tensor.tied_to);
              source != views.end() && source->second.part == state->parts.size()) {
            views[tensor.name] = source->second;
            continue;
          }
          const auto exact = static_cast<double>(tensor.size_bytes()) * factor;
          views[tensor.name] = {state->parts.size(), at, static_cast<std::uint64_t>(exact)};
          at += tensor_state_bytes(tensor, factor);
        }
      }
      if (at == 0) continue;  // Serving keeps no gradients and no optimizer state.
      auto region = pool.allocate(
          at, {.near = stage.device,
               .only = {stage.device},
               .name = fmt::format("{} stage {} {}", model.name, index, to_string(kind))});
      state->parts.push_back({index, kind, std::move(region)});
    }
  }
  return ShardedModel(std::move(state));
}

bool ShardedModel::holds(std::string_view name) const noexcept {
  return state_->views[0].contains(std::string(name));
}

std::span<std::byte> ShardedModel::tensor(std::string_view name, StateKind kind) const {
  const auto& views = state_->views[static_cast<std::size_t>(kind)];
  const auto view = views.find(std::string(name));
  if (view == views.end())
    throw Error(Errc::not_found, fmt::format("tensor '{}' is not on this process", name));
  if (view->second.size_bytes == 0) return {};
  const auto& part = state_->parts[view->second.part];
  return {part.region.data() + view->second.offset_bytes, view->second.size_bytes};
}

std::vector<ShardedModel::Placement> ShardedModel::placements() const {
  std::vector<Placement> result;
  for (const auto& part : state_->parts)
    result.push_back({part.stage, part.kind, part.region.size_bytes(), part.region.memory_kind(),
                      part.region.cuda_ordinal(), part.region.extents()});
  return result;
}

}  // namespace causeway
