// Goal:   what is read from a config.json is what the family's model has: the published number of
//         parameters, to the last one, and FLOPs, KV cache and activations by the published
//         formulas.
// Method: the architecture numbers of released models, written here, against the totals that their
//         publishers state; the formulas of the literature against sums over layers.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "causeway/model_description.h"
#include "causeway/plan.h"
#include "tests/runtime/sharding/models/model_folder.h"

using namespace causeway;

namespace {

struct Released {
  const char* name;
  std::uint64_t parameters;
  double active_billions;  // 0: all.
  const char* config;
};

const std::vector<Released>& released() {
  static const std::vector<Released> kModels{
      {"llama2-7b", 6'738'415'616, 0,
       R"({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, )"
       R"("num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000, )"
       R"("torch_dtype": "bfloat16"})"},
      {"llama3-8b", 8'030'261'248, 0,
       R"({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, )"
       R"("num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 128256, )"
       R"("num_key_value_heads": 8, "torch_dtype": "bfloat16"})"},
      {"llama3.1-70b", 70'553'706'496, 0,
       R"({"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, )"
       R"("num_hidden_layers": 80, "num_attention_heads": 64, "vocab_size": 128256, )"
       R"("num_key_value_heads": 8, "torch_dtype": "bfloat16"})"},
      {"llama3.2-1b", 1'235'814'400, 0,
       R"({"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, )"
       R"("num_hidden_layers": 16, "num_attention_heads": 32, "vocab_size": 128256, )"
       R"("num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": true, )"
       R"("torch_dtype": "bfloat16"})"},
      {"mistral-7b", 7'241'732'096, 0,
       R"({"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, )"
       R"("num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000, )"
       R"("num_key_value_heads": 8, "sliding_window": 4096, "torch_dtype": "bfloat16"})"},
      {"qwen2-7b", 7'615'616'512, 0,
       R"({"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, )"
       R"("num_hidden_layers": 28, "num_attention_heads": 28, "vocab_size": 152064, )"
       R"("num_key_value_heads": 4, "torch_dtype": "bfloat16"})"},
      {"qwen2.5-0.5b", 494'032'768, 0,
       R"({"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, )"
       R"("num_hidden_layers": 24, "num_attention_heads": 14, "vocab_size": 151936, )"
       R"("num_key_value_heads": 2, "tie_word_embeddings": true, "torch_dtype": "bfloat16"})"},
      {"qwen3-8b", 8'190'735'360, 0,
       R"({"model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, )"
       R"("num_hidden_layers": 36, "num_attention_heads": 32, "vocab_size": 151936, )"
       R"("num_key_value_heads": 8, "head_dim": 128, "torch_dtype": "bfloat16"})"},
      {"qwen3-0.6b", 596'049'920, 0,
       R"({"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, )"
       R"("num_hidden_layers": 28, "num_attention_heads": 16, "vocab_size": 151936, )"
       R"("num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": true, )"
       R"("torch_dtype": "bfloat16"})"},
      {"qwen3-30b-a3b", 30'532'122'624, 3.35,
       R"({"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, )"
       R"("num_hidden_layers": 48, "num_attention_heads": 32, "vocab_size": 151936, )"
       R"("num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, )"
       R"("num_experts_per_tok": 8, "moe_intermediate_size": 768, "decoder_sparse_step": 1, )"
       R"("mlp_only_layers": [], "torch_dtype": "bfloat16"})"},
      {"qwen1.5-moe", 14'315'784'192, 2.69,
       R"({"model_type": "qwen2_moe", "hidden_size": 2048, "intermediate_size": 5632, )"
       R"("num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 151936, )"
       R"("num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, )"
       R"("moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, )"
       R"("torch_dtype": "bfloat16"})"},
      {"gemma-2b", 2'506'172'416, 0,
       R"({"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, )"
       R"("num_hidden_layers": 18, "num_attention_heads": 8, "vocab_size": 256000, )"
       R"("num_key_value_heads": 1, "head_dim": 256, "torch_dtype": "bfloat16"})"},
      {"gemma-7b", 8'537'680'896, 0,
       R"({"model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576, )"
       R"("num_hidden_layers": 28, "num_attention_heads": 16, "vocab_size": 256000, )"
       R"("num_key_value_heads": 16, "head_dim": 256, "torch_dtype": "bfloat16"})"},
      {"gemma2-9b", 9'241'705'984, 0,
       R"({"model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, )"
       R"("num_hidden_layers": 42, "num_attention_heads": 16, "vocab_size": 256000, )"
       R"("num_key_value_heads": 8, "head_dim": 256, "sliding_window": 4096, )"
       R"("torch_dtype": "bfloat16"})"},
      {"gemma2-2b", 2'614'341'888, 0,
       R"({"model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, )"
       R"("num_hidden_layers": 26, "num_attention_heads": 8, "vocab_size": 256000, )"
       R"("num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096, )"
       R"("torch_dtype": "bfloat16"})"},
      {"gemma3-1b", 999'885'952, 0,
       R"({"model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, )"
       R"("num_hidden_layers": 26, "num_attention_heads": 4, "vocab_size": 262144, )"
       R"("num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512, )"
       R"("sliding_window_pattern": 6, "torch_dtype": "bfloat16"})"},
      {"gemma3-4b", 3'880'263'168, 0,
       R"({"model_type": "gemma3", "torch_dtype": "bfloat16", )"
       R"("text_config": {"hidden_size": 2560, "intermediate_size": 10240, )"
       R"("num_hidden_layers": 34, "model_type": "gemma3_text", "sliding_window": 1024}})"},
      {"gpt2", 124'439'808, 0,
       R"({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, )"
       R"("n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257})"},
      {"gpt2-xl", 1'557'611'200, 0,
       R"({"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, )"
       R"("n_positions": 1024, "vocab_size": 50257})"},
      {"pythia-70m", 70'426'624, 0,
       R"({"model_type": "gpt_neox", "hidden_size": 512, "intermediate_size": 2048, )"
       R"("num_hidden_layers": 6, "num_attention_heads": 8, "vocab_size": 50304, )"
       R"("torch_dtype": "bfloat16"})"},
      {"pythia-6.9b", 6'857'302'016, 0,
       R"({"model_type": "gpt_neox", "hidden_size": 4096, "intermediate_size": 16384, )"
       R"("num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 50432, )"
       R"("torch_dtype": "bfloat16"})"},
      {"neox-20b", 20'554'567'680, 0,
       R"({"model_type": "gpt_neox", "hidden_size": 6144, "intermediate_size": 24576, )"
       R"("num_hidden_layers": 44, "num_attention_heads": 64, "vocab_size": 50432, )"
       R"("torch_dtype": "bfloat16"})"},
      {"mixtral-8x7b", 46'702'792'704, 12.9,
       R"({"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, )"
       R"("num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000, )"
       R"("num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, )"
       R"("torch_dtype": "bfloat16"})"},
      {"mixtral-8x22b", 140'620'634'112, 39.15,
       R"({"model_type": "mixtral", "hidden_size": 6144, "intermediate_size": 16384, )"
       R"("num_hidden_layers": 56, "num_attention_heads": 48, "vocab_size": 32000, )"
       R"("num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, )"
       R"("torch_dtype": "bfloat16"})"},
      {"phi-2", 2'779'683'840, 0,
       R"({"model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, )"
       R"("num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 51200, )"
       R"("num_key_value_heads": 32, "torch_dtype": "bfloat16"})"},
      {"phi-1.5", 1'418'270'720, 0,
       R"({"model_type": "phi", "hidden_size": 2048, "intermediate_size": 8192, )"
       R"("num_hidden_layers": 24, "num_attention_heads": 32, "vocab_size": 51200, )"
       R"("torch_dtype": "bfloat16"})"},
      {"phi3-mini", 3'821'079'552, 0,
       R"({"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, )"
       R"("num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064, )"
       R"("num_key_value_heads": 32, "sliding_window": 2047, "torch_dtype": "bfloat16"})"},
      {"phi-4", 14'659'507'200, 0,
       R"({"model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17920, )"
       R"("num_hidden_layers": 40, "num_attention_heads": 40, "vocab_size": 100352, )"
       R"("num_key_value_heads": 10, "torch_dtype": "bfloat16"})"},
      {"phi3.5-moe", 41'873'153'344, 6.6,
       R"({"model_type": "phimoe", "hidden_size": 4096, "intermediate_size": 6400, )"
       R"("num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064, )"
       R"("num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2, )"
       R"("attention_bias": true, "lm_head_bias": true, "torch_dtype": "bfloat16"})"},
      {"opt-125m", 125'239'296, 0,
       R"({"model_type": "opt", "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, )"
       R"("num_attention_heads": 12, "vocab_size": 50272, "max_position_embeddings": 2048, )"
       R"("word_embed_proj_dim": 768})"},
      {"opt-350m", 331'196'416, 0,
       R"({"model_type": "opt", "hidden_size": 1024, "ffn_dim": 4096, )"
       R"("num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 50272, )"
       R"("max_position_embeddings": 2048, "word_embed_proj_dim": 512, )"
       R"("do_layer_norm_before": false})"},
      {"opt-6.7b", 6'658'473'984, 0,
       R"({"model_type": "opt", "hidden_size": 4096, "ffn_dim": 16384, )"
       R"("num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 50272, )"
       R"("max_position_embeddings": 2048, "word_embed_proj_dim": 4096})"},
      // The publisher counts 3.61 and 5.13 active, without the embedding.
      {"gpt-oss-20b", 20'914'757'184, 4.19,
       R"({"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, )"
       R"("num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8, )"
       R"("head_dim": 64, "vocab_size": 201088, "num_local_experts": 32, )"
       R"("num_experts_per_tok": 4, "sliding_window": 128, )"
       R"("quantization_config": {"quant_method": "mxfp4"}, "torch_dtype": "bfloat16"})"},
      {"gpt-oss-120b", 116'829'156'672, 5.71,
       R"({"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, )"
       R"("num_hidden_layers": 36, "num_attention_heads": 64, "num_key_value_heads": 8, )"
       R"("head_dim": 64, "vocab_size": 201088, "num_local_experts": 128, )"
       R"("experts_per_token": 4, "sliding_window": 128, )"
       R"("quantization_config": {"quant_method": "mxfp4"}, "torch_dtype": "bfloat16"})"},
      {"deepseek-v2-lite", 15'706'484'224, 2.7,
       R"({"model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10944, )"
       R"("num_hidden_layers": 27, "num_attention_heads": 16, "vocab_size": 102400, )"
       R"("num_key_value_heads": 16, "moe_intermediate_size": 1408, "kv_lora_rank": 512, )"
       R"("q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, )"
       R"("v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2, )"
       R"("num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1, )"
       R"("torch_dtype": "bfloat16"})"},
      {"deepseek-v3", 671'026'419'200, 37.6,
       R"({"model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, )"
       R"("num_hidden_layers": 61, "num_attention_heads": 128, "vocab_size": 129280, )"
       R"("num_key_value_heads": 128, "moe_intermediate_size": 2048, "kv_lora_rank": 512, )"
       R"("q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, )"
       R"("v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1, )"
       R"("num_experts_per_tok": 8, "first_k_dense_replace": 3, "moe_layer_freq": 1, )"
       R"("quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}, )"
       R"("torch_dtype": "bfloat16"})"},
      {"deepseek-moe-16b", 16'375'728'128, 2.8,
       R"({"model_type": "deepseek", "hidden_size": 2048, "intermediate_size": 10944, )"
       R"("num_hidden_layers": 28, "num_attention_heads": 16, "vocab_size": 102400, )"
       R"("num_key_value_heads": 16, "moe_intermediate_size": 1408, "n_routed_experts": 64, )"
       R"("n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, )"
       R"("moe_layer_freq": 1, "torch_dtype": "bfloat16"})"},
  };
  return kModels;
}

