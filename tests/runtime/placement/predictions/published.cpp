#include "tests/runtime/placement/predictions/published.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <regex>
#include <stdexcept>

#include "causeway/gpu_catalogue.h"
#include "runtime/placement/cost/serving_cost.h"
#include "runtime/placement/cost/training_cost.h"
#include "tests/runtime/placement/predictions/models.h"

namespace causeway::predictions {

namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;
// All-reduce bus bandwidth that NCCL shows at 64 MiB, and what leaves a node per GPU.
constexpr double kA100Bus = 174e9;
constexpr double kH100Bus = 365e9;
constexpr double kA100Network = 25e9;  // HDR InfiniBand, one card per GPU.
constexpr double kH100Network = 45e9;  // NDR, one card per GPU, 90% of the line.
constexpr double kPcieBus = 10e9;      // Rings through the host's memory, four cards, PCIe 4.
constexpr double kPeerBus = 0.8;       // Of PCIe's rate, between cards that see each other over it.
constexpr double kPcie4 = 31.5e9;
constexpr double kHostLink = 25e9;  // What copies over PCIe 4 reach.
constexpr std::uint32_t kNodeGpus = 8;

std::vector<std::string> split_csv(const std::string& line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"')
      quoted = !quoted;
    else if (c == ',' && !quoted)
      fields.emplace_back();
    else if (c != '\r')
      fields.back() += c;
  }
  return fields;
}

// "TP8 PP35 DP1", "TP=8", "TP 8": the number behind a word; `absent` without it.
std::uint32_t degree(const std::string& text, const std::string& word, std::uint32_t absent) {
  std::smatch match;
  const std::regex pattern("(^|[^A-Za-z])" + word + "[ =]?([0-9]+)");
  return std::regex_search(text, match, pattern)
             ? static_cast<std::uint32_t>(std::stoul(match[2].str()))
             : absent;
}

bool has(const std::string& text, const std::string& word) {
  return text.find(word) != std::string::npos;
}

DeviceRates device_of(DeviceRates device, const Coefficients& with) {
  const auto& fitted = device.achieved.source == kHopper.source   ? with.hopper
                       : device.achieved.source == kAmpere.source ? with.ampere
                                                                  : with.workstation;
  const auto source = device.achieved.source;
  device.achieved = fitted;
  device.achieved.source = source;
  return device;
}

bool is_hopper(const DeviceRates& device) { return device.achieved.source == kHopper.source; }

// Replicas' gradients cross nodes: a ring enters and leaves a node once per network card, so a rank
// shares the cards of those of its node that are no replicas of others.
double data_bus(const DeviceRates& device, std::uint32_t gpus, std::uint32_t tensor) {
  const double bus = is_hopper(device) ? kH100Bus : kA100Bus;
  if (gpus <= kNodeGpus) return bus;
  const double network = is_hopper(device) ? kH100Network : kA100Network;
  return std::min(bus, network * std::max(1u, kNodeGpus / tensor));
}

// Sixteen lanes, one way.
double pcie_rate(const DeviceRates& device) {
  const auto* model = find_gpu_model(device.name);
  return model != nullptr && model->pcie_generation >= 5 ? 2 * kPcie4 : kPcie4;
}

// Bus bandwidth of an all-reduce over the cards of a stage, by how they see each other.
double tensor_bus(const DeviceRates& device) {
  if (is_hopper(device)) return kH100Bus;
  const auto* model = find_gpu_model(device.name);
  if (model == nullptr) return kPcieBus;
  if (model->has_nvswitch_form) return kA100Bus;
  if (model->peer_policy == PeerPolicy::granted) return kPeerBus * pcie_rate(device);
  return kPcieBus * pcie_rate(device) / kPcie4;
}

// Both spellings of how much of a job runs again: "full AC" or "ckpt", "selective AC".
Recompute recompute_of(const std::string& parallel) {
  if (has(parallel, "no ckpt") || has(parallel, "no AC")) return Recompute::none;
  if (has(parallel, "full") || has(parallel, "ckpt")) return Recompute::full;
  return has(parallel, "selective") ? Recompute::selective : Recompute::none;
}

