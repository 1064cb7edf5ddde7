#include "gpu_image.h"

#include <fmt/format.h>

#include <cstddef>
#include <iterator>
#include <string_view>
#include <tuple>
#include <utility>

// For the host: the functions that the software driver calls.
#include "gpu_kernels.cu"

// The PTX, byte by byte, with a 0 behind it. TRAIN_GPT_PTX is its path.
asm(".pushsection .rodata\n"
    ".hidden train_gpt_ptx\n"
    ".global train_gpt_ptx\n"
    "train_gpt_ptx: .incbin \"" TRAIN_GPT_PTX
    "\"\n"
    ".byte 0\n"
    ".popsection\n");
extern "C" const char train_gpt_ptx[];

namespace train_gpt {

namespace {

// The image's format: tests/cuda_emulator/image.h, which gpt_gpu_test compares with this.
struct KernelThread {
  unsigned grid[3];
  unsigned block[3];
  unsigned block_index[3];
  unsigned thread_index[3];
};

struct KernelEntry {
  const char* name;
  void (*body)(const KernelThread& thread, void* const* parameters);
  std::size_t parameter_count;
  const std::size_t* parameter_sizes;
};

struct KernelImage {
  unsigned long long magic = 0x4c4e524b59575343ULL;
  std::size_t count;
  const KernelEntry* kernels;
};

// The driver calls a body for each thread in turn; the first of a block works for all of them.
template <auto Kernel>
struct Entry;

template <typename... Parameters, void (*Kernel)(Parameters...)>
struct Entry<Kernel> {
  static constexpr std::size_t kSizes[] = {sizeof(Parameters)...};

  static void run(const KernelThread& thread, void* const* parameters) {
    if (thread.thread_index[0] != 0) return;
    gpu::position = {thread.block_index[0], thread.grid[0], thread.block_index[1], thread.grid[1]};
    call(parameters, std::index_sequence_for<Parameters...>{});
  }
  template <std::size_t... Indices>
  static void call(void* const* parameters, std::index_sequence<Indices...>) {
    Kernel(*static_cast<Parameters*>(parameters[Indices])...);
  }
};

#define TRAIN_GPT_ENTRY(kernel)                                                \
  {#kernel, &Entry<&gpu::kernel>::run, std::size(Entry<&gpu::kernel>::kSizes), \
   Entry<&gpu::kernel>::kSizes},
constexpr KernelEntry kEntries[] = {TRAIN_GPT_KERNELS(TRAIN_GPT_ENTRY)};
#undef TRAIN_GPT_ENTRY
constexpr KernelImage kImage{.count = std::size(kEntries), .kernels = kEntries};

// What follows `directive` on its line of the PTX.
std::string_view ptx_value(std::string_view directive) {
  const std::string_view text = train_gpt_ptx;
  const auto at = text.find(directive);
  if (at == std::string_view::npos) return "?";
  const auto first = at + directive.size();
  return text.substr(first, text.find_first_of(",\n", first) - first);
}

}  // namespace

const char* ptx() noexcept { return train_gpt_ptx; }

const void* host_image() noexcept { return &kImage; }

std::string kernel_requirements() {
  // Version a.b of PTX came with a driver for CUDA (a + 4).b, since 7.0.
  const auto version = ptx_value("\n.version ");
  const auto dot = version.find('.');
  const int major = dot == std::string_view::npos ? 0 : version[0] - '0';
  return fmt::format("a GPU of {} and a driver for CUDA {}{}, or newer", ptx_value("\n.target "),
                     major + 4, dot == std::string_view::npos ? "" : version.substr(dot));
}

}  // namespace train_gpt
