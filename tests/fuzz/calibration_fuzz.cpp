// Calibration files: what is read is written so that it reads back equal, and fits to finite rates.
#include <cmath>

#include "causeway/calibration.h"
#include "fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto value =
      causeway_fuzz::parsed([&] { return causeway::Calibration::from_yaml(text, "input"); });
  if (value && value->steps.size() <= 4)  // The fit is the same for more, and slow.
    for (const auto& device : value->fit()) {
      const double seconds = device.seconds(1e12, 1e9, 1, 1e12, 1e12);
      if (!std::isfinite(seconds) || seconds < 0)
        causeway_fuzz::fail("a fit that is no time", device.device);
    }
  return causeway_fuzz::round_trip<causeway::Calibration>(data, size);
}
