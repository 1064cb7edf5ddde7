#include "tests/allocator/host_memory_faults.h"

#include <cstdlib>
#include <new>

void* operator new(std::size_t size) {
  ++causeway::test::allocations;
  if (causeway::test::fail_countdown > 0 && --causeway::test::fail_countdown == 0)
    throw std::bad_alloc();
  if (void* const at = std::malloc(size)) return at;
  throw std::bad_alloc();
}

void operator delete(void* at) noexcept { std::free(at); }
void operator delete(void* at, std::size_t) noexcept { std::free(at); }
