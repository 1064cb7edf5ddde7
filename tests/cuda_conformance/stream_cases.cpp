// Streams, events, host functions, waits for values: what runs when.
#include <array>
#include <atomic>
#include <thread>

#include "tests/cuda_conformance/driver.h"

using namespace causeway::conformance;

namespace {

std::uint32_t first_word(const HostBytes& host) { return host.word(0); }

}  // namespace

TEST_CASE("stream: work is queued, and done in order") {
  const Gpu gpu;
  Code code;
  const OwnedStream stream;
  const DeviceBytes device(4096);
  const HostBytes host(4096);
  {
    Gate gate(code, stream);
    NEED(code.fill(stream, device.at(), 10, 100));
    NEED(api().cuMemcpyDtoHAsync(host.bytes(), device.at(), 400, stream));
    NEED(api().cuMemsetD8Async(device.at(), 0, 400, stream));
    ANSWERS(api().cuStreamQuery(stream), kNotReady);
    CHECK(first_word(host) == 0);
    gate.open();
    NEED(api().cuStreamSynchronize(stream));
  }
  NEED(api().cuStreamQuery(stream));
  CHECK(host.word(99) == 109);
  CHECK(device.words()[99] == 0);
}

TEST_CASE("stream: parameters are taken when the launch is made") {
  const Gpu gpu;
  Code code;
  const OwnedStream stream;
  const DeviceBytes device(4096);
  auto at = device.at();
  std::uint32_t first = 1;
  std::uint32_t count = 10;
  void* parameters[] = {&at, &first, &count};
  Gate gate(code, stream);
  NEED(api().cuLaunchKernel(code["fill"], 1, 1, 1, 32, 1, 1, 0, stream, parameters, nullptr));
  at = 0;
  first = 100;
  gate.open();
  NEED(api().cuStreamSynchronize(stream));
  CHECK(device.words()[9] == 10);
}

TEST_CASE("stream: two of them do not wait for each other") {
  const Gpu gpu;
  Code code;
  const OwnedStream one;
  const OwnedStream two;
  const DeviceBytes device(4096);
  const Gate gate(code, one);
  NEED(api().cuMemsetD32Async(device.at(), 3, 1, two));
  NEED(api().cuStreamSynchronize(two));
  ANSWERS(api().cuStreamQuery(one), kNotReady);
}

TEST_CASE("stream: the default one waits for blocking streams, and they for it") {
  const Gpu gpu;
  Code code;
  const OwnedStream blocking(0);
  const DeviceBytes device(4096);
  Gate gate(code, blocking);
  NEED(api().cuMemsetD32Async(device.at(), 3, 1, nullptr));
  ANSWERS(api().cuStreamQuery(nullptr), kNotReady);
  ANSWERS(api().cuStreamQuery(kLegacyDefaultStream), kNotReady);
  gate.open();
  NEED(api().cuStreamSynchronize(nullptr));
  CHECK(device.words()[0] == 3);
}

TEST_CASE("stream: blocking ones wait for the default one, others do not") {
  const Gpu gpu;
  Code code;
  const OwnedStream blocking(0);
  const OwnedStream free;
  const DeviceBytes device(4096);
  Gate gate(code, nullptr);
  NEED(api().cuMemsetD32Async(device.at(), 3, 1, blocking));
  NEED(api().cuMemsetD32Async(device.at() + 4, 4, 1, free));
  NEED(api().cuStreamSynchronize(free));
  ANSWERS(api().cuStreamQuery(blocking), kNotReady);
  gate.open();
  NEED(api().cuStreamSynchronize(blocking));
}

TEST_CASE("stream: the default one does not wait for non-blocking streams") {
  const Gpu gpu;
  Code code;
  const OwnedStream stream;
  const DeviceBytes device(4096);
  const Gate gate(code, stream);
  NEED(api().cuMemsetD32Async(device.at(), 4, 1, nullptr));
  NEED(api().cuStreamSynchronize(nullptr));
  ANSWERS(api().cuStreamQuery(stream), kNotReady);
}

