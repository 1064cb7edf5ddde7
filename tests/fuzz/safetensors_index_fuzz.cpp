// Indices of safetensors models; an accepted one names each tensor once, in a file of its own
// folder.
#include <set>

#include "causeway/model.h"
#include "fuzz_target.h"
#include "runtime/sharding/models/model_files.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto index =
      causeway_fuzz::parsed([&] { return causeway::read_safetensors_index(text, "input"); });
  if (!index) return 0;
  std::set<std::string> names;
  for (const auto& [tensor, file] : index->files_of) {
    if (!names.insert(tensor).second) causeway_fuzz::fail("a name twice", tensor);
    if (file.find('/') != std::string::npos || file == ".." || file.find('\0') != std::string::npos)
      causeway_fuzz::fail("a file elsewhere", file);
  }
  if (index->total_bytes.value_or(0) > causeway::kMaxTensorBytes)
    causeway_fuzz::fail("a total past its limit", std::string(text));
  return 0;
}
