// The limits that copies and messages are measured against: `ucx_perftest -t tag_bw` and
// `-t ucp_am_lat` over loopback TCP, or `-t ucp_am_lat` through shared memory.
//
// Shape:   one server and one client process per run, on a port of their own; the message lands in
//          the receiver's buffer, the same one each time.
// Units:   bytes, bytes per second, seconds.
// Errors:  io if it ends without a figure; timed_out. Both processes are gone when it returns.
// Source:  UCX, src/tools/perf: its "MB" is 2^20 bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace causeway::tools {

enum class PerftestWay : std::uint8_t { loopback, shared_memory };

// The program's path in PATH; nullopt if it is not installed.
[[nodiscard]] std::optional<std::string> find_ucx_perftest();

// Bytes per second of `count` messages of `size_bytes`.
[[nodiscard]] double run_ucx_perftest(const std::string& program, std::uint64_t size_bytes,
                                      std::uint64_t count, std::chrono::seconds patience);

// Seconds of half a round trip of active messages, the median of `count`.
[[nodiscard]] double run_ucx_latency(const std::string& program, std::uint64_t size_bytes,
                                     std::uint64_t count, PerftestWay way,
                                     std::chrono::seconds patience);

// The column "overall_bw" of `-f -v` output, in bytes per second; nullopt if there is none.
[[nodiscard]] std::optional<double> parse_ucx_perftest(const std::string& output);

}  // namespace causeway::tools
