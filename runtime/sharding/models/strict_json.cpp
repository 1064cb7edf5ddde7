#include "runtime/sharding/models/strict_json.h"

#include <fmt/format.h>

#include <boost/json/basic_parser_impl.hpp>
#include <set>
#include <utility>
#include <vector>

#include "causeway/error.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace json = boost::json;

namespace {

constexpr std::size_t kMaxDepth = 32;

// Keeps the keys of the objects that are open, and nothing else.
class KeyHandler {
 public:
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);

  std::string twice;  // The key that ended the parse.

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    keys_.emplace_back();
    return true;
  }
  bool on_object_end(std::size_t, json::error_code&) {
    keys_.pop_back();
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(std::size_t, json::error_code&) { return true; }
  bool on_key_part(json::string_view part, std::size_t, json::error_code&) {
    key_.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, std::size_t, json::error_code& ec) {
    key_.append(part.data(), part.size());
    const auto [at, fresh] = keys_.back().insert(std::exchange(key_, {}));
    if (fresh) return true;
    twice = *at;
    ec = json::error::syntax;
    return false;
  }
  bool on_string_part(json::string_view, std::size_t, json::error_code&) { return true; }
  bool on_string(json::string_view, std::size_t, json::error_code&) { return true; }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(std::int64_t, json::string_view, json::error_code&) { return true; }
  bool on_uint64(std::uint64_t, json::string_view, json::error_code&) { return true; }
  bool on_double(double, json::string_view, json::error_code&) { return true; }
  bool on_bool(bool, json::error_code&) { return true; }
  bool on_null(json::error_code&) { return true; }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  std::vector<std::set<std::string>> keys_;
  std::string key_;
};

}  // namespace

json::object parse_strict_json(std::string_view text, const std::string& origin) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::basic_parser<KeyHandler> keys{options};
  json::error_code failed;
  const auto read = keys.write_some(false, text.data(), text.size(), failed);
  if (failed && !keys.handler().twice.empty())
    throw Error(Errc::parse, fmt::format("{}: byte {}: key '{}' is there twice", origin, read,
                                         printable(keys.handler().twice, 200)));
  if (failed)
    throw Error(Errc::parse, fmt::format("{}: byte {}: {}", origin, read, failed.message()));
  auto tree = json::parse({text.data(), text.size()}, failed, {}, options);
  if (failed) throw Error(Errc::parse, fmt::format("{}: {}", origin, failed.message()));
  if (!tree.is_object()) throw Error(Errc::parse, origin + ": is no JSON object");
  return std::move(tree.get_object());
}

}  // namespace causeway
