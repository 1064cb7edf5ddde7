// Tables of numbers as nvbandwidth and p2pBandwidthLatencyTest print them: a line of column
// numbers, then rows that begin with their own number.
//
// Errors:  Errc::parse past kMaxMachineDevices.
// Cost:    O(text).
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace causeway {

struct MeasuredMatrix {
  std::size_t line = 0;
  std::string title;                   // The line that says what the numbers are.
  std::vector<std::uint32_t> columns;  // Empty before the line of columns.
  struct Row {
    std::uint32_t number;
    std::vector<std::optional<double>> values;  // nullopt: "N/A".
  };
  std::vector<Row> rows;

  // Takes the line of columns or the next row. False for any other line, where the table ends.
  // `corner` is the word above the row numbers; empty if there is none.
  bool take(std::string_view text, std::string_view corner, const std::string& origin,
            std::size_t number);
};

}  // namespace causeway
