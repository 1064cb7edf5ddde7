#include "runtime/topology/import/measured_matrix.h"

#include <fmt/format.h>

#include "runtime/topology/import/text.h"

namespace causeway {

bool MeasuredMatrix::take(std::string_view text, std::string_view corner, const std::string& origin,
                          std::size_t number) {
  auto tokens = split_tokens(text, kMaxMachineDevices + 1);
  if (tokens.size() > kMaxMachineDevices + 1)
    throw text_error(
        origin, number,
        fmt::format("table: more than {} devices, the most of one machine", kMaxMachineDevices));
  if (columns.empty()) {
    if (!corner.empty()) {
      if (tokens.empty() || tokens.front() != corner) return false;
      tokens.erase(tokens.begin());
    }
    for (const auto token : tokens) {
      const auto column = numbered(token, "");
      if (!column) {
        columns.clear();
        return false;
      }
      columns.push_back(*column);
    }
    return !columns.empty();
  }
  const auto row = tokens.size() < 2 ? std::nullopt : numbered(tokens[0], "");
  if (!row || rows.size() >= kMaxMachineDevices) return false;
  Row made{*row, {}};
  for (std::size_t i = 1; i < tokens.size() && i <= columns.size(); ++i) {
    const auto value = parse_number(tokens[i]);
    if (!value && tokens[i] != "N/A") return false;
    made.values.push_back(value);
  }
  rows.push_back(std::move(made));
  return true;
}

}  // namespace causeway
