// What a device does in a second: by its specification, and as programs reach it. The two are kept
// apart; a prediction uses what is achieved, a limit ("percent of the peak") what is specified.
//
// Shape:   a DeviceRates per GPU model; its coefficients belong to the GPU's family and come from
//          fits to published measurements, each with its source (docs/planner.md has the errors).
// Units:   bytes, bytes per second, floating point operations per second (dense bf16), watts, and
//          money in whatever unit price_per_hour is given.
// Errors:  not_found for a name that is not in the GPU catalogue, listing what is.
// Threads: constants and plain values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "causeway/error.h"

namespace causeway {

// Of a GPU family: the share of its specification that large work reaches. The specification itself
// stays as the vendor gives it.
struct AchievedRates {
  double gemm = 0.7;         // Of the peak, in matrix products alone.
  double bandwidth = 0.8;    // Of the memory, when kernels stream through it.
  double elementwise = 1.0;  // Passes over activations, in terms of a fused layer's.
  std::string_view source;   // Where the three come from.
};

struct DeviceRates {
  std::string name;
  double memory_bytes = 0;
  double spec_flops_per_s = 0;
  double spec_bandwidth_bytes_per_s = 0;
  AchievedRates achieved = {};
  // What the board's power allows in matrix products for long; nullopt: more than `gemm` of the
  // peak.
  std::optional<double> power_flops_per_s = {};
  // Multiprocessors times their clock: instructions issued, up to a factor. nullopt: unknown.
  std::optional<double> multiprocessor_hz = {};
  std::optional<double> watts = {};           // Busy; nullopt: unknown, so energy is unknown.
  std::optional<double> idle_watts = {};      // nullopt: a quarter of `watts`.
  std::optional<double> price_per_hour = {};  // Given by the user; nullopt: unknown.

  [[nodiscard]] double gemm_flops_per_s() const noexcept { return sustained(achieved.gemm); }
  // The same with another share of the peak, as one program reaches it.
  [[nodiscard]] double sustained(double gemm_share) const noexcept {
    return std::min(gemm_share * spec_flops_per_s, power_flops_per_s.value_or(spec_flops_per_s));
  }
  [[nodiscard]] double stream_bytes_per_s() const noexcept {
    return achieved.bandwidth * spec_bandwidth_bytes_per_s;
  }
};

// By catalogue name: "rtx-5090".
[[nodiscard]] DeviceRates rates_of(std::string_view gpu);
// The coefficients of the family that `gpu` belongs to: by architecture, for cards that the
// catalogue does not know too ("l4", "v100").
[[nodiscard]] AchievedRates achieved_rates(std::string_view gpu) noexcept;
// What `watts` allow a card of workstations in products: an L40S reaches about 230 of its 362
// TFLOPS at 350 W, and so many joules a product takes on others of its process (Ada, and
// Blackwell's cards of workstations) that accumulate at full rate. GeForce cards do at half, and
// stay below their power.
[[nodiscard]] double workstation_power_flops_per_s(double watts) noexcept;
// Board power by the vendor's specification; nullopt: not known.
[[nodiscard]] std::optional<double> board_watts(std::string_view gpu) noexcept;

// What `seconds` of work cost. nullopt where a device's watts or price is unknown.
struct Bill {
  std::optional<double> joules;
  std::optional<double> money;
};
// A device that is busy for `busy_s` of `seconds`.
[[nodiscard]] Bill bill(const DeviceRates& device, double busy_s, double seconds) noexcept;

}  // namespace causeway
