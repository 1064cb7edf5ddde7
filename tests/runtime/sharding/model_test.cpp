// Goal:   a model or plan file reads back equal, and a mistake in one is named; a model's layers
//         follow from the tensor names of a safetensors file.
// Method: mistakes by hand; random models and plans through YAML and back. Replay a failure with
//         CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "causeway/model.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "causeway/plan.h"
#include "causeway/safetensors.h"

using causeway::DType;
using causeway::Errc;
using causeway::Error;
using causeway::LayerSpec;
using causeway::ModelSpec;
using causeway::Plan;
using causeway::TensorSpec;

namespace {

// A folder of this test's own, removed with what is in it.
class Folder {
 public:
  Folder() {
    auto pattern = (std::filesystem::temp_directory_path() / "causeway-model-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

static ModelSpec tiny_model() {
  ModelSpec model;
  model.name = "tiny";
  model.layers = {{"embed", {{"wte", DType::f32, {10, 4}}}, 0, 100, 32},
                  {"block0", {{"w", DType::bf16, {4, 4}}, {"b", DType::f64, {}}}, 2.5e3, 64, 32},
                  {"head", {}, 1, 0, 0}};
  return model;
}

template <typename Call>
static std::string error_of(Errc code, Call call) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "accepted";
}

TEST_CASE("sizes of tensors, layers and state") {
  const auto model = tiny_model();
  CHECK(model.layers[0].weight_bytes() == 160);
  CHECK(model.layers[1].weight_bytes() == 40);
  CHECK(model.weight_bytes() == 200);
  CHECK(model.state_bytes(model.layers[1]) == 160);
  CHECK(model.state_bytes() == 800);
  CHECK(TensorSpec{"empty", DType::f64, {0, ~std::uint64_t{0}, ~std::uint64_t{0}}}.size_bytes() ==
        0);
  CHECK_THROWS_AS((void)(TensorSpec{"w", DType::f64, {1ull << 61}}.size_bytes()), Error);
  CHECK_THROWS_AS((void)(TensorSpec{"w", DType::u8, {1ull << 32, 1ull << 32}}.size_bytes()), Error);
  for (const auto dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32,
                           DType::i16, DType::i8, DType::u8, DType::boolean, DType::f8_e4m3,
                           DType::f4, DType::q4_k, DType::iq2_xxs, DType::mxfp4})
    CHECK((causeway::dtype_from_string(to_string(dtype)) == dtype));
  CHECK_FALSE(causeway::dtype_from_string("F7"));
  // Blocks are whole: 256 values in 144 bytes, 2 in one byte.
  CHECK(TensorSpec{"w", DType::q4_k, {3, 512}}.size_bytes() == 3 * 2 * 144);
  CHECK(TensorSpec{"w", DType::f4, {3, 2}}.size_bytes() == 3);
  CHECK(TensorSpec{"w", DType::q8_0, {1ull << 50, 0}}.size_bytes() == 0);
  CHECK_THROWS_AS((void)(TensorSpec{"w", DType::q4_k, {255}}.size_bytes()), Error);
  CHECK_THROWS_AS((void)(TensorSpec{"w", DType::q8_0, {~0ull - 31}}.size_bytes()), Error);
}

TEST_CASE("validate names the layer or tensor that is wrong") {
  const auto refused = [](auto change) {
    auto model = tiny_model();
    change(model);
    return error_of(Errc::invalid_argument, [&] { model.validate(); });
  };
  const auto says = [](const std::string& text, const std::string& part) {
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  };
  CHECK_NOTHROW(tiny_model().validate());
  says(refused([](ModelSpec& m) { m.layers.clear(); }), "model 'tiny' has 0 layers");
  says(refused([](ModelSpec& m) { m.name.clear(); }), "model: a name has 0 bytes");
  says(refused([](ModelSpec& m) { m.name = "a\nb"; }), "control characters");
  says(refused([](ModelSpec& m) { m.layers[1].name = "embed"; }), "layer 'embed': a layer of that");
  says(refused([](ModelSpec& m) { m.layers[1].tensors[0].name = "wte"; }), "tensor 'wte' is there");
  says(refused([](ModelSpec& m) { m.layers[0].forward_flops = -1; }), "forward_flops is -1");
  says(refused([](ModelSpec& m) { m.layers[0].forward_flops = NAN; }), "forward_flops is nan");
  says(refused([](ModelSpec& m) { m.optimizer_bytes_per_weight_byte = INFINITY; }),
       "optimizer_bytes_per_weight_byte is inf");
  says(refused([](ModelSpec& m) { m.gradient_bytes_per_weight_byte = -0.5; }),
       "gradient_bytes_per_weight_byte is -0.5");
  says(refused([](ModelSpec& m) { m.layers[0].activation_bytes = ~std::uint64_t{0}; }),
       "layer 'embed': activation_bytes");
  says(refused([](ModelSpec& m) { m.layers[0].output_bytes = ~std::uint64_t{0}; }), "output_bytes");
  says(refused([](ModelSpec& m) { m.layers[0].tensors[0].shape = {1ull << 49}; }), "tensor 'wte'");
  says(refused([](ModelSpec& m) {
         m.layers[0].tensors[0].shape = {~0ull, ~0ull};
       }),
       "does not fit 64 bits");
  says(refused([](ModelSpec& m) { m.layers[0].read_bytes = ~std::uint64_t{0}; }), "read_bytes");
  const auto tie = [](ModelSpec& m, const std::string& to, std::vector<std::uint64_t> shape) {
    m.layers[2].tensors.push_back({"head", DType::f32, std::move(shape), to});
  };
  auto tied = tiny_model();
  tie(tied, "wte", {10, 4});
  CHECK_NOTHROW(tied.validate());
  says(refused([&](ModelSpec& m) { tie(m, "wtf", {10, 4}); }), "tied to 'wtf', which no layer");
  says(refused([&](ModelSpec& m) { tie(m, "head", {10, 4}); }), "which no layer before it has");
  says(refused([&](ModelSpec& m) { tie(m, "wte", {10, 5}); }), "same dtype and shape");
  says(refused([&](ModelSpec& m) {
         tie(m, "wte", {10, 4});
         m.layers.push_back({"more", {{"x", DType::f32, {10, 4}, "head"}}, 0, 0, 0});
       }),
       "of its own");
  says(refused([&](ModelSpec& m) {
         for (int i = 0; i < 17; ++i) {
           tie(m, "wte", {10, 4});
           m.layers[2].tensors.back().name += std::to_string(i);
         }
       }),
       "more than 16 tensors are tied");
}

TEST_CASE("a model file reads back equal and a mistake is named") {
  const auto model = tiny_model();
  CHECK((ModelSpec::from_yaml(model.to_yaml(), "m.yaml") == model));
  const auto refused = [](const std::string& text) {
    return error_of(Errc::parse, [&] { (void)ModelSpec::from_yaml(text, "m.yaml"); });
  };
  const std::string start = "name: x\nlayers:\n  - name: a\n";
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {"", "m.yaml:1: file: must be a model"},
           {"name: x", "'layers' is missing"},
           {"name: x\nlayers: []", "m.yaml:2: layers: model 'x' has 0 layers"},
           {start + "    forward_flops: much", "m.yaml:4: layers[0].forward_flops: 'much'"},
           {start + "    forward_flops: inf", "m.yaml:4: layers[0].forward_flops: 'inf'"},
           {start + "    activation_bytes: -1", "layers[0].activation_bytes: '-1' is not a size"},
           {start + "    tensors: [{name: w, dtype: F33, shape: []}]", "dtype: 'F33' is unknown"},
           {start + "    tensors: [{name: w, dtype: F32, shape: [-1]}]", "shape[0]: '-1'"},
           {start + "    tensors: [{name: w, dtype: F32, shape: 3}]", "shape: must be a list"},
           {start + "    tensors: [{name: w, dtype: F32}]", "'shape' is missing"},
           {start + "    tensor: []", "tensor: unknown key; did you mean 'tensors'?"},
           {start + "  - name: a\n", "a layer of that name is there already"}}) {
    CAPTURE(text);
    const auto message = refused(text);
    CAPTURE(message);
    CHECK(message.find(expected) != std::string::npos);
  }
}

