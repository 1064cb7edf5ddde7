// causeway topo path: the way that bytes take between two devices, hop by hop.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <memory>

#include "causeway/cluster.h"
#include "tools/commands/topo/commands.h"
#include "tools/commands/topo/source.h"
#include "tools/commands/topo/text.h"

namespace causeway::tools {

namespace {

namespace json = boost::json;

struct PathOptions {
  TopoSource source;
  std::string from;
  std::string to;
  std::string bytes = "1GiB";
};

struct Way {
  DeviceName from;
  DeviceName to;
  Route route;
  std::vector<DeviceName> sharers;
};

std::optional<Way> way_between(const Topology& topology, const DeviceName& from,
                               const DeviceName& to) {
  auto route = topology.route(from, to);
  if (!route) return std::nullopt;
  auto sharers = topology.sharers(from, to, *route);
  return Way{from, to, std::move(*route), std::move(sharers)};
}

std::optional<double> seconds_for(const Route& route, std::uint64_t bytes) {
  if (!route.bandwidth_bytes_per_s || route.bandwidth_bytes_per_s->value <= 0) return std::nullopt;
  const double start_s = route.latency_s ? route.latency_s->value : 0;
  return start_s + static_cast<double>(bytes) / route.bandwidth_bytes_per_s->value;
}

// The same links in the other direction, at the same rates.
bool is_mirrored(const Route& there, const Route& back) {
  if (there.hops.size() != back.hops.size() || there.is_staged != back.is_staged ||
      there.bandwidth_bytes_per_s != back.bandwidth_bytes_per_s)
    return false;
  return std::ranges::equal(there.hops, std::vector<Hop>(back.hops.rbegin(), back.hops.rend()),
                            [](const Hop& a, const Hop& b) { return a.link == b.link; });
}

// What would be cheaper for `from` than memory of `to`.
std::vector<RankedDevice> nearer(const Topology& topology, const DeviceName& from,
                                 const DeviceName& to) {
  auto ranked = topology.rank(from);
  const auto at = std::ranges::find(ranked, to, &RankedDevice::device);
  ranked.erase(at, ranked.end());
  std::erase_if(ranked, [&](const RankedDevice& entry) { return entry.device == from; });
  return ranked;
}

std::string names_of(const std::vector<DeviceName>& devices) {
  std::vector<std::string> names;
  for (const auto& device : devices) names.push_back(device.to_string());
  return name_ranges(names);
}

std::string kind_text(const TopologyLink& link) {
  if (link.kind == LinkKind::pcie) {
    const auto mode = pcie_text(link);
    return mode.empty() ? "PCIe" : "PCIe " + mode;
  }
  return std::string(to_string(link.kind));
}

std::string hop_table(const Topology& topology, const Way& way) {
  Table table({{"HOP", true},
               {"FROM"},
               {"TO"},
               {"OVER", false, true},
               {"RATE", true},
               {"BY"},
               {"SOURCE"},
               {""}});
  for (std::size_t i = 0; i < way.route.hops.size(); ++i) {
    const auto& hop = way.route.hops[i];
    const bool narrowest = way.route.bottleneck == i;
    const auto& link = topology.graph().links[hop.link];
    table.add({{std::to_string(i + 1)},
               {hop.from},
               {hop.to},
               {kind_text(link), link_colour(link)},
               {rate_text(hop.bandwidth_bytes_per_s), narrowest ? Colour::red : Colour::none},
               {hop.transport},
               {provenance_text(hop.bandwidth_bytes_per_s), Colour::dim},
               {narrowest ? "bottleneck" : "", Colour::red}});
  }
  return table.empty() ? "" : table.to_string();
}

std::string way_text(const Topology& topology, const Way& way, std::uint64_t bytes) {
  const auto& route = way.route;
  auto text = fmt::format(
      "{}  {}: {}\n",
      coloured(Colour::bold,
               fmt::format("{} {} {}", way.from.to_string(), arrow(), way.to.to_string())),
      route.tier == Tier::island_peer ? "island peer" : to_string(route.tier), route.path);
  text += hop_table(topology, way);
  text +=
      "alone    " +
      wrapped(fmt::format("{}, {} latency{}", figure_text(route.bandwidth_bytes_per_s),
                          latency_text(route.latency_s),
                          route.is_staged ? "; into host memory and out of it share the way" : ""),
              9)
          .substr(9);
  const auto seconds = seconds_for(route, bytes);
  text += fmt::format("{:<8} {}\n", format_bytes(bytes), seconds ? format_seconds(*seconds) : "?");
  if (!way.sharers.empty())
    text += "shared   " + wrapped(fmt::format("the bottleneck is also on the way of {}; together "
                                              "they get what one gets alone",
                                              names_of(way.sharers)),
                                  9)
                              .substr(9);
  return text;
}

json::object figure_json(const std::optional<Figure>& figure) {
  if (!figure) return {{"value", nullptr}};
  return {{"value", figure->value}, {"provenance", to_string(figure->provenance)}};
}

json::object way_json(const Topology& topology, const Way& way, std::uint64_t bytes) {
  const auto& route = way.route;
  json::array hops;
  for (const auto& hop : route.hops)
    hops.push_back({{"from", hop.from},
                    {"to", hop.to},
                    {"kind", to_string(topology.graph().links[hop.link].kind)},
                    {"bandwidth_bytes_per_s", figure_json(hop.bandwidth_bytes_per_s)},
                    {"transport", hop.transport}});
  json::array sharers;
  for (const auto& device : way.sharers) sharers.push_back(json::string(device.to_string()));
  json::object value{{"from", way.from.to_string()},
                     {"to", way.to.to_string()},
                     {"tier", to_string(route.tier)},
                     {"path", route.path},
                     {"staged", route.is_staged},
                     {"bandwidth_bytes_per_s", figure_json(route.bandwidth_bytes_per_s)},
                     {"latency_s", figure_json(route.latency_s)},
                     {"hops", std::move(hops)},
                     {"bottleneck", nullptr},
                     {"bytes", bytes},
                     {"seconds", nullptr},
                     {"sharers", std::move(sharers)}};
  if (route.bottleneck) value["bottleneck"] = *route.bottleneck;
  if (const auto seconds = seconds_for(route, bytes)) value["seconds"] = *seconds;
  return value;
}

void print_json(const Topology& topology, const Way& there, const std::optional<Way>& back,
                const std::vector<RankedDevice>& cheaper, std::uint64_t bytes) {
  auto value = way_json(topology, there, bytes);
  if (back) value["back"] = way_json(topology, *back, bytes);
  json::array list;
  for (const auto& [device, cost] : cheaper)
    list.push_back({{"device", device.to_string()},
                    {"tier", to_string(cost.tier)},
                    {"bandwidth_bytes_per_s", cost.rate.bandwidth_bytes_per_s},
                    {"latency_s", cost.rate.latency_s}});
  value["nearer"] = std::move(list);
  fmt::print("{}\n", json::serialize(value));
}

std::string nearer_text(const std::vector<RankedDevice>& cheaper, const DeviceName& from) {
  if (cheaper.empty()) return "";
  constexpr std::size_t kShown = 4;
  Table table({{"NEARER TO " + from.to_string()},
               {"TIER"},
               {"RATE", true},
               {"LATENCY", true},
               {"PATH", false, true},
               {"SOURCE"}});
  for (std::size_t i = 0; i < std::min(cheaper.size(), kShown); ++i) {
    const auto& [device, cost] = cheaper[i];
    table.add({{device.to_string()},
               {std::string(to_string(cost.tier))},
               {format_rate(cost.rate.bandwidth_bytes_per_s)},
               {format_seconds(cost.rate.latency_s)},
               {cost.path},
               {std::string(to_string(cost.rate.provenance)), Colour::dim}});
  }
  auto text = "\n" + table.to_string();
  if (cheaper.size() > kShown)
    text += fmt::format("and {}\n", counted(cheaper.size() - kShown, "more device"));
  return text;
}

int run_path(const PathOptions& options, bool json) {
  const auto topology = load_topology(options.source);
  const auto from = DeviceName::parse(options.from);
  const auto to = DeviceName::parse(options.to);
  const auto bytes = parse_bytes(options.bytes);
  const auto there = way_between(topology, from, to);
  if (!there)
    throw Error(Errc::not_found,
                fmt::format("no known path joins {} and {}; topo show --view network shows what "
                            "joins the nodes",
                            from.to_string(), to.to_string()));
  const auto back = way_between(topology, to, from);
  const auto cheaper = nearer(topology, from, to);
  if (json) {
    print_json(topology, *there, back, cheaper, bytes);
    return kExitOk;
  }
  fmt::print("{}", way_text(topology, *there, bytes));
  if (back && !is_mirrored(there->route, back->route))
    fmt::print("\nThe way back differs:\n{}", way_text(topology, *back, bytes));
  fmt::print("{}", nearer_text(cheaper, from));
  return kExitOk;
}

}  // namespace

void add_topo_path(CLI::App& topo, Shell& shell) {
  auto options = std::make_shared<PathOptions>();
  auto* path = add_command(topo, shell, "path", "Every hop between two devices, and the bottleneck",
                           "causeway topo path desktop/gpu0 hgx/gpu0 --cluster desktop-and-hgx",
                           [options, &shell]() { return run_path(*options, shell.json); });
  path->add_option("FROM", options->from, "The device that uses the memory")->required();
  path->add_option("TO", options->to, "The device that has it")->required();
  path->add_option("--bytes", options->bytes, "How much is moved (1GiB)")->type_name("BYTES");
  add_source_options(*path, options->source);
}

}  // namespace causeway::tools
