// JSON that strangers wrote, as a tree: a key that is there twice is refused, where a parser would
// keep one of the two and say nothing.
//
// Errors:  Errc::parse: "ORIGIN: ..." also for nesting past 32, bytes that are no UTF-8, and a
// document
//          that is no object.
// Cost:    two passes over the text; memory in proportion to it.
// Threads: pure functions.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>

namespace causeway {

[[nodiscard]] boost::json::object parse_strict_json(std::string_view text,
                                                    const std::string& origin);

}  // namespace causeway
