// Goal:   a folder, an index or a file is read by headers alone, every tensor finds its layer, and
// what
//         is not as expected is said.
// Method: folders made here, with files whose data are a hole: a terabyte of weights takes no room,
// and
//         reading it would show.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "causeway/model_description.h"
#include "causeway/plan.h"
#include "causeway/topology.h"
#include "tests/runtime/sharding/models/model_folder.h"

using namespace causeway;

namespace {

constexpr const char* kSmallLlama = R"({"model_type": "llama", "torch_dtype": "bfloat16",
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100})";

std::vector<TensorSpec> small_llama_tensors() {
  std::vector<TensorSpec> tensors{{"model.embed_tokens.weight", DType::bf16, {100, 64}}};
  for (const auto* i : {"0", "1"}) {
    const auto prefix = std::string("model.layers.") + i + ".";
    const auto add = [&](const char* name, std::vector<std::uint64_t> shape) {
      tensors.push_back({prefix + name, DType::bf16, std::move(shape)});
    };
    add("self_attn.q_proj.weight", {64, 64});
    add("self_attn.k_proj.weight", {32, 64});
    add("self_attn.v_proj.weight", {32, 64});
    add("self_attn.o_proj.weight", {64, 64});
    add("mlp.gate_proj.weight", {128, 64});
    add("mlp.up_proj.weight", {128, 64});
    add("mlp.down_proj.weight", {64, 128});
    add("input_layernorm.weight", {64});
    add("post_attention_layernorm.weight", {64});
  }
  tensors.push_back({"model.norm.weight", DType::bf16, {64}});
  tensors.push_back({"lm_head.weight", DType::bf16, {100, 64}});
  return tensors;
}

std::string index_of(const std::map<std::string, std::string>& files, std::uint64_t total_bytes) {
  std::string text =
      R"({"metadata": {"total_size": )" + std::to_string(total_bytes) + R"(}, "weight_map": {)";
  bool first = true;
  for (const auto& [tensor, file] : files) {
    text += (first ? "\"" : ", \"") + tensor + "\": \"" + file + "\"";
    first = false;
  }
  return text + "}}";
}

std::uint64_t sum_of(const std::vector<TensorSpec>& tensors) {
  std::uint64_t bytes = 0;
  for (const auto& tensor : tensors) bytes += tensor.size_bytes();
  return bytes;
}

// Names and layers: "embed: a b\n0: ...".
std::string layout(const ModelDescription& model) {
  std::string text;
  for (const auto& layer : model.layers)
    text += layer.name + ":" + std::to_string(layer.tensors.size()) + " ";
  return text;
}

long peak_kib() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

}  // namespace

TEST_CASE("a folder with config.json, index and files") {
  const ModelFolder folder;
  auto tensors = small_llama_tensors();
  folder.write("config.json", kSmallLlama);
  std::map<std::string, std::string> files;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    files[tensors[i].name] =
        i < 8 ? "model-00001-of-00002.safetensors" : "model-00002-of-00002.safetensors";
  folder.write("model.safetensors.index.json", index_of(files, sum_of(tensors)));
  folder.write_sparse("model-00001-of-00002.safetensors", {tensors.begin(), tensors.begin() + 8});
  folder.write_sparse("model-00002-of-00002.safetensors", {tensors.begin() + 8, tensors.end()});
  // Not of this model: the index decides.
  folder.write_sparse("consolidated.safetensors", tensors);
  for (const auto& path : {folder.path(), folder.file("model.safetensors.index.json")}) {
    const auto model = ModelDescription::read(path);
    CHECK(layout(model) == "embed:1 model.layers.0:9 model.layers.1:9 head:2 ");
    CHECK(model.notes.empty());
    CHECK(model.weight_bytes() == sum_of(tensors));
    CHECK(model.parameters() == sum_of(tensors) / 2);
    CHECK(model.name == std::filesystem::path(folder.path()).filename());
  }
  // The same from config.json alone, and without the files.
  const auto whole = ModelDescription::read(folder.path());
  CHECK(ModelDescription::read(folder.file("config.json")).parameters() == whole.parameters());
  std::filesystem::remove(folder.file("model-00002-of-00002.safetensors"));
  const auto partly = ModelDescription::read(folder.path());
  CHECK(has_note(partly, "1 of 2 files are not there"));
  CHECK(layout(partly) == layout(whole));
  CHECK(partly.weight_bytes() == whole.weight_bytes());
  CHECK(partly.notes.size() == 1);
  std::filesystem::remove(folder.file("model-00001-of-00002.safetensors"));
  const auto absent = ModelDescription::read(folder.path());
  CHECK(absent.weight_bytes() == whole.weight_bytes());
  CHECK(layout(absent) == layout(whole));
  for (std::size_t i = 0; i < whole.layers.size(); ++i)
    for (const auto& tensor : whole.layers[i].tensors)
      CHECK(std::ranges::count(absent.layers[i].tensors, tensor) == 1);
}

