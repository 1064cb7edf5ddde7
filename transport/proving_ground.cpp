#include "transport/proving_ground.h"

namespace causeway {

PinnedMemory ProvingGround::pin(const RemoteAddress& address, std::uint64_t size_bytes,
                                Access access) {
  if (address.offset_bytes > kProvingGroundBytes ||
      size_bytes > kProvingGroundBytes - address.offset_bytes)
    throw Error(Errc::out_of_bounds,
                "the proving ground has " + std::to_string(kProvingGroundBytes) + " bytes");
  auto& area = areas_[static_cast<std::size_t>(access)];
  if (!area) area = std::make_shared<std::byte[]>(kProvingGroundBytes);  // Zeros.
  return {{area.get() + address.offset_bytes, size_bytes}, area};
}

}  // namespace causeway
