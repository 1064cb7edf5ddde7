// Goal:   `causeway model` shows what a model's files say, and `causeway plan` places it from them.
// Method: the real program over a config.json of known figures.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>

#include "causeway/plan.h"
#include "tests/tools/run_command.h"

using namespace causeway;
using causeway::test::CommandResult;
using causeway::test::TemporaryFolder;

namespace json = boost::json;

static CommandResult causeway_run(std::vector<std::string> arguments) {
  static const TemporaryFolder runtime;
  arguments.insert(arguments.begin(), CAUSEWAY);
  return test::run_command(std::move(arguments), {{"XDG_RUNTIME_DIR", runtime.path()}});
}

static bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// GPT-2 by its config: 124 M parameters in 4 bytes.
static const std::string& gpt2() {
  static const TemporaryFolder folder;
  static const std::string path = [] {
    auto made = folder.path() + "/gpt2";
    std::filesystem::create_directory(made);
    std::ofstream(made + "/config.json")
        << R"({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12,
               "n_positions": 1024, "vocab_size": 50257})";
    return made;
  }();
  return path;
}

TEST_CASE("a model is shown by layer, with its totals") {
  const auto shown = causeway_run({"model", "show", gpt2()});
  CHECK(shown.exit_code == 0);
  CHECK(contains(shown.out, "gpt2: gpt2, from config.json"));
  CHECK(contains(shown.out, "h.0 .. h.11 (12)"));
  CHECK(contains(shown.out, "124 M parameters (124439808), 498 MB of weights"));
  CHECK(contains(shown.out,
                 "At 1024 tokens of context: 285 M FLOPs per token forward, 37.7 MB of KV cache"));
  CHECK(contains(shown.out, "Note: No weights are there"));
  const auto every = causeway_run({"model", "show", gpt2(), "--every-layer", "--tensors",
                                   "--context", "512", "--kv-type", "Q8_0"});
  CHECK(contains(every.out, "h.7.attn.c_attn.weight"));
  CHECK(contains(every.out, "\nh.7 "));
  CHECK(contains(every.out, "10 MB of KV cache (Q8_0)"));
}

TEST_CASE("the same as JSON") {
  const auto shown =
      causeway_run({"model", "show", gpt2() + "/config.json", "--json", "--context", "100"});
  REQUIRE(shown.exit_code == 0);
  const auto model = json::parse(shown.out);
  CHECK(model.at("parameters").to_number<std::uint64_t>() == 124'439'808);
  CHECK(model.at("context").to_number<int>() == 100);
  CHECK(model.at("architecture").at("tied_embeddings").as_bool());
  const auto& layers = model.at("layers").as_array();
  REQUIRE(layers.size() == 14);
  CHECK(layers[1].at("attention_flops_per_token").to_number<double>() == 4.0 * 100 * 768);
  CHECK(layers[1].at("kv_values_per_token").to_number<int>() == 2 * 768);
  const auto& tensor = layers[0].at("tensors").as_array().at(0);
  CHECK(tensor.at("name") == "wte.weight");
  CHECK(tensor.at("bytes").to_number<std::uint64_t>() == 4ULL * 50257 * 768);
  CHECK(tensor.at("role") == "embedding");
}

TEST_CASE("what is no model is one line and exit code 1") {
  for (const auto& [path, part] : std::vector<std::pair<std::string, std::string>>{
           {"/nonexistent", "no such file or folder"},
           {"/nonexistent.gguf", "no such file"},
           {gpt2() + "/..", "holds no .safetensors file"}}) {
    const auto shown = causeway_run({"model", "show", path});
    INFO(shown.err);
    CHECK(shown.exit_code == 1);
    CHECK(contains(shown.err, part));
    CHECK(shown.err.find('\n') == shown.err.size() - 1);
  }
  const auto type = causeway_run({"model", "show", gpt2(), "--kv-type", "Q3"});
  CHECK(type.exit_code == 1);
  CHECK(contains(type.err, "--kv-type: 'Q3' is unknown"));
}

static std::string cluster_of(const std::string& capacity) {
  auto path = std::filesystem::path(gpt2()).parent_path().string() + "/" + capacity + ".yaml";
  std::ofstream(path)
      << "{name: c, nodes: [{name: a, devices: [{gpu: rtx-4090, count: 2, capacity: " << capacity
      << "}]}]}";
  return path;
}

TEST_CASE("a folder is planned for training") {
  const auto plan = causeway_run(
      {"plan", gpt2(), "--cluster", cluster_of("4GB"), "--stages", "2", "--format", "yaml"});
  INFO(plan.err);
  const auto made = Plan::from_yaml(plan.out, "stdout");
  CHECK(made.model == "gpt2");
  REQUIRE(made.stages.size() == 2);
  CHECK(made.stages.back().end_layer == 14);
}

TEST_CASE("a folder is planned for serving, and other engines are told") {
  const auto cluster = cluster_of("450MB");
  const auto plan = [&](std::vector<std::string> more) {
    std::vector<std::string> line{"plan", gpt2(), "--cluster", cluster};
    line.insert(line.end(), more.begin(), more.end());
    return causeway_run(line);
  };
  // Without gradients and optimizer: 498 MB and the head's copy of 154 MB, and 38 MB of KV cache.
  const auto made = Plan::from_yaml(plan({"--format", "yaml", "--serve"}).out, "stdout");
  std::uint64_t state = 0;
  std::uint64_t cache = 0;
  for (const auto& stage : made.stages) {
    state += stage.state_bytes;
    cache += stage.activation_bytes;
  }
  CHECK(made.micro_batches == 1);
  CHECK(static_cast<double>(state) == doctest::Approx(652e6).epsilon(0.002));
  CHECK(static_cast<double>(cache) == doctest::Approx(37.7e6).epsilon(0.005));
  const auto more = plan({"--format", "yaml", "--serve", "--context", "512", "--batch", "4"});
  cache = 0;
  for (const auto& stage : Plan::from_yaml(more.out, "stdout").stages)
    cache += stage.activation_bytes;
  CHECK(static_cast<double>(cache) == doctest::Approx(2 * 37.7e6).epsilon(0.005));
  CHECK(contains(plan({"--serve"}).out, "Serving: memory holds"));
  CHECK(plan({"--serve", "--micro-batches", "2"}).exit_code == 2);

  REQUIRE(made.stages.size() == 2);
  const auto end = made.stages[0].end_layer;
  const auto vllm = plan({"--for", "vllm"});
  INFO(vllm.err);
  CHECK(contains(vllm.out, fmt::format("VLLM_PP_LAYER_PARTITION={},{} ", end - 1, 13 - end)));
  const auto llama = plan({"--for", "llama.cpp"});
  CHECK(contains(llama.out, fmt::format("--tensor-split {},{} ", end - 1, 14 - end)));
  const auto map = json::parse(plan({"--for", "accelerate"}).out);
  CHECK(map.as_object().size() == 2 + 12 + 2);  // Both tables, the blocks, the last norm, the head.
  CHECK(plan({"--for", "ollama"}).exit_code == 2);
}