TEST_CASE("a tensor of unknown name is placed and reported") {
  const ModelFolder folder;
  folder.write("config.json", kSmallLlama);
  auto tensors = small_llama_tensors();
  tensors.push_back({"model.layers.1.self_attn.novel.weight", DType::bf16, {8, 64}});
  tensors.push_back({"model.layers.2.mtp.weight", DType::bf16, {8, 64}});
  tensors.push_back({"vision_tower.encoder.layers.0.fc1.weight", DType::bf16, {8, 8}});
  tensors.push_back({"something", DType::bf16, {3}});
  folder.write_sparse("model.safetensors", tensors);
  const auto model = ModelDescription::read(folder.path());
  CHECK(layout(model) ==
        "embed:1 vision_tower.encoder.layers.0:1 model.layers.0:9 model.layers.1:10 "
        "model.layers.2:1 head:3 ");
  CHECK(model.weight_bytes() == sum_of(tensors));
  CHECK(has_note(model,
                 "2 tensors have names that llama does not use, such as "
                 "'model.layers.1.self_attn.novel.weight'"));
  CHECK(has_note(model, "1 layers are numbered past the 2"));
  // An unknown matrix is taken for one that each token goes through.
  const auto expected = ModelDescription::read(folder.file("model.safetensors"));
  CHECK(expected.layers == model.layers);
  const auto plain = 2.0 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 128 * 64);
  CHECK(layer_costs(model, model.layers[2], 0).matrix_flops_per_token == plain);
  CHECK(layer_costs(model, model.layers[3], 0).matrix_flops_per_token == plain + 2.0 * 8 * 64);
}

TEST_CASE("files that lack tensors, or have other shapes, or a copy of a tied head") {
  const ModelFolder folder;
  folder.write("config.json", kSmallLlama);
  auto tensors = small_llama_tensors();
  tensors[0].shape = {104, 64};  // Words were added.
  tensors.erase(tensors.begin() + 3);
  folder.write_sparse("model.safetensors", tensors);
  auto model = ModelDescription::read(folder.path());
  CHECK(has_note(
      model, "1 tensors that llama has are not in the files, such as 'self_attn.v_proj.weight'"));
  CHECK(has_note(
      model,
      "1 tensors have another shape than expected: 'model.embed_tokens.weight' is [104, 64]"));
  CHECK(model.weight_bytes() == sum_of(tensors));
  tensors = small_llama_tensors();
  tensors.pop_back();
  folder.write_sparse("model.safetensors", tensors);
  model = ModelDescription::read(folder.path());
  CHECK(has_note(model, "tied to the embedding"));
  CHECK(model.architecture->tied_embeddings);
  CHECK(layer_costs(model, model.layers.back(), 0).matrix_flops_per_token == 2.0 * 6400);
  // Both, and the config says tied: the copy does not count.
  folder.write_sparse("model.safetensors", small_llama_tensors());
  auto tied = std::string(kSmallLlama);
  tied.insert(1, R"("tie_word_embeddings": true, )");
  folder.write("config.json", tied);
  model = ModelDescription::read(folder.path());
  CHECK(has_note(model, "hold a copy of it"));
  CHECK(model.weight_bytes() == sum_of(tensors));
  CHECK(model.parameters() == sum_of(tensors) / 2);
}

