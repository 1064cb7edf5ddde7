// One end of transfers for benchmarks: memory of the host and of a device, on a thread with a
// staging.
//
// Shape:   region 1 is the host's memory, region 2 the device's; any session may use both.
// Threads: members are used on `thread`, which ends last.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "allocator/cuda/plain_memory.h"
#include "transport/blocking.h"
#include "transport/device/staging.h"

namespace causeway::test {

struct DeviceEnd : DataService {
  DeviceEnd(const char* name, std::shared_ptr<CudaContext> context, std::size_t size)
      : thread(name), host(size, std::byte{1}) {
    device.emplace(CudaPlainMemory::on_device(context, size));
    thread.run_on([&] { staging = std::make_unique<DeviceStaging>(thread.context(), context); });
  }
  void admit(const Hello&) override {}
  PinnedMemory memory(bool on_device, std::uint64_t offset, std::uint64_t size) {
    return {(on_device ? device->bytes() : std::span(host)).subspan(offset, size), nullptr,
            on_device ? staging.get() : nullptr};
  }
  PinnedMemory pin(const Hello&, const RemoteAddress& at, std::uint64_t size, Access) override {
    return memory(at.region == 2, at.offset_bytes, size);
  }

  IoThread thread;
  std::vector<std::byte> host;
  std::optional<CudaPlainMemory> device;
  std::unique_ptr<DeviceStaging> staging;
  std::unique_ptr<Transport> transport;
};

}  // namespace causeway::test
