// Goal:   what a GPU computes is what the processor computes, but for rounding: call by call, step
// by
//         step, wherever the stages lie; a driver that fails is heard of, and nothing stays held.
// Method: the processor's body is the model of every call, on random shapes around the tiles'
// sizes.
//         The software driver runs the kernels' source as host code, with the threads of a block in
//         both orders: a result that depends on it would be a race. Matrix products once by the own
//         kernel, once by a stand-in for cuBLAS that was written from its documentation.
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_NO_POSIX_SIGNALS  // The software driver catches the faults of kernels.
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <mutex>
#include <set>

#include "causeway/error.h"
#include "checkpoint.h"
#include "fake_link.h"
#include "gpu_image.h"
#include "gpu_kernels.h"
#include "gpu_products.h"
#include "random.h"
#include "tests/cuda_emulator/image.h"
#include "tests/error_of.h"

using namespace train_gpt;
using causeway::Errc;
using causeway::test::error_of;

namespace {

constexpr std::uint64_t kSeed = 11;

std::uint64_t test_seed() {
  const char* seed = std::getenv("CAUSEWAY_TEST_SEED");
  return seed == nullptr ? 1 : std::stoull(seed);
}

// The software driver's own calls.
template <typename Function>
Function driver_call(const char* name) {
  void* library = ::dlopen(CAUSEWAY_CUDA_EMULATOR_FILE, RTLD_NOW | RTLD_NOLOAD);
  REQUIRE(library != nullptr);
  return reinterpret_cast<Function>(::dlsym(library, name));
}
void fail_call(const char* name, unsigned long nth, int result) {
  driver_call<void (*)(const char*, unsigned long, int)>("causeway_cuda_fail")(name, nth, result);
}
// A line for each thing that would be a leak if the process ended.
std::string held() {
  std::string text(4096, ' ');
  driver_call<unsigned long (*)(char*, unsigned long)>("causeway_cuda_held")(text.data(), 4096);
  return text.substr(0, text.find('\0'));
}

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    const char* old = std::getenv(name);
    if (old != nullptr) old_ = old;
    ::setenv(name, value, 1);
  }
  ~Variable() {
    if (old_.empty())
      ::unsetenv(name_);
    else
      ::setenv(name_, old_.c_str(), 1);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::string old_;
};

using Values = std::vector<float>;
// A call on arrays that are `compute`'s.
using Call = std::function<void(Compute<float>& compute, const std::vector<float*>& arrays)>;

std::vector<Values> after(Compute<float>& compute, const std::vector<Values>& before,
                          const Call& call) {
  std::vector<Buffer<float>> buffers;
  std::vector<float*> arrays;
  for (const auto& values : before) {
    buffers.push_back(compute.allocate(values.size()));
    arrays.push_back(buffers.back().get());
    const auto view = compute.blank({arrays.back(), values.size()});
    std::ranges::copy(values, view.host().begin());
    view.put();
  }
  call(compute, arrays);
  std::vector<Values> result;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const auto view = compute.view({arrays[i], before[i].size()});
    result.emplace_back(view.host().begin(), view.host().end());
  }
  return result;
}

// The arrays of one call are named by their size; all are filled with numbers around 0.
class Comparison {
 public:
  Comparison(Compute<float>& gpu, std::uint64_t seed) : gpu_(gpu), random_(seed) {}

  void check(const char* name, const std::vector<std::size_t>& sizes, const Call& call) {
    INFO("call=", name);
    std::vector<Values> before;
    for (const auto size : sizes) {
      auto& values = before.emplace_back(size);
      for (auto& value : values) value = static_cast<float>(random_.normal());
    }
    const auto expected = after(processor<float>(), before, call);
    const auto got = after(gpu_, before, call);
    for (std::size_t array = 0; array < sizes.size(); ++array) {
      double most = 1;
      for (const auto value : expected[array])
        most = std::max(most, std::abs(static_cast<double>(value)));
      for (std::size_t i = 0; i < sizes[array]; ++i) {
        const auto apart = std::abs(static_cast<double>(got[array][i]) - expected[array][i]);
        INFO("array=", array, " i=", i, " got=", got[array][i], " expected=", expected[array][i]);
        REQUIRE(apart <= 2e-6 * most * tolerance);
      }
    }
    gpu::descending = true;
    const auto turned = after(gpu_, before, call);
    gpu::descending = false;
    REQUIRE(turned == got);
  }
  double tolerance = 1;

