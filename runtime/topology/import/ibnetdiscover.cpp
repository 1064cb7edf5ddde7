// ibnetdiscover: the switches and adapters of an InfiniBand fabric and the cables between them.
//
// Shape:   a record per device ("Switch 65 "S-GUID" # "name" ...", "Ca", "Rt"), then a line per
//          port with the device and port at its other end. Every cable stands in the text twice.
// Units:   a lane carries 25 Gbit/s as EDR, 50 as HDR, 100 as NDR; "4xNDR" is four lanes.
// Source:  the format as man 8 ibnetdiscover has it; data rates of the InfiniBand specification.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/text.h"

namespace causeway {

namespace {

using Kind = TopologyNote::Kind;

constexpr std::size_t kMaxFabricDevices = std::size_t{1} << 18;
constexpr std::size_t kMaxDescription = 128;
constexpr std::size_t kMaxNotes = 64;
constexpr std::uint32_t kMaxPort = 1 << 16;

// Takes what stands between the first two `quote`s off the front of `text`.
std::optional<std::string_view> take_quoted(std::string_view& text) {
  const auto open = text.find('"');
  const auto close = open == std::string_view::npos ? open : text.find('"', open + 1);
  if (close == std::string_view::npos) return std::nullopt;
  const auto quoted = text.substr(open + 1, close - open - 1);
  text.remove_prefix(close + 1);
  return quoted;
}

// Takes "[12]" off the front of `text`.
std::optional<std::uint32_t> take_port(std::string_view& text) {
  if (!text.starts_with('[')) return std::nullopt;
  const auto close = text.find(']');
  if (close == std::string_view::npos) return std::nullopt;
  const auto port = parse_u32(text.substr(1, close - 1));
  text.remove_prefix(close + 1);
  return port && *port < kMaxPort ? port : std::nullopt;
}

// Takes "(e09d7303007a4bd8)" off the front of `text`; empty if there is none.
std::string_view take_guid(std::string_view& text) {
  if (!text.starts_with('(')) return {};
  const auto close = text.find(')');
  if (close == std::string_view::npos) return {};
  const auto guid = text.substr(1, close - 1);
  text.remove_prefix(close + 1);
  const bool hex = guid.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
  return hex && guid.size() <= 16 ? guid : std::string_view();
}

// Bytes per second of "4xNDR".
std::optional<double> parse_rate(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, double>, 9> kGbitPerLane{
      {{"SDR", 2},
       {"DDR", 4},
       {"QDR", 8},
       {"FDR10", 10},
       {"FDR", 56.25 / 4 * 64 / 66},
       {"EDR", 25},
       {"HDR", 50},
       {"NDR", 100},
       {"XDR", 200}}};
  const auto times = text.find('x');
  if (times == std::string_view::npos) return std::nullopt;
  const auto lanes = parse_u32(text.substr(0, times));
  if (!lanes || *lanes == 0 || *lanes > 16) return std::nullopt;
  for (const auto& [name, gbit] : kGbitPerLane)
    if (text.substr(times + 1) == name) return *lanes * gbit * 1e9 / 8;
  return std::nullopt;
}

struct FabricDevice {
  std::string id;  // "S-2c5eab0300b87b40"
  std::string description;
  bool has_record = false;
  [[nodiscard]] bool is_switch() const { return !id.starts_with('H'); }
  [[nodiscard]] std::string guid() const { return id.substr(2); }
};

struct End {
  std::uint32_t device;
  std::uint32_t port;
  auto operator<=>(const End&) const = default;
};

struct Cable {
  End a;
  End b;               // a < b
  bool from_a;         // Whose line this is.
  double bytes_per_s;  // 0: not known.
};

// The machine and the adapter that "node-17 mlx5_5" and "node-17 HCA-6" name; about "HCA-6" there
// may be more words. What adapters call themselves before a host has named them ("MT4129 ConnectX7
// Mellanox Technologies") names none.
struct Adapter {
  std::string host;
  std::string title;
};

Adapter parse_adapter(std::string_view description) {
  auto words = split_tokens(description);
  for (std::size_t i = 1; i < words.size(); ++i)
    if (numbered(words[i], "HCA-")) words = {words[0], words[i]};
  if (words.empty() || words.size() > 2) return {};
  Adapter adapter{std::string(words[0]), words.size() == 2 ? std::string(words[1]) : ""};
  const bool device = adapter.title.empty() || adapter.title.starts_with("HCA-") ||
                      (adapter.title.back() >= '0' && adapter.title.back() <= '9');
  // A name that no one has set.
  const bool unset = adapter.host == "localhost" || adapter.host.starts_with("localhost.");
  return device && !unset ? adapter : Adapter{};
}

class FabricReader {
 public:
  explicit FabricReader(const std::string& origin) : origin_(origin) { graph_.name = origin; }

