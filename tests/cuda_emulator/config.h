// What the software driver pretends to be: read once from CAUSEWAY_CUDA_EMULATOR, which names a
// YAML file or is YAML itself (begins with '{'). config.cpp names the fields.
//
// Errors:  a mistake is printed and ends the process with code 98: a test must not go on with
//          another machine than it asked for.
// Threads: immutable once read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace causeway::emulator {

struct DeviceConfig {
  std::string name = "Emulated GPU";
  std::uint64_t memory_bytes = std::uint64_t{1} << 30;
  int sm = 90;
  int numa = 0;
  int island = 0;  // Devices of one island reach each other. Negative: none.
};

struct Config {
  int version = 12040;
  std::vector<DeviceConfig> devices{2};
  bool vmm = true;
  bool posix_fd = true;
  bool host_numa_vmm = true;
  bool mixed_ranges = true;     // Device and host memory in one reservation.
  bool read_only = true;        // Access for reading alone.
  bool peers_work = true;       // False: the driver says so, and the bytes do not arrive.
  bool hide_memory = true;      // The processor faults on memory of devices, where it can be had.
  bool reads_in_place = false;  // Queued copies look at pageable memory when they run, as with ATS.
  // Calls that cuda.h lets answer CUDA_ERROR_INVALID_CONTEXT do so on a thread without a context,
  // also where a handle would tell it.
  bool strict_contexts = false;
  bool check_leaks = false;     // A leak at exit is printed and makes the exit code 97.
  int init_result = 0;          // What cuInit() answers.
  double host_bytes_per_s = 0;  // Paces copies between host and device; 0: as fast as it goes.
  double peer_bytes_per_s = 0;
  double device_bytes_per_s = 0;
  std::uint64_t stream_delay_us = 0;                // Before each piece of work.
  std::map<std::string, std::uint64_t> calls_us;    // What a call takes at least.
  std::map<std::string, std::uint64_t> kernels_us;  // What a kernel takes at least; huge: for ever.
  std::map<std::string, int> crashes;               // A call that kills the process: name, signal.
};

[[nodiscard]] const Config& config();

}  // namespace causeway::emulator