TEST_CASE("buffers and the words of quantised matrices") {
  const ModelFolder folder;
  folder.write("config.json", kSmallLlama);
  auto tensors = small_llama_tensors();
  const auto plain = ModelDescription::read([&] {
    folder.write_sparse("model.safetensors", tensors);
    return folder.path();
  }());
  // GPTQ: eight values in a word, a scale and a zero for each group of 32.
  std::erase_if(tensors,
                [](const TensorSpec& tensor) { return tensor.name.ends_with("gate_proj.weight"); });
  for (const auto* i : {"0", "1"}) {
    const auto prefix = std::string("model.layers.") + i + ".";
    tensors.push_back({prefix + "mlp.gate_proj.qweight", DType::i32, {8, 128}});
    tensors.push_back({prefix + "mlp.gate_proj.qzeros", DType::i32, {2, 16}});
    tensors.push_back({prefix + "mlp.gate_proj.scales", DType::f16, {2, 128}});
    tensors.push_back({prefix + "self_attn.rotary_emb.inv_freq", DType::f32, {8}});
  }
  folder.write_sparse("model.safetensors", tensors);
  const auto model = ModelDescription::read(folder.path());
  CHECK(model.notes.empty());
  CHECK(model.parameters() == plain.parameters());
  CHECK(model.weight_bytes() == sum_of(tensors) - 2 * 8 * 4);
  CHECK(layer_costs(model, model.layers[1], 0).matrix_flops_per_token ==
        layer_costs(plain, plain.layers[1], 0).matrix_flops_per_token);
  CHECK(model_spec(model, {}).weight_bytes() == model.weight_bytes());  // Buffers take no room.
}

TEST_CASE("experts in blocks of four bits, by their files and without them") {
  const ModelFolder folder;
  folder.write("config.json", R"({"model_type": "gpt_oss", "hidden_size": 64,
      "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
      "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "num_local_experts": 8,
      "num_experts_per_tok": 2, "sliding_window": 32, "torch_dtype": "bfloat16",
      "quantization_config": {"quant_method": "mxfp4"}})");
  const auto stacked = ModelDescription::read(folder.path());
  std::vector<TensorSpec> tensors;
  for (const auto& layer : stacked.layers)
    for (const auto& tensor : layer.tensors) {
      if (tensor.spec.dtype != DType::mxfp4) {
        tensors.push_back(tensor.spec);
        continue;
      }
      // As its publisher stores them: [experts, rows, blocks, 16] and [experts, rows, blocks].
      const auto& shape = tensor.spec.shape;
      tensors.push_back(
          {tensor.spec.name + "_blocks", DType::u8, {shape[0], shape[2], shape[1] / 32, 16}});
      tensors.push_back(
          {tensor.spec.name + "_scales", DType::u8, {shape[0], shape[2], shape[1] / 32}});
    }
  std::map<std::string, std::string> files;
  for (const auto& tensor : tensors) files[tensor.name] = "m.safetensors";
  folder.write_sparse("m.safetensors", tensors);
  folder.write("model.safetensors.index.json", index_of(files, sum_of(tensors)));
  const auto model = ModelDescription::read(folder.path());
  CHECK(model.notes.empty());
  CHECK(model.parameters() == stacked.parameters());
  CHECK(model.weight_bytes() == sum_of(tensors));
  CHECK(stacked.weight_bytes() == sum_of(tensors));
  CHECK(model.active_parameters() == stacked.active_parameters());
  std::filesystem::remove(folder.file("m.safetensors"));
  const auto absent = ModelDescription::read(folder.path());
  CHECK(absent.weight_bytes() == sum_of(tensors));
  CHECK(absent.parameters() == stacked.parameters());
  CHECK(absent.notes.size() == 1);
}

TEST_CASE("without a config.json, costs follow from the tensors") {
  const ModelFolder folder;
  folder.write_sparse("only.safetensors", small_llama_tensors());
  const auto model = ModelDescription::read(folder.file("only.safetensors"));
  CHECK_FALSE(model.architecture);
  CHECK(model.name == "only");
  const auto costs = layer_costs(model, model.layers[1], 100);
  CHECK_FALSE(costs.attention_flops_per_token);
  CHECK(costs.kv_values_per_token == 64);  // The rows of both projections.
  CHECK(costs.activation_bytes_per_token == 34 * 64);
  CHECK_FALSE(transformer_shape(model));
  folder.write_sparse("fused.safetensors", {{"h.0.attn.c_attn.weight", DType::f32, {64, 192}}});
  const auto fused = ModelDescription::read(folder.file("fused.safetensors"));
  CHECK(has(
      error_of(Errc::invalid_argument, [&] { (void)model_spec(fused, {.is_training = false}); }),
      "nothing tells the size of its KV cache"));
}

TEST_CASE("names and families that would write to the terminal do not get there") {
  const ModelFolder folder;
  folder.write_sparse("m.safetensors", {{"a\\u001b[2J", DType::f32, {1}}});
  const auto message =
      error_of(Errc::parse, [&] { (void)ModelDescription::read(folder.file("m.safetensors")); });
  CHECK(has(message, "control characters"));
  CHECK_FALSE(has(message, "\x1b"));
  auto config = std::string(kSmallLlama);
  config.replace(config.find("llama"), 5, "\\u001b[2J");
  folder.write("config.json", config);
  const auto model = ModelDescription::read(folder.file("config.json"));
  CHECK_FALSE(has(model.architecture->family, "\x1b"));
  for (const auto& note : model.notes) CHECK_FALSE(has(note, "\x1b"));
}

