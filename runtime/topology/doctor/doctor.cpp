#include <algorithm>
#include <array>
#include <boost/json.hpp>

#include "causeway/topology_doctor.h"
#include "runtime/topology/doctor/checks.h"

namespace causeway {

namespace {

struct Check {
  const char* id;
  const char* title;
  const char* none;  // What there is not, if there was nothing to look at.
  void (*run)(const doctor::Examination&, doctor::Report&);
};

constexpr std::array kChecks{
    Check{"W01", "peer access", "no node has two GPUs", doctor::check_peer_access},
    Check{"W02", "peer copies", "no pair of GPUs is known to have peer access",
          doctor::check_peer_copies},
    Check{"W03", "PCIe width", "no PCIe link of a GPU or NIC is known", doctor::check_pcie_width},
    Check{"W04", "PCIe generation under load", "there is no GPU", doctor::check_pcie_bandwidth},
    Check{"W05", "slot behind the chipset", "there is no GPU and no fast NIC",
          doctor::check_chipset_slot},
    Check{"W06", "ACS redirect",
          "no PCIe switch is known with devices below that could talk to "
          "each other",
          doctor::check_acs},
    Check{"W07", "IOMMU", "no node has a GPU", doctor::check_iommu},
    Check{"W08", "BAR1", "there is no GPU", doctor::check_bar1},
    Check{"W09", "NVLinks", "there is no GPU", doctor::check_nvlinks},
    Check{"W10", "fabric manager", "no NVSwitch is known, and the driver says nothing of a fabric",
          doctor::check_fabric},
    Check{"W11", "NUMA nodes of GPU, NIC and process", "no RDMA NIC and no asking process is known",
          doctor::check_numa},
    Check{"W12", "CPU affinity", "there is no GPU or NIC", doctor::check_cpu_affinity},
    Check{"W13", "GPUDirect", "no node has both a GPU and an RDMA NIC", doctor::check_gpu_direct},
    Check{"W14", "NIC ports", "there is no NIC", doctor::check_nic_ports},
    Check{"W15", "view of the machine", "there is no node", doctor::check_view},
    Check{"W16", "sources", "", doctor::check_sources},
    Check{"W17", "like nodes", "no two nodes have GPUs of one kind", doctor::check_like_nodes}};

boost::json::value json_of(const FindingSubject& subject) {
  if (subject.peer.empty()) return boost::json::value(subject.name);
  return boost::json::array{boost::json::value(subject.name), boost::json::value(subject.peer)};
}

}  // namespace

std::string FindingSubject::to_string() const { return peer.empty() ? name : name + " - " + peer; }

int Diagnosis::exit_code() const noexcept {
  int code = 0;
  for (const auto& finding : findings) code = std::max(code, static_cast<int>(finding.severity));
  return code;
}

Diagnosis diagnose(const Topology& topology, const DoctorOptions& options) {
  const doctor::Examination machine(topology, options);
  Diagnosis diagnosis;
  for (const auto& check : kChecks) {
    doctor::Report report;
    check.run(machine, report);
    diagnosis.checks.push_back(report.result(check.id, check.title, check.none));
    std::ranges::move(report.findings(check.id), std::back_inserter(diagnosis.findings));
  }
  std::ranges::stable_sort(diagnosis.findings, std::ranges::greater(), &Finding::severity);
  return diagnosis;
}

std::string findings_to_json(const Diagnosis& diagnosis) {
  boost::json::array findings;
  for (const auto& finding : diagnosis.findings) {
    boost::json::array subjects;
    for (const auto& subject : finding.subjects) subjects.push_back(json_of(subject));
    findings.push_back({{"id", finding.id},
                        {"severity", to_string(finding.severity)},
                        {"subjects", std::move(subjects)},
                        {"evidence", finding.evidence},
                        {"meaning", finding.meaning},
                        {"fix", finding.fix}});
  }
  boost::json::array checks;
  for (const auto& check : diagnosis.checks)
    checks.push_back({{"id", check.id},
                      {"title", check.title},
                      {"state", to_string(check.state)},
                      {"examined", check.examined},
                      {"unknown", check.unknown}});
  return boost::json::serialize(boost::json::object{{"exit_code", diagnosis.exit_code()},
                                                    {"findings", std::move(findings)},
                                                    {"checks", std::move(checks)}});
}

std::string_view to_string(Severity value) noexcept {
  constexpr std::array<std::string_view, 3> names{"info", "warning", "failure"};
  const auto index = static_cast<std::size_t>(value);
  return index < names.size() ? names[index] : std::string_view();
}

std::string_view to_string(CheckState value) noexcept {
  constexpr std::array<std::string_view, 3> names{"fired", "silent", "not_checked"};
  const auto index = static_cast<std::size_t>(value);
  return index < names.size() ? names[index] : std::string_view();
}

}  // namespace causeway
