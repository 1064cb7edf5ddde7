// Several texts, parted by lines "====", merged: what holds for one graph holds for the result,
// and merging it again changes nothing.
#include <algorithm>
#include <vector>

#include "topology_graph_check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using causeway::ImportFormat;
  constexpr std::string_view kCut = "\n====\n";
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<causeway::TopologyGraph> graphs;
  while (!rest.empty() && graphs.size() < 6) {
    const auto cut = rest.find(kCut);
    const auto text = rest.substr(0, cut);
    rest.remove_prefix(cut == std::string_view::npos ? rest.size() : cut + kCut.size());
    const auto format = causeway::detect_format(text);
    if (!format || format == ImportFormat::cluster_yaml) continue;
    if (auto graph =
            causeway_fuzz::parsed([&] { return causeway::import_topology(text, "input"); }))
      graphs.push_back(std::move(*graph));
  }
  const auto merged = causeway::merge(graphs);
  causeway_fuzz::check_graph(merged);
  const std::vector twice{merged, merged};
  if (!(causeway::merge(twice) == merged)) causeway_fuzz::fail("merge(a, a) is not a", "");
  std::ranges::reverse(graphs);
  const auto reversed = causeway::merge(graphs);
  causeway_fuzz::check_graph(reversed);
  const bool contradictory = std::ranges::any_of(merged.notes, [](const auto& note) {
    return note.kind == causeway::TopologyNote::Kind::conflict;
  });
  if (!contradictory && reversed.components.size() != merged.components.size())
    causeway_fuzz::fail("another order of sources gives another number of devices", "");
  return 0;
}