 private:
  Compute<float>& gpu_;
  Random random_;
};

// One in three on an edge of the tiles.
std::size_t some_size(Random& random, std::size_t most) {
  constexpr std::size_t kEdges[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 255, 256, 257};
  const auto edge = kEdges[random.next() % std::size(kEdges)];
  return random.next() % 3 == 0 && edge <= most ? edge : 1 + random.next() % most;
}

void compare_products(Compute<float>& gpu, std::uint64_t seed) {
  Random random(seed);
  Comparison comparison(gpu, seed + 1);
  const auto rows = some_size(random, 140), in = some_size(random, 140),
             out = some_size(random, 140);
  INFO("seed=", seed, " rows=", rows, " in=", in, " out=", out);
  comparison.tolerance = 20;
  comparison.check("linear_forward", {rows * in, out * in, out, rows * out, rows * out},
                   [=](auto& compute, auto& a) {
                     compute.linear_forward(rows, in, out, a[0], a[1], a[2], a[3], a[4]);
                   });
  comparison.check("linear_forward without bias", {rows * in, out * in, rows * out},
                   [=](auto& compute, auto& a) {
                     compute.linear_forward(rows, in, out, a[0], a[1], nullptr, nullptr, a[2]);
                   });
  comparison.check("linear_backward", {rows * in, out * in, rows * out, rows * in, out * in, out},
                   [=](auto& compute, auto& a) {
                     compute.linear_backward(rows, in, out, a[0], a[1], a[2], a[3], a[4], a[5]);
                   });
  const AttentionShape shape{1 + random.next() % 3, some_size(random, 70), 1 + random.next() % 3,
                             some_size(random, 40)};
  const auto tokens = shape.batch * shape.length, width = shape.heads * shape.head_width;
  const auto squares = shape.batch * shape.heads * shape.length * shape.length;
  INFO("batch=", shape.batch, " length=", shape.length, " heads=", shape.heads,
       " head_width=", shape.head_width);
  comparison.tolerance = 100;
  // Scratch is each body's own, so it is none of the arrays.
  comparison.check(
      "attention",
      {tokens * 3 * width, squares, tokens * width, tokens * width, tokens * 3 * width},
      [=](auto& compute, auto& a) {
        compute.attention_forward(shape, a[0], a[1], a[2]);
        const auto scratch = compute.allocate(compute.attention_scratch(shape));
        compute.attention_backward(shape, a[0], a[1], a[3], a[4], scratch.get());
      });
}

