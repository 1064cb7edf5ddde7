// Every reader of texts, whatever the text looks like; and the detection, which picks some.
#include <algorithm>
#include <array>

#include "topology_graph_check.h"
#include "topology_whole.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using causeway::ImportFormat;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  constexpr std::array kFormats{ImportFormat::smi_topo,      ImportFormat::smi_p2p,
                                ImportFormat::smi_nvlink,    ImportFormat::nvbandwidth,
                                ImportFormat::p2p_test,      ImportFormat::ibnetdiscover,
                                ImportFormat::transfer_table};
  const auto read = [&](ImportFormat format) {
    const auto graph = causeway_fuzz::parsed([&] {
      return causeway::import_topology(text, "input", {format, "node0"});
    });
    if (!graph) return;
    causeway_fuzz::check_graph(*graph);
    causeway_fuzz::check_whole(*graph);
    if (graph->components.size() > size) causeway_fuzz::fail("more devices than text", "");
  };
  const auto detected = causeway::detect_format(text);
  // XML, our JSON and YAML have fuzz targets of their own.
  if (!detected || std::ranges::find(kFormats, *detected) != kFormats.end())
    read(ImportFormat::automatic);
  read(kFormats[size % kFormats.size()]);  // Also one that it may not be.
  return 0;
}