TEST_CASE("a plan file reads back equal and a mistake is named") {
  const Plan plan{"tiny",
                  3,
                  {{causeway::DeviceName::parse("a/gpu0"), 0, 2, 123, 456, 0.1},
                   {causeway::DeviceName::parse("b/host1"), 2, 3, 0, 0, 1e-7}},
                  0.30000000000000004,
                  "optimal: \"exact\" # over 3 states"};
  CHECK((Plan::from_yaml(plan.to_yaml(), "p.yaml") == plan));
  // As a user writes it: what is left out is for the planner to know.
  const auto short_form = Plan::from_yaml(
      "{model: tiny, stages: [{device: a/gpu0, layers: [0, 3], state_bytes: 1 MB}]}", "p.yaml");
  CHECK(short_form.stages[0].state_bytes == 1'000'000);
  CHECK(short_form.micro_batches == 1);
  const auto stage = [](const std::string& text) {
    return "model: tiny\nstages:\n  - {device: a/gpu0, layers: [0, 2]}\n  - " + text;
  };
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {"", "p.yaml:1: file: must be a plan"},
           {"model: tiny", "'stages' is missing"},
           {"model: tiny\nstages: []", "p.yaml:2: stages: is empty"},
           {"model: ''\nstages: []", "p.yaml:1: model: is empty"},
           {"model: tiny\nmicro_batches: 0\nstages: []", "p.yaml:2: micro_batches: '0'"},
           {"model: tiny\nstep_seconds: nan\nstages: []", "p.yaml:2: step_seconds: 'nan'"},
           {stage("{device: a/gpu0, layers: [2, 3]}"),
            "p.yaml:4: stages[1]: device a/gpu0 has a stage already"},
           {stage("{device: a/gpu1, layers: [1, 3]}"),
            "starts at layer 1; the one before ends at 2"},
           {stage("{device: a/gpu1, layers: [3, 4]}"), "starts at layer 3"},
           {stage("{device: a/gpu1, layers: [2, 2]}"), "holds no layer"},
           {stage("{device: a/gpu1, layers: [2]}"), "layers: must be two numbers"},
           {stage("{device: a/gpu1, layers: [2, 99999999999]}"), "layers[1]: '99999999999'"},
           {stage("{device: gpu1, layers: [2, 3]}"), "device: device 'gpu1' is not of the form"},
           {stage("{device: a/gpu1, layers: [2, 3], seconds: -1}"), "seconds: '-1'"},
           {stage("{device: a/gpu1, layers: [2, 3], second: 1}"), "did you mean 'seconds'?"},
           {stage("{layers: [2, 3]}"), "'device' is missing"}}) {
    CAPTURE(text);
    const auto message = error_of(Errc::parse, [&] { (void)Plan::from_yaml(text, "p.yaml"); });
    CAPTURE(message);
    CHECK(message.find(expected) != std::string::npos);
  }
}

