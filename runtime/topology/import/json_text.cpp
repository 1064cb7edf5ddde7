#include "runtime/topology/import/json_text.h"

#include <algorithm>
#include <boost/json/stream_parser.hpp>
#include <cmath>

#include "runtime/topology/import/text.h"

namespace causeway {

boost::json::value parse_json_text(std::string_view text, const std::string& origin) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  boost::json::stream_parser parser;
  boost::system::error_code failed;
  const auto read = parser.write_some(text.data(), text.size(), failed);
  const auto line = [&] { return 1 + std::ranges::count(text.substr(0, read), '\n'); };
  if (!failed) parser.finish(failed);
  if (failed)
    throw text_error(origin, static_cast<std::size_t>(line()),
                     "JSON: " + failed.message() + "; the text is cut or was edited");
  if (text.find_first_not_of(" \t\r\n", read) != std::string_view::npos)
    throw text_error(origin, static_cast<std::size_t>(line()),
                     "JSON: the text goes on after its value");
  return parser.release();
}

std::string_view json_string(const boost::json::value* value) noexcept {
  const auto* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}

std::optional<double> json_number(const boost::json::value* value) noexcept {
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return parse_number(json_string(value));
  double number = -1;
  if (value->is_double()) number = value->get_double();
  if (value->is_int64()) number = static_cast<double>(value->get_int64());
  if (value->is_uint64()) number = static_cast<double>(value->get_uint64());
  return std::isfinite(number) && number >= 0 ? std::optional(number) : std::nullopt;
}

}  // namespace causeway
