// Stream capture and graphs.
#include <algorithm>

#include "tests/cuda_conformance/driver.h"

using namespace causeway::conformance;

namespace {

void begin(Stream stream, CaptureMode mode = kCaptureThreadLocal) {
  NEED(api().cuStreamBeginCapture(stream, mode));
}

CaptureStatus status_of(Stream stream) {
  auto status = static_cast<CaptureStatus>(99);
  NEED(api().cuStreamIsCapturing(stream, &status));
  return status;
}

// A capture that something has broken ends with no graph, and the stream is an ordinary one again.
void check_broken(Stream stream) {
  CHECK(status_of(stream) == kCaptureBroken);
  auto graph = reinterpret_cast<Graph>(&stream);
  ANSWERS(api().cuStreamEndCapture(stream, &graph), kCaptureInvalidated);
  CHECK(graph == nullptr);
  CHECK(status_of(stream) == kCaptureNone);
  NEED(api().cuStreamSynchronize(stream));
}

// A graph and what was made of it.
class Executable {
 public:
  explicit Executable(Stream captured) {
    NEED(api().cuStreamEndCapture(captured, &graph_));
    NEED(api().cuGraphInstantiateWithFlags(&executable_, graph_, 0));
  }
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;
  ~Executable() {
    (void)api().cuGraphExecDestroy(executable_);
    if (graph_ != nullptr) (void)api().cuGraphDestroy(graph_);
  }
  void drop_graph() {
    NEED(api().cuGraphDestroy(graph_));
    graph_ = nullptr;
  }
  void run(Stream stream) {
    NEED(api().cuGraphLaunch(executable_, stream));
    NEED(api().cuStreamSynchronize(stream));
  }
  [[nodiscard]] std::vector<NodeType> types() const {
    std::size_t count = 0;
    NEED(api().cuGraphGetNodes(graph_, nullptr, &count));
    std::vector<GraphNode> nodes(count);
    NEED(api().cuGraphGetNodes(graph_, nodes.data(), &count));
    std::vector<NodeType> types;
    for (auto* const node : nodes) {
      types.emplace_back();
      NEED(api().cuGraphNodeGetType(node, &types.back()));
    }
    std::ranges::sort(types);
    return types;
  }

 private:
  Graph graph_ = nullptr;
  GraphExec executable_ = nullptr;
};

}  // namespace

TEST_CASE("capture: kernels, copies and fills are kept, and run at every launch") {
  const Gpu gpu;
  Code code;
  const OwnedStream stream;
  const DeviceBytes one(4096);
  const DeviceBytes two(4096);
  NEED(api().cuMemsetD8(one.at(), 0, 4096));
  NEED(api().cuMemsetD8(two.at(), 0, 4096));
  NEED(api().cuCtxSynchronize());
  begin(stream);
  CHECK(status_of(stream) == kCaptureActive);
  NEED(code.fill(stream, one.at(), 30, 10));
  NEED(api().cuMemcpyDtoDAsync(two.at(), one.at(), 40, stream));
  NEED(api().cuMemsetD32Async(one.at(), 0, 10, stream));
  Executable graph(stream);
  CHECK(status_of(stream) == kCaptureNone);
  CHECK(graph.types() == std::vector{kNodeKernel, kNodeCopy, kNodeFill});
  NEED(api().cuCtxSynchronize());
  CHECK(two.words()[9] == 0);  // Nothing has run.
  graph.run(stream);
  CHECK(two.words()[9] == 39);
  CHECK(one.words()[9] == 0);
  NEED(api().cuMemsetD8(two.at(), 0, 4096));
  NEED(api().cuCtxSynchronize());
  graph.drop_graph();  // What was made of it goes on.
  graph.run(stream);
  CHECK(two.words()[9] == 39);
}

TEST_CASE("capture: host functions run at every launch") {
  const Gpu gpu;
  const OwnedStream stream;
  int calls = 0;
  begin(stream);
  NEED(api().cuLaunchHostFunc(
      stream, [](void* data) { ++*static_cast<int*>(data); }, &calls));
  Executable graph(stream);
  CHECK(calls == 0);
  graph.run(stream);
  graph.run(stream);
  CHECK(calls == 2);
  CHECK(graph.types() == std::vector{kNodeHost});
}

