// Goal:   the doctor names what is wrong, stays silent on healthy machines, and says where it could
//         not look.
// Method: every check on a machine that is healthy, broken, and described without the facts; edges
//         by hand; files that others have published, where they are there; then random graphs.
//         Replay with CAUSEWAY_TEST_SEED.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <random>
#include <set>
#include <string>

#include "causeway/topology_doctor.h"
#include "runtime/topology/doctor/core_list.h"
#include "tests/runtime/topology/import_support.h"
#include "tests/runtime/topology/machines.h"

using namespace causeway;
using causeway::doctor::CoreList;

namespace {

using Change = std::function<void(TopologyGraph&)>;

Diagnosis diagnose_graph(TopologyGraph graph, const DoctorOptions& options = {}) {
  return diagnose(Topology(std::move(graph)), options);
}

Diagnosis diagnose_with(TopologyGraph graph, const Change& change,
                        const DoctorOptions& options = {}) {
  change(graph);
  return diagnose_graph(std::move(graph), options);
}

const CheckResult& check_of(const Diagnosis& diagnosis, std::string_view id) {
  const auto at = std::ranges::find(diagnosis.checks, id, &CheckResult::id);
  REQUIRE(at != diagnosis.checks.end());
  return *at;
}

std::vector<Finding> findings_of(const Diagnosis& diagnosis, std::string_view id) {
  std::vector<Finding> found;
  for (const auto& finding : diagnosis.findings)
    if (finding.id == id) found.push_back(finding);
  return found;
}

// "W01 info desktop/gpu0 - desktop/gpu1 ...; " for messages and for comparing.
std::string summary(const Diagnosis& diagnosis) {
  std::string text;
  for (const auto& finding : diagnosis.findings) {
    text += finding.id + ' ' + std::string(to_string(finding.severity));
    for (const auto& subject : finding.subjects) text += ", " + subject.to_string();
    text += " {" + finding.evidence + "}\n";
  }
  return text;
}

Component& component(TopologyGraph& graph, std::string_view name) {
  const auto at = std::ranges::find(graph.components, name, &Component::name);
  REQUIRE(at != graph.components.end());
  return *at;
}

TopologyLink& uplink(TopologyGraph& graph, std::string_view lower) {
  const auto at = std::ranges::find_if(graph.links, [lower](const TopologyLink& link) {
    return link.kind == LinkKind::pcie && link.a == lower;
  });
  REQUIRE(at != graph.links.end());
  return *at;
}

Pair& pair_of(TopologyGraph& graph, std::string_view from, std::string_view to) {
  const auto at = std::ranges::find_if(
      graph.pairs, [&](const Pair& pair) { return pair.from == from && pair.to == to; });
  REQUIRE(at != graph.pairs.end());
  return *at;
}

// Everything of one kind forgets something.
void each(TopologyGraph& graph, ComponentKind kind, const std::function<void(Component&)>& change) {
  for (auto& part : graph.components)
    if (part.kind == kind) change(part);
}

struct Case {
  const char* id;
  const char* title;
  std::function<TopologyGraph()> healthy;
  Change breakage;
  Severity severity;
  const char* subject;   // One of them.
  const char* evidence;  // A part of it, with its provenance.
  Change forget;         // Leaves the check nothing to look at.
};

TopologyGraph two_nodes() { return machines::cluster(3); }

void forget_links(TopologyGraph& graph, LinkKind kind) {
  std::erase_if(graph.links, [kind](const TopologyLink& link) { return link.kind == kind; });
}

const Change kForgetPairs = [](TopologyGraph& graph) { graph.pairs.clear(); };
const Change kForgetUplinks = [](TopologyGraph& graph) { forget_links(graph, LinkKind::pcie); };

template <auto Member>
Change on_node(auto value) {
  return [value](TopologyGraph& graph) { graph.nodes[0].*Member = value; };
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"W01", "a key of the driver refuses peers", machines::hgx,
       [](auto& graph) {
         pair_of(graph, "hgx/gpu2", "hgx/gpu5").granted_write = PeerStatus::disabled_by_registry;
       },
       Severity::warning, "hgx/gpu2 - hgx/gpu5", "read OK, write DR (as its source says)",
       kForgetPairs},
      {"W02", "wrong data", machines::hgx,
       [](auto& graph) { pair_of(graph, "hgx/gpu2", "hgx/gpu5").verified = PeerCheck::wrong_data; },
       Severity::failure, "hgx/gpu2 - hgx/gpu5", "wrong_data (as its source says)", kForgetPairs},
      {"W02", "a copy that hangs", machines::hgx,
       [](auto& graph) { pair_of(graph, "hgx/gpu1", "hgx/gpu0").verified = PeerCheck::hung; },
       Severity::failure, "hgx/gpu1 - hgx/gpu0", "hung (as its source says)", kForgetPairs},
      {"W02", "slower than staging", machines::hgx,
       [](auto& graph) {
         pair_of(graph, "hgx/gpu2", "hgx/gpu5").bandwidth_bytes_per_s =
             Figure{20e9, Provenance::measured};
       },
       Severity::warning, "hgx/gpu2 - hgx/gpu5",
       "peer copy 20 GB/s (measured), through host memory 37 GB/s (measured)", kForgetPairs},
      {"W02", "CUDA refuses what the driver grants", machines::hgx,
       [](auto& graph) { pair_of(graph, "hgx/gpu2", "hgx/gpu5").cuda_agrees = false; },
       Severity::warning, "hgx/gpu2 - hgx/gpu5", "cuDeviceCanAccessPeer: no (as its source says)",
       kForgetPairs},
      {"W03", "a card on half of its lanes", machines::desktop,
       [](auto& graph) { uplink(graph, "desktop/gpu1").pcie.width = 8; }, Severity::warning,
       "desktop/gpu1 - desktop/port1", "runs x8, both ends can do x16 (sysfs)", kForgetUplinks},
      {"W03", "a port above a switch", machines::dgx1v,
       [](auto& graph) { uplink(graph, "dgx1/up1").pcie.width = 4; }, Severity::warning,
       "dgx1/up1 - dgx1/root1", "shared by dgx1/gpu2, dgx1/gpu3, dgx1/nic1", kForgetUplinks},
      {"W04", "half of the rate under load", machines::desktop,
       [](auto& graph) {
         pair_of(graph, "desktop/host0", "desktop/gpu1").bandwidth_bytes_per_s->value = 13.1e9;
       },
       Severity::warning, "desktop/gpu1", "13.1 GB/s (measured); Gen5 x16 carries 48 GB/s (sysfs)",
       kForgetPairs},
      {"W05", "a card behind the chipset", machines::desktop,
       [](auto& graph) {
         uplink(graph, "desktop/gpu1").b = "desktop/chipset";
         uplink(graph, "desktop/chipset").pcie_max = {4, 4};
       },
       Severity::warning, "desktop/gpu1",
       "below the chipset (as its source says), whose uplink Gen4 x4 carries 6 GB/s (sysfs)",
       [](auto& graph) {
         each(graph, ComponentKind::bridge, [](auto& port) { port.is_chipset.reset(); });
       }},
      {"W06", "a switch's port redirects", machines::hgx,
       [](auto& graph) { component(graph, "hgx/left3").acs_redirect = true; }, Severity::warning,
       "hgx/left3", "on (as its source says) between hgx/gpu3 and hgx/nic3",
       [](auto& graph) {
         each(graph, ComponentKind::bridge, [](auto& port) { port.acs_redirect.reset(); });
       }},
      {"W07", "a translating IOMMU", machines::hgx,
       on_node<&TopologyNode::iommu>(IommuMode::translating), Severity::warning, "hgx",
       "translating (as its source says)",
       on_node<&TopologyNode::iommu>(std::optional<IommuMode>())},
      {"W08", "a small window", machines::hgx,
       [](auto& graph) { component(graph, "hgx/gpu6").bar1_bytes = 256 << 20; }, Severity::warning,
       "hgx/gpu6", "BAR1 256 MiB, VRAM 81920 MiB (as its source says)",
       [](auto& graph) {
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.bar1_bytes.reset(); });
       }},
      {"W09", "one GPU has a link less", machines::hgx,
       [](auto& graph) {
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.nvlinks_max.reset(); });
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.model.clear(); });
         for (auto& link : graph.links)
           if (link.a == "hgx/gpu4" && link.b == "hgx/switch1") link.count = 4;
       },
       Severity::warning, "hgx/gpu4", "17 NVLinks active, its peers have 18 (nvml)",
       [](auto& graph) {
         forget_links(graph, LinkKind::nvlink);
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.nvlinks_down.reset(); });
         graph.nodes[0].nvlinks_known = false;
       }},
      {"W09", "all GPUs have fewer than their form", machines::hgx,
       [](auto& graph) {
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.nvlinks_max.reset(); });
         for (auto& link : graph.links)
           if (link.b == "hgx/switch1") link.count = 4;
       },
       Severity::warning, "hgx/gpu0", "17 of 18 NVLinks active (nvml)", nullptr},
      {"W09", "a link that is down", machines::dgx1v,
       [](auto& graph) {
         for (auto& link : graph.links)
           if (link.a == "dgx1/gpu0" && link.b == "dgx1/gpu1") link.state = LinkState::down;
       },
       Severity::warning, "dgx1/gpu0 - dgx1/gpu1", "nvlink link is down (nvml)", nullptr},
      {"W09", "one link of a full mesh is gone", machines::mi300x,
       [](auto& graph) {
         std::erase_if(graph.links, [](const auto& link) {
           return link.kind == LinkKind::xgmi && link.a == "mi300/gpu2" && link.b == "mi300/gpu7";
         });
       },
       Severity::warning, "mi300/gpu2", "6 NVLinks active, its peers have 7 (sysfs)", nullptr},
      {"W09", "a GPU without any", machines::hgx,
       [](auto& graph) {
         std::erase_if(graph.links, [](const auto& link) {
           return link.kind == LinkKind::nvlink && link.a == "hgx/gpu7";
         });
         component(graph, "hgx/gpu7").nvlinks_down = 18;
       },
       Severity::failure, "hgx/gpu7", "no NVLink is active, hgx/gpu0 has some (as its source says)",
       nullptr},
      {"W09", "an SXM board without any, as its source tells", machines::hgx,
       [](auto& graph) {
         forget_links(graph, LinkKind::nvlink);
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.nvlinks_max.reset(); });
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.nvlinks_down.reset(); });
       },
       Severity::failure, "hgx/gpu0", "0 of 18 NVLinks active (as its source says)", nullptr},
      {"W09", "a switched board whose links are all down", machines::hgx,
       [](auto& graph) {
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.nvlinks_max.reset(); });
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.model.clear(); });
         for (auto& link : graph.links)
           if (link.kind == LinkKind::nvlink) link.state = LinkState::down;
       },
       Severity::failure, "hgx/gpu0", "0 of 18 NVLinks active, 18 inactive (nvml)", nullptr},
      {"W09", "a mesh whose links are all down", machines::mi300x,
       [](auto& graph) {
         for (auto& link : graph.links)
           if (link.kind == LinkKind::xgmi) link.state = LinkState::down;
       },
       Severity::failure, "mi300/gpu0", "0 of 7 NVLinks active, 7 inactive (sysfs)", nullptr},
      {"W09", "a GPU that counts inactive links, where nothing tells where links lead",
       machines::hgx,
       [](auto& graph) {
         graph.links.clear();
         component(graph, "hgx/gpu3").nvlinks_down = 2;
       },
       Severity::warning, "hgx/gpu3", "16 of 18 NVLinks active, 2 inactive (", nullptr},
      {"W09", "a GPU that counts all of its links inactive", machines::hgx,
       [](auto& graph) {
         graph.links.clear();
         component(graph, "hgx/gpu5").nvlinks_down = 18;
       },
       Severity::failure, "hgx/gpu5", "no NVLink is active, hgx/gpu0 has some (", nullptr},
      {"W10", "a fabric that is not ready", machines::hgx,
       on_node<&TopologyNode::fabric>(FabricState::in_progress), Severity::failure, "hgx",
       "in_progress (as its source says)",
       on_node<&TopologyNode::fabric>(std::optional<FabricState>())},
      {"W10", "a fabric that failed, so that no NVSwitch is seen", machines::hgx,
       [](auto& graph) {
         graph.nodes[0].fabric = FabricState::failed;
         forget_links(graph, LinkKind::nvlink);
         std::erase_if(graph.components,
                       [](const auto& part) { return part.kind == ComponentKind::nvswitch; });
       },
       Severity::failure, "hgx", "failed (as its source says)", nullptr},
      {"W11", "most GPUs are where the NICs are, one is not", machines::hgx,
       [](auto& graph) {
         for (const auto kind : {ComponentKind::nic, ComponentKind::gpu})
           each(graph, kind, [](auto& part) { part.numa = 0; });
         component(graph, "hgx/gpu5").numa = 1;
       },
       Severity::warning, "hgx/gpu5",
       "on NUMA node 1, RDMA NICs are on 0 only (as its source says)",
       [](auto& graph) {
         each(graph, ComponentKind::nic, [](auto& nic) { nic.numa.reset(); });
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.cpus.clear(); });
       }},
      {"W12", "cores clipped by a cgroup", machines::hgx,
       [](auto& graph) { component(graph, "hgx/gpu1").cpus = "0-3"; }, Severity::warning,
       "hgx/gpu1", "near to cores 0-3, NUMA node 0 has 0-47,96-143 (as its source says)",
       [](auto& graph) {
         for (auto& part : graph.components) part.cpus.clear();
       }},
      {"W12", "fewer cores than GPUs", machines::hgx,
       [](auto& graph) {
         each(graph, ComponentKind::cpu, [](auto& cpu) { cpu.cpus.clear(); });
         for (const auto* name : {"hgx/gpu0", "hgx/gpu1"}) component(graph, name).cpus = "7";
       },
       Severity::warning, "hgx/gpu1", "2 GPUs are near to cores 7 alone (as its source says)",
       nullptr},
      {"W12", "a list of cores that a cgroup emptied", machines::hgx,
       [](auto& graph) { component(graph, "hgx/gpu2").cpus.clear(); }, Severity::warning,
       "hgx/gpu2", "no cores are near to it, hgx/gpu0 has 0-47,96-143 (", nullptr},
      {"W13", "one GPU and its NIC are below the wrong CPU", machines::hgx,
       [](auto& graph) {
         for (const int i : {4, 5, 7}) uplink(graph, fmt::format("hgx/root{}", i)).b = "hgx/cpu0";
         component(graph, "hgx/nic6").is_rdma = false;
       },
       Severity::warning, "hgx/gpu6 - hgx/nic0",
       "the nearest RDMA NIC is SYS away (as its source says)",
       [](auto& graph) {
         each(graph, ComponentKind::nic, [](auto& nic) { nic.gpu_direct.reset(); });
         forget_links(graph, LinkKind::pcie);
       }},
      {"W13", "the module is not loaded", machines::hgx,
       [](auto& graph) { component(graph, "hgx/nic2").gpu_direct = false; }, Severity::warning,
       "hgx/nic2", "GPUDirect RDMA: no (as its source says)", nullptr},
      {"W14", "a port at half of its rate", machines::hgx,
       [](auto& graph) { component(graph, "hgx/nic2").port_bytes_per_s = 25e9; }, Severity::warning,
       "hgx/nic2", "runs at 25 GB/s of 50 GB/s (as its source says)",
       [](auto& graph) {
         each(graph, ComponentKind::nic, [](auto& nic) { nic.port_max_bytes_per_s.reset(); });
         each(graph, ComponentKind::nic, [](auto& nic) { nic.port_up.reset(); });
       }},
      {"W14", "a port that is down", machines::hgx,
       [](auto& graph) { component(graph, "hgx/nic3").port_up = false; }, Severity::warning,
       "hgx/nic3", "down (as its source says)", nullptr},
      {"W15", "a container", machines::hgx, on_node<&TopologyNode::view>(MachineView::container),
       Severity::info, "hgx", "seen from a container (as its source says)",
       on_node<&TopologyNode::view>(MachineView::unknown)},
      {"W15", "something that was not seen", machines::hgx,
       on_node<&TopologyNode::unseen>(std::vector<std::string>{"GPU links: no libnvidia-ml.so.1"}),
       Severity::info, "hgx", "no libnvidia-ml.so.1", nullptr},
      {"W16", "a file that contradicts itself", machines::hgx,
       [](auto& graph) {
         graph.notes.push_back({TopologyNote::Kind::conflict, "a.xml:7", "gpu0 has two places"});
       },
       Severity::warning, nullptr, "a.xml:7 (import): gpu0 has two places", nullptr},
      {"W16", "a file that was repaired", machines::hgx,
       [](auto& graph) {
         graph.notes.push_back({TopologyNote::Kind::repaired, "a.xml:9", "left out a self-link"});
       },
       Severity::info, nullptr, "a.xml:9 (import): left out a self-link", nullptr},
      {"W16", "a matrix of two halves that differ", machines::hgx,
       [](auto& graph) {
         pair_of(graph, "hgx/gpu2", "hgx/gpu5").path = PathClass::pix;
         pair_of(graph, "hgx/gpu5", "hgx/gpu2").path = PathClass::sys;
       },
       Severity::warning, "hgx/gpu2 - hgx/gpu5", "path PIX there, SYS back (as its source says)",
       nullptr},
      {"W16", "fewer links to NVSwitches than the GPU counts", machines::hgx,
       [](auto& graph) {
         for (auto& link : graph.links)
           if (link.a == "hgx/gpu4" && link.b == "hgx/switch1") link.count = 4;
       },
       Severity::warning, "hgx/gpu4",
       "links for 17 NVLinks, 18 active by its own record (as its source says)", nullptr},
      {"W16", "more links than the chip has", machines::hgx,
       [](auto& graph) {
         component(graph, "hgx/gpu4").nvlinks_max.reset();
         for (auto& link : graph.links)
           if (link.a == "hgx/gpu4" && link.b == "hgx/switch1") link.count = 9;
       },
       Severity::warning, "hgx/gpu4", "22 NVLinks, its chip has 18 (nvml)", nullptr},
      {"W17", "another driver", two_nodes, on_node<&TopologyNode::driver_version>("570.1"),
       Severity::warning, "node00",
       "driver: 570.1 here, 580.95.05 on 2 of 3 nodes (as its source says)",
       [](auto& graph) {
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.model.clear(); });
         each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.title.clear(); });
       }},
      {"W17", "another MTU", two_nodes,
       [](auto& graph) { component(graph, "node01/nic3").mtu = 1500; }, Severity::warning, "node01",
       "MTU: 1500, 4096 here, 4096 on 2 of 3 nodes (as its source says)", nullptr},
      {"W17", "a GPU less", two_nodes,
       [](auto& graph) {
         const auto is_lost = [](const std::string& name) { return name == "node02/gpu7"; };
         std::erase_if(graph.components, [&](const auto& part) { return is_lost(part.name); });
         std::erase_if(graph.links, [&](const auto& l) { return is_lost(l.a) || is_lost(l.b); });
         std::erase_if(graph.pairs,
                       [&](const auto& p) { return is_lost(p.from) || is_lost(p.to); });
       },
       Severity::warning, "node02",
       "number of GPUs: 7 here, 8 on 2 of 3 nodes (as its source says)", nullptr},
      {"W17", "a slower port", two_nodes,
       [](auto& graph) { component(graph, "node01/nic3").port_bytes_per_s = 25e9; },
       Severity::warning, "node01", "network ports: 1 x 25 GB/s, 7 x 50 GB/s here", nullptr},
  };
  return all;
}

