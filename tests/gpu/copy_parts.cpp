// Bytes between host and device: by copies, and by a kernel that reads host memory in place.
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>

#include "allocator/cuda/copy_lane.h"
#include "causeway/gpu_catalogue.h"
#include "runtime/topology/gpu_titles.h"
#include "tests/cuda_conformance/kernel_calls.h"
#include "tests/cuda_conformance/kernels.h"
#include "tests/gpu/parts.h"
#include "transport/blocking.h"
#include "transport/device/staging.h"

namespace causeway::gpu {

namespace {

// What a caller waits for until it has happened `count` times.
class Countdown {
 public:
  explicit Countdown(std::size_t count) : left_(count) {}
  void one(const std::optional<Error>& error) {
    const std::lock_guard lock(mutex_);
    if (error) error_ = error;
    if (--left_ == 0) changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return left_ == 0; });
    if (error_) throw *error_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t left_;
  std::optional<Error> error_;
};

// Our lanes, in chunks, either way or both at once; and one copy of the driver, likewise.
class Copies {
 public:
  Copies(std::shared_ptr<CudaContext> context, std::uint64_t size, std::uint64_t chunk)
      : context_(std::move(context)),
        size_(size),
        chunk_(std::min(chunk, size)),
        in_device_(CudaPlainMemory::on_device(context_, size)),
        out_device_(CudaPlainMemory::on_device(context_, size)),
        in_host_(CudaPlainMemory::pinned(context_, size)),
        out_host_(CudaPlainMemory::pinned(context_, size)),
        in_lane_(context_, "bench-in"),
        out_lane_(context_, "bench-out"),
        in_stream_(context_),
        out_stream_(context_) {
    const auto bytes = pattern(size, 7);
    std::memcpy(in_host_.bytes().data(), bytes.data(), size);
  }

  void by_lanes(bool in, bool out) {
    const auto pieces = (size_ + chunk_ - 1) / chunk_;
    const auto count = std::make_shared<Countdown>(pieces * (in && out ? 2 : 1));
    const auto ended = [count](const std::optional<Error>& error) { count->one(error); };
    for (std::uint64_t at = 0; at < size_; at += chunk_) {
      const auto bytes = std::min(chunk_, size_ - at);
      if (in)
        in_lane_.copy(in_device_.bytes().data() + at, in_host_.bytes().data() + at, bytes, ended);
      if (out)
        out_lane_.copy(out_host_.bytes().data() + at, out_device_.bytes().data() + at, bytes,
                       ended);
    }
    count->wait();
  }

  void by_driver(bool in, bool out) {
    if (in) in_stream_.copy_in(in_device_.bytes().data(), in_host_.bytes().data(), size_);
    if (out) out_stream_.copy_out(out_host_.bytes().data(), out_device_.bytes().data(), size_);
    if (in) in_stream_.synchronize();
    if (out) out_stream_.synchronize();
  }

  // cuMemcpyHtoD and DtoH, from pinned memory.
  void by_plain_call(bool in) {
    const auto& f = context_->functions();
    const CudaContext::Current current(*context_);
    auto* const device = in_device_.bytes().data();
    auto* const host = in ? in_host_.bytes().data() : out_host_.bytes().data();
    context_->driver().check(in ? f.cuMemcpyHtoD(device_address(device), host, size_)
                                : f.cuMemcpyDtoH(host, device_address(device), size_),
                             context_->label(), in ? "cuMemcpyHtoD" : "cuMemcpyDtoH");
  }

  // What went in by lanes comes out by the driver's own call, and the other way round.
  void check() {
    by_lanes(true, false);
    std::memset(out_host_.bytes().data(), 0, size_);
    by_plain_call(false);
    require(std::memcmp(in_host_.bytes().data(), out_host_.bytes().data(), size_) == 0,
            "other bytes arrived");
    in_stream_.copy(out_device_.bytes().data(), in_device_.bytes().data(), size_);
    in_stream_.synchronize();
    std::memset(out_host_.bytes().data(), 0, size_);
    by_lanes(false, true);
    require(std::memcmp(in_host_.bytes().data(), out_host_.bytes().data(), size_) == 0,
            "other bytes came back");
  }

