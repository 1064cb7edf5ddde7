// W01 and W02: whether GPUs of a node see each other, and whether that holds.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "runtime/topology/doctor/checks.h"

namespace causeway::doctor {

namespace {

// Two runs of one copy differ by a few percent; less than this is not slower.
constexpr double kSlowerThanStaging = 0.9;

constexpr const char* kStagingIsNormal =
    "nothing to repair: copies go through host memory, and Causeway does so by itself; server "
    "boards carry them faster than desktop boards, and only a card whose driver grants peer access "
    "changes it";

struct Reason {
  std::string_view meaning;
  std::string_view fix;
};

Reason reason_of(PeerStatus status) {
  switch (status) {
    case PeerStatus::chipset_not_supported:
      return {"the chipset does not pass on what one slot sends to the other",
              "put the cards into slots of one CPU or below one PCIe switch (the board's manual "
              "has the slots); update the BIOS"};
    case PeerStatus::gpu_not_supported:
      return {"the driver does not offer peer access on this GPU",
              "compare nvidia-smi -q: MIG, vGPU and confidential computing each turn peer access "
              "off on cards that have it"};
    case PeerStatus::topology_not_supported:
      return {"the way between the cards does not carry peer traffic, as between two CPUs",
              "move the cards to slots of one CPU; nvidia-smi topo -m shows the way (SYS, NODE)"};
    case PeerStatus::disabled_by_registry:
      return {"a registry key of the driver has switched peer access off",
              "look for NVreg_RegistryDwords in /etc/modprobe.d, take the key out, and load the "
              "driver again (rmmod nvidia_uvm nvidia; modprobe nvidia) or restart"};
    case PeerStatus::not_supported:
      return {"peer access is not supported with this driver and system",
              "update the driver; WSL and some hypervisors do not offer it"};
    case PeerStatus::ok:
    case PeerStatus::unknown:
      break;
  }
  return {"the driver cannot say whether it grants peer access",
          "measure it: causeway topo measure; nvidia-smi topo -p2p r shows the answer"};
}

bool is_gpu_pair_of_node(const Component* a, const Component* b) {
  return a != nullptr && b != nullptr && a != b && a->kind == ComponentKind::gpu &&
         b->kind == ComponentKind::gpu && a->node == b->node;
}

// True where staging is what the vendor intends for these cards.
bool is_refused_by_policy(const Examination& machine, const Component& a, const Component& b,
                          PeerStatus status) {
  bool is_known = false;
  for (const auto* gpu : {&a, &b}) {
    const auto policy = peer_policy(*gpu);
    if (policy == PeerPolicy::refused) return true;
    if (policy == PeerPolicy::nvlink_only && !machine.share_nvlink(a, b)) return true;
    is_known = is_known || policy.has_value();
  }
  // GNS speaks of the product, so of a GPU that nothing else is known of.
  return !is_known && status == PeerStatus::gpu_not_supported;
}

Trouble refusal(const Examination& machine, const Component& a, const Component& b,
                PeerStatus status) {
  if (is_refused_by_policy(machine, a, b, status))
    return {Severity::info,
            fmt::format("{}: {}; this is normal for such cards, GeForce among them",
                        to_string(status), reason_of(status).meaning),
            kStagingIsNormal};
  const auto [meaning, fix] = reason_of(status);
  auto trouble = Trouble{Severity::warning,
                         fmt::format("{}: {}; copies between these GPUs go through host memory",
                                     to_string(status), meaning),
                         std::string(fix)};
  if (status == PeerStatus::unknown) trouble.severity = Severity::info;
  // GPUs of a mesh that no link joins, as on a DGX-1.
  if (status == PeerStatus::topology_not_supported && machine.share_nvlink(a, b)) {
    trouble.severity = Severity::info;
    trouble.fix = "nothing to repair: NCCL goes over a GPU that has links to both";
  }
  return trouble;
}

std::string answer_text(const Pair& pair) {
  std::string text;
  if (pair.granted_read) text = fmt::format("read {}", to_string(*pair.granted_read));
  if (pair.granted_write)
    text += fmt::format("{}write {}", text.empty() ? "" : ", ", to_string(*pair.granted_write));
  return text;
}

std::optional<Figure> staged_rate(const Pair& pair) {
  return pair.staged_bytes_per_s ? pair.staged_bytes_per_s : pair.bandwidth_bytes_per_s;
}

void judge_access(const Examination& machine, const Component& a, const Component& b,
                  const Pair& pair, Report& report) {
  const auto status = grant(pair);
  const bool is_refused_by_cuda = !status && pair.cuda_agrees == false;
  if (status == PeerStatus::ok || (!status && !is_refused_by_cuda)) return;
  auto trouble = refusal(machine, a, b, status.value_or(PeerStatus::not_supported));
  std::string seen = is_refused_by_cuda
                         ? fmt::format("cuDeviceCanAccessPeer: no ({})", machine.source(a))
                         : fmt::format("{} ({})", answer_text(pair), machine.source(a));
  const auto rate = staged_rate(pair);
  if (rate) seen += ", a copy gets";
  report.add(trouble, {a.name, b.name}, {std::move(seen), rate});
}

}  // namespace

void check_peer_access(const Examination& machine, Report& report) {
  std::map<std::string_view, std::size_t> known;
  for (const auto& pair : machine.graph().pairs) {
    const auto* a = machine.find(pair.from);
    const auto* b = machine.find(pair.to);
    if (!is_gpu_pair_of_node(a, b) || (!grant(pair) && !pair.cuda_agrees)) continue;
    report.examine();
    ++known[a->node];
    judge_access(machine, *a, *b, pair, report);
  }
  for (const auto& node : machine.nodes()) {
    const auto pairs = node.gpus.size() * (std::max<std::size_t>(node.gpus.size(), 1) - 1);
    if (known[node.node->name] < pairs)
      report.unknown("what the driver grants to some or all pairs of GPUs is not known",
                     node.node->name);
  }
}

namespace {

constexpr const char* kRepairPeerCopies =
    "turn off ACS redirect and the IOMMU's translation (see W06, W07), update driver and BIOS; "
    "until then export NCCL_P2P_DISABLE=1";

void judge_check(const Examination& machine, const Component& from, const Pair& pair,
                 Report& report) {
  const auto seen = fmt::format("copy with a check of the data: {} ({})", to_string(*pair.verified),
                                machine.source(from));
  const FindingSubject subject{pair.from, pair.to};
  switch (*pair.verified) {
    case PeerCheck::passed:
      return;
    case PeerCheck::wrong_data:
      report.add({Severity::failure,
                  "copies between these GPUs give wrong data, without an error: results of a job "
                  "cannot be trusted",
                  kRepairPeerCopies},
                 subject, {seen});
      return;
    case PeerCheck::hung:
      report.add({Severity::failure,
                  "copies between these GPUs never end: jobs hang at their "
                  "first exchange",
                  kRepairPeerCopies},
                 subject, {seen});
      return;
    case PeerCheck::failed:
      report.add({Severity::failure,
                  "peer access is offered and a copy ends in an error: jobs that use it stop",
                  kRepairPeerCopies},
                 subject, {seen});
      return;
  }
}

void judge_speed(const Pair& pair, Report& report) {
  const auto& direct = pair.bandwidth_bytes_per_s;
  const auto& staged = pair.staged_bytes_per_s;
  if (direct->value >= kSlowerThanStaging * staged->value) return;
  report.add(
      {Severity::warning, "peer access makes copies slower than the way through host memory",
       "export NCCL_P2P_DISABLE=1, or find what bends the way: ACS redirect (W06), the IOMMU "
       "(W07), or a path between two CPUs (nvidia-smi topo -m)"},
      {pair.from, pair.to},
      {fmt::format("peer copy {}, through host memory {}", figure_text(*direct),
                   figure_text(*staged))});
}

}  // namespace

void check_peer_copies(const Examination& machine, Report& report) {
  for (const auto& pair : machine.graph().pairs) {
    const auto* a = machine.find(pair.from);
    const auto* b = machine.find(pair.to);
    if (!is_gpu_pair_of_node(a, b)) continue;
    const bool is_granted = grant(pair) == PeerStatus::ok;
    if (is_granted && pair.cuda_agrees == false)
      report.add(
          {Severity::warning,
           "the driver grants peer access and CUDA refuses it: copies go through host memory",
           "compare CUDA_VISIBLE_DEVICES, MIG and the container's devices; restart after a "
           "driver update"},
          {pair.from, pair.to},
          {fmt::format("{}, cuDeviceCanAccessPeer: no ({})", answer_text(pair),
                       machine.source(*a))});
    if (pair.verified) judge_check(machine, *a, pair, report);
    const bool can_compare = pair.bandwidth_bytes_per_s && pair.staged_bytes_per_s;
    const bool is_direct = is_granted && pair.cuda_agrees != false;
    if (is_direct && can_compare) judge_speed(pair, report);
    if (pair.verified || (is_direct && can_compare) || (is_granted && pair.cuda_agrees == false))
      report.examine();
    else if (is_direct)
      report.unknown("granted, but no copy was verified: causeway topo measure",
                     FindingSubject{pair.from, pair.to}.to_string());
  }
}

}  // namespace causeway::doctor
