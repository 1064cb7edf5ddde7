// What is wrong with a machine or a cluster, what it costs, and what to do about it.
//
// Shape:   a table of checks, W01 to W17, each looking at facts of the graph. Devices with the same
//          finding are one finding. docs/doctor.md lists the checks.
// Unknown: never a finding. A check that could not look says so instead of passing.
// Errors:  parse for cores in the options that are not a list like "0-23,48"; not_found for a node
//          that is not in the graph.
// Cost:    O(components + links * depth of the PCI tree + pairs), and for each GPU the NICs of its
//          node.
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/topology.h"

namespace causeway {

enum class Severity : std::uint8_t {
  info,     // Worth knowing; nothing to repair.
  warning,  // It works, slower than it could.
  failure,  // It does not work, or gives wrong data.
};

// A component or node; with `peer` two of them: the ends of a link, or a pair's from and to.
struct FindingSubject {
  std::string name;
  std::string peer = {};
  [[nodiscard]] std::string to_string() const;  // "hgx/gpu0", "hgx/gpu0 - hgx/gpu1"
  bool operator==(const FindingSubject&) const = default;
};

struct Finding {
  std::string id;  // "W03"
  Severity severity = Severity::info;
  std::vector<FindingSubject> subjects;  // Empty: the description as a whole.
  std::string evidence;  // Figures, each with where it comes from: "runs x8 of x16 (sysfs)".
  std::string meaning;   // What it costs, in GB/s where that is known.
  std::string fix;       // What to do.
};

enum class CheckState : std::uint8_t { fired, silent, not_checked };

struct CheckResult {
  std::string id;
  std::string title;  // "PCIe width"
  CheckState state = CheckState::not_checked;
  std::size_t examined = 0;  // How many things it looked at.
  std::string unknown;       // What it could not look at, and why. May stand beside any state.
};

struct Diagnosis {
  std::vector<Finding> findings;    // By falling severity, then id.
  std::vector<CheckResult> checks;  // All of them, by id.

  // 0: nothing above info; 1: warnings; 2: failures.
  [[nodiscard]] int exit_code() const noexcept;
};

struct DoctorOptions {
  std::string node = {};  // Where the asking process runs; empty: the only node, if there is one.
  std::string process_cpus = {};  // The cores that it may use: "0-23,48-71". Empty: unknown.
};

[[nodiscard]] Diagnosis diagnose(const Topology& topology, const DoctorOptions& options = {});

// Documented in docs/doctor.md.
[[nodiscard]] std::string findings_to_json(const Diagnosis& diagnosis);

[[nodiscard]] std::string_view to_string(Severity value) noexcept;    // "info", "warning", ...
[[nodiscard]] std::string_view to_string(CheckState value) noexcept;  // "fired", "not_checked"

}  // namespace causeway
