#include "causeway/plan_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <iterator>
#include <set>
#include <utility>
#include <vector>

namespace causeway {

namespace json = boost::json;

namespace {

Error refuse(const std::string& what) { return {Errc::invalid_argument, what}; }

// The stages tile the model's layers.
void check(const Plan& plan, const ModelDescription& model) {
  std::uint32_t next = 0;
  for (const auto& stage : plan.stages) {
    if (stage.first_layer != next || stage.end_layer <= next)
      throw refuse(fmt::format("plan '{}': its stages do not tile the layers", plan.model));
    next = stage.end_layer;
  }
  if (next != model.layers.size())
    throw refuse(fmt::format("plan '{}' has {} layers and model '{}' {}; plan this model",
                             plan.model, next, model.name, model.layers.size()));
}

void check_one_node(const Plan& plan, const char* engine) {
  for (const auto& stage : plan.stages)
    if (!stage.beside.empty())
      throw refuse(fmt::format(
          "{} puts whole layers on devices, and in the plan {} and {} share theirs; plan "
          "without --tensor-parallel",
          engine, stage.device.to_string(), stage.beside.front().device.to_string()));
  for (const auto& stage : plan.stages)
    if (stage.device.node != plan.stages.front().device.node)
      throw refuse(
          fmt::format("{} runs on one node, and the plan uses {} and {}; plan with --only on the "
                      "devices of one",
                      engine, plan.stages.front().device.to_string(), stage.device.to_string()));
}

bool is_gpu(const DeviceName& device) { return device.kind == DeviceKind::gpu; }

std::vector<std::uint32_t> blocks_of(const PlanStage& stage, const ModelDescription& model) {
  std::vector<std::uint32_t> blocks;
  for (auto i = stage.first_layer; i < stage.end_layer; ++i)
    if (model.layers[i].block) blocks.push_back(*model.layers[i].block);
  return blocks;
}

bool has_head(const PlanStage& stage, const ModelDescription& model) {
  return stage.end_layer == model.layers.size() && model.layers.back().name == "head";
}

// Layers from the first block to behind the last.
std::pair<std::size_t, std::size_t> blocks_in(const ModelDescription& model) {
  const auto is_block = [](const ModelLayer& layer) { return layer.block.has_value(); };
  const auto first = std::ranges::find_if(model.layers, is_block);
  if (first == model.layers.end())
    throw refuse(fmt::format("model '{}' has no blocks to cut between", model.name));
  auto end = model.layers.end();
  while (!is_block(*std::prev(end))) --end;
  return {static_cast<std::size_t>(first - model.layers.begin()),
          static_cast<std::size_t>(end - model.layers.begin())};
}

// Files of GPT-2 name the blocks as its inner model does.
std::string module_prefix(const ModelDescription& model) {
  const bool inner = std::ranges::any_of(
      model.layers, [](const ModelLayer& layer) { return layer.name.starts_with("h."); });
  return inner && model.architecture && model.architecture->family == "gpt2" ? "transformer." : "";
}

}  // namespace

std::string to_device_map(const Plan& plan, const ModelDescription& model) {
  check(plan, model);
  check_one_node(plan, "accelerate");
  for (const auto& layer : model.layers)
    if (layer.name.starts_with("blk."))
      throw refuse(
          "accelerate loads Hugging Face folders, and this is a GGUF file; plan the folder");
  const auto prefix = module_prefix(model);
  json::object map;
  const auto place = [&](const PlanStage& stage) {
    return is_gpu(stage.device) ? json::value(stage.device.index) : json::value("cpu");
  };
  for (const auto& stage : plan.stages)
    for (auto i = stage.first_layer; i < stage.end_layer; ++i) {
      const auto& layer = model.layers[i];
      if (layer.name != "embed" && layer.name != "head") {
        map[prefix + layer.name] = place(stage);
        continue;
      }
      for (const auto& tensor : layer.tensors) {
        const auto& name = tensor.spec.name;
        const bool head = name.starts_with("lm_head.");
        if (tensor.role == TensorRole::buffer) continue;
        map[(head ? "" : prefix) + name.substr(0, name.rfind('.'))] = place(stage);
      }
    }
  if (model.architecture && model.architecture->tied_embeddings)
    map["lm_head"] = place(plan.stages.front());
  return json::serialize(map);
}

std::string to_llama_cpp(const Plan& plan, const ModelDescription& model) {
  check(plan, model);
  check_one_node(plan, "llama.cpp");
  std::vector<std::string> devices;
  std::vector<std::size_t> shares;
  std::vector<std::string> overrides;
  for (const auto& stage : plan.stages) {
    const auto blocks = blocks_of(stage, model);
    const bool head = has_head(stage, model);
    const auto share = blocks.size() + (head ? 1 : 0);
    if (share == 0) continue;  // The embedding alone, which stays in host memory.
    if (is_gpu(stage.device)) {
      devices.push_back(fmt::format("CUDA{}", stage.device.index));
      shares.push_back(share);
    } else if (!devices.empty()) {
      // Only the first blocks stay in host memory by themselves: these count for the GPU before
      // them, and their weights are taken out by name.
      shares.back() += share;
      if (!blocks.empty())
        overrides.push_back(fmt::format("blk\\.({})\\.=CPU", fmt::join(blocks, "|")));
      if (head) overrides.emplace_back("^output=CPU");
    }
  }
  if (devices.empty()) return "--n-gpu-layers 0";
  std::size_t on_gpus = 0;
  for (const auto share : shares) on_gpus += share;
  auto text = fmt::format("--device {} --split-mode layer --tensor-split {} --n-gpu-layers {}",
                          fmt::join(devices, ","), fmt::join(shares, ","), on_gpus);
  if (!overrides.empty()) text += fmt::format(" --override-tensor '{}'", fmt::join(overrides, ","));
  return text;
}

ModelSpec join_ends(const ModelSpec& chain, const ModelDescription& model) {
  const auto [first, end] = blocks_in(model);
  ModelSpec joined = chain;
  joined.layers.clear();
  for (std::size_t i = 0; i < chain.layers.size(); ++i) {
    // Those before the first block begin its layer, those behind the last end that.
    if (i > first && i < end) {
      joined.layers.push_back(chain.layers[i]);
      continue;
    }
    if (i == 0) joined.layers.emplace_back();
    auto& layer = joined.layers.back();
    const auto& part = chain.layers[i];
    if (i == first || layer.name.empty()) layer.name = part.name;
    layer.forward_flops += part.forward_flops;
    layer.activation_bytes += part.activation_bytes;
    layer.output_bytes = part.output_bytes;
    layer.read_bytes = layer.read_bytes.value_or(0) + part.bytes_read();
    for (const auto& tensor : part.tensors)
      // With one block all is in one layer: what is tied to a tensor there takes no more room.
      if (tensor.tied_to.empty() || std::ranges::find(layer.tensors, tensor.tied_to,
                                                      &TensorSpec::name) == layer.tensors.end())
        layer.tensors.push_back(tensor);
  }
  joined.validate();
  return joined;
}

Plan with_ends(Plan plan, const ModelDescription& model) {
  const auto [first, end] = blocks_in(model);
  const auto in_front = static_cast<std::uint32_t>(first);
  for (auto& stage : plan.stages) {
    if (stage.first_layer != 0) stage.first_layer += in_front;
    stage.end_layer += in_front;
  }
  if (!plan.stages.empty())
    plan.stages.back().end_layer = static_cast<std::uint32_t>(model.layers.size());
  return plan;
}

std::string to_vllm(const Plan& plan, const ModelDescription& model) {
  check(plan, model);
  std::vector<std::size_t> shares;
  std::vector<std::string> devices;
  std::set<std::string> nodes;
  for (const auto& stage : plan.stages) {
    if (!is_gpu(stage.device))
      throw refuse(
          fmt::format("vLLM's stages are on GPUs, and the plan uses {}; plan without --use-host",
                      stage.device.to_string()));
    shares.push_back(blocks_of(stage, model).size());
    if (shares.back() == 0)
      throw refuse(
          fmt::format("vLLM puts the embedding and the head on the stages beside them, and {} has "
                      "no block; plan with --stages {}",
                      stage.device.to_string(), plan.stages.size() - 1));
    for (const auto& share : stage.shares()) devices.push_back(std::to_string(share.device.index));
    nodes.insert(stage.device.node);
    const auto together = stage.beside.size() + 1;
    const bool is_even = std::ranges::all_of(stage.beside, [&](const PlanShare& each) {
      return std::abs(each.share * static_cast<double>(together) - 1) < 1e-9;
    });
    if (together != plan.stages.front().beside.size() + 1 || !is_even)
      throw refuse(
          "vLLM shares every stage among equally many devices in equal parts, and the plan does "
          "not; plan with --tensor-parallel 1, or on devices of one kind");
  }
  auto text = fmt::format("VLLM_PP_LAYER_PARTITION={} vllm serve MODEL --pipeline-parallel-size {}",
                          fmt::join(shares, ","), shares.size());
  if (const auto together = plan.stages.front().beside.size() + 1; together > 1)
    text += fmt::format(" --tensor-parallel-size {}", together);
  if (nodes.size() == 1)
    text = fmt::format("CUDA_VISIBLE_DEVICES={} {}", fmt::join(devices, ","), text);
  return text;
}

}  // namespace causeway