ModelDescription describe(std::string_view config) {
  const ModelFolder folder;
  folder.write("config.json", config);
  return ModelDescription::read(folder.path());
}

ModelDescription describe_released(std::string_view name) {
  for (const auto& model : released())
    if (model.name == name) return describe(model.config);
  FAIL("no such model");
  return {};
}

double forward_flops(const ModelDescription& model, std::uint64_t context) {
  double flops = 0;
  for (const auto& layer : model.layers) {
    const auto costs = layer_costs(model, layer, context);
    flops += costs.matrix_flops_per_token + costs.attention_flops_per_token.value();
  }
  return flops;
}

std::uint64_t kv_values(const ModelDescription& model, std::uint64_t context) {
  std::uint64_t values = 0;
  for (const auto& layer : model.layers) {
    const auto costs = layer_costs(model, layer, context);
    values += costs.kv_values_per_token.value() * costs.cached_tokens;
  }
  return values;
}

// Layers that see a window only, as "x.x".
std::string windows(const ModelDescription& model) {
  std::string text;
  for (const auto& layer : model.architecture->layers)
    text += layer.attention.window > 0 ? 'x' : '.';
  return text;
}

}  // namespace

TEST_CASE("released models have the parameters that their publishers count") {
  for (const auto& published : released()) {
    CAPTURE(std::string(published.name));
    const auto model = describe(published.config);
    REQUIRE(model.architecture);
    CHECK(model.parameters() == published.parameters);
    const auto active = published.active_billions * 1e9;
    const auto expected = active > 0 ? active : static_cast<double>(published.parameters);
    CHECK(std::abs(model.active_parameters() - expected) <= 0.05e9);  // As they round it.
    // An embedding, a head, and each block between them once.
    REQUIRE(model.layers.size() == model.architecture->layers.size() + 2);
    for (std::uint32_t i = 0; i < model.architecture->layers.size(); ++i)
      CHECK(model.layers[i + 1].block == i);
  }
}

