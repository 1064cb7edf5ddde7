// Reads YAML that strangers wrote into a plain tree with line numbers, and says what is wrong in
// the form "FILE:LINE: FIELD: what; what to write instead". JSON text is read too: JSON is YAML.
//
// Shape:   null, scalar, sequence or map. Tags, anchors and aliases are refused, so a tree is never
//          larger than its text; a repeated key is refused, so no entry is silently dropped.
// Errors:  Errc::parse from everything here.
// Cost:    O(text), within the limits below.
// Threads: plain values.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "allocator/device_name.h"
#include "allocator/error.h"

namespace causeway {

struct YamlNode {
  enum class Kind : std::uint8_t { null, scalar, sequence, map };
  Kind kind = Kind::null;
  int line = 1;
  std::string text;               // Of a scalar.
  std::vector<std::string> keys;  // Of a map; keys[i] goes with items[i].
  std::vector<YamlNode> items;
};

constexpr std::size_t kMaxYamlBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxYamlDepth = 32;

// One document. `origin` stands for the file's name in errors.
[[nodiscard]] YamlNode parse_yaml(std::string_view text, const std::string& origin,
                                  std::size_t limit_bytes = kMaxYamlBytes);

// The whole file. Errors: Errc::not_found or io if it cannot be read; parse if it is over the
// limit.
[[nodiscard]] std::string read_text_file(const std::string& path, std::size_t limit_bytes);

// `text` as a YAML scalar: bare where that is safe, else in double quotes.
[[nodiscard]] std::string yaml_scalar(std::string_view text);
// Reads back to the same double.
[[nodiscard]] std::string yaml_number(double value);

// A place in a tree: knows its path ("nodes[0].devices[1].gpu") for errors. Borrows the tree and
// the origin.
class YamlField {
 public:
  YamlField(const YamlNode& node, const std::string& origin) : YamlField(node, origin, "") {}

  [[nodiscard]] Error error(const std::string& what) const;
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] int line() const noexcept { return node_->line; }
  [[nodiscard]] YamlNode::Kind kind() const noexcept { return node_->kind; }

  // A map with no other keys than these. `expected` describes the map: "a node".
  void expect_map(const std::string& expected, std::initializer_list<std::string_view> keys) const;
  [[nodiscard]] YamlField require(std::string_view key, const std::string& hint) const;
  [[nodiscard]] std::optional<YamlField> find(std::string_view key) const;
  // The entries of a sequence of at most `limit`.
  [[nodiscard]] std::vector<YamlField> items(const std::string& hint, std::size_t limit) const;
  // The entries of the sequence `key`, at least one. `example` is such a sequence.
  [[nodiscard]] std::vector<YamlField> require_items(std::string_view key,
                                                     const std::string& example,
                                                     std::size_t limit) const;
  // The entries of a sequence of two. `hint` is "two numbers: [0, 4]".
  [[nodiscard]] std::pair<YamlField, YamlField> pair(const std::string& hint) const;

  [[nodiscard]] const std::string& text(const std::string& hint) const;
  [[nodiscard]] std::uint64_t whole_number(std::uint64_t low, std::uint64_t high) const;
  [[nodiscard]] double number(double low, double high) const;
  [[nodiscard]] DeviceName device_name(const std::string& hint) const;
  [[nodiscard]] std::uint64_t bytes() const;  // parse_bytes() of <causeway/cluster.h>.

 private:
  YamlField(const YamlNode& node, const std::string& origin, std::string path)
      : node_(&node), origin_(&origin), path_(std::move(path)) {}

  const YamlNode* node_;
  const std::string* origin_;
  std::string path_;
};

// The name in `known` that `name` most likely meant, if one is near enough.
[[nodiscard]] std::optional<std::string_view> nearest_name(
    std::string_view name, const std::vector<std::string_view>& known);

}  // namespace causeway
