// Asks NVIDIA's driver library, in a child process, what it knows of this machine.
//
// Shape:   a report of plain fields in memory that the child shares; what was written before a hang
//          or a crash counts. The child ends with the call, or with the time limit.
// Errors:  none: `outcome` says how it went, fields that were not learnt are empty.
// Cost:    one fork() and the driver's time; a report is 150 KB.
// Threads: any. The child has the calling thread alone and keeps no descriptor of the caller's but
//          the driver's own.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/topology/discovery/nvml_abi.h"

namespace causeway {

constexpr unsigned kMaxNvmlGpus = 64;

struct NvmlLink {
  std::optional<bool> is_active;  // Empty: there is no such link.
  std::optional<int> remote_type;
  std::array<char, 32> remote_bus_id;
};

struct NvmlGpu {
  nvml::Return failure;         // The first error that means the GPU itself.
  bool is_asked;                // False if the report ended before it.
  std::array<char, 32> bus_id;  // Empty if the driver gave no handle.
  std::array<char, 96> name;
  std::array<char, 96> uuid;
  std::optional<std::uint64_t> memory_bytes;
  std::optional<std::uint64_t> bar1_bytes;
  std::optional<std::uint32_t> sm;
  std::optional<std::uint32_t> generation;
  std::optional<std::uint32_t> generation_max;
  std::optional<std::uint32_t> width;
  std::optional<std::uint32_t> width_max;
  std::optional<std::uint32_t> numa_memory;  // Where its memory is a NUMA node of its own.
  bool is_nvlink_known;
  bool has_c2c;
  std::array<NvmlLink, nvml::kMaxLinks> links;
  std::optional<std::uint8_t> fabric_state;
  nvml::Return fabric_status;
  std::array<std::uint8_t, 16> fabric_cluster;
};

enum class NvmlOutcome : std::uint8_t {
  complete,
  no_library,  // `error` is the loader's.
  no_init,     // `code` is the library's answer.
  timed_out,   // In `function`.
  crashed,     // In `function`, by signal `code`.
  no_child,    // `code` is an errno.
};

struct NvmlReport {
  NvmlOutcome outcome;
  int code;
  std::array<char, 256> error;
  std::uint8_t function;  // Index into the functions: the one that was called last,
  std::uint32_t subject;  // for this GPU.
  std::uint64_t missing;  // Bit i: the library lacks function i.
  bool is_complete;
  std::array<char, 96> driver_version;
  std::optional<int> cuda_version;  // 13000
  std::uint32_t gpu_count;          // As the driver says; gpus has kMaxNvmlGpus at most.
  std::array<NvmlGpu, kMaxNvmlGpus> gpus;
  // [reader][owner][0: read, 1: write]
  std::array<std::array<std::array<std::optional<std::uint8_t>, 2>, kMaxNvmlGpus>, kMaxNvmlGpus>
      peers;

  [[nodiscard]] std::uint32_t reported() const noexcept;  // Of `gpus`.
};

[[nodiscard]] std::unique_ptr<const NvmlReport> ask_nvml(const std::string& library,
                                                         std::chrono::milliseconds timeout);

// "GPU fabric: nvmlDeviceGetGpuFabricInfoV is not in this driver's library", one a missing function
// whose answer nothing else gives.
[[nodiscard]] std::vector<std::string> missing_facts(const NvmlReport& report);
// "nvmlDeviceGetHandleByIndex_v2 of GPU 3"
[[nodiscard]] std::string last_call(const NvmlReport& report);
[[nodiscard]] std::string nvml_error(nvml::Return code);  // "the GPU is lost (NVML error 15)"

template <std::size_t N>
[[nodiscard]] std::string_view text_of(const std::array<char, N>& text) noexcept {
  const std::string_view all(text.data(), N);
  return all.substr(0, all.find('\0'));
}

}  // namespace causeway
