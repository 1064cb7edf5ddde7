// Cluster files; one that is accepted must also make a topology.
#include "causeway/topology.h"
#include "fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto cluster =
      causeway_fuzz::parsed([&] { return causeway::ClusterSpec::from_yaml(text, "input"); });
  if (!cluster) return 0;
  std::size_t largest = 0;
  for (const auto& node : cluster->nodes) largest = std::max(largest, node.devices.size());
  if (largest <= 64) (void)causeway::Topology::from_cluster(*cluster).to_json();
  return causeway_fuzz::round_trip<causeway::ClusterSpec>(data, size);
}
