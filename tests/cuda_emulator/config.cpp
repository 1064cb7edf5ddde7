#include "tests/cuda_emulator/config.h"

#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>

namespace causeway::emulator {

namespace {

using Readers = std::map<std::string, std::function<void(const YAML::Node&)>>;

template <typename T>
std::function<void(const YAML::Node&)> into(T& target) {
  return [&target](const YAML::Node& node) { target = node.as<T>(); };
}

std::function<void(const YAML::Node&)> scaled(double& target) {
  return [&target](const YAML::Node& node) { target = node.as<double>() * 1e9; };
}

// Every key must be known: a misspelt knob would test another machine.
void read_map(const YAML::Node& node, const Readers& readers) {
  for (const auto& entry : node) {
    const auto key = entry.first.as<std::string>();
    const auto reader = readers.find(key);
    if (reader == readers.end()) throw std::runtime_error("unknown field '" + key + "'");
    reader->second(entry.second);
  }
}

DeviceConfig read_device(const YAML::Node& node) {
  DeviceConfig device;
  read_map(
      node,
      {{"name", into(device.name)},
       {"memory_mib",
        [&](const YAML::Node& value) { device.memory_bytes = value.as<std::uint64_t>() << 20; }},
       {"sm", into(device.sm)},
       {"numa", into(device.numa)},
       {"island", into(device.island)}});
  return device;
}

void read_devices(const YAML::Node& node, Config& config) {
  if (node.IsScalar()) {
    config.devices.assign(node.as<std::size_t>(), DeviceConfig{});
    return;
  }
  config.devices.clear();
  for (const auto& each : node) config.devices.push_back(read_device(each));
}

Config read(const std::string& text) {
  Config config;
  const auto node = text.starts_with('{') ? YAML::Load(text) : YAML::LoadFile(text);
  read_map(node, {{"version", into(config.version)},
                  {"devices", [&](const YAML::Node& value) { read_devices(value, config); }},
                  {"vmm", into(config.vmm)},
                  {"posix_fd", into(config.posix_fd)},
                  {"host_numa_vmm", into(config.host_numa_vmm)},
                  {"mixed_ranges", into(config.mixed_ranges)},
                  {"read_only", into(config.read_only)},
                  {"peers_work", into(config.peers_work)},
                  {"hide_memory", into(config.hide_memory)},
                  {"reads_in_place", into(config.reads_in_place)},
                  {"strict_contexts", into(config.strict_contexts)},
                  {"check_leaks", into(config.check_leaks)},
                  {"init_result", into(config.init_result)},
                  {"host_gb_per_s", scaled(config.host_bytes_per_s)},
                  {"peer_gb_per_s", scaled(config.peer_bytes_per_s)},
                  {"device_gb_per_s", scaled(config.device_bytes_per_s)},
                  {"stream_delay_us", into(config.stream_delay_us)},
                  {"calls_us", into(config.calls_us)},
                  {"kernels_us", into(config.kernels_us)},
                  {"crashes", into(config.crashes)}});
  return config;
}

Config read_or_end() {
  const char* text = std::getenv("CAUSEWAY_CUDA_EMULATOR");
  if (text == nullptr || *text == '\0') return {};
  try {
    return read(text);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda emulator: CAUSEWAY_CUDA_EMULATOR=%s: %s\n", text, error.what());
    ::_exit(98);
  }
}

}  // namespace

const Config& config() {
  static const auto* const read_once = new Config(read_or_end());  // Outlives every thread.
  return *read_once;
}

}  // namespace causeway::emulator
