// Goal:   a placed model takes what the plan counted, and a tied tensor is the same bytes as its
//         source where both lie on one stage, and has its own elsewhere.
// Method: one real daemon, a model in one stage and in two.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "causeway/sharded_model.h"

#include <doctest/doctest.h>

#include "causeway/plan.h"
#include "live_pool.h"

using namespace causeway;

namespace {

constexpr auto kCluster = R"(
name: test
nodes:
  - {name: a, devices: [{gpu: rtx-5090, count: 2, capacity: 16 MiB}]}
)";

ModelSpec tied_model() {
  ModelSpec model;
  model.name = "tied";
  model.layers = {
      {"embed", {{"table", DType::f32, {300, 100}}}, 0, 0, 0},
      {"block", {{"w", DType::f32, {100, 100}}}, 0, 0, 0},
      {"head", {{"norm", DType::f32, {100}}, {"out", DType::f32, {300, 100}, "table"}}, 0, 0, 0}};
  return model;
}

Plan plan_of(const std::vector<std::uint32_t>& ends) {
  Plan plan;
  plan.model = "tied";
  std::uint32_t first = 0;
  for (const auto end : ends) {
    const auto number = std::to_string(plan.stages.size());
    plan.stages.push_back({DeviceName::parse("a/gpu" + number), first, end, 0, 0, 0});
    first = end;
  }
  return plan;
}

}  // namespace

TEST_CASE("a tied head lies where its table does, or has a copy") {
  const test::LivePool live(kCluster, {"a"});
  auto pool = live.connect("a");
  const auto model = tied_model();
  model.validate();
  for (const auto& ends : {std::vector<std::uint32_t>{3}, {1, 3}}) {
    CAPTURE(ends.size());
    const auto plan = plan_of(ends);
    std::vector<int> stages;
    std::uint64_t counted = 0;
    for (const auto& stage : plan.stages) {
      stages.push_back(static_cast<int>(stages.size()));
      counted += stage_memory(model, stage.first_layer, stage.end_layer, 1).state_bytes();
    }
    const auto placed = ShardedModel::place(pool, model, plan, stages);
    CHECK(live.used_bytes() == counted);
    for (const auto kind : {StateKind::weights, StateKind::gradients, StateKind::optimizer}) {
      const auto table = placed.tensor("table", kind);
      const auto out = placed.tensor("out", kind);
      CHECK(table.size() == out.size());
      CHECK((table.data() == out.data()) == (ends.size() == 1));
      CHECK(placed.tensor("norm", kind).data() != table.data());
    }
  }
}
