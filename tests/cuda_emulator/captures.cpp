// Stream capture: what it takes in, and what it forbids.
#include "tests/cuda_emulator/captures.h"

#include <algorithm>
#include <utility>

#include "tests/cuda_emulator/exports.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Capture;
using em::Needs;
using em::require;
using em::run_call;

namespace {

using CapturePtr = std::shared_ptr<Capture>;

thread_local CaptureMode thread_mode = kCaptureGlobal;

[[noreturn]] void refuse(const CapturePtr& capture, causeway::cuda::Result result) {
  em::break_capture(capture);
  throw em::Failure{result};
}

// What the default stream would wait for, if it may not.
CapturePtr blocking_capture(const ContextTag& context) {
  for (const auto* stream : em::world().streams)
    if (stream->context == &context && stream->capture && stream->waits_for_default())
      return stream->capture;
  return nullptr;
}

void add_ends(std::vector<GraphNode>& ends, const std::vector<GraphNode>& more) {
  for (auto* const node : more)
    if (std::ranges::find(ends, node) == ends.end()) ends.push_back(node);
}

std::set<GraphNode> ancestors(const std::vector<GraphNode>& ends) {
  std::set<GraphNode> seen(ends.begin(), ends.end());
  std::vector<GraphNode> open = ends;
  while (!open.empty()) {
    auto* const node = open.back();
    open.pop_back();
    for (auto* const before : node->after)
      if (seen.insert(before).second) open.push_back(before);
  }
  return seen;
}

bool has_joined(const Capture& capture) {
  const auto reached = ancestors(capture.origin->ends);
  for (const auto* stream : em::world().streams)
    if (stream->capture.get() == &capture &&
        !std::ranges::all_of(stream->ends, [&](auto* node) { return reached.contains(node); }))
      return false;
  return true;
}

// Its streams are ordinary ones again.
void end(Capture& capture) {
  auto& w = em::world();
  capture.is_over = true;
  for (auto* const stream : w.streams) {
    if (stream->capture.get() != &capture) continue;
    stream->capture = nullptr;
    stream->ends.clear();
  }
  std::erase_if(w.captures, [&](const CapturePtr& each) { return each.get() == &capture; });
}

}  // namespace

namespace causeway::emulator {

void break_capture(const std::shared_ptr<Capture>& capture) { capture->is_broken = true; }

void leave_capture(StreamTag& stream) {
  const auto capture = stream.capture;
  if (!capture) return;
  break_capture(capture);
  stream.capture = nullptr;
  if (capture->origin == &stream) end(*capture);
}

void add_captured(StreamTag& stream, NodeType type, std::function<void()> work) {
  auto& capture = *stream.capture;
  require(!capture.is_broken, kCaptureInvalidated);
  auto node = std::make_unique<GraphNodeTag>();
  node->type = type;
  node->work = std::move(work);
  node->after = stream.ends;
  stream.ends = {node.get()};
  capture.graph->nodes.push_back(std::move(node));
}

void refuse_while_captured(const StreamTag* stream) {
  if (world().captures.empty()) return;
  if (stream != nullptr) {
    if (stream->capture) refuse(stream->capture, kCaptureUnsupported);
    return;
  }
  if (const auto capture = blocking_capture(context_of(nullptr))) refuse(capture, kCaptureImplicit);
}

void refuse_in_capture(const ContextTag& context) {
  for (const auto& capture : world().captures)
    if (capture->context == &context) refuse(capture, kCaptureUnsupported);
}

void refuse_unsafe() {
  if (thread_mode == kCaptureRelaxed) return;
  const auto own = std::this_thread::get_id();
  CapturePtr forbids;
  for (const auto& capture : world().captures) {
    const bool is_own = capture->thread == own && capture->mode != kCaptureRelaxed;
    const bool is_global = thread_mode == kCaptureGlobal && capture->mode == kCaptureGlobal;
    if (!is_own && !is_global) continue;
    break_capture(capture);
    forbids = capture;
  }
  if (forbids) throw Failure{kCaptureUnsupported};
}

void wait_captured(StreamTag* stream, EventTag& event) {
  const auto of_stream = stream != nullptr ? stream->capture : nullptr;
  const auto& of_event = event.capture;
  if (!of_event) {
    if (event.reached_at_s == nullptr) return;  // Never recorded: nothing to wait for.
    refuse(of_stream, kCaptureIsolation);
  }
  if (of_event->is_over) {
    if (of_stream) break_capture(of_stream);
    throw Failure{kCaptureIsolation};
  }
  if (stream == nullptr) refuse(of_event, kCaptureImplicit);
  if (of_stream && of_stream != of_event) {
    break_capture(of_stream);
    refuse(of_event, kCaptureMerge);
  }
  require(!of_event->is_broken, kCaptureInvalidated);
  stream->capture = of_event;
  add_ends(stream->ends, event.ends);
}

}  // namespace causeway::emulator