  void read_line(std::string_view line, std::size_t number) {
    line = trim(line);  // Manuals and reports indent what they quote.
    if (line.starts_with('[')) {
      auto rest = line;
      const bool is_prompt = !take_port(rest) && line.find('"') == line.npos;  // "[root@node ~]#"
      if (!is_prompt) read_port(line, number);
    } else if (line.starts_with("Switch") || line.starts_with("Ca") || line.starts_with("Rt")) {
      read_record(line, number);
    }
  }

  TopologyGraph take() {
    if (devices_.empty())
      throw text_error(origin_, 1,
                       "no record of a switch or an adapter; give the output of 'ibnetdiscover'");
    join_cables();
    add_switches();
    add_adapters();
    add_links();
    return std::move(graph_);
  }

 private:
  void note(Kind kind, std::size_t line, const std::string& text) {
    if (graph_.notes.size() < kMaxNotes)
      graph_.notes.push_back({kind, fmt::format("{}:{}", origin_, line), text});
  }

  std::uint32_t device(std::string_view id, std::size_t line) {
    const bool hex =
        id.size() > 2 && id.size() <= 34 && id[1] == '-' &&
        id.substr(2).find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
    if (!hex || (id[0] != 'S' && id[0] != 'H' && id[0] != 'R'))
      throw text_error(
          origin_, line,
          fmt::format("'{}' is no device of the form S-GUID, H-GUID or R-GUID", id.substr(0, 40)));
    const auto [at, fresh] =
        index_.try_emplace(std::string(id), static_cast<std::uint32_t>(devices_.size()));
    if (fresh) {
      if (devices_.size() >= kMaxFabricDevices)
        throw text_error(origin_, line,
                         fmt::format("more than {} devices, the most read", kMaxFabricDevices));
      devices_.emplace_back().id = id;
    }
    return at->second;
  }

  void describe(std::uint32_t of, std::string_view description) {
    auto& known = devices_[of].description;
    if (known.empty()) known = plain_text(trim(description), kMaxDescription);
  }

  void read_record(std::string_view line, std::size_t number) {
    auto rest = line;
    const auto id = take_quoted(rest);
    if (!id) return;  // A word of some other line.
    current_ = device(*id, number);
    const auto description = take_quoted(rest);
    if (description) describe(*current_, *description);
    auto& made = devices_[*current_];
    // With -g, the switches of a chassis stand there once by place and once more.
    if (made.has_record && description &&
        made.description != plain_text(trim(*description), kMaxDescription))
      note(Kind::conflict, number,
           fmt::format("a second record of {} gives it another name; joined", made.id));
    made.has_record = true;
  }

  // [17]     "H-e09d7303007a5a68"[1](e09d7303007a5a68)   # "node-17 mlx5_5" lid 657 4xNDR
  // [1](e09d7303007a5a68)   "S-2c5eab0300b87b40"[17]     # lid 657 lmc 0 "leaf-4" lid 73 4xNDR
  void read_port(std::string_view line, std::size_t number) {
    auto rest = line;
    const auto port = take_port(rest);
    if (!current_ || !port)
      throw text_error(origin_, number,
                       "a port before the record of its device, or without number");
    const auto own_guid = take_guid(rest);
    const auto id = take_quoted(rest);
    const auto peer_port = take_port(rest);
    if (!id || !peer_port)
      throw text_error(origin_, number,
                       "a port whose other end is not of the form \"S-GUID\"[PORT]");
    const auto peer = device(*id, number);
    while (rest.starts_with('[')) rest.remove_prefix(std::min(rest.find(']'), rest.size() - 1) + 1);
    const auto peer_guid = take_guid(rest);
    const End here{*current_, *port};
    const End there{peer, *peer_port};
    name_port(here, own_guid);
    name_port(there, peer_guid);
    if (const auto description = take_quoted(rest)) describe(peer, *description);
    std::optional<double> rate;
    for (const auto word : split_tokens(rest))  // With -f, numbers follow it.
      if (!rate) rate = parse_rate(word);
    if (!rate && ++unknown_rates_ == 1)
      note(Kind::remark, number, "a cable whose width and speed are not known (the first of such)");
    if (here == there) {
      note(Kind::repaired, number, fmt::format("left out a cable of {} to itself", *id));
      return;
    }
    cables_.push_back(
        {std::min(here, there), std::max(here, there), here < there, rate.value_or(0)});
  }

