// causeway topo doctor: what is wrong, what it costs, what to do.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "causeway/topology_doctor.h"
#include "tools/commands/topo/commands.h"
#include "tools/commands/topo/source.h"
#include "tools/commands/topo/text.h"

namespace causeway::tools {

namespace {

constexpr const char* kDoctorExitCodes =
    "Exit codes: 0 nothing to repair, 1 warnings, 2 failures (or wrong usage, with a message), "
    "4 pool unreachable, 5 could not look.";

Colour colour_of(Severity severity) {
  switch (severity) {
    case Severity::failure:
      return Colour::red;
    case Severity::warning:
      return Colour::yellow;
    case Severity::info:
      break;
  }
  return Colour::cyan;
}

std::string subjects_of(const Finding& finding) {
  constexpr std::size_t kMostNames = 6;
  std::vector<std::string> names;
  for (const auto& subject : finding.subjects) {
    if (subject.peer.empty()) {
      names.push_back(subject.name);
      continue;
    }
    const auto node = node_part(subject.name);
    names.push_back(
        fmt::format("{} - {}", subject.name,
                    node_part(subject.peer) == node ? local_part(subject.peer) : subject.peer));
  }
  if (names.empty()) return "all of it";
  // Names of pairs hold two numbers, so only short lists are written out.
  if (std::ranges::any_of(finding.subjects,
                          [](const FindingSubject& subject) { return !subject.peer.empty(); })) {
    const auto shown = std::min(names.size(), kMostNames);
    auto text = fmt::format("{}", fmt::join(names.begin(), names.begin() + shown, ", "));
    if (names.size() > shown) text += fmt::format(", {} more", counted(names.size() - shown));
    return text;
  }
  return name_ranges(names, kMostNames);
}

std::string finding_text(const Finding& finding) {
  constexpr std::size_t kIndent = 9;
  const auto line = [](std::string_view word, std::string_view text) {
    if (text.empty()) return std::string();
    return "  " + coloured(Colour::dim, word) + wrapped(text, kIndent).substr(2 + word.size());
  };
  const auto word = std::string(to_string(finding.severity));
  const auto head = fmt::format("{} {}", finding.id, word);
  auto text = coloured(colour_of(finding.severity), head);
  text += wrapped(subjects_of(finding), head.size() + 2).substr(head.size());
  return text + line("seen", finding.evidence) + line("means", finding.meaning) +
         line("fix", finding.fix);
}

std::string unchecked_table(const Diagnosis& diagnosis) {
  std::string text;
  for (const auto& check : diagnosis.checks) {
    if (check.unknown.empty() && check.state != CheckState::not_checked) continue;
    constexpr std::size_t kIndent = 5;
    const auto why =
        check.unknown.empty() ? std::string("nothing of this kind is there") : check.unknown;
    text += coloured(Colour::dim, check.id) +
            wrapped(fmt::format("{}: {}", check.title, why), kIndent).substr(check.id.size());
  }
  if (text.empty()) return text;
  return coloured(Colour::bold, "Could not look, or not everywhere") + "\n" + text;
}

std::string summary(const Diagnosis& diagnosis) {
  std::size_t counts[3] = {};
  for (const auto& finding : diagnosis.findings)
    ++counts[static_cast<std::size_t>(finding.severity)];
  std::size_t silent = 0;
  std::size_t unchecked = 0;
  for (const auto& check : diagnosis.checks) {
    silent += check.state == CheckState::silent ? 1 : 0;
    unchecked += check.state == CheckState::not_checked ? 1 : 0;
  }
  const auto part = [](std::size_t count, Colour colour, std::string_view word) {
    return coloured(count > 0 ? colour : Colour::none, counted(count, word));
  };
  return fmt::format(
      "{}, {}, {}; {} found nothing, {} could not look\n", part(counts[2], Colour::red, "failure"),
      part(counts[1], Colour::yellow, "warning"), part(counts[0], Colour::cyan, "remark"),
      counted(silent, "check"), counted(unchecked));
}

}  // namespace

std::string diagnosis_text(const Diagnosis& diagnosis) {
  std::string text;
  for (const auto& finding : diagnosis.findings) text += finding_text(finding) + "\n";
  const auto unchecked = unchecked_table(diagnosis);
  return text + unchecked + (unchecked.empty() ? "" : "\n") + summary(diagnosis);
}

void add_topo_doctor(CLI::App& topo, Shell& shell) {
  auto source = std::make_shared<TopoSource>();
  auto* doctor = add_command(
      topo, shell, "doctor", "What is wrong, what it costs, and what to do",
      "causeway topo doctor\n  causeway topo doctor --from node1.json --from node2.json",
      [source, &shell]() {
        shell.error_code = kExitNoAnswer;
        DoctorOptions options;
        if (source->is_self()) options.process_cpus = own_cores();
        const auto diagnosis = diagnose(load_topology(*source), options);
        if (shell.json)
          fmt::print("{}\n", findings_to_json(diagnosis));
        else
          fmt::print("{}", diagnosis_text(diagnosis));
        return diagnosis.exit_code();
      },
      kDoctorExitCodes);
  add_source_options(*doctor, *source);
}

}  // namespace causeway::tools
