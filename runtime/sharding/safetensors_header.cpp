#include "runtime/sharding/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <boost/json/basic_parser_impl.hpp>
#include <optional>
#include <set>

namespace causeway {

namespace json = boost::json;

namespace {

constexpr std::size_t kMaxExtents = 16;
constexpr const char* kMetadata = "__metadata__";

// What the parser sees, in order. A stream of events, not a tree: a tree would keep the last of two
// equal keys and say nothing.
class HeaderHandler {
 public:
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);

  struct Raw {
    std::string name;
    std::optional<std::string> dtype;
    std::optional<std::vector<std::uint64_t>> shape;
    std::optional<std::vector<std::uint64_t>> offsets;
  };

  std::vector<Raw> tensors;
  std::map<std::string, std::string> metadata;
  std::string problem;  // Why parsing stopped, if it was not the JSON itself.

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code& ec) {
    if (depth_ == 0 || (depth_ == 1 && !in_array_)) {
      if (depth_++ == 1 && !in_metadata_) tensors.push_back({name_, {}, {}, {}});
      return true;
    }
    return stop(ec, "has an object where dtype, shape and data_offsets are values");
  }
  bool on_object_end(std::size_t, json::error_code&) {
    if (--depth_ == 1) in_metadata_ = false;
    return true;
  }
  bool on_array_begin(json::error_code& ec) {
    if (depth_ != 2 || in_array_ || in_metadata_) return stop(ec, "has a list out of place");
    auto& tensor = tensors.back();
    if (field_ != "shape" && field_ != "data_offsets")
      return stop(ec, fmt::format("has a list as '{}'", field_.substr(0, 40)));
    auto& target = field_ == "shape" ? tensor.shape : tensor.offsets;
    if (target) return stop(ec, fmt::format("gives '{}' twice", field_));
    target.emplace();
    numbers_ = &*target;
    in_array_ = true;
    return true;
  }
  bool on_array_end(std::size_t, json::error_code&) {
    in_array_ = false;
    return true;
  }
  bool on_key_part(json::string_view part, std::size_t, json::error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, std::size_t, json::error_code& ec) {
    text_.append(part.data(), part.size());
    auto& key = depth_ == 1 ? name_ : field_;
    key = std::exchange(text_, {});
    if (depth_ != 1) return true;
    in_metadata_ = key == kMetadata;
    return names_.insert(key).second || stop(ec, "is in the header twice");
  }
  bool on_string_part(json::string_view part, std::size_t, json::error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_string(json::string_view part, std::size_t, json::error_code& ec) {
    text_.append(part.data(), part.size());
    auto value = std::exchange(text_, {});
    if (depth_ == 2 && in_metadata_)
      return metadata.emplace(field_, std::move(value)).second ||
             stop(ec, fmt::format("gives '{}' twice", field_.substr(0, 40)));
    if (depth_ != 2 || in_array_ || field_ != "dtype") return stop(ec, "has text out of place");
    auto& dtype = tensors.back().dtype;
    if (dtype) return stop(ec, "gives 'dtype' twice");
    dtype = std::move(value);
    return true;
  }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(std::int64_t value, json::string_view, json::error_code& ec) {
    if (value < 0) return stop(ec, fmt::format("has the negative number {}", value));
    return on_uint64(static_cast<std::uint64_t>(value), {}, ec);
  }
  bool on_uint64(std::uint64_t value, json::string_view, json::error_code& ec) {
    if (!in_array_) return stop(ec, "has a number out of place");
    if (numbers_->size() == kMaxExtents)
      return stop(ec, fmt::format("has more than {} numbers in '{}'", kMaxExtents, field_));
    numbers_->push_back(value);
    return true;
  }
  bool on_double(double, json::string_view, json::error_code& ec) {
    return stop(ec, "has a number that is not whole or does not fit 64 bits");
  }
  bool on_bool(bool, json::error_code& ec) { return stop(ec, "has true or false out of place"); }
  bool on_null(json::error_code& ec) { return stop(ec, "has null out of place"); }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  bool stop(json::error_code& ec, const std::string& what) {
    problem =
        depth_ == 0 ? "header " + what : fmt::format("tensor '{}' {}", name_.substr(0, 200), what);
    ec = json::error::syntax;
    return false;
  }

  std::set<std::string> names_;
  std::string name_;   // The key at the top.
  std::string field_;  // The key below it.
  std::string text_;   // Of a key or string that comes in parts.
  std::vector<std::uint64_t>* numbers_ = nullptr;
  int depth_ = 0;
  bool in_array_ = false;
  bool in_metadata_ = false;
};

Error refuse(const std::string& origin, const std::string& what) {
  return {Errc::parse, origin + ": " + what};
}

HeaderHandler parse_json(std::string_view header, const std::string& origin) {
  if (header.empty() || header.front() != '{')
    throw refuse(origin, "header does not start with '{'; this is not a safetensors file");
  json::basic_parser<HeaderHandler> parser{json::parse_options{}};
  json::error_code ec;
  const auto read = parser.write_some(false, header.data(), header.size(), ec);
  if (!parser.handler().problem.empty()) throw refuse(origin, parser.handler().problem);
  if (ec) throw refuse(origin, fmt::format("header, byte {}: {}", read, ec.message()));
  if (header.find_first_not_of(" \n\r\t", read) != std::string_view::npos)
    throw refuse(origin, fmt::format("header, byte {}: text after the closing '}}'", read));
  return std::move(parser.handler());
}

SafetensorsFile::Entry read_entry(HeaderHandler::Raw raw, const std::string& origin,
                                  std::uint64_t data_bytes) {
  const auto fail = [&](const std::string& what) {
    return refuse(origin, fmt::format("tensor '{}' {}", raw.name.substr(0, 200), what));
  };
  if (!raw.dtype || !raw.shape || !raw.offsets)
    throw fail("lacks one of 'dtype', 'shape' and 'data_offsets'");
  const auto dtype = dtype_from_string(*raw.dtype);
  if (!dtype || !is_safetensors_type(*dtype))
    throw fail(fmt::format("has the unknown dtype '{}'", raw.dtype->substr(0, 40)));
  if (raw.offsets->size() != 2 || (*raw.offsets)[1] < (*raw.offsets)[0])
    throw fail(fmt::format("has data_offsets [{}]; they must be [begin, end]",
                           fmt::join(*raw.offsets, ", ")));
  const auto begin = (*raw.offsets)[0];
  const auto end = (*raw.offsets)[1];
  if (end > data_bytes)
    throw fail(fmt::format("ends at byte {} of {} bytes of data; the file is cut short or wrong",
                           end, data_bytes));
  SafetensorsFile::Entry entry{{raw.name, *dtype, *raw.shape}, begin};
  std::uint64_t bytes = 0;
  try {
    bytes = entry.tensor.size_bytes();
  } catch (const Error& error) {
    throw refuse(origin, error.what());
  }
  if (bytes != end - begin)
    throw fail(fmt::format("has {} bytes by its data_offsets and {} by {} [{}]", end - begin, bytes,
                           *raw.dtype, fmt::join(*raw.shape, ", ")));
  return entry;
}

}  // namespace

