// The card, what its driver can do, and what the calls of virtual memory management cost.
#include <cstring>
#include <functional>
#include <map>

#include "allocator/cuda/cuda_backend.h"
#include "allocator/cuda/probe.h"
#include "allocator/stitched_range.h"
#include "tests/cuda_conformance/kernel_calls.h"
#include "tests/gpu/parts.h"

namespace causeway::gpu {

namespace {

const char* text_of(Tried tried) {
  return tried == Tried::yes ? "yes" : tried == Tried::no ? "no" : "unknown";
}

json::object to_json(const ProbedGpu& gpu) {
  return {{"name", gpu.name.data()},
          {"bus_id", gpu.bus_id.data()},
          {"total_bytes", gpu.total_bytes},
          {"free_bytes", gpu.free_bytes},
          {"host_numa", gpu.host_numa},
          {"memory", text_of(gpu.memory)},
          {"crosses_processes", text_of(gpu.crosses_processes)},
          {"host_memory", text_of(gpu.host_memory)},
          {"mixed_range", text_of(gpu.mixed_range)},
          {"mixed_grant", text_of(gpu.mixed_grant)},
          {"problem", gpu.problem.data()}};
}

cuda::AllocationProp on_device(const CudaContext& context) {
  cuda::AllocationProp prop;
  prop.type = cuda::kAllocationPinned;
  prop.location = {cuda::kLocationDevice, context.device()};
  return prop;
}

// One life of a mapping, each call timed by itself.
json::object time_calls(const CudaContext& context, std::uint64_t size, int rounds) {
  const auto& f = context.functions();
  const auto prop = on_device(context);
  const cuda::AccessDesc grant{prop.location, cuda::kAccessReadWrite};
  std::map<std::string, std::vector<double>> times;
  const auto time = [&](const char* name, const std::function<cuda::Result()>& call) {
    cuda::Result result = cuda::kSuccess;
    times[name].push_back(seconds_of([&] { result = call(); }) * 1e6);
    context.driver().check(result, context.label(), name);
  };
  for (int i = 0; i <= rounds; ++i) {
    if (i == 1) times.clear();  // The first does not count.
    cuda::Handle handle = 0;
    cuda::DevicePtr at = 0;
    time("cuMemAddressReserve", [&] { return f.cuMemAddressReserve(&at, size, 0, 0, 0); });
    time("cuMemCreate", [&] { return f.cuMemCreate(&handle, size, &prop, 0); });
    time("cuMemMap", [&] { return f.cuMemMap(at, size, 0, handle, 0); });
    time("cuMemSetAccess", [&] { return f.cuMemSetAccess(at, size, &grant, 1); });
    time("cuMemUnmap", [&] { return f.cuMemUnmap(at, size); });
    time("cuMemRelease", [&] { return f.cuMemRelease(handle); });
    time("cuMemAddressFree", [&] { return f.cuMemAddressFree(at, size); });
  }
  json::object result{{"bytes", size}};
  for (auto& [name, values] : times) result[name + "_us"] = median(std::move(values));
  return result;
}

}  // namespace

bool is_software_driver() {
  conformance::KernelCalls calls;
  calls.load();
  return calls.is_software;
}

json::object measure_card(const Amount&) {
  const auto driver = CudaDriver::open();
  const auto facts = driver->describe(0);
  const auto& f = driver->functions();
  int major = 0;
  int minor = 0;
  driver->check(f.cuDeviceGetAttribute(&major, cuda::kAttributeComputeMajor, 0), "GPU 0",
                "cuDeviceGetAttribute");
  driver->check(f.cuDeviceGetAttribute(&minor, cuda::kAttributeComputeMinor, 0), "GPU 0",
                "cuDeviceGetAttribute");
  return {{"card", facts.name},
          {"cards", driver->device_count()},
          {"compute_capability", std::to_string(major) + "." + std::to_string(minor)},
          {"memory_bytes", facts.total_bytes},
          {"bus_id", facts.bus_id},
          {"cuda_version", cuda_version_text(driver->version())},
          {"software_driver", is_software_driver()}};
}

json::object measure_probe(const Amount&) {
  const auto probe = probe_cuda(std::chrono::seconds(20));
  require(probe->trouble().empty(), probe->trouble());
  json::array gpus;
  for (std::uint32_t i = 0; i < probe->probed; ++i) gpus.push_back(to_json(probe->gpus[i]));
  json::array peers;
  for (std::uint32_t i = 0; i < probe->probed; ++i) {
    json::array row;
    for (std::uint32_t j = 0; j < probe->probed; ++j) row.push_back(text_of(probe->peers[i][j]));
    peers.push_back(std::move(row));
  }
  require(probe->can_lend(0),
          "GPU 0 cannot be lent: " + std::string(probe->gpus[0].problem.data()));
  return {{"gpus", std::move(gpus)}, {"reads", std::move(peers)}};
}

json::object measure_vmm(const Amount& amount) {
  const auto context = first_gpu();
  const CudaContext::Current current(*context);
  json::array sizes;
  for (std::uint64_t size = 2 * kMiB; size <= amount.most_bytes; size *= 2)
    sizes.push_back(time_calls(*context, size, amount.rounds));
  const auto pinned =
      median_seconds(amount.rounds, [&] { (void)CudaPlainMemory::pinned(context, 16 * kMiB); });
  return {{"sizes", std::move(sizes)}, {"pinning_us_per_mib", pinned * 1e6 / 16}};
}

namespace {

// An extent of `device` to `other` and back, the bytes compared each time, at one address.
json::object time_moves(const std::shared_ptr<CudaContext>& context,
                        const std::shared_ptr<CudaBackend>& device,
                        const std::shared_ptr<CudaBackend>& other, std::uint64_t size, int rounds) {
  CudaStream stream(context);
  const auto bytes = pattern(size, 3);
  auto back = CudaPlainMemory::pinned(context, size);
  StitchedRange range(device, size);
  range.place(0, device->create(size));
  auto* const at = range.data();
  stream.copy_in(at, bytes.data(), size);
  stream.synchronize();
  const auto copy = [&](std::byte* to, const std::byte* from, std::uint64_t count) {
    stream.copy(to, from, count);
    stream.synchronize();
  };
  json::object result;
  for (const bool is_out : {true, false}) {
    std::vector<double> times;
    for (int i = 0; i < rounds; ++i) {
      if (!is_out) range.replace(0, other->create(size), copy);
      auto segment = (is_out ? other : device)->create(size);
      times.push_back(seconds_of([&] { range.replace(0, std::move(segment), copy); }));
      require(range.data() == at, "the address changed");
      std::memset(back.bytes().data(), 0, size);
      stream.copy_out(back.bytes().data(), at, size);
      stream.synchronize();
      require(std::memcmp(back.bytes().data(), bytes.data(), size) == 0,
              "other bytes after a move");
      if (is_out) range.replace(0, device->create(size), copy);
    }
    const auto time = median(std::move(times));
    result[is_out ? "out" : "in"] =
        json::object{{"us", time * 1e6}, {"gb_per_s", gb_per_s(size, time)}};
  }
  return result;
}

}  // namespace

// Within the device whatever it can do; to host memory if the driver lets us, whatever it says of
// itself.
json::object measure_move(const Amount& amount) {
  const auto context = first_gpu();
  const auto size = std::min(amount.most_bytes, 64 * kMiB);
  const auto backend = [&](const char* name, std::optional<cuda::Location> where) {
    return std::make_shared<CudaBackend>(context, CudaBackend::Options{name, 2 * size, where});
  };
  const auto device = backend("card/gpu0", std::nullopt);
  json::object result{{"bytes", size}};
  result["device"] =
      time_moves(context, device, backend("card/gpu0 again", std::nullopt), size, amount.rounds);
  const auto attribute = [&](int number) {
    int value = 0;
    return context->functions().cuDeviceGetAttribute(&value, number, context->device()) ==
                   cuda::kSuccess
               ? value
               : 0;
  };
  const int numa = std::max(attribute(cuda::kAttributeHostNumaId), 0);
  result["host_numa_attribute"] = attribute(cuda::kAttributeHostNumaVmm);
  try {
    const auto host = backend("card/host0", cuda::Location{cuda::kLocationHostNuma, numa});
    result["host_numa"] = time_moves(context, device, host, size, amount.rounds);
  } catch (const Error& error) {  // The driver's word. Other bytes are no Error, and a failure.
    result["host_numa"] = json::object{{"refused", error.what()}};
  }
  return result;
}

}  // namespace causeway::gpu
