#include "pool_link.h"

#include <fmt/format.h>

namespace train_gpt {

namespace {

std::span<float> as_floats(std::byte* data, std::size_t size_bytes) {
  return {reinterpret_cast<float*>(data), size_bytes / sizeof(float)};
}

std::map<int, causeway::Region> allocate_arenas(causeway::Pool& pool, const causeway::Plan& plan,
                                                const std::vector<int>& own) {
  std::map<int, causeway::Region> arenas;
  for (const int index : own) {
    const auto& stage = plan.stages.at(static_cast<std::size_t>(index));
    if (stage.activation_bytes == 0) continue;
    // Nowhere else: every micro-batch writes and reads it.
    arenas.emplace(index, pool.allocate(stage.activation_bytes,
                                        {.near = stage.device,
                                         .only = {stage.device},
                                         .name = fmt::format("stage {} activations", index)}));
  }
  return arenas;
}

}  // namespace

PoolStorage::PoolStorage(causeway::Pool& pool, const causeway::ModelSpec& model,
                         const causeway::Plan& plan, const std::vector<int>& own)
    : arenas_(allocate_arenas(pool, plan, own)),
      model_(causeway::ShardedModel::place(pool, model, plan, own)) {}

std::span<float> PoolStorage::tensor(std::string_view name, causeway::StateKind kind) {
  const auto bytes = model_.tensor(name, kind);
  return as_floats(bytes.data(), bytes.size());
}

std::span<float> PoolStorage::arena(int stage) {
  const auto arena = arenas_.find(stage);
  if (arena == arenas_.end()) return {};
  return as_floats(arena->second.data(), arena->second.size_bytes());
}

}  // namespace train_gpt
