// What the readers of texts share: clean lines and tokens, and a builder for one machine.
//
// Shape:   a reader takes the lines that are its own and passes over all others, so that one text
//          may hold the outputs of several tools, prompts and comments.
// Errors:  Errc::parse from text_error() and past the limits below.
// Cost:    O(text); nothing here keeps a line that is over.
// Threads: plain values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "allocator/error.h"
#include "causeway/topology_graph.h"

namespace causeway {

// More than any machine has; pairs grow with its square.
constexpr std::size_t kMaxMachineDevices = 512;
constexpr std::size_t kMaxTokens = 4 * kMaxMachineDevices;
// And what no copy gets, or takes to begin.
constexpr double kMaxBytesPerS = 1e15;
constexpr double kMaxLatencyS = 1e4;

[[nodiscard]] Error text_error(const std::string& origin, std::size_t line,
                               const std::string& what);

// `text` with '?' for whatever is not printable ASCII, so that it can be cut and shown anywhere; at
// most `limit` of it.
[[nodiscard]] std::string plain_text(std::string_view text, std::size_t limit);

// The lines of a text without byte order mark, carriage returns, terminal escapes and the marks of
// quotes and tables ("> ", '|'), and with '?' for other bytes that are not ASCII: no name or number
// that is read has any. Empty lines are counted and passed over.
class LineReader {
 public:
  explicit LineReader(std::string_view text);
  bool next();
  // Valid until next().
  [[nodiscard]] std::string_view line() const noexcept { return line_; }
  [[nodiscard]] std::size_t number() const noexcept { return number_; }

 private:
  std::string_view rest_;
  std::string_view line_;
  std::string clean_;
  std::size_t number_ = 0;
};

// What stands between blanks; at most `limit` + 1 of them, so that "too many" can be told.
[[nodiscard]] std::vector<std::string_view> split_tokens(std::string_view line,
                                                         std::size_t limit = kMaxTokens);
[[nodiscard]] std::string_view trim(std::string_view text) noexcept;

[[nodiscard]] std::optional<std::uint32_t> parse_u32(std::string_view text, int base = 10) noexcept;
// Finite and not negative; "N/A" and all else is nullopt.
[[nodiscard]] std::optional<double> parse_number(std::string_view text) noexcept;
// 12 of "GPU12" for the prefix "GPU"; below kMaxMachineDevices.
[[nodiscard]] std::optional<std::uint32_t> numbered(std::string_view text,
                                                    std::string_view prefix) noexcept;

// A name that is_node_name() takes, as near to `text` as can be; empty if nothing is left of it.
[[nodiscard]] std::string safe_node_name(std::string_view text);

// A graph of one machine whose source numbers its devices.
class MachineBuilder {
 public:
  MachineBuilder(std::string origin, std::string node);

  // The device of this number, made when it is new. Valid until the next one is made.
  Component& gpu(std::uint32_t number) { return device(ComponentKind::gpu, number); }
  Component& device(ComponentKind kind, std::uint32_t number);
  [[nodiscard]] std::string name(ComponentKind kind, std::uint32_t number) const;
  Pair& pair(const std::string& from, const std::string& to);
  // Measured; 0 and less say that nothing was. Of several runs the best one counts: the rest is
  // noise, or the direction of the copy that the driver need not choose. False past the limits
  // above: then the value is not taken, and the caller says so.
  [[nodiscard]] static bool keep_better(std::optional<Figure>& rate, double bytes_per_s);
  [[nodiscard]] static bool keep_lower(std::optional<Figure>& latency, double seconds);

  TopologyNode& node() noexcept { return graph_.nodes.front(); }
  std::vector<TopologyLink>& links() noexcept { return graph_.links; }
  void note(TopologyNote::Kind kind, std::size_t line, const std::string& text);
  [[nodiscard]] const std::string& origin() const noexcept { return origin_; }
  [[nodiscard]] bool empty() const noexcept { return devices_.empty(); }

  // UUIDs that several GPUs have (blacked out by whoever published them) are no identity: taken
  // out here.
  [[nodiscard]] TopologyGraph take();

 private:
  std::string origin_;
  TopologyGraph graph_;
  std::map<std::pair<ComponentKind, std::uint32_t>, Component> devices_;
  std::unordered_map<std::string, std::size_t> pairs_;  // By "from\nto".
};

}  // namespace causeway
