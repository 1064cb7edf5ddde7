#include "runtime/placement/cost/runtime_memory.h"

#include <algorithm>

#include "causeway/gpu_catalogue.h"
#include "runtime/placement/cost/calibration.h"

namespace causeway {

std::uint64_t runtime_reserve_bytes(std::string_view gpu, std::uint64_t capacity_bytes) noexcept {
  const auto* model = find_gpu_model(gpu);
  if (model == nullptr) return 0;
  const bool hopper = achieved_rates(gpu).source == kHopper.source;
  const double bytes = kContextBytes + (hopper ? kHopperWorkspaceBytes : kWorkspaceBytes);
  const double scale =
      static_cast<double>(capacity_bytes) / static_cast<double>(model->memory_bytes);
  return static_cast<std::uint64_t>(bytes * std::min(1.0, scale));
}

}  // namespace causeway
