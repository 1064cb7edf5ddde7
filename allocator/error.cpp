#include "allocator/error.h"

#include <array>
#include <system_error>
#include <utility>

namespace causeway {

namespace {
constexpr std::array<std::pair<Errc, std::string_view>, 19> kNames{{
    {Errc::invalid_argument, "invalid_argument"},
    {Errc::parse, "parse"},
    {Errc::not_found, "not_found"},
    {Errc::already_exists, "already_exists"},
    {Errc::out_of_memory, "out_of_memory"},
    {Errc::out_of_bounds, "out_of_bounds"},
    {Errc::permission_denied, "permission_denied"},
    {Errc::unauthenticated, "unauthenticated"},
    {Errc::unsupported, "unsupported"},
    {Errc::peer_lost, "peer_lost"},
    {Errc::timed_out, "timed_out"},
    {Errc::cancelled, "cancelled"},
    {Errc::closed, "closed"},
    {Errc::io, "io"},
    {Errc::corrupted, "corrupted"},
    {Errc::protocol, "protocol"},
    {Errc::exhausted, "exhausted"},
    {Errc::device_failed, "device_failed"},
    {Errc::internal, "internal"},
}};
}  // namespace

std::string_view to_string(Errc code) noexcept {
  for (const auto& [value, name] : kNames)
    if (value == code) return name;
  return "unknown";
}

Errc errc_from_string(std::string_view name) noexcept {
  for (const auto& [value, known] : kNames)
    if (known == name) return value;
  return Errc::protocol;
}

Error system_error(const std::string& what, int error_number) {
  return {Errc::io, what + ": " + std::generic_category().message(error_number)};
}

}  // namespace causeway
