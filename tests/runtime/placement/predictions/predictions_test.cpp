// Predictions held against measurements: errors of the rows that nothing was fitted to, rankings,
// memory; and that the committed coefficients and docs/planner.md are what the data gives.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "tests/runtime/placement/predictions/models.h"
#include "tests/runtime/placement/predictions/published.h"
#include "tests/runtime/placement/predictions/report.h"
#include "tests/runtime/placement/predictions/sailor.h"

using namespace causeway::predictions;
using doctest::Approx;

// The folder of measurements, which is no part of the repository.
static std::optional<std::string> data_folder() {
  const char* root = std::getenv("CAUSEWAY_SHARED");
  const auto folder =
      std::filesystem::path(root != nullptr ? root : CAUSEWAY_SHARED_DEFAULT) / "planner-data";
  if (std::filesystem::exists(folder / "published.csv")) return folder.string();
  MESSAGE("SKIPPED: ", folder.string(), " is not there; CAUSEWAY_SHARED names its parent");
  return std::nullopt;
}

TEST_CASE("every family within a tenth on the rows that were not fitted") {
  const auto data = data_folder();
  if (!data) return;
  CHECK(unpredicted(*data).empty());
  auto rows = compare_published(*data);
  const auto plans = compare_plans(*data);
  rows.insert(rows.end(), plans.begin(), plans.end());
  for (const auto& row : rows) {
    INFO(row.family, " ", row.id);
    CHECK(mean_error(rows, row.family, false) < 0.1);
    CHECK(std::abs(row.error()) < 0.3);
  }
}

TEST_CASE("every ranking is right") {
  const auto data = data_folder();
  if (!data) return;
  const auto rankings = compare_rankings(*data);
  CHECK(rankings.size() >= 8);
  for (const auto& ranking : rankings) {
    INFO(ranking.what);
    CHECK(ranking.measured == ranking.predicted);
  }
}

TEST_CASE("memory is within a tenth for every row and never far below") {
  const auto data = data_folder();
  if (!data) return;
  const auto rows = compare_memory(*data);
  for (const auto& row : rows) {
    INFO(row.id);
    CHECK(row.error() > -0.03);
    CHECK(row.error() < 0.1);
  }
  CHECK(mean_error(rows, "memory, sailor clariden", false) < 0.03);
  CHECK(mean_error(rows, "memory, sailor mit", false) < 0.05);
  CHECK(mean_error(rows, "memory, published", false) < 0.1);
}

TEST_CASE("the committed coefficients are what the fitted rows give") {
  const auto data = data_folder();
  if (!data) return;
  const auto fitted = fit_families(read_rows(*data + "/published.csv"));
  const Coefficients committed;
  constexpr double kRounding = 0.005;
  CHECK(committed.ampere.gemm == Approx(fitted.ampere.gemm).epsilon(kRounding));
  CHECK(committed.hopper.gemm == Approx(fitted.hopper.gemm).epsilon(kRounding));
  CHECK(committed.hopper.elementwise == Approx(fitted.hopper.elementwise).epsilon(kRounding));
  CHECK(committed.workstation.gemm == Approx(fitted.workstation.gemm).epsilon(kRounding));
  CHECK(committed.fsdp_factor == Approx(fitted.fsdp_factor).epsilon(kRounding));
  CHECK(committed.prefill_gemm == Approx(fitted.prefill_gemm).epsilon(kRounding));
  CHECK(committed.dequantise_bytes == Approx(fitted.dequantise_bytes).epsilon(kRounding));
  CHECK(committed.unpack_per_cycle == Approx(fitted.unpack_per_cycle).epsilon(kRounding));
  CHECK(committed.serving_gemm == Approx(fitted.serving_gemm).epsilon(kRounding));
  CHECK(committed.notebook_bandwidth == Approx(fitted.notebook_bandwidth).epsilon(kRounding));
  const auto memory = fit_memory(read_sailor(*data + "/sailor"));
  const SailorMemory stated;
  CHECK(stated.fragmentation == Approx(memory.fragmentation).epsilon(0.02));
  CHECK(stated.communicator_bytes == Approx(memory.communicator_bytes).epsilon(0.02));
  CHECK(stated.score_bytes == Approx(memory.score_bytes).epsilon(0.02));
  CHECK(stated.logit_bytes == Approx(memory.logit_bytes).epsilon(0.02));
}

TEST_CASE("docs/planner.md holds the table as it is generated") {
  const auto data = data_folder();
  if (!data) return;
  std::ifstream file(CAUSEWAY_SOURCE_DIR "/docs/planner.md");
  std::stringstream page;
  page << file.rdbuf();
  const bool up_to_date = page.str().find(report(*data)) != std::string::npos;
  INFO("run predictions on the data and put what it prints between the page's markers");
  CHECK(up_to_date);
}

static Row row_of(std::map<std::string, std::string> fields) { return Row{std::move(fields)}; }

static double value_of(const Row& row) {
  const auto prediction = predict(row, Coefficients());
  REQUIRE(prediction);
  return prediction->value;
}

