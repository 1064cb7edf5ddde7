#include "runtime/topology/doctor/report.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::doctor {

namespace {

// More lines than this hide what they say; the subjects are complete in any case.
constexpr std::size_t kMaxEvidenceLines = 12;

std::string provenances_text(const std::set<Provenance>& provenances) {
  std::string text;
  for (const auto provenance : provenances)
    text += (text.empty() ? "" : ", ") + std::string(to_string(provenance));
  return text;
}

}  // namespace

std::string rate_text(double bytes_per_s) {
  const double gb = bytes_per_s / 1e9;
  return gb < 100 ? fmt::format("{:.3g} GB/s", gb) : fmt::format("{:.0f} GB/s", gb);
}

std::string figure_text(const Figure& figure) {
  return fmt::format("{} ({})", rate_text(figure.value), to_string(figure.provenance));
}

std::string names_text(const std::vector<std::string>& names, std::size_t most) {
  std::string text;
  for (std::size_t i = 0; i < std::min(most, names.size()); ++i)
    text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > most) text += fmt::format(" and {} more", names.size() - most);
  return text;
}

void Report::unknown(const std::string& what, const std::string& subject) {
  unknown_[what].push_back(subject);
}

Report::Group& Report::group_of(const Trouble& trouble) {
  const auto key = std::tuple(trouble.severity, trouble.meaning, trouble.fix);
  const auto [at, is_new] = group_index_.try_emplace(key, groups_.size());
  if (is_new) groups_.push_back({trouble, {}, {}, {}, {}});
  return groups_[at->second];
}

void Report::observe(Group& group, const std::string& subject, Observation seen) {
  const auto key = seen.text + (seen.figure ? ":" : "");
  const auto [at, is_new] = group.line_of.try_emplace(key, group.lines.size());
  if (is_new) group.lines.push_back({std::move(seen.text), {}, std::nullopt});
  auto& line = group.lines[at->second];
  if (!subject.empty()) line.subjects.push_back(subject);
  if (!seen.figure) return;
  const auto [value, provenance] = *seen.figure;
  if (!line.range) line.range = Range{value, value, {}};
  line.range->least = std::min(line.range->least, value);
  line.range->most = std::max(line.range->most, value);
  line.range->provenances.insert(provenance);
}

void Report::add(const Trouble& trouble, FindingSubject subject, Observation seen) {
  auto& group = group_of(trouble);
  observe(group, subject.to_string(), std::move(seen));
  if (group.seen.emplace(subject.name, subject.peer).second)
    group.subjects.push_back(std::move(subject));
}

void Report::add(const Trouble& trouble, Observation seen) {
  observe(group_of(trouble), {}, std::move(seen));
}

std::string Report::evidence(const Group& group) {
  std::string text;
  for (std::size_t i = 0; i < std::min(kMaxEvidenceLines, group.lines.size()); ++i) {
    const auto& line = group.lines[i];
    if (i > 0) text += "; ";
    if (group.lines.size() > 1 && !line.subjects.empty()) text += names_text(line.subjects) + ": ";
    text += line.text;
    if (!line.range) continue;
    const auto& [least, most, provenances] = *line.range;
    text += ' ' + rate_text(least);
    if (rate_text(most) != rate_text(least)) text += " to " + rate_text(most);
    text += " (" + provenances_text(provenances) + ")";
  }
  if (group.lines.size() > kMaxEvidenceLines)
    text += fmt::format("; and {} more", group.lines.size() - kMaxEvidenceLines);
  return text;
}

CheckResult Report::result(std::string id, std::string title, std::string none) const {
  CheckResult result{std::move(id), std::move(title), CheckState::not_checked, examined_, {}};
  for (const auto& [what, subjects] : unknown_)
    result.unknown +=
        (result.unknown.empty() ? "" : "; ") + what + " (" + names_text(subjects) + ")";
  if (!groups_.empty())
    result.state = CheckState::fired;
  else if (examined_ > 0)
    result.state = CheckState::silent;
  else if (result.unknown.empty())
    result.unknown = std::move(none);
  return result;
}

std::vector<Finding> Report::findings(const std::string& id) const {
  std::vector<Finding> findings;
  for (const auto& group : groups_)
    findings.push_back({id, group.trouble.severity, group.subjects, evidence(group),
                        group.trouble.meaning, group.trouble.fix});
  return findings;
}

}  // namespace causeway::doctor