  void name_port(const End& end, std::string_view guid) {
    if (devices_[end.device].is_switch()) return;
    auto& known = ports_[end];
    if (known.empty()) known = guid;
  }

  // Both lines of a cable into one.
  void join_cables() {
    const auto key = [](const Cable& cable) { return std::tie(cable.a, cable.b); };
    std::ranges::sort(cables_, {}, key);
    std::size_t one_sided = 0;
    std::size_t unequal = 0;
    std::vector<Cable> joined;
    for (std::size_t i = 0; i < cables_.size();) {
      auto cable = cables_[i];
      bool both = false;
      for (++i; i < cables_.size() && key(cables_[i]) == key(cable); ++i) {
        both = both || cables_[i].from_a != cable.from_a;
        const auto other = cables_[i].bytes_per_s;
        if (cable.bytes_per_s == 0 || other == 0) {
          cable.bytes_per_s = std::max(cable.bytes_per_s, other);
        } else if (cable.bytes_per_s != other) {
          cable.bytes_per_s = std::min(cable.bytes_per_s, other);
          if (unequal++ == 0)
            note(Kind::conflict, 1,
                 fmt::format("the ends of a cable of {} and {} give it two rates; the lower is "
                             "taken (the first of such)",
                             devices_[cable.a.device].id, devices_[cable.b.device].id));
        }
      }
      const auto far = cable.from_a ? cable.b.device : cable.a.device;
      if (!both && one_sided++ == 0)
        note(Kind::repaired, 1,
             fmt::format("{} does not list its cable to {} (the first of such)", devices_[far].id,
                         devices_[cable.from_a ? cable.a.device : cable.b.device].id));
      joined.push_back(cable);
    }
    if (one_sided > 1)
      note(Kind::repaired, 1, fmt::format("{} cables are listed from one end only", one_sided));
    cables_ = std::move(joined);
  }

  // "MF0;leaf-4:MQM9700/U1" is the switch leaf-4; other descriptions may be of many switches.
  static std::string switch_name(std::string_view description) {
    if (const auto semicolon = description.find(';');
        description.starts_with("MF0") && semicolon != std::string_view::npos) {
      description = description.substr(semicolon + 1);
      description = description.substr(0, description.find(':'));
    }
    return safe_node_name(description);
  }

  std::string unique_name(const std::string& name, const std::string& guid) {
    if (!name.empty() && taken_.insert(name).second) return name;
    auto longer = name.empty() ? "switch-" + guid : name + "-" + guid;
    while (!taken_.insert(longer).second) longer += "-x";  // A router may have a switch's GUID.
    return longer;
  }

  void add_switches() {
    std::unordered_map<std::string, int> times;
    for (const auto& device : devices_)
      if (device.is_switch()) ++times[switch_name(device.description)];
    names_.resize(devices_.size());
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      const auto& device = devices_[i];
      if (!device.is_switch()) continue;
      const auto name = switch_name(device.description);
      auto& made = graph_.components.emplace_back();
      made.name = unique_name(times[name] > 1 ? "" : name, device.guid());
      made.kind = ComponentKind::network_switch;
      made.title = device.description;
      made.uuid = "0x" + device.guid();
      names_[i] = made.name;
    }
  }

  // Names of machines, and which adapters are theirs. A description that several adapters have is
  // of several machines: none of them is known.
  std::vector<std::string> name_hosts() {
    std::unordered_map<std::string, int> times;
    for (const auto& device : devices_)
      if (!device.is_switch()) ++times[device.description];
    std::vector<std::string> hosts(devices_.size());
    std::unordered_map<std::string, std::string> known;  // By host: node.
    std::size_t changed = 0;
    std::size_t homeless = 0;
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      if (devices_[i].is_switch()) continue;
      const auto host = parse_adapter(devices_[i].description).host;
      const auto safe = safe_node_name(host);
      if (safe.empty() || times[devices_[i].description] > 1) {
        ++homeless;
        continue;
      }
      const auto [at, fresh] = known.try_emplace(host);
      if (fresh) {
        at->second = safe;
        for (int more = 2; !taken_.insert(at->second).second; ++more)
          at->second = fmt::format("{}-{}", safe.substr(0, 56), more);
        if (at->second != host && changed++ == 0)
          note(Kind::repaired, 1,
               fmt::format("calls the machine '{}' {} (the first of such)", host, at->second));
        graph_.nodes.emplace_back().name = at->second;
      }
      hosts[i] = at->second;
    }
    if (homeless > 0)
      note(Kind::remark, 1,
           fmt::format("{} adapters do not say whose they are (they belong to switches, or their "
                       "machine has not named them)",
                       homeless));
    return hosts;
  }