bool names(const Finding& finding, const char* subject) {
  if (subject == nullptr) return finding.subjects.empty();
  return std::ranges::any_of(finding.subjects,
                             [subject](const auto& s) { return s.to_string() == subject; });
}

}  // namespace

TEST_CASE("every check fires on a machine with its trouble, with evidence and a way out") {
  for (const auto& entry : cases()) {
    const auto diagnosis = diagnose_with(entry.healthy(), entry.breakage);
    INFO(std::string(entry.id), " ", std::string(entry.title), "\n", summary(diagnosis));
    CHECK(check_of(diagnosis, entry.id).state == CheckState::fired);
    const auto found = findings_of(diagnosis, entry.id);
    const auto at = std::ranges::find_if(found, [&entry](const Finding& finding) {
      return finding.severity == entry.severity && names(finding, entry.subject) &&
             finding.evidence.find(entry.evidence) != std::string::npos;
    });
    REQUIRE(at != found.end());
    CHECK_FALSE(at->meaning.empty());
    CHECK_FALSE(at->fix.empty());
    CHECK(diagnosis.exit_code() >= static_cast<int>(entry.severity));
  }
}

TEST_CASE("every check is silent on the same machine without the trouble, having looked") {
  std::set<std::string> seen;
  for (const auto& entry : cases()) {
    const auto diagnosis = diagnose_graph(entry.healthy());
    INFO(std::string(entry.id), " ", std::string(entry.title), "\n", summary(diagnosis));
    const auto& check = check_of(diagnosis, entry.id);
    // Staging is what a desktop's cards do; W01 tells it.
    CHECK(check.state == CheckState::silent);
    CHECK(check.examined > 0);
    seen.insert(entry.id);
  }
  CHECK(seen.size() == 17);
}

