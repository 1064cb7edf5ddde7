// Goal:   the training is the same, bit by bit, however the model is cut into stages and the stages
//         are dealt to processes; and it learns.
// Method: jobs of threads over an in-memory Link with exact-size arenas.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <mutex>

#include "collect.h"
#include "fake_link.h"

using namespace train_gpt;

namespace {

constexpr std::uint64_t kSeed = 11;

GptConfig test_config() { return {6, 16, 2, 12, 2, 4}; }

Corpus test_corpus(const GptConfig& config) {
  std::string text;
  for (int i = 0; i < 60; ++i) text += "the quick brown fox jumps over the lazy dog. ";
  return Corpus::from_text(text, "fox", config);
}

struct Outcome {
  std::vector<double> losses;
  std::vector<double> norms;
  std::map<std::string, std::vector<float>> weights;
  std::string sample;
};

Outcome train(const FakeJob& job, int steps) {
  Outcome outcome;
  std::mutex mutex;
  const auto corpus = test_corpus(job.config);
  job.run([&](FakeJob::Process& process) {
    process.pipeline.initialize(kSeed);
    std::vector<double> losses;
    std::vector<double> norms;
    for (int i = 0; i < steps; ++i) {
      const auto report = process.pipeline.step(corpus, kSeed, static_cast<std::uint64_t>(i), {});
      losses.push_back(report.loss);
      norms.push_back(report.gradient_norm);
    }
    const auto sample = process.pipeline.sample("the ", 30, kSeed, 0.5);
    const std::lock_guard lock(mutex);
    if (process.rank == 0) {
      outcome.losses = losses;
      outcome.norms = norms;
      outcome.sample = sample;
    }
    for (const auto& tensor : process.pipeline.tensors()) {
      const auto view = tensor.compute->view(tensor.weights);
      outcome.weights[tensor.spec.name].assign(view.host().begin(), view.host().end());
    }
  });
  return outcome;
}

}  // namespace

TEST_CASE("losses, weights and text do not depend on stages and processes") {
  set_blas_threads(1);
  const auto config = test_config();
  const auto expected = train(make_job(config, 1, 1), 6);
  REQUIRE(expected.losses.size() == 6);
  REQUIRE(expected.weights.size() == 2 + 12 * config.blocks + 3);
  REQUIRE(expected.sample.size() == 30);
  for (const auto& cut : std::vector<std::pair<std::size_t, int>>{
           {2, 2}, {3, 3}, {5, 5}, {8, 8}, {3, 1}, {8, 1}, {5, 2}, {8, 3}}) {
    INFO("stages=", cut.first, " world=", cut.second);
    const auto got = train(make_job(config, cut.first, cut.second), 6);
    CHECK(got.losses == expected.losses);
    CHECK(got.norms == expected.norms);
    CHECK(got.weights == expected.weights);
    CHECK(got.sample == expected.sample);
  }
}

TEST_CASE("memory of a device is touched by its Compute alone, and the bits are the same") {
  const auto config = test_config();
  const auto check = [&](const Parallel& parallel) {
    auto job = make_job(config, 3, 2, parallel);
    const auto expected = train(job, 4);
    // The middle one stays here.
    job.gpu = [](int, int stage) { return stage == 1 ? -1 : HeapStorage::kFar; };
    const auto got = train(job, 4);
    CHECK(got.losses == expected.losses);
    CHECK(got.norms == expected.norms);
    if (parallel.tensor == 1) CHECK(got.weights == expected.weights);  // Else of any one shard.
    CHECK(got.sample == expected.sample);
  };
  check({});
  check({.data = 2, .tensor = 2, .exact = false});
  check({.data = 2, .tensor = 1, .exact = true});
}

TEST_CASE("stages dealt out of order to processes complete with the same result") {
  const auto config = test_config();
  auto job = make_job(config, 6, 3);
  job.rank_of_stage = {0, 1, 0, 2, 1, 0};
  CHECK(train(job, 3).losses == train(make_job(config, 1, 1), 3).losses);
}

TEST_CASE("fewer micro-batches than stages, and a single one") {
  for (const std::uint32_t micro_batches : {1U, 2U, 7U}) {
    auto config = test_config();
    config.micro_batches = micro_batches;
    INFO("micro_batches=", micro_batches);
    CHECK(train(make_job(config, 5, 5), 3).losses == train(make_job(config, 1, 1), 3).losses);
  }
}

TEST_CASE("it learns a sentence that repeats") {
  const auto outcome = train(make_job(test_config(), 2, 2), 150);
  CHECK(outcome.losses.front() > 5);
  CHECK(outcome.losses.back() < 1);
  INFO("sample=", outcome.sample);
  CHECK(outcome.sample.find("the") != std::string::npos);
}

