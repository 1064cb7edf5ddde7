#include "runtime/placement/cost/device_rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "causeway/gpu_catalogue.h"
#include "runtime/placement/cost/calibration.h"

namespace causeway {

namespace {

struct Board {
  std::string_view gpu;
  double watts;
  double multiprocessors;
  double boost_hz;
};

// Vendors' data sheets: total board power, multiprocessors and their boost clock.
constexpr std::array kBoards{
    Board{"rtx-3090", 350, 82, 1.695e9},
    Board{"rtx-4090", 450, 128, 2.52e9},
    Board{"rtx-5090", 575, 170, 2.407e9},
    Board{"rtx-a6000", 300, 84, 1.80e9},
    Board{"l40s", 350, 142, 2.52e9},
    Board{"rtx-pro-6000", 600, 188, 2.617e9},
    Board{"rtx-pro-6000-max-q", 300, 188, 2.28e9},
    Board{"a100-pcie", 300, 108, 1.41e9},
    Board{"a100-sxm", 400, 108, 1.41e9},
    Board{"h100-pcie", 350, 114, 1.755e9},
    Board{"h100-sxm", 700, 132, 1.83e9},
    Board{"h200-sxm", 700, 132, 1.83e9},
    Board{"b200", 1000, 148, 1.85e9},
};

const Board* find_board(std::string_view gpu) noexcept {
  const auto at = std::ranges::find(kBoards, gpu, &Board::gpu);
  return at == kBoards.end() ? nullptr : &*at;
}

constexpr double kIdleShare = 0.25;        // Of the board's power, clocks up and no kernel running.
constexpr double kL40sFlopsPerS = 230e12;  // Achieved, at its full power.
constexpr double kL40sWatts = 350;
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
  const auto* board = find_board(gpu);
  return board == nullptr ? std::nullopt : std::optional(board->watts);
}

double workstation_power_flops_per_s(double watts) noexcept {
  return kL40sFlopsPerS * watts / kL40sWatts;
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
  DeviceRates rates{std::string(model->name), static_cast<double>(model->memory_bytes),
                    model->flops_per_s, model->memory_bandwidth_bytes_per_s, achieved_rates(gpu)};
  rates.watts = board_watts(gpu);
  if (const auto* board = find_board(gpu))
    rates.multiprocessor_hz = board->multiprocessors * board->boost_hz;
  if (rates.watts && (gpu == "l40s" || gpu.starts_with("rtx-pro-6000")))
    rates.power_flops_per_s = workstation_power_flops_per_s(*rates.watts);
  return rates;
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
