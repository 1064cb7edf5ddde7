// The memory behind the devices of a node: its GPUs' own, by the CUDA driver, or host memory that
// stands for it.
//
// Shape:   one NodeDevice for each device of the cluster file, in its order. gpuN is the N-th GPU
//          by PCI address, as nvidia-smi counts.
// Units:   bytes.
// Errors:  unsupported if GpuMode::cuda finds no such GPU that can lend, with the reason and what
//          to do; invalid_argument if the file promises more than the card has free; what the
//          backends throw.
// Cost:    without a GPU in the file, or emulated, nothing. Else the probe (allocator/cuda/probe.h)
//          and a context on each GPU that lends.
// Threads: one; open_node_devices() before the process has started a CUDA driver.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "allocator/cuda/cuda_backend.h"
#include "causeway/cluster.h"
#include "causeway/node.h"

namespace causeway {

struct NodeDevice {
  DeviceName name;
  std::string model;
  std::string kind;  // "host", "emulated", "cuda"
  std::shared_ptr<MemoryBackend> memory;
  // Of a GPU with memory of its own; null otherwise.
  std::shared_ptr<CudaContext> gpu;
  std::string uuid;
  std::vector<std::string> reaches;  // Local names of what maps beside its memory: proved.
  // Of host memory: the same bytes as a GPU of this node can map them. Null if none can.
  std::shared_ptr<CudaBackend> for_gpus;
};

struct NodeDevices {
  std::vector<NodeDevice> devices;
  std::vector<std::string> gpu_report;  // For people; empty where the file has no GPU.
};

[[nodiscard]] NodeDevices open_node_devices(const NodeSpec& node, GpuMode mode,
                                            std::chrono::milliseconds probe_time);

}  // namespace causeway