extern "C" {
namespace causeway::cuda {

Result cuStreamBeginCapture_v2(Stream stream, CaptureMode mode) {
  return run_call("cuStreamBeginCapture", Needs::context, [&] {
    require(mode == kCaptureGlobal || mode == kCaptureThreadLocal || mode == kCaptureRelaxed);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    auto* const origin = em::resolve(stream);
    require(origin != nullptr, kCaptureUnsupported);
    require(!origin->capture, kIllegalState);
    auto capture = std::make_shared<Capture>();
    capture->id = w.next_id++;
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->origin = origin;
    capture->context = origin->context;
    capture->graph = std::make_unique<GraphTag>();
    w.captures.push_back(capture);
    origin->capture = std::move(capture);
    origin->ends.clear();
  });
}

Result cuStreamEndCapture(Stream stream, Graph* graph) {
  return run_call("cuStreamEndCapture", Needs::healthy, [&] {
    require(graph != nullptr);
    *graph = nullptr;
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto* const origin = em::resolve(stream);
    require(origin != nullptr && origin->capture, kIllegalState);
    const auto capture = origin->capture;
    if (capture->origin != origin) refuse(capture, kCaptureUnmatched);
    const bool is_own_thread = capture->thread == std::this_thread::get_id();
    if (!is_own_thread && capture->mode != kCaptureRelaxed) refuse(capture, kCaptureWrongThread);
    const bool joined = has_joined(*capture);
    end(*capture);
    require(!capture->is_broken, kCaptureInvalidated);
    require(joined, kCaptureUnjoined);
    *graph = capture->graph.release();
    w.graphs.insert(*graph);
  });
}

Result cuStreamIsCapturing(Stream stream, CaptureStatus* status) {
  return run_call("cuStreamIsCapturing", Needs::context, [&] {
    require(status != nullptr);
    const std::lock_guard lock(em::world().mutex);
    const auto* const own = em::resolve(stream);
    if (own == nullptr) require(!blocking_capture(*em::current()), kCaptureImplicit);
    const auto capture = own != nullptr ? own->capture : nullptr;
    *status = !capture ? kCaptureNone : capture->is_broken ? kCaptureBroken : kCaptureActive;
  });
}

Result cuStreamGetCaptureInfo_v2(Stream stream, CaptureStatus* status, std::uint64_t* id,
                                 Graph* graph, const GraphNode** dependencies, std::size_t* count) {
  return run_call("cuStreamGetCaptureInfo", Needs::context, [&] {
    require(status != nullptr);
    const std::lock_guard lock(em::world().mutex);
    const auto* const own = em::resolve(stream);
    if (own == nullptr) require(!blocking_capture(*em::current()), kCaptureImplicit);
    const auto capture = own != nullptr ? own->capture : nullptr;
    *status = !capture ? kCaptureNone : capture->is_broken ? kCaptureBroken : kCaptureActive;
    if (*status != kCaptureActive) return;
    if (id != nullptr) *id = capture->id;
    if (graph != nullptr) *graph = capture->graph.get();
    if (dependencies != nullptr) *dependencies = own->ends.data();
    if (count != nullptr) *count = own->ends.size();
  });
}

Result cuStreamGetCaptureInfo_v3(Stream stream, CaptureStatus* status, std::uint64_t* id,
                                 Graph* graph, const GraphNode** dependencies, const void** edges,
                                 std::size_t* count) {
  if (edges != nullptr) *edges = nullptr;  // Plain ones only.
  return cuStreamGetCaptureInfo_v2(stream, status, id, graph, dependencies, count);
}

Result cuThreadExchangeStreamCaptureMode(CaptureMode* mode) {
  return run_call("cuThreadExchangeStreamCaptureMode", Needs::driver, [&] {
    require(mode != nullptr);
    require(*mode == kCaptureGlobal || *mode == kCaptureThreadLocal || *mode == kCaptureRelaxed);
    std::swap(thread_mode, *mode);
  });
}

Result cuGraphCreate(Graph* graph, unsigned flags) {
  return run_call("cuGraphCreate", Needs::driver, [&] {
    require(graph != nullptr && flags == 0);
    auto made = std::make_unique<GraphTag>();
    const std::lock_guard lock(em::world().mutex);
    em::world().graphs.insert(made.get());
    *graph = made.release();
  });
}

Result cuGraphDestroy(Graph graph) {
  return run_call("cuGraphDestroy", Needs::driver, [&] {
    const std::lock_guard lock(em::world().mutex);
    require(em::world().graphs.erase(graph) == 1);
    delete graph;
  });
}

Result cuGraphGetNodes(Graph graph, GraphNode* nodes, std::size_t* count) {
  return run_call("cuGraphGetNodes", Needs::driver, [&] {
    require(count != nullptr);
    const std::lock_guard lock(em::world().mutex);
    require(em::world().graphs.contains(graph));
    const auto all = graph->nodes.size();
    if (nodes == nullptr) {
      *count = all;
      return;
    }
    for (std::size_t i = 0; i < *count; ++i) nodes[i] = i < all ? graph->nodes[i].get() : nullptr;
    *count = std::min(*count, all);
  });
}

Result cuGraphNodeGetType(GraphNode node, NodeType* type) {
  return run_call("cuGraphNodeGetType", Needs::driver, [&] {
    require(node != nullptr && type != nullptr);
    *type = node->type;
  });
}

Result cuGraphInstantiateWithFlags(GraphExec* executable, Graph graph, unsigned long long flags) {
  return run_call("cuGraphInstantiate", Needs::context, [&] {
    constexpr unsigned long long kFreeOnLaunch = 1, kUploadFirst = 2, kNodePriority = 8;
    require(executable != nullptr);
    require((flags & ~(kFreeOnLaunch | kUploadFirst | kNodePriority)) == 0);
    const std::lock_guard lock(em::world().mutex);
    require(em::world().graphs.contains(graph));
    std::vector<std::function<void()>> pieces;
    for (const auto& node : graph->nodes) pieces.push_back(node->work);
    auto made = std::make_unique<GraphExecTag>();
    made->pieces = std::make_shared<const std::vector<std::function<void()>>>(std::move(pieces));
    em::world().executables.insert(made.get());
    *executable = made.release();
  });
}

Result cuGraphLaunch(GraphExec executable, Stream stream) {
  return run_call("cuGraphLaunch", Needs::context, [&] {
    std::shared_ptr<const std::vector<std::function<void()>>> pieces;
    {
      const std::lock_guard lock(em::world().mutex);
      require(em::world().executables.contains(executable));
      pieces = executable->pieces;
    }
    (void)em::enqueue(stream, kNodeGraph, [pieces] {
      for (const auto& piece : *pieces) piece();
    });
  });
}

Result cuGraphExecDestroy(GraphExec executable) {
  return run_call("cuGraphExecDestroy", Needs::driver, [&] {
    const std::lock_guard lock(em::world().mutex);
    require(em::world().executables.erase(executable) == 1);
    delete executable;
  });
}

}  // namespace causeway::cuda
}
