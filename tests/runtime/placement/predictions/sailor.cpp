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
// DeepSpeed's pipeline hands the mask of attention on with the activations, as 16-bit values: a
// square of the sequence for each sample (PipelineEngine, "cast the mask to half").
constexpr double kMaskBytes = 2;
// A job whose activations would take more of a card runs its layers again: vLLM and others leave as
// much free, gpu_memory_utilization 0.9.
constexpr double kUsableShare = 0.9;

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
    for (const auto& group : groups.at(i).as_array())
      stage.replicas.push_back(
          {group.at(0).at(0).at(0).as_string().c_str(), group.at(1).to_number<std::uint32_t>()});
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

// One direction and micro-batch of a stage on its slowest replica.
SailorData::Layer stage_times(const SailorData& data, const SailorPlan& plan,
                              const SailorStage& stage) {
  SailorData::Layer slowest{0, 0, 0};
  for (const auto& group : stage.replicas) {
    SailorData::Layer sum{0, 0, 0};
    for (const auto layer : stage.layers) {
      const auto times =
          layer_times(data, group.gpu, plan.micro_batch, group.tensor_parallel, layer);
      sum.forward_s += times.forward_s;
      sum.backward_s += times.backward_s;
      sum.update_s += times.update_s;
    }
    if (sum.forward_s + sum.backward_s > slowest.forward_s + slowest.backward_s) slowest = sum;
  }
  return slowest;
}

// The devices of a node reduce their shares at the same time over its network.
double reduce_seconds(const SailorData& data, const SailorPlan& plan, const SailorStage& stage,
                      double bytes) {
  double slowest = 0;
  for (const auto& group : stage.replicas) {
    const auto& link = link_of(data, plan, group.gpu, group.tensor_parallel);
    const double rate = link.bytes_per_s(bytes / group.tensor_parallel);
    slowest = std::max(
        slowest,
        all_reduce_seconds({rate}, static_cast<std::uint32_t>(stage.replicas.size()), bytes));
  }
  return slowest;
}

// The slowest way between a replica of one stage and its fellow on the next.
double send_seconds(const SailorData& data, const SailorPlan& plan, std::size_t stage,
                    double bytes) {
  double slowest = 0;
  for (const auto side : {stage, stage + 1})
    for (const auto& group : plan.stages[side].replicas)
      slowest = std::max(
          slowest, transfer_seconds({link_of(data, plan, group.gpu, 1).bytes_per_s(bytes)}, bytes));
  return slowest;
}

std::uint32_t micro_batches_of(const SailorPlan& plan) {
  const auto replicas = static_cast<std::uint32_t>(plan.stages.front().replicas.size());
  return plan.global_batch / (plan.micro_batch * replicas);
}

bool is_older_than_ampere(const std::string& gpu) {
  return gpu == "Titan-RTX" || gpu == "RTX-2080" || gpu == "V100-16" || gpu == "T4";
}

bool has_nvlink(const std::string& gpu) {
  return gpu.starts_with("GH") || gpu.starts_with("A100") || gpu.starts_with("V100");
}

// The stage that needs most of its memory, and the share of its smallest card that it takes.
struct Fullest {
  double bytes = 0;
  double share = 0;
};

