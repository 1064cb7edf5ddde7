// The graph as JSON: docs/topology.md has the schema. Numbers are read by from_chars, because
// Boost.JSON 1.81 rounds some doubles wrongly; its parser hands over their text.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/string_view.hpp>
#include <charconv>
#include <cmath>

#include "causeway/error.h"
#include "causeway/topology_export.h"
#include "causeway/topology_import.h"
#include "runtime/topology/graph_check.h"
#include "runtime/topology/graph_fields.h"
#include "runtime/topology/utf8.h"
#include "runtime/topology/yaml_tree.h"

namespace causeway {

namespace json = boost::json;

namespace {

constexpr std::string_view kSchema = "causeway-topology/1";
// A record is larger than its shortest text; these keep what is read within some 300 MB.
constexpr std::size_t kMaxNodes = 1 << 14;
constexpr std::size_t kMaxComponents = 1 << 17;
constexpr std::size_t kMaxRecords = 1 << 18;  // Of links, pairs, notes.
constexpr std::size_t kMaxUnseen = 256;       // On one node.
constexpr std::size_t kMaxDepth = 8;

// --- Writing ---

class Writer {
 public:
  std::string take() { return std::move(text_); }

  void write(const TopologyGraph& graph) {
    text_ = fmt::format("{{\n  \"schema\": \"{}\"", kSchema);
    for_each_field(graph, [&]<typename T>(FieldName name, const T& field) {
      if (is_absent(field)) return;
      text_ += fmt::format(",\n  \"{}\": ", name.text);
      if constexpr (kIsList<T>)
        list(field);
      else
        value(field);
    });
    text_ += "\n}\n";
  }

 private:
  template <typename T>
  void list(const std::vector<T>& records) {
    text_ += '[';
    for (const auto& record : records) {
      text_ += &record == &records.front() ? "\n    {\n" : ",\n    {\n";
      fields(record, "      ", ",\n");
      text_ += "\n    }";
    }
    text_ += "\n  ]";
  }

  template <RecordType Record>
  void fields(const Record& record, std::string_view indent, std::string_view separator) {
    bool first = true;
    for_each_field(record, [&]<typename T>(FieldName name, const T& field) {
      if (!name.required && is_absent(field)) return;
      if (!first) text_ += separator;
      first = false;
      text_ += indent;
      text_ += '"';
      text_ += name.text;
      text_ += "\": ";
      value(field);
    });
  }

  template <typename T>
  void value(const T& field) {
    if constexpr (kIsOptional<T>) {
      value(*field);
    } else if constexpr (RecordType<T>) {
      text_ += '{';
      fields(field, "", ", ");
      text_ += '}';
    } else if constexpr (kIsList<T>) {
      text_ += '[';
      for (const auto& item : field) {
        if (&item != &field.front()) text_ += ", ";
        value(item);
      }
      text_ += ']';
    } else if constexpr (std::same_as<T, std::string>) {
      text_ += json::serialize(json::string_view(field.data(), field.size()));
    } else if constexpr (std::same_as<T, PciAddress>) {
      value(field.to_string());
    } else if constexpr (std::is_enum_v<T>) {
      value(std::string(to_string(field)));
    } else {
      fmt::format_to(std::back_inserter(text_), "{}", field);  // The shortest that reads back.
    }
  }