TEST_CASE("capture: events take other streams in, which must come back") {
  const Gpu gpu;
  Code code;
  const OwnedStream one;
  const OwnedStream two;
  const OwnedEvent fork;
  const OwnedEvent join;
  const DeviceBytes device(4096);
  begin(one);
  NEED(code.fill(one, device.at(), 1, 4));
  NEED(api().cuEventRecord(fork, one));
  NEED(api().cuStreamWaitEvent(two, fork, 0));
  CHECK(status_of(two) == kCaptureActive);
  NEED(api().cuMemcpyDtoDAsync(device.at() + 16, device.at(), 16, two));
  NEED(api().cuEventRecord(join, two));
  NEED(api().cuStreamWaitEvent(one, join, 0));
  NEED(api().cuMemcpyDtoDAsync(device.at() + 32, device.at() + 16, 16, one));
  Executable graph(one);
  CHECK(status_of(two) == kCaptureNone);
  graph.run(two);  // On any stream.
  CHECK(device.words()[11] == 4);
}

TEST_CASE("capture: a stream that does not come back is an error") {
  const Gpu gpu;
  const OwnedStream one;
  const OwnedStream two;
  const OwnedEvent fork;
  const DeviceBytes device(4096);
  begin(one);
  NEED(api().cuEventRecord(fork, one));
  NEED(api().cuStreamWaitEvent(two, fork, 0));
  NEED(api().cuMemsetD8Async(device.at(), 0, 16, two));
  Graph graph = nullptr;
  ANSWERS(api().cuStreamEndCapture(two, &graph), kCaptureUnmatched);
  const auto result = api().cuStreamEndCapture(one, &graph);
  const bool is_told = result == kCaptureUnjoined || result == kCaptureInvalidated;
  CHECK_MESSAGE(is_told, name_of(result));
  CHECK(graph == nullptr);
}

TEST_CASE("capture: unjoined work is told at its end") {
  const Gpu gpu;
  const OwnedStream one;
  const OwnedStream two;
  const OwnedEvent fork;
  const DeviceBytes device(4096);
  begin(one);
  NEED(api().cuEventRecord(fork, one));
  NEED(api().cuStreamWaitEvent(two, fork, 0));
  NEED(api().cuMemsetD8Async(device.at(), 0, 16, two));
  Graph graph = nullptr;
  ANSWERS(api().cuStreamEndCapture(one, &graph), kCaptureUnjoined);
  CHECK(graph == nullptr);
  NEED(api().cuStreamSynchronize(one));
}

TEST_CASE("capture: waiting for the stream is refused, and breaks it") {
  const Gpu gpu;
  const OwnedStream stream;
  begin(stream);
  ANSWERS(api().cuStreamSynchronize(stream), kCaptureUnsupported);
  check_broken(stream);
  begin(stream);
  ANSWERS(api().cuStreamQuery(stream), kCaptureUnsupported);
  check_broken(stream);
  begin(stream);
  ANSWERS(api().cuCtxSynchronize(), kCaptureUnsupported);
  check_broken(stream);
}

TEST_CASE("capture: the default stream may not depend on a blocking one that is captured") {
  const Gpu gpu;
  const OwnedStream blocking(0);
  const DeviceBytes device(4096);
  begin(blocking);
  ANSWERS(api().cuMemsetD8Async(device.at(), 0, 16, nullptr), kCaptureImplicit);
  check_broken(blocking);
  begin(blocking);
  auto status = kCaptureNone;
  ANSWERS(api().cuStreamIsCapturing(nullptr, &status), kCaptureImplicit);
  CHECK(status_of(blocking) == kCaptureActive);  // Asking breaks nothing.
  Graph graph = nullptr;
  NEED(api().cuStreamEndCapture(blocking, &graph));
  NEED(api().cuGraphDestroy(graph));
}

