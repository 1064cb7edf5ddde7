#include "causeway/gguf.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <set>
#include <utility>

#include "runtime/sharding/byte_source.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxNameBytes = 1024;
constexpr std::size_t kMaxExtents = 4;
constexpr int kMaxListDepth = 4;
constexpr std::uint64_t kMaxHeaderBytes = std::uint64_t{256}
                                          << 20;          // So that a sparse file ends, too.
constexpr std::uint64_t kMinPairBytes = 8 + 4 + 1;        // Key length, type, the least value.
constexpr std::uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;  // Name length, extents, type, offset.

enum class Type : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  text,
  list,
  u64,
  i64,
  f64,
};

// Bytes of a value of a fixed size; 0 for texts, lists and unknown types.
std::uint64_t fixed_bytes(Type type) {
  switch (type) {
    case Type::u8:
    case Type::i8:
    case Type::boolean:
      return 1;
    case Type::u16:
    case Type::i16:
      return 2;
    case Type::u32:
    case Type::i32:
    case Type::f32:
      return 4;
    case Type::u64:
    case Type::i64:
    case Type::f64:
      return 8;
    default:
      return 0;
  }
}

class Parser {
 public:
  Parser(ByteSource& source, std::string origin) : source_(source) {
    header_.origin = std::move(origin);
  }

  GgufHeader run() {
    read_start();
    for (; pairs_ > 0; --pairs_) read_pair();
    read_alignment();
    for (; tensors_ > 0; --tensors_) read_tensor();
    check_ranges();
    return std::move(header_);
  }

 private:
  [[nodiscard]] Error refuse(const std::string& what) const {
    return {Errc::parse, header_.origin + ": " + what};
  }
  [[nodiscard]] std::string where() const {
    return fmt::format("{} '{}'", in_tensors_ ? "tensor" : "key", printable(name_, 200));
  }

