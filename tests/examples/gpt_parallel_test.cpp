// Goal:   replicas and shards train as one process does: the same losses, weights and text but for
//         rounding, whatever the stages; and what cannot be shared is refused with what to do.
// Method: jobs of threads (fake_link.h) against the job of one.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>

#include "fake_link.h"

using namespace train_gpt;

namespace {

constexpr std::uint64_t kSeed = 5;
constexpr int kSteps = 4;

GptConfig test_config() { return {4, 24, 4, 12, 2, 8}; }

Corpus test_corpus(const GptConfig& config) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "pack my box with five dozen liquor jugs; ";
  return Corpus::from_text(text, "jugs", config);
}

struct Outcome {
  std::vector<double> losses;
  std::vector<double> norms;
  std::map<std::string, std::vector<float>> weights;  // Whole ones.
  std::string sample;
};

Outcome train(const FakeJob& job) {
  Outcome outcome;
  std::mutex mutex;
  const auto corpus = test_corpus(job.config);
  job.run([&](FakeJob::Process& process) {
    process.pipeline.initialize(kSeed);
    std::vector<double> losses, norms;
    for (int i = 0; i < kSteps; ++i) {
      const auto report = process.pipeline.step(corpus, kSeed, static_cast<std::uint64_t>(i), {});
      losses.push_back(report.loss);
      norms.push_back(report.gradient_norm);
    }
    const auto sample = process.pipeline.sample("pack ", 20, kSeed, 0.5);
    const std::lock_guard lock(mutex);
    if (!outcome.losses.empty()) {  // Every process sees the same.
      REQUIRE(losses == outcome.losses);
      REQUIRE(norms == outcome.norms);
      REQUIRE(sample == outcome.sample);
    }
    outcome.losses = losses;
    outcome.norms = norms;
    outcome.sample = sample;
    for (const auto& tensor : process.pipeline.tensors()) {
      auto& whole = outcome.weights[tensor.spec.name];
      const bool is_first = whole.empty();
      whole.resize(tensor.cut.whole_size());
      std::vector<float> before(tensor.weights.size());
      tensor.cut.take(whole, before);
      // Replicas, and shards of what is not cut, hold the same bits.
      const bool is_again = tensor.cut.is_whole() ? !is_first : process.part.replica > 0;
      if (is_again && std::ranges::any_of(before, [](float value) { return value != 0; }))
        REQUIRE(std::ranges::equal(before, tensor.weights));
      tensor.cut.put(tensor.weights, whole);
    }
  });
  return outcome;
}

double worst(const std::vector<double>& got, const std::vector<double>& expected) {
  REQUIRE(got.size() == expected.size());
  double most = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    most = std::max(most, std::abs(got[i] - expected[i]) / std::abs(expected[i]));
  return most;
}

void check_same(const Outcome& got, const Outcome& expected, double relative) {
  CHECK(worst(got.losses, expected.losses) < relative);
  CHECK(worst(got.norms, expected.norms) < 10 * relative);
  CHECK(got.sample == expected.sample);
  REQUIRE(got.weights.size() == expected.weights.size());
  double most = 0;
  for (const auto& [name, values] : expected.weights)
    for (std::size_t i = 0; i < values.size(); ++i)
      most = std::max<double>(most, std::abs(got.weights.at(name)[i] - values[i]));
  CHECK(most < 2e-3);  // Adam's step is as long for a small gradient as for a large one.
}

}  // namespace

TEST_CASE("replicas train as one process does") {
  set_blas_threads(1);
  const auto config = test_config();
  const auto expected = train(make_job(config, 1, 1));
  for (const std::uint32_t data : {2U, 8U})
    for (const auto& [stages, world] : std::vector<std::pair<std::size_t, int>>{{1, 1}, {4, 2}}) {
      INFO("replicas=", data, " stages=", stages, " teams=", world);
      check_same(train(make_job(config, stages, world, {data, 1})), expected, 1e-6);
    }
}

