// Goal:   what another engine is told puts each layer where the plan has it.
// Method: plans by hand; the engines' own rules, repeated here, give the layers back.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "causeway/plan_export.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/runtime/sharding/models/model_folder.h"

using namespace causeway;

namespace {

// 8 blocks between an embedding and a head: 10 layers.
ModelDescription small(const std::string& family, bool tied) {
  ModelArchitecture architecture;
  architecture.family = family;
  architecture.hidden = 16;
  architecture.vocabulary = 10;
  architecture.tied_embeddings = tied;
  architecture.repeat(8,
                      {{.heads = 2, .kv_heads = 2, .key_dim = 8, .value_dim = 8}, {.width = 32}});
  return ModelDescription::from_architecture("m", architecture, DType::f16);
}

Plan plan_of(const std::vector<std::pair<const char*, std::uint32_t>>& ends) {
  Plan plan;
  plan.model = "m";
  std::uint32_t first = 0;
  for (const auto& [device, end] : ends) {
    plan.stages.push_back(
        {.device = DeviceName::parse(device), .first_layer = first, .end_layer = end});
    first = end;
  }
  return plan;
}

std::string refusal(auto call) { return error_of(Errc::invalid_argument, call); }

// The device of each block and of the head, by llama.cpp's rule for a tensor split.
std::string llama_devices(const std::vector<float>& split, int n_gpu_layers, int blocks) {
  std::vector<float> points;
  float sum = 0;
  for (const auto share : split) points.push_back(sum += share);
  for (auto& point : points) point /= sum;
  const int start = std::max(blocks + 1 - n_gpu_layers, 0);
  const int count = std::min(n_gpu_layers, blocks + 1);
  std::string devices;
  for (int i = 0; i <= blocks; ++i) {
    if (i < start || i - start >= count) {
      devices += 'c';
      continue;
    }
    const auto value = static_cast<float>(i - start) / static_cast<float>(count);
    devices += static_cast<char>('0' + (std::ranges::upper_bound(points, value) - points.begin()));
  }
  return devices;
}

}  // namespace

TEST_CASE("accelerate: a device for every module") {
  const auto plan = plan_of({{"a/gpu1", 3}, {"a/host0", 5}, {"a/gpu0", 10}});
  CHECK(to_device_map(plan, small("llama", false)) ==
        R"({"model.embed_tokens":1,"model.layers.0":1,"model.layers.1":1,"model.layers.2":"cpu",)"
        R"("model.layers.3":"cpu","model.layers.4":0,"model.layers.5":0,"model.layers.6":0,)"
        R"("model.layers.7":0,"model.norm":0,"lm_head":0})");
  // The tied head is the embedding's tensor.
  CHECK(has(to_device_map(plan, small("llama", true)), R"("lm_head":1)"));
  const auto gpt = to_device_map(plan, small("gpt2", true));
  CHECK(has(gpt, R"("transformer.wte":1)"));
  CHECK(has(gpt, R"("transformer.h.7":0,"transformer.ln_f":0,"lm_head":1})"));
  CHECK(has(refusal([] {
              (void)to_device_map(plan_of({{"a/gpu0", 3}, {"b/gpu0", 10}}), small("llama", false));
            }),
            "accelerate runs on one node"));
}

TEST_CASE("llama.cpp: devices in the order of the stages, and its own rule gives the blocks back") {
  const auto model = small("llama", false);
  CHECK(to_llama_cpp(plan_of({{"a/gpu1", 4}, {"a/gpu0", 10}}), model) ==
        "--device CUDA1,CUDA0 --split-mode layer --tensor-split 3,6 --n-gpu-layers 9");
  CHECK(llama_devices({3, 6}, 9, 8) == "000111111");
  // The embedding alone, and the first blocks, stay in host memory.
  CHECK(to_llama_cpp(plan_of({{"a/host0", 3}, {"a/gpu0", 6}, {"a/gpu1", 10}}), model) ==
        "--device CUDA0,CUDA1 --split-mode layer --tensor-split 3,4 --n-gpu-layers 7");
  CHECK(llama_devices({3, 4}, 7, 8) == "cc0001111");
  CHECK(to_llama_cpp(plan_of({{"a/gpu0", 1}, {"a/gpu1", 10}}), model) ==
        "--device CUDA1 --split-mode layer --tensor-split 9 --n-gpu-layers 9");
  // Blocks in the middle, and the head, are taken out by name.
  CHECK(to_llama_cpp(plan_of({{"a/gpu0", 4}, {"a/host0", 6}, {"a/gpu1", 9}, {"a/host1", 10}}),
                     model) ==
        "--device CUDA0,CUDA1 --split-mode layer --tensor-split 5,4 --n-gpu-layers 9 "
        "--override-tensor 'blk\\.(3|4)\\.=CPU,^output=CPU'");
  CHECK(llama_devices({5, 4}, 9, 8) == "000001111");
  CHECK(to_llama_cpp(plan_of({{"a/host0", 10}}), model) == "--n-gpu-layers 0");
  // Every split of so many blocks comes back, whatever single precision makes of it.
  for (int blocks = 1; blocks <= 130; ++blocks)
    for (int first = 1; first <= blocks; ++first) {
      const auto devices = llama_devices(
          {static_cast<float>(first), static_cast<float>(blocks + 1 - first)}, blocks + 1, blocks);
      REQUIRE(std::ranges::count(devices, '0') == first);
    }
}

