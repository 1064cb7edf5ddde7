// Streams that are captured, and the graphs that come of them.
//
// Shape:   a capture is one graph in the making, on the stream that it began on and on those that
//          joined it by events. A graph runs its nodes one after the other, in the order of their
//          making, which is one that its edges allow.
// Threads: under the world's mutex.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "tests/cuda_emulator/state.h"

namespace causeway::cuda {

struct GraphNodeTag {
  NodeType type = kNodeEmpty;
  std::function<void()> work;
  std::vector<GraphNode> after;
};

struct GraphTag {
  std::vector<std::unique_ptr<GraphNodeTag>> nodes;
};

struct GraphExecTag {
  std::shared_ptr<const std::vector<std::function<void()>>> pieces;
};

}  // namespace causeway::cuda

namespace causeway::emulator {

struct Capture {
  std::uint64_t id = 0;
  cuda::CaptureMode mode = cuda::kCaptureGlobal;
  std::thread::id thread;
  cuda::StreamTag* origin = nullptr;
  cuda::ContextTag* context = nullptr;
  std::unique_ptr<cuda::GraphTag> graph;
  bool is_broken = false;
  bool is_over = false;
};

}  // namespace causeway::emulator
