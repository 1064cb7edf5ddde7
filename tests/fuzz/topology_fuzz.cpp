// Topologies as JSON: what is read must be written so that it reads back equal.
#include "causeway/topology_export.h"
#include "fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto read = [](std::string_view json) {
    return causeway_fuzz::parsed([&] { return causeway::graph_from_json(json, "input"); });
  };
  const auto graph = read(text);
  if (!graph) return 0;
  const auto written = causeway::graph_to_json(*graph);
  const auto again = read(written);
  if (!again) causeway_fuzz::fail("what was written does not read back", written);
  if (!(*again == *graph)) causeway_fuzz::fail("what was written reads back different", written);
  (void)causeway::graph_to_dot(*graph);
  return 0;
}
