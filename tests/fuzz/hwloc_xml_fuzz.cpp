// hwloc's XML; what is read must be sound, and readable again where NCCL's XML can say it.
#include "causeway/topology_export.h"
#include "fuzz_target.h"
#include "runtime/topology/import/readers.h"
#include "topology_checks.h"
#include "topology_whole.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto graph =
      causeway_fuzz::parsed([&] { return causeway::read_hwloc_xml(text, "input", "n"); });
  if (!graph) return 0;
  causeway_fuzz::check_graph(*graph);
  causeway_fuzz::check_whole(*graph);
  const auto written = causeway::graph_to_nccl_xml(*graph, "n");
  if (!causeway_fuzz::parsed([&] { return causeway::read_nccl_xml(written, "input", "n"); }))
    causeway_fuzz::fail("what was written does not read back", written);
  return 0;
}
