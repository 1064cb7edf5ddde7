// A breath between two looks at memory that another core writes.
#pragma once

namespace causeway::shm {

inline void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace causeway::shm
