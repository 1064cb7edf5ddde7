// Tries what a CUDA driver can do with memory, in a child process: a driver that hangs or crashes
// ends that child and not the caller.
//
// Shape:   GPUs in the order of their PCI addresses, as nvidia-smi counts them and unlike the
//          driver's own ordinals. What the child found before a bad end counts; the rest is
//          unknown, which is no better than "no".
// Units:   bytes; free_bytes with a context of ours on the GPU.
// Errors:  none: `outcome` and `error` say how it went, `problem` what a GPU refused.
// Cost:    the start of the driver and of a context on each GPU: 0.3 s each, or seconds where no
//          persistence daemon runs. So the time limit is for each GPU: of those that NVIDIA's
//          kernel module shows (/proc/driver/nvidia/gpus), or that the driver lists if these are
//          more.
// Threads: any; those of run_guarded(). Not in a process that has started a driver already.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace causeway {

constexpr std::uint32_t kMaxProbedGpus = 32;

enum class Tried : std::uint8_t { unknown, no, yes };

struct ProbedGpu {
  int ordinal;  // The driver's.
  std::array<char, 96> name;
  std::array<char, 32> bus_id;
  std::array<char, 48> uuid;  // "GPU-e0000000-..."
  std::uint64_t total_bytes;
  std::uint64_t free_bytes;
  int host_numa;                  // The NUMA node whose memory was tried.
  Tried memory;                   // Created, mapped, filled and read back.
  Tried crosses_processes;        // Exported as a descriptor, imported, the same bytes.
  Tried host_memory;              // Of a NUMA node, by the GPU and by the processor.
  Tried mixed_range;              // GPU and host memory in one range, access set for each kind.
  Tried mixed_grant;              // The same under one cuMemSetAccess.
  std::array<char, 256> problem;  // The first refusal, in the driver's words.
};

struct CudaProbe {
  enum class Outcome : std::uint8_t {
    complete,
    no_driver,  // Absent, too old, or it does not start: see `error`.
    timed_out,  // In `step`.
    crashed,    // In `step`, by signal `code`.
    no_child,   // `code` is an errno.
  };
  Outcome outcome;
  int code;
  bool is_complete;
  std::array<char, 512> error;
  std::array<char, 64> step;  // What was tried last.
  int driver_version;         // 12040
  std::uint32_t gpu_count;    // As the driver shows; `gpus` has kMaxProbedGpus at most.
  std::uint32_t probed;       // Of `gpus`.
  std::array<ProbedGpu, kMaxProbedGpus> gpus;
  // [reader][owner]: a copy over the reader's own addresses, compared byte by byte.
  std::array<std::array<Tried, kMaxProbedGpus>, kMaxProbedGpus> peers;

  [[nodiscard]] bool can_lend(std::uint32_t gpu) const noexcept {
    return gpu < probed && gpus[gpu].memory == Tried::yes &&
           gpus[gpu].crosses_processes == Tried::yes;
  }
  // Why there is nothing to use, or that the probe came to a bad end; empty: neither.
  [[nodiscard]] std::string trouble() const;
  // For people, a line for the driver and one for each GPU.
  [[nodiscard]] std::vector<std::string> to_lines() const;
};

// `library` as for CudaDriver::open().
[[nodiscard]] std::unique_ptr<const CudaProbe> probe_cuda(std::chrono::milliseconds time_per_gpu,
                                                          const std::string& library = {});

}  // namespace causeway
