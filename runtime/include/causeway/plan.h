// Where each part of a model goes: consecutive layers to devices, with what it is predicted to
// cost.
//
// Shape:   stages in order; stage i holds layers [first_layer, end_layer); they tile the model.
//          A device holds at most one stage, or a share of every layer of one (tensor parallelism).
// Units:   bytes and seconds, per step of `micro_batches` micro-batches.
// Errors:  make_plan throws out_of_memory with needed and available bytes and the devices asked;
//          from_yaml throws parse; check_plan throws invalid_argument naming the stage.
//          "out of memory" says what would make it fit, where a device more or fewer micro-batches
//          do.
// Cost:    make_plan: exact dynamic programming over device types; 10 devices and 50 layers in
//          milliseconds.
// Threads: plain values.
// Source:  step = sum(t_i) + (m - 1) max(t_i): 1F1B, Narayanan et al., "Efficient large-scale
// language
//          model training on GPU clusters using Megatron-LM", SC 2021.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "causeway/calibration.h"
#include "causeway/model.h"
#include "causeway/topology.h"

namespace causeway {

constexpr std::uint32_t kMostSharing = 64;  // Devices of one stage.

// A device that holds a part of every tensor of a stage, and computes with it.
struct PlanShare {
  DeviceName device;
  double share = 0;  // Of the stage's work and state: above 0; 1 if it is alone.
  std::uint64_t state_bytes = 0;
  std::uint64_t activation_bytes = 0;
  bool operator==(const PlanShare&) const = default;
};

struct PlanStage {
  DeviceName device;
  std::uint32_t first_layer = 0;
  std::uint32_t end_layer = 0;
  std::uint64_t state_bytes = 0;       // Weights, gradients, optimizer, on `device`.
  std::uint64_t activation_bytes = 0;  // Of the micro-batches in flight on this stage (1F1B).
  double seconds = 0;                  // Forward and backward of one micro-batch, sends included.
  std::vector<PlanShare> beside{};     // Who shares it with `device`, which has the rest.

  [[nodiscard]] double own_share() const noexcept {
    double rest = 1;
    for (const auto& each : beside) rest -= each.share;
    return rest;
  }
  // All of them, `device` first.
  [[nodiscard]] std::vector<PlanShare> shares() const {
    std::vector<PlanShare> all{{device, own_share(), state_bytes, activation_bytes}};
    all.insert(all.end(), beside.begin(), beside.end());
    return all;
  }
  bool operator==(const PlanStage&) const = default;
};

struct Plan {
  std::string model;
  std::uint32_t micro_batches = 1;
  std::vector<PlanStage> stages;
  double step_seconds = 0;  // Predicted.
  std::string certificate;  // "optimal among ..." or what is known of the gap.

  [[nodiscard]] static Plan from_file(const std::string& path);
  // Errors: parse also where the stages do not tile the layers from 0 on, or a device is named
  // twice.
  [[nodiscard]] static Plan from_yaml(std::string_view text, const std::string& origin);
  [[nodiscard]] std::string to_yaml() const;  // Reads back to an equal value.
  [[nodiscard]] std::string to_json() const;
  bool operator==(const Plan&) const = default;
};

// Every tensor starts at a multiple of this in its region.
constexpr std::uint64_t kTensorAlignmentBytes = 256;

// What `tensor` takes in a region of state that is `bytes_per_weight_byte` times as long as the
// weights (1 for the weights themselves), padding included: the next tensor starts there.
[[nodiscard]] std::uint64_t tensor_state_bytes(const TensorSpec& tensor,
                                               double bytes_per_weight_byte);

// The memory of one stage as the runtime allocates it: one region per kind of state, tensors in the
// order of the model, and one arena for activations; each in whole granules (kDeviceGranuleBytes).
struct StageMemory {
  std::uint64_t weight_bytes = 0;
  std::uint64_t gradient_bytes = 0;
  std::uint64_t optimizer_bytes = 0;
  std::uint64_t activation_bytes = 0;  // Of all micro-batches in flight.
  [[nodiscard]] std::uint64_t state_bytes() const noexcept {
    return weight_bytes + gradient_bytes + optimizer_bytes;
  }
};

// Layers [first_layer, end_layer) with `in_flight` micro-batches. Under 1F1B stage i of p holds
// min(m, p - i). With a `share` of the stage a device has its part of state and activations, and of
// each layer the input, and what stands beside it, as a whole: 5 times what the layer hands on
// (10 s b h bytes of half precision; Korthikanti et al., 2022), if it keeps so much.
// Errors: invalid_argument for an empty range, one past the last layer, a share that is none, or
// sizes that do not fit 64 bits.
[[nodiscard]] StageMemory stage_memory(const ModelSpec& model, std::uint32_t first_layer,
                                       std::uint32_t end_layer, std::uint32_t in_flight,
                                       double share = 1);

// What a plan is best in.
enum class Objective : std::uint8_t {
  time,        // A step: sum + (m - 1) longest stage.
  throughput,  // Micro-batches per second: the longest stage.
  latency,     // One micro-batch, alone: the sum of the stages.
  cost,        // Price of the devices that are used, over the step.
  energy,      // Busy watts while they work, idle watts for the rest of the step.
};
[[nodiscard]] std::string_view to_string(Objective value) noexcept;
[[nodiscard]] std::optional<Objective> objective_from_string(std::string_view name) noexcept;

struct PlanPin {
  std::uint32_t layer;
  DeviceName device;  // The only one that may hold it.
};

// Share of a device's memory that an allocator cannot use; what `causeway plan` keeps free unless
// its user says otherwise. Source: docs/planner.md.
constexpr double kDefaultMargin = 0.036;

struct PlanOptions {
  std::uint32_t micro_batches = 4;
  // A stage's time is that of one token for each sequence, not of a training step: its weights and
  // activations (the KV cache, in a model described for serving) are read once, or its forward
  // operations done, whichever takes longer, and a fixed time per layer.
  bool serving = false;
  std::vector<DeviceName> only = {};  // Non-empty: no other device may be used.
  std::uint32_t stages = 0;           // Exactly so many; 0: as many as are best.
  bool use_host_devices = false;      // Host memory as a place for stages.
  Objective objective = Objective::time;
  std::vector<PlanPin> pins = {};
  std::vector<std::string> avoid = {};  // Nodes that hold nothing.
  std::uint32_t most_nodes = 0;         // 0: any number.
  // Devices of one node that may share a stage's layers: 1, 2, 4, ... of a kind, or of two kinds in
  // parts by speed or by memory. 1: none do, as the runtime's own jobs want it.
  std::uint32_t most_sharing = 1;
  double margin = 0;  // Share of every device's memory that stays free.
  std::vector<std::pair<DeviceName, std::uint64_t>> margins = {};  // Bytes of a device, on top.
  // Keeps free what a process takes on a GPU by being there: its context, library workspaces.
  bool reserve_runtime = false;
  // Rates of devices as they were measured, by model; the others keep their specification's. Links
  // are the topology's: Calibration::applied_to().
  std::vector<CalibratedDevice> calibrated = {};
  std::map<std::string, double> price_per_hour = {};  // By device model ("h100-sxm"); for cost.
  std::map<std::string, double> watts = {};           // Instead of the vendor's; for energy.
};

[[nodiscard]] Plan make_plan(const ModelSpec& model, const Topology& topology,
                             const PlanOptions& options = {});

// Errors: invalid_argument unless the stages tile the model, name devices of the topology, each
// once, and fit into what is available there.
void check_plan(const Plan& plan, const ModelSpec& model, const Topology& topology);

}  // namespace causeway
