#include "allocator/device_name.h"

#include <algorithm>
#include <charconv>

#include "allocator/error.h"

namespace causeway {

bool is_node_name(std::string_view name) noexcept {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= 63 && plain(name.front()) &&
         std::ranges::all_of(name, [&](char c) { return plain(c) || c == '-' || c == '.'; });
}

DeviceName DeviceName::parse(std::string_view text) {
  const auto refuse = [&]() -> Error {
    return {Errc::invalid_argument, "device '" + std::string(text) +
                                        "' is not of the form NODE/gpuN or NODE/hostN"
                                        " (for example desktop/gpu0)"};
  };
  const auto slash = text.find('/');
  if (slash == std::string_view::npos) throw refuse();
  DeviceName name{std::string(text.substr(0, slash)), DeviceKind::gpu, 0};
  auto rest = text.substr(slash + 1);
  if (rest.starts_with("gpu")) {
    rest.remove_prefix(3);
  } else if (rest.starts_with("host")) {
    name.kind = DeviceKind::host;
    rest.remove_prefix(4);
  } else {
    throw refuse();
  }
  const auto [end, status] = std::from_chars(rest.data(), rest.data() + rest.size(), name.index);
  const bool padded =
      rest.size() > 1 && rest.front() == '0';  // gpu01 and gpu1 would be one device.
  if (rest.empty() || padded || status != std::errc{} || end != rest.data() + rest.size() ||
      !is_node_name(name.node))
    throw refuse();
  return name;
}

std::string DeviceName::local() const {
  return (kind == DeviceKind::gpu ? "gpu" : "host") + std::to_string(index);
}

std::string DeviceName::to_string() const { return node + "/" + local(); }

}  // namespace causeway
