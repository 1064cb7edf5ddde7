#include "runtime/topology/discovery/gpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "runtime/topology/gpu_titles.h"

namespace causeway {

namespace {

bool has_handle(const NvmlGpu& gpu) { return gpu.bus_id[0] != '\0'; }

// "GPU-" and the like come from the driver's own text; anything unprintable is not an identity.
std::string clean(std::string_view text) {
  std::string out;
  for (const char c : text)
    if (c >= ' ' && c < '\x7f') out += c;
  return out;
}

std::string failure_text(const NvmlGpu& gpu) {
  if (gpu.failure != nvml::kSuccess) return nvml_error(gpu.failure);
  return gpu.is_asked ? "the driver does not say where it is" : "the driver was not asked in time";
}

}  // namespace

std::vector<GpuSource> join_gpus(const PciTree& tree, const NvmlReport* report,
                                 std::vector<std::string>& unseen) {
  std::vector<GpuSource> gpus;
  std::set<PciAddress> known;
  for (std::uint32_t i = 0; report != nullptr && i < report->reported(); ++i) {
    GpuSource gpu{nullptr, &report->gpus[i]};
    if (const auto address = PciAddress::parse(text_of(gpu.driver->bus_id))) {
      gpu.place = tree.find(*address);
      if (gpu.place != nullptr) known.insert(*address);
    }
    gpus.push_back(gpu);
  }
  std::size_t nameless = 0;  // Of these the first that has not found its place.
  std::size_t kept_away = 0;
  const bool driver_speaks = report != nullptr && report->is_complete;
  for (const auto& place : tree.devices) {
    if (place.kind != ComponentKind::gpu || known.contains(place.address)) continue;
    if (place.vendor == kNvidia) {
      while (nameless < gpus.size() &&
             (gpus[nameless].place != nullptr || gpus[nameless].driver == nullptr ||
              has_handle(*gpus[nameless].driver)))
        ++nameless;
      if (nameless < gpus.size()) {
        gpus[nameless].place = &place;
        continue;
      }
      if (driver_speaks && place.driver == "nvidia") {
        ++kept_away;
        continue;
      }
    }
    gpus.push_back({&place, nullptr});
  }
  if (kept_away > 0)
    unseen.push_back(fmt::format("{} more GPUs of this machine: its driver gives this process {}",
                                 kept_away, report->reported()));
  if (report != nullptr && report->gpu_count > kMaxNvmlGpus)
    unseen.push_back(fmt::format("GPUs past number {}: the driver counts {}", kMaxNvmlGpus - 1,
                                 report->gpu_count));
  for (std::size_t i = 0; i < gpus.size(); ++i) {
    const auto& [place, driver] = gpus[i];
    if (driver != nullptr && (driver->failure != nvml::kSuccess || !has_handle(*driver)))
      unseen.push_back(fmt::format("gpu{}: {}", i, failure_text(*driver)));
    else if (driver != nullptr && place == nullptr)
      unseen.push_back(fmt::format("PCI place of gpu{} ({}): sysfs does not show it", i,
                                   clean(text_of(driver->bus_id))));
    else if (driver == nullptr && driver_speaks && place->vendor == kNvidia)
      unseen.push_back(fmt::format("gpu{} ({}): its driver is {}, so NVML does not know it", i,
                                   place->address.to_string(),
                                   place->driver.empty() ? "none" : place->driver));
  }
  return gpus;
}

Component gpu_component(const GpuSource& gpu, const std::string& prefix, std::size_t index) {
  Component component;
  component.name = fmt::format("{}gpu{}", prefix, index);
  component.kind = ComponentKind::gpu;
  if (gpu.place != nullptr) {
    component.pci = gpu.place->address;
    component.vendor_id = gpu.place->vendor;
    component.device_id = gpu.place->device;
    component.numa = gpu.place->numa;
    component.cpus = gpu.place->cpus;
    component.bar1_bytes = gpu.place->bar1_bytes;
    component.capacity_bytes = gpu.place->memory_bytes;
  }
  if (gpu.driver == nullptr) return component;
  const auto& driver = *gpu.driver;
  if (!component.pci) component.pci = PciAddress::parse(text_of(driver.bus_id));
  component.title = clean(text_of(driver.name));
  component.model = gpu_model_of(component.title);
  component.uuid = clean(text_of(driver.uuid));
  component.sm = driver.sm;
  if (driver.memory_bytes) component.capacity_bytes = driver.memory_bytes;
  if (!component.bar1_bytes) component.bar1_bytes = driver.bar1_bytes;
  if (driver.is_nvlink_known) {
    const auto count = [&](bool active) {
      return static_cast<std::uint32_t>(
          std::ranges::count(driver.links, active, [](const auto& l) { return l.is_active; }));
    };
    component.nvlinks_down = count(false);
    component.nvlinks_max = count(true) + count(false);
  }
  return component;
}

}  // namespace causeway