TEST_CASE("capture: what no graph would see is refused, as the mode says") {
  const Gpu gpu;
  const OwnedStream stream;
  DevicePtr at = 0;
  begin(stream, kCaptureGlobal);
  ANSWERS(api().cuMemAlloc(&at, 4096), kCaptureUnsupported);
  check_broken(stream);
  begin(stream, kCaptureThreadLocal);
  ANSWERS(api().cuMemAlloc(&at, 4096), kCaptureUnsupported);
  check_broken(stream);
  begin(stream, kCaptureRelaxed);
  NEED(api().cuMemAlloc(&at, 4096));
  Graph graph = nullptr;
  NEED(api().cuStreamEndCapture(stream, &graph));
  NEED(api().cuGraphDestroy(graph));
  begin(stream, kCaptureGlobal);
  auto mode = kCaptureRelaxed;
  NEED(api().cuThreadExchangeStreamCaptureMode(&mode));
  CHECK(mode == kCaptureGlobal);
  DevicePtr more = 0;
  NEED(api().cuMemAlloc(&more, 4096));
  NEED(api().cuThreadExchangeStreamCaptureMode(&mode));
  CHECK(mode == kCaptureRelaxed);
  NEED(api().cuStreamEndCapture(stream, &graph));
  NEED(api().cuGraphDestroy(graph));
  NEED(api().cuMemFree(at));
  NEED(api().cuMemFree(more));
}

TEST_CASE("capture: another thread's is no hindrance unless it is global") {
  const Gpu gpu;
  const OwnedStream stream;
  DevicePtr at = 0;
  begin(stream, kCaptureThreadLocal);
  elsewhere([&] {
    NEED(api().cuCtxSetCurrent(gpu.context()));
    NEED(api().cuMemAlloc(&at, 4096));
    Graph graph = nullptr;
    ANSWERS(api().cuStreamEndCapture(stream, &graph), kCaptureWrongThread);
  });
  Graph graph = nullptr;
  (void)api().cuStreamEndCapture(stream, &graph);
  if (graph != nullptr) (void)api().cuGraphDestroy(graph);
  NEED(api().cuMemFree(at));
  begin(stream, kCaptureGlobal);
  elsewhere([&] {
    NEED(api().cuCtxSetCurrent(gpu.context()));
    ANSWERS(api().cuMemAlloc(&at, 4096), kCaptureUnsupported);
  });
  check_broken(stream);
}

TEST_CASE("capture: begins and ends where it may") {
  const Gpu gpu;
  const OwnedStream stream;
  Graph graph = nullptr;
  ANSWERS(api().cuStreamEndCapture(stream, &graph), kIllegalState);
  ANSWERS(api().cuStreamBeginCapture(nullptr, kCaptureGlobal), kCaptureUnsupported);
  begin(stream);
  ANSWERS(api().cuStreamBeginCapture(stream, kCaptureThreadLocal), kIllegalState);
  (void)api().cuStreamEndCapture(stream, &graph);
  if (graph != nullptr) NEED(api().cuGraphDestroy(graph));
}

TEST_CASE("capture: an event of one is nothing to ask") {
  const Gpu gpu;
  const OwnedStream stream;
  const OwnedEvent event;
  begin(stream);
  NEED(api().cuEventRecord(event, stream));
  ANSWERS(api().cuEventQuery(event), kCapturedEvent);
  check_broken(stream);
  begin(stream);
  NEED(api().cuEventRecord(event, stream));
  ANSWERS(api().cuEventSynchronize(event), kCapturedEvent);
  check_broken(stream);
}

TEST_CASE("capture: it does not depend on what lies outside, nor on another") {
  const Gpu gpu;
  const OwnedStream one;
  const OwnedStream two;
  const OwnedEvent event;
  NEED(api().cuEventRecord(event, two));
  begin(one);
  ANSWERS(api().cuStreamWaitEvent(one, event, 0), kCaptureIsolation);
  check_broken(one);
  begin(one);
  begin(two);
  NEED(api().cuEventRecord(event, two));
  ANSWERS(api().cuStreamWaitEvent(one, event, 0), kCaptureMerge);
  for (const auto stream : {Stream(one), Stream(two)}) {
    Graph graph = nullptr;
    (void)api().cuStreamEndCapture(stream, &graph);
    if (graph != nullptr) NEED(api().cuGraphDestroy(graph));
    CHECK(status_of(stream) == kCaptureNone);
  }
}