TEST_CASE("the bytes follow from the type") {
  CHECK(describe_released("llama2-7b").weight_bytes() == 2 * 6'738'415'616);
  CHECK(describe_released("gpt2").weight_bytes() == 4 * 124'439'808);  // It says no type.
  // Matrices in 8 bits and 4 bytes of scale for 128 x 128 of them: 1/4096 more. What the publisher
  // counts for the same layers with their index's names is 673 GB.
  const auto fp8 = describe_released("deepseek-v3");
  std::uint64_t wide = 0;
  std::uint64_t narrow = 0;
  std::uint64_t scales = 0;
  for (const auto& layer : fp8.layers)
    for (const auto& tensor : layer.tensors)
      (tensor.spec.dtype == DType::f8_e4m3 ? narrow
       : tensor.role == TensorRole::scale  ? scales
                                           : wide) += tensor.spec.size_bytes();
  CHECK(narrow + wide / 2 == 671'026'419'200);
  CHECK(scales >= narrow / 4096);
  CHECK(scales < narrow / 4000);
  // Experts in 17 bytes for 32 values: the checkpoint's 13.8 GB.
  CHECK(static_cast<double>(describe_released("gpt-oss-20b").weight_bytes()) ==
        doctest::Approx(13.76e9).epsilon(0.001));
}

TEST_CASE("training FLOPs are those of the published formula") {
  // 72 L h^2 (1 + s / 6h + V / 12 h L) per token: Narayanan et al., 2021, for GPT with 4 h.
  for (const auto* name : {"gpt2", "gpt2-xl"}) {
    const auto model = describe_released(name);
    const auto h = static_cast<double>(model.architecture->hidden);
    const auto layers = static_cast<double>(model.architecture->layers.size());
    const auto words = static_cast<double>(model.architecture->vocabulary);
    for (const double s : {128.0, 1024.0, 8192.0}) {
      const auto formula = 72 * layers * h * h * (1 + s / (6 * h) + words / (12 * h * layers));
      const auto sum = 3 * forward_flops(model, static_cast<std::uint64_t>(s));
      CHECK(std::abs(sum / formula - 1) < 1e-12);
    }
  }
  // 6 N with the head and without the embedding, N active; attention apart.
  const auto mixtral = describe_released("mixtral-8x7b");
  const auto embedding = 32000.0 * 4096;
  CHECK(3 * forward_flops(mixtral, 0) ==
        doctest::Approx(6 * (mixtral.active_parameters() - embedding)).epsilon(1e-4));
}

TEST_CASE("the activations that are kept are 34 hidden where dropout is, 18 h + 4 d_ff") {
  const auto gpt = describe_released("gpt2");
  CHECK(layer_costs(gpt, gpt.layers[1], 0).activation_bytes_per_token == 34 * 768);
  auto wide = *gpt.architecture;
  for (auto& layer : wide.layers) layer.feed_forward.width = 1000;
  CHECK(activation_bytes_per_token(wide, wide.layers[0]) == 18 * 768 + 4 * 1000);
  const auto head = layer_costs(gpt, gpt.layers.back(), 0);
  CHECK(head.activation_bytes_per_token == 4 * 50257);
}

TEST_CASE("the KV cache counts groups, windows and latents") {
  CHECK(kv_values(describe_released("llama2-7b"), 4096) == 2ULL * 32 * 4096 * 4096);
  CHECK(kv_values(describe_released("llama3-8b"), 8192) == 2ULL * 32 * 1024 * 8192);
  // All layers of Mistral see 4096 tokens.
  const auto mistral = describe_released("mistral-7b");
  CHECK(kv_values(mistral, 32768) == 2ULL * 32 * 1024 * 4096);
  CHECK(kv_values(mistral, 1000) == 2ULL * 32 * 1024 * 1000);
  // Of Gemma 2 every second, of Gemma 3 five of six.
  CHECK(windows(describe_released("gemma2-2b")) == "x.x.x.x.x.x.x.x.x.x.x.x.x.");
  CHECK(windows(describe_released("gemma3-1b")) == "xxxxx.xxxxx.xxxxx.xxxxx.xx");
  const auto gemma = describe_released("gemma3-1b");
  CHECK(kv_values(gemma, 32768) == 512ULL * (22 * 512 + 4 * 32768));
  // DeepSeek: 512 + 64 values per token and layer, for 128 heads.
  CHECK(kv_values(describe_released("deepseek-v3"), 1000) == 61ULL * 576 * 1000);
  // Qwen 2 has the number and does not use it, unless it says so, and then from a layer on.
  const std::string qwen =
      R"("model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128,
         "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 100,
         "sliding_window": 16, "max_window_layers": 3)";
  CHECK(windows(describe("{" + qwen + "}")) == "....");
  CHECK(windows(describe("{" + qwen + R"(, "use_sliding_window": true})")) == "...x");
  CHECK(windows(describe("{" + qwen + R"(, "layer_types": ["full_attention",
      "sliding_attention", "sliding_attention", "full_attention"]})")) == ".xx.");
}

TEST_CASE("layers without experts are counted as such") {
  const auto dense = [](const ModelDescription& model) {
    std::string text;
    for (const auto& layer : model.architecture->layers)
      text += layer.feed_forward.experts > 0 ? 'x' : '.';
    return text;
  };
  CHECK(dense(describe_released("deepseek-v2-lite")) == "." + std::string(26, 'x'));
  const std::string moe =
      R"("model_type": "qwen3_moe", "hidden_size": 64, "intermediate_size": 128,
         "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 100, "num_experts": 8,
         "num_experts_per_tok": 2, "moe_intermediate_size": 32)";
  CHECK(dense(describe("{" + moe + R"(, "decoder_sparse_step": 2})")) == ".x.x.x");
  CHECK(dense(describe("{" + moe + R"(, "mlp_only_layers": [0, 5]})")) == ".xxxx.");
}

