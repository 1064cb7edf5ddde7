// Kernels for the software driver: host functions in an image that cuModuleLoadData() takes.
//
// Shape:   a table of names, bodies and parameter sizes. The driver calls a body once for each
//          thread of the grid, in order, on the stream's thread.
// Errors:  a body that touches what its device may not is cut off there: keep nothing in it that a
//          destructor must free.
// Threads: immutable.
#pragma once

#include <cstddef>

namespace causeway::emulator {

struct KernelThread {
  unsigned grid[3];
  unsigned block[3];
  unsigned block_index[3];
  unsigned thread_index[3];
};

using KernelBody = void (*)(const KernelThread& thread, void* const* parameters);

struct KernelEntry {
  const char* name;
  KernelBody body;
  std::size_t parameter_count;
  const std::size_t* parameter_sizes;
};

constexpr unsigned long long kImageMagic = 0x4c4e524b59575343ULL;  // "CSWYKRNL"

struct KernelImage {
  unsigned long long magic = kImageMagic;
  std::size_t count = 0;
  const KernelEntry* kernels = nullptr;
};

}  // namespace causeway::emulator
