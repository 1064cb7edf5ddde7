// What this pool's devices and links were measured to do, in place of what their specifications and
// the families' coefficients say.
//
// Shape:   steps that were timed on one device each, and figures of links, from a file: a user's
//          own list, or what `causeway topo measure --json` prints. A device's rates are fitted to
//          every second of its steps, the first, the third and so on; the others say how far such
//          predictions are off.
// Units:   operations, bytes, seconds; errors are shares: 0.04 is 4%.
// Errors:  parse naming file, line and field; not_found and io for a file that cannot be read.
// Cost:    fit() in proportion to the steps, 4096 at most: under a second.
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/topology.h"

namespace causeway {

// Some work on one device: a micro-batch of a training stage (forward and backward), a token of a
// serving stage, or a part of either.
struct MeasuredStep {
  std::string device;        // Model: "rtx-4090", or "host".
  double flops = 0;          // Done,
  double bytes = 0;          // and read of weights and KV cache; 0 where that hides (training).
  std::uint32_t layers = 0;  // Whose kernels were launched.
  double seconds = 0;
  bool operator==(const MeasuredStep&) const = default;
};

// From a device's memory to another's, or within one.
struct MeasuredLink {
  DeviceName from;
  DeviceName to;
  double bandwidth_bytes_per_s = 0;
  std::optional<double> latency_s = {};
  bool operator==(const MeasuredLink&) const = default;
};

// max(flops / flops_per_s, bytes / bytes_per_s) + layers * layer_s.
struct CalibratedDevice {
  std::string device;
  std::optional<double> flops_per_s = {};  // nullopt: no step tells.
  std::optional<double> bytes_per_s = {};
  double layer_s = 0;
  std::size_t fitted_steps = 0;
  std::size_t held_out_steps = 0;
  double fitted_error = 0;                    // Mean of |predicted / measured - 1|,
  std::optional<double> held_out_error = {};  // and of the steps that were not fitted.

  // What is not known is asked of the caller.
  [[nodiscard]] double seconds(double flops, double bytes, double layers, double other_flops_per_s,
                               double other_bytes_per_s) const noexcept;
};

struct Calibration {
  std::vector<MeasuredStep> steps;
  std::vector<MeasuredLink> links;

  [[nodiscard]] static Calibration from_file(const std::string& path);
  [[nodiscard]] static Calibration from_yaml(std::string_view text, const std::string& origin);
  [[nodiscard]] std::string to_yaml() const;  // Reads back to an equal value.

  // One for each device model that a step names, and for "host" where the bandwidth of host memory
  // was measured, in the order of their first figure.
  [[nodiscard]] std::vector<CalibratedDevice> fit() const;
  // With the links' figures. One between two nodes holds for all of their devices, as the network
  // is what bounds it; a link of devices that the topology does not have is passed over.
  [[nodiscard]] Topology applied_to(const Topology& topology) const;
  bool operator==(const Calibration&) const = default;
};

}  // namespace causeway