TEST_CASE("stream: each thread has a default one of its own") {
  const Gpu gpu;
  Code code;
  const DeviceBytes device(4096);
  Gate gate(code, kPerThreadDefaultStream);
  elsewhere([&] {
    NEED(api().cuCtxSetCurrent(gpu.context()));
    NEED(api().cuMemsetD32Async(device.at(), 5, 1, kPerThreadDefaultStream));
    NEED(api().cuStreamSynchronize(kPerThreadDefaultStream));
  });
  ANSWERS(api().cuStreamQuery(kPerThreadDefaultStream), kNotReady);
  gate.open();
  NEED(api().cuStreamSynchronize(kPerThreadDefaultStream));
}

TEST_CASE("stream: one that is destroyed ends its work") {
  const Gpu gpu;
  Code code;
  const DeviceBytes device(4096);
  const HostBytes host(8);
  Stream stream = nullptr;
  NEED(api().cuStreamCreate(&stream, kStreamNonBlocking));
  NEED(code.wait_flag(stream, host.at(), host.at() + 4));
  NEED(api().cuMemsetD32Async(device.at(), 6, 1, stream));
  NEED(api().cuStreamDestroy(stream));
  host.set(0, 1);
  NEED(api().cuCtxSynchronize());
  CHECK(device.words()[0] == 6);
}

TEST_CASE("stream: which context it is of") {
  const Gpu gpu;
  const OwnedStream stream;
  Context context = nullptr;
  NEED(api().cuStreamGetCtx(stream, &context));
  CHECK(context == gpu.context());
  ANSWERS(api().cuStreamCreate(nullptr, 0), kInvalidValue);
  Stream other = nullptr;
  ANSWERS(api().cuStreamCreate(&other, 0x100), kInvalidValue);
}

TEST_CASE("event: one that was never recorded is reached") {
  const Gpu gpu;
  const OwnedEvent event;
  const OwnedStream stream;
  NEED(api().cuEventQuery(event));
  NEED(api().cuEventSynchronize(event));
  NEED(api().cuStreamWaitEvent(stream, event, 0));
  NEED(api().cuStreamSynchronize(stream));
}

TEST_CASE("event: a place in a stream, for others to wait for") {
  const Gpu gpu;
  Code code;
  const OwnedStream one;
  const OwnedStream two;
  const OwnedEvent event(kEventDisableTiming);
  const DeviceBytes device(4096);
  const HostBytes host(4096);
  Gate gate(code, one);
  NEED(code.fill(one, device.at(), 20, 10));
  NEED(api().cuEventRecord(event, one));
  NEED(api().cuStreamWaitEvent(two, event, 0));
  NEED(api().cuMemcpyDtoHAsync(host.bytes(), device.at(), 40, two));
  ANSWERS(api().cuEventQuery(event), kNotReady);
  ANSWERS(api().cuStreamQuery(two), kNotReady);
  gate.open();
  NEED(api().cuEventSynchronize(event));
  NEED(api().cuStreamSynchronize(two));
  CHECK(host.word(9) == 29);
}

TEST_CASE("event: the time between two") {
  const Gpu gpu;
  Code code;
  const OwnedStream stream;
  const OwnedEvent start;
  const OwnedEvent end;
  const OwnedEvent untimed(kEventDisableTiming);
  float milliseconds = -1;
  ANSWERS(api().cuEventElapsedTime(&milliseconds, start, end), kInvalidHandle);
  NEED(api().cuEventRecord(start, stream));
  {
    Gate gate(code, stream);
    NEED(api().cuEventRecord(end, stream));
    NEED(api().cuEventRecord(untimed, stream));
    ANSWERS(api().cuEventElapsedTime(&milliseconds, start, end), kNotReady);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // The time that is measured.
    gate.open();
    NEED(api().cuStreamSynchronize(stream));
  }
  NEED(api().cuEventElapsedTime(&milliseconds, start, end));
  CHECK(milliseconds >= 15);
  ANSWERS(api().cuEventElapsedTime(&milliseconds, start, untimed), kInvalidHandle);
}

TEST_CASE("event: of another context it is not taken") {
  const Gpu gpu;
  Context own = nullptr;
  const OwnedEvent event;
  NEED(api().cuCtxCreate(&own, 0, gpu.device()));
  Stream stream = nullptr;
  NEED(api().cuStreamCreate(&stream, kStreamNonBlocking));
  ANSWERS(api().cuEventRecord(event, stream), kInvalidHandle);
  NEED(api().cuStreamDestroy(stream));
  NEED(api().cuCtxDestroy(own));
}

