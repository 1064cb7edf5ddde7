// File descriptors that are held back, so that others in this process cannot take the last ones.
//
// Errors:  hold() says whether the system gave as many.
// Cost:    a system call per descriptor.
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <vector>

namespace causeway::ucx {

class SpareDescriptors {
 public:
  SpareDescriptors() = default;
  ~SpareDescriptors() { release(); }
  SpareDescriptors(const SpareDescriptors&) = delete;
  SpareDescriptors& operator=(const SpareDescriptors&) = delete;

  [[nodiscard]] bool hold(std::size_t count);  // What there is stays held in any case.
  void release() noexcept;

 private:
  std::vector<int> held_;
};

}  // namespace causeway::ucx
