#include "transport/ucx/spare_descriptors.h"

#include <fcntl.h>
#include <unistd.h>

namespace causeway::ucx {

bool SpareDescriptors::hold(std::size_t count) {
  held_.reserve(count);
  while (held_.size() < count) {
    const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    held_.push_back(fd);
  }
  return true;
}

void SpareDescriptors::release() noexcept {
  for (const int fd : held_) ::close(fd);
  held_.clear();
}

}  // namespace causeway::ucx