TEST_CASE("a tied head works with the embedding's matrix and has none of its own") {
  const auto gemma = describe_released("gemma-2b");
  CHECK(gemma.layers.back().tensors.size() == 1);
  CHECK(layer_costs(gemma, gemma.layers.back(), 0).matrix_flops_per_token == 2.0 * 256000 * 2048);
  Workload workload;
  const auto chain = model_spec(gemma, workload);
  CHECK(chain.weight_bytes() == gemma.weight_bytes() + 2 * 256000 * 2048);
  const auto layers = static_cast<std::uint32_t>(chain.layers.size());
  // Together they take the table once, in all kinds of state; apart each has it.
  const auto table = 2ULL * 256000 * 2048;
  const auto whole = stage_memory(chain, 0, layers, 1);
  const auto front = stage_memory(chain, 0, layers - 1, 1);
  const auto back = stage_memory(chain, layers - 1, layers, 1);
  CHECK(front.weight_bytes + back.weight_bytes - whole.weight_bytes >= table);
  CHECK(front.weight_bytes + back.weight_bytes - whole.weight_bytes < table + 65536 * 2);
  CHECK(whole.optimizer_bytes < 2 * gemma.weight_bytes() + 65536 * 100);
  CHECK(back.optimizer_bytes > 2 * table);
  workload.copy_tied_head = false;
  CHECK(model_spec(gemma, workload).weight_bytes() == gemma.weight_bytes());
}