TEST_CASE("an index that cannot be right is refused") {
  const ModelFolder folder;
  folder.write("config.json", kSmallLlama);
  folder.write_sparse("a.safetensors", {{"x", DType::f32, {1}}});
  const auto refused = [&](const std::string& index) {
    folder.write("model.safetensors.index.json", index);
    return error_of(Errc::parse, [&] { (void)ModelDescription::read(folder.path()); });
  };
  CHECK(has(refused("{}"), "has no object 'weight_map'"));
  CHECK(has(refused(R"({"weight_map": {"x": "a.safetensors", "x": "b"}})"),
            "key 'x' is there twice"));
  for (const auto* file : {"../a.safetensors", "/etc/passwd", "..", ".", "", "a\\u0000b", "sub/a"})
    CHECK(has(refused(R"({"weight_map": {"x": ")" + std::string(file) + "\"}}"),
              "a file in this folder"));
  CHECK(has(refused(R"({"weight_map": {"x": 1}})"), "a file in this folder"));
  CHECK(has(refused(R"({"weight_map": {"a\u0000": "f"}})"), "without control characters"));
  CHECK(has(refused(R"({"weight_map": {"": "f"}})"), "write a name"));
  CHECK(has(refused(R"({"metadata": {"total_size": -1}, "weight_map": {}})"), "total_size"));
  CHECK(has(refused(R"({"metadata": {"total_size": 1e300}, "weight_map": {}})"), "total_size"));
  CHECK(
      has(refused(R"({"metadata": {"total_size": 9000000000000000}, "weight_map": {}})"), "up to"));
  CHECK(has(refused(R"({"weight_map": {"y": "a.safetensors"}})"),
            "the files do not belong together"));
  CHECK(has(refused(R"({"weight_map": )" + std::string(1000, '[')), "byte"));
  folder.write_sparse("b.safetensors", {{"x", DType::f32, {1}}});
  CHECK(has(refused(R"({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})"), "is in "));
}

TEST_CASE("names of the index that no config tells share what is left over") {
  const ModelFolder folder;
  folder.write("config.json", kSmallLlama);
  std::map<std::string, std::string> files;
  for (const auto& tensor : small_llama_tensors()) files[tensor.name] = "m.safetensors";
  const auto known = sum_of(small_llama_tensors());
  files["model.layers.0.a"] = files["model.layers.1.b"] = "m.safetensors";
  folder.write("model.safetensors.index.json", index_of(files, known + 1000));
  auto model = ModelDescription::read(folder.path());
  CHECK(model.weight_bytes() == known + 1000);
  CHECK(model.layers[1].tensors.back().spec.size_bytes() == 500);
  CHECK(has_note(model, "2 tensors of the index (such as 'model.layers.0.a')"));
  folder.write("model.safetensors.index.json", index_of(files, 10));
  model = ModelDescription::read(folder.path());
  CHECK(has_note(model, "which is too little"));
  CHECK(has_note(model, "the index counts 10"));
}

TEST_CASE("a path that is no model says what to do") {
  const ModelFolder folder;
  CHECK(has(error_of(Errc::not_found, [&] { (void)ModelDescription::read(folder.path()); }),
            "holds no"));
  CHECK(has(error_of(Errc::not_found, [&] { (void)ModelDescription::read(folder.file("x.gguf")); }),
            "no such file"));
  CHECK(has(error_of(Errc::not_found, [&] { (void)ModelDescription::read(folder.file("x")); }),
            "no such file"));
  folder.write("m.yaml", "name: m");
  CHECK(has(error_of(Errc::invalid_argument,
                     [&] { (void)ModelDescription::read(folder.file("m.yaml")); }),
            "no folder and no .safetensors"));
  folder.write("other.json", "{}");
  CHECK(has(error_of(Errc::invalid_argument,
                     [&] { (void)ModelDescription::read(folder.file("other.json")); }),
            "neither a config.json nor an index"));
  REQUIRE(::mkfifo(folder.file("fifo.gguf").c_str(), 0600) == 0);
  CHECK(has(error_of(Errc::io, [&] { (void)ModelDescription::read(folder.file("fifo.gguf")); }),
            "not a regular file"));
}