  void need(std::uint64_t bytes) const {
    if (source_.at() > kMaxHeaderBytes)
      throw refuse(
          fmt::format("a header of more than {} bytes; that much is read", kMaxHeaderBytes));
    if (bytes > source_.left())
      throw refuse(
          fmt::format("{} bytes are needed at byte {}, and the file ends after {} more; it is "
                      "cut short or wrong",
                      bytes, source_.at(), source_.left()));
  }
  template <typename T>
  T read() {
    need(sizeof(T));
    T value{};
    source_.read(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  std::string read_text(std::uint64_t bytes) {
    std::string text(bytes, '\0');
    source_.read(std::as_writable_bytes(std::span(text)));
    return text;
  }

  void read_start() {
    need(4);
    if (read_text(4) != "GGUF") throw refuse("does not start with 'GGUF'; this is not a GGUF file");
    header_.version = read<std::uint32_t>();
    if ((header_.version & 0xFFFF) == 0)
      throw refuse("is big-endian; convert it for little-endian machines");
    if (header_.version < 2 || header_.version > 3)
      throw refuse(fmt::format("is version {}; versions 2 and 3 are read, convert it again",
                               header_.version));
    tensors_ = read<std::uint64_t>();
    pairs_ = read<std::uint64_t>();
    if (pairs_ > source_.left() / kMinPairBytes ||
        tensors_ > (source_.left() - pairs_ * kMinPairBytes) / kMinTensorBytes)
      throw refuse(fmt::format("{} keys and {} tensors are more than {} bytes can hold", pairs_,
                               tensors_, source_.left()));
    if (pairs_ > kMaxGgufKeys || tensors_ > kMaxGgufTensors)
      throw refuse(fmt::format("has {} keys and {} tensors; at most {} and {} are read", pairs_,
                               tensors_, kMaxGgufKeys, kMaxGgufTensors));
  }

  std::string read_name(const char* what) {
    const auto bytes = read<std::uint64_t>();
    if (bytes == 0 || bytes > kMaxNameBytes)
      throw refuse(fmt::format("the {} behind {} has {} bytes; 1 to {} are read", what,
                               name_.empty() ? "the start" : where(), bytes, kMaxNameBytes));
    need(bytes);
    auto name = read_text(bytes);
    const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
    if (!is_utf8(name) || std::ranges::any_of(name, control))
      throw refuse(fmt::format("the {} '{}' is not plain UTF-8 text", what, printable(name, 200)));
    return name;
  }

  GgufHeader::Value read_value(Type type) {
    switch (type) {
      case Type::u8:
        return std::uint64_t{read<std::uint8_t>()};
      case Type::u16:
        return std::uint64_t{read<std::uint16_t>()};
      case Type::u32:
        return std::uint64_t{read<std::uint32_t>()};
      case Type::u64:
        return read<std::uint64_t>();
      case Type::i8:
        return std::int64_t{read<std::int8_t>()};
      case Type::i16:
        return std::int64_t{read<std::int16_t>()};
      case Type::i32:
        return std::int64_t{read<std::int32_t>()};
      case Type::i64:
        return read<std::int64_t>();
      case Type::f32:
        return double{read<float>()};
      case Type::f64:
        return read<double>();
      case Type::boolean:
        return read_bool();
      case Type::text:
        return read_long_text();
      case Type::list:
        return read_list(1);
    }
    throw refuse(
        fmt::format("{} has the unknown type {}", where(), static_cast<std::uint32_t>(type)));
  }

  bool read_bool() {
    const auto value = read<std::uint8_t>();
    if (value > 1)
      throw refuse(fmt::format("{} is {} where true or false is 1 or 0", where(), value));
    return value == 1;
  }

  std::string read_long_text() {
    const auto bytes = read<std::uint64_t>();
    need(bytes);
    if (bytes > kMaxGgufText) {
      source_.skip(bytes);
      return {};
    }
    auto text = read_text(bytes);
    if (!is_utf8(text)) throw refuse(where() + " is not UTF-8");
    return text;
  }

  GgufList read_list(int depth) {
    const auto type = static_cast<Type>(read<std::uint32_t>());
    GgufList list{read<std::uint64_t>(), {}};
    const auto bytes = fixed_bytes(type);
    if (bytes > 0) {
      if (list.count > source_.left() / bytes)
        throw refuse(fmt::format("{} counts {} values of {} bytes, and {} bytes are left", where(),
                                 list.count, bytes, source_.left()));
      if (list.count > std::min(kMaxGgufNumbers, numbers_left_) || type == Type::f32 ||
          type == Type::f64) {
        source_.skip(list.count * bytes);
        return list;
      }
      // As numbers of 64 bits they take up to eight times the file's bytes.
      if (depth == 1) numbers_left_ -= list.count;
      list.numbers.reserve(list.count);
      for (std::uint64_t i = 0; i < list.count; ++i) list.numbers.push_back(read_whole(type));
      return list;
    }
    if (type != Type::text && type != Type::list)
      throw refuse(fmt::format("{} is a list of the unknown type {}", where(),
                               static_cast<std::uint32_t>(type)));
    if (depth == kMaxListDepth) throw refuse(where() + " has lists within lists, too deep");
    // Each takes 8 bytes at least, so a false count ends with the file.
    for (std::uint64_t i = 0; i < list.count; ++i) {
      if (type == Type::list) {
        (void)read_list(depth + 1);
        continue;
      }
      const auto length = read<std::uint64_t>();
      need(length);
      source_.skip(length);
    }
    return list;
  }

  std::int64_t read_whole(Type type) {
    if (type == Type::boolean) return read_bool() ? 1 : 0;
    const auto value = read_value(type);
    if (const auto* number = std::get_if<std::int64_t>(&value)) return *number;
    const auto number = std::get<std::uint64_t>(value);
    if (number > static_cast<std::uint64_t>(INT64_MAX))
      throw refuse(fmt::format("{} has the number {}, which is too large", where(), number));
    return static_cast<std::int64_t>(number);
  }

  void read_pair() {
    name_ = read_name("key");
    const auto type = static_cast<Type>(read<std::uint32_t>());
    if (header_.metadata.contains(name_)) throw refuse(where() + " is there twice");
    header_.metadata.emplace(name_, read_value(type));
  }

  void read_alignment() {
    if (const auto alignment = header_.number("general.alignment"))
      header_.alignment_bytes = *alignment;
    if (!std::has_single_bit(header_.alignment_bytes) || header_.alignment_bytes > UINT32_MAX)
      throw refuse(fmt::format("general.alignment is {}; it must be a power of two below 2^32",
                               header_.alignment_bytes));
    in_tensors_ = true;
    name_.clear();
  }

  void read_tensor() {
    name_ = read_name("tensor");
    GgufHeader::Entry entry{{name_, DType::f32, {}}, 0};
    const auto extents = read<std::uint32_t>();
    if (extents > kMaxExtents)
      throw refuse(fmt::format("{} has {} extents; at most {}", where(), extents, kMaxExtents));
    for (std::uint32_t i = 0; i < extents; ++i) entry.tensor.shape.push_back(read<std::uint64_t>());
    std::ranges::reverse(entry.tensor.shape);
    const auto number = read<std::uint32_t>();
    const auto type = dtype_from_ggml(number);
    if (!type)
      throw refuse(
          fmt::format("{} has the type {}, which is unknown or was removed from the format; "
                      "convert the model again",
                      where(), number));
    entry.tensor.dtype = *type;
    const auto row = entry.tensor.shape.empty() ? 1 : entry.tensor.shape.back();
    if (row % block_of(*type).elements != 0)
      throw refuse(fmt::format("{} has rows of {} values; {} has blocks of {}", where(), row,
                               to_string(*type), block_of(*type).elements));
    entry.offset_bytes = read<std::uint64_t>();
    if (entry.offset_bytes % header_.alignment_bytes != 0)
      throw refuse(fmt::format("{} starts at byte {}, which is no multiple of {}", where(),
                               entry.offset_bytes, header_.alignment_bytes));
    if (!names_.insert(name_).second) throw refuse(where() + " is there twice");
    header_.entries.push_back(std::move(entry));
  }

  void check_ranges() {
    const auto mask = header_.alignment_bytes - 1;
    header_.data_offset_bytes = (source_.at() + mask) & ~mask;
    const auto file_bytes = source_.at() + source_.left();
    // Without tensors the file may end before its padding.
    const auto data_bytes = file_bytes - std::min(header_.data_offset_bytes, file_bytes);
    std::vector<std::pair<std::uint64_t, std::size_t>> order;  // An empty one before its neighbour.
    std::vector<std::uint64_t> sizes;
    for (const auto& entry : header_.entries) {
      name_ = entry.tensor.name;
      try {
        sizes.push_back(entry.tensor.size_bytes());
      } catch (const Error& error) {
        throw refuse(error.what());
      }
      if (entry.offset_bytes > data_bytes || sizes.back() > data_bytes - entry.offset_bytes)
        throw refuse(
            fmt::format("{} has {} bytes from byte {} of {} bytes of data; the file is cut "
                        "short or wrong",
                        where(), sizes.back(), entry.offset_bytes, data_bytes));
    }
    std::vector<std::size_t> by_offset(sizes.size());
    for (std::size_t i = 0; i < by_offset.size(); ++i) by_offset[i] = i;
    std::ranges::stable_sort(by_offset, {}, [&](std::size_t i) {
      return std::pair(header_.entries[i].offset_bytes, sizes[i]);
    });
    std::vector<GgufHeader::Entry> sorted;
    std::uint64_t next = 0;
    for (const auto i : by_offset) {
      auto& entry = header_.entries[i];
      name_ = entry.tensor.name;
      if (entry.offset_bytes < next)
        throw refuse(
            fmt::format("{} starts at byte {}, within the tensor before it, which ends at {}",
                        where(), entry.offset_bytes, next));
      next = entry.offset_bytes + sizes[i];
      sorted.push_back(std::move(entry));
    }
    header_.entries = std::move(sorted);
  }

  ByteSource& source_;
  GgufHeader header_;
  std::uint64_t tensors_ = 0;
  std::uint64_t pairs_ = 0;
  std::size_t numbers_left_ = kMaxGgufNumbersInAll;  // That metadata may keep yet.
  std::string name_;                                 // What is being read, for errors.
  bool in_tensors_ = false;
  std::set<std::string> names_;
};

Error wrong(const GgufHeader& header, std::string_view key, const std::string& what) {
  return {Errc::parse, fmt::format("{}: key '{}' {}", header.origin, key, what)};
}

}  // namespace

GgufHeader GgufHeader::read(const std::string& path) {
  auto source = ByteSource::open(path);
  return Parser(source, path).run();
}

GgufHeader GgufHeader::parse(std::span<const std::byte> image, const std::string& origin) {
  auto source = ByteSource::over(image);
  return Parser(source, origin).run();
}

std::optional<std::uint64_t> GgufHeader::number(std::string_view key) const {
  const auto at = metadata.find(key);
  if (at == metadata.end()) return std::nullopt;
  if (const auto* whole = std::get_if<std::uint64_t>(&at->second)) return *whole;
  const auto* whole = std::get_if<std::int64_t>(&at->second);
  if (whole == nullptr || *whole < 0) throw wrong(*this, key, "is not a whole number of 0 or more");
  return static_cast<std::uint64_t>(*whole);
}

std::optional<std::string> GgufHeader::text(std::string_view key) const {
  const auto at = metadata.find(key);
  if (at == metadata.end()) return std::nullopt;
  if (const auto* text = std::get_if<std::string>(&at->second)) return *text;
  throw wrong(*this, key, "is not a text");
}

std::optional<std::vector<std::uint64_t>> GgufHeader::numbers(std::string_view key,
                                                              std::size_t count) const {
  const auto at = metadata.find(key);
  if (at == metadata.end()) return std::nullopt;
  const auto* list = std::get_if<GgufList>(&at->second);
  if (list == nullptr) return std::vector<std::uint64_t>(count, *number(key));
  if (list->count != count || list->numbers.size() != count)
    throw wrong(*this, key,
                fmt::format("is a list of {}; {} whole numbers are needed", list->count, count));
  if (std::ranges::any_of(list->numbers, [](std::int64_t value) { return value < 0; }))
    throw wrong(*this, key, "has a negative number");
  return std::vector<std::uint64_t>(list->numbers.begin(), list->numbers.end());
}

std::vector<std::string> gguf_files(const std::string& path) {
  // NAME-00001-of-00003.gguf, as llama.cpp's gguf-split names them.
  constexpr std::size_t kDigits = 5;
  constexpr std::size_t kTail = 1 + kDigits + 4 + kDigits + 5;
  if (path.size() <= kTail) return {path};
  const auto tail = std::string_view(path).substr(path.size() - kTail);
  const auto digits = [](std::string_view text) -> std::uint32_t {
    std::uint32_t value = 0;
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    return status == std::errc{} && end == text.data() + text.size() ? value : 0;
  };
  const auto number = digits(tail.substr(1, kDigits));
  const auto count = digits(tail.substr(1 + kDigits + 4, kDigits));
  if (tail[0] != '-' || tail.substr(1 + kDigits, 4) != "-of-" || !tail.ends_with(".gguf") ||
      number < 1 || number > count)
    return {path};
  std::vector<std::string> files;
  for (std::uint32_t i = 1; i <= count; ++i) {
    files.push_back(fmt::format("{}-{:05}-of-{:05}.gguf",
                                std::string_view(path).substr(0, path.size() - kTail), i, count));
    struct stat info {};
    if (::stat(files.back().c_str(), &info) != 0)
      throw Error(
          Errc::not_found,
          fmt::format("{}: no such file, and it is part {} of {} of the model; put it beside "
                      "the others",
                      files.back(), i, count));
  }
  return files;
}

}  // namespace causeway