TEST_CASE("every check says that it could not look where the facts are unknown") {
  std::set<std::string> seen;
  for (const auto& entry : cases()) {
    if (!entry.forget) continue;
    const auto diagnosis = diagnose_with(entry.healthy(), entry.forget);
    INFO(std::string(entry.id), " ", std::string(entry.title), "\n", summary(diagnosis));
    const auto& check = check_of(diagnosis, entry.id);
    CHECK(check.state == CheckState::not_checked);
    CHECK(check.examined == 0);
    CHECK_FALSE(check.unknown.empty());
    seen.insert(entry.id);
  }
  // Of the sources' own notes there is always an answer.
  CHECK(seen.size() == 16);
}

TEST_CASE("healthy machines raise no alarm") {
  const std::vector<std::pair<const char*, TopologyGraph>> healthy{
      {"desktop", machines::desktop()},     {"HGX H100", machines::hgx()},
      {"3090s", machines::bridged_3090s()}, {"DGX-1V", machines::dgx1v()},
      {"MI300X", machines::mi300x()},       {"cluster", machines::cluster()}};
  for (const auto& entry : healthy) {
    const auto diagnosis = diagnose_graph(entry.second);
    INFO(std::string(entry.first), "\n", summary(diagnosis));
    CHECK(diagnosis.exit_code() == 0);
    // What remains says that some pairs are staged by design.
    for (const auto& finding : diagnosis.findings) CHECK(finding.id == "W01");
  }
  CHECK(findings_of(diagnose_graph(machines::hgx()), "W01").empty());
  CHECK(findings_of(diagnose_graph(machines::desktop()), "W01").size() == 1);
}