 private:
  std::shared_ptr<CudaContext> context_;
  const std::uint64_t size_, chunk_;
  CudaPlainMemory in_device_, out_device_, in_host_, out_host_;
  CudaCopyLane in_lane_, out_lane_;
  CudaStream in_stream_, out_stream_;
};

std::uint64_t measured_chunk(const std::shared_ptr<CudaContext>& context) {
  IoThread thread("bench-staging");
  std::uint64_t chunk = 0;
  thread.run_on([&] {
    const DeviceStaging staging(thread.context(), context);
    chunk = staging.report().chunk_bytes;
  });
  return chunk;
}

// What is published of the card's host link; nothing for a card that is not in the catalogue.
std::optional<double> published_rate(const CudaContext& context, json::object& result) {
  const auto name = context.driver().describe(context.ordinal()).name;
  const auto* const model = find_gpu_model(gpu_model_of(name));
  result["published"] = nullptr;
  if (model == nullptr) return std::nullopt;
  const double rate = published_host_link_bytes_per_s(*model) / 1e9;
  result["published"] = json::object{{"model", model->name},
                                     {"pcie_generation", model->pcie_generation},
                                     {"pcie_lanes", 16},
                                     {"gb_per_s", rate}};
  return rate;
}

}  // namespace

json::object measure_copies(const Amount& amount) {
  const auto context = first_gpu();
  const auto chunk = measured_chunk(context);
  json::object result{{"chunk_bytes", chunk}};
  const double published = published_rate(*context, result).value_or(0);
  json::array sizes;
  for (const auto size : {kMiB, 16 * kMiB, 64 * kMiB, 256 * kMiB}) {
    if (size > amount.most_bytes) break;
    Copies copies(context, size, chunk);
    copies.check();
    std::map<std::string, std::vector<double>> times;
    for (int i = 0; i <= amount.rounds; ++i) {  // In turn: a minute's noise meets all of them.
      if (i == 1) times.clear();
      const auto time = [&](const char* name, auto body) {
        times[name].push_back(seconds_of(body));
      };
      time("in_ours", [&] { copies.by_lanes(true, false); });
      time("in_async", [&] { copies.by_driver(true, false); });
      time("in_plain", [&] { copies.by_plain_call(true); });
      time("out_ours", [&] { copies.by_lanes(false, true); });
      time("out_async", [&] { copies.by_driver(false, true); });
      time("out_plain", [&] { copies.by_plain_call(false); });
      time("both_ours", [&] { copies.by_lanes(true, true); });
      time("both_async", [&] { copies.by_driver(true, true); });
    }
    json::object row{{"bytes", size}};
    std::map<std::string, double> rates;
    for (auto& [name, values] : times) {
      const auto total = name.starts_with("both") ? 2 * size : size;
      rates[name] = gb_per_s(total, median(std::move(values)));
      row[name + "_gb_per_s"] = rates[name];
    }
    for (const std::string way : {"in", "out"}) {
      const auto ours = rates[way + "_ours"];
      const auto theirs = std::max(rates[way + "_async"], rates[way + "_plain"]);
      row[way + "_ratio_to_driver"] = ours / theirs;
      row[way + "_ratio"] = ours / std::max(theirs, published);
    }
    row["both_ratio"] = rates["both_ours"] / rates["both_async"];
    sizes.push_back(std::move(row));
  }
  result["sizes"] = std::move(sizes);
  return result;
}