  std::string text_;
};

// --- Reading ---

struct Scalar {
  enum class Kind : std::uint8_t { text, number, boolean };
  Kind kind;
  std::string_view text;
};

// What a field expects, where a scalar is something else; nullopt if it took it.
using Mismatch = std::optional<std::string>;

template <typename Number>
bool read_number(const Scalar& scalar, Number& field) {
  const auto* end = scalar.text.data() + scalar.text.size();
  const auto [stop, status] = std::from_chars(scalar.text.data(), end, field);
  return scalar.kind == Scalar::Kind::number && status == std::errc{} && stop == end;
}

template <typename Enum>
std::string names_of() {
  std::string names;
  for (std::uint8_t i = 0; !to_string(static_cast<Enum>(i)).empty(); ++i)
    names += fmt::format("{}{}", i == 0 ? "" : ", ", to_string(static_cast<Enum>(i)));
  return names;
}

template <typename T>
Mismatch assign(T& field, const Scalar& scalar) {
  using Kind = Scalar::Kind;
  if constexpr (kIsOptional<T>) {
    return assign(field.emplace(), scalar);
  } else if constexpr (std::same_as<T, std::string>) {
    if (scalar.kind != Kind::text) return "a string";
    field = scalar.text;
  } else if constexpr (std::same_as<T, bool>) {
    if (scalar.kind != Kind::boolean) return "true or false";
    field = scalar.text == "true";
  } else if constexpr (std::same_as<T, double>) {
    if (!read_number(scalar, field) || !std::isfinite(field) || field < 0)
      return "a finite number of 0 or more";
  } else if constexpr (std::unsigned_integral<T>) {
    if (!read_number(scalar, field))
      return fmt::format("a whole number from 0 to {}", std::numeric_limits<T>::max());
  } else if constexpr (std::same_as<T, PciAddress>) {
    const auto address = PciAddress::parse(scalar.text);
    if (scalar.kind != Kind::text || !address) return "a PCI address such as \"0000:65:00.0\"";
    field = *address;
  } else if constexpr (std::is_enum_v<T>) {
    const auto value = scalar.text.empty() ? std::nullopt : parse_name<T>(scalar.text);
    if (scalar.kind != Kind::text || !value) return "one of " + names_of<T>();
    field = *value;
  }
  return std::nullopt;
}

struct Record;

// A field that is to be read, without its type. What its type cannot be is null.
struct Slot {
  void* field = nullptr;
  std::string_view name = {};
  Mismatch (*assign)(void* field, const Scalar& scalar) = nullptr;
  Record (*open)(void* field) = nullptr;  // Of a record.
  Slot (*append)(void* field) = nullptr;  // Of a list: a new entry at its end.
  std::size_t (*size)(void* field) = nullptr;
};

struct Record {
  void* object = nullptr;
  Slot (*find)(void* object, std::string_view key, std::size_t& index) = nullptr;
  // The name of a required field whose bit is not in `seen`.
  std::string_view (*missing)(void* object, std::uint64_t seen) = nullptr;
  std::string (*keys)(void* object) = nullptr;
};

template <typename T>
Slot slot_of(T& field, std::string_view name);

template <RecordType T>
Record record_of(T& object) {
  Record record;
  record.object = &object;
  record.find = [](void* self, std::string_view key, std::size_t& index) {
    Slot slot;
    std::size_t i = 0;
    for_each_field(*static_cast<T*>(self), [&](FieldName name, auto& field) {
      if (name.text == key) {
        slot = slot_of(field, name.text);
        index = i;
      }
      ++i;
    });
    return slot;
  };
  record.missing = [](void* self, std::uint64_t seen) {
    std::string_view missing;
    for_each_field(*static_cast<T*>(self), [&](FieldName name, auto&) {
      if (name.required && (seen & 1) == 0 && missing.empty()) missing = name.text;
      seen >>= 1;
    });
    return missing;
  };
  record.keys = [](void* self) {
    std::string keys;
    for_each_field(*static_cast<T*>(self), [&](FieldName name, auto&) {
      keys += fmt::format("{}{}", keys.empty() ? "" : ", ", name.text);
    });
    return keys;
  };
  return record;
}

template <typename T>
struct Held {  // What an optional holds; else the type itself.
  using Type = T;
};
template <typename T>
struct Held<std::optional<T>> {
  using Type = T;
};

template <typename T>
Slot slot_of(T& field, std::string_view name) {
  Slot slot{&field, name};
  if constexpr (kIsList<T>) {
    slot.append = [](void* at) {
      return slot_of(static_cast<T*>(at)->emplace_back(), std::string_view());
    };
    slot.size = [](void* at) { return static_cast<T*>(at)->size(); };
  } else if constexpr (RecordType<typename Held<T>::Type>) {
    slot.open = [](void* at) {
      if constexpr (kIsOptional<T>)
        return record_of(static_cast<T*>(at)->emplace());
      else
        return record_of(*static_cast<T*>(at));
    };
  } else {
    slot.assign = [](void* at, const Scalar& scalar) {
      return assign(*static_cast<T*>(at), scalar);
    };
  }
  return slot;
}

std::size_t limit_of(std::string_view list) {
  if (list == "nodes") return kMaxNodes;
  if (list == "unseen") return kMaxUnseen;
  return list == "components" ? kMaxComponents : kMaxRecords;
}

// Takes the parser's events straight into the graph, so that memory is bounded by what a graph may
// hold. The first fault ends the parser and is in `fault`.
class Reader {
 public:
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);