TEST_CASE("exact replicas, and those of one micro-batch each, have the bits of one process") {
  auto config = test_config();
  for (const std::uint32_t micro_batches : {2U, 8U}) {
    config.micro_batches = micro_batches;
    config.micro_batch = micro_batches == 2 ? 40 : 1;  // More tokens than BLAS takes at once.
    const auto expected = train(make_job(config, 1, 1));
    for (const std::uint32_t data : {2U, 4U, 8U})
      for (const auto& [stages, world] : std::vector<std::pair<std::size_t, int>>{{1, 1}, {3, 2}}) {
        if (data > micro_batches) continue;
        INFO("micro-batches=", micro_batches, " replicas=", data, " stages=", stages);
        const bool exact = data < micro_batches;
        const auto got = train(make_job(config, stages, world, {data, 1, exact}));
        CHECK(got.losses == expected.losses);
        CHECK(got.norms == expected.norms);
        CHECK(got.weights == expected.weights);
        CHECK(got.sample == expected.sample);
      }
  }
}

TEST_CASE("shards train as one process does") {
  const auto config = test_config();
  const auto expected = train(make_job(config, 1, 1));
  for (const std::uint32_t tensor : {2U, 4U})
    for (const auto& [stages, world] : std::vector<std::pair<std::size_t, int>>{{1, 1}, {4, 2}}) {
      INFO("shards=", tensor, " stages=", stages, " teams=", world);
      check_same(train(make_job(config, stages, world, {1, tensor})), expected, 1e-5);
    }
}

TEST_CASE("replicas of shards in stages train as one process does") {
  const auto config = test_config();
  check_same(train(make_job(config, 2, 2, {2, 2})), train(make_job(config, 1, 1)), 1e-5);
}

TEST_CASE("the same parallel job gives the same bits again") {
  const auto job = make_job(test_config(), 2, 2, {2, 2});
  const auto once = train(job), again = train(job);
  CHECK(once.losses == again.losses);
  CHECK(once.weights == again.weights);
}

TEST_CASE("shards tile each tensor, and describe what they hold") {
  const auto config = test_config();
  const auto whole = describe(config);
  for (const std::uint32_t shards : {1U, 2U, 4U}) {
    const auto part = describe_shard(config, shards);
    std::size_t cut = 0;
    for (std::size_t i = 0; i < whole.layers.size(); ++i)
      for (std::size_t j = 0; j < whole.layers[i].tensors.size(); ++j) {
        const auto& tensor = whole.layers[i].tensors[j];
        std::vector<int> seen(tensor.size_bytes() / sizeof(float));
        std::vector<float> numbers(seen.size());
        std::iota(numbers.begin(), numbers.end(), 0.0F);
        for (std::uint32_t shard = 0; shard < shards; ++shard) {
          const auto where = cut_of(tensor, shards, shard);
          REQUIRE(where.whole_size() == seen.size());
          std::vector<float> own(where.runs * where.length);
          REQUIRE(own.size() * sizeof(float) == part.layers[i].tensors[j].size_bytes());
          where.take(numbers, own);
          for (const auto number : own) ++seen[static_cast<std::size_t>(number)];
        }
        const bool is_cut = shards > 1 && !cut_of(tensor, shards, 0).is_whole();
        cut += is_cut ? 1 : 0;
        const int times = is_cut ? 1 : static_cast<int>(shards);
        REQUIRE(std::ranges::count(seen, times) == std::ssize(seen));
      }
    CHECK(cut == (shards == 1 ? 0 : 6 * config.blocks));
  }
}

TEST_CASE("what cannot be shared is refused with what to do") {
  const auto check = [](const Parallel& parallel, const char* text) {
    CHECK_THROWS_WITH_AS(parallel.validate(test_config()), doctest::Contains(text),
                         causeway::Error);
  };
  check({3, 1}, "--micro-batches 8 is not a multiple of --data-parallel 3");
  check({1, 3}, "--heads 4 is not a multiple of --tensor-parallel 3");
  check({0, 1}, "give 1 to 4096");
  Parallel{4, 4}.validate(test_config());
}