struct Training {
  TransformerShape shape;
  TrainingSetup setup;
  TrainingLinks links;
  DeviceRates device;
  std::uint32_t gpus;
};

std::optional<Training> megatron(const Row& row, const Coefficients& with) {
  const auto device = known_device(row["hardware"]);
  if (!device) return std::nullopt;
  const auto& parallel = row["parallel"];
  Training job{
      gpt(static_cast<std::uint32_t>(row.number("hidden", 0)),
          static_cast<std::uint32_t>(row.number("layers", 0)), degree(row["notes"], "V", 51200)),
      {},
      {},
      device_of(*device, with),
      static_cast<std::uint32_t>(row.number("gpus", 1))};
  auto& setup = job.setup;
  setup.sequence = static_cast<std::uint64_t>(row.number("seq", 2048));
  setup.micro_batch = static_cast<std::uint32_t>(row.number("micro_batch", 1));
  setup.tensor_parallel = degree(parallel, "TP", 1);
  setup.pipeline = degree(parallel, "PP", 1);
  setup.data_parallel = degree(parallel, "DP", job.gpus / (setup.tensor_parallel * setup.pipeline));
  setup.interleave = degree(parallel, "v", 1);
  setup.sequence_parallel = has(parallel, "SP");
  setup.recompute = recompute_of(parallel);
  setup.micro_batches = static_cast<std::uint32_t>(row.number("global_batch", 1) /
                                                   setup.micro_batch / setup.data_parallel);
  setup.zero = setup.data_parallel > 1 ? 1 : 0;
  const bool modern = is_hopper(job.device);
  setup.flash_attention = modern;
  setup.hide_backward_tensor_traffic = true;  // Megatron-LM's way: arXiv:2205.05198, section 6.
  // The H100 table was made with --tp-comm-overlap and sequence parallelism.
  setup.hide_tensor_traffic = modern;
  if (modern) setup.sequence_parallel = setup.tensor_parallel > 1;
  job.links.tensor = {modern ? kH100Bus : kA100Bus};
  job.links.pipeline = {modern ? kH100Network : kA100Network};
  job.links.data = {data_bus(job.device, job.gpus, setup.tensor_parallel)};
  return job;
}

std::optional<Training> fsdp(const Row& row, const Coefficients& with) {
  const auto device = known_device(row["hardware"]);
  const auto shape = known_model(row["model"]);
  if (!device || !shape) return std::nullopt;
  const auto& parallel = row["parallel"];
  Training job{
      *shape, {}, {}, device_of(*device, with), static_cast<std::uint32_t>(row.number("gpus", 1))};
  auto& setup = job.setup;
  setup.sequence = static_cast<std::uint64_t>(row.number("seq", 2048));
  setup.micro_batch = static_cast<std::uint32_t>(row.number("micro_batch", 1));
  setup.tensor_parallel = degree(parallel, "TP", 1);
  setup.sequence_parallel = setup.tensor_parallel > 1;
  setup.pipeline = degree(parallel, "PP", 1);
  setup.data_parallel =
      degree(parallel, "DP", std::max(1u, job.gpus / (setup.tensor_parallel * setup.pipeline)));
  setup.zero = 3;
  setup.micro_batches = static_cast<std::uint32_t>(
      std::max(1.0, row.number("global_batch", 1) / setup.micro_batch / setup.data_parallel));
  setup.recompute = recompute_of(parallel);
  if (setup.recompute == Recompute::selective) {  // torchtitan's: every second layer runs again.
    setup.recompute = Recompute::full;
    setup.recomputed_layers = 0.5;
  }
  const auto& precision = row["precision"];
  if (has(precision, "fp8") || has(precision, "float8") || has(parallel, "loat8"))
    setup.weight_product_speed = 2;
  setup.weight_bytes = 4;  // fp32 shards are the masters: no further copy among the moments.
  setup.optimizer_bytes = 8;
  job.links.tensor = {tensor_bus(job.device)};
  job.links.pipeline = {is_hopper(job.device) ? kH100Network : kA100Network};
  job.links.data = {data_bus(job.device, job.gpus, setup.tensor_parallel)};
  return job;
}

