// What the tests of readers and merge() share: finding things in a graph, and the published files.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "causeway/error.h"
#include "causeway/topology_import.h"

namespace causeway_test {

inline const causeway::Pair* find_pair(const causeway::TopologyGraph& graph, std::string_view from,
                                       std::string_view to) {
  const auto at = std::ranges::find_if(
      graph.pairs, [&](const auto& pair) { return pair.from == from && pair.to == to; });
  return at == graph.pairs.end() ? nullptr : &*at;
}

inline const causeway::TopologyLink* find_link(const causeway::TopologyGraph& graph,
                                               std::string_view a, std::string_view b) {
  const auto at = std::ranges::find_if(graph.links, [&](const auto& link) {
    return (link.a == a && link.b == b) || (link.a == b && link.b == a);
  });
  return at == graph.links.end() ? nullptr : &*at;
}

inline std::size_t count_of(const causeway::TopologyGraph& graph, causeway::ComponentKind kind) {
  return static_cast<std::size_t>(
      std::ranges::count(graph.components, kind, &causeway::Component::kind));
}

inline std::size_t count_of(const causeway::TopologyGraph& graph, causeway::LinkKind kind) {
  return static_cast<std::size_t>(
      std::ranges::count(graph.links, kind, &causeway::TopologyLink::kind));
}

// True if a note of this kind holds `part`.
inline bool has_note(const causeway::TopologyGraph& graph, causeway::TopologyNote::Kind kind,
                     std::string_view part) {
  return std::ranges::any_of(graph.notes, [&](const auto& note) {
    return note.kind == kind && note.text.find(part) != std::string::npos;
  });
}

inline std::size_t count_notes(const causeway::TopologyGraph& graph,
                               causeway::TopologyNote::Kind kind) {
  return static_cast<std::size_t>(
      std::ranges::count(graph.notes, kind, &causeway::TopologyNote::kind));
}

// The message of the causeway::Error of code `parse` that `call` ends in; empty if it ends in none.
template <typename Call>
std::string parse_refusal(Call call) {
  try {
    (void)call();
  } catch (const causeway::Error& error) {
    CHECK(error.code() == causeway::Errc::parse);
    return error.what();
  }
  return {};
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A file of our own in tests/data/topology.
inline std::string fixture(const std::string& name) {
  const auto text = read_file(std::filesystem::path(CAUSEWAY_TOPOLOGY_DATA) / name);
  REQUIRE_MESSAGE(!text.empty(), "no fixture " << name);
  return text;
}

// What others have published, which is not part of the repository: CAUSEWAY_SHARED, else beside
// the checkout. nullopt, and a message, where it is not there.
inline std::optional<std::string> published(const std::string& name) {
  const char* root = std::getenv("CAUSEWAY_SHARED");
  const auto path = std::filesystem::path(root != nullptr ? root : CAUSEWAY_SHARED_DEFAULT) /
                    "topology-data" / name;
  if (!std::filesystem::exists(path)) {
    MESSAGE("skipped: no " << path.string() << " (set CAUSEWAY_SHARED)");
    return std::nullopt;
  }
  return read_file(path);
}

}  // namespace causeway_test
