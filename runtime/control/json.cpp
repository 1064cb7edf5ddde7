#include "runtime/control/json.h"

#include <fmt/format.h>

#include <charconv>

#include "allocator/error.h"

namespace causeway {

namespace {

namespace json = boost::json;

const json::value& get(const json::object& object, std::string_view field, std::string_view where) {
  const auto* value = object.if_contains({field.data(), field.size()});
  if (!value) throw Error(Errc::parse, fmt::format("{}: {}: missing", where, field));
  return *value;
}

Error wrong(std::string_view where, std::string_view field, std::string_view expected,
            const json::value& value) {
  auto got = json::serialize(value);
  if (got.size() > 40) got = got.substr(0, 40) + "...";
  return {Errc::parse, fmt::format("{}: {}: expected {}, got {}", where, field, expected, got)};
}

}  // namespace

json::object parse_object(std::string_view text, std::string_view where) {
  json::error_code failed;
  json::parse_options options;
  options.max_depth = 32;
  auto value = json::parse({text.data(), text.size()}, failed, {}, options);
  if (failed) throw Error(Errc::parse, fmt::format("{}: not JSON: {}", where, failed.message()));
  if (!value.is_object())
    throw Error(Errc::parse, fmt::format("{}: expected a JSON object", where));
  return std::move(value.get_object());
}

std::string get_string(const json::object& object, std::string_view field, std::string_view where) {
  const auto& value = get(object, field, where);
  if (!value.is_string()) throw wrong(where, field, "a string", value);
  return std::string(std::string_view(value.get_string()));
}

std::uint64_t get_uint(const json::object& object, std::string_view field, std::string_view where) {
  const auto& value = get(object, field, where);
  if (value.is_uint64()) return value.get_uint64();
  if (value.is_int64() && value.get_int64() >= 0)
    return static_cast<std::uint64_t>(value.get_int64());
  throw wrong(where, field, "a whole number of 0 or more", value);
}

double get_number(const json::object& object, std::string_view field, std::string_view where) {
  const auto& value = get(object, field, where);
  if (!value.is_number()) throw wrong(where, field, "a number", value);
  return value.to_number<double>();
}

bool get_bool(const json::object& object, std::string_view field, std::string_view where) {
  const auto& value = get(object, field, where);
  if (!value.is_bool()) throw wrong(where, field, "true or false", value);
  return value.get_bool();
}

const json::array& get_array(const json::object& object, std::string_view field,
                             std::string_view where) {
  const auto& value = get(object, field, where);
  if (!value.is_array()) throw wrong(where, field, "an array", value);
  return value.get_array();
}

const json::object& get_object(const json::object& object, std::string_view field,
                               std::string_view where) {
  const auto& value = get(object, field, where);
  if (!value.is_object()) throw wrong(where, field, "an object", value);
  return value.get_object();
}

const json::object& as_object(const json::value& value, std::string_view where) {
  if (!value.is_object())
    throw Error(Errc::parse, fmt::format("{}: expected a JSON object", where));
  return value.get_object();
}

std::string to_hex(std::uint64_t value) { return fmt::format("{:016x}", value); }

std::uint64_t from_hex(std::string_view text, std::string_view where) {
  std::uint64_t value = 0;
  const auto* end = text.data() + text.size();
  const auto [stop, status] = std::from_chars(text.data(), end, value, 16);
  if (text.empty() || text.size() > 16 || status != std::errc{} || stop != end)
    throw Error(Errc::parse, fmt::format("{}: expected up to 16 hexadecimal digits", where));
  return value;
}

std::uint64_t get_hex(const json::object& object, std::string_view field, std::string_view where) {
  return from_hex(get_string(object, field, where), fmt::format("{}: {}", where, field));
}

}  // namespace causeway