TEST_CASE("a cluster file, which states no facts of a machine, raises no alarm and passes little") {
  const auto topology = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: t, nodes: [{name: a, devices: [{gpu: rtx-5090, count: 2}, {host: 64 GB}]}, {name: b, "
      "devices: [{gpu: h100-sxm, count: 8}, {host: 1 TB, count: 2}]}], links: []}",
      "test"));
  const auto diagnosis = diagnose(topology);
  INFO(summary(diagnosis));
  CHECK(diagnosis.findings.empty());
  // A declared link says that there is one, not how many.
  auto graph = topology.graph();
  each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.sm = 90; });
  CHECK(diagnose_graph(graph).findings.empty());
  for (const auto* id : {"W01", "W02", "W03", "W04", "W05", "W07", "W08", "W10", "W12", "W15"})
    CHECK(check_of(diagnosis, id).state == CheckState::not_checked);
}

TEST_CASE("nothing at all is not a clean bill") {
  const auto diagnosis = diagnose(Topology());
  CHECK(diagnosis.exit_code() == 0);
  for (const auto& check : diagnosis.checks)
    if (check.id != "W16") {
      CHECK(check.state == CheckState::not_checked);
      CHECK_FALSE(check.unknown.empty());
    }
}

TEST_CASE("alike findings are one finding") {
  const auto diagnosis = diagnose_with(machines::hgx(), [](auto& graph) {
    for (int i = 0; i < 8; ++i) uplink(graph, fmt::format("hgx/gpu{}", i)).pcie.width = 8;
  });
  const auto found = findings_of(diagnosis, "W03");
  REQUIRE(found.size() == 1);
  CHECK(found[0].subjects.size() == 8);
  CHECK(found[0].evidence == "runs x8, both ends can do x16 (sysfs)");
  CHECK(found[0].meaning == "copies get 24 GB/s where 48 GB/s is possible (spec)");
  CHECK(diagnosis.exit_code() == 1);
}

TEST_CASE("figures behind alike findings become a range") {
  const auto diagnosis = diagnose_with(machines::desktop(), [](auto& graph) {
    pair_of(graph, "desktop/gpu1", "desktop/gpu0").staged_bytes_per_s =
        Figure{24.9e9, Provenance::measured};
  });
  const auto found = findings_of(diagnosis, "W01");
  REQUIRE(found.size() == 1);
  CHECK(found[0].severity == Severity::info);
  CHECK(found[0].subjects.size() == 2);
  CHECK(found[0].evidence ==
        "read GNS, write GNS (as its source says), a copy gets 24.9 GB/s to 43 GB/s (measured)");
}

TEST_CASE("an idle card's generation is no evidence, whatever it is") {
  for (std::uint32_t generation = 1; generation <= 5; ++generation) {
    const auto idle = [generation](auto& graph) {
      for (auto& link : graph.links)
        if (link.kind == LinkKind::pcie) link.pcie.generation = generation;
    };
    CHECK(diagnose_with(machines::desktop(), idle).exit_code() == 0);
    const auto unmeasured = diagnose_with(machines::desktop(), [&idle](auto& graph) {
      idle(graph);
      graph.pairs.clear();
    });
    CHECK(unmeasured.exit_code() == 0);
    CHECK(check_of(unmeasured, "W04").state == CheckState::not_checked);
  }
}

TEST_CASE("a slow copy over a narrow link, or from another CPU's memory, is not the generation") {
  const auto narrow = diagnose_with(machines::desktop(), [](auto& graph) {
    uplink(graph, "desktop/gpu1").pcie.width = 4;
    pair_of(graph, "desktop/host0", "desktop/gpu1").bandwidth_bytes_per_s->value = 13e9;
  });
  CHECK(findings_of(narrow, "W03").size() == 1);
  CHECK(findings_of(narrow, "W04").empty());
  const auto far = diagnose_with(machines::hgx(), [](auto& graph) {
    std::erase_if(graph.pairs, [](const auto& pair) { return pair.from == "hgx/host0"; });
    machines::measure_host(graph, "hgx/host1", "hgx/gpu0", 11e9);
  });
  CHECK(findings_of(far, "W04").empty());
  const auto unknown = diagnose_with(machines::desktop(), [](auto& graph) {
    uplink(graph, "desktop/port1").pcie_max = {};
    pair_of(graph, "desktop/host0", "desktop/gpu1").bandwidth_bytes_per_s->value = 13e9;
  });
  CHECK(findings_of(unknown, "W04").empty());
  CHECK(check_of(unknown, "W04").unknown.find("desktop/gpu1") != std::string::npos);
}

