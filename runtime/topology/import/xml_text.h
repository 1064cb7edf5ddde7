// An XML text that strangers wrote, parsed within limits, with the line of every element.
//
// Shape:   pugixml's tree; every attribute is UTF-8, or was made so, with a note. No entity is
// expanded beyond XML's five and character references, and
//          nothing that a DOCTYPE names is opened.
// Errors:  Errc::parse, "ORIGIN:LINE: what is wrong; what to do", from everything here.
// Cost:    O(text); memory at most about eight times the limits below. Depth is bounded, so code
//          that walks the tree may recurse.
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <pugixml.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "causeway/error.h"
#include "causeway/topology_graph.h"

namespace causeway {

constexpr std::size_t kMaxXmlDepth = 128;
constexpr std::size_t kMaxXmlElements = std::size_t{2} << 20;
constexpr std::size_t kMaxXmlAttributes = std::size_t{8} << 20;
constexpr std::size_t kMaxReaderNotes = 100;         // More are counted and not kept.
constexpr std::size_t kMaxImportComponents = 16384;  // Of one text.
constexpr std::size_t kMaxNumaNodes = 256;           // Each is joined with each.
constexpr std::size_t kMaxXmlName = 255;             // Longer titles are cut.

class XmlText {
 public:
  XmlText(std::string_view text, const std::string& origin);

  [[nodiscard]] pugi::xml_node root() const { return document_.document_element(); }
  [[nodiscard]] int line(pugi::xml_node element) const;
  [[nodiscard]] Error error(pugi::xml_node element, const std::string& what) const;
  [[nodiscard]] const std::string& origin() const noexcept { return origin_; }

  void note(TopologyNote::Kind kind, pugi::xml_node element, std::string text);
  [[nodiscard]] std::vector<TopologyNote> take_notes();  // In the order of the text.

 private:
  [[nodiscard]] int line_at(std::size_t offset) const;
  void check_limits() const;
  void repair_encoding();

  std::string_view text_;
  std::string origin_;
  std::vector<std::uint32_t> lines_before_;  // Each 4 KiB of the text.
  pugi::xml_document document_;
  std::vector<std::pair<int, TopologyNote>> notes_;  // With the line.
  std::size_t notes_left_out_ = 0;
};

// The attribute's text; empty if it is not there.
[[nodiscard]] inline std::string_view attribute(pugi::xml_node element, const char* name) {
  return element.attribute(name).value();
}

// The same, of at most kMaxXmlName bytes: for what is kept or printed.
[[nodiscard]] std::string_view short_attribute(pugi::xml_node element, const char* name);

// A whole number ("18", "-1"), or in hexadecimal with or without 0x. nullopt for anything else.
[[nodiscard]] std::optional<std::int64_t> parse_integer(std::string_view text) noexcept;
[[nodiscard]] std::optional<std::uint64_t> parse_hexadecimal(std::string_view text) noexcept;

}  // namespace causeway
