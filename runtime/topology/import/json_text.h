// JSON that strangers wrote, for the readers of JSON exports.
//
// Errors:  Errc::parse, "FILE:LINE: what".
// Cost:    O(text).
// Threads: pure functions.
#pragma once

#include <boost/json/value.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace causeway {

[[nodiscard]] boost::json::value parse_json_text(std::string_view text, const std::string& origin);
// The text of a string; empty for anything else.
[[nodiscard]] std::string_view json_string(const boost::json::value* value) noexcept;
// A number that is finite and not negative, also as a string ("26.03"); else nullopt.
[[nodiscard]] std::optional<double> json_number(const boost::json::value* value) noexcept;

}  // namespace causeway