std::optional<Training> consumer(const Row& row, const Coefficients& with) {
  const auto device = known_device(row["hardware"]);
  const auto shape = known_model(row["model"]);
  if (!device || !shape) return std::nullopt;
  Training job{
      *shape, {}, {}, device_of(*device, with), static_cast<std::uint32_t>(row.number("gpus", 1))};
  job.device.achieved.elementwise = with.workstation.elementwise;  // The program's, not the card's.
  auto& setup = job.setup;
  setup.sequence = static_cast<std::uint64_t>(row.number("seq", 1024));
  setup.data_parallel = job.gpus;
  setup.logit_bytes = 2;  // The loss runs in pieces, in place.
  setup.kept_gradient_bytes = 2;
  job.links.data = {tensor_bus(job.device)};
  job.links.host = {kHostLink * pcie_rate(job.device) / kPcie4};
  // The rows do not say how the job was set up: the fastest way that fits.
  std::optional<TrainingSetup> best;
  double best_rate = 0;
  for (const std::uint32_t zero : {2u, 3u})
    for (const std::uint32_t micro_batch : {32u, 16u, 8u, 4u, 2u, 1u})
      for (const int offload : {0, 1, 2, 3}) {  // Each with all before it, weights last of all.
        if (offload == 3 && best) continue;
        setup.zero = zero;
        setup.micro_batch = micro_batch;
        setup.offload_optimizer = offload > 0;
        setup.offloaded_activations = offload > 1 ? 1 : 0;
        setup.offload_weights = offload > 2;
        setup.micro_batches = static_cast<std::uint32_t>(
            std::max(1.0, row.number("global_batch", 512) / micro_batch / job.gpus));
        if (training_memory(job.shape, setup).bytes() > job.device.memory_bytes) continue;
        const auto seconds = training_step(job.shape, setup, job.device, job.links).seconds;
        const double rate = static_cast<double>(setup.micro_batches) * micro_batch / seconds;
        if (rate > best_rate) best_rate = rate, best = setup;
      }
  if (!best) return std::nullopt;
  setup = *best;
  return job;
}

double tokens_per_step(const TrainingSetup& setup) {
  return static_cast<double>(setup.sequence) * setup.micro_batch * setup.micro_batches *
         setup.data_parallel;
}

std::optional<Prediction> in_metric(const Row& row, const Training& job, double factor) {
  const auto cost = training_step(job.shape, job.setup, job.device, job.links);
  const double seconds = factor * cost.seconds;
  const double tokens = tokens_per_step(job.setup);
  Prediction result{0};
  if (stated_peak_bytes(row)) result.peak_bytes = training_memory(job.shape, job.setup).bytes();
  const auto& metric = row["metric"];
  if (metric == "step_seconds")
    result.value = seconds;
  else if (metric == "tflops_per_gpu")
    result.value = cost.model_flops / seconds / job.gpus / 1e12;
  else if (metric == "tokens_s_gpu")
    result.value = tokens / seconds / job.gpus;
  else if (metric == "tokens_s_total")
    result.value = tokens / seconds;
  else
    return std::nullopt;
  return result;
}

std::optional<double> stated_gib(const std::string& notes) {
  std::smatch match;
  if (!std::regex_search(notes, match, std::regex("([0-9.]+) GiB"))) return std::nullopt;
  return std::stod(match[1].str()) * kGiB;
}

// To a stage behind a network, by what the row calls it; this host's own otherwise.
LinkRate remote_link(const std::string& words) {
  for (const auto* word : {"1GbE", "1 GbE", "gigabit", "Gigabit", "1 Gb", "1Gb"})
    if (has(words, word)) return {117e6, 100e-6};
  for (const auto* word : {"WiFi", "Wi-Fi", "wifi"})
    if (has(words, word)) return {30e6, 2e-3};
  return {3e9, 50e-6};
}