void compare_rest(Compute<float>& gpu, std::uint64_t seed) {
  Random random(seed);
  Comparison comparison(gpu, seed + 1);
  const auto rows = some_size(random, 140), width = some_size(random, 600);
  const auto count = rows * width;
  INFO("seed=", seed, " rows=", rows, " width=", width);
  comparison.tolerance = 200;  // Rows of one or two values have a deviation near 0.
  comparison.check("norm", {count, width, width, count, rows, rows, count, count, width, width},
                   [=](auto& compute, auto& a) {
                     compute.norm_forward(rows, width, a[0], a[1], a[2], a[3], a[4], a[5]);
                     compute.norm_backward(rows, width, a[0], a[1], a[4], a[5], a[6], a[7], a[8],
                                           a[9]);
                   });
  comparison.tolerance = 10;
  comparison.check("gelu", {count, count, count, count}, [=](auto& compute, auto& a) {
    compute.gelu_forward(count, a[0], a[1], a[2]);
    compute.gelu_backward(count, a[0], a[1], a[3]);
  });
  std::vector<unsigned char> tokens(rows);
  for (auto& token : tokens) token = static_cast<unsigned char>(random.next());
  const auto length = some_size(random, rows);
  comparison.check("embed", {256 * width, length * width, count}, [&](auto& compute, auto& a) {
    compute.embed(tokens, length, width, a[0], a[1], a[2]);
  });
  RowGroups groups{{}, {0}, {}};
  for (std::uint32_t row = 0; row < rows; ++row) {
    groups.order.push_back(static_cast<std::uint32_t>(rows) - 1 - row);
    if (random.next() % 3 > 0 && row + 1 < rows) continue;
    groups.numbers.push_back(255 - static_cast<std::uint32_t>(groups.numbers.size()));
    groups.firsts.push_back(row + 1);
  }
  comparison.check("add_row_groups", {count, 256 * width}, [&](auto& compute, auto& a) {
    compute.add_row_groups(groups, width, a[0], a[1]);
  });
  const auto classes = 256 + random.next() % 300;
  for (const bool in_place : {false, true})
    comparison.check(
        "cross_entropy", {rows * classes, rows * classes, 1}, [&](auto& compute, auto& a) {
          const auto loss =
              compute.cross_entropy(tokens, classes, a[0], 0.25, in_place ? a[0] : a[1]);
          const auto view = compute.blank({a[2], 1});
          view.host()[0] = static_cast<float>(loss);
          view.put();
        });
  comparison.check("sums_of_squares", {count, width, 2}, [=](auto& compute, auto& a) {
    const std::span<const float> tensors[] = {{a[0], count}, {a[1], width}};
    double sums[2] = {};
    compute.sums_of_squares(tensors, sums);
    const auto view = compute.blank({a[2], 2});
    for (std::size_t i = 0; i < 2; ++i) view.host()[i] = static_cast<float>(sums[i]);
    view.put();
  });
  comparison.check("adamw", {count, count, count, count}, [=](auto& compute, auto& a) {
    const AdamFactors factors{0.5F, 0.9F, 0.95F, 1e-2F, 1.5F, 1e-8F, 0.999F};
    // Second moments are not negative.
    const auto v = compute.view({a[3], count});
    for (auto& value : v.host()) value = std::abs(value) + 0.1F;
    v.put();
    compute.adamw(factors, {a[0], count}, {a[1], count}, {a[2], count}, {a[3], count});
  });
  comparison.check("clear", {count}, [=](auto& compute, auto& a) {
    compute.clear({a[0], count / 2});
  });
}

GptConfig test_config() { return {4, 24, 2, 12, 2, 4}; }

Corpus test_corpus(const GptConfig& config) {
  std::string text;
  for (int i = 0; i < 60; ++i) text += "the quick brown fox jumps over the lazy dog. ";
  return Corpus::from_text(text, "fox", config);
}

struct Outcome {
  std::vector<double> losses;
  std::vector<double> norms;
  std::string sample;
};

constexpr int kSteps = 8;

Outcome train(const FakeJob& job, int steps = kSteps) {
  Outcome outcome;
  std::mutex mutex;
  const auto corpus = test_corpus(job.config);
  job.run([&](FakeJob::Process& process) {
    process.pipeline.initialize(kSeed);
    Outcome own;
    for (int i = 0; i < steps; ++i) {
      const auto report = process.pipeline.step(corpus, kSeed, static_cast<std::uint64_t>(i), {});
      own.losses.push_back(report.loss);
      own.norms.push_back(report.gradient_norm);
    }
    own.sample = process.pipeline.sample("the ", 12, kSeed, 0.5);
    const std::lock_guard lock(mutex);
    if (process.rank == 0) outcome = own;
  });
  return outcome;
}

