#include "runtime/node/node_devices.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>

#include "allocator/cuda/probe.h"
#include "allocator/host/host_backend.h"
#include "runtime/topology/gpu_titles.h"

namespace causeway {

namespace {

NodeDevice in_host_memory(const DeviceSpec& spec) {
  HostBackend::Options options{.name = spec.name.to_string(),
                               .capacity_bytes = spec.capacity_bytes};
  const bool is_host = spec.name.kind == DeviceKind::host;
  if (is_host) options.numa_node = spec.name.index;
  NodeDevice device;
  device.name = spec.name;
  device.model = spec.model;
  device.kind = is_host ? "host" : "emulated";
  device.memory = std::make_shared<HostBackend>(options);
  return device;
}

// Why the card that `spec` means cannot lend; empty if it can.
std::string refusal(const CudaProbe& probe, const DeviceSpec& spec) {
  const auto index = spec.name.index;
  if (probe.can_lend(index)) return "";
  const bool is_known = index < probe.probed;
  if (is_known && probe.gpus[index].problem.front() != '\0')
    return probe.gpus[index].problem.data();
  if (auto trouble = probe.trouble(); !trouble.empty()) return trouble;
  return fmt::format("the driver shows {} GPU{}", probe.gpu_count, probe.gpu_count == 1 ? "" : "s");
}

void check_capacity(const DeviceSpec& spec, const ProbedGpu& gpu) {
  if (spec.capacity_bytes <= gpu.free_bytes) return;
  throw Error(Errc::invalid_argument,
              fmt::format("{}: the cluster file promises {} bytes, and {} at {} has {} bytes free "
                          "of {}; write `capacity: {}` or less for it, or free the card",
                          spec.name.to_string(), spec.capacity_bytes, gpu.name.data(),
                          gpu.bus_id.data(), gpu.free_bytes, gpu.total_bytes, gpu.free_bytes));
}

class Opening {
 public:
  Opening(const NodeSpec& node, GpuMode mode, std::chrono::milliseconds probe_time)
      : node_(node), mode_(mode), probe_(probe_cuda(probe_time)) {}

  NodeDevices run() {
    result_.gpu_report = probe_->to_lines();
    for (const auto& spec : node_.devices)
      result_.devices.push_back(spec.name.kind == DeviceKind::gpu ? gpu(spec)
                                                                  : in_host_memory(spec));
    for (auto& device : result_.devices)
      if (device.kind == "host") lend_to_gpus(device);
    for (const auto& [why, names] : emulated_)
      result_.gpu_report.push_back(
          fmt::format("{} {} emulated in host memory{}", fmt::join(names, ", "),
                      names.size() == 1 ? "is" : "are",
                      why == probe_->trouble() ? "" : fmt::format(": {}", why)));
    return std::move(result_);
  }

 private:
  NodeDevice gpu(const DeviceSpec& spec) {
    const auto name = spec.name.to_string();
    if (const auto why = refusal(*probe_, spec); !why.empty()) {
      if (mode_ == GpuMode::cuda)
        throw Error(Errc::unsupported,
                    fmt::format("{}: no GPU to lend: {}; mend that, or start the daemon with "
                                "--gpus auto or --gpus emulated",
                                name, why));
      emulated_[why].push_back(name);
      return in_host_memory(spec);
    }
    const auto& found = probe_->gpus[spec.name.index];
    check_capacity(spec, found);
    if (!driver_) driver_ = CudaDriver::open();
    NodeDevice device;
    device.name = spec.name;
    device.model = spec.model;
    device.kind = "cuda";
    device.uuid = found.uuid.data();
    // By its UUID: the probe's process may have counted another way.
    const auto ordinal = driver_->find_device(device.uuid);
    if (!ordinal) throw Error(Errc::not_found, fmt::format("{}: {} is gone", name, device.uuid));
    device.gpu = CudaContext::retain(driver_, *ordinal);
    device.memory =
        std::make_shared<CudaBackend>(device.gpu, CudaBackend::Options{name, spec.capacity_bytes});
    device.reaches = reached_by(spec.name.index);
    const auto known = gpu_model_of(found.name.data());
    result_.gpu_report.push_back(
        fmt::format("{} is {} at {}{}", name, found.name.data(), found.bus_id.data(),
                    known.empty() || known == spec.model
                        ? ""
                        : fmt::format("; the cluster file calls it {}", spec.model)));
    return device;
  }

  [[nodiscard]] std::vector<std::string> reached_by(std::uint32_t index) const {
    const auto& own = probe_->gpus[index];
    std::vector<std::string> names;
    for (const auto& spec : node_.devices) {
      const auto other = spec.name.index;
      const bool reaches =
          spec.name.kind == DeviceKind::host
              ? own.mixed_range == Tried::yes && other == static_cast<std::uint32_t>(own.host_numa)
              : other != index && probe_->can_lend(other) &&
                    probe_->peers[index][other] == Tried::yes;
      if (reaches) names.push_back(spec.name.local());
    }
    return names;
  }

  void lend_to_gpus(NodeDevice& host) {
    const auto local = host.name.local();
    const auto near = std::ranges::find_if(result_.devices, [&](const NodeDevice& device) {
      return std::ranges::count(device.reaches, local) > 0;
    });
    if (near == result_.devices.end()) return;
    // Less than one granule of theirs is nothing to map.
    if (host.memory->capacity_bytes() < near->memory->granule_bytes()) {
      for (auto& device : result_.devices) std::erase(device.reaches, local);
      return;
    }
    host.for_gpus = std::make_shared<CudaBackend>(
        near->gpu, CudaBackend::Options{
                       host.name.to_string(), host.memory->capacity_bytes(),
                       cuda::Location{cuda::kLocationHostNuma, static_cast<int>(host.name.index)}});
  }

  const NodeSpec& node_;
  GpuMode mode_;
  std::unique_ptr<const CudaProbe> probe_;
  std::shared_ptr<CudaDriver> driver_;
  NodeDevices result_;
  std::map<std::string, std::vector<std::string>> emulated_;  // Names by the reason.
};

}  // namespace

NodeDevices open_node_devices(const NodeSpec& node, GpuMode mode,
                              std::chrono::milliseconds probe_time) {
  const bool has_gpu = std::ranges::any_of(
      node.devices, [](const DeviceSpec& spec) { return spec.name.kind == DeviceKind::gpu; });
  if (has_gpu && mode != GpuMode::emulated) return Opening(node, mode, probe_time).run();
  NodeDevices result;
  for (const auto& spec : node.devices) result.devices.push_back(in_host_memory(spec));
  return result;
}

}  // namespace causeway
