// What a receiver is told whose message did not fit.
#pragma once

#include <cstdint>
#include <string>

#include "allocator/error.h"

namespace causeway {

[[nodiscard]] inline Error too_long(const std::string& peer, std::uint64_t tag,
                                    std::uint64_t target_bytes, std::uint64_t size_bytes) {
  return {Errc::out_of_bounds, "a message of " + std::to_string(size_bytes) + " bytes from " +
                                   peer + " does not fit the receive of " +
                                   std::to_string(target_bytes) + " bytes for tag " +
                                   std::to_string(tag) + " and was dropped"};
}

}  // namespace causeway