void check_near(const Outcome& got, const Outcome& expected) {
  REQUIRE(got.losses.size() == expected.losses.size());
  for (std::size_t i = 0; i < got.losses.size(); ++i) {
    INFO("step=", i);
    CHECK(got.losses[i] == doctest::Approx(expected.losses[i]).epsilon(1e-5));
    CHECK(got.norms[i] == doctest::Approx(expected.norms[i]).epsilon(1e-4));
  }
  CHECK(got.sample.size() == expected.sample.size());
}

FakeJob on_gpus(FakeJob job, std::function<int(int rank, int stage)> gpu) {
  job.gpu = std::move(gpu);
  return job;
}

}  // namespace

TEST_CASE("the image is what the software driver reads, with every kernel") {
  namespace em = causeway::emulator;
  const auto* image = static_cast<const em::KernelImage*>(host_image());
  CHECK(image->magic == em::kImageMagic);
  std::set<std::string> names;
  for (std::size_t i = 0; i < image->count; ++i) names.insert(image->kernels[i].name);
  const std::string text = ptx();
  for (const auto& name : names) {
    INFO("kernel=", name);
    CHECK(text.find(".visible .entry " + name + "(") != std::string::npos);
  }
#define TRAIN_GPT_NAME(name) CHECK(names.erase(#name) == 1);
  TRAIN_GPT_KERNELS(TRAIN_GPT_NAME)
#undef TRAIN_GPT_NAME
  CHECK(names.empty());
  CHECK(kernel_requirements().find("sm_70 and a driver for CUDA 11.") != std::string::npos);
}

TEST_CASE("the parameters of the PTX have the sizes of the host's functions") {
  const auto* image = static_cast<const causeway::emulator::KernelImage*>(host_image());
  const std::string text = ptx();
  const std::map<std::string, std::size_t> kSizes{{".u64", 8}, {".u32", 4}, {".f32", 4}};
  for (std::size_t i = 0; i < image->count; ++i) {
    const auto& kernel = image->kernels[i];
    INFO("kernel=", kernel.name);
    const auto first = text.find(std::string(".visible .entry ") + kernel.name + "(");
    REQUIRE(first != std::string::npos);
    std::vector<std::size_t> sizes;
    const auto end = text.find(')', first);
    for (auto at = text.find(".param ", first); at < end; at = text.find(".param ", at + 1)) {
      const auto line = text.substr(at, text.find('\n', at) - at);
      if (const auto open = line.find('['); open != std::string::npos) {
        sizes.push_back(std::stoul(line.substr(open + 1)));
      } else {
        sizes.push_back(kSizes.at(line.substr(7, 4)));
      }
    }
    CHECK(sizes == std::vector<std::size_t>(kernel.parameter_sizes,
                                            kernel.parameter_sizes + kernel.parameter_count));
  }
}

TEST_CASE("every call gives what the processor gives") {
  const auto gpu = gpu_compute(0);
  CHECK(gpu->describe().find("GPU 0 (") == 0);
  CHECK(gpu->describe().find("with own products") != std::string::npos);
  for (auto seed = test_seed(); seed < test_seed() + 12; ++seed) {
    compare_products(*gpu, seed);
    compare_rest(*gpu, seed);
  }
}

TEST_CASE("products by cuBLAS give what the processor gives") {
  const Variable variable("TRAIN_GPT_CUBLAS", CUBLAS_EMULATOR_FILE);
  const auto gpu = gpu_compute(0);
  CHECK(gpu->describe().find("with cuBLAS (") != std::string::npos);
  for (auto seed = test_seed() + 100; seed < test_seed() + 112; ++seed)
    compare_products(*gpu, seed);
}

