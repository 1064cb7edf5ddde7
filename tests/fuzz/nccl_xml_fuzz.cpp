// NCCL's XML; what is read must be writable, and then read back and write the same again.
#include "causeway/topology_export.h"
#include "fuzz_target.h"
#include "runtime/topology/import/readers.h"
#include "topology_checks.h"
#include "topology_whole.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto graph =
      causeway_fuzz::parsed([&] { return causeway::read_nccl_xml(text, "input", "n"); });
  if (!graph) return 0;
  causeway_fuzz::check_graph(*graph);
  causeway_fuzz::check_whole(*graph);
  for (const auto& node : graph->nodes) {
    const auto written = causeway::graph_to_nccl_xml(*graph, node.name);
    const auto again =
        causeway_fuzz::parsed([&] { return causeway::read_nccl_xml(written, "input", "n"); });
    if (!again) causeway_fuzz::fail("what was written does not read back", written);
    causeway_fuzz::check_graph(*again);
    const auto second = causeway::graph_to_nccl_xml(*again, "n");
    if (second != written) causeway_fuzz::fail("does not read back alike", written + second);
  }
  return 0;
}
