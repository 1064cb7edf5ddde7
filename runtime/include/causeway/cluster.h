// A cluster file: the nodes, devices and links that make up a pool, as a user writes them.
//
//   name: desktop-and-hgx
//   scale: 0.001                 # every capacity times this: for labs
//   nodes:
//     - name: desktop
//       devices:
//         - {gpu: rtx-5090, count: 2}                     # catalogue name; capacity from there
//         - {host: 64 GB}                                  # memory of NUMA node 0
//     - name: hgx
//       devices:
//         - {gpu: h100-sxm, count: 8, capacity: 10 GB}     # what other tenants leave
//   links:
//     - {between: [desktop, hgx], bandwidth: 1.25 GB/s, latency: 200 us}
//
// Full description: docs/cluster-files.md.
//
// Units:   bytes and bytes per second; "GB" is 10^9 and "GiB" is 2^30.
// Errors:  Errc::parse with "FILE:LINE: FIELD: what is wrong, what to write instead"; io if the
// file
//          cannot be read. Unknown keys are errors: a misspelt key is never ignored.
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/device_name.h"
#include "causeway/error.h"

namespace causeway {

// Devices are lent in these: the size of the smallest extent.
constexpr std::uint64_t kDeviceGranuleBytes = 64 * 1024;

struct DeviceSpec {
  DeviceName name;
  std::string model;  // Catalogue name ("rtx-5090"); "host" for host memory.
  std::uint64_t
      capacity_bytes;  // After `scale`, rounded down to whole granules (kDeviceGranuleBytes).
  bool operator==(const DeviceSpec&) const = default;
};

struct NodeSpec {
  std::string name;
  std::vector<DeviceSpec> devices;
  bool operator==(const NodeSpec&) const = default;
};

// A network link between two nodes, both directions alike.
struct LinkSpec {
  std::string node_a;
  std::string node_b;
  double bandwidth_bytes_per_s;
  double latency_s;
  bool operator==(const LinkSpec&) const = default;
};

struct ClusterSpec {
  std::string name;
  double scale = 1.0;  // Already applied to the capacities; kept for the reader.
  std::vector<NodeSpec> nodes;
  std::vector<LinkSpec> links;

  [[nodiscard]] static ClusterSpec from_file(const std::string& path);
  // `origin` stands for the file's name in errors.
  [[nodiscard]] static ClusterSpec from_yaml(std::string_view text, const std::string& origin);
  // Reads back to an equal value. Capacities are final there, so the scale is written as `scaled:`,
  // which records it and applies nothing. Errors: invalid_argument if devices are not numbered from
  // 0 by kind, as from_yaml() numbers them.
  [[nodiscard]] std::string to_yaml() const;
  [[nodiscard]] const NodeSpec* find_node(std::string_view name) const noexcept;
  bool operator==(const ClusterSpec&) const = default;
};

// "32 GB", "1.5GiB", "64KiB", "4096". Errors: Errc::invalid_argument with the expected form.
[[nodiscard]] std::uint64_t parse_bytes(std::string_view text);
// "31.9 GB": three significant digits, decimal units.
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);

}  // namespace causeway