TEST_CASE("huge logits and scores survive") {
  const auto gpu = gpu_compute(0);
  std::vector<Values> arrays{Values(512, -3e38F), Values(512)};
  arrays[0][9] = 3e38F;
  arrays[0][256 + 9] = 3e38F;
  const std::vector<unsigned char> targets{9, 8};
  double loss = 0;
  const auto got = after(*gpu, arrays, [&](auto& compute, auto& a) {
    loss = compute.cross_entropy(targets, 256, a[0], 2, a[1]);
  });
  CHECK(loss > 1e30);
  CHECK(got[1][9] == 0.0F);
  CHECK(got[1][256 + 9] == 1.0F);
  CHECK(got[1][256 + 8] == -1.0F);
}

TEST_CASE("training on GPUs follows training on the processor step by step") {
  const auto config = test_config();
  const auto expected = train(make_job(config, 1, 1));
  CHECK(expected.losses.back() < expected.losses.front());
  SUBCASE("one stage") {
    const auto job = on_gpus(make_job(config, 1, 1), [](int, int) { return 0; });
    const auto got = train(job);
    check_near(got, expected);
    const auto again = train(job);
    CHECK(again.losses == got.losses);
    CHECK(again.norms == got.norms);
    CHECK(again.sample == got.sample);
  }
  SUBCASE("two stages of two processes on two GPUs") {
    check_near(train(on_gpus(make_job(config, 2, 2), [](int rank, int) { return rank; })),
               expected);
  }
  SUBCASE("three stages of one process, on two GPUs and the processor") {
    check_near(train(on_gpus(make_job(config, 3, 1), [](int, int stage) { return stage - 1; })),
               expected);
  }
  SUBCASE("two replicas, of which one is on a GPU") {
    Parallel parallel;
    parallel.data = 2;
    check_near(train(on_gpus(make_job(config, 2, 2, parallel),
                             [](int rank, int) { return rank % 2 == 0 ? rank / 2 : -1; })),
               expected);
    parallel.exact = true;
    check_near(train(on_gpus(make_job(config, 1, 1, parallel), [](int rank, int) { return rank; })),
               expected);
  }
  SUBCASE("two replicas of two shards") {
    Parallel parallel;
    parallel.data = parallel.tensor = 2;
    check_near(
        train(on_gpus(make_job(config, 1, 1, parallel), [](int rank, int) { return rank % 2; })),
        expected);
  }
  SUBCASE("with cuBLAS") {
    const Variable variable("TRAIN_GPT_CUBLAS", CUBLAS_EMULATOR_FILE);
    check_near(train(on_gpus(make_job(config, 1, 1), [](int, int) { return 1; })), expected);
  }
}

TEST_CASE("a checkpoint goes from the processor to a GPU and back") {
  const auto config = test_config();
  const auto corpus = test_corpus(config);
  const auto expected = train(make_job(config, 1, 1), 6);
  const auto folder =
      std::filesystem::temp_directory_path() / ("gpt-gpu-test-" + std::to_string(::getpid()));
  std::filesystem::remove_all(folder);
  std::vector<double> losses;
  // Two steps each: the processor, a GPU, the processor at addresses that nobody else knows.
  for (const int ordinal : {-1, 1, HeapStorage::kFar}) {
    const auto job = on_gpus(make_job(config, 1, 1), [&](int, int) { return ordinal; });
    job.run([&](FakeJob::Process& process) {
      if (losses.empty()) {
        process.pipeline.initialize(kSeed);
      } else {
        const auto checkpoint = Checkpoint::open(folder);
        for (const auto& tensor : process.pipeline.tensors()) checkpoint.load(tensor);
      }
      for (int i = 0; i < 2; ++i)
        losses.push_back(process.pipeline.step(corpus, kSeed, losses.size(), {}).loss);
      save_checkpoint(process.link, folder, {config, kSeed, losses.size(), 1e-3}, {0}, 1,
                      process.pipeline.tensors());
    });
  }
  std::filesystem::remove_all(folder);
  REQUIRE(losses.size() == 6);
  for (std::size_t i = 0; i < losses.size(); ++i)
    CHECK(losses[i] == doctest::Approx(expected.losses[i]).epsilon(1e-5));
}

