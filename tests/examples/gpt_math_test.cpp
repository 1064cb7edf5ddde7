// Goal:   the written-out backward pass is the derivative of the forward pass.
// Method: central differences in double precision for every parameter of a small model, and for
//         the input of each kernel that has one; then hand-made edges of the pieces.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "config.h"
#include "corpus.h"
#include "layers.h"
#include "optimizer.h"
#include "random.h"

using namespace train_gpt;

namespace {

// The whole model in one place, in any precision.
template <typename T>
struct Net {
  GptConfig config;
  Dims dims{config.micro_batch, config.context, config.width, config.heads};
  std::vector<std::vector<std::vector<T>>> values;     // [layer][tensor][element]
  std::vector<std::vector<std::vector<T>>> gradients;  // the same
  std::vector<std::vector<std::string>> names;
  Workspace<T> work{dims};

  Net(const GptConfig& shape, std::uint64_t seed) : config(shape) {
    Random random(seed);
    for (const auto& layer : describe(config).layers) {
      values.emplace_back();
      gradients.emplace_back();
      names.emplace_back();
      for (const auto& tensor : layer.tensors) {
        std::size_t count = 1;
        for (const auto extent : tensor.shape) count *= extent;
        auto& target = values.back().emplace_back(count);
        // Far from the usual start, so that no term is near 0.
        for (auto& value : target) value = static_cast<T>(0.4 * random.normal() + 0.1);
        gradients.back().emplace_back(count, T{0});
        names.back().push_back(tensor.name);
      }
    }
  }

  std::vector<const T*> weights(std::size_t layer) const {
    std::vector<const T*> pointers;
    for (const auto& tensor : values[layer]) pointers.push_back(tensor.data());
    return pointers;
  }
  std::vector<T*> slopes(std::size_t layer) {
    std::vector<T*> pointers;
    for (auto& tensor : gradients[layer]) pointers.push_back(tensor.data());
    return pointers;
  }

  double loss(const Batch& batch, std::vector<std::vector<T>>* inputs = nullptr) {
    const auto count = dims.rows() * dims.width;
    std::vector<T> x(count);
    std::vector<T> y(count);
    embed_forward<T>(dims, weights(0), batch.inputs, x.data(), work);
    for (std::size_t layer = 1; layer <= config.blocks; ++layer) {
      if (inputs != nullptr) inputs->push_back(x);
      block_forward<T>(dims, weights(layer), x.data(), y.data(), work);
      std::swap(x, y);
    }
    if (inputs != nullptr) inputs->push_back(x);
    return head_loss<T>(dims, weights(config.blocks + 1), x.data(), batch.targets, work);
  }

  double backward(const Batch& batch, double scale) {
    std::vector<std::vector<T>> inputs;
    loss(batch, &inputs);
    std::vector<T> d(dims.rows() * dims.width);
    const auto head = std::size_t{config.blocks} + 1;
    const auto result = head_backward<T>(dims, weights(head), slopes(head), inputs.back().data(),
                                         batch.targets, scale, d.data(), work);
    for (std::size_t layer = config.blocks; layer > 0; --layer)
      block_backward<T>(dims, weights(layer), slopes(layer), inputs[layer - 1].data(), d.data(),
                        work);
    embed_backward<T>(dims, slopes(0), batch.inputs, d.data(), work);
    return result;
  }
};

GptConfig small_config() { return {2, 6, 2, 4, 2, 2}; }

Batch small_batch(const GptConfig& config, std::uint64_t seed) {
  std::string text(200, ' ');
  Random random(seed);
  for (auto& letter : text) letter = static_cast<char>(random.next());
  return Corpus::from_text(text, "random", config).batch(seed, 0, 0);
}

std::uint64_t test_seed() {
  const char* seed = std::getenv("CAUSEWAY_TEST_SEED");
  return seed == nullptr ? 1 : std::stoull(seed);
}

}  // namespace

