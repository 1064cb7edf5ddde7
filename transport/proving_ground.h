// The memory behind kProvingGround (channel.h).
//
// Shape:   two areas of kProvingGroundBytes: what is written goes into one, what is read comes from
//          the other, which stays zero, so nobody reads what another one wrote. They are there from
//          the first use on.
// Threads: the owner's.
#pragma once

#include "transport/channel.h"

namespace causeway {

class ProvingGround {
 public:
  [[nodiscard]] static bool is_at(const RemoteAddress& address) noexcept {
    return address.session == kProvingGround.session && address.region == kProvingGround.region;
  }

  // Errors: out_of_bounds.
  [[nodiscard]] PinnedMemory pin(const RemoteAddress& address, std::uint64_t size_bytes,
                                 Access access);

 private:
  std::shared_ptr<std::byte[]> areas_[2];  // By access.
};

}  // namespace causeway