TEST_CASE("each code of the driver is explained") {
  for (const auto status : {PeerStatus::chipset_not_supported, PeerStatus::gpu_not_supported,
                            PeerStatus::topology_not_supported, PeerStatus::disabled_by_registry,
                            PeerStatus::not_supported, PeerStatus::unknown}) {
    const auto diagnosis = diagnose_with(machines::hgx(), [status](auto& graph) {
      forget_links(graph, LinkKind::nvlink);
      for (auto& pair : graph.pairs)
        if (pair.granted_read) pair.granted_read = status;
    });
    const auto found = findings_of(diagnosis, "W01");
    INFO(std::string(to_string(status)), "\n", summary(diagnosis));
    REQUIRE(found.size() == 1);
    CHECK(found[0].subjects.size() == 56);
    CHECK(found[0].meaning.starts_with(std::string(to_string(status)) + ": "));
    CHECK(found[0].severity ==
          (status == PeerStatus::unknown ? Severity::info : Severity::warning));
  }
}

TEST_CASE("GeForce cards that the catalogue lacks are known by their name, others by the code") {
  for (const auto* title : {"NVIDIA GeForce RTX 5060 Ti", ""}) {
    const auto diagnosis = diagnose_with(machines::desktop(), [title](auto& graph) {
      each(graph, ComponentKind::gpu, [title](auto& gpu) {
        gpu.model.clear();
        gpu.title = title;
      });
    });
    REQUIRE(findings_of(diagnosis, "W01").size() == 1);
    CHECK(findings_of(diagnosis, "W01")[0].severity == Severity::info);
  }
}

TEST_CASE("ACS matters only where peers are below one switch") {
  const auto all_ports = [](auto& graph) {
    each(graph, ComponentKind::bridge, [](auto& port) { port.acs_redirect = true; });
  };
  CHECK(findings_of(diagnose_with(machines::desktop(), all_ports), "W06").empty());
  CHECK(findings_of(diagnose_with(machines::bridged_3090s(), all_ports), "W06").empty());
  const auto found = findings_of(diagnose_with(machines::hgx(), all_ports), "W06");
  REQUIRE(found.size() == 1);
  // The ports on both sides of each switch, not its uplink nor the root.
  CHECK(found[0].subjects.size() == 16);
  CHECK(names(found[0], "hgx/left0"));
  CHECK_FALSE(names(found[0], "hgx/root0"));
  // Where a description leaves a switch's ports out, the switch itself.
  const auto folded = findings_of(diagnose_with(machines::hgx(),
                                                [&all_ports](auto& graph) {
                                                  all_ports(graph);
                                                  uplink(graph, "hgx/gpu0").b = "hgx/up0";
                                                  uplink(graph, "hgx/nic0").b = "hgx/up0";
                                                }),
                                  "W06");
  REQUIRE(folded.size() == 1);
  CHECK(names(folded[0], "hgx/up0"));
}

TEST_CASE("a circle of bridges is walked once") {
  const auto diagnosis = diagnose_with(machines::desktop(), [](auto& graph) {
    component(graph, "desktop/gpu0").model = "l40s";
    uplink(graph, "desktop/port0").b = "desktop/chipset";
    uplink(graph, "desktop/chipset").b = "desktop/port0";
    each(graph, ComponentKind::bridge, [](auto& port) { port.acs_redirect = true; });
    graph.pairs.clear();
  });
  INFO(summary(diagnosis));
  CHECK(findings_of(diagnosis, "W06").empty());
}

TEST_CASE("a fabric that is not completed says that the NVSwitch island is not usable yet") {
  for (const auto state :
       {FabricState::not_started, FabricState::in_progress, FabricState::failed}) {
    const auto diagnosis = diagnose_with(machines::hgx(), on_node<&TopologyNode::fabric>(state));
    const auto found = findings_of(diagnosis, "W10");
    REQUIRE(found.size() == 1);
    CHECK(found[0].severity == Severity::failure);
    CHECK(found[0].meaning.starts_with("the NVSwitch island is not usable yet"));
  }
}

TEST_CASE("remarks of readers are no findings, and a repair is not called impossible") {
  const auto diagnosis = diagnose_with(machines::hgx(), [](auto& graph) {
    graph.notes.push_back({TopologyNote::Kind::remark, "a.xml:3", "calls the machine 'A' a"});
    graph.notes.push_back({TopologyNote::Kind::repaired, "a.xml:4", "left out a UUID"});
  });
  const auto found = findings_of(diagnosis, "W16");
  REQUIRE(found.size() == 1);
  CHECK(found[0].severity == Severity::info);
  CHECK(found[0].evidence == "a.xml:4 (import): left out a UUID");
  CHECK(found[0].meaning == "the source was read with a correction");
  CHECK(diagnosis.exit_code() == 0);
}

TEST_CASE("facts without a provenance get that of a file or specification, and no other") {
  const auto evidence = [](Provenance provenance) {
    const auto diagnosis = diagnose_with(machines::hgx(), [=](auto& graph) {
      for (auto& link : graph.links) link.provenance = provenance;
      component(graph, "hgx/gpu6").bar1_bytes = 256 << 20;
    });
    return findings_of(diagnosis, "W08").at(0).evidence;
  };
  CHECK(evidence(Provenance::import).ends_with(" (import)"));
  CHECK(evidence(Provenance::spec).ends_with(" (spec)"));
  for (const auto provenance : {Provenance::sysfs, Provenance::nvml, Provenance::measured})
    CHECK(evidence(provenance).ends_with(" (as its source says)"));
}

TEST_CASE("the worst comes first") {
  const auto diagnosis = diagnose_with(machines::hgx(), [](auto& graph) {
    graph.nodes[0].fabric = FabricState::failed;
    uplink(graph, "hgx/gpu0").pcie.width = 8;
    graph.nodes[0].view = MachineView::container;
  });
  REQUIRE(diagnosis.findings.size() == 3);
  CHECK(diagnosis.findings[0].id == "W10");
  CHECK(diagnosis.findings[1].id == "W03");
  CHECK(diagnosis.findings[2].id == "W15");
  CHECK(diagnosis.exit_code() == 2);
}

TEST_CASE("an IOMMU and a small BAR1 are a remark where no peer could use them") {
  const auto diagnosis = diagnose_with(machines::desktop(), [](auto& graph) {
    graph.nodes[0].iommu = IommuMode::translating;
    each(graph, ComponentKind::gpu, [](auto& gpu) { gpu.bar1_bytes = 256 << 20; });
  });
  CHECK(findings_of(diagnosis, "W07").at(0).severity == Severity::info);
  CHECK(findings_of(diagnosis, "W08").at(0).severity == Severity::info);
  CHECK(findings_of(diagnosis, "W08").at(0).subjects.size() == 2);
  CHECK(diagnosis.exit_code() == 0);
}

