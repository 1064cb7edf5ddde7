// Several addresses as one text: "10.0.0.1:7000,10.1.0.1:7000". One alone is a list of one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace causeway {

[[nodiscard]] inline std::vector<std::string> split_addresses(std::string_view list) {
  std::vector<std::string> addresses;
  for (;;) {
    const auto comma = list.find(',');
    addresses.emplace_back(list.substr(0, comma));
    if (comma == std::string_view::npos) return addresses;
    list.remove_prefix(comma + 1);
  }
}

[[nodiscard]] inline std::string first_address(std::string_view list) {
  return std::string(list.substr(0, list.find(',')));
}

}  // namespace causeway
