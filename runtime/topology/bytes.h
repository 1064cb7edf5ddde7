// Rates and times as a cluster file writes them. Sizes are parse_bytes() of <causeway/cluster.h>.
//
// Units:   bytes per second; seconds.
// Errors:  nullopt unless the text is a number that is not negative and a known unit.
#pragma once

#include <optional>
#include <string_view>

namespace causeway {

// "1.25 GB/s", "900 MiB/s", "10 Gbit/s". "Gb/s" is refused: it is read both ways.
[[nodiscard]] std::optional<double> parse_bandwidth(std::string_view text);
// "200 us", "1.5 ms", "800 ns", "2 s".
[[nodiscard]] std::optional<double> parse_seconds(std::string_view text);

}  // namespace causeway