std::optional<Prediction> llama_cpp(const Row& row, const Coefficients& with) {
  const auto device = known_device(row["hardware"]);
  const auto shape = known_model(row["model"]);
  if (!device || !shape) return std::nullopt;
  const bool half = has(row["model"], "F16") || has(row["model"], "f16") ||
                    row["precision"] == "F16" || row["precision"] == "f16";
  const double parameters = static_cast<double>(shape->parameters());
  const auto bytes = stated_gib(row["notes"]).value_or(parameters * (half ? 2 : 0.6));
  const auto gpus = static_cast<std::uint32_t>(row.number("gpus", 1));
  const auto tokens = static_cast<std::uint64_t>(row.number("seq", 1));
  EngineOverheads engine;
  engine.prefill_gemm = with.prefill_gemm;
  engine.dequantise_bytes = with.dequantise_bytes;
  engine.unpack_per_cycle = with.unpack_per_cycle;
  // Of the table of words a token reads a row; a tied one is the head's matrix, too.
  const double read = shape->tied_embeddings
                          ? parameters
                          : parameters - static_cast<double>(shape->embedding_parameters());
  std::vector<ServingStage> stages;
  for (std::uint32_t i = 0; i < gpus; ++i) {
    ServingStage stage{bytes * read / parameters / gpus,
                       shape->layers * (i + 1) / gpus - shape->layers * i / gpus,
                       device->spec_bandwidth_bytes_per_s,
                       device->sustained(engine.prefill_gemm) / engine.prefill_gemm,
                       shape->forward_flops(tokens / 2) / gpus,
                       read / gpus,
                       !half,
                       device->multiprocessor_hz.value_or(0)};
    stage.pass_bytes_per_token = stage.layers * prompt_pass_bytes(*shape);
    stages.push_back(stage);
  }
  if (row["family"] == "ethernet") engine.decode_bandwidth = with.notebook_bandwidth;
  if (row["metric"] == "prefill_tokens_s")
    return Prediction{static_cast<double>(tokens) / prefill_seconds(stages, tokens, engine)};
  std::vector<ServingHop> hops;
  for (std::uint32_t i = 1; i < gpus; ++i)  // Through the host, fp32.
    hops.push_back({{20e9, 10e-6}, 4.0 * shape->hidden});
  if (row["parallel"] == "rpc")
    hops.push_back(
        {remote_link(row["hardware"] + " " + row["notes"]), 4.0 * shape->vocabulary, true});
  return Prediction{1 / decode_seconds(stages, hops, engine)};
}

std::optional<Prediction> serving(const Row& row, const Coefficients& with) {
  const auto device = known_device(row["hardware"]);
  const auto shape = known_model(row["model"]);
  if (!device || !shape) return std::nullopt;
  ServingLoad load;
  std::smatch match;
  const auto& notes = row["notes"];
  if (std::regex_search(notes, match, std::regex("ISL/OSL ([0-9]+)/([0-9]+)"))) {
    load.prompt = std::stoull(match[1].str());
    load.answer = std::stoull(match[2].str());
  }
  const auto& precision = row["precision"];
  if (precision == "fp4") load.weight_bytes_per_parameter = 0.5625, load.peak_factor = 4;
  if (precision == "fp8") load.weight_bytes_per_parameter = 1, load.peak_factor = 2;
  load.kv_bytes_per_element = precision == "fp4" || precision == "fp8" ? 1 : 2;
  const auto gpus = static_cast<std::uint32_t>(row.number("gpus", 1));
  ServingLayout layout;
  layout.tensor_parallel = degree(row["parallel"], "TP", 1);
  layout.stages = degree(row["parallel"], "PP", std::max(1u, gpus / layout.tensor_parallel));
  layout.tensor = {tensor_bus(*device), tensor_bus(*device) >= kA100Bus ? 1e-6 : 5e-6};
  // What is left are copies of the whole.
  const double replicas = std::max(1u, gpus / (layout.tensor_parallel * layout.stages));
  const auto cost =
      serving_throughput(*shape, device_of(*device, with), layout, load, with.serving_gemm);
  return Prediction{replicas * cost.tokens_per_second};
}

double log_ratio(const Row& row, const Coefficients& with) {
  const auto prediction = predict(row, with);
  return prediction ? std::log(prediction->value / row.number("measured", 1)) : 0;
}

}  // namespace