// Names that YAML could take for something else.
static std::string random_name(std::mt19937_64& random, std::size_t n) {
  constexpr const char* kOdd[] = {
      "null", "~", "true", "1e3", "- x", "a: b", "#", "\"", "\\", "{}", "\xc3\xa9\xe2\x80\xa8",
      "'",    " ", "&a",   "*a",  "!t",  "%",    "@", "|"};
  const auto suffix = std::to_string(n);
  if (random() % 3 == 0) return kOdd[random() % std::size(kOdd)] + suffix;
  if (random() % 16 == 0) return suffix + kOdd[random() % std::size(kOdd)];
  return "model.layers." + suffix + ".weight";
}

static void run_round_trip(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  ModelSpec model;
  std::size_t names = 0;
  model.name = random_name(random, names++);
  model.gradient_bytes_per_weight_byte = static_cast<double>(random() % 100) / 7;
  model.optimizer_bytes_per_weight_byte = static_cast<double>(random() % 100) / 3;
  for (std::uint64_t i = 0, layers = 1 + random() % 8; i < layers; ++i) {
    LayerSpec layer{random_name(random, names++),
                    {},
                    static_cast<double>(random()) * 1e-3,
                    random() >> 24,
                    random() >> 24};
    for (std::uint64_t t = 0, tensors = random() % 4; t < tensors; ++t) {
      TensorSpec tensor{random_name(random, names++), static_cast<DType>(random() % 10), {}};
      for (std::uint64_t d = 0, extents = random() % 4; d < extents; ++d)
        tensor.shape.push_back(random() % 1000);
      layer.tensors.push_back(std::move(tensor));
    }
    model.layers.push_back(std::move(layer));
  }
  if (random() % 2 == 0) model.layers.front().read_bytes = random() % 1000;
  if (model.layers.size() > 1 && !model.layers.front().tensors.empty()) {
    const auto& source = model.layers.front().tensors.front();
    model.layers.back().tensors.push_back(
        {random_name(random, names++), source.dtype, source.shape, source.name});
  }
  const auto text = model.to_yaml();
  INFO("seed=", seed, "\n", text);
  ModelSpec again;
  REQUIRE_NOTHROW(again = ModelSpec::from_yaml(text, "round-trip"));
  REQUIRE((again == model));

  Plan plan{random_name(random, names++),
            1 + static_cast<std::uint32_t>(random() % 99),
            {},
            static_cast<double>(random()) * 1e-19,
            random_name(random, names++)};
  std::uint32_t next = 0;
  for (std::uint32_t i = 0, stages = 1 + static_cast<std::uint32_t>(random() % 6); i < stages;
       ++i) {
    const auto end = next + 1 + static_cast<std::uint32_t>(random() % 5);
    plan.stages.push_back({{std::to_string(i), causeway::DeviceKind::gpu, i},
                           next,
                           end,
                           random(),
                           random(),
                           static_cast<double>(random()) * 1e-20});
    next = end;
  }
  Plan plan_again;
  INFO(plan.to_yaml());
  REQUIRE_NOTHROW(plan_again = Plan::from_yaml(plan.to_yaml(), "round-trip"));
  REQUIRE((plan_again == plan));
}