TEST_CASE("every parameter's gradient matches central differences") {
  const auto seed = test_seed();
  INFO("seed=", seed);
  Net<double> net(small_config(), seed);
  const auto batch = small_batch(net.config, seed);
  net.backward(batch, 1);
  constexpr double kStep = 1e-5;
  std::size_t checked = 0;
  for (std::size_t layer = 0; layer < net.values.size(); ++layer) {
    for (std::size_t tensor = 0; tensor < net.values[layer].size(); ++tensor) {
      double largest = 0;
      for (std::size_t i = 0; i < net.values[layer][tensor].size(); ++i) {
        auto& value = net.values[layer][tensor][i];
        const auto before = value;
        value = before + kStep;
        const auto above = net.loss(batch);
        value = before - kStep;
        const auto below = net.loss(batch);
        value = before;
        const auto expected = (above - below) / (2 * kStep);
        const auto got = net.gradients[layer][tensor][i];
        INFO("tensor=", net.names[layer][tensor], " i=", i, " got=", got, " expected=", expected);
        REQUIRE(std::abs(got - expected) <= 1e-8 + 1e-6 * std::abs(expected));
        largest = std::max(largest, std::abs(got));
        ++checked;
      }
      INFO("tensor=", net.names[layer][tensor]);
      // Not all 0 on both sides. (Of the qkv bias the part of the keys is: it shifts all scores of
      // a row alike.)
      CHECK(largest > 1e-6);
    }
  }
  CHECK(checked == 2 * 12 * 6 * 6 + 2 * 13 * 6 + 2 * 256 * 6 + 4 * 6 + 2 * 6);
}

TEST_CASE("gradients add up over micro-batches and carry the scale") {
  Net<double> once(small_config(), 3);
  Net<double> twice(small_config(), 3);
  const auto batch = small_batch(once.config, 3);
  once.backward(batch, 1);
  twice.backward(batch, 0.25);
  twice.backward(batch, 0.75);
  for (std::size_t layer = 0; layer < once.gradients.size(); ++layer)
    for (std::size_t tensor = 0; tensor < once.gradients[layer].size(); ++tensor)
      for (std::size_t i = 0; i < once.gradients[layer][tensor].size(); ++i)
        REQUIRE(twice.gradients[layer][tensor][i] ==
                doctest::Approx(once.gradients[layer][tensor][i]).epsilon(1e-9));
}

TEST_CASE("float agrees with double") {
  Net<double> exact(small_config(), 5);
  Net<float> fast(small_config(), 5);
  const auto batch = small_batch(exact.config, 5);
  const auto loss = exact.backward(batch, 1);
  CHECK(fast.backward(batch, 1) == doctest::Approx(loss).epsilon(1e-5));
  CHECK(fast.loss(batch) == doctest::Approx(exact.loss(batch)).epsilon(1e-5));
  for (std::size_t layer = 0; layer < exact.gradients.size(); ++layer)
    for (std::size_t tensor = 0; tensor < exact.gradients[layer].size(); ++tensor)
      for (std::size_t i = 0; i < exact.gradients[layer][tensor].size(); ++i)
        REQUIRE(std::abs(static_cast<double>(fast.gradients[layer][tensor][i]) -
                         exact.gradients[layer][tensor][i]) < 1e-4);
}

TEST_CASE("a position sees nothing behind it") {
  Net<double> net(small_config(), 7);
  auto batch = small_batch(net.config, 7);
  const auto count = net.dims.rows() * net.dims.width;
  std::vector<double> before(count);
  std::vector<double> after(count);
  const auto run = [&](std::vector<double>& x) {
    embed_forward<double>(net.dims, net.weights(0), batch.inputs, x.data(), net.work);
    for (std::size_t layer = 1; layer <= net.config.blocks; ++layer)
      block_forward<double>(net.dims, net.weights(layer), x.data(), x.data(), net.work);
  };
  run(before);
  batch.inputs[2] ^= 1;  // The third token of the first sequence.
  run(after);
  const auto width = net.dims.width;
  const auto row_changed = [&](std::size_t row) {
    for (std::size_t i = row * width; i < (row + 1) * width; ++i)
      if (before[i] != after[i]) return true;
    return false;
  };
  CHECK_FALSE(row_changed(0));
  CHECK_FALSE(row_changed(1));
  CHECK(row_changed(2));
  CHECK(row_changed(3));
  for (std::size_t row = 4; row < 8; ++row) CHECK_FALSE(row_changed(row));  // The other sequence.
}

