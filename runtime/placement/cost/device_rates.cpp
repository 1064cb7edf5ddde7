#include "runtime/placement/cost/device_rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "causeway/gpu_catalogue.h"
#include "runtime/placement/cost/calibration.h"

namespace causeway {

namespace {

struct Power {
  std::string_view gpu;
  double watts;
};

// Vendors' data sheets: total board power.
constexpr std::array kPower{
    Power{"rtx-3090", 350},
    Power{"rtx-4090", 450},
    Power{"rtx-5090", 575},
    Power{"rtx-a6000", 300},
    Power{"l40s", 350},
    Power{"rtx-pro-6000", 600},
    Power{"rtx-pro-6000-max-q", 300},
    Power{"a100-pcie", 300},
    Power{"a100-sxm", 400},
    Power{"h100-pcie", 350},
    Power{"h100-sxm", 700},
    Power{"h200-sxm", 700},
    Power{"b200", 1000},
};

constexpr double kIdleShare = 0.25;  // Of the board's power, clocks up and no kernel running.
constexpr double kSecondsPerHour = 3600;

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> prefixes) {
  return std::ranges::any_of(prefixes, [&](auto prefix) { return text.starts_with(prefix); });
}

}  // namespace

AchievedRates achieved_rates(std::string_view gpu) noexcept {
  if (starts_with_any(gpu, {"h100", "h200", "gh200", "b200", "b100"})) return kHopper;
  if (starts_with_any(gpu, {"a100", "v100", "a30", "a40"})) return kAmpere;
  return kWorkstation;
}

std::optional<double> board_watts(std::string_view gpu) noexcept {
  const auto at = std::ranges::find(kPower, gpu, &Power::gpu);
  return at == kPower.end() ? std::nullopt : std::optional(at->watts);
}

DeviceRates rates_of(std::string_view gpu) {
  const auto* model = find_gpu_model(gpu);
  if (model == nullptr) {
    std::string known;
    for (const auto& each : gpu_models())
      known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
    throw Error(Errc::not_found,
                fmt::format("GPU '{}' is not in the catalogue; known are {}", gpu, known));
  }
  return {std::string(model->name), static_cast<double>(model->memory_bytes),
          model->flops_per_s,       model->memory_bandwidth_bytes_per_s,
          achieved_rates(gpu),      board_watts(gpu)};
}

Bill bill(const DeviceRates& device, double busy_s, double seconds) noexcept {
  Bill result;
  if (device.watts) {
    const double idle_watts = device.idle_watts.value_or(kIdleShare * *device.watts);
    result.joules = *device.watts * busy_s + idle_watts * std::max(0.0, seconds - busy_s);
  }
  if (device.price_per_hour) result.money = *device.price_per_hour * seconds / kSecondsPerHour;
  return result;
}

}  // namespace causeway