  explicit Reader(TopologyGraph& graph) : graph_(graph) {}

  std::string fault;

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }

  bool on_object_begin(json::error_code& ec) {
    if (levels_.empty()) {
      levels_.push_back({record_of(graph_), {}, 0});
      return true;
    }
    const auto slot = take_slot(ec);
    if (!slot) return false;
    if (slot->open == nullptr) return refuse_shape(*slot, "an object", ec);
    levels_.push_back({slot->open(slot->field), {}, 0});
    return true;
  }

  bool on_object_end(std::size_t, json::error_code& ec) {
    const auto& level = levels_.back();
    if (levels_.size() == 1 && schema_.empty())
      return refuse(fmt::format("'schema' is missing; write \"schema\": \"{}\"", kSchema), ec);
    const auto missing = level.record.missing(level.record.object, level.seen);
    if (!missing.empty()) {
      levels_.back().key.clear();
      return refuse(fmt::format("'{}' is missing", missing), ec);
    }
    levels_.pop_back();
    return true;
  }

  bool on_array_begin(json::error_code& ec) {
    if (levels_.empty()) return refuse("expected an object", ec);
    const auto slot = take_slot(ec);
    if (!slot) return false;
    if (slot->append == nullptr) return refuse_shape(*slot, "an array", ec);
    Level level;
    level.list = *slot;
    levels_.push_back(level);
    return true;
  }

  bool on_array_end(std::size_t, json::error_code&) {
    levels_.pop_back();
    return true;
  }

  bool on_key_part(json::string_view part, std::size_t, json::error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }

  bool on_key(json::string_view part, std::size_t, json::error_code& ec) {
    text_.append(part.data(), part.size());
    auto& level = levels_.back();
    level.key.swap(text_);  // Keeps both buffers.
    text_.clear();
    if (levels_.size() == 1 && level.key == "schema") {
      if (!schema_.empty()) return refuse("given twice; keep one", ec);
      slot_ = slot_of(schema_, "schema");
      return true;
    }
    std::size_t index = 0;
    slot_ = level.record.find(level.record.object, level.key, index);
    if (slot_.field == nullptr) return refuse_key(ec);
    const auto bit = std::uint64_t{1} << index;
    if ((level.seen & bit) != 0) return refuse("given twice; keep one", ec);
    level.seen |= bit;
    return true;
  }

  bool on_string_part(json::string_view part, std::size_t, json::error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_string(json::string_view part, std::size_t, json::error_code& ec) {
    text_.append(part.data(), part.size());
    return take(Scalar::Kind::text, ec);
  }
  bool on_number_part(json::string_view part, json::error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_int64(std::int64_t, json::string_view part, json::error_code& ec) {
    text_.append(part.data(), part.size());
    return take(Scalar::Kind::number, ec);
  }
  bool on_uint64(std::uint64_t, json::string_view part, json::error_code& ec) {
    text_.append(part.data(), part.size());
    return take(Scalar::Kind::number, ec);
  }
  bool on_double(double, json::string_view part, json::error_code& ec) {
    text_.append(part.data(), part.size());
    return take(Scalar::Kind::number, ec);
  }
  bool on_bool(bool value, json::error_code& ec) {
    text_ = value ? "true" : "false";
    return take(Scalar::Kind::boolean, ec);
  }
  bool on_null(json::error_code& ec) { return refuse("is null; leave out what is not known", ec); }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  // An object (`record`) or a list (`list`) that is open.
  struct Level {
    Record record = {};
    std::string key = {};  // That is being read.
    std::uint64_t seen = 0;
    Slot list = {};
  };

  [[nodiscard]] std::string path() const {
    std::string path;
    for (const auto& level : levels_) {
      if (level.list.field != nullptr)
        path +=
            fmt::format("[{}]", std::max<std::size_t>(level.list.size(level.list.field), 1) - 1);
      else if (!level.key.empty())
        path += (path.empty() ? "" : ".") + printable(level.key, 64);
    }
    return path.empty() ? "file" : path;
  }

  bool refuse(const std::string& what, json::error_code& ec) {
    fault = path() + ": " + what;
    ec = json::error::syntax;  // Any: `fault` has the words.
    return false;
  }

  bool refuse_shape(const Slot& slot, std::string_view got, json::error_code& ec) {
    const auto* expected = slot.assign != nullptr ? "one value"
                           : slot.open != nullptr ? "an object"
                                                  : "an array";
    return refuse(fmt::format("expected {}, got {}", expected, got), ec);
  }

  bool refuse_key(json::error_code& ec) {
    const auto& level = levels_.back();
    const auto keys = level.record.keys(level.record.object);
    std::vector<std::string_view> known;
    for (std::string_view rest = keys; !rest.empty();) {
      const auto end = std::min(rest.find(", "), rest.size());
      known.push_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 2, rest.size()));
    }
    const auto near = nearest_name(level.key, known);
    return refuse(near ? fmt::format("unknown key; did you mean '{}'?", *near)
                       : "unknown key; known: " + keys,
                  ec);
  }

