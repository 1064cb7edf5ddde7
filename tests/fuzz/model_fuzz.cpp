// Model files; the memory of an accepted model must be within 64 bits.
#include "causeway/model.h"
#include "causeway/plan.h"
#include "fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto model =
      causeway_fuzz::parsed([&] { return causeway::ModelSpec::from_yaml(text, "input"); });
  if (!model) return 0;
  const auto layers = static_cast<std::uint32_t>(model->layers.size());
  const auto memory = causeway::stage_memory(*model, 0, layers, 4096);
  if (memory.weight_bytes < model->weight_bytes())
    causeway_fuzz::fail("a stage has less room than its weights", model->to_yaml());
  return causeway_fuzz::round_trip<causeway::ModelSpec>(data, size);
}