TEST_CASE("each call of the driver that fails gives an error that names it, and leaves nothing") {
  const GptConfig config{1, 8, 2, 4, 1, 1};
  const auto corpus = test_corpus(config);
  const auto job = on_gpus(make_job(config, 1, 1), [](int, int) { return 0; });
  const auto step = [&] {
    job.run([&](FakeJob::Process& process) {
      process.pipeline.initialize(kSeed);
      (void)process.pipeline.step(corpus, kSeed, 0, {});
    });
  };
  step();
  auto before = held();
  // What only gives back may fail in destructors, where nobody hears of it.
  const std::set<std::string> kGiveBack{"cuMemFree",
                                        "cuMemFreeHost",
                                        "cuStreamDestroy",
                                        "cuModuleUnload",
                                        "cuDevicePrimaryCtxRelease",
                                        "cuStreamSynchronize",
                                        "cuCtxSetCurrent"};
  const auto failed = driver_call<bool (*)(const char**)>("causeway_cuda_failed");
  unsigned long errors = 0;
  std::set<std::string> failed_calls;
  for (unsigned long nth = 1;; ++nth) {
    fail_call(nullptr, nth, 999);
    std::string text;
    Errc code{};
    try {
      step();
    } catch (const causeway::Error& error) {
      text = error.what();
      code = error.code();
    }
    const char* name = nullptr;
    const bool has_failed = failed(&name);
    fail_call(nullptr, 0, 0);
    if (!has_failed) break;
    INFO("nth=", nth, " name=", std::string(name), " text=", text);
    failed_calls.insert(name);
    if (text.empty()) {
      REQUIRE(kGiveBack.contains(name));
    } else {
      ++errors;
      REQUIRE(text.find(std::string("GPU 0")) == 0);
      REQUIRE(text.find(name) != std::string::npos);
      REQUIRE(text.find("CUDA_ERROR_UNKNOWN") != std::string::npos);
      REQUIRE(code == Errc::device_failed);
    }
    if (kGiveBack.contains(name))
      before = held();
    else
      REQUIRE(held() == before);
    REQUIRE(nth < 3000);
  }
  CHECK(errors > 100);
  CHECK(failed_calls.size() > 15);
}

TEST_CASE("errors say what to do") {
  const auto refused = [](const char* call, int result) {
    fail_call(call, 1, result);
    const auto error = error_of([] { (void)gpu_compute(0); });
    fail_call(nullptr, 0, 0);
    return error;
  };
  const auto old = refused("cuModuleLoadData", 222);
  CHECK(old.code() == Errc::unsupported);
  CHECK(std::string(old.what()).find("the kernels want a GPU of sm_70 and a driver for CUDA 11.") !=
        std::string::npos);
  const auto full = error_of([] {
    const auto gpu = gpu_compute(0);
    (void)gpu->allocate(std::size_t{1} << 40);
  });
  CHECK(full.code() == Errc::out_of_memory);
  CHECK(std::string(full.what()).find("cuMemAlloc of 4398046511104 bytes") != std::string::npos);
  const auto none = error_of([] { (void)gpu_compute(7); });
  CHECK(std::string(none.what()).find("GPU 7: cuDeviceGet failed") == 0);
  {
    const Variable variable("CAUSEWAY_CUDA_LIBRARY", "/nowhere/libcuda.so.1");
    const auto error = error_of([] { (void)gpu_compute(0); });
    CHECK(error.code() == Errc::unsupported);
    CHECK(std::string(error.what()).find("no CUDA driver: /nowhere/libcuda.so.1") == 0);
  }
  {
    const Variable variable("TRAIN_GPT_CUBLAS", "/nowhere/libcublas.so");
    const auto error = error_of([] { (void)gpu_compute(0); });
    CHECK(error.code() == Errc::unsupported);
    CHECK(std::string(error.what()).find("no cuBLAS: /nowhere/libcublas.so") == 0);
  }
}

