#include "runtime/topology/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/anchor.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>
#include <set>
#include <sstream>

#include "causeway/cluster.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

Error parse_error(const std::string& origin, int line, const std::string& what) {
  return {Errc::parse, fmt::format("{}:{}: {}", origin, line, what)};
}

// Builds the tree from yaml-cpp's events. The events come before yaml-cpp builds anything of its
// own, so the limits hold however hostile the text is.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::string& origin) : origin_(origin) {}

  [[nodiscard]] YamlNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0)
      throw parse_error(origin_, mark.line + 1, "document: a second one; keep one per file");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    place(leaf(YamlNode::Kind::null, mark, ""));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw parse_error(origin_, mark.line + 1, "alias: not supported; write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    if (tag != "?" && tag != "!" && !tag.empty())
      throw parse_error(origin_, mark.line + 1, "tag: not supported; write the plain value");
    const bool plain = tag != "!";
    const bool null = plain && (value == "~" || value == "null");
    place(leaf(null ? YamlNode::Kind::null : YamlNode::Kind::scalar, mark, value));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::sequence, mark, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::map, mark, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    YamlNode node;
    std::set<std::string> seen;
    bool key_next = true;
  };

  static YamlNode leaf(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& text) {
    YamlNode node;
    node.kind = kind;
    node.line = mark.line + 1;
    node.text = text;
    return node;
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor)
      throw parse_error(origin_, mark.line + 1, "anchor: not supported; write the value out");
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
    refuse_anchor(mark, anchor);
    if (stack_.size() >= kMaxYamlDepth)
      throw parse_error(origin_, mark.line + 1,
                        fmt::format("nesting: deeper than {} levels", kMaxYamlDepth));
    if (!stack_.empty() && stack_.back().node.kind == YamlNode::Kind::map && stack_.back().key_next)
      throw parse_error(origin_, mark.line + 1, "key: is a list or map; write a name");
    stack_.push_back({leaf(kind, mark, ""), {}, true});
  }

  void close() {
    YamlNode done = std::move(stack_.back().node);
    stack_.pop_back();
    place(std::move(done));
  }

  void place(YamlNode node) {
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& top = stack_.back();
    if (top.node.kind == YamlNode::Kind::map && top.key_next) {
      if (node.kind != YamlNode::Kind::scalar)
        throw parse_error(origin_, node.line, "key: is empty; write a name");
      if (!top.seen.insert(node.text).second)
        throw parse_error(origin_, node.line, node.text + ": given twice; keep one");
      top.node.keys.push_back(std::move(node.text));
      top.key_next = false;
      return;
    }
    top.node.items.push_back(std::move(node));
    top.key_next = true;
  }

  const std::string& origin_;
  std::vector<Open> stack_;
  YamlNode root_;
  int documents_ = 0;
};

// yaml-cpp takes 0x04 for the end of the file and replaces bytes that are no UTF-8: what it would
// misread is refused here.
void check_characters(std::string_view text, const std::string& origin) {
  int line = 1;
  for (std::size_t at = 0; at < text.size();) {
    const auto length = utf8_length(text, at);
    const auto byte = static_cast<unsigned char>(text[at]);
    if (length == 0) throw parse_error(origin, line, "text: is not UTF-8; save the file as UTF-8");
    if ((byte < 0x20 && byte != '\n' && byte != '\r' && byte != '\t') || byte == 0x7F)
      throw parse_error(origin, line, fmt::format("text: control character 0x{:02x}", byte));
    if (byte == '\n') ++line;
    at += length;
  }
}

}  // namespace

YamlNode parse_yaml(std::string_view text, const std::string& origin, std::size_t limit_bytes) {
  if (text.size() > limit_bytes)
    throw parse_error(origin, 1,
                      fmt::format("text: {} bytes; at most {} are read", text.size(), limit_bytes));
  check_characters(text, origin);
  std::istringstream stream{std::string(text)};
  TreeBuilder builder(origin);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    throw parse_error(origin, std::max(error.mark.line, 0) + 1, "YAML: " + error.msg);
  }
  return builder.take();
}

std::string read_text_file(const std::string& path, std::size_t limit_bytes) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file && errno == ENOENT) throw Error(Errc::not_found, path + ": no such file");
  if (!file) throw system_error(path + ": cannot be opened", errno);
  std::string text;
  for (std::vector<char> chunk(64 * 1024); file && text.size() <= limit_bytes;) {
    file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    text.append(chunk.data(), static_cast<std::size_t>(file.gcount()));
  }
  if (file.bad()) throw system_error(path + ": cannot be read", errno);
  if (text.size() > limit_bytes)
    throw parse_error(path, 1, fmt::format("text: over {} bytes, the most read", limit_bytes));
  return text;
}

std::string yaml_scalar(std::string_view text) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '/' || c == '-';
  };
  if (!text.empty() && text.front() != '-' && text.front() != '.' && text != "null" &&
      std::ranges::all_of(text, plain))
    return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      quoted += {'\\', c};
    else if (byte < 0x20 || byte == 0x7F)
      quoted += fmt::format("\\x{:02x}", byte);
    else
      quoted += c;
  }
  return quoted + '"';
}

