#include "tools/commands/topo/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <set>
#include <tuple>

#include "causeway/cluster.h"
#include "tools/commands/command.h"

namespace causeway::tools {

std::string rate_text(const std::optional<Figure>& figure) {
  return figure ? format_rate(figure->value) : "?";
}

std::string figure_text(const std::optional<Figure>& figure) {
  if (!figure) return "?";
  return fmt::format("{} ({})", format_rate(figure->value), to_string(figure->provenance));
}

std::string latency_text(const std::optional<Figure>& figure) {
  return figure ? format_seconds(figure->value) : "?";
}

std::string bytes_text(const std::optional<std::uint64_t>& bytes) {
  return bytes ? format_bytes(*bytes) : "?";
}

std::string provenance_text(const std::optional<Figure>& figure) {
  return figure ? std::string(to_string(figure->provenance)) : "";
}

std::string counted(std::size_t count) {
  auto digits = std::to_string(count);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<std::size_t>(at), ",");
  return digits;
}

std::string counted(std::size_t count, std::string_view one, std::string_view many) {
  if (count == 1) return fmt::format("1 {}", one);
  return many.empty() ? fmt::format("{} {}s", counted(count), one)
                      : fmt::format("{} {}", counted(count), many);
}

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// A name around its last number that is not yet a range.
struct Split {
  std::string head;
  std::optional<std::uint64_t> number;
  std::size_t length = 0;  // Of the number as it is written,
  bool is_padded = false;  // with zeros before it.
  std::string tail;
};

Split split(std::string_view text, std::string_view tail) {
  auto end = text.size();
  while (end > 0 && !is_digit(text[end - 1])) --end;
  auto begin = end;
  while (begin > 0 && is_digit(text[begin - 1]) && end - begin < 18) --begin;
  if (begin == end) return {std::string(text), std::nullopt, 0, false, std::string(tail)};
  Split result{std::string(text.substr(0, begin)), 0, end - begin,
               text[begin] == '0' && end - begin > 1,
               std::string(text.substr(end)) + std::string(tail)};
  std::uint64_t number = 0;
  std::from_chars(text.data() + begin, text.data() + end, number);
  result.number = number;
  return result;
}

std::string ranges_of(std::vector<std::uint64_t> numbers, std::size_t digits) {
  std::ranges::sort(numbers);
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    auto last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += fmt::format("{:0{}}", numbers[i], digits);
    if (last > i) text += fmt::format("-{:0{}}", numbers[last], digits);
    i = last + 1;
  }
  return numbers.size() == 1 ? text : "[" + text + "]";
}

struct Name {
  std::string head;  // Where numbers may still become ranges.
  std::string tail;
};

// One step of joining: by the last number of each head.
std::vector<Name> joined(const std::vector<Name>& names) {
  struct Group {
    Split shape;
    std::size_t digits;
    std::vector<std::uint64_t> numbers;
  };
  std::vector<Split> splits;
  // Next to "c09" the number of "c10" is of two digits too.
  std::set<std::tuple<std::string, std::string, std::size_t>> padded;
  for (const auto& name : names) {
    splits.push_back(split(name.head, name.tail));
    const auto& shape = splits.back();
    if (shape.is_padded) padded.emplace(shape.head, shape.tail, shape.length);
  }
  std::vector<Group> groups;
  std::map<std::tuple<std::string, std::string, std::size_t, bool>, std::size_t> known;
  for (const auto& shape : splits) {
    const auto digits = padded.contains({shape.head, shape.tail, shape.length}) ? shape.length : 0;
    const auto [at, is_new] = known.emplace(
        std::tuple(shape.head, shape.tail, digits, shape.number.has_value()), groups.size());
    if (is_new) groups.push_back({shape, digits, {}});
    if (shape.number) groups[at->second].numbers.push_back(*shape.number);
  }
  std::vector<Name> result;
  for (const auto& [shape, digits, numbers] : groups) {
    if (!shape.number)
      result.push_back({"", shape.head + shape.tail});
    else
      result.push_back({shape.head, ranges_of(numbers, digits) + shape.tail});
  }
  return result;
}

}  // namespace