TEST_CASE("cross entropy of equal logits is the logarithm of the classes") {
  const std::vector<double> logits(3 * 256, 0.5);
  const std::vector<unsigned char> targets{0, 17, 255};
  const auto loss = processor<double>().cross_entropy(targets, 256, logits.data(), 1, nullptr);
  CHECK(loss == doctest::Approx(std::log(256.0)).epsilon(1e-12));
}

TEST_CASE("cross entropy and softmax survive huge logits") {
  std::vector<float> logits(256, -3e38F);
  logits[9] = 3e38F;
  const std::vector<unsigned char> right{9};
  const std::vector<unsigned char> wrong{8};
  auto& cpu = processor<float>();
  CHECK(cpu.cross_entropy(right, 256, logits.data(), 1, nullptr) == 0);
  CHECK(cpu.cross_entropy(wrong, 256, logits.data(), 1, logits.data()) > 1e30);
  CHECK(logits[9] == 1.0F);
  CHECK(logits[8] == -1.0F);
}

TEST_CASE("one AdamW step by hand") {
  OptimizerOptions options;
  options.learning_rate = 0.1;
  options.warmup_steps = 0;
  std::vector<float> w{1.0F};
  std::vector<float> g{4.0F};
  std::vector<float> m{0.0F};
  std::vector<float> v{0.0F};
  processor<float>().adamw(adam_factors(options, 0, 0.5, true), w, g, m, v);
  CHECK(g[0] == 0.0F);
  CHECK(m[0] == doctest::Approx(0.1 * 2));
  CHECK(v[0] == doctest::Approx(0.05 * 4));
  // Both corrections make the first step a full step of the rate; decay takes rate * 0.1.
  CHECK(w[0] == doctest::Approx(1.0 - 0.1 * 0.1 - 0.1).epsilon(1e-6));
  w = {1.0F};
  g = {4.0F};
  m = v = {0.0F};
  processor<float>().adamw(adam_factors(options, 0, 0.5, false), w, g, m, v);
  CHECK(w[0] == doctest::Approx(1.0 - 0.1).epsilon(1e-6));
}

TEST_CASE("the rate warms up and then stays") {
  OptimizerOptions options;
  options.learning_rate = 1;
  options.warmup_steps = 4;
  CHECK(learning_rate(options, 0) == doctest::Approx(0.2));
  CHECK(learning_rate(options, 3) == doctest::Approx(0.8));
  CHECK(learning_rate(options, 4) == 1);
  CHECK(learning_rate(options, 1000) == 1);
}

TEST_CASE("starting values depend on seed and name alone") {
  const causeway::TensorSpec tensor{"layers.3.mlp.up.weight", causeway::DType::f32, {64, 16}};
  auto other = tensor;
  other.name = "layers.4.mlp.up.weight";
  const auto start = [](const causeway::TensorSpec& spec, std::uint64_t seed) {
    std::vector<float> values(1024, 99.0F);
    initialize(spec, 4, seed, values);
    return values;
  };
  CHECK(start(tensor, 1) == start(tensor, 1));
  CHECK(start(tensor, 1) != start(tensor, 2));
  CHECK(start(tensor, 1) != start(other, 1));
  const auto values = start(tensor, 1);
  double squares = 0;
  const std::span<const float> tensors[] = {values};
  processor<float>().sums_of_squares(tensors, {&squares, 1});
  CHECK(std::sqrt(squares / 1024) == doctest::Approx(0.7 / 4).epsilon(0.1));
}