TEST_CASE("a card is known by any spelling of its name") {
  for (const auto* name : {"RTX4090", "rtx-4090", "RTX_4090"}) {
    CAPTURE(name);
    CHECK(known_device(name).value().name == "rtx-4090");
  }
  CHECK(known_device("A100-SXM-80").value().name == "a100-sxm");
  CHECK(known_device("H100-PCIe").value().name == "h100-pcie");
  CHECK(known_device("H100").value().name == "h100-sxm");
  CHECK(known_device("A6000").value().name == "rtx-a6000");
  CHECK(known_device("RTX-6000-Ada").value().spec_flops_per_s == 364e12);
  CHECK(known_device("RTX-PRO-6000-Max-Q").value().name == "rtx-pro-6000-max-q");
  CHECK(known_device("T1200 via localhost RPC").value().name == "t1200");
  CHECK_FALSE(known_device("Voodoo2"));
}

TEST_CASE("what a row says of its layout is heeded") {
  Row fsdp = row_of({{"family", "fsdp"},
                     {"model", "Llama-3.1-70B"},
                     {"hardware", "H100-SXM-80"},
                     {"gpus", "256"},
                     {"parallel", "FSDP, TP8, full AC"},
                     {"seq", "8192"},
                     {"global_batch", "512"},
                     {"micro_batch", "16"},
                     {"precision", "bf16"},
                     {"notes", "peak 70 GiB"},
                     {"metric", "tokens_s_gpu"}});
  const auto full = predict(fsdp, Coefficients()).value();
  const auto with = [&](const char* field, const char* text) {
    auto changed = fsdp;
    changed.fields[field] = text;
    return predict(changed, Coefficients()).value();
  };
  // All layers run again: a quarter more work than none, and their inputs are all that is kept.
  const auto kept = with("parallel", "FSDP, TP8, no AC");
  CHECK(kept.value / full.value == Approx(4.0 / 3).epsilon(0.06));
  CHECK(*kept.peak_bytes > 2 * *full.peak_bytes);
  const auto half = with("parallel", "FSDP, TP8, selective AC");
  CHECK(half.value > full.value);
  CHECK(half.value < kept.value);
  CHECK(*full.peak_bytes == Approx(*with("parallel", "FSDP TP=8, ckpt").peak_bytes));
  // Without tensor parallelism a card has eight times the activations.
  CHECK(*with("parallel", "FSDP, full AC").peak_bytes > 3 * *full.peak_bytes);
  CHECK(with("precision", "fp8").value > 1.2 * full.value);

  Row serving = row_of({{"family", "serving"},
                        {"model", "Llama-3.3-70B-FP4"},
                        {"hardware", "RTX-PRO-6000"},
                        {"gpus", "4"},
                        {"parallel", "PP4"},
                        {"precision", "fp4"},
                        {"notes", "ISL/OSL 1000/1000"},
                        {"metric", "tokens_s_total"}});
  const double pipeline = value_of(serving);
  serving.fields["parallel"] = "TP4";  // Over PCIe that is dear.
  CHECK(value_of(serving) < 0.8 * pipeline);
  serving.fields["parallel"] = "PP1";
  const double copies = value_of(serving);
  serving.fields["gpus"] = "1";
  CHECK(copies == Approx(4 * value_of(serving)));

  // What fits in no other way has its weights in host memory; what does not even then is unknown.
  Row consumer = row_of({{"family", "consumer-train"},
                         {"model", "Qwen2.5-72B"},
                         {"hardware", "RTX4090"},
                         {"gpus", "1"},
                         {"parallel", ""},
                         {"seq", "1024"},
                         {"global_batch", "512"},
                         {"metric", "tokens_s_total"}});
  CHECK(value_of(consumer) > 0);
  consumer.fields["hardware"] = "T1200";
  CHECK_FALSE(predict(consumer, Coefficients()));
}

TEST_CASE("a stage goes by its slowest card, and its times are not the first one's") {
  const auto data = data_folder();
  if (!data) return;
  const auto sailor = read_sailor(*data + "/sailor");
  auto plan = *std::ranges::find(sailor.plans, "mit/N2_D2", &SailorPlan::id);
  const double seconds = predict_seconds(sailor, plan);
  auto& replicas = plan.stages.front().replicas;
  REQUIRE(replicas.size() == 2);
  REQUIRE(replicas[0].gpu != replicas[1].gpu);
  std::swap(replicas[0], replicas[1]);
  CHECK(predict_seconds(sailor, plan) == Approx(seconds));
  replicas[0] = replicas[1];
  const double alike = predict_seconds(sailor, plan);
  replicas.assign(2, {"RTX-3090", 2});
  CHECK(std::max(alike, predict_seconds(sailor, plan)) == Approx(seconds).epsilon(0.001));
}

TEST_CASE("a fit finds the coefficients that made the figures") {
  const std::vector<std::pair<double, double>> points = {{1, 5}, {2, 8}, {4, 14}, {8, 26}};
  const auto fit = causeway::fit_coefficients(
      [&](const std::vector<double>& c) {
        std::vector<double> residuals;
        for (const auto& [x, y] : points) residuals.push_back(std::log((c[0] + c[1] * x) / y));
        return residuals;
      },
      {0.1, 0.1}, {10, 10});
  CHECK(fit.coefficients[0] == Approx(2).epsilon(0.001));
  CHECK(fit.coefficients[1] == Approx(3).epsilon(0.001));
  CHECK(fit.error < 1e-4);
  CHECK_THROWS(
      causeway::fit_coefficients([](const auto&) { return std::vector<double>{}; }, {1}, {1}));
}