TEST_CASE("decoding reads the experts that its tokens meet, rows of the table, all of the head") {
  CHECK(expected_experts(8, 2, 1) == doctest::Approx(2));
  CHECK(expected_experts(8, 2, 2) == doctest::Approx(3.5));
  CHECK(expected_experts(8, 8, 1) == 8);
  CHECK(expected_experts(8, 2, 1000) == doctest::Approx(8));
  CHECK(expected_experts(0, 0, 5) == 0);

  const auto mixtral = describe_released("mixtral-8x7b");
  Workload workload{.is_training = false, .sequences = 1, .tokens = 1, .context = 4096};
  const auto one = model_spec(mixtral, workload);
  CHECK(one.layers.front().bytes_read() == 2 * 4096);
  CHECK(one.layers.back().bytes_read() == 2ULL * (32000 + 1) * 4096);
  const double experts = 2.0 * 8 * 3 * 4096 * 14336;
  const auto whole = static_cast<double>(one.layers[1].weight_bytes());
  CHECK(static_cast<double>(one.layers[1].bytes_read()) == doctest::Approx(whole - 0.75 * experts));
  workload.sequences = 4;
  const double missed = 0.75 * 0.75 * 0.75 * 0.75;
  CHECK(static_cast<double>(model_spec(mixtral, workload).layers[1].bytes_read()) ==
        doctest::Approx(whole - missed * experts));
  CHECK(model_spec(mixtral, workload).layers.front().bytes_read() == 4 * 2 * 4096);

  const auto gemma = describe_released("gemma-2b");
  const auto chain = model_spec(gemma, workload);
  CHECK(chain.layers.front().bytes_read() == 4 * 2 * 2048);
  CHECK(chain.layers.back().bytes_read() == 2ULL * (256000 + 1) * 2048);
  workload.copy_tied_head = false;
  CHECK(model_spec(gemma, workload).layers.back().bytes_read() == 2ULL * (256000 + 1) * 2048);
}

