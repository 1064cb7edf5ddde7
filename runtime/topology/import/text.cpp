#include "runtime/topology/import/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <utility>

#include "allocator/device_name.h"

namespace causeway {

namespace {

constexpr char kEscape = '\x1b';
constexpr std::size_t kMaxNotes = 200;

// The end of the terminal escape that starts at `at`: "ESC [ parameters letter", or two characters.
std::size_t escape_end(std::string_view text, std::size_t at) {
  ++at;
  if (at >= text.size()) return text.size();
  if (text[at] == '(' || text[at] == ')') return std::min(at + 2, text.size());
  if (text[at] != '[') return at + 1;
  for (++at; at < text.size(); ++at)
    if (text[at] >= '@' && text[at] <= '~') return at + 1;
  return text.size();
}

// The end of "[4m" or "^[[4m" at `at`, an escape that lost its first character where it was pasted;
// `at` if there is none.
std::size_t lost_escape_end(std::string_view text, std::size_t at) {
  const auto open = text.substr(at).starts_with("^[") ? at + 2 : at;
  if (open >= text.size() || text[open] != '[') return at;
  const auto end = text.find_first_not_of("0123456789;", open + 1);
  return end != std::string_view::npos && end > open + 1 && text[end] == 'm' ? end + 1 : at;
}

bool is_blank(char c) noexcept { return c == ' ' || c == '\t'; }

// A quoted line as it was before: "> > GPU0" is "GPU0".
std::string_view without_quotes(std::string_view line) {
  for (auto rest = trim(line); rest.starts_with('>'); rest = trim(line)) {
    line = rest.substr(1);
    if (line.starts_with(' ')) line.remove_prefix(1);
  }
  return line;
}

// A row of a table in Markdown or reStructuredText: "| **GPU0** | X |".
bool is_table_row(std::string_view line) {
  line = trim(line);
  return line.size() > 1 && line.starts_with('|') && line.ends_with('|');
}

bool is_plain(char c) noexcept { return (c >= ' ' && c <= '~') || c == '\t'; }

std::string_view prefix_of(ComponentKind kind) noexcept {
  switch (kind) {
    case ComponentKind::gpu:
      return "gpu";
    case ComponentKind::nic:
      return "nic";
    case ComponentKind::host:
      return "host";
    default:
      return "device";
  }
}

}  // namespace

Error text_error(const std::string& origin, std::size_t line, const std::string& what) {
  return {Errc::parse, fmt::format("{}:{}: {}", origin, line, what)};
}

std::string plain_text(std::string_view text, std::size_t limit) {
  std::string plain(text.substr(0, limit));
  std::ranges::replace_if(
      plain, [](char c) { return c < ' ' || c > '~'; }, '?');
  return plain;
}

LineReader::LineReader(std::string_view text) : rest_(text) {
  if (rest_.starts_with("\xef\xbb\xbf")) rest_.remove_prefix(3);
}

bool LineReader::next() {
  const auto blank = std::min(rest_.find_first_not_of('\n'), rest_.size());
  rest_.remove_prefix(blank);
  number_ += blank;
  if (rest_.empty()) return false;
  const auto end = rest_.find('\n');
  line_ = rest_.substr(0, end);
  rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
  ++number_;
  if (line_.ends_with('\r')) line_.remove_suffix(1);
  line_ = without_quotes(line_);
  const bool in_table = is_table_row(line_);
  if (!in_table && line_.find('[') == std::string_view::npos &&
      std::ranges::all_of(line_, is_plain))
    return true;
  clean_.clear();
  for (std::size_t at = 0; at < line_.size();) {
    if (line_[at] == kEscape) {
      at = escape_end(line_, at);
    } else if (const auto next = lost_escape_end(line_, at); next > at) {
      at = next;
    } else if (line_.substr(at).starts_with("\xc2\xa0")) {  // A blank that does not break.
      clean_ += ' ';
      at += 2;
    } else if (in_table && (line_[at] == '|' || line_[at] == '*')) {
      if (line_[at] == '|') clean_ += '\t';
      ++at;
    } else {
      clean_ += is_plain(line_[at]) ? line_[at] : '?';
      ++at;
    }
  }
  line_ = clean_;
  return true;
}

std::vector<std::string_view> split_tokens(std::string_view line, std::size_t limit) {
  std::vector<std::string_view> tokens;
  for (std::size_t at = 0; at < line.size() && tokens.size() <= limit;) {
    if (is_blank(line[at])) {
      ++at;
      continue;
    }
    auto end = at;
    while (end < line.size() && !is_blank(line[end])) ++end;
    tokens.push_back(line.substr(at, end - at));
    at = end;
  }
  return tokens;
}

std::string_view trim(std::string_view text) noexcept {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

std::optional<std::uint32_t> parse_u32(std::string_view text, int base) noexcept {
  std::uint32_t value = 0;
  const auto* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value, base);
  if (text.empty() || result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

std::optional<double> parse_number(std::string_view text) noexcept {
  double value = 0;
  const auto* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (text.empty() || result.ec != std::errc() || result.ptr != end) return std::nullopt;
  if (!std::isfinite(value) || value < 0 || std::signbit(value)) return std::nullopt;
  return value;
}

std::optional<std::uint32_t> numbered(std::string_view text, std::string_view prefix) noexcept {
  if (!text.starts_with(prefix)) return std::nullopt;
  const auto digits = text.substr(prefix.size());
  if (digits.size() > 1 && digits.front() == '0') return std::nullopt;  // GPU01 would be GPU1.
  const auto value = parse_u32(digits);
  return value && *value < kMaxMachineDevices ? value : std::nullopt;
}

std::string safe_node_name(std::string_view text) {
  std::string name;
  for (const char c : text.substr(0, 256)) {
    if (c >= 'A' && c <= 'Z') {
      name += static_cast<char>(c - 'A' + 'a');
    } else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.') {
      name += c;
    } else if (!name.empty() && name.back() != '-') {
      name += '-';
    }
  }
  while (name.starts_with('.') || name.starts_with('-')) name.erase(0, 1);
  name.resize(std::min<std::size_t>(name.size(), 63));
  while (name.ends_with('-')) name.pop_back();
  return is_node_name(name) ? name : std::string();
}

MachineBuilder::MachineBuilder(std::string origin, std::string node) : origin_(std::move(origin)) {
  graph_.name = origin_;
  graph_.nodes.emplace_back().name = std::move(node);
}

std::string MachineBuilder::name(ComponentKind kind, std::uint32_t number) const {
  return fmt::format("{}/{}{}", graph_.nodes.front().name, prefix_of(kind), number);
}

Component& MachineBuilder::device(ComponentKind kind, std::uint32_t number) {
  const auto [at, fresh] = devices_.try_emplace({kind, number});
  if (fresh) {
    at->second.name = name(kind, number);
    at->second.kind = kind;
    at->second.node = graph_.nodes.front().name;
    if (kind == ComponentKind::host) at->second.model = "host";
  }
  return at->second;
}

Pair& MachineBuilder::pair(const std::string& from, const std::string& to) {
  const auto [at, fresh] = pairs_.try_emplace(from + '\n' + to, graph_.pairs.size());
  if (fresh) {
    auto& made = graph_.pairs.emplace_back();
    made.from = from;
    made.to = to;
  }
  return graph_.pairs[at->second];
}

bool MachineBuilder::keep_better(std::optional<Figure>& rate, double bytes_per_s) {
  if (!(bytes_per_s <= kMaxBytesPerS)) return false;
  if (bytes_per_s > 0 && (!rate || rate->value < bytes_per_s))
    rate = Figure{bytes_per_s, Provenance::measured};
  return true;
}

bool MachineBuilder::keep_lower(std::optional<Figure>& latency, double seconds) {
  if (!(seconds <= kMaxLatencyS)) return false;
  if (seconds > 0 && (!latency || latency->value > seconds))
    latency = Figure{seconds, Provenance::measured};
  return true;
}

void MachineBuilder::note(TopologyNote::Kind kind, std::size_t line, const std::string& text) {
  if (graph_.notes.size() > kMaxNotes) return;
  const bool last = graph_.notes.size() == kMaxNotes;
  graph_.notes.push_back({last ? TopologyNote::Kind::remark : kind,
                          fmt::format("{}:{}", origin_, line),
                          last ? "further notes are left out" : text});
}

TopologyGraph MachineBuilder::take() {
  std::map<std::string, std::uint32_t> seen;
  for (const auto& [key, device] : devices_)
    if (!device.uuid.empty()) ++seen[device.uuid];
  for (auto& [key, device] : devices_) {
    if (const auto at = seen.find(device.uuid); at != seen.end() && at->second > 1) {
      note(TopologyNote::Kind::remark, 1,
           fmt::format("{}: left out the UUID '{}' that {} devices share", device.name,
                       device.uuid.substr(0, 64), at->second));
      device.uuid.clear();
    }
    graph_.components.push_back(std::move(device));
  }
  devices_.clear();
  return std::move(graph_);
}

}  // namespace causeway