  void add_adapters() {
    const auto hosts = name_hosts();
    std::unordered_map<std::string, std::unordered_set<std::uint32_t>> numbers;
    std::vector<std::vector<End>> ports(devices_.size());
    for (const auto& [end, guid] : ports_) ports[end.device].push_back(end);
    for (std::uint32_t i = 0; i < devices_.size(); ++i) {
      const auto& device = devices_[i];
      if (device.is_switch()) continue;
      if (ports[i].empty()) ports[i].push_back({i, 1});
      const auto title = parse_adapter(device.description).title;
      for (const auto& end : ports[i]) {
        auto& nic = graph_.components.emplace_back();
        nic.kind = ComponentKind::nic;
        nic.node = hosts[i];
        nic.title = hosts[i].empty() ? device.description : title;
        const auto& guid = ports_[end];
        const bool several = ports[i].size() > 1;
        nic.uuid = "0x" + (several && !guid.empty() ? guid : device.guid());
        nic.name = hosts[i].empty() ? "hca-" + device.guid() : hosts[i] + "/nic";
        if (!hosts[i].empty()) {
          auto& used = numbers[hosts[i]];
          auto number = title_number(title).value_or(0);
          while (!used.insert(number).second) ++number;
          nic.name += std::to_string(number);
        } else {
          if (several) nic.name += fmt::format("-{}", end.port);
          while (!taken_.insert(nic.name).second) nic.name += "-x";
        }
        nic_names_[end] = graph_.components.size() - 1;
      }
    }
  }

  // 5 of "mlx5_5", 6 of "HCA-6".
  static std::optional<std::uint32_t> title_number(std::string_view title) {
    const auto at = title.find_last_not_of("0123456789");
    if (at == std::string_view::npos) return std::nullopt;
    return numbered(title.substr(at + 1), "");
  }

  const std::string& end_name(const End& end) {
    if (devices_[end.device].is_switch()) return names_[end.device];
    return graph_.components[nic_names_.at(end)].name;
  }

  void add_links() {
    std::unordered_map<std::string, std::size_t> between;
    for (const auto& cable : cables_) {
      const bool is_nic = !devices_[cable.a.device].is_switch();
      // The adapter first, then the switch.
      const auto& a = end_name(is_nic ? cable.a : cable.b);
      const auto& b = end_name(is_nic ? cable.b : cable.a);
      if (a == b) {
        note(Kind::repaired, 1, fmt::format("left out a cable of {} to itself", a));
        continue;
      }
      for (const auto& end : {cable.a, cable.b})
        if (const auto nic = nic_names_.find(end); nic != nic_names_.end()) {
          graph_.components[nic->second].port_up = true;
          if (cable.bytes_per_s > 0)
            graph_.components[nic->second].port_bytes_per_s = cable.bytes_per_s;
        }
      const auto [at, fresh] =
          between.try_emplace(std::min(a, b) + '\n' + std::max(a, b), graph_.links.size());
      if (fresh) {
        TopologyLink link{LinkKind::network, a, b};
        link.provenance = Provenance::import;
        link.count = 0;
        link.state = LinkState::up;
        link.line_bytes_per_s = Figure{0, Provenance::import};
        graph_.links.push_back(std::move(link));
      }
      auto& link = graph_.links[at->second];
      ++link.count;
      if (cable.bytes_per_s == 0) link.line_bytes_per_s.reset();
      if (link.line_bytes_per_s) link.line_bytes_per_s->value += cable.bytes_per_s;
    }
    // Rates of InfiniBand are of data, without the coding: what a large transfer gets.
    for (auto& link : graph_.links) link.effective_bytes_per_s = link.line_bytes_per_s;
  }

  const std::string& origin_;
  TopologyGraph graph_;
  std::vector<FabricDevice> devices_;
  std::unordered_map<std::string, std::uint32_t> index_;  // By id.
  std::optional<std::uint32_t> current_;
  std::vector<Cable> cables_;
  std::map<End, std::string> ports_;  // Of adapters: the GUID of the port.
  std::map<End, std::size_t> nic_names_;
  std::vector<std::string> names_;  // Of switches, by device.
  std::unordered_set<std::string> taken_;
  std::size_t unknown_rates_ = 0;
};

}  // namespace

TopologyGraph read_ibnetdiscover(std::string_view text, const std::string& origin) {
  FabricReader reader(origin);
  for (LineReader lines(text); lines.next();) reader.read_line(lines.line(), lines.number());
  return reader.take();
}

}  // namespace causeway