TEST_CASE("a chain for training and one for serving") {
  const auto llama = describe_released("llama3-8b");
  Workload workload;
  workload.sequences = 2;
  workload.tokens = 4096;
  const auto training = model_spec(llama, workload);
  CHECK(training.layers[1].forward_flops ==
        doctest::Approx(2.0 * 4096 * (2.0 * 218'103'808 + 4.0 * 4096 * 4096)));
  CHECK(training.layers[1].output_bytes == 2ULL * 4096 * 4096 * 2);
  CHECK(training.layers[0].forward_flops == 0);
  CHECK(training.layers.back().output_bytes == 0);
  workload = {.is_training = false, .sequences = 3, .tokens = 1, .context = 8192};
  const auto serving = model_spec(llama, workload);
  CHECK(serving.state_bytes() == llama.weight_bytes());
  CHECK(serving.layers[1].activation_bytes == 3ULL * 8192 * 2 * 8 * 128 * 2);
  CHECK(serving.layers[0].activation_bytes == 0);
  workload.kv_type = DType::q8_0;
  CHECK(model_spec(llama, workload).layers[1].activation_bytes ==
        3ULL * 8192 * 2 * 8 * 128 * 34 / 32);
  for (const auto bad : {Workload{.sequences = 0}, {.tokens = 0}, {.tokens = 1ULL << 40}})
    CHECK(
        has(error_of(Errc::invalid_argument, [&] { (void)model_spec(llama, bad); }), "workload: "));
}

TEST_CASE("the cost model's shape agrees where it has the words") {
  for (const auto* name : {"llama2-7b", "llama3-8b", "mistral-7b", "qwen3-8b", "gemma-2b",
                           "mixtral-8x7b", "qwen3-30b-a3b", "gpt2-xl", "deepseek-moe-16b"}) {
    CAPTURE(std::string(name));
    const auto model = describe_released(name);
    const auto shape = transformer_shape(model).value();
    CHECK_NOTHROW(shape.validate());
    // It leaves norms and biases out.
    CHECK(static_cast<double>(shape.parameters()) ==
          doctest::Approx(static_cast<double>(model.parameters())).epsilon(2e-3));
    CHECK(shape.forward_flops(2048) == doctest::Approx(forward_flops(model, 2048)).epsilon(2e-3));
    CHECK(shape.kv_elements() == kv_values(model, 1) / shape.layers);
  }
  CHECK(transformer_shape(describe_released("gemma2-2b"))->sliding_window == 0);
  CHECK(transformer_shape(describe_released("mistral-7b"))->sliding_window == 4096);
  CHECK(transformer_shape(describe_released("deepseek-v2-lite"))->first_expert_layer == 1);
}