Coefficients::Coefficients() {
  const EngineOverheads engine;
  prefill_gemm = engine.prefill_gemm;
  dequantise_bytes = engine.dequantise_bytes;
  unpack_per_cycle = engine.unpack_per_cycle;
  serving_gemm = kServingGemm;
}

const std::string& Row::operator[](const std::string& name) const {
  static const std::string kNone;
  const auto at = fields.find(name);
  return at == fields.end() ? kNone : at->second;
}

double Row::number(const std::string& name, double absent) const {
  const auto& text = (*this)[name];
  return text.empty() ? absent : std::stod(text);
}

std::vector<Row> read_rows(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) throw std::runtime_error(path + ": no table");
  const auto names = split_csv(line);
  std::vector<Row> rows;
  while (std::getline(file, line)) {
    if (line.empty()) continue;
    const auto values = split_csv(line);
    if (values.size() != names.size())
      throw std::runtime_error(
          fmt::format("{}: {} fields, not {}: {}", path, values.size(), names.size(), line));
    Row row;
    for (std::size_t i = 0; i < names.size(); ++i) row.fields[names[i]] = values[i];
    rows.push_back(std::move(row));
  }
  return rows;
}

std::optional<double> stated_peak_bytes(const Row& row) {
  return has(row["notes"], "peak") ? stated_gib(row["notes"]) : std::nullopt;
}

std::optional<Prediction> predict(const Row& row, const Coefficients& with) {
  const auto& family = row["family"];
  const auto train = [&](const std::optional<Training>& job, double factor) {
    return job ? in_metric(row, *job, factor) : std::nullopt;
  };
  if (family.starts_with("megatron")) return train(megatron(row, with), 1);
  if (family == "fsdp") return train(fsdp(row, with), with.fsdp_factor);
  if (family == "consumer-train") return train(consumer(row, with), 1);
  if (family == "decode" || family == "prefill" || family == "ethernet")
    return llama_cpp(row, with);
  if (family == "serving") return serving(row, with);
  return std::nullopt;
}

std::map<std::string, bool> fitted_rows(const std::vector<Row>& rows) {
  std::map<std::string, int> seen;
  std::map<std::string, bool> fitted;
  for (const auto& row : rows) fitted[row["id"]] = seen[row["family"]]++ % 2 == 0;
  return fitted;
}

Coefficients fit_families(const std::vector<Row>& rows) {
  const auto fitted = fitted_rows(rows);
  Coefficients best;
  const auto fit = [&](const std::string& family, std::vector<double> low, std::vector<double> high,
                       const std::function<void(Coefficients&, const std::vector<double>&)>& set) {
    std::vector<const Row*> used;
    for (const auto& row : rows)
      if (row["family"] == family && fitted.at(row["id"])) used.push_back(&row);
    if (used.empty()) return;
    const auto result = fit_coefficients(
        [&](const std::vector<double>& values) {
          auto with = best;
          set(with, values);
          std::vector<double> residuals;
          for (const auto* row : used) residuals.push_back(log_ratio(*row, with));
          return residuals;
        },
        low, high);
    set(best, result.coefficients);
  };
  fit("megatron-a100", {0.4}, {1}, [](auto& c, auto& v) { c.ampere.gemm = v[0]; });
  fit("megatron-h100", {0.4, 1}, {1, 8},
      [](auto& c, auto& v) { c.hopper.gemm = v[0], c.hopper.elementwise = v[1]; });
  fit("fsdp", {0.7}, {1.5}, [](auto& c, auto& v) { c.fsdp_factor = v[0]; });
  fit("consumer-train", {0.4}, {1}, [](auto& c, auto& v) { c.workstation.gemm = v[0]; });
  fit("prefill", {0.2, 0}, {1, 40},
      [](auto& c, auto& v) { c.prefill_gemm = v[0], c.dequantise_bytes = v[1]; });
  fit("decode", {2}, {200}, [](auto& c, auto& v) { c.unpack_per_cycle = v[0]; });
  fit("ethernet", {0.4}, {1}, [](auto& c, auto& v) { c.notebook_bandwidth = v[0]; });
  fit("serving", {0.05}, {1}, [](auto& c, auto& v) { c.serving_gemm = v[0]; });
  return best;
}

}  // namespace causeway::predictions