namespace {

// The kernel of kernels.h that reads everything, over memory of any kind.
class Reader {
 public:
  explicit Reader(std::shared_ptr<CudaContext> context)
      : context_(std::move(context)),
        current_(*context_),
        stream_(context_),
        result_(CudaPlainMemory::on_device(context_, 64)),
        driver_() {
    driver_.load();
    check(driver_.cuModuleLoadData(&module_, conformance::kernel_image(driver_.is_software)),
          "cuModuleLoadData");
    check(driver_.cuModuleGetFunction(&function_, module_, "read_all"), "cuModuleGetFunction");
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { (void)driver_.cuModuleUnload(module_); }

  void run(cuda::DevicePtr from, std::uint64_t size) {
    constexpr unsigned kBlock = 256;
    const unsigned blocks = driver_.is_software ? 1 : 1024;
    auto to = device_address(result_.bytes().data());
    std::uint64_t count = size / 16;
    void* parameters[] = {&from, &to, &count};
    check(driver_.cuLaunchKernel(function_, blocks, 1, 1, driver_.is_software ? 1 : kBlock, 1, 1, 0,
                                 stream_.handle(), parameters, nullptr),
          "cuLaunchKernel");
    stream_.synchronize();
  }
  // What it makes of the bytes, into which nothing may have been mixed before.
  std::uint32_t sum(cuda::DevicePtr from, std::uint64_t size) {
    stream_.fill(result_.bytes().data(), 0, 64);
    run(from, size);
    std::uint32_t value = 0;
    stream_.copy_out(&value, result_.bytes().data(), sizeof value);
    stream_.synchronize();
    return value;
  }
  void check(cuda::Result result, const char* call) const {
    context_->driver().check(result, context_->label(), call);
  }

 private:
  std::shared_ptr<CudaContext> context_;
  CudaContext::Current current_;
  CudaStream stream_;
  CudaPlainMemory result_;
  conformance::KernelCalls driver_;
  cuda::Module module_ = nullptr;
  cuda::Function function_ = nullptr;
};

std::uint32_t sum_of(std::span<const std::byte> bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, &bytes[i], 4);
    sum ^= word;
  }
  return sum;
}

}  // namespace

json::object measure_zero_copy(const Amount& amount) {
  const auto context = first_gpu();
  const auto& f = context->functions();
  Reader reader(context);
  const auto size = std::min(amount.most_bytes, 256 * kMiB);
  const auto bytes = pattern(size, 5);
  const auto expected = sum_of(bytes);
  json::object result{{"bytes", size}};
  const auto measure = [&](const char* name, cuda::DevicePtr at) {
    require(reader.sum(at, size) == expected, std::string(name) + ": other bytes were read");
    const auto time = median_seconds(amount.rounds, [&] { reader.run(at, size); });
    result[std::string(name) + "_gb_per_s"] = gb_per_s(size, time);
  };
  {
    const auto pinned = CudaPlainMemory::pinned(context, size);
    std::memcpy(pinned.bytes().data(), bytes.data(), size);
    measure("pinned", device_address(pinned.bytes().data()));
  }
  {
    const auto device = CudaPlainMemory::on_device(context, size);
    CudaStream stream(context);
    stream.copy_in(device.bytes().data(), bytes.data(), size);
    stream.synchronize();
    measure("device", device_address(device.bytes().data()));
  }
  int has_numa = 0;
  int numa = 0;
  reader.check(f.cuDeviceGetAttribute(&has_numa, cuda::kAttributeHostNumaVmm, context->device()),
               "cuDeviceGetAttribute");
  reader.check(f.cuDeviceGetAttribute(&numa, cuda::kAttributeHostNumaId, context->device()),
               "cuDeviceGetAttribute");
  if (has_numa == 0) {
    result["host_numa_gb_per_s"] = nullptr;
    result["note"] = "no virtual memory management of host NUMA memory";
    return result;
  }
  cuda::AllocationProp prop;
  prop.type = cuda::kAllocationPinned;
  prop.location = {cuda::kLocationHostNuma, std::max(numa, 0)};
  const cuda::AccessDesc grants[] = {
      {{cuda::kLocationDevice, context->device()}, cuda::kAccessReadWrite},
      {prop.location, cuda::kAccessReadWrite}};
  cuda::Handle handle = 0;
  cuda::DevicePtr at = 0;
  try {
    reader.check(f.cuMemCreate(&handle, size, &prop, 0), "cuMemCreate");
    reader.check(f.cuMemAddressReserve(&at, size, 0, 0, 0), "cuMemAddressReserve");
    reader.check(f.cuMemMap(at, size, 0, handle, 0), "cuMemMap");
    reader.check(f.cuMemSetAccess(at, size, grants, 2), "cuMemSetAccess");
  } catch (const Error& error) {  // The figures above count; what was made goes with the process.
    result["host_numa_gb_per_s"] = nullptr;
    result["note"] = std::string("host NUMA memory is refused: ") + error.what();
    return result;
  }
  std::memcpy(reinterpret_cast<void*>(at), bytes.data(), size);
  measure("host_numa", at);
  reader.check(f.cuMemUnmap(at, size), "cuMemUnmap");
  reader.check(f.cuMemAddressFree(at, size), "cuMemAddressFree");
  reader.check(f.cuMemRelease(handle), "cuMemRelease");
  return result;
}

}  // namespace causeway::gpu