  // Where the value that begins now goes.
  std::optional<Slot> take_slot(json::error_code& ec) {
    auto& level = levels_.back();
    if (level.list.field == nullptr) return slot_;
    const auto limit = limit_of(level.list.name);
    if (level.list.size(level.list.field) >= limit) {
      refuse(fmt::format("more than {} entries", limit), ec);
      return std::nullopt;
    }
    return level.list.append(level.list.field);
  }

  bool take(Scalar::Kind kind, json::error_code& ec) {
    if (levels_.empty()) return refuse("expected an object", ec);
    const auto slot = take_slot(ec);
    if (!slot) return false;
    if (slot->assign == nullptr) return refuse_shape(*slot, "'" + printable(text_, 40) + "'", ec);
    if (const auto expected = slot->assign(slot->field, {kind, text_}))
      return refuse(fmt::format("expected {}, got '{}'", *expected, printable(text_, 40)), ec);
    text_.clear();
    if (slot->field == &schema_ && schema_ != kSchema)
      return refuse(fmt::format("'{}' is not known; this version understands \"{}\"",
                                printable(schema_, 40), kSchema),
                    ec);
    return true;
  }

  TopologyGraph& graph_;
  std::string schema_;
  std::vector<Level> levels_;
  Slot slot_;         // Of the key that was read last.
  std::string text_;  // Of a key or scalar that comes in parts.
};

}  // namespace

std::string graph_to_json(const TopologyGraph& graph) {
  if (const auto fault = fault_of(graph))
    throw Error(Errc::invalid_argument,
                fmt::format("topology '{}': {}", printable(graph.name, 64), *fault));
  Writer writer;
  writer.write(graph);
  return writer.take();
}

TopologyGraph graph_from_json(std::string_view text, const std::string& origin) {
  if (text.size() > kMaxImportBytes)
    throw Error(Errc::parse, fmt::format("{}:1: text: {} bytes; at most {} are read", origin,
                                         text.size(), kMaxImportBytes));
  TopologyGraph graph;
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::basic_parser<Reader> parser(options, graph);
  json::error_code failed;
  const auto used = parser.write_some(false, text.data(), text.size(), failed);
  const auto rest = text.substr(used);
  const auto extra = rest.find_first_not_of(" \t\r\n");
  const auto& fault = parser.handler().fault;
  if (failed || extra != std::string_view::npos) {
    const auto stop = failed ? used : used + extra;
    const auto line = 1 + std::ranges::count(text.substr(0, stop), '\n');
    throw Error(Errc::parse, fmt::format("{}:{}: {}", origin, line,
                                         !fault.empty() ? fault
                                         : failed       ? "not JSON: " + failed.message()
                                                  : "file: more text after the object; remove it"));
  }
  if (const auto broken = fault_of(graph))
    throw Error(Errc::parse, fmt::format("{}: {}", origin, *broken));
  return graph;
}

}  // namespace causeway
