// W11 to W14: where GPUs, NICs, cores and processes are to each other, and the NICs' ports.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "runtime/topology/doctor/checks.h"

namespace causeway::doctor {

namespace {

// A port of less than 10 Gb/s carries no pool; one that runs below its maximum is no alarm.
constexpr double kPoolNicBytesPerS = 1.25e9;
// Rates are exact; this is for the rounding of bits to bytes.
constexpr double kFullRate = 0.99;

std::vector<const Component*> rdma_nics(const NodeParts& node) {
  std::vector<const Component*> nics;
  for (const auto* nic : node.nics)
    if (nic->is_rdma == true) nics.push_back(nic);
  return nics;
}

// Where most GPUs of the node have a NIC near, one that has none is in the wrong slot; else the
// machine is built so. It matters where bytes could go straight from NIC to GPU.
Severity severity_of_distance(const Examination& machine, const Component& gpu, std::size_t near,
                              std::size_t gpus) {
  const bool is_odd = near * 2 > gpus;
  return is_odd && machine.gpu_direct_capable(gpu) == true ? Severity::warning : Severity::info;
}

// The way between a GPU and the nearest of the NICs.
struct Nearest {
  const Component* nic = nullptr;
  PathClass path = PathClass::sys;
};

std::optional<Nearest> nearest_nic(const Examination& machine, const Component& gpu,
                                   const std::vector<const Component*>& nics) {
  std::optional<Nearest> best;
  for (const auto* nic : nics) {
    const auto path = machine.topology().path_class(gpu.name, nic->name);
    if (path && (!best || *path < best->path)) best = Nearest{nic, *path};
  }
  return best;
}

void check_nic_numa(const Examination& machine, const NodeParts& node, Report& report) {
  const auto nics = rdma_nics(node);
  std::set<std::uint32_t> near;
  for (const auto* nic : nics)
    if (nic->numa) near.insert(*nic->numa);
  // A NIC of unknown place may be the near one.
  const bool are_all_known =
      std::ranges::all_of(nics, [](const auto* nic) { return nic->numa.has_value(); });
  const std::size_t served = std::ranges::count_if(
      node.gpus, [&near](const auto* gpu) { return gpu->numa && near.contains(*gpu->numa); });
  for (const auto* gpu : node.gpus) {
    if (nics.empty()) continue;
    if (!gpu->numa || !are_all_known) {
      report.unknown("NUMA node of the GPU or of a NIC is not known", gpu->name);
      continue;
    }
    report.examine();
    if (near.contains(*gpu->numa)) continue;
    report.add(
        {severity_of_distance(machine, *gpu, served, node.gpus.size()),
         "what this GPU sends over the network crosses the link between NUMA nodes, which it "
         "shares with all others there",
         "put a NIC into a slot of this NUMA node, or give jobs that use the network most "
         "the GPUs that have one; NCCL_IB_HCA and UCX_NET_DEVICES choose the NIC"},
        {gpu->name},
        {fmt::format("on NUMA node {}, RDMA NICs are on {} only ({})", *gpu->numa,
                     fmt::join(near, ", "), machine.source(*gpu))});
  }
}

const NodeParts* process_parts(const Examination& machine) {
  for (const auto& node : machine.nodes())
    if (node.node == machine.process_node()) return &node;
  return nullptr;
}

}  // namespace

void check_numa(const Examination& machine, Report& report) {
  for (const auto& node : machine.nodes()) check_nic_numa(machine, node, report);
  const auto* node = process_parts(machine);
  if (node == nullptr || node->gpus.empty()) return;
  if (!machine.process_cores()) {
    report.unknown("the cores that the process may use are not known", node->node->name);
    return;
  }
  for (const auto* gpu : node->gpus) {
    const auto near = CoreList::parse(gpu->cpus);
    if (!near) {
      report.unknown("the cores near to the GPU are not known", gpu->name);
      continue;
    }
    report.examine();
    if (near->count_common(*machine.process_cores()) > 0) continue;
    report.add({Severity::warning,
                "threads and staging buffers of this process are on the other side of the link "
                "between CPUs: copies to this GPU share it, and start later",
                "start one process per NUMA node: numactl --cpunodebind=N --membind=N, or ask "
                "Slurm for --gpus-per-task with --gpu-bind=closest, or widen the cpuset"},
               {gpu->name},
               {fmt::format("near to cores {} ({}), of which the process may use none", gpu->cpus,
                            machine.source(*gpu))});
  }
}

namespace {

const Component* cpu_of(const NodeParts& node, std::uint32_t numa) {
  for (const auto* cpu : node.cpus)
    if (cpu->numa == numa) return cpu;
  return nullptr;
}

Trouble clipped(Severity severity) {
  return {severity,
          "threads that feed these devices have fewer cores than the machine has near to them, or "
          "work far from them",
          "look at Cpus_allowed_list in /proc/self/status and at the cgroup's cpuset.cpus: ask "
          "Slurm for more --cpus-per-gpu, give the container more of --cpuset-cpus; read the "
          "topology outside of the job to see all cores"};
}

void check_against_numa(const Examination& machine, const NodeParts& node, const Component& device,
                        Report& report) {
  const auto near = CoreList::parse(device.cpus);
  const auto* cpu = device.numa ? cpu_of(node, *device.numa) : nullptr;
  const auto all = cpu != nullptr ? CoreList::parse(cpu->cpus) : std::nullopt;
  if (!near || !all) {
    report.unknown("the cores near to it or those of its NUMA node are not known", device.name);
    return;
  }
  report.examine();
  const auto common = near->count_common(*all);
  if (common == all->count()) return;
  report.add(clipped(Severity::warning), {device.name},
             {fmt::format("near to cores {}, NUMA node {} has {} ({})", device.cpus, *device.numa,
                          cpu->cpus, machine.source(device))});
}

// A list that is empty beside those of other GPUs is one that a cgroup emptied.
void check_no_cores(const Examination& machine, const NodeParts& node, Report& report) {
  const auto listed =
      std::ranges::find_if(node.gpus, [](const auto* gpu) { return !gpu->cpus.empty(); });
  if (listed == node.gpus.end()) return;
  for (const auto* gpu : node.gpus) {
    if (!gpu->cpus.empty()) continue;
    report.examine();
    report.add(clipped(Severity::warning), {gpu->name},
               {fmt::format("no cores are near to it, {} has {} ({})", (*listed)->name,
                            (*listed)->cpus, machine.source(*gpu))});
  }
}

// No machine has fewer cores than GPUs on a NUMA node; a job's view of one has.
void check_core_per_gpu(const Examination& machine, const NodeParts& node, Report& report) {
  std::map<std::string, std::vector<const Component*>> by_cores;
  for (const auto* gpu : node.gpus)
    if (!gpu->cpus.empty()) by_cores[gpu->cpus].push_back(gpu);
  for (const auto& [cpus, gpus] : by_cores) {
    const auto cores = CoreList::parse(cpus);
    if (!cores || cores->count() >= gpus.size()) continue;
    report.examine();
    for (const auto* gpu : gpus)
      report.add(clipped(Severity::warning), {gpu->name},
                 {fmt::format("{} GPUs are near to cores {} alone ({})", gpus.size(), cpus,
                              machine.source(*gpu))});
  }
}

}  // namespace

void check_cpu_affinity(const Examination& machine, Report& report) {
  for (const auto& node : machine.nodes()) {
    for (const auto* devices : {&node.gpus, &node.nics})
      for (const auto* device : *devices) check_against_numa(machine, node, *device, report);
    check_no_cores(machine, node, report);
    check_core_per_gpu(machine, node, report);
  }
  const auto* node = process_parts(machine);
  if (node == nullptr || !machine.process_cores()) return;
  for (const auto* gpu : node->gpus) {
    const auto near = CoreList::parse(gpu->cpus);
    if (!near) continue;
    report.examine();
    const auto usable = near->count_common(*machine.process_cores());
    // None at all is W11's.
    if (usable == 0 || usable == near->count()) continue;
    report.add(clipped(Severity::info), {gpu->name},
               {fmt::format("the process may use {} of the {} cores near to it ({})", usable,
                            near->count(), machine.source(*gpu))});
  }
}

namespace {

constexpr const char* kLoadPeerMemory =
    "modprobe nvidia-peermem, or the open kernel modules with Linux 5.12 or newer (dma-buf); then "
    "look for GDRDMA in the output of NCCL_DEBUG=INFO";

void check_gpu_direct_flag(const Examination& machine, const Component& device, Report& report) {
  if (device.gpu_direct != false) return;
  const bool is_gpu = device.kind == ComponentKind::gpu;
  const auto policy = is_gpu ? peer_policy(device) : std::nullopt;
  const bool is_geforce = policy && *policy != PeerPolicy::granted;
  report.add(
      {is_geforce ? Severity::info : Severity::warning,
       "what the network brings goes to host memory first and is copied from there",
       is_geforce ? "nothing to repair: GeForce cards have no GPUDirect RDMA" : kLoadPeerMemory},
      {device.name}, {fmt::format("GPUDirect RDMA: no ({})", machine.source(device))});
}

bool has_c2c(const Examination& machine, const Component& gpu) {
  const auto& edges = machine.index().edges(*machine.index().find(gpu.name));
  return std::ranges::any_of(
      edges, [&](const Edge& edge) { return machine.index().link(edge).kind == LinkKind::c2c; });
}

// A GPU and CPU of one package are as near as a switch would make them.
bool is_near(const Examination& machine, const Component& gpu, const Nearest& nearest) {
  return nearest.path <= (has_c2c(machine, gpu) ? PathClass::node : PathClass::phb);
}

struct Far {
  const Component* gpu;
  Nearest nearest;
};

void check_distances(const Examination& machine, const NodeParts& node,
                     const std::vector<const Component*>& nics, Report& report) {
  std::size_t near = 0;
  std::vector<Far> far;
  for (const auto* gpu : node.gpus) {
    const auto nearest = nearest_nic(machine, *gpu, nics);
    if (nearest && is_near(machine, *gpu, *nearest)) ++near;
    const bool can_matter = machine.gpu_direct_capable(*gpu) != false;
    if (!nearest && can_matter)
      report.unknown("the way between the GPU and RDMA NICs is not known", gpu->name);
    else
      report.examine();
    if (nearest && can_matter && !is_near(machine, *gpu, *nearest)) far.push_back({gpu, *nearest});
  }
  for (const auto& [gpu, nearest] : far)
    report.add(
        {severity_of_distance(machine, *gpu, near, node.gpus.size()),
         "NCCL and UCX do not send straight from this GPU to a NIC over such a way: the bytes "
         "take a turn through host memory",
         "put a NIC below the GPU's PCIe switch or at least below its CPU; where the way is "
         "known to be good, NCCL_NET_GDR_LEVEL=SYS uses it all the same: measure before"},
        {gpu->name, nearest.nic->name},
        {fmt::format("the nearest RDMA NIC is {} away ({})", to_string(nearest.path),
                     machine.source(*gpu))});
}

}  // namespace

void check_gpu_direct(const Examination& machine, Report& report) {
  for (const auto& node : machine.nodes()) {
    const auto nics = rdma_nics(node);
    if (nics.empty()) continue;
    for (const auto* nic : nics) {
      if (nic->gpu_direct) report.examine();
      check_gpu_direct_flag(machine, *nic, report);
    }
    for (const auto* gpu : node.gpus) check_gpu_direct_flag(machine, *gpu, report);
    check_distances(machine, node, nics, report);
  }
}

namespace {

// Ports of one card: functions of one PCI device.
std::string card_of(const Component& nic) {
  if (!nic.pci) return nic.name;
  return fmt::format("{} {:x}:{:x}:{:x}", nic.node, nic.pci->domain, nic.pci->bus, nic.pci->device);
}

bool carries_pool(const Component& nic) {
  return nic.is_rdma == true ||
         (nic.port_max_bytes_per_s && *nic.port_max_bytes_per_s >= kPoolNicBytesPerS);
}

void check_speed(const Examination& machine, const Component& nic, Report& report) {
  if (nic.port_up == false) return;
  if (!nic.port_bytes_per_s || !nic.port_max_bytes_per_s) {
    report.unknown("present or possible rate is not known", nic.name);
    return;
  }
  report.examine();
  if (*nic.port_bytes_per_s >= kFullRate * *nic.port_max_bytes_per_s) return;
  report.add({carries_pool(nic) ? Severity::warning : Severity::info,
              fmt::format("the network gets {} less than the port could carry",
                          rate_text(*nic.port_max_bytes_per_s - *nic.port_bytes_per_s)),
              "look at cable, transceiver and the switch's port (ethtool NAME, ibstat, mlxlink); a "
              "slower switch is the limit for all that is behind it"},
             {nic.name},
             {fmt::format("runs at {} of {} ({})", rate_text(*nic.port_bytes_per_s),
                          rate_text(*nic.port_max_bytes_per_s), machine.source(nic))});
}

}  // namespace

void check_nic_ports(const Examination& machine, Report& report) {
  for (const auto& node : machine.nodes()) {
    std::set<std::string> cards_up;
    for (const auto* nic : node.nics)
      if (nic->port_up == true) cards_up.insert(card_of(*nic));
    for (const auto* nic : node.nics) {
      check_speed(machine, *nic, report);
      if (!nic->port_up) report.unknown("whether the port is up is not known", nic->name);
      if (nic->port_up != false) continue;
      report.examine();
      // A second port without a cable, or a board's own port, is how machines are.
      const bool is_spare =
          cards_up.contains(card_of(*nic)) || (nic->is_rdma != true && !cards_up.empty());
      report.add({is_spare ? Severity::info : Severity::warning,
                  is_spare ? "the port is not used" : "nothing reaches the node over this port",
                  "plug in the cable and bring the port up (ip link set NAME up; InfiniBand needs "
                  "a subnet manager: ibstat shows State: Active); leave it if it is not meant to "
                  "be used"},
                 {nic->name}, {fmt::format("port is down ({})", machine.source(*nic))});
    }
  }
}

}  // namespace causeway::doctor
