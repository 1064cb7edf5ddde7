#include "tests/runtime/placement/predictions/sailor.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>

#include "runtime/placement/cost/calibration.h"
#include "runtime/placement/cost/training_cost.h"
#include "tests/runtime/placement/predictions/models.h"

namespace causeway::predictions {

namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr std::uint64_t kSequence = 2048;
constexpr double kGradientBytes = 4;  // Reduced in fp32.
constexpr double kLogitBytes = 14;    // Megatron keeps the fp16 and an fp32 copy beside the loss.
constexpr double kFragmentation = 0.02;  // The margin: what an allocator cannot use.

// Cards without NVLink: NCCL's buffers in shared memory grow with the ranks of a node.
double mit_runtime_bytes(std::uint32_t tensor) { return 0.5e9 + 0.65e9 * (tensor - 2.0); }

json::value parse(const fs::path& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path.string() + ": cannot be read");
  std::stringstream text;
  text << file.rdbuf();
  return json::parse(text.str());
}

std::uint32_t number(json::string_view text) {
  return static_cast<std::uint32_t>(std::stoul(std::string(text)));
}

SailorPlan read_plan(const fs::path& path, const fs::path& root) {
  const auto file = parse(path);
  const auto& pipeline = file.at("pipeline_list").as_array().at(0);
  SailorPlan plan;
  const auto cluster = fs::relative(path, root).begin()->string();
  auto name = path.stem().string();
  if (name.starts_with("plan_config_")) name.erase(0, 12);
  plan.id = cluster + "/" + name;
  plan.micro_batch = file.at("mbs").to_number<std::uint32_t>();
  plan.global_batch = file.at("gbs").to_number<std::uint32_t>();
  plan.measured_s = file.at("real").to_number<double>();
  if (file.as_object().contains("max_mem"))
    plan.measured_bytes = file.at("max_mem").to_number<double>();
  const auto& layers = pipeline.at("layers_per_stage").as_array();
  const auto& groups = pipeline.at("tmp_per_stage").as_array();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    SailorStage stage;
    const auto& first = groups.at(i).at(0);
    stage.gpu = first.at(0).at(0).at(0).as_string().c_str();
    stage.tensor_parallel = first.at(1).to_number<std::uint32_t>();
    stage.replicas = static_cast<std::uint32_t>(groups.at(i).as_array().size());
    for (const auto& layer : layers.at(i).as_array())
      stage.layers.push_back(layer.to_number<std::uint32_t>());
    plan.stages.push_back(std::move(stage));
  }
  plan.group = cluster + " " + path.parent_path().filename().string() + ", batch " +
               std::to_string(plan.global_batch);
  return plan;
}

// A layer's times; a batch never takes longer than a larger one did, whatever a first run measured.
SailorData::Layer layer_times(const SailorData& data, const std::string& gpu,
                              std::uint32_t micro_batch, std::uint32_t tensor,
                              std::uint32_t layer) {
  const auto& batches = data.profiles.at(gpu);
  SailorData::Layer best = batches.at(micro_batch).at(tensor).at(layer);
  for (const auto& [batch, degrees] : batches) {
    const auto at = degrees.find(tensor);
    if (batch < micro_batch || at == degrees.end()) continue;
    best.forward_s = std::min(best.forward_s, at->second.at(layer).forward_s);
    best.backward_s = std::min(best.backward_s, at->second.at(layer).backward_s);
  }
  return best;
}

double parameters_of(const TransformerShape& shape, const std::vector<std::uint32_t>& layers) {
  double sum = 0;
  for (const auto layer : layers)
    sum += static_cast<double>(layer == 0                  ? shape.embedding_parameters()
                               : layer == shape.layers + 1 ? shape.head_parameters()
                                                           : shape.layer_parameters(layer - 1));
  return sum;
}

TransformerShape opt() {
  auto shape = *known_model("OPT-350");
  shape.learned_positions = 2050;
  return shape;
}

// The nodes of the mit cluster share one Ethernet: the slowest rate that was fitted for any of its
// cards is the network's, as the cards' own fits come from other machines.
const SailorData::LinkFit& link_of(const SailorData& data, const SailorPlan& plan,
                                   const std::string& gpu, std::uint32_t flows) {
  const auto fit = [&](const std::string& name) -> const SailorData::LinkFit& {
    const auto& by_flows = data.networks.at(name);
    const auto at = by_flows.find(flows);
    return at != by_flows.end() ? at->second : by_flows.begin()->second;
  };
  if (!plan.id.starts_with("mit/")) return fit(gpu);
  const SailorData::LinkFit* slowest = &fit(gpu);
  for (const auto* card : {"RTX-3090", "Titan-RTX", "RTX-2080"})
    if (data.networks.contains(card) && fit(card).most_bytes_per_s < slowest->most_bytes_per_s)
      slowest = &fit(card);
  return *slowest;
}

}  // namespace

double SailorData::LinkFit::bytes_per_s(double message_bytes) const {
  const double x = std::log2(std::max(1.0, message_bytes) / (1024 * 1024));
  return std::clamp((a * x * x + b * x + c) * 1e9, 1e7, most_bytes_per_s);
}

