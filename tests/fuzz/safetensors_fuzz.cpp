// Whole file images of safetensors; accepted entries must tile the data.
#include "causeway/safetensors.h"
#include "fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto image = std::as_bytes(std::span(data, size));
  std::map<std::string, std::string> metadata;
  const auto entries = causeway_fuzz::parsed(
      [&] { return causeway::SafetensorsFile::parse_header(image, "input", &metadata); });
  if (!entries) return 0;
  std::uint64_t header_bytes = 0;
  for (std::size_t i = 8; i-- > 0;) header_bytes = header_bytes << 8 | data[i];
  std::uint64_t next = 0;
  for (const auto& entry : *entries) {
    if (entry.offset_bytes != next) causeway_fuzz::fail("a hole or overlap", entry.tensor.name);
    next += entry.tensor.size_bytes();
  }
  if (8 + header_bytes + next != size) causeway_fuzz::fail("bytes of no tensor", "");
  return 0;
}
