// The name of a device: memory with an owner. "desktop/gpu0" is a GPU, "desktop/host0" the host
// memory of NUMA node 0.
//
// Shape:   NODE/KINDINDEX. NODE is 1 to 63 of [a-z0-9.-], starting with a letter or digit.
// Errors:  parse() throws Errc::invalid_argument with the text and the expected form.
// Threads: a plain value.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace causeway {

enum class DeviceKind : std::uint8_t { gpu, host };

struct DeviceName {
  std::string node;
  DeviceKind kind = DeviceKind::gpu;
  std::uint32_t index = 0;

  [[nodiscard]] static DeviceName parse(std::string_view text);
  [[nodiscard]] std::string to_string() const;  // "desktop/gpu0"
  [[nodiscard]] std::string local() const;      // "gpu0"
  auto operator<=>(const DeviceName&) const = default;
};

// True if `name` may stand before the slash.
[[nodiscard]] bool is_node_name(std::string_view name) noexcept;

}  // namespace causeway

template <>
struct std::hash<causeway::DeviceName> {
  std::size_t operator()(const causeway::DeviceName& name) const noexcept {
    return std::hash<std::string>{}(name.node) ^ (std::size_t{name.index} << 1) ^
           static_cast<std::size_t>(name.kind);
  }
};