TEST_CASE("host function: between its neighbours, and without the driver") {
  const Gpu gpu;
  const OwnedStream stream;
  const HostBytes host(4096);
  struct Seen {
    const HostBytes* host;
    std::uint32_t before = 0;
    Result answer = kSuccess;
  } seen{&host, 0, kSuccess};
  NEED(api().cuMemsetD32Async(host.at(), 1, 1, stream));
  NEED(api().cuLaunchHostFunc(
      stream,
      [](void* data) {
        auto& own = *static_cast<Seen*>(data);
        own.before = own.host->word(0);
        DevicePtr at = 0;
        own.answer = api().cuMemAlloc(&at, 4096);
        own.host->set(1, 2);
      },
      &seen));
  NEED(api().cuMemcpyDtoDAsync(host.at() + 8, host.at() + 4, 4, stream));
  NEED(api().cuStreamSynchronize(stream));
  CHECK(seen.before == 1);
  CHECK(host.word(2) == 2);
  ANSWERS(seen.answer, kNotPermitted);
}

TEST_CASE("value: a stream waits until memory says so") {
  const Gpu gpu;
  const OwnedStream stream;
  const DeviceBytes device(4096);
  struct Case {
    unsigned condition;
    std::uint32_t from, value, to;
  };
  for (const auto& each :
       {Case{kWaitGreaterOrEqual, 4, 5, 6}, Case{kWaitGreaterOrEqual, 0xfffffff0, 3, 3},  // Cyclic.
        Case{kWaitEqual, 7, 9, 9}, Case{kWaitAnd, 4, 3, 2}}) {
    CAPTURE(each.condition);
    const HostBytes host(64);
    host.set(0, each.from);
    NEED(api().cuStreamWaitValue32(stream, host.at(), each.value, each.condition));
    NEED(api().cuMemsetD32Async(device.at(), 1, 1, stream));
    ANSWERS(api().cuStreamQuery(stream), kNotReady);
    host.set(0, each.to);
    NEED(api().cuStreamSynchronize(stream));
  }
}

TEST_CASE("value: a stream writes, and another waits for it") {
  const Gpu gpu;
  const OwnedStream one;
  const OwnedStream two;
  const HostBytes host(64);
  NEED(api().cuStreamWaitValue32(two, host.at(), 8, kWaitEqual));
  NEED(api().cuStreamWriteValue32(two, host.at() + 8, 1, 0));
  NEED(api().cuStreamWriteValue32(one, host.at(), 8, 0));
  NEED(api().cuStreamSynchronize(two));
  CHECK(host.word(2) == 1);
  ANSWERS(api().cuStreamWaitValue32(one, host.at() + 2, 1, 0), kInvalidValue);
  ANSWERS(api().cuStreamWriteValue32(one, host.at() + 2, 1, 0), kInvalidValue);
  constexpr int kHas64 = 122;
  SKIP_WITHOUT(attribute(kHas64) == 1);
  NEED(api().cuStreamWriteValue64(one, host.at() + 16, std::uint64_t{1} << 40, 0));
  NEED(api().cuStreamWaitValue64(one, host.at() + 16, std::uint64_t{1} << 40, kWaitEqual));
  NEED(api().cuStreamSynchronize(one));
  CHECK(host.word(5) == 256);
}

TEST_CASE("context: synchronising waits for every stream") {
  const Gpu gpu;
  Code code;
  const OwnedStream stream;
  const DeviceBytes device(4096);
  const HostBytes flag(8);
  NEED(code.wait_flag(stream, flag.at(), flag.at() + 4));
  NEED(api().cuMemsetD32Async(device.at(), 11, 1, stream));
  std::atomic<bool> is_done{false};
  std::thread waiting([&] {
    if (api().cuCtxSetCurrent(gpu.context()) == kSuccess) (void)api().cuCtxSynchronize();
    is_done = true;
  });
  std::this_thread::yield();
  CHECK_FALSE(is_done);
  flag.set(0, 1);
  waiting.join();
  CHECK(device.words()[0] == 11);
}
