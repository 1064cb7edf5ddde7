// Reads fields out of JSON that came from outside, with errors that name the field.
//
// Errors:  every function throws Errc::parse: "WHERE: FIELD: expected ..., got ...".
// Threads: pure functions.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace causeway {

// Parses `text` (an object; nesting at most 32). `where` names the document in errors.
[[nodiscard]] boost::json::object parse_object(std::string_view text, std::string_view where);

[[nodiscard]] std::string get_string(const boost::json::object& object, std::string_view field,
                                     std::string_view where);
[[nodiscard]] std::uint64_t get_uint(const boost::json::object& object, std::string_view field,
                                     std::string_view where);
[[nodiscard]] double get_number(const boost::json::object& object, std::string_view field,
                                std::string_view where);
[[nodiscard]] bool get_bool(const boost::json::object& object, std::string_view field,
                            std::string_view where);
[[nodiscard]] const boost::json::array& get_array(const boost::json::object& object,
                                                  std::string_view field, std::string_view where);
[[nodiscard]] const boost::json::object& get_object(const boost::json::object& object,
                                                    std::string_view field, std::string_view where);
[[nodiscard]] const boost::json::object& as_object(const boost::json::value& value,
                                                   std::string_view where);

// 64-bit identifiers travel as 16 hexadecimal digits: JSON numbers lose bits in many readers.
[[nodiscard]] std::string to_hex(std::uint64_t value);
[[nodiscard]] std::uint64_t get_hex(const boost::json::object& object, std::string_view field,
                                    std::string_view where);
[[nodiscard]] std::uint64_t from_hex(std::string_view text, std::string_view where);

}  // namespace causeway