TEST_CASE("starting again forgets everything") {
  const auto config = test_config();
  const auto corpus = test_corpus(config);
  make_job(config, 2, 1).run([&](FakeJob::Process& process) {
    std::vector<double> losses;
    for (int run = 0; run < 2; ++run) {
      process.pipeline.initialize(kSeed);
      for (std::uint64_t step = 0; step < 3; ++step)
        losses.push_back(process.pipeline.step(corpus, kSeed, step, {}).loss);
    }
    for (std::size_t step = 0; step < 3; ++step) REQUIRE(losses[step + 3] == losses[step]);
  });
}

TEST_CASE("a process that asks to stop is heard by all in the same step") {
  const auto config = test_config();
  const auto corpus = test_corpus(config);
  std::atomic<int> stops = 0;
  make_job(config, 3, 3).run([&](FakeJob::Process& process) {
    process.pipeline.initialize(kSeed);
    for (std::uint64_t step = 0; step < 4; ++step) {
      const bool asks = process.rank == 1 && step == 2;
      const auto report = process.pipeline.step(corpus, kSeed, step, {}, asks);
      REQUIRE(report.stop == (step == 2));
      if (report.stop) ++stops;
    }
  });
  CHECK(stops == 3);
}

TEST_CASE("a sample ends early when the last stage's process is asked to stop") {
  const std::atomic<bool> stop = true;
  make_job(test_config(), 2, 2).run([&](FakeJob::Process& process) {
    process.pipeline.initialize(kSeed);
    const auto* flag = process.rank == 1 ? &stop : nullptr;
    REQUIRE(process.pipeline.sample("a", 20, 1, 1, flag).size() == 1);
  });
}

TEST_CASE("a loss that is no number ends the run on every process") {
  const auto config = test_config();
  const auto corpus = test_corpus(config);
  CHECK_THROWS_WITH_AS(make_job(config, 2, 2).run([&](FakeJob::Process& process) {
    process.pipeline.initialize(kSeed);
    if (process.rank == 1) process.pipeline.tensors().back().weights[0] = std::nanf("");
    process.pipeline.step(corpus, kSeed, 0, {});
  }),
                       doctest::Contains("step 1: loss nan"), causeway::Error);
}

TEST_CASE("stages that do not tile the model are refused") {
  const auto config = test_config();  // 8 layers.
  const auto check = [&](std::vector<StageRange> stages, const char* text) {
    FakeJob job{config, std::move(stages), {0, 0}, 1};
    CHECK_THROWS_WITH_AS(job.run([](FakeJob::Process&) {}), doctest::Contains(text),
                         causeway::Error);
  };
  check({{0, 4}, {5, 8}}, "stage 1 holds layers 5 to 8 where layer 4 of 8");
  check({{0, 4}, {4, 7}}, "ends at layer 7 of 8");
  check({{0, 4}, {4, 9}}, "stage 1 holds layers 4 to 9");
  check({{0, 0}, {0, 8}}, "stage 0 holds layers 0 to 0");
}

TEST_CASE("an arena smaller than what is kept is refused") {
  const auto config = test_config();
  const auto job = make_job(config, 2, 1);
  Room room({0, 0}, 1);
  FakeLink link(room, 0);
  HeapStorage storage(config, job.stages);
  storage.missing_floats = 1;
  CHECK_THROWS_WITH_AS(Pipeline(config, job.stages, {0, 1}, storage, link),
                       doctest::Contains("stage 0 keeps 9216 bytes of activations, its plan gives "
                                         "it 9212"),
                       causeway::Error);
}

TEST_CASE("kept activations follow 1F1B") {
  const auto config = test_config();
  const auto job = make_job(config, 4, 1);
  const std::size_t one = 12 * 2 * 16 * 4;                   // context, sequences, width, float
  CHECK(arena_bytes(config, job.stages, 0) == 4 * one * 1);  // The embedding keeps nothing.
  CHECK(arena_bytes(config, job.stages, 1) == 3 * one * 2);
  CHECK(arena_bytes(config, job.stages, 3) == 1 * one * 2);
}

TEST_CASE("texts of all ranks reach all ranks, the empty ones too") {
  make_job(test_config(), 3, 3).run([](FakeJob::Process& process) {
    const std::vector<std::string> all{"a", "", "long enough"};
    REQUIRE(all_gather(process.link, all[static_cast<std::size_t>(process.rank)]) == all);
  });
}

TEST_CASE("processes that were started differently are told what differs") {
  CHECK_THROWS_WITH_AS(make_job(test_config(), 2, 2).run([](FakeJob::Process& process) {
    require_same(process.link, process.rank == 0 ? "width: 8\nseed: 1\nsteps: 5\n"
                                                 : "width: 8\nseed: 2\nsteps: 5\n");
  }),
                       doctest::Contains("rank 1 has 'seed: 2' where rank 0 has 'seed: 1'"),
                       causeway::Error);
  make_job(test_config(), 2, 2).run([](FakeJob::Process& process) {
    require_same(process.link, "same\n");
  });
}