TEST_CASE("bridges that are not there are no fault, and a part of a mesh is no whole") {
  const auto one_bridge = diagnose_with(machines::bridged_3090s(), [](auto& graph) {
    std::erase_if(graph.links, [](const auto& link) {
      return link.kind == LinkKind::nvlink && link.a == "rig/gpu2";
    });
  });
  CHECK(findings_of(one_bridge, "W09").empty());
  const auto part = diagnose_with(machines::dgx1v(), [](auto& graph) {
    graph.nodes[0].view = MachineView::container;
    const auto is_hidden = [](const std::string& name) {
      return name > "dgx1/gpu2" && name < "dgx1/gpu9";
    };
    std::erase_if(graph.components, [&](const auto& entry) { return is_hidden(entry.name); });
    std::erase_if(graph.links, [&](const auto& l) { return is_hidden(l.a) || is_hidden(l.b); });
    std::erase_if(graph.pairs, [&](const auto& p) { return is_hidden(p.from) || is_hidden(p.to); });
  });
  INFO(summary(part));
  CHECK(findings_of(part, "W09").empty());
}

TEST_CASE("a GPU's own record is taken for its count, and what differs is the sources' conflict") {
  // A link that is inactive beside a link for all of them: no 18 of 20.
  const auto inactive = diagnose_with(machines::hgx(), [](auto& graph) {
    component(graph, "hgx/gpu3").nvlinks_down = 2;
    component(graph, "hgx/gpu5").nvlinks_down = 18;
  });
  INFO(summary(inactive));
  const auto found = findings_of(inactive, "W09");
  REQUIRE(found.size() == 2);
  CHECK(found[0].evidence.starts_with("no NVLink is active"));
  CHECK(found[1].evidence.starts_with("16 of 18 NVLinks active, 2 inactive"));
  CHECK(findings_of(inactive, "W16").size() == 1);
  CHECK(findings_of(inactive, "W16")[0].subjects.size() == 2);
  // Links of others end at switches, this one's record says that it has all of its own.
  const auto unlinked = diagnose_with(machines::hgx(), [](auto& graph) {
    std::erase_if(graph.links, [](const auto& link) {
      return link.kind == LinkKind::nvlink && link.a == "hgx/gpu7";
    });
    for (auto& link : graph.links)
      if (link.a == "hgx/gpu4" && link.b == "hgx/switch1") link.count = 4;
  });
  CHECK(findings_of(unlinked, "W09").empty());
  // A part of a mesh shows a part of the links.
  const auto part = diagnose_with(machines::bridged_3090s(), [](auto& graph) {
    for (auto& link : graph.links)
      if (link.kind == LinkKind::nvlink) link.count = 2;
  });
  CHECK(part.exit_code() == 0);
  // Nothing is due that the chip cannot have.
  const auto more = diagnose_with(machines::hgx(), [](auto& graph) {
    component(graph, "hgx/gpu3").nvlinks_max = 36;
    component(graph, "hgx/gpu3").nvlinks_down = 18;
  });
  CHECK(findings_of(more, "W09").empty());
  CHECK(findings_of(more, "W16").at(0).evidence.starts_with("36 NVLinks, its chip has 18"));
}

TEST_CASE("dies that share a package have more links to each other than others do") {
  // As on an MI250X: who has how many follows from the board.
  const auto report = diagnose_with(machines::mi300x(), [](auto& graph) {
    std::erase_if(graph.links, [](const auto& link) {
      return link.kind == LinkKind::xgmi && link.a == "mi300/gpu2" && link.b == "mi300/gpu7";
    });
    for (auto& link : graph.links)
      if (link.a == "mi300/gpu0" && link.b == "mi300/gpu1") link.count = 4;
  });
  CHECK(findings_of(report, "W09").empty());
}

TEST_CASE("no NVLink at all is in order for cards, for one GPU alone, and in a part of a machine") {
  const auto unlinked = [](const char* model, std::uint32_t sm, MachineView view) {
    return [=](auto& graph) {
      forget_links(graph, LinkKind::nvlink);
      graph.nodes[0].view = view;
      each(graph, ComponentKind::gpu, [=](auto& gpu) {
        gpu.model = model;
        gpu.sm = sm;
        gpu.nvlinks_max.reset();
        gpu.nvlinks_down.reset();
      });
    };
  };
  const auto look = [&](TopologyGraph graph, const Change& change) {
    return findings_of(diagnose_with(std::move(graph), change), "W09").size();
  };
  CHECK(look(machines::hgx(), unlinked("h100-pcie", 90, MachineView::bare_metal)) == 0);
  CHECK(look(machines::hgx(), unlinked("h100-sxm", 90, MachineView::container)) == 0);
  CHECK(look(machines::hgx(), unlinked("h100-sxm", 90, MachineView::unknown)) == 1);
  CHECK(look(machines::hgx(), [&](auto& graph) {
          unlinked("h100-sxm", 90, MachineView::bare_metal)(graph);
          graph.nodes[0].nvlinks_known = false;
        }) == 0);
  CHECK(look(machines::desktop(), [&](auto& graph) {
          unlinked("h100-sxm", 90, MachineView::bare_metal)(graph);
          const auto is_gone = [](const auto& name) { return name == "desktop/gpu1"; };
          std::erase_if(graph.components, [&](const auto& part) { return is_gone(part.name); });
          std::erase_if(graph.links, [&](const auto& l) { return is_gone(l.a) || is_gone(l.b); });
          graph.pairs.clear();
        }) == 0);
}

TEST_CASE("the asking process is looked at where it is") {
  DoctorOptions options;
  options.process_cpus = "0-47";
  const auto diagnosis = diagnose_graph(machines::hgx(), options);
  const auto far = findings_of(diagnosis, "W11");
  REQUIRE(far.size() == 1);
  CHECK(far[0].severity == Severity::warning);
  CHECK(far[0].subjects.size() == 4);
  CHECK(names(far[0], "hgx/gpu4"));
  const auto clipped = findings_of(diagnosis, "W12");
  REQUIRE(clipped.size() == 1);
  CHECK(clipped[0].severity == Severity::info);
  CHECK(clipped[0].evidence ==
        "the process may use 48 of the 96 cores near to it (as its source says)");
  options.process_cpus = "0-191";
  CHECK(diagnose_graph(machines::hgx(), options).findings.empty());
  // Of several nodes it must be said which.
  options.process_cpus = "0-47";
  CHECK(findings_of(diagnose_graph(two_nodes(), options), "W11").empty());
  options.node = "node01";
  CHECK(names(findings_of(diagnose_graph(two_nodes(), options), "W11").at(0), "node01/gpu4"));
  options.node = "node77";
  CHECK_THROWS_WITH(diagnose_graph(two_nodes(), options), doctest::Contains("node77"));
  options = {.node = "", .process_cpus = "all"};
  CHECK_THROWS_WITH(diagnose_graph(two_nodes(), options), doctest::Contains("'all'"));
}

