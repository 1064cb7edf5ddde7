// Plan as YAML and JSON; docs/model-and-plan-files.md has the keys.
#include <fmt/format.h>

#include <boost/json.hpp>
#include <set>

#include "causeway/plan.h"
#include "runtime/topology/yaml_tree.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxStages = 4096;
constexpr std::uint64_t kMaxLayer = 65536;
constexpr double kMaxSeconds = 1e18;

DeviceName read_device(const YamlField& entry) {
  constexpr auto kHint = "a device such as desktop/gpu0";
  return entry.require("device", kHint).device_name(kHint);
}

PlanShare read_share(const YamlField& entry) {
  entry.expect_map("a share of a stage", {"device", "share", "state_bytes", "activation_bytes"});
  PlanShare share{read_device(entry)};
  const auto part = entry.require("share", "its part of the stage: 0.5");
  share.share = part.number(0, 1);
  if (share.share <= 0 || share.share >= 1) throw part.error("is to be above 0 and below 1");
  if (const auto bytes = entry.find("state_bytes")) share.state_bytes = bytes->bytes();
  if (const auto bytes = entry.find("activation_bytes")) share.activation_bytes = bytes->bytes();
  return share;
}

PlanStage read_stage(const YamlField& entry) {
  entry.expect_map("a stage",
                   {"device", "layers", "state_bytes", "activation_bytes", "seconds", "beside"});
  PlanStage stage;
  stage.device = read_device(entry);
  const auto layers = entry.require("layers", "[first, end): [0, 4]");
  const auto [first, end] = layers.pair("two numbers, [first, end): [0, 4]");
  stage.first_layer = static_cast<std::uint32_t>(first.whole_number(0, kMaxLayer));
  stage.end_layer = static_cast<std::uint32_t>(end.whole_number(0, kMaxLayer));
  if (stage.end_layer <= stage.first_layer)
    throw layers.error("holds no layer; the second number must be larger");
  if (const auto bytes = entry.find("state_bytes")) stage.state_bytes = bytes->bytes();
  if (const auto bytes = entry.find("activation_bytes")) stage.activation_bytes = bytes->bytes();
  if (const auto seconds = entry.find("seconds")) stage.seconds = seconds->number(0, kMaxSeconds);
  if (const auto beside = entry.find("beside")) {
    for (const auto& share :
         entry.require_items("beside", "[{device: a/gpu1, share: 0.5}]", kMostSharing - 1))
      stage.beside.push_back(read_share(share));
    if (stage.own_share() <= 0)
      throw beside->error(
          fmt::format("leaves nothing for {}; the shares must sum up to less than 1",
                      stage.device.to_string()));
  }
  return stage;
}

}  // namespace

Plan Plan::from_file(const std::string& path) {
  return from_yaml(read_text_file(path, kMaxYamlBytes), path);
}

Plan Plan::from_yaml(std::string_view text, const std::string& origin) {
  const YamlNode tree = parse_yaml(text, origin);
  const YamlField root(tree, origin);
  root.expect_map("a plan", {"model", "micro_batches", "step_seconds", "certificate", "stages"});
  Plan plan;
  const auto model = root.require("model", "the model's name");
  plan.model = model.text("the model's name");
  if (plan.model.empty()) throw model.error("is empty; write the model's name");
  if (const auto count = root.find("micro_batches"))
    plan.micro_batches = static_cast<std::uint32_t>(count->whole_number(1, 1u << 20));
  if (const auto seconds = root.find("step_seconds"))
    plan.step_seconds = seconds->number(0, kMaxSeconds);
  if (const auto certificate = root.find("certificate"))
    plan.certificate = certificate->text("what is known of the plan");
  std::set<DeviceName> seen;
  for (const auto& entry :
       root.require_items("stages", "[{device: a/gpu0, layers: [0, 4]}]", kMaxStages)) {
    const auto stage = read_stage(entry);
    const auto next = plan.stages.empty() ? 0 : plan.stages.back().end_layer;
    if (stage.first_layer != next)
      throw entry.error(
          fmt::format("starts at layer {}; the one before ends at {}", stage.first_layer, next));
    for (const auto& share : stage.shares())
      if (!seen.insert(share.device).second)
        throw entry.error(fmt::format("device {} has a stage already; it holds at most one",
                                      share.device.to_string()));
    plan.stages.push_back(stage);
  }
  return plan;
}

std::string Plan::to_yaml() const {
  auto text = fmt::format(
      "model: {}\nmicro_batches: {}\nstep_seconds: {}\ncertificate: {}\nstages:\n",
      yaml_scalar(model), micro_batches, yaml_number(step_seconds), yaml_scalar(certificate));
  for (const auto& stage : stages) {
    std::string beside;
    for (const auto& share : stage.beside)
      beside +=
          fmt::format("{}\n      {{device: {}, share: {}, state_bytes: {}, activation_bytes: {}}}",
                      beside.empty() ? "" : ",", yaml_scalar(share.device.to_string()),
                      yaml_number(share.share), share.state_bytes, share.activation_bytes);
    text += fmt::format(
        "  - {{device: {}, layers: [{}, {}], state_bytes: {}, activation_bytes: {}, "
        "seconds: {}{}}}\n",
        yaml_scalar(stage.device.to_string()), stage.first_layer, stage.end_layer,
        stage.state_bytes, stage.activation_bytes, yaml_number(stage.seconds),
        beside.empty() ? "" : ", beside: [" + beside + "]");
  }
  return text;
}

std::string Plan::to_json() const {
  namespace json = boost::json;
  json::array list;
  for (const auto& stage : stages) {
    json::array beside;
    for (const auto& share : stage.beside)
      beside.push_back({{"device", share.device.to_string()},
                        {"share", share.share},
                        {"state_bytes", share.state_bytes},
                        {"activation_bytes", share.activation_bytes}});
    list.push_back({{"device", stage.device.to_string()},
                    {"first_layer", stage.first_layer},
                    {"end_layer", stage.end_layer},
                    {"state_bytes", stage.state_bytes},
                    {"activation_bytes", stage.activation_bytes},
                    {"seconds", stage.seconds},
                    {"beside", std::move(beside)}});
  }
  return json::serialize(json::object{{"model", model},
                                      {"micro_batches", micro_batches},
                                      {"step_seconds", step_seconds},
                                      {"certificate", certificate},
                                      {"stages", std::move(list)}});
}

}  // namespace causeway