SailorData read_sailor(const std::string& folder) {
  const fs::path root(folder);
  SailorData data;
  for (const auto& entry : fs::recursive_directory_iterator(root / "profiles")) {
    if (entry.path().filename() != "profile.json") continue;
    auto& batches = data.profiles[entry.path().parent_path().filename().string()];
    const auto profile = parse(entry.path());
    for (const auto& [batch, degrees] : profile.as_object())
      for (const auto& [degree, layers] : degrees.as_object()) {
        auto& list = batches[number(batch)][number(degree)];
        list.resize(layers.as_object().size());
        for (const auto& [layer, times] : layers.as_object())
          list.at(std::stoul(layer)) = {times.at(0).to_number<double>(),
                                        times.at(1).to_number<double>(),
                                        times.at(2).to_number<double>()};
      }
  }
  const auto network = parse(root / "network_coeffs_all_homo.json");
  for (const auto& [gpu, flows] : network.at("inter").as_object())
    for (const auto& [count, fit] : flows.as_object())
      data.networks[gpu][number(count)] = {
          fit.at(0).at(0).to_number<double>(), fit.at(0).at(1).to_number<double>(),
          fit.at(0).at(2).to_number<double>(), fit.at(1).to_number<double>()};
  std::set<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(root / "validation"))
    if (entry.path().extension() == ".json") files.insert(entry.path());
  for (const auto& file : files) data.plans.push_back(read_plan(file, root / "validation"));
  return data;
}

double predict_seconds(const SailorData& data, const SailorPlan& plan, double send_factor) {
  const auto shape = opt();
  const auto micro_batches = plan.global_batch / (plan.micro_batch * plan.stages.front().replicas);
  std::vector<double> stage_s;
  double update_s = 0;
  double reduce_s = 0;
  for (const auto& stage : plan.stages) {
    double work_s = 0;
    double own_update_s = 0;
    for (const auto layer : stage.layers) {
      const auto times =
          layer_times(data, stage.gpu, plan.micro_batch, stage.tensor_parallel, layer);
      work_s += times.forward_s + times.backward_s;
      own_update_s += times.update_s;
    }
    stage_s.push_back(work_s);
    update_s = std::max(update_s, own_update_s);
    if (stage.replicas < 2) continue;
    // The devices of a node reduce their shares at the same time over its network.
    const double bytes = kGradientBytes * parameters_of(shape, stage.layers);
    const auto& link = link_of(data, plan, stage.gpu, stage.tensor_parallel);
    const double rate = link.bytes_per_s(bytes / stage.tensor_parallel);
    reduce_s = std::max(reduce_s, all_reduce_seconds({rate}, stage.replicas, bytes));
  }
  PipelineTime time;
  std::vector<double> send_s(plan.stages.size(), 0);
  for (std::size_t i = 0; i + 1 < plan.stages.size(); ++i) {
    const double bytes = 2.0 * plan.micro_batch * static_cast<double>(kSequence) * shape.hidden;
    const double rate = std::min(link_of(data, plan, plan.stages[i].gpu, 1).bytes_per_s(bytes),
                                 link_of(data, plan, plan.stages[i + 1].gpu, 1).bytes_per_s(bytes));
    const double both_ways_s = 2 * send_factor * transfer_seconds({rate}, bytes);
    send_s[i] += both_ways_s;
    send_s[i + 1] += both_ways_s;
    time.sum_s += both_ways_s;
  }
  for (std::size_t i = 0; i < stage_s.size(); ++i) {
    time.bottleneck_s = std::max(time.bottleneck_s, stage_s[i] + send_s[i]);
    time.sum_s += stage_s[i];
  }
  // step = sum + (m - 1) max, where the sum counts each send once.
  return time.sum_s + (micro_batches - 1.0) * time.bottleneck_s + update_s + reduce_s;
}

double fit_send_factor(const SailorData& data) {
  return fit_coefficients(
             [&](const std::vector<double>& factor) {
               std::vector<double> residuals;
               for (std::size_t i = 1; i < data.plans.size(); i += 2)
                 residuals.push_back(std::log(predict_seconds(data, data.plans[i], factor[0]) /
                                              data.plans[i].measured_s));
               return residuals;
             },
             {0}, {4})
      .coefficients[0];
}

double predict_bytes(const SailorPlan& plan, double runtime_bytes) {
  const auto shape = opt();
  TrainingSetup setup;
  setup.sequence = kSequence;
  setup.micro_batch = plan.micro_batch;
  setup.micro_batches = plan.global_batch / (plan.micro_batch * plan.stages.front().replicas);
  setup.pipeline = static_cast<std::uint32_t>(plan.stages.size());
  setup.flash_attention = false;
  setup.logit_bytes = kLogitBytes;
  setup.dropout = true;
  const bool mit = plan.id.starts_with("mit/");
  // The mit runs on two nodes kept one input per layer and sample (4 MB): they ran layers again.
  const bool again = plan.id.starts_with("mit/N2_");
  setup.recompute = again ? Recompute::full : Recompute::none;
  double most = 0;
  for (std::uint32_t i = 0; i < plan.stages.size(); ++i) {
    const auto& stage = plan.stages[i];
    setup.tensor_parallel = stage.tensor_parallel;
    std::uint32_t first = shape.layers;
    std::uint32_t end = 0;
    for (const auto layer : stage.layers) {
      if (layer == 0 || layer > shape.layers) continue;
      first = std::min(first, layer - 1);
      end = std::max(end, layer);
    }
    const auto memory = stage_training_memory(
        shape, setup, i, std::min(first, end), end,
        {mit ? mit_runtime_bytes(stage.tensor_parallel) : runtime_bytes, kFragmentation});
    most = std::max(most, memory.bytes());
  }
  return most;
}

}  // namespace causeway::predictions
