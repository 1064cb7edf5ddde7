// Collects what one check found, what it looked at, and what it could not look at.
//
// Shape:   findings of one severity, meaning and fix become one, whose subjects keep their order;
//          figures behind equal evidence become a range: "a copy gets 18.4 to 20.6 GB/s
//          (measured)".
// Cost:    O(log findings) per addition.
// Threads: one.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "causeway/topology_doctor.h"

namespace causeway::doctor {

struct Observation {
  std::string text;
  std::optional<Figure> figure = {};  // Bytes per second; printed behind the text.
};

// What a check says of one kind of trouble.
struct Trouble {
  Severity severity = Severity::warning;
  std::string meaning;
  std::string fix;
};

class Report {
 public:
  void examine(std::size_t things = 1) noexcept { examined_ += things; }
  // `what` is one of few sentences without a name: "BAR1 is not known".
  void unknown(const std::string& what, const std::string& subject);
  void add(const Trouble& trouble, FindingSubject subject, Observation seen);
  // About the description itself.
  void add(const Trouble& trouble, Observation seen);

  // `none` says why there was nothing to look at, where no unknown does.
  [[nodiscard]] CheckResult result(std::string id, std::string title, std::string none) const;
  [[nodiscard]] std::vector<Finding> findings(const std::string& id) const;

 private:
  struct Range {
    double least;
    double most;
    std::set<Provenance> provenances;
  };
  struct Line {
    std::string text;
    std::vector<std::string> subjects;
    std::optional<Range> range;
  };
  struct Group {
    Trouble trouble;
    std::vector<FindingSubject> subjects;
    std::set<std::pair<std::string, std::string>> seen;
    std::vector<Line> lines;
    std::map<std::string, std::size_t> line_of;
  };

  Group& group_of(const Trouble& trouble);
  static void observe(Group& group, const std::string& subject, Observation seen);
  [[nodiscard]] static std::string evidence(const Group& group);

  std::size_t examined_ = 0;
  std::map<std::string, std::vector<std::string>> unknown_;
  std::vector<Group> groups_;
  std::map<std::tuple<Severity, std::string, std::string>, std::size_t> group_index_;
};

// "12.5 GB/s", "371 GB/s".
[[nodiscard]] std::string rate_text(double bytes_per_s);
[[nodiscard]] std::string figure_text(const Figure& figure);  // "12.5 GB/s (measured)"
// "a, b and 6 more": at most `most` names.
[[nodiscard]] std::string names_text(const std::vector<std::string>& names, std::size_t most = 4);

}  // namespace causeway::doctor