std::uint64_t read_safetensors_length(std::span<const std::byte> start, std::uint64_t file_bytes,
                                      const std::string& origin) {
  if (file_bytes < kSafetensorsLengthBytes || start.size() < kSafetensorsLengthBytes)
    throw refuse(origin, fmt::format("{} bytes; a safetensors file has at least {}", file_bytes,
                                     kSafetensorsLengthBytes));
  std::uint64_t length = 0;
  for (std::size_t i = kSafetensorsLengthBytes; i-- > 0;)
    length = length << 8 | static_cast<std::uint64_t>(start[i]);
  if (length > kMaxSafetensorsHeaderBytes)
    throw refuse(origin, fmt::format("header of {} bytes; at most {} are read", length,
                                     kMaxSafetensorsHeaderBytes));
  if (length > file_bytes - kSafetensorsLengthBytes)
    throw refuse(origin, fmt::format("header of {} bytes in a file of {}; the file is cut short",
                                     length, file_bytes));
  return length;
}

std::vector<SafetensorsFile::Entry> read_safetensors_header(
    std::string_view header, std::uint64_t data_bytes, const std::string& origin,
    std::map<std::string, std::string>* metadata) {
  auto handler = parse_json(header, origin);
  std::vector<SafetensorsFile::Entry> entries;
  entries.reserve(handler.tensors.size());
  for (auto& raw : handler.tensors)
    entries.push_back(read_entry(std::move(raw), origin, data_bytes));
  // An empty tensor stands before the one that starts at the same byte.
  std::ranges::stable_sort(entries, {}, [](const SafetensorsFile::Entry& entry) {
    return std::pair(entry.offset_bytes, entry.offset_bytes + entry.tensor.size_bytes());
  });
  std::uint64_t next = 0;
  for (const auto& entry : entries) {
    if (entry.offset_bytes != next)
      throw refuse(origin,
                   fmt::format("tensor '{}' starts at byte {}; the data before it ends at {} "
                               "({})",
                               entry.tensor.name.substr(0, 200), entry.offset_bytes, next,
                               entry.offset_bytes < next ? "an overlap" : "a hole"));
    next += entry.tensor.size_bytes();
  }
  if (next != data_bytes)
    throw refuse(origin, fmt::format("{} bytes of data, of which {} belong to no tensor",
                                     data_bytes, data_bytes - next));
  if (metadata != nullptr) *metadata = std::move(handler.metadata);
  return entries;
}

std::string write_safetensors_header(std::span<const TensorData> tensors,
                                     const std::map<std::string, std::string>& metadata) {
  std::string header = "{";
  const auto key = [&header](std::string_view name) {
    if (header.size() > 1) header += ',';
    header += json::serialize(json::string_view(name.data(), name.size())) + ':';
  };
  if (!metadata.empty()) {
    json::object object;
    for (const auto& [name, value] : metadata) object[name] = value;
    key(kMetadata);
    header += json::serialize(object);
  }
  std::uint64_t offset = 0;
  for (const auto& [tensor, bytes] : tensors) {
    if (!is_safetensors_type(tensor.dtype))
      throw Error(Errc::invalid_argument, fmt::format("tensor '{}': the format has no type {}",
                                                      tensor.name, to_string(tensor.dtype)));
    if (tensor.size_bytes() != bytes.size())
      throw Error(Errc::invalid_argument,
                  fmt::format("tensor '{}' has {} bytes by its shape and {} to write", tensor.name,
                              tensor.size_bytes(), bytes.size()));
    key(tensor.name);
    header += fmt::format(R"({{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          to_string(tensor.dtype), fmt::join(tensor.shape, ","), offset,
                          offset + bytes.size());
    offset += bytes.size();
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  std::string length(kSafetensorsLengthBytes, '\0');
  for (std::size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
  return length + header;
}

}  // namespace causeway