Fullest fullest_stage(const SailorPlan& plan, TrainingSetup setup, const SailorMemory& memory) {
  const auto shape = opt();
  Fullest fullest;
  for (std::uint32_t i = 0; i < plan.stages.size(); ++i)
    for (const auto& group : plan.stages[i].replicas) {
      setup.tensor_parallel = group.tensor_parallel;
      std::uint32_t first = shape.layers;
      std::uint32_t end = 0;
      for (const auto layer : plan.stages[i].layers) {
        if (layer == 0 || layer > shape.layers) continue;
        first = std::min(first, layer - 1);
        end = std::max(end, layer);
      }
      const bool nvlink = has_nvlink(group.gpu);
      const double runtime = kContextBytes + (nvlink ? memory.communicator_bytes : kWorkspaceBytes);
      const auto need = stage_training_memory(shape, setup, i, std::min(first, end), end,
                                              {runtime, memory.fragmentation})
                            .bytes();
      fullest.bytes = std::max(fullest.bytes, need);
      const auto card = known_device(group.gpu);
      if (card) fullest.share = std::max(fullest.share, need / card->memory_bytes);
    }
  return fullest;
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

// A stage sends and receives at one time: each boundary takes the longer of activations with their
// mask, on, and gradients, back.
double predict_seconds(const SailorData& data, const SailorPlan& plan) {
  const auto shape = opt();
  const double samples = plan.micro_batch;
  const double sequence = kSequence;
  const double gradient_bytes = 2 * samples * sequence * shape.hidden;
  const double mask_bytes = kMaskBytes * samples * sequence * sequence;
  PipelineTime time;
  std::vector<double> sends_s(plan.stages.size(), 0);
  double update_s = 0;
  double reduce_s = 0;
  for (std::size_t i = 0; i + 1 < plan.stages.size(); ++i) {
    const double on_s = send_seconds(data, plan, i, gradient_bytes + mask_bytes);
    const double back_s = send_seconds(data, plan, i, gradient_bytes);
    sends_s[i] += std::max(on_s, back_s);
    sends_s[i + 1] += std::max(on_s, back_s);
    time.sum_s += on_s + back_s;
  }
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& stage = plan.stages[i];
    const auto times = stage_times(data, plan, stage);
    const double work_s = times.forward_s + times.backward_s;
    time.bottleneck_s = std::max(time.bottleneck_s, work_s + sends_s[i]);
    time.sum_s += work_s;
    update_s = std::max(update_s, times.update_s);
    if (stage.replicas.size() > 1)
      reduce_s = std::max(
          reduce_s,
          reduce_seconds(data, plan, stage, kGradientBytes * parameters_of(shape, stage.layers)));
  }
  // step = sum + (m - 1) max, where the sum counts each send once.
  return time.sum_s + (micro_batches_of(plan) - 1.0) * time.bottleneck_s + update_s + reduce_s;
}

double predict_bytes(const SailorPlan& plan, const SailorMemory& memory) {
  TrainingSetup setup;
  setup.sequence = kSequence;
  setup.micro_batch = plan.micro_batch;
  setup.micro_batches = micro_batches_of(plan);
  setup.pipeline = static_cast<std::uint32_t>(plan.stages.size());
  setup.flash_attention = false;
  setup.logit_bytes = kLogitBytes;
  setup.dropout = true;
  const bool old = std::ranges::any_of(plan.stages, [](const SailorStage& stage) {
    return std::ranges::any_of(
        stage.replicas, [](const SailorGroup& group) { return is_older_than_ampere(group.gpu); });
  });
  if (old) {
    setup.score_bytes = memory.score_bytes;
    setup.logit_bytes = memory.logit_bytes;
    setup.gathered_logits = true;
  }
  const auto kept = fullest_stage(plan, setup, memory);
  if (kept.share <= kUsableShare) return kept.bytes;
  setup.recompute = Recompute::full;
  return fullest_stage(plan, setup, memory).bytes;
}

// First what NVLink nodes tell of fragmentation and communicators, then the rest with it.
SailorMemory fit_memory(const SailorData& data) {
  const auto residuals = [&](bool old, const SailorMemory& with) {
    std::vector<double> result;
    for (std::size_t i = 1; i < data.plans.size(); i += 2) {
      const auto& plan = data.plans[i];
      if (plan.measured_bytes > 0 && has_nvlink(plan.stages[0].replicas[0].gpu) != old)
        result.push_back(std::log(predict_bytes(plan, with) / plan.measured_bytes));
    }
    return result;
  };
  SailorMemory best;
  const auto set_nvlink = [](SailorMemory memory, const std::vector<double>& values) {
    memory.fragmentation = values[0];
    memory.communicator_bytes = values[1];
    return memory;
  };
  best = set_nvlink(best, fit_coefficients(
                              [&](const std::vector<double>& values) {
                                return residuals(false, set_nvlink(best, values));
                              },
                              {0, 0}, {0.2, 10e9})
                              .coefficients);
  const auto set_old = [](SailorMemory memory, const std::vector<double>& values) {
    memory.score_bytes = values[0];
    memory.logit_bytes = values[1];
    return memory;
  };
  return set_old(best, fit_coefficients(
                           [&](const std::vector<double>& values) {
                             return residuals(true, set_old(best, values));
                           },
                           {5, 2}, {20, 20})
                           .coefficients);
}

}  // namespace causeway::predictions
