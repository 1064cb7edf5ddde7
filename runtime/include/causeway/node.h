// The daemon of one node, as a function: what `causewayd` runs.
//
// Shape:   lends the memory of this node's devices to sessions, serves the control plane (HTTP/JSON
//          on TCP with a token and on a unix socket) and the data plane (UCX), and joins the pool's
//          directory or serves it.
// Errors:  throws Error if an address is taken, the token file is not private, the cluster file has
//          no such node or promises more of a GPU than is free, or the directory cannot be reached
//          within join_timeout.
// Threads: run_node() occupies the calling thread, the only one that touches the node's state.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "causeway/cluster.h"
#include "causeway/topology_graph.h"

namespace causeway {

// What the GPUs of this node's cluster file are.
enum class GpuMode : std::uint8_t {
  emulated,   // Host memory that stands for theirs.
  automatic,  // Memory of the card where the CUDA driver has it, else emulated, and it is said.
  cuda,       // Memory of the card; run_node() throws unsupported where it is not to be had.
};

struct NodeOptions {
  ClusterSpec cluster;  // Must contain `node`; its links are published.
  std::string node;     // Which of the nodes this daemon is.
  // The machine that this node is, to be published with it: discover() of topology_discovery.h.
  // Without it the pool knows of the node what the cluster file says.
  std::optional<TopologyGraph> machine;
  std::string control_listen =
      "127.0.0.1:0";                        // HOST:PORT; port 0 chooses one. Never all by default.
  std::string data_listen = "127.0.0.1:0";  // Of several network cards: with commas between.
  std::string socket_path;                  // Unix socket, mode 0600, same user only.
  std::string token;                        // Shared by the whole pool; at least 16 characters.
  std::string directory;   // Control address of the directory's node; empty: serve it.
  std::string state_file;  // Written when ready: JSON {pid, node, control, data, socket}.
  std::chrono::milliseconds join_timeout{10000};
  GpuMode gpus = GpuMode::emulated;
  // What the driver has, with a context on each GPU, before it counts as hanging.
  std::chrono::milliseconds gpu_probe_time{10000};
};

// Serves until SIGTERM, SIGINT or POST /v1/shutdown. Calls `ready` once when all listen.
void run_node(const NodeOptions& options, const std::function<void()>& ready = {});

}  // namespace causeway
