// Several texts, parted by lines "====", merged: what holds for one graph holds for the result,
// and merging it again changes nothing.
#include <algorithm>
#include <vector>

#include "topology_graph_check.h"
#include "topology_whole.h"

static bool has_device_names(const causeway::TopologyGraph& graph) {
  return std::ranges::all_of(graph.components, [](const auto& component) {
    if (component.kind != causeway::ComponentKind::gpu &&
        component.kind != causeway::ComponentKind::host)
      return true;
    try {
      return causeway::DeviceName::parse(component.name).to_string() == component.name;
    } catch (const causeway::Error&) {
      return false;
    }
  });
}

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
  // Our own JSON may hold GPUs of any name.
  const bool is_named = std::ranges::all_of(graphs, has_device_names);
  const auto merged = causeway::merge(graphs);
  causeway_fuzz::check_graph(merged);
  if (is_named) causeway_fuzz::check_whole(merged);
  const std::vector twice{merged, merged};
  if (!(causeway::merge(twice) == merged)) causeway_fuzz::fail("merge(a, a) is not a", "");
  std::ranges::reverse(graphs);
  const auto reversed = causeway::merge(graphs);
  causeway_fuzz::check_graph(reversed);
  if (is_named) causeway_fuzz::check_whole(reversed);
  const bool contradictory = std::ranges::any_of(merged.notes, [](const auto& note) {
    return note.kind == causeway::TopologyNote::Kind::conflict;
  });
  if (!contradictory && reversed.components.size() != merged.components.size())
    causeway_fuzz::fail("another order of sources gives another number of devices", "");
  return 0;
}