TEST_CASE("vLLM: blocks per rank, and what it cannot have is said") {
  const auto model = small("llama", false);
  CHECK(to_vllm(plan_of({{"a/gpu1", 4}, {"a/gpu0", 10}}), model) ==
        "CUDA_VISIBLE_DEVICES=1,0 VLLM_PP_LAYER_PARTITION=3,5 vllm serve MODEL "
        "--pipeline-parallel-size 2");
  CHECK(to_vllm(plan_of({{"a/gpu1", 4}, {"b/gpu0", 10}}), model) ==
        "VLLM_PP_LAYER_PARTITION=3,5 vllm serve MODEL --pipeline-parallel-size 2");
  CHECK(has(refusal([&] {
              (void)to_vllm(plan_of({{"a/gpu0", 1}, {"a/gpu1", 10}}), model);
            }),
            "has no block"));
  CHECK(has(refusal([&] {
              (void)to_vllm(plan_of({{"a/gpu0", 2}, {"a/host0", 10}}), model);
            }),
            "are on GPUs"));
}

TEST_CASE("the ends join the blocks beside them, and come apart again") {
  for (const bool tied : {false, true}) {
    const auto model = small("llama", tied);
    const auto chain =
        model_spec(model, {.is_training = false, .sequences = 1, .tokens = 1, .context = 64});
    const auto joined = join_ends(chain, model);
    REQUIRE(joined.layers.size() == 8);
    CHECK(joined.layers.front().name == "model.layers.0");
    CHECK(joined.layers.back().name == "model.layers.7");
    CHECK(joined.weight_bytes() == chain.weight_bytes());
    CHECK(stage_memory(joined, 0, 8, 1).weight_bytes == stage_memory(chain, 0, 10, 1).weight_bytes);
    double flops = 0;
    std::uint64_t read = 0;
    for (const auto& layer : chain.layers) flops += layer.forward_flops, read += layer.bytes_read();
    for (const auto& layer : joined.layers) {
      flops -= layer.forward_flops;
      read -= layer.bytes_read();
    }
    CHECK(flops == doctest::Approx(0));
    CHECK(read == 0);
    CHECK(joined.layers.front().output_bytes == chain.layers[1].output_bytes);
    CHECK(joined.layers.back().output_bytes == 0);
    // A block alone in front was an embedding alone before, which vLLM cannot have.
    const auto plan = with_ends(plan_of({{"a/gpu0", 1}, {"a/gpu1", 8}}), model);
    CHECK(plan.stages[0].end_layer == 2);
    CHECK(plan.stages[1].first_layer == 2);
    CHECK(plan.stages[1].end_layer == 10);
    CHECK(
        to_vllm(plan, model)
            .starts_with("CUDA_VISIBLE_DEVICES=0,1 VLLM_PP_LAYER_PARTITION=1,7 vllm serve MODEL"));
  }
  // One block: the head that is tied to the embedding is in its layer.
  auto architecture = small("llama", true).architecture.value();
  architecture.layers.resize(1);
  const auto model = ModelDescription::from_architecture("m", architecture, DType::f16);
  const auto chain =
      model_spec(model, {.is_training = false, .sequences = 1, .tokens = 1, .context = 64});
  const auto joined = join_ends(chain, model);
  REQUIRE(joined.layers.size() == 1);
  CHECK(joined.layers[0].bytes_read() ==
        chain.layers[0].bytes_read() + chain.layers[1].bytes_read() + chain.layers[2].bytes_read());
  CHECK(stage_memory(joined, 0, 1, 1).weight_bytes == stage_memory(chain, 0, 3, 1).weight_bytes);
  CHECK(with_ends(plan_of({{"a/gpu0", 1}}), model).stages[0].end_layer == 3);
  auto none = model;
  for (auto& layer : none.layers) layer.block.reset();
  CHECK(has(refusal([&] { (void)join_ends(chain, none); }), "no blocks"));
}

TEST_CASE("a plan of another model is refused") {
  const auto model = small("llama", false);
  for (const auto call : {to_device_map, to_llama_cpp, to_vllm}) {
    CHECK(has(refusal([&] {
                (void)call(plan_of({{"a/gpu0", 9}}), model);
              }),
              "has 9 layers and model 'm' 10"));
    auto gap = plan_of({{"a/gpu0", 4}, {"a/gpu1", 10}});
    gap.stages[1].first_layer = 5;
    CHECK(has(refusal([&] { (void)call(gap, model); }), "do not tile"));
  }
}