TEST_CASE("random models and plans come back equal") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_round_trip(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 300; ++seed) run_round_trip(seed);
}

// Writes tensors of these names, 16-bit, shape [8, 8] unless the name says "vocab" ([32, 8]).
static void write_model(const std::string& path, const std::vector<std::string>& names) {
  static const std::vector<std::byte> zeros(32 * 8 * 2);
  std::vector<causeway::TensorData> tensors;
  for (const auto& name : names) {
    const bool vocabulary = name.find("emb") != std::string::npos || name == "lm_head.weight";
    TensorSpec tensor{name, DType::bf16, {vocabulary ? 32u : 8u, 8}};
    const auto bytes = tensor.size_bytes();
    tensors.push_back({std::move(tensor), std::span(zeros).first(bytes)});
  }
  causeway::write_safetensors(path, tensors);
}

static std::string layer_names(const ModelSpec& model) {
  std::string names;
  for (const auto& layer : model.layers)
    names += layer.name + ':' + std::to_string(layer.tensors.size()) + ' ';
  return names;
}

TEST_CASE("layers follow from names, in the order of their numbers") {
  const Folder folder;
  write_model(folder.file("llama.safetensors"),
              {"lm_head.weight", "model.embed_tokens.weight", "model.layers.0.attn.q",
               "model.layers.10.attn.q", "model.layers.2.attn.q", "model.layers.2.mlp",
               "model.norm.weight"});
  const auto model = ModelSpec::from_path(folder.file("llama.safetensors"));
  CHECK(model.name == "llama");
  CHECK(layer_names(model) ==
        "embed:1 model.layers.0:1 model.layers.2:2 model.layers.10:1 head:2 ");
  // 2048 tokens of 8 hidden units; 2 bytes each are handed on, 34 kept.
  CHECK(model.layers[1].output_bytes == 2048 * 8 * 2);
  CHECK(model.layers[1].activation_bytes == 2048 * 8 * 34);
  CHECK(model.layers[2].forward_flops == 2.0 * 128 * 2048);
  CHECK(model.layers[0].forward_flops == 0);
  CHECK(model.layers[4].activation_bytes == 2048 * 32 * 4);
  CHECK(model.layers[4].output_bytes == 0);
  CHECK(ModelSpec::from_safetensors(folder.file("llama.safetensors"), 1).layers[1].output_bytes ==
        16);
}

TEST_CASE("a folder of files is one model; a name in two of them is refused") {
  const Folder folder;
  std::filesystem::create_directory(folder.file("gpt2"));
  write_model(folder.file("gpt2/b.safetensors"), {"h.1.attn", "ln_f.weight", "wpe.weight"});
  write_model(folder.file("gpt2/a.safetensors"), {"h.0.attn", "wte.weight"});
  std::ofstream(folder.file("gpt2/config.json")) << "{}";
  const auto model = ModelSpec::from_path(folder.file("gpt2") + "/");
  CHECK(model.name == "gpt2");
  CHECK(layer_names(model) == "embed:2 h.0:1 h.1:1 head:1 ");
  write_model(folder.file("gpt2/c.safetensors"), {"h.1.attn"});
  const auto message =
      error_of(Errc::parse, [&] { (void)ModelSpec::from_path(folder.file("gpt2")); });
  CHECK(message.find("tensor 'h.1.attn' is in ") != std::string::npos);
  std::filesystem::create_directory(folder.file("empty"));
  (void)error_of(Errc::not_found, [&] { (void)ModelSpec::from_path(folder.file("empty")); });
}

TEST_CASE("from_path reads YAML by default and says what it cannot find") {
  const Folder folder;
  std::ofstream(folder.file("m.yaml")) << tiny_model().to_yaml();
  CHECK((ModelSpec::from_path(folder.file("m.yaml")) == tiny_model()));
  (void)error_of(Errc::not_found, [&] { (void)ModelSpec::from_path(folder.file("none.yaml")); });
  (void)error_of(Errc::not_found,
                 [&] { (void)ModelSpec::from_path(folder.file("none.safetensors")); });
  (void)error_of(Errc::not_found, [&] { (void)Plan::from_file(folder.file("none.yaml")); });
  (void)error_of(Errc::invalid_argument,
                 [&] { (void)ModelSpec::from_safetensors(folder.file("x"), 0); });
}
