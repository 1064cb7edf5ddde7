#include <causeway/pool.h>
#include <causeway/worker.h>

#include <iostream>

int main() {
  const auto cluster = causeway::ClusterSpec::from_yaml(
      "name: c\nnodes:\n  - name: desktop\n    devices:\n      - {gpu: rtx-5090, count: 3}\n",
      "here");
  const auto topology = causeway::Topology::from_cluster(cluster);
  const auto first = topology.rank(causeway::DeviceName::parse("desktop/gpu0")).front();
  std::cout << first.device.to_string() << ' ' << to_string(first.cost.tier) << ' '
            << topology.islands().size() << " islands\n";
  try {  // Links the whole of it, and finds no daemon.
    (void)causeway::Pool::connect({.socket_path = "/nowhere/causeway.sock"});
    return 1;
  } catch (const causeway::Error&) {
    return 0;
  }
}
