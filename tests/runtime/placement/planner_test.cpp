// Goal:   a plan fits and no other plan takes less; a refusal says what is missing.
// Method: by hand what a stage takes and what each refusal says; then seeded small instances
// against
//         a brute force over every order of devices and every split. Replay with
//         CAUSEWAY_TEST_SEED.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <string>

#include "causeway/gpu_catalogue.h"
#include "causeway/plan.h"
#include "causeway/plan_compare.h"
#include "runtime/placement/chain_search.h"
#include "runtime/placement/plan_problem.h"

using causeway::check_plan;
using causeway::ClusterSpec;
using causeway::DeviceName;
using causeway::DType;
using causeway::Errc;
using causeway::Error;
using causeway::make_plan;
using causeway::ModelSpec;
using causeway::Objective;
using causeway::Plan;
using causeway::PlanOptions;
using causeway::stage_memory;
using causeway::Topology;

constexpr std::uint64_t kGranule = causeway::kDeviceGranuleBytes;

static ModelSpec uniform_model(int layers, std::uint64_t floats, std::uint64_t activation_bytes) {
  ModelSpec model;
  model.name = "gpt";
  for (int i = 0; i < layers; ++i) {
    const auto n = std::to_string(i);
    model.layers.push_back(
        {"layer" + n, {{"w" + n, DType::f32, {floats}}}, 1e9, activation_bytes, 100'000});
  }
  return model;
}

static Topology pool(const std::string& capacity_5090, const std::string& capacity_h100) {
  return Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: pool, nodes: [{name: desktop, devices: [{gpu: rtx-5090, count: 2, capacity: " +
          capacity_5090 + "}, {host: 64 MB}]}, {name: hgx, devices: [{gpu: h100-sxm, count: 8, " +
          "capacity: " + capacity_h100 + "}]}], links: [{between: [desktop, hgx], " +
          "bandwidth: 1.25 GB/s, latency: 200 us}]}",
      "test"));
}

static std::vector<DeviceName> devices(std::initializer_list<const char*> names) {
  std::vector<DeviceName> parsed;
  for (const char* name : names) parsed.push_back(DeviceName::parse(name));
  return parsed;
}

struct Refusal {
  Errc code = Errc::internal;
  std::string text = "accepted";
  [[nodiscard]] bool says(const std::string& part) const {
    return text.find(part) != std::string::npos;
  }
};

template <typename Call>
static Refusal refusal(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

TEST_CASE("a stage takes its regions in whole granules, tensors at multiples of 256") {
  ModelSpec model;
  model.name = "m";
  model.optimizer_bytes_per_weight_byte = 2.5;
  // 1001 floats are 4004 bytes: 4096 as weights and gradients; 10010 of optimizer: 10240.
  model.layers.push_back(
      {"a", {{"a.w", DType::f32, {7, 143}}, {"a.b", DType::bf16, {1}}}, 0, 300, 0});
  model.layers.push_back({"b", {{"b.w", DType::u8, {kGranule}}}, 0, 2 * kGranule, 0});
  CHECK(causeway::tensor_state_bytes(model.layers[0].tensors[0], 1.0) == 4096);
  CHECK(causeway::tensor_state_bytes(model.layers[0].tensors[0], 2.5) == 10240);
  CHECK(causeway::tensor_state_bytes(model.layers[0].tensors[1], 2.5) == 256);
  const auto a = stage_memory(model, 0, 1, 3);
  CHECK(a.weight_bytes == kGranule);
  CHECK(a.gradient_bytes == kGranule);
  CHECK(a.optimizer_bytes == kGranule);
  CHECK(a.activation_bytes == kGranule);
  const auto both = stage_memory(model, 0, 2, 3);
  CHECK(both.weight_bytes == 2 * kGranule);      // 4096 + 256 + 65536.
  CHECK(both.optimizer_bytes == 3 * kGranule);   // 10240 + 256 + 163840 = 174336.
  CHECK(both.activation_bytes == 7 * kGranule);  // 3 * (512 + 131072) = 394752.
  CHECK(both.state_bytes() == 7 * kGranule);
  model.gradient_bytes_per_weight_byte = 0;
  model.optimizer_bytes_per_weight_byte = 0;
  CHECK(stage_memory(model, 0, 2, 1).state_bytes() == 2 * kGranule);
  CHECK_THROWS_AS((void)stage_memory(model, 0, 3, 1), Error);
  CHECK_THROWS_AS((void)stage_memory(model, 1, 1, 1), Error);
  CHECK_THROWS_AS((void)stage_memory(model, 0, 1, 0), Error);
  CHECK_THROWS_AS((void)stage_memory(model, 0, 1, 5000), Error);
}

TEST_CASE("a tied tensor is kept once where its source lies, and copied elsewhere") {
  ModelSpec model;
  model.name = "m";
  model.layers.push_back({"embed", {{"table", DType::u8, {10 * kGranule}}}, 0, 0, 0});
  model.layers.push_back({"block", {{"w", DType::u8, {kGranule}}}, 0, 0, 0});
  model.layers.push_back(
      {"head",
       {{"norm", DType::u8, {256}}, {"out", DType::u8, {10 * kGranule}, "table"}},
       0,
       0,
       0});
  CHECK_NOTHROW(model.validate());
  const auto all = stage_memory(model, 0, 3, 1);
  CHECK(all.weight_bytes == 12 * kGranule);
  CHECK(all.gradient_bytes == 12 * kGranule);
  CHECK(all.optimizer_bytes == 23 * kGranule);
  CHECK(stage_memory(model, 0, 2, 1).weight_bytes == 11 * kGranule);
  CHECK(stage_memory(model, 2, 3, 1).weight_bytes == 11 * kGranule);
  CHECK(stage_memory(model, 1, 3, 1).weight_bytes == 12 * kGranule);
}

TEST_CASE("a model that one device holds is not torn apart where the link costs more") {
  const auto plan =
      make_plan(uniform_model(4, 1000, 1000), pool("32 MB", "10 MB"), {.micro_batches = 1});
  REQUIRE(plan.stages.size() == 1);
  CHECK(plan.stages[0].device.to_string() == "hgx/gpu0");
  CHECK(plan.stages[0].end_layer == 4);
  CHECK(plan.step_seconds == doctest::Approx(4 * 3e9 / (0.4 * 989.4e12)));
  CHECK(plan.certificate.starts_with(
      "optimal among pipelines of single devices: exact dynamic programming over "));
}

TEST_CASE("1F1B: an earlier stage holds more micro-batches") {
  const auto model = uniform_model(3, 1000, 1'000'000);
  const auto plan = make_plan(model, pool("32 MB", "10 MB"), {.micro_batches = 2, .stages = 3});
  REQUIRE(plan.stages.size() == 3);
  const auto one = (1'000'000 + 255) / 256 * 256;
  const auto arena = [&](std::uint64_t n) {
    return (n * one + kGranule - 1) / kGranule * kGranule;
  };
  CHECK(plan.stages[0].activation_bytes == arena(2));  // min(2, 3)
  CHECK(plan.stages[1].activation_bytes == arena(2));
  CHECK(plan.stages[2].activation_bytes == arena(1));
}

TEST_CASE("each option is kept") {
  const auto model = uniform_model(6, 50'000, 1000);
  const auto topology = pool("32 MB", "10 MB");
  for (std::uint32_t stages = 1; stages <= 6; ++stages)
    CHECK(make_plan(model, topology, {.stages = stages}).stages.size() == stages);
  const auto only = devices({"desktop/gpu1", "desktop/gpu1", "desktop/host0"});
  const auto plan = make_plan(model, topology, {.only = only, .stages = 2});
  for (const auto& stage : plan.stages) CHECK(std::ranges::find(only, stage.device) != only.end());
  // Host memory is a place only where it is asked for.
  const auto hosts = Topology::from_cluster(
      ClusterSpec::from_yaml("{name: h, nodes: [{name: a, devices: [{host: 64 MB}]}]}", "test"));
  CHECK(refusal([&] { (void)make_plan(model, hosts); }).code == Errc::invalid_argument);
  CHECK(make_plan(model, hosts, {.use_host_devices = true}).stages.size() == 1);
}

TEST_CASE("what is lent already is not planned with") {
  auto topology = pool("32 MB", "10 MB");
  const auto model = uniform_model(2, 50'000, 1000);
  for (int i = 0; i < 8; ++i)
    topology.set_available({"hgx", causeway::DeviceKind::gpu, static_cast<std::uint32_t>(i)}, 0);
  for (const auto& stage : make_plan(model, topology).stages) CHECK(stage.device.node == "desktop");
}

TEST_CASE("a refusal says what is missing") {
  const auto topology = pool("32 MB", "10 MB");
  const auto big = uniform_model(50, 140'000, 10'000);
  const auto one =
      refusal([&] { (void)make_plan(big, topology, {.only = devices({"desktop/gpu0"})}); });
  CHECK(one.code == Errc::out_of_memory);
  CHECK(
      one.says("model 'gpt' needs 113 MB of state and activations; desktop/gpu0 has 32 MB "
               "available; use more devices"));
  const auto two = refusal([&] {
    (void)make_plan(big, topology, {.only = devices({"desktop/gpu0", "desktop/gpu1"})});
  });
  CHECK(two.says("2 devices have 64 MB available (desktop/gpu0 32 MB, desktop/gpu1 32 MB)"));

  auto lumpy = uniform_model(3, 1000, 0);
  lumpy.layers[1].tensors[0].shape = {5'000'000};
  const auto layer = refusal([&] { (void)make_plan(lumpy, topology); });
  CHECK(layer.code == Errc::out_of_memory);
  CHECK(
      layer.says("layer 'layer1' alone needs 80.2 MB of state and activations; the largest "
                 "device, desktop/gpu0, has 32 MB available"));

  // Three layers of 20 MB: 60 in all, but two devices of 32 hold one each.
  const auto split = refusal([&] {
    (void)make_plan(uniform_model(3, 1'250'000, 0), topology,
                    {.only = devices({"desktop/gpu0", "desktop/gpu1"})});
  });
  CHECK(split.code == Errc::out_of_memory);
  CHECK(split.says("no split into stages of whole layers fits"));

  const auto apart = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: p, nodes: [{name: a, devices: [{gpu: l40s, capacity: 32 MB}]}, "
      "{name: b, devices: [{gpu: l40s, capacity: 32 MB}]}]}",
      "test"));
  const auto gap = refusal([&] { (void)make_plan(uniform_model(2, 1'250'000, 0), apart); });
  CHECK(gap.code == Errc::out_of_memory);
  CHECK(gap.says("no known path joins a/gpu0 and b/gpu0; add the link"));

  const auto small = uniform_model(2, 10, 0);
  const auto code = [&](PlanOptions options) {
    return refusal([&] { (void)make_plan(small, topology, options); }).code;
  };
  CHECK(code({.micro_batches = 0}) == Errc::invalid_argument);
  CHECK(code({.stages = 3}) == Errc::invalid_argument);
  CHECK(code({.only = devices({"desktop/gpu0"}), .stages = 2}) == Errc::invalid_argument);
  CHECK(code({.only = devices({"nowhere/gpu0"})}) == Errc::not_found);
  CHECK(refusal([&] { (void)make_plan(ModelSpec{}, topology); }).code == Errc::invalid_argument);
}

TEST_CASE("fifty layers over ten devices in well under a second") {
  const auto topology = pool("32 MB", "10 MB");
  for (const std::uint64_t floats : {1'000, 50'000, 100'000, 140'000}) {
    const auto start = std::clock();  // Of the processor: other load must not fail this.
    const auto plan = make_plan(uniform_model(50, floats, 10'000), topology, {.micro_batches = 8});
    const double took_s = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    CHECK(plan.certificate.starts_with("optimal"));
    CHECK(took_s < 1.0);  // Milliseconds without a sanitizer.
  }
}

TEST_CASE("check_plan names the stage that is wrong") {
  const auto model = uniform_model(6, 50'000, 1000);
  const auto topology = pool("32 MB", "10 MB");
  const auto good = make_plan(model, topology, {.stages = 3});
  CHECK_NOTHROW(check_plan(good, model, topology));
  const auto broken = [&](auto change) {
    Plan plan = good;
    change(plan);
    const auto result = refusal([&] { check_plan(plan, model, topology); });
    CHECK(result.code == Errc::invalid_argument);
    return result;
  };
  CHECK(broken([](Plan& p) { p.model = "bert"; }).says("for model 'bert', not 'gpt'"));
  CHECK(broken([](Plan& p) { p.stages.pop_back(); }).says("stage 1: ends at layer"));
  CHECK(broken([](Plan& p) { p.stages.clear(); }).says("0 stages"));
  CHECK(broken([](Plan& p) { p.micro_batches = 0; }).says("0 micro-batches"));
  CHECK(broken([](Plan& p) { ++p.stages[1].first_layer; }).says("stage 1: holds layers"));
  CHECK(broken([](Plan& p) { p.stages[2].end_layer = 7; }).says("stage 2: holds layers"));
  CHECK(broken([](Plan& p) { p.stages[1].device.index = 99; }).says("is not in 'pool'"));
  CHECK(broken([](Plan& p) { p.stages[1].device = p.stages[0].device; }).says("stage already"));
  CHECK(broken([](Plan& p) { p.stages[0].state_bytes += 1; }).says("plan again"));
  auto full = topology;
  full.set_available(good.stages[1].device, kGranule);
  const auto result = refusal([&] { check_plan(good, model, full); });
  CHECK(result.says("stage 1: needs"));
  CHECK(result.says("65.5 kB available"));
}

// Every order of distinct devices and every split, by the definitions in the header.
class BruteForce {
 public:
  BruteForce(const ModelSpec& model, const Topology& topology, const PlanOptions& options)
      : model_(model), topology_(topology), options_(options) {
    for (const auto& device : topology.devices()) names_.push_back(device.name);
  }

  std::optional<double> best() {
    extend({}, static_cast<std::uint32_t>(model_.layers.size()), 0, 0);
    return best_;
  }

 private:
  // `taken`: devices of the stages behind, nearest last. Layers [0, left) are still to be placed.
  void extend(std::vector<std::size_t> taken, std::uint32_t left, double sum_s, double max_s) {
    if (left == 0) {
      if (options_.stages != 0 && taken.size() != options_.stages) return;
      const double step = sum_s + (options_.micro_batches - 1.0) * max_s;
      if (!best_ || step < *best_) best_ = step;
      return;
    }
    for (std::size_t d = 0; d < names_.size(); ++d) {
      if (std::ranges::find(taken, d) != taken.end()) continue;
      auto now = taken;
      now.push_back(d);
      for (std::uint32_t first = 0; first < left; ++first) {
        const auto seconds = stage_seconds(first, left, d, taken);
        if (seconds) extend(now, first, sum_s + *seconds, std::max(max_s, *seconds));
      }
    }
  }

  std::optional<double> stage_seconds(std::uint32_t first, std::uint32_t end, std::size_t d,
                                      const std::vector<std::size_t>& behind) {
    const auto in_flight = std::min<std::uint32_t>(options_.micro_batches,
                                                   static_cast<std::uint32_t>(behind.size()) + 1);
    const auto [at, fresh] = needs_.try_emplace({first, end, in_flight});
    if (fresh) {
      const auto memory = stage_memory(model_, first, end, in_flight);
      at->second = memory.state_bytes() + memory.activation_bytes;
    }
    const auto* device = topology_.find(names_[d]);
    if (at->second > device->available_bytes) return std::nullopt;
    double flops = 0;
    for (auto i = first; i < end; ++i) flops += 3 * model_.layers[i].forward_flops;
    const auto* gpu = causeway::find_gpu_model(device->model);
    double seconds = flops / (0.4 * (gpu != nullptr ? gpu->flops_per_s : 1e12));
    if (behind.empty()) return seconds;
    const auto access = topology_.access(names_[d], names_[behind.back()]);
    if (!access) return std::nullopt;
    const auto bytes = static_cast<double>(model_.layers[end - 1].output_bytes);
    seconds += 2 * (access->rate.latency_s + bytes / access->rate.bandwidth_bytes_per_s);
    return seconds;
  }

  const ModelSpec& model_;
  const Topology& topology_;
  const PlanOptions& options_;
  std::vector<DeviceName> names_;
  std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>, std::uint64_t> needs_;
  std::optional<double> best_;
};

struct Instance {
  ClusterSpec cluster;
  ModelSpec model;
  PlanOptions options;
};

static Instance random_instance(std::mt19937_64& random) {
  Instance instance;
  instance.cluster.name = "random";
  constexpr const char* kModels[] = {"rtx-5090", "h100-sxm", "rtx-3090", "l40s"};
  const auto nodes = 1 + random() % 3;
  const auto variety = 1 + random() % 4;
  const auto room = 1 + random() % 24;
  std::uint64_t left = 2 + random() % 4;
  for (std::uint64_t n = 0; n < nodes && left > 0; ++n) {
    causeway::NodeSpec node{"n" + std::to_string(n), {}};
    const auto count = n + 1 == nodes ? left : 1 + random() % left;
    left -= count;
    std::uint32_t hosts = 0;
    std::uint32_t gpus = 0;
    for (std::uint64_t d = 0; d < count; ++d) {
      const bool host = random() % 8 == 0;
      node.devices.push_back(
          {{node.name, host ? causeway::DeviceKind::host : causeway::DeviceKind::gpu,
            host ? hosts++ : gpus++},
           host ? "host" : kModels[random() % variety],
           (room + random() % 2 * (random() % 12)) * kGranule});
    }
    instance.cluster.nodes.push_back(std::move(node));
  }
  const auto& made = instance.cluster.nodes;
  for (std::size_t a = 0; a < made.size(); ++a)
    for (std::size_t b = a + 1; b < made.size(); ++b)
      if (random() % 4 != 0)
        instance.cluster.links.push_back({made[a].name, made[b].name,
                                          1e9 * static_cast<double>(1 + random() % 20),
                                          1e-6 * static_cast<double>(random() % 50)});
  instance.model.name = "random";
  instance.model.optimizer_bytes_per_weight_byte = static_cast<double>(random() % 3);
  const auto layers = 1 + random() % 7;
  for (std::uint64_t i = 0; i < layers; ++i) {
    const auto n = std::to_string(i);
    instance.model.layers.push_back({"l" + n,
                                     {{"w" + n, DType::u8, {random() % (3 * kGranule)}}},
                                     1e9 * static_cast<double>(random() % 100),
                                     random() % (2 * kGranule),
                                     random() % 1'000'000});
  }
  instance.options.micro_batches = 1 + static_cast<std::uint32_t>(random() % 6);
  instance.options.use_host_devices = true;
  const auto most = std::min<std::uint64_t>(layers, [&] {
    std::size_t devices_in_all = 0;
    for (const auto& node : made) devices_in_all += node.devices.size();
    return devices_in_all;
  }());
  if (random() % 3 == 0) instance.options.stages = 1 + static_cast<std::uint32_t>(random() % most);
  return instance;
}

// What the run covered: a comparison where all were infeasible would prove nothing.
struct Coverage {
  int feasible = 0;
  int infeasible = 0;
  int several_stages = 0;
};

static void run_against_brute_force(std::uint64_t seed, Coverage& coverage) {
  std::mt19937_64 random(seed);
  const auto instance = random_instance(random);
  const auto topology = Topology::from_cluster(instance.cluster);
  INFO("seed=", seed, "\n", instance.cluster.to_yaml(), instance.model.to_yaml(),
       "micro_batches: ", instance.options.micro_batches, " stages: ", instance.options.stages);
  const auto best = BruteForce(instance.model, topology, instance.options).best();
  std::optional<Plan> plan;
  std::string why;
  try {
    plan = make_plan(instance.model, topology, instance.options);
  } catch (const Error& error) {
    REQUIRE((error.code() == Errc::out_of_memory));
    why = error.what();
  }
  CAPTURE(why);
  REQUIRE(plan.has_value() == best.has_value());
  ++(best ? coverage.feasible : coverage.infeasible);
  if (!plan) return;
  REQUIRE(plan->step_seconds == doctest::Approx(*best).epsilon(1e-9));
  REQUIRE(plan->certificate.starts_with("optimal"));
  REQUIRE_NOTHROW(check_plan(*plan, instance.model, topology));
  // The stages named take the time promised.
  double sum_s = 0;
  double max_s = 0;
  for (std::size_t i = 0; i < plan->stages.size(); ++i) {
    const auto& stage = plan->stages[i];
    double flops = 0;
    for (auto l = stage.first_layer; l < stage.end_layer; ++l)
      flops += 3 * instance.model.layers[l].forward_flops;
    const auto* gpu = causeway::find_gpu_model(topology.find(stage.device)->model);
    double seconds = flops / (0.4 * (gpu != nullptr ? gpu->flops_per_s : 1e12));
    if (i + 1 < plan->stages.size()) {
      const auto access = topology.access(stage.device, plan->stages[i + 1].device);
      REQUIRE(access.has_value());
      const auto bytes =
          static_cast<double>(instance.model.layers[stage.end_layer - 1].output_bytes);
      seconds += 2 * (access->rate.latency_s + bytes / access->rate.bandwidth_bytes_per_s);
    }
    REQUIRE(stage.seconds == doctest::Approx(seconds).epsilon(1e-9));
    sum_s += seconds;
    max_s = std::max(max_s, seconds);
  }
  REQUIRE(plan->step_seconds ==
          doctest::Approx(sum_s + (instance.options.micro_batches - 1.0) * max_s).epsilon(1e-9));
  if (plan->stages.size() > 1) ++coverage.several_stages;
}

TEST_CASE("small instances: as good as a brute force") {
  Coverage coverage;
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_against_brute_force(std::stoull(seed), coverage);
  for (std::uint64_t seed = 1; seed <= 500; ++seed) run_against_brute_force(seed, coverage);
  MESSAGE(coverage.feasible, " feasible, ", coverage.several_stages, " of them in several stages; ",
          coverage.infeasible, " infeasible");
  CHECK(coverage.feasible > 150);
  CHECK(coverage.several_stages > 50);
  CHECK(coverage.infeasible > 50);
}

TEST_CASE("a search that is cut short says so, and its bound holds") {
  std::string nodes;
  std::string links;
  for (int i = 0; i < 8; ++i) {
    const auto n = std::to_string(i);
    nodes += "{name: n" + n +
             ", devices: [{gpu: h100-sxm, count: 8, capacity: " + std::to_string(20 + i) +
             " MB}, {gpu: rtx-4090, capacity: 30 MB}]},";
    if (i > 0)
      links += "{between: [n0, n" + n + "], bandwidth: " + std::to_string(i + 1) +
               " GB/s, latency: 20 us},";
  }
  const auto topology = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: wide, nodes: [" + nodes + "], links: [" + links + "]}", "test"));
  auto model = uniform_model(60, 300'000, 100'000);
  for (std::size_t i = 0; i < model.layers.size(); ++i)  // Unequal layers: long Pareto sets.
    model.layers[i].forward_flops *= 1 + static_cast<double>(i * i % 17);
  std::vector<DeviceName> names;
  for (const auto& device : topology.devices()) names.push_back(device.name);
  const auto types = causeway::collapse_devices(topology, names);
  CHECK(types.types.size() == 16);
  const causeway::PlanProblem chain(model, topology, names, {.micro_batches = 8});
  const auto result = causeway::search_chain(chain.problem(), 2'000'000);
  CHECK_FALSE(result.exact);
  REQUIRE_FALSE(result.stages.empty());
  CHECK(result.lower_bound > 0);
  CHECK(result.lower_bound <= result.step_seconds);
  // The whole budget gives a plan that is no worse, with its gap in the certificate.
  const auto plan = make_plan(model, topology, {.micro_batches = 8});
  CHECK(plan.step_seconds <= result.step_seconds);
  CHECK_NOTHROW(check_plan(plan, model, topology));
  const bool honest =
      plan.certificate.starts_with("within ") || plan.certificate.starts_with("optimal among ");
  CHECK(honest);
  MESSAGE(plan.certificate);
}

// The least step of layers [first, end) on `free` alike cards of one node, by trying every cut and
// 1, 2 or 4 cards for each stage; with what is in front.
struct SharedForce {
  const ModelSpec& model;
  std::uint64_t available;
  causeway::Rate link;
  std::uint32_t micro_batches;
  double best = std::numeric_limits<double>::infinity();

  // Stages are chosen from the last to the first, as their places under 1F1B are known then.
  void cut(std::uint32_t end, int free, std::uint32_t behind, double sum_s, double longest_s) {
    if (end == 0) {
      best = std::min(best, sum_s + (micro_batches - 1.0) * longest_s);
      return;
    }
    for (std::uint32_t first = 0; first < end; ++first)
      for (const int n : {1, 2, 4}) {
        if (n > free) continue;
        const auto memory =
            stage_memory(model, first, end, std::min(micro_batches, behind + 1), 1.0 / n);
        if (memory.state_bytes() + memory.activation_bytes > available) continue;
        double seconds = 0;
        for (auto i = first; i < end; ++i) {
          const auto& layer = model.layers[i];
          const auto bytes = static_cast<double>(layer.output_bytes);
          seconds += 3 * layer.forward_flops / n / (0.4 * 989.4e12);
          if (n > 1)
            seconds +=
                4.0 * 2 * (n - 1) * (link.latency_s + bytes / n / link.bandwidth_bytes_per_s);
        }
        if (behind > 0)
          seconds += 2 * (link.latency_s + static_cast<double>(model.layers[end - 1].output_bytes) /
                                               link.bandwidth_bytes_per_s);
        cut(first, free - n, behind + 1, sum_s + seconds, std::max(longest_s, seconds));
      }
  }
};

TEST_CASE("stages that cards share: as good as a brute force, and better than without") {
  int shared = 0, only_shared = 0, infeasible = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const auto cards = 1 + random() % 5;
    auto model = uniform_model(static_cast<int>(1 + random() % 5), 100'000 + random() % 3'000'000,
                               random() % 4'000'000);
    for (auto& layer : model.layers) {
      layer.forward_flops = std::pow(10.0, 9 + static_cast<double>(random() % 40) / 10);
      layer.output_bytes = random() % 2'000'000;
    }
    const auto topology = Topology::from_cluster(ClusterSpec::from_yaml(
        "{name: one, nodes: [{name: hgx, devices: [{gpu: h100-sxm, count: " +
            std::to_string(cards) + ", capacity: " + std::to_string(8 + random() % 60) + " MB}]}]}",
        "test"));
    const auto all = devices({"hgx/gpu0"});
    PlanOptions options{.micro_batches = static_cast<std::uint32_t>(1 + random() % 4),
                        .most_sharing = 4};
    causeway::Rate link{};
    if (cards > 1) link = topology.access(all[0], DeviceName::parse("hgx/gpu1"))->rate;
    SharedForce force{model, topology.find(all[0])->available_bytes / kGranule * kGranule, link,
                      options.micro_batches};
    force.cut(static_cast<std::uint32_t>(model.layers.size()), static_cast<int>(cards), 0, 0, 0);
    std::optional<Plan> plan;
    const auto refused = refusal([&] { plan = make_plan(model, topology, options); });
    CAPTURE(refused.text);
    CAPTURE(model.to_yaml());
    CAPTURE(plan ? plan->to_yaml() : std::string());
    REQUIRE(plan.has_value() == std::isfinite(force.best));
    infeasible += plan ? 0 : 1;
    if (!plan) continue;
    REQUIRE(plan->step_seconds == doctest::Approx(force.best).epsilon(1e-9));
    REQUIRE_NOTHROW(check_plan(*plan, model, topology));
    REQUIRE((Plan::from_yaml(plan->to_yaml(), "test") == *plan));
    const auto figures = causeway::plan_figures(*plan, model, topology, options);
    REQUIRE(figures.step_seconds == doctest::Approx(plan->step_seconds).epsilon(1e-9));
    if (std::ranges::none_of(plan->stages, [](const auto& each) { return !each.beside.empty(); }))
      continue;
    ++shared;
    auto single = options;
    single.most_sharing = 1;
    std::optional<Plan> other;
    if (refusal([&] { other = make_plan(model, topology, single); }).code == Errc::out_of_memory)
      ++only_shared;
    else
      REQUIRE(other->step_seconds >= plan->step_seconds);
  }
  MESSAGE(shared, " plans share, ", only_shared, " of them must; ", infeasible, " infeasible");
  CHECK(shared > 50);
  CHECK(only_shared > 10);
  CHECK(infeasible > 10);
}

TEST_CASE("unlike cards share in parts by speed or by memory") {
  const auto topology = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: two, nodes: [{name: desk, devices: [{gpu: rtx-5090, capacity: 30 MB}, "
      "{gpu: rtx-3090, capacity: 90 MB}]}]}",
      "test"));
  auto model = uniform_model(1, 6'000'000, 0);  // 24 MB of weights, and twice that beside.
  model.gradient_bytes_per_weight_byte = 1;
  model.optimizer_bytes_per_weight_byte = 2;
  model.layers[0].forward_flops = 1e15;
  CHECK(refusal([&] { (void)make_plan(model, topology); }).code == Errc::out_of_memory);
  const auto plan = make_plan(model, topology, {.micro_batches = 1, .most_sharing = 2});
  REQUIRE(plan.stages.size() == 1);
  REQUIRE(plan.stages[0].beside.size() == 1);
  CHECK(plan.stages[0].own_share() == doctest::Approx(0.25).epsilon(0.1));
  CHECK(plan.stages[0].state_bytes + plan.stages[0].beside[0].state_bytes >= 96'000'000);
  // A third and two thirds of whole granules: the sizes are those that a check finds.
  const auto half = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: two, nodes: [{name: desk, devices: [{gpu: rtx-5090, capacity: 105 MiB}, "
      "{gpu: rtx-3090, capacity: 52.5 MiB}]}]}",
      "test"));
  auto thirds = uniform_model(1, 600 * kGranule / 4, 0);
  thirds.gradient_bytes_per_weight_byte = 1;
  thirds.optimizer_bytes_per_weight_byte = 2;
  const auto in_thirds =
      make_plan(thirds, half, {.micro_batches = 1, .stages = 1, .most_sharing = 2});
  REQUIRE(in_thirds.stages[0].beside.size() == 1);
  CHECK_NOTHROW(check_plan(in_thirds, thirds, half));
  auto light = uniform_model(1, 1000, 0);
  light.layers[0].forward_flops = 1e15;
  const auto fast = make_plan(light, topology, {.micro_batches = 1, .most_sharing = 2});
  REQUIRE(fast.stages[0].beside.size() == 1);
  CHECK(fast.stages[0].own_share() > 0.6);  // The faster card has more of the work.
  auto broken = fast;
  broken.stages[0].beside[0].device = fast.stages[0].device;
  CHECK(refusal([&] { check_plan(broken, light, topology); }).says("stage already"));
  broken = fast;
  broken.stages[0].beside[0].share = 1;
  CHECK(refusal([&] { check_plan(broken, light, topology); }).says("has a share of 0"));
}

TEST_CASE("twins only where every figure agrees") {
  const auto topology = pool("32 MB", "10 MB");
  std::vector<DeviceName> names;
  for (const auto& device : topology.devices()) names.push_back(device.name);
  CHECK(causeway::collapse_devices(topology, names).types.size() == 3);
  auto lent = topology;
  lent.set_available(names[0], 16 << 20);
  CHECK(causeway::collapse_devices(lent, names).types.size() == 4);
}

// A fast, dear, hungry device and two slow, cheap ones.
static Topology mixed() {
  return Topology::from_cluster(
      ClusterSpec::from_yaml("{name: mixed, nodes: ["
                             "{name: big, devices: [{gpu: h100-sxm, capacity: 30 MB}]},"
                             "{name: small, devices: [{gpu: rtx-3090, count: 2, capacity: 30 MB}]},"
                             "{name: other, devices: [{gpu: rtx-4090, capacity: 30 MB}]}],"
                             "links: [{between: [big, small], bandwidth: 10 GB/s, latency: 10 us},"
                             "{between: [big, other], bandwidth: 10 GB/s, latency: 10 us},"
                             "{between: [small, other], bandwidth: 10 GB/s, latency: 10 us}]}",
                             "test"));
}

TEST_CASE("constraints of the user are kept, and cost what they cost") {
  const auto topology = mixed();
  const auto model = uniform_model(8, 100'000, 1000);
  const auto free = make_plan(model, topology);
  const auto uses = [](const Plan& plan, const std::string& node) {
    return std::ranges::any_of(plan.stages,
                               [&](const auto& stage) { return stage.device.node == node; });
  };
  CHECK(uses(free, "big"));

  const auto without = make_plan(model, topology, {.avoid = {"big"}});
  CHECK_FALSE(uses(without, "big"));
  CHECK(without.step_seconds > free.step_seconds);
  CHECK(without.certificate.starts_with("optimal"));

  const auto small = devices({"small/gpu1"})[0];
  const auto pinned = make_plan(model, topology, {.pins = {{3, small}, {4, small}}});
  bool held = false;
  for (const auto& stage : pinned.stages)
    if (stage.device == small) held = stage.first_layer <= 3 && stage.end_layer >= 5;
  CHECK(held);
  CHECK(pinned.step_seconds >= free.step_seconds);

  const auto one_node = make_plan(model, topology, {.most_nodes = 1});
  for (const auto& stage : one_node.stages)
    CHECK(stage.device.node == one_node.stages.front().device.node);
  CHECK(one_node.certificate.starts_with("optimal"));

  // A margin that leaves no room for all layers on the fastest device.
  const auto roomy = make_plan(model, topology, {.margin = 0.6});
  for (const auto& stage : roomy.stages)
    CHECK(stage.state_bytes + stage.activation_bytes <= 12'000'000);
  const auto big = devices({"big/gpu0"})[0];
  const auto spared = make_plan(model, topology, {.margins = {{big, 25'000'000}}});
  for (const auto& stage : spared.stages)
    if (stage.device == big) CHECK(stage.state_bytes + stage.activation_bytes <= 5'000'000);

  const auto code = [&](PlanOptions options) {
    return refusal([&] { (void)make_plan(model, topology, options); }).code;
  };
  CHECK(code({.pins = {{8, small}}}) == Errc::invalid_argument);
  CHECK(code({.only = devices({"big/gpu0"}), .pins = {{0, small}}}) == Errc::invalid_argument);
  CHECK(code({.avoid = {"nowhere"}}) == Errc::not_found);
  CHECK(code({.avoid = {"big", "small", "other"}}) == Errc::invalid_argument);
  CHECK(code({.margin = 1}) == Errc::invalid_argument);
  CHECK(code({.margins = {{devices({"nowhere/gpu0"})[0], 1}}}) == Errc::not_found);
}

TEST_CASE("objectives choose different plans, each the best in its own") {
  const auto topology = mixed();
  const auto model = uniform_model(8, 100'000, 1000);
  const std::map<std::string, double> prices = {
      {"h100-sxm", 100}, {"rtx-3090", 0.2}, {"rtx-4090", 0.4}};
  const auto cheap =
      make_plan(model, topology, {.objective = Objective::cost, .price_per_hour = prices});
  const auto fast = make_plan(model, topology, {.price_per_hour = prices});
  const auto price = [&](const Plan& plan) {
    double sum = 0;
    for (const auto& stage : plan.stages) sum += prices.at(topology.find(stage.device)->model);
    return sum * plan.step_seconds;
  };
  CHECK(price(cheap) < price(fast));
  CHECK(cheap.step_seconds > fast.step_seconds);
  const auto frugal = make_plan(
      model, topology,
      {.objective = Objective::energy, .watts = {{"h100-sxm", 90'000}}});  // Nobody would.
  for (const auto& stage : frugal.stages) CHECK(stage.device.node != "big");
  const auto soon = make_plan(model, topology, {.objective = Objective::latency});
  double latency = 0;
  for (const auto& stage : soon.stages) latency += stage.seconds;
  double other = 0;
  for (const auto& stage : fast.stages) other += stage.seconds;
  CHECK(latency <= other * (1 + 1e-9));
  const auto unknown =
      refusal([&] { (void)make_plan(model, topology, {.objective = Objective::cost}); });
  CHECK(unknown.code == Errc::invalid_argument);
  CHECK(unknown.says("the price of a"));
  for (const auto name : {"time", "throughput", "latency", "cost", "energy"})
    CHECK(causeway::to_string(*causeway::objective_from_string(name)) == name);
  CHECK_FALSE(causeway::objective_from_string("luck").has_value());
}

TEST_CASE("the joules of a plan's figures are what the search for least energy minimised") {
  const auto topology = pool("32 MB", "10 MB");
  auto model = uniform_model(4, 1000, 1000);
  for (auto& layer : model.layers) layer.output_bytes = 10'000'000;  // Sends take most of the step.
  std::vector<DeviceName> names;
  for (const auto& device : topology.devices())
    if (device.name.kind == causeway::DeviceKind::gpu) names.push_back(device.name);
  for (const std::uint32_t stages : {1, 2, 4}) {
    const PlanOptions options{.micro_batches = 4, .stages = stages, .objective = Objective::energy};
    const causeway::PlanProblem chain(model, topology, names, options);
    const auto found = causeway::search_chain(chain.problem());
    const auto plan = make_plan(model, topology, options);
    const auto figures = causeway::plan_figures(plan, model, topology, options);
    REQUIRE(figures.joules.has_value());
    CHECK(*figures.joules == doctest::Approx(found.value).epsilon(1e-9));
  }
}

TEST_CASE("more than 4096 layers are refused before tables of every pair of them are made") {
  const auto topology = pool("32 MB", "10 MB");
  const auto deep =
      refusal([&] { (void)make_plan(uniform_model(4097, 1, 0), topology, {.micro_batches = 1}); });
  CHECK(deep.code == Errc::invalid_argument);
  CHECK(deep.says("at most 4096 are planned for"));
}

TEST_CASE("an alternative that breaks what the user wants says so") {
  const auto topology = pool("32 MB", "10 MB");
  const auto model = uniform_model(10, 1000, 1000);
  const auto even = [&](const PlanOptions& options) {
    const auto plan = make_plan(model, topology, options);
    for (const auto& each : causeway::plan_alternatives(plan, model, topology, options))
      if (each.what == "even cut over all devices") return each;
    return causeway::PlanAlternative{};
  };
  CHECK(even({}).figures.has_value());
  const auto pinned = even({.pins = {{0, devices({"hgx/gpu7"})[0]}}});
  CHECK_FALSE(pinned.figures.has_value());
  CHECK(pinned.why_not == "puts layer 'layer0' on desktop/gpu0, but it is pinned to hgx/gpu7");
  const auto one_node = even({.most_nodes = 1});
  CHECK_FALSE(one_node.plan.has_value());
  CHECK(one_node.why_not == "takes 2 nodes, and at most 1 may be used");
  const auto kept = even({.margins = {{devices({"desktop/gpu1"})[0], 32'000'000}}});
  CHECK_FALSE(kept.figures.has_value());
  CHECK(kept.why_not.starts_with("does not leave the margin free: "));
}

TEST_CASE("a refusal says what would make it fit, and that is true") {
  const auto topology = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: two, nodes: [{name: n, devices: [{gpu: l40s, count: 2, capacity: 32 MB}]}]}",
      "test"));
  // Three layers of 20 MB: each device holds one.
  const auto model = uniform_model(3, 1'250'000, 0);
  const auto more = refusal([&] { (void)make_plan(model, topology); });
  CHECK(more.code == Errc::out_of_memory);
  CHECK(more.says("one more device like n/gpu0 would do"));
  const auto three = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: three, nodes: [{name: n, devices: [{gpu: l40s, count: 3, capacity: 32 MB}]}]}",
      "test"));
  CHECK_NOTHROW((void)make_plan(model, three));
  // Two layers with activations of 6 MB: four micro-batches in flight are too many, two are not.
  auto active = uniform_model(4, 500'000, 0);
  for (auto& layer : active.layers) layer.activation_bytes = 6'000'000;
  const auto fewer = refusal([&] { (void)make_plan(active, topology, {.micro_batches = 8}); });
  CHECK(fewer.code == Errc::out_of_memory);
  CHECK(fewer.says("1 micro-batch in place of 8 would do"));
  CHECK_NOTHROW((void)make_plan(active, topology, {.micro_batches = 1}));
}

TEST_CASE("what a process takes by being there stays free where that is asked for") {
  const auto topology = Topology::from_cluster(
      ClusterSpec::from_yaml("{name: s, nodes: [{name: n, devices: [{gpu: rtx-4090}]}]}", "test"));
  // 24 GB, all but 0.2 GB of it state: the context does not fit beside it.
  auto model = uniform_model(4, 5'950'000'000 / 4, 0);
  model.gradient_bytes_per_weight_byte = 0;
  model.optimizer_bytes_per_weight_byte = 0;
  CHECK_NOTHROW((void)make_plan(model, topology, {.micro_batches = 1}));
  CHECK(refusal([&] {
          (void)make_plan(model, topology, {.micro_batches = 1, .reserve_runtime = true});
        }).code == Errc::out_of_memory);
}

TEST_CASE("measured rates and links decide where they are given") {
  const auto topology = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: s, nodes: [{name: n, devices: [{gpu: h100-sxm}, {gpu: rtx-4090}]}]}", "test"));
  auto model = uniform_model(4, 1'000'000, 0);
  for (auto& layer : model.layers) layer.forward_flops = 1e12;
  PlanOptions options{.micro_batches = 1, .objective = Objective::latency};
  CHECK(make_plan(model, topology, options).stages[0].device == devices({"n/gpu0"})[0]);
  causeway::Calibration calibration;
  calibration.steps = {{"h100-sxm", 1e13, 0, 0, 1.0}};  // It is throttled.
  options.calibrated = calibration.fit();
  const auto plan = make_plan(model, topology, options);
  CHECK(plan.stages[0].device == devices({"n/gpu1"})[0]);
  calibration.steps = {{"h100-sxm", 1e14, 0, 0, 0.1}, {"rtx-4090", 1e13, 0, 0, 1.0}};
  options.calibrated = calibration.fit();
  const auto fast = make_plan(model, topology, options);
  CHECK(fast.stages[0].device == devices({"n/gpu0"})[0]);
  CHECK(fast.step_seconds / (3 * 4e12 / 1e15) == doctest::Approx(1).epsilon(0.02));
  options.serving = true;  // Its reading is not measured: the specification's.
  CHECK(make_plan(model, topology, options).step_seconds < 0.02);
}

TEST_CASE("serving: a token takes the reading of what a stage holds") {
  // Sixteen layers of 4 GB over an H100 and two 4090: reading decides, and latency wants the H100.
  const auto topology = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: s, nodes: [{name: n, devices: [{gpu: h100-sxm}, {gpu: rtx-4090, count: 2}]}]}",
      "test"));
  auto model = uniform_model(16, 1'000'000'000, 0);
  model.gradient_bytes_per_weight_byte = 0;
  model.optimizer_bytes_per_weight_byte = 0;
  const auto plan = make_plan(
      model, topology, {.micro_batches = 1, .serving = true, .objective = Objective::latency});
  REQUIRE(plan.stages.size() == 1);
  CHECK(plan.stages[0].device == devices({"n/gpu0"})[0]);
  CHECK(plan.step_seconds == doctest::Approx(64e9 / (0.91 * 3350e9) + 16 * 0.078e-3).epsilon(1e-6));
  // Of experts and tables a token reads a part.
  auto sparse = model;
  for (auto& layer : sparse.layers) layer.read_bytes = 1'000'000'000;
  const auto quick = make_plan(
      sparse, topology, {.micro_batches = 1, .serving = true, .objective = Objective::latency});
  CHECK(quick.step_seconds ==
        doctest::Approx(16e9 / (0.91 * 3350e9) + 16 * 0.078e-3).epsilon(1e-6));
  // Quantised weights are taken apart as they are read: 20 in a cycle of 132 multiprocessors.
  auto packed = model;
  double values = 0;
  for (auto& layer : packed.layers) {
    layer.tensors[0].dtype = DType::q4_k;
    layer.tensors[0].shape = {256 * 20'000'000ULL};
    values += 256 * 20e6;
  }
  const auto taken = make_plan(
      packed, topology, {.micro_batches = 1, .serving = true, .objective = Objective::latency});
  CHECK(taken.stages.size() == 1);
  CHECK(taken.step_seconds == doctest::Approx(std::hypot(values * 144 / 256 / (0.91 * 3350e9),
                                                         values / (20 * 132 * 1.83e9)) +
                                              16 * 0.078e-3)
                                  .epsilon(1e-6));
  // For throughput the slow cards take their share.
  const auto wide = make_plan(
      model, topology, {.micro_batches = 1, .serving = true, .objective = Objective::throughput});
  CHECK(wide.stages.size() == 3);
  double longest = 0;
  for (const auto& stage : wide.stages) longest = std::max(longest, stage.seconds);
  CHECK(longest < plan.step_seconds);
}