std::string name_ranges(const std::vector<std::string>& names, std::size_t max_parts) {
  std::vector<Name> parts;
  for (const auto& name : names) parts.push_back({name, ""});
  for (int step = 0; step < 3; ++step) parts = joined(parts);
  std::string text;
  for (std::size_t i = 0; i < std::min(parts.size(), max_parts); ++i)
    text += (i > 0 ? ", " : "") + parts[i].head + parts[i].tail;
  if (parts.size() > max_parts) text += fmt::format(", {} more", counted(parts.size() - max_parts));
  return text;
}

std::string_view node_part(std::string_view component) {
  return component.substr(0, component.find('/'));
}

std::string_view local_part(std::string_view component) {
  const auto slash = component.find('/');
  return slash == component.npos ? component : component.substr(slash + 1);
}

namespace {

// "Intel Xeon Processor" of "Intel(R) Xeon(R) Processor @ 2.80GHz".
std::string processor_title(std::string title) {
  title.resize(std::min(title.size(), title.find(" @")));
  for (const std::string_view noise : {"(R)", "(TM)", "(r)", "(tm)", " CPU"})
    for (auto at = title.find(noise); at != title.npos; at = title.find(noise))
      title.erase(at, noise.size());
  return title;
}

}  // namespace

std::string title_of(const Component& component) {
  if (component.kind == ComponentKind::host) return "host memory";
  if (component.kind == ComponentKind::cpu && !component.title.empty())
    return processor_title(component.title);
  if (!component.model.empty()) return model_title(component.model);
  if (!component.title.empty()) {
    constexpr std::string_view kMaker = "NVIDIA ";
    const std::string_view title = component.title;
    return std::string(title.starts_with(kMaker) ? title.substr(kMaker.size()) : title);
  }
  switch (component.kind) {
    case ComponentKind::gpu:
      return component.arch.empty() ? "GPU" : "GPU " + component.arch;
    case ComponentKind::cpu:
      return component.cpu_vendor.empty() ? component.arch : component.cpu_vendor;
    case ComponentKind::nic:
      return component.driver.empty() ? "NIC" : component.driver;
    case ComponentKind::bridge:
      return "PCIe bridge";
    case ComponentKind::nvswitch:
      return "NVSwitch";
    case ComponentKind::network_switch:
      return "switch";
    case ComponentKind::host:
    case ComponentKind::unknown:
      break;
  }
  return "PCI device";
}

std::string short_uuid(std::string_view uuid) {
  constexpr std::size_t kShown = 12;  // "GPU-" and eight digits.
  return std::string(uuid.starts_with("GPU-") ? uuid.substr(0, kShown) : uuid);
}

std::string short_pci(const PciAddress& address) {
  const auto text = address.to_string();
  return address.domain == 0 ? text.substr(5) : text;
}

bool is_narrow(const TopologyLink& link) {
  return link.pcie.width && link.pcie_max.width && *link.pcie.width < *link.pcie_max.width;
}

std::string pcie_text(const TopologyLink& link) {
  const auto& mode = link.pcie;
  // An idle card slows its link down: what both ends can do is what a transfer gets.
  const auto generation = std::max(mode.generation, link.pcie_max.generation);
  if (!generation && !mode.width) return "";
  auto text = generation ? fmt::format("Gen{}", *generation) : std::string("Gen?");
  text += mode.width ? fmt::format(" x{}", *mode.width) : std::string(" x?");
  if (is_narrow(link)) text += fmt::format(" of x{}", *link.pcie_max.width);
  return text;
}

Colour link_colour(const TopologyLink& link) {
  if (link.state == LinkState::degraded || link.state == LinkState::down) return Colour::red;
  return is_narrow(link) ? Colour::yellow : Colour::none;
}

std::string wrapped(std::string_view text, std::size_t indent) {
  const auto width = std::max<std::size_t>(terminal_width().value_or(100), indent + 20);
  std::string result;
  std::string line(indent, ' ');
  bool is_empty = true;
  while (!text.empty()) {
    const auto end = std::min(text.find(' '), text.size());
    const auto word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (word.empty()) continue;
    if (!is_empty && display_width(line) + 1 + display_width(word) > width) {
      result += line + "\n";
      line.assign(indent, ' ');
      is_empty = true;
    }
    if (!is_empty) line += ' ';
    line += word;
    is_empty = false;
  }
  return result + line + "\n";
}

Branches branches() {
  if (has_unicode()) return {"├─ ", "└─ ", "│  ", "   "};
  return {"|- ", "`- ", "|  ", "   "};
}

const char* arrow() { return has_unicode() ? "→" : "->"; }

}  // namespace causeway::tools
