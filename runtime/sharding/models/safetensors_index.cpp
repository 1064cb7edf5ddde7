#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "runtime/sharding/models/model_files.h"
#include "runtime/sharding/models/strict_json.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace json = boost::json;

namespace {

constexpr std::size_t kMaxNameBytes = 1024;

}  // namespace

bool is_plain_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::ranges::none_of(name, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
}

SafetensorsIndex read_safetensors_index(std::string_view text, const std::string& origin) {
  const auto tree = parse_strict_json(text, origin);
  const auto refuse = [&](const std::string& what) {
    return Error(Errc::parse, origin + ": " + what);
  };
  SafetensorsIndex index;
  const auto* map = tree.if_contains("weight_map");
  if (map == nullptr || !map->is_object())
    throw refuse("has no object 'weight_map'; this is not the index of a safetensors model");
  for (const auto& [key, value] : map->get_object()) {
    const std::string_view name(key);
    if (!is_plain_name(name))
      throw refuse(
          fmt::format("weight_map: tensor '{}': write a name of 1 to {} bytes without control "
                      "characters",
                      printable(name, 200), kMaxNameBytes));
    const auto file = value.is_string() ? std::string_view(value.get_string()) : std::string_view();
    // A file elsewhere would be somebody else's.
    if (!is_plain_name(file) || file.find('/') != std::string_view::npos || file == "." ||
        file == "..")
      throw refuse(fmt::format("weight_map: tensor '{}': write the name of a file in this folder",
                               printable(name, 200)));
    index.files_of.emplace_back(name, file);
  }
  const auto* metadata = tree.if_contains("metadata");
  if (metadata == nullptr || !metadata->is_object()) return index;
  const auto* total = metadata->get_object().if_contains("total_size");
  if (total == nullptr) return index;
  json::error_code wrong;
  const auto bytes = total->is_number() ? total->to_number<std::uint64_t>(wrong) : 0;
  if (!total->is_number() || wrong || bytes > kMaxTensorBytes)
    throw refuse(
        fmt::format("metadata: total_size: write a number of bytes up to {}", kMaxTensorBytes));
  index.total_bytes = bytes;
  return index;
}

}  // namespace causeway
