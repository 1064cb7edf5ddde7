// Whole images of GGUF files; accepted tensors lie in the file and apart, and the metadata give an
// architecture whose numbers are within their limits, or none.
#include "causeway/gguf.h"
#include "fuzz_target.h"
#include "runtime/sharding/models/gguf_architecture.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto image = std::as_bytes(std::span(data, size));
  const auto header =
      causeway_fuzz::parsed([&] { return causeway::GgufHeader::parse(image, "input"); });
  if (!header) return 0;
  std::uint64_t next = 0;
  for (const auto& entry : header->entries) {
    if (entry.offset_bytes < next) causeway_fuzz::fail("an overlap", entry.tensor.name);
    next = entry.offset_bytes + entry.tensor.size_bytes();
    if (entry.tensor.size_bytes() > 0 && header->data_offset_bytes + next > size)
      causeway_fuzz::fail("past the end", entry.tensor.name);
  }
  std::vector<std::string> notes;
  const auto architecture =
      causeway_fuzz::parsed([&] { return causeway::gguf_architecture(*header, notes); });
  if (architecture && *architecture) (*architecture)->validate();
  return 0;
}
