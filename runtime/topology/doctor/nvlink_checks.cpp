// W09 and W10: NVLinks and xGMI links, and the service that joins NVSwitches to a fabric.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "runtime/topology/doctor/checks.h"
#include "runtime/topology/link_rates.h"

namespace causeway::doctor {

namespace {

// Fewer GPUs than this of a mesh without a switch may be a part of a larger one, where unequal
// counts are as they should be.
constexpr std::size_t kWholeMesh = 4;

constexpr const char* kRepairNvlinks =
    "nvidia-smi nvlink -s and -e show the links and their errors, dmesg the Xid (74: NVLink); "
    "reset "
    "the GPU (nvidia-smi -r) with the fabric manager running, then reseat the bridge or module; "
    "AMD: "
    "rocm-smi --showtoponuma and --showxgmierr";

bool is_partial(const TopologyNode& node) {
  return node.view == MachineView::vm || node.view == MachineView::container;
}

// How many links the GPU should have: what the device says, else what its form always has.
std::optional<std::uint32_t> expected_links(const Component& gpu) {
  if (gpu.nvlinks_max) return gpu.nvlinks_max;
  const auto* model = find_gpu_model(gpu.model);
  if (model == nullptr || !model->has_nvswitch_form) return std::nullopt;
  return chip_links(gpu);
}

// How many it should have, of what is seen and expected; never more than the chip can have.
std::uint64_t due_links(const NodeParts& node, const Component& gpu, const LinkCount& links) {
  auto expected = links.is_counted ? expected_links(gpu) : std::nullopt;
  // Links to what a container or VM does not see are not missing.
  if (!links.to_switch && is_partial(*node.node)) expected.reset();
  const auto due = std::max<std::uint64_t>(expected.value_or(0), links.active + links.down);
  return std::min<std::uint64_t>(due, chip_links(gpu).value_or(due));
}

// "16 of 18 NVLinks active, 2 inactive (nvml)"
std::string shortfall(const LinkCount& links, std::uint64_t due) {
  return fmt::format("{} of {} NVLinks active{} ({})", links.active, due,
                     links.down > 0 ? fmt::format(", {} inactive", links.down) : std::string(),
                     links.source);
}

// Cards take bridges, and may have fewer of them than they have places, or none.
bool takes_bridges(const Component& gpu) {
  const auto* model = find_gpu_model(gpu.model);
  if (model != nullptr) return !model->has_nvswitch_form;
  return peer_policy(gpu) == PeerPolicy::nvlink_only;
}

std::string cost_of_links(const Component& gpu, std::uint64_t has, std::uint64_t should) {
  const auto rate = gpu.sm ? nvlink_rate(*gpu.sm) : std::nullopt;
  if (!rate)
    return fmt::format("NVLink carries {:.0f}% of what it should",
                       100.0 * static_cast<double>(has) / static_cast<double>(should));
  return fmt::format("NVLink carries {} where {} is possible (spec)",
                     rate_text(static_cast<double>(has) * rate->effective_bytes_per_s),
                     rate_text(static_cast<double>(should) * rate->effective_bytes_per_s));
}

void report_bad_links(const Examination& machine, Report& report) {
  for (const auto& link : machine.graph().links) {
    if (!is_gpu_link(link.kind)) continue;
    if (link.state != LinkState::down && link.state != LinkState::degraded) continue;
    report.examine();
    report.add({Severity::warning,
                link.state == LinkState::down ? "nothing passes here: traffic takes fewer links or "
                                                "a slower way"
                                              : "the link runs slower than it should",
                kRepairNvlinks},
               {link.a, link.b},
               {fmt::format("{} link is {} ({})", to_string(link.kind), to_string(link.state),
                            to_string(link.provenance))});
  }
}

// True if it reported the GPU.
bool report_missing(const NodeParts& node, const Component& gpu, const LinkCount& links,
                    Report& report) {
  const auto due = due_links(node, gpu, links);
  // None at all is report_cut_off()'s.
  if (links.active == 0 || links.active >= due) return false;
  const bool is_card = takes_bridges(gpu);
  report.add({is_card ? Severity::info : Severity::warning, cost_of_links(gpu, links.active, due),
              is_card ? "nothing to repair unless a bridge should be there: check that all bridges "
                        "are seated"
                      : kRepairNvlinks},
             {gpu.name}, {shortfall(links, due)});
  return true;
}

using Kin = std::tuple<std::string, std::string, std::optional<std::uint32_t>>;

Kin kin_of(const Component& gpu) { return {gpu.model, gpu.title, gpu.sm}; }

struct Counted {
  const Component* gpu;
  LinkCount links;
  bool is_reported = false;
};

// The count that most of them have; of two the higher.
std::uint64_t usual_count(const std::vector<Counted*>& gpus) {
  std::map<std::uint64_t, std::size_t> votes;
  for (const auto* entry : gpus) ++votes[entry->links.active];
  std::uint64_t usual = 0;
  std::size_t most = 0;
  for (const auto& [count, number] : votes) {
    if (number < most) continue;
    usual = count;
    most = number;
  }
  return usual;
}

// GPUs of one kind in one domain have equally many links.
void report_unequal(const Examination& machine, const NodeParts& node,
                    std::vector<Counted>& counted, Report& report) {
  std::map<std::pair<std::size_t, Kin>, std::vector<Counted*>> domains;
  for (auto& entry : counted)
    if (const auto domain = machine.domain(*entry.gpu))
      domains[{*domain, kin_of(*entry.gpu)}].push_back(&entry);
  for (auto& [key, gpus] : domains) {
    const bool is_switched = machine.topology().nvlink_domains()[key.first].is_switched;
    if (!is_switched && (gpus.size() < kWholeMesh || is_partial(*node.node))) continue;
    // As the dies of an MI250X are, within a package and beyond it: the board decides who has how
    // many.
    if (std::ranges::any_of(gpus, [](const auto* entry) { return entry->links.is_uneven_xgmi; }))
      continue;
    const auto usual = usual_count(gpus);
    for (auto* entry : gpus) {
      const auto& links = entry->links;
      if (entry->is_reported || !links.is_counted) continue;
      if (links.active == 0 || links.active >= usual) continue;
      entry->is_reported = true;
      report.add(
          {Severity::warning, cost_of_links(*entry->gpu, links.active, usual), kRepairNvlinks},
          {entry->gpu->name},
          {fmt::format("{} NVLinks active, its peers have {} ({})", links.active, usual,
                       links.source)});
    }
  }
}

// What the GPUs of one kind on a node have.
struct KinLinks {
  const Component* peer = nullptr;  // One with active links.
  // Links that are part of the board, not bridges, which are a choice: bridges join two or three.
  bool is_board = false;
};

std::map<Kin, KinLinks> links_by_kin(const Examination& machine,
                                     const std::vector<Counted>& counted) {
  std::map<Kin, KinLinks> kins;
  std::map<std::pair<std::size_t, Kin>, std::size_t> sizes;
  for (const auto& [gpu, links, is_reported] : counted) {
    auto& kin = kins[kin_of(*gpu)];
    if (links.active > 0 && kin.peer == nullptr) kin.peer = gpu;
    const auto* model = find_gpu_model(gpu->model);
    if (links.to_switch || links.peers + 1 >= kWholeMesh ||
        (model != nullptr && model->has_nvswitch_form))
      kin.is_board = true;
    if (const auto domain = machine.domain(*gpu))
      if (++sizes[{*domain, kin_of(*gpu)}] >= kWholeMesh) kin.is_board = true;
  }
  return kins;
}

// GPUs without any active link whose board has them.
void report_cut_off(const Examination& machine, const NodeParts& node,
                    const std::vector<Counted>& counted, Report& report) {
  const auto kins = links_by_kin(machine, counted);
  for (const auto& [gpu, links, is_reported] : counted) {
    const auto& kin = kins.at(kin_of(*gpu));
    if (links.active > 0 || !kin.is_board) continue;
    const auto due = due_links(node, *gpu, links);
    if (kin.peer != nullptr)
      report.add(
          {Severity::failure,
           "the GPU is cut off from its NVLink peers: jobs over all GPUs fail or fall back "
           "to PCIe",
           kRepairNvlinks},
          {gpu->name},
          {fmt::format("no NVLink is active, {} has some ({})", kin.peer->name, links.source)});
    else if (due > 0 && node.gpus.size() > 1)  // One alone has nobody to reach.
      report.add({Severity::failure,
                  "no GPU of this board has NVLink: jobs over all GPUs fail or fall back to PCIe",
                  kRepairNvlinks},
                 {gpu->name}, {shortfall(links, due)});
  }
}

}  // namespace

void check_nvlinks(const Examination& machine, Report& report) {
  report_bad_links(machine, report);
  for (const auto& node : machine.nodes()) {
    std::vector<Counted> counted;
    for (const auto* gpu : node.gpus) {
      const auto links = machine.gpu_links(*gpu);
      if (!node.node->nvlinks_known && !links.has_record && links.active == 0) {
        report.unknown("no source spoke of NVLinks", gpu->name);
        continue;
      }
      report.examine();
      counted.push_back({gpu, links});
      counted.back().is_reported = report_missing(node, *gpu, links, report);
    }
    report_unequal(machine, node, counted, report);
    report_cut_off(machine, node, counted, report);
  }
}

namespace {

bool uses_nvswitch(const Examination& machine, const NodeParts& node) {
  return node.has_nvswitch || std::ranges::any_of(node.gpus, [&](const auto* gpu) {
           return machine.gpu_links(*gpu).to_switch;
         });
}

}  // namespace

void check_fabric(const Examination& machine, Report& report) {
  for (const auto& node : machine.nodes()) {
    const bool is_switched = uses_nvswitch(machine, node);
    const auto& fabric = node.node->fabric;
    if (!fabric || *fabric == FabricState::not_supported) {
      if (is_switched)
        report.unknown(
            "NVSwitches are there, and the driver does not say what the fabric manager "
            "did",
            node.node->name);
      // Without switches the driver has nothing to say, and that is in order.
      if (!is_switched && fabric) report.examine();
      continue;
    }
    report.examine();
    if (*fabric == FabricState::completed) continue;
    // Where the driver knows of a fabric, its switches may be unseen because of this.
    report.add({Severity::failure,
                "the NVSwitch island is not usable yet: until the fabric manager is done the GPUs "
                "have no NVLink, and CUDA programs fail to start (error 802, system not yet "
                "initialized)",
                "systemctl enable --now nvidia-fabricmanager, of exactly the driver's version; "
                "journalctl -u nvidia-fabricmanager has its reason; racks: nvidia-imex and the "
                "NVLink subnet manager; in VMs it runs on the host"},
               {node.node->name},
               {fmt::format("fabric state: {} ({})", to_string(*fabric), machine.source(node))});
  }
}

}  // namespace causeway::doctor