std::string yaml_number(double value) { return fmt::format("{}", value); }

Error YamlField::error(const std::string& what) const {
  return parse_error(*origin_, node_->line, (path_.empty() ? "file" : path_) + ": " + what);
}

void YamlField::expect_map(const std::string& expected,
                           std::initializer_list<std::string_view> keys) const {
  if (node_->kind != YamlNode::Kind::map)
    throw error(fmt::format("must be {} with the keys {}", expected, fmt::join(keys, ", ")));
  for (std::size_t i = 0; i < node_->keys.size(); ++i) {
    const auto& key = node_->keys[i];
    if (std::ranges::find(keys, key) != keys.end()) continue;
    const auto near = nearest_name(key, keys);
    const YamlField field(node_->items[i], *origin_, path_.empty() ? key : path_ + "." + key);
    throw field.error(
        near ? fmt::format("unknown key; did you mean '{}'?", *near)
             : fmt::format("unknown key; {} has: {}", expected, fmt::join(keys, ", ")));
  }
}

YamlField YamlField::require(std::string_view key, const std::string& hint) const {
  if (auto field = find(key)) return *field;
  throw error(fmt::format("'{}' is missing; write {}", key, hint));
}

std::optional<YamlField> YamlField::find(std::string_view key) const {
  const auto at = std::ranges::find(node_->keys, key);
  if (at == node_->keys.end()) return std::nullopt;
  const auto& item = node_->items[static_cast<std::size_t>(at - node_->keys.begin())];
  return YamlField(item, *origin_, path_.empty() ? *at : path_ + "." + *at);
}

std::vector<YamlField> YamlField::items(const std::string& hint, std::size_t limit) const {
  if (node_->kind != YamlNode::Kind::sequence) throw error("must be a list; write " + hint);
  if (node_->items.size() > limit)
    throw error(fmt::format("{} entries; at most {} are allowed", node_->items.size(), limit));
  std::vector<YamlField> fields;
  fields.reserve(node_->items.size());
  for (const auto& item : node_->items)
    fields.push_back({item, *origin_, fmt::format("{}[{}]", path_, fields.size())});
  return fields;
}

std::vector<YamlField> YamlField::require_items(std::string_view key, const std::string& example,
                                                std::size_t limit) const {
  const auto list = require(key, "a list such as " + example);
  auto entries = list.items(example, limit);
  if (entries.empty()) throw list.error("is empty; write at least one entry, such as " + example);
  return entries;
}

std::pair<YamlField, YamlField> YamlField::pair(const std::string& hint) const {
  if (node_->kind != YamlNode::Kind::sequence || node_->items.size() != 2)
    throw error("must be " + hint);
  const auto entries = items(hint, 2);
  return {entries[0], entries[1]};
}

const std::string& YamlField::text(const std::string& hint) const {
  if (node_->kind != YamlNode::Kind::scalar) throw error("must be one value; write " + hint);
  return node_->text;
}

std::uint64_t YamlField::whole_number(std::uint64_t low, std::uint64_t high) const {
  const auto hint = fmt::format("a whole number from {} to {}", low, high);
  const auto& digits = text(hint);
  std::uint64_t value = 0;
  const auto* last = digits.data() + digits.size();
  const auto [end, status] = std::from_chars(digits.data(), last, value);
  if (status != std::errc{} || end != last || value < low || value > high)
    throw error(fmt::format("'{}' is not {}", digits, hint));
  return value;
}

double YamlField::number(double low, double high) const {
  const auto hint = fmt::format("a number from {} to {}", low, high);
  const auto& digits = text(hint);
  double value = 0;
  const auto* last = digits.data() + digits.size();
  const auto [end, status] = std::from_chars(digits.data(), last, value);
  if (status != std::errc{} || end != last || !(value >= low && value <= high))
    throw error(fmt::format("'{}' is not {}", digits, hint));
  return value;
}

std::uint64_t YamlField::bytes() const {
  const auto& size = text("a size such as 32 GB");
  try {
    return parse_bytes(size);
  } catch (const Error& failure) {
    throw error(failure.what());
  }
}

DeviceName YamlField::device_name(const std::string& hint) const {
  const auto& name = text(hint);
  try {
    return DeviceName::parse(name);
  } catch (const Error& failure) {
    throw error(failure.what());
  }
}

static std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row.back();
}

std::optional<std::string_view> nearest_name(std::string_view name,
                                             const std::vector<std::string_view>& known) {
  if (name.size() > 64)
    return std::nullopt;  // No typing slip; the distance would cost for nothing.
  std::optional<std::string_view> best;
  std::size_t best_distance = 1 + std::max<std::size_t>(name.size() / 2, 1);
  for (const auto& candidate : known) {
    const auto distance = edit_distance(name, candidate);
    if (distance >= best_distance) continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

}  // namespace causeway