TEST_CASE("biases start at 0, norms at 1") {
  std::vector<float> values(8, 5.0F);
  initialize({"layers.0.norm1.weight", causeway::DType::f32, {8}}, 1, 1, values);
  CHECK(values == std::vector<float>(8, 1.0F));
  initialize({"layers.0.norm1.bias", causeway::DType::f32, {8}}, 1, 1, values);
  CHECK(values == std::vector<float>(8, 0.0F));
}

TEST_CASE("batches depend on seed, step and number alone, and targets follow inputs") {
  std::string text;
  for (int i = 0; i < 255; ++i) text.push_back(static_cast<char>(i));
  const GptConfig config{1, 4, 1, 16, 3, 2};
  const auto corpus = Corpus::from_text(text, "text", config);
  const auto batch = corpus.batch(1, 2, 3);
  CHECK(batch.inputs == corpus.batch(1, 2, 3).inputs);
  CHECK(batch.inputs != corpus.batch(2, 2, 3).inputs);
  CHECK(batch.inputs != corpus.batch(1, 3, 3).inputs);
  CHECK(batch.inputs != corpus.batch(1, 2, 4).inputs);
  REQUIRE(batch.inputs.size() == 48);
  for (std::size_t i = 0; i < 48; ++i) CHECK(batch.targets[i] == batch.inputs[i] + 1);
}

TEST_CASE("a text must hold one sequence and its last target") {
  const GptConfig config{1, 4, 1, 16, 1, 1};
  CHECK_THROWS_WITH_AS((void)Corpus::from_text(std::string(16, 'a'), "short.txt", config),
                       doctest::Contains("'short.txt' has 16 bytes, one sequence needs 17"),
                       causeway::Error);
  CHECK(Corpus::from_text(std::string(17, 'a'), "text", config).batch(1, 1, 1).inputs ==
        std::vector<unsigned char>(16, 'a'));
}

TEST_CASE("a missing text is named") {
  CHECK_THROWS_WITH_AS((void)Corpus::from_file("/no/such/text", small_config()),
                       doctest::Contains("/no/such/text"), causeway::Error);
}

TEST_CASE("options outside of their range are refused") {
  const auto check = [](GptConfig config, const char* text) {
    CHECK_THROWS_WITH_AS(config.validate(), doctest::Contains(text), causeway::Error);
  };
  GptConfig{}.validate();
  check({.blocks = 0}, "--layers is 0");
  check({.width = 1}, "--width is 1");
  check({.heads = 0}, "--heads is 0");
  check({.width = 100, .heads = 8}, "not a multiple");
  check({.context = 1}, "--context is 1");
  check({.micro_batch = 0}, "--micro-batch is 0");
  check({.micro_batches = 5000}, "--micro-batches is 5000");
}

TEST_CASE("the description counts what the code holds") {
  const GptConfig config;
  const auto model = describe(config);
  REQUIRE(model.layers.size() == config.layers());
  std::uint64_t parameters = 0;
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    std::uint64_t in_layer = 0;
    for (const auto& tensor : model.layers[i].tensors) {
      std::uint64_t count = 1;
      for (const auto extent : tensor.shape) count *= extent;
      in_layer += count;
    }
    if (config.kind(i) == LayerKind::block)
      CHECK(in_layer == 12ULL * config.width * config.width + 13ULL * config.width);
    parameters += in_layer;
    CHECK(model.layers[i].activation_bytes == kept_bytes(config, i));
  }
  // The main job: more than 64 MB and more than 80 MB, less than 144 MB.
  CHECK(parameters * 16 > 110'000'000);
  CHECK(parameters * 16 < 116'000'000);
  CHECK(model.layers[1].output_bytes == 4ULL * config.width * config.context * config.micro_batch);
  CHECK(model.layers.back().output_bytes == 0);
}