TEST_CASE("a spare port and a slow port of the board are remarks") {
  const auto diagnosis = diagnose_with(machines::hgx(), [](auto& graph) {
    component(graph, "hgx/nic1").pci = component(graph, "hgx/nic0").pci;
    component(graph, "hgx/nic1").port_up = false;
    auto& board = component(graph, "hgx/nic7");
    board.is_rdma = false;
    board.port_max_bytes_per_s = 2.5e9 / 8;
    board.port_bytes_per_s = 1e9 / 8;
  });
  for (const auto& finding : findings_of(diagnosis, "W14"))
    CHECK(finding.severity == Severity::info);
  CHECK(findings_of(diagnosis, "W14").size() == 2);
}

TEST_CASE("a machine that is built with few NICs is no alarm") {
  const auto diagnosis = diagnose_with(machines::hgx(), [](auto& graph) {
    for (int i = 4; i < 8; ++i) component(graph, fmt::format("hgx/nic{}", i)).is_rdma = false;
  });
  INFO(summary(diagnosis));
  CHECK(diagnosis.exit_code() == 0);
  for (const auto* id : {"W11", "W13"}) {
    const auto found = findings_of(diagnosis, id);
    REQUIRE(found.size() == 1);
    CHECK(found[0].subjects.size() == 4);
  }
}

TEST_CASE("two nodes that differ are both named, without a majority") {
  const auto diagnosis =
      diagnose_with(machines::cluster(2), on_node<&TopologyNode::driver_version>("570.1"));
  const auto found = findings_of(diagnosis, "W17");
  REQUIRE(found.size() == 1);
  CHECK(found[0].subjects.size() == 2);
  CHECK(found[0].evidence.find(
            "node01: driver: 580.95.05 here, 2 values on 2 nodes (as its source says)") !=
        std::string::npos);
}

TEST_CASE("the JSON form has all of it") {
  const auto diagnosis = diagnose_with(machines::hgx(), [](auto& graph) {
    pair_of(graph, "hgx/gpu2", "hgx/gpu5").verified = PeerCheck::wrong_data;
    component(graph, "hgx/gpu6").bar1_bytes = 256 << 20;
  });
  const auto json = boost::json::parse(findings_to_json(diagnosis)).as_object();
  CHECK(json.at("exit_code") == 2);
  const auto& findings = json.at("findings").as_array();
  REQUIRE(findings.size() == 2);
  CHECK(findings[0].at("id") == "W02");
  CHECK(findings[0].at("severity") == "failure");
  CHECK(findings[0].at("subjects") ==
        boost::json::value(boost::json::array{boost::json::array{"hgx/gpu2", "hgx/gpu5"}}));
  CHECK(findings[1].at("subjects") == boost::json::value(boost::json::array{"hgx/gpu6"}));
  const auto& checks = json.at("checks").as_array();
  REQUIRE(checks.size() == 17);
  CHECK(checks[1].at("state") == "fired");
  CHECK(checks[2].at("state") == "silent");
  CHECK(checks[2].at("examined") == 48);
}

namespace {

struct PublishedFault {
  const char* file;
  const char* id;  // The only check of more than info.
  std::vector<const char*> subjects;
};

// Of the published files those whose index names a fault that the file itself shows.
const std::vector<PublishedFault>& published_faults() {
  static const std::vector<PublishedFault> all{
      {"4x-nv4-3nic-slurm-affinity-clipped.topo.txt",
       "W12",
       {"node0/gpu0", "node0/gpu1", "node0/gpu2", "node0/gpu3"}}};
  return all;
}

// The index itself, a graph of channels, and a model that no tool of ours writes.
bool is_no_topology(const std::string& file) {
  return file.ends_with(".md") || file.ends_with(".ncclgraph.xml") ||
         file.starts_with("SYNTHETIC-");
}

void check_published(const std::string& file, const Diagnosis& diagnosis) {
  INFO(file, "\n", summary(diagnosis));
  std::set<std::string> alarms;
  for (const auto& finding : diagnosis.findings)
    if (finding.severity != Severity::info) alarms.insert(finding.id);
  const auto fault = std::ranges::find(published_faults(), file, &PublishedFault::file);
  if (fault == published_faults().end()) {
    CHECK(diagnosis.exit_code() == 0);
    CHECK(alarms.empty());
    return;
  }
  CHECK(diagnosis.exit_code() == 1);
  CHECK(alarms == std::set<std::string>{fault->id});
  const auto found = findings_of(diagnosis, fault->id);
  for (const auto* subject : fault->subjects)
    CHECK(std::ranges::any_of(found, [&](const auto& entry) { return names(entry, subject); }));
}

}  // namespace

TEST_CASE("published files raise no alarm but for the faults that they are known to have") {
  if (!causeway_test::published("INDEX.md")) return;
  const char* root = std::getenv("CAUSEWAY_SHARED");
  const auto folder =
      std::filesystem::path(root != nullptr ? root : CAUSEWAY_SHARED_DEFAULT) / "topology-data";
  std::size_t read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const auto file = entry.path().filename().string();
    if (!entry.is_regular_file() || is_no_topology(file)) continue;
    INFO(file);
    check_published(file, diagnose_graph(import_topology_file(entry.path().string())));
    ++read;
  }
  CHECK(read > published_faults().size());
  for (const auto& fault : published_faults())
    CHECK_MESSAGE(std::filesystem::exists(folder / fault.file), "no file " << fault.file);
}

TEST_CASE("published refusals of GeForce cards are told as normal") {
  const std::string file = "2x-rtx5090-threadripper-p2pGNS.p2p-rw.txt";
  const auto text = causeway_test::published(file);
  if (!text) return;
  const auto found = findings_of(diagnose_graph(import_topology(*text, file)), "W01");
  REQUIRE(found.size() == 1);
  CHECK(found[0].severity == Severity::info);
  CHECK(found[0].subjects.size() == 2);
  CHECK(found[0].evidence.find("GNS") != std::string::npos);
}

TEST_CASE("lists of cores are read as the kernel writes them") {
  CHECK(CoreList::parse("0-3,8,10-11")->count() == 7);
  CHECK(CoreList::parse("8,0-3,4,2-6") == CoreList::parse("0-6,8"));
  CHECK(CoreList::parse("0-4294967295")->count() == 4294967296U);
  CHECK(CoreList::parse("0-23,48-71")->count_common(*CoreList::parse("20-50")) == 7);
  for (const auto* bad : {"", "a", "1-", "-1", "3-1", "1,,2", "0-4294967296", "1 2", "0x3", "1,"})
    CHECK_FALSE(CoreList::parse(bad));
}

namespace {

// A graph that names things which are there, and says anything of them.
class RandomGraph {
 public:
  explicit RandomGraph(std::uint64_t seed) : random_(seed) {}

