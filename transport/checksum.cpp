#include "transport/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace causeway {

std::uint64_t checksum_of(std::span<const std::byte> bytes) noexcept {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace causeway