// This GPU reads memory of the process in place, when a queued copy runs.
TEST_CASE("what a call was given may change or go once it has returned") {
  const auto gpu = gpu_compute(0);
  constexpr std::size_t kRows = 64, kWidth = 8, kBig = 192;
  const auto tables = gpu->allocate(256 * kWidth + kRows * kWidth);
  const auto big = gpu->allocate(3 * kBig * kBig);
  const auto y = gpu->allocate(kRows * kWidth);
  {
    const auto view = gpu->blank({tables.get(), 256 * kWidth + kRows * kWidth});
    for (std::size_t i = 0; i < view.host().size(); ++i)
      view.host()[i] = i < 256 * kWidth ? static_cast<float>(i / kWidth) : 0.F;
    view.put();
  }
  const auto embed = [&](std::vector<unsigned char> tokens) {
    gpu->embed(tokens, kRows, kWidth, tables.get(), tables.get() + 256 * kWidth, y.get());
    std::ranges::fill(tokens, static_cast<unsigned char>(99));
  };
  embed(std::vector<unsigned char>(kRows, 1));  // Takes what memory it wants.
  gpu->clear({big.get(), 3 * kBig * kBig});
  for (int i = 0; i < 3; ++i)  // Keeps the stream busy for a while.
    gpu->linear_forward(kBig, kBig, kBig, big.get(), big.get() + kBig * kBig, big.get(), nullptr,
                        big.get() + 2 * kBig * kBig);
  embed(std::vector<unsigned char>(kRows, 7));
  const auto seen = gpu->view({y.get(), kRows * kWidth});
  for (const float value : seen.host()) REQUIRE(value == 7.F);
}

// A cuBLAS that is newer than the driver opens, and does not start.
TEST_CASE("of several libraries the first that starts multiplies") {
  const GpuDevice device(0);
  CHECK(
      cublas_products(device, {"/nowhere/libcublas.so", CUBLAS_REFUSING_FILE, CUBLAS_EMULATOR_FILE})
          ->describe() == std::string("cuBLAS (") + CUBLAS_EMULATOR_FILE + ")");
  const auto error = error_of([&] {
    (void)cublas_products(device, {"/nowhere/libcublas.so", CUBLAS_REFUSING_FILE});
  });
  CHECK(error.code() == Errc::unsupported);
  const std::string text = error.what();
  CHECK(text.find("/nowhere/libcublas.so") != std::string::npos);
  CHECK(text.find("cublasCreate of " CUBLAS_REFUSING_FILE
                  " failed: CUBLAS_STATUS_NOT_INITIALIZED") != std::string::npos);
}

// Last: it breaks the GPU's context for the rest of the process.
TEST_CASE("a kernel that reads what is not there is reported by the next call that waits") {
  const auto gpu = gpu_compute(1);
  const auto memory = gpu->allocate(64);
  const auto error = error_of([&] {
    gpu->gelu_forward(64, memory.get() + (std::size_t{1} << 30), memory.get(), memory.get());
    (void)gpu->view({memory.get(), 64});
  });
  CHECK(error.code() == Errc::device_failed);
  CHECK(std::string(error.what()).find("CUDA_ERROR_ILLEGAL_ADDRESS") != std::string::npos);
  CHECK(std::string(error.what()).find("start it again from a checkpoint") != std::string::npos);
}

int main(int argc, char** argv) {
  ::setenv("CAUSEWAY_CUDA_LIBRARY", CAUSEWAY_CUDA_EMULATOR_FILE, 1);
  ::setenv("CAUSEWAY_CUDA_EMULATOR", "{devices: 2, reads_in_place: true, strict_contexts: true}",
           1);
  ::unsetenv("TRAIN_GPT_CUBLAS");
  set_blas_threads(1);
  return doctest::Context(argc, argv).run();
}