TEST_CASE("a model from C++ is as one from its config.json") {
  ModelArchitecture architecture;
  architecture.family = "llama";
  architecture.hidden = 4096;
  architecture.vocabulary = 32000;
  architecture.repeat(
      32, {{.heads = 32, .kv_heads = 32, .key_dim = 128, .value_dim = 128}, {.width = 11008}});
  const auto model = ModelDescription::from_architecture("mine", architecture, DType::bf16);
  CHECK(model.parameters() == 6'738'415'616);
  CHECK(model.layers == describe_released("llama2-7b").layers);
  architecture.layers[3].attention.kv_heads = 33;
  CHECK(has(
      error_of(Errc::invalid_argument,
               [&] { (void)ModelDescription::from_architecture("m", architecture, DType::bf16); }),
      "layer 3: kv_heads is 33; it must be 1 to 32"));
}

TEST_CASE("a config.json that cannot be right is refused, and what is wrong is named") {
  const std::string good =
      R"("hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "vocab_size": 100)";
  CHECK(describe("{\"model_type\": \"llama\", " + good + "}").parameters() > 0);
  const auto refused = [&](const std::string& config) {
    return error_of(Errc::parse, [&] { (void)describe(config); });
  };
  const auto llama = [&](const std::string& more) {
    return refused("{\"model_type\": \"llama\", " + good + more + "}");
  };
  CHECK(has(refused(R"({"model_type": "llama", "hidden_size": 64})"), "is missing"));
  CHECK(has(refused("{\"model_type\": \"llama\", \"hidden_size\": 1, " + good + "}"),
            "key 'hidden_size' is there twice"));
  CHECK(has(llama(R"(, "head_dim": -1)"), "head_dim: write a whole number"));
  CHECK(has(llama(R"(, "head_dim": 1e30)"), "head_dim: write a whole number"));
  CHECK(has(llama(R"(, "head_dim": 18446744073709551615)"), "head_dim: write a whole number"));
  CHECK(has(llama(R"(, "head_dim": "64")"), "head_dim: write a whole number"));
  CHECK(has(llama(R"(, "head_dim": 100000)"), "key_dim is 100000"));
  CHECK(has(llama(R"(, "num_key_value_heads": 5)"), "kv_heads is 5"));
  CHECK(has(llama(R"(, "tie_word_embeddings": 1)"), "write true or false"));
  CHECK(has(llama(R"(, "layer_types": ["full_attention"])"), "has 1 entries for 2 layers"));
  CHECK(has(llama(R"(, "num_experts": 4)"), "num_experts_per_tok: is missing"));
  CHECK(has(llama(R"(, "num_experts": 4, "num_experts_per_tok": 9)"), "experts_per_token is 9"));
  CHECK(has(refused(R"({"model_type": "llama", "hidden_size": 64, "vocab_size": 1,
                        "num_hidden_layers": 1000000})"),
            "1 to 4096 are read"));
  CHECK(has(refused(std::string(100, '[')), "byte"));
  CHECK(has(refused("{\"a\": \"\xff\"}"), "byte"));
  CHECK(has(refused("[]"), "no JSON object"));
  CHECK(has(refused(std::string(R"({"a": )") + std::string(64, '[') + std::string(64, ']') + "}"),
            "byte"));
}

TEST_CASE("an unknown family is read as far as it goes") {
  const auto model = describe(R"({"model_type": "newthing", "hidden_size": 64,
      "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100})");
  CHECK(has_note(model, "'newthing' is not known"));
  CHECK(model.layers.size() == 4);
  const ModelFolder folder;
  folder.write("config.json", R"({"model_type": "newthing", "d_model": 64})");
  CHECK(has(error_of(Errc::not_found, [&] { (void)ModelDescription::read(folder.path()); }),
            "holds no .safetensors"));
}
