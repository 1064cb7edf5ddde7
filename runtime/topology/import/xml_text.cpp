#include "runtime/topology/import/xml_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "causeway/topology_import.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

constexpr std::size_t kStride = 4096;

Error over_limit(const std::string& origin, const char* what, std::size_t limit) {
  return {Errc::parse, fmt::format("{}:1: more than {} {}; no machine's topology has that many",
                                   origin, limit, what)};
}

}  // namespace

XmlText::XmlText(std::string_view text, const std::string& origin) : text_(text), origin_(origin) {
  if (text.size() > kMaxImportBytes)
    throw Error(Errc::parse, fmt::format("{}:1: {} bytes; at most {} are read", origin, text.size(),
                                         kMaxImportBytes));
  // Before pugixml spends 64 bytes on each.
  if (static_cast<std::size_t>(std::ranges::count(text, '<')) > kMaxXmlElements)
    throw over_limit(origin, "elements", kMaxXmlElements);
  if (static_cast<std::size_t>(std::ranges::count(text, '=')) > kMaxXmlAttributes)
    throw over_limit(origin, "attributes", kMaxXmlAttributes);
  std::uint32_t lines = 0;
  for (std::size_t at = 0; at < text.size(); at += kStride) {
    lines_before_.push_back(lines);
    lines += static_cast<std::uint32_t>(std::ranges::count(text.substr(at, kStride), '\n'));
  }
  if (const auto nul = text.find('\0'); nul != std::string_view::npos)
    throw Error(Errc::parse, fmt::format("{}:{}: a NUL byte; XML is text", origin, line_at(nul)));
  const auto result =
      document_.load_buffer(text.data(), text.size(), pugi::parse_default, pugi::encoding_utf8);
  if (!result)
    throw Error(Errc::parse, fmt::format("{}:{}: not well-formed XML ({}); is the file complete?",
                                         origin, line_at(static_cast<std::size_t>(result.offset)),
                                         result.description()));
  check_limits();
  repair_encoding();
}

int XmlText::line_at(std::size_t offset) const {
  offset = std::min(offset, text_.size());
  const auto block = offset / kStride;
  if (block >= lines_before_.size()) return lines_before_.empty() ? 1 : line_at(text_.size() - 1);
  const auto rest = text_.substr(block * kStride, offset - block * kStride);
  return static_cast<int>(lines_before_[block] + std::ranges::count(rest, '\n')) + 1;
}

int XmlText::line(pugi::xml_node element) const {
  const auto offset = element.offset_debug();
  return offset < 0 ? 1 : line_at(static_cast<std::size_t>(offset));
}

Error XmlText::error(pugi::xml_node element, const std::string& what) const {
  return {Errc::parse, fmt::format("{}:{}: {}", origin_, line(element), what)};
}

void XmlText::note(TopologyNote::Kind kind, pugi::xml_node element, std::string text) {
  if (notes_.size() >= kMaxReaderNotes) {
    ++notes_left_out_;
    return;
  }
  const auto at = line(element);
  notes_.emplace_back(at, TopologyNote{kind, fmt::format("{}:{}", origin_, at), std::move(text)});
}

std::vector<TopologyNote> XmlText::take_notes() {
  std::ranges::stable_sort(notes_, {}, &std::pair<int, TopologyNote>::first);
  std::vector<TopologyNote> notes;
  for (auto& [at, note] : notes_) notes.push_back(std::move(note));
  if (notes_left_out_ > 0)
    notes.push_back({TopologyNote::Kind::remark, origin_,
                     fmt::format("{} more notes are left out", notes_left_out_)});
  return notes;
}

// Without recursion: this is what makes recursion safe.
void XmlText::check_limits() const {
  std::size_t depth = 1;
  for (auto node = root(); node;) {
    if (depth > kMaxXmlDepth)
      throw error(node, fmt::format("elements nested more than {} deep; no machine is built so",
                                    kMaxXmlDepth));
    if (const auto child = node.first_child()) {
      node = child;
      ++depth;
      continue;
    }
    while (node && !node.next_sibling() && node != root()) {
      node = node.parent();
      --depth;
    }
    if (node == root()) break;
    node = node.next_sibling();
  }
}

// A file of another encoding, or character references to what is no character.
void XmlText::repair_encoding() {
  struct Walker : pugi::xml_tree_walker {
    XmlText* xml = nullptr;
    bool for_each(pugi::xml_node& element) override {
      for (auto attribute : element.attributes()) {
        const std::string_view value = attribute.value();
        if (is_utf8(value)) continue;
        const auto repaired = printable(value, value.size());
        xml->note(TopologyNote::Kind::repaired, element,
                  fmt::format("{} is not UTF-8; read as '{}'", printable(attribute.name(), 64),
                              printable(repaired, 64)));
        attribute.set_value(repaired.c_str());
      }
      return true;
    }
  } walker;
  walker.xml = this;
  document_.traverse(walker);
}

std::string_view short_attribute(pugi::xml_node element, const char* name) {
  const auto text = attribute(element, name);
  if (text.size() <= kMaxXmlName) return text;
  auto end = kMaxXmlName;  // Not within a character.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80U) --end;
  return text.substr(0, end);
}

std::optional<std::int64_t> parse_integer(std::string_view text) noexcept {
  std::int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> parse_hexadecimal(std::string_view text) noexcept {
  if (text.starts_with("0x") || text.starts_with("0X")) text.remove_prefix(2);
  std::uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace causeway
