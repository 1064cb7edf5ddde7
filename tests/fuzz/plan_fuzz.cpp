// Plan files.
#include "causeway/plan.h"
#include "fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return causeway_fuzz::round_trip<causeway::Plan>(data, size);
}