// A mixture of 384 experts in 8 bits: 61 layers, 1.03 TB in 63 files, 139,583 tensors.
TEST_CASE("a terabyte in shards is planned by its headers, in bounded time and memory") {
  const ModelFolder folder;
  folder.write("config.json", R"({"model_type": "deepseek_v3", "torch_dtype": "bfloat16",
      "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
      "num_hidden_layers": 61, "num_attention_heads": 64, "num_key_value_heads": 64,
      "vocab_size": 163840, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
      "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 384, "n_shared_experts": 1,
      "num_experts_per_tok": 8, "first_k_dense_replace": 1, "moe_layer_freq": 1,
      "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})");
  // What the config tells, but for the experts, which come one by one.
  const auto stacked = ModelDescription::read(folder.file("config.json"));
  std::map<std::string, std::string> files;
  std::uint64_t bytes = 0;
  for (std::size_t l = 0; l < stacked.layers.size(); ++l) {
    std::vector<TensorSpec> shard;
    for (const auto& tensor : stacked.layers[l].tensors) {
      const auto star = tensor.spec.name.find('*');
      for (std::uint64_t e = 0; star != std::string::npos && e < tensor.spec.shape[0]; ++e) {
        auto one = tensor.spec;
        one.name.replace(star, 1, std::to_string(e));
        one.shape.erase(one.shape.begin());
        shard.push_back(std::move(one));
      }
      if (star == std::string::npos) shard.push_back(tensor.spec);
    }
    const auto name = "model-" + std::to_string(l) + ".safetensors";
    for (const auto& tensor : shard) files[tensor.name] = name;
    folder.write_sparse(name, shard);
    bytes += sum_of(shard);
  }
  REQUIRE(bytes > 1'000'000'000'000);
  REQUIRE(files.size() > 100'000);
  folder.write("model.safetensors.index.json", index_of(files, bytes));
  const auto tensors = files.size();
  files.clear();

  const auto before = peak_kib();
  const auto start = std::chrono::steady_clock::now();
  const auto model = ModelDescription::read(folder.path());
  CHECK(model.notes.empty());
  CHECK(model.weight_bytes() == bytes);
  CHECK(model.parameters() == stacked.parameters());
  CHECK(model.active_parameters() == doctest::Approx(stacked.active_parameters()));
  std::size_t count = 0;
  for (const auto& layer : model.layers) count += layer.tensors.size();
  CHECK(count == tensors);
  const auto chain = model_spec(model, {.is_training = false, .tokens = 1, .context = 8192});
  const auto topology = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: c, nodes: [{name: a, devices: [{gpu: h200-sxm, count: 8}]}, {name: b, devices: "
      "[{gpu: h200-sxm, count: 8}]}], links: [{between: [a, b], bandwidth: 50 GB/s, latency: 5 "
      "us}]}",
      "test"));
  const auto plan = make_plan(chain, topology, {.micro_batches = 1});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  CHECK(plan.stages.size() >= 8);
  CHECK_NOTHROW(check_plan(plan, chain, topology));
  MESSAGE("read and planned in ", took.count(), " s, ", (peak_kib() - before) / 1024, " MiB");
  CHECK(took.count() < 60);
  CHECK(peak_kib() - before < 600 << 10);

  // And by index and config alone.
  for (std::size_t l = 0; l < stacked.layers.size(); ++l)
    std::filesystem::remove(folder.file("model-" + std::to_string(l) + ".safetensors"));
  const auto absent = ModelDescription::read(folder.path());
  CHECK(absent.weight_bytes() == bytes);
  CHECK(absent.parameters() == stacked.parameters());
  CHECK(absent.notes.size() == 1);
}

TEST_CASE("thousands of layers without a config cost in linear time") {
  ModelDescription model;
  model.name = "deep";
  for (int l = 0; l < 20000; ++l) {
    ModelLayer layer;
    layer.name = "block" + std::to_string(l);
    for (const auto* name : {".a", ".b", ".c", ".d"})
      layer.tensors.push_back({{layer.name + name, DType::f32, {8, 16}}, TensorRole::weight, 128});
    model.layers.push_back(std::move(layer));
  }
  const auto start = std::clock();
  const auto spec = model_spec(model, {});
  const auto text = model.to_json(16);
  const double took_s = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  CHECK(spec.layers.size() == 20000);
  CHECK(text.find("block19999") != std::string::npos);
  // Found once it is a tenth of a second; for each layer anew it reads 1.6 billion tensors.
  CHECK(took_s < 10);
}