  TopologyGraph make() {
    const auto nodes = 1 + pick(3);
    for (std::size_t i = 0; i < nodes; ++i) add_node(i);
    const auto count = pick(40);
    for (std::size_t i = 0; i < count; ++i) add_component(i);
    for (std::size_t i = 0; i < count * 2; ++i) add_link();
    add_pairs();
    for (std::size_t i = 0; i < pick(4); ++i)
      graph_.notes.push_back({static_cast<TopologyNote::Kind>(pick(3)), "a:1", "text"});
    return graph_;
  }

 private:
  std::size_t pick(std::size_t end) { return random_() % end; }

  template <typename Value>
  std::optional<Value> maybe(std::initializer_list<Value> values) {
    if (pick(3) == 0) return std::nullopt;
    return *(values.begin() + pick(values.size()));
  }

  std::optional<std::uint32_t> number(std::size_t end) {
    return pick(3) == 0 ? std::nullopt : std::optional(static_cast<std::uint32_t>(pick(end)));
  }

  std::string text(std::initializer_list<const char*> values) {
    return *(values.begin() + pick(values.size()));
  }

  std::optional<Figure> figure() {
    if (pick(3) == 0) return std::nullopt;
    return Figure{static_cast<double>(pick(400)) * 1e9, static_cast<Provenance>(pick(5))};
  }

  void add_node(std::size_t i) {
    TopologyNode node;
    node.name = fmt::format("n{}", i);
    node.driver_version = text({"", "570", "580"});
    node.kernel = text({"", "6.8"});
    node.view = static_cast<MachineView>(pick(4));
    if (pick(2) == 0) node.iommu = static_cast<IommuMode>(pick(3));
    if (pick(2) == 0) node.fabric = static_cast<FabricState>(pick(5));
    node.nvlinks_known = pick(2) == 0;
    if (pick(2) == 0) node.unseen = {"something"};
    graph_.nodes.push_back(node);
  }

  void add_component(std::size_t i) {
    const auto& node = graph_.nodes[pick(graph_.nodes.size())].name;
    Component part;
    part.kind = static_cast<ComponentKind>(pick(8));
    part.name = fmt::format("{}/{}{}", node, to_string(part.kind), i);
    part.node = node;
    if (part.kind == ComponentKind::network_switch) part.node.clear();
    part.model = text({"", "h100-sxm", "rtx-5090", "rtx-3090", "a100-pcie"});
    part.title = text({"", "NVIDIA GeForce RTX 4070", "Tesla V100"});
    part.numa = number(3);
    part.capacity_bytes = maybe<std::uint64_t>({0, 1, 80'000'000'000});
    part.bar1_bytes = maybe<std::uint64_t>({0, 1 << 28, 128'000'000'000});
    part.sm = maybe<std::uint32_t>({0, 70, 90, 120});
    part.cpus = text({"", "0-3", "4-7", "0", "x", "0-4294967295"});
    part.nvlinks_max = number(20);
    part.nvlinks_down = number(20);
    part.port_bytes_per_s = maybe({0.0, 1e9, 50e9});
    part.port_max_bytes_per_s = maybe({0.0, 1e9, 50e9});
    part.port_up = maybe({true, false});
    part.mtu = number(9001);
    part.is_rdma = maybe({true, false});
    part.gpu_direct = maybe({true, false});
    part.acs_redirect = maybe({true, false});
    part.is_chipset = maybe({true, false});
    graph_.components.push_back(part);
  }

  std::string any() { return graph_.components[pick(graph_.components.size())].name; }

  void add_link() {
    TopologyLink link;
    link.kind = pick(2) == 0 ? LinkKind::pcie : static_cast<LinkKind>(pick(7));
    link.a = any();
    link.b = any();
    if (link.a == link.b) return;
    link.provenance = static_cast<Provenance>(pick(5));
    link.count = static_cast<std::uint32_t>(pick(20));
    link.state = static_cast<LinkState>(pick(4));
    link.pcie = {number(8), number(17)};
    link.pcie_max = {number(8), number(17)};
    link.effective_bytes_per_s = figure();
    graph_.links.push_back(link);
  }

  void add_pairs() {
    for (const auto& a : graph_.components)
      for (const auto& b : graph_.components) {
        if (&a == &b || pick(3) == 0) continue;
        Pair pair;
        pair.from = a.name;
        pair.to = b.name;
        if (pick(3) != 0) pair.granted_read = static_cast<PeerStatus>(pick(7));
        if (pick(3) != 0) pair.granted_write = static_cast<PeerStatus>(pick(7));
        pair.cuda_agrees = maybe({true, false});
        if (pick(2) == 0) pair.verified = static_cast<PeerCheck>(pick(4));
        if (pick(2) == 0) pair.path = static_cast<PathClass>(pick(6));
        pair.bandwidth_bytes_per_s = figure();
        pair.staged_bytes_per_s = figure();
        graph_.pairs.push_back(pair);
      }
  }

  std::mt19937_64 random_;
  TopologyGraph graph_;
};

void run_properties(std::uint64_t seed) {
  INFO("seed=", seed);
  const auto graph = RandomGraph(seed).make();
  DoctorOptions options;
  if (seed % 3 == 0) options = {.node = "n0", .process_cpus = "2-5"};
  const Topology topology(graph);
  const auto diagnosis = diagnose(topology, options);
  CHECK(diagnosis.checks.size() == 17);
  for (const auto& finding : diagnosis.findings) {
    INFO(finding.id, " ", finding.evidence);
    CHECK(check_of(diagnosis, finding.id).state == CheckState::fired);
    CHECK_FALSE(finding.evidence.empty());
    CHECK_FALSE(finding.meaning.empty());
    CHECK_FALSE(finding.fix.empty());
    CHECK((finding.id == "W16" || !finding.subjects.empty()));
    std::set<std::pair<std::string, std::string>> subjects;
    for (const auto& subject : finding.subjects) {
      for (const auto& name : {subject.name, subject.peer})
        CHECK((name.empty() || graph.find(name) != nullptr || graph.find_node(name) != nullptr));
      CHECK(subjects.emplace(subject.name, subject.peer).second);
    }
  }
  for (const auto& check : diagnosis.checks) {
    const bool fired = !findings_of(diagnosis, check.id).empty();
    CHECK((check.state == CheckState::fired) == fired);
    if (check.state == CheckState::silent) CHECK(check.examined > 0);
    if (check.state == CheckState::not_checked) CHECK_FALSE(check.unknown.empty());
  }
  // Said twice, said alike.
  CHECK(findings_to_json(diagnose(topology, options)) == findings_to_json(diagnosis));
  CHECK(boost::json::parse(findings_to_json(diagnosis)).is_object());
}

}  // namespace

TEST_CASE("random graphs: no exception, subjects that exist, states that agree") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_properties(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 400; ++seed) run_properties(seed);
}
