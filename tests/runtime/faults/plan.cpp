#include "plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>

namespace causeway::test {

namespace {

using std::chrono::milliseconds;

struct Kind {
  const char* name;
  unsigned weight;
  bool needs_network;
  unsigned least_ms;  // How long it lasts; 0: until the work has ended.
  unsigned most_ms;
};

constexpr std::array<Kind, kFaultKinds> kKinds = {{
    {"daemon killed", 9, false, 0, 0},
    {"worker killed", 9, false, 0, 0},
    {"daemon stopped for a while", 10, false, 20, 700},
    {"daemon stopped", 5, false, 0, 0},
    {"worker stopped for a while", 8, false, 20, 700},
    {"worker stopped", 5, false, 0, 0},
    {"link cut for a moment", 12, true, 20, 700},
    {"link cut", 6, true, 1500, 3000},
    {"one of two cards lost", 10, true, 0, 0},
    {"disk full for logs", 8, true, 0, 0},
    {"log that nobody reads", 8, false, 0, 0},
    {"garbage on the data port", 8, false, 300, 300},
    {"garbage on the control port", 8, false, 300, 300},
    {"garbage from an admitted peer", 10, false, 300, 300},
}};

const Kind& kind_of(FaultKind kind) { return kKinds[static_cast<std::size_t>(kind)]; }

FaultKind draw_kind(std::mt19937_64& random, bool can_cut) {
  unsigned all = 0;
  for (const auto& kind : kKinds) all += kind.needs_network && !can_cut ? 0 : kind.weight;
  auto at = random() % all;
  for (std::size_t i = 0;; ++i) {
    const auto weight = kKinds[i].needs_network && !can_cut ? 0 : kKinds[i].weight;
    if (at < weight) return static_cast<FaultKind>(i);
    at -= weight;
  }
}

Fault draw_fault(std::mt19937_64& random, bool can_cut) {
  Fault fault{draw_kind(random, can_cut)};
  const auto& kind = kind_of(fault.kind);
  // The directory is on a, and with it goes all that the other two know of each other.
  constexpr char kNodes[] = "abcbcbc";
  fault.node = fault.kind == FaultKind::kill_daemon ? kNodes[random() % 7] : kNodes[random() % 3];
  fault.is_silent = random() % 2 == 0;
  fault.at = milliseconds(random() % 300);
  if (kind.most_ms != 0)
    fault.lasts = milliseconds(kind.least_ms + random() % (kind.most_ms - kind.least_ms + 1));
  return fault;
}

}  // namespace

const char* to_string(FaultKind kind) { return kind_of(kind).name; }

bool Fault::hits_worker() const {
  return kind == FaultKind::kill_worker || kind == FaultKind::pause_worker ||
         kind == FaultKind::stop_worker;
}

bool Fault::is_felt() const {
  return hits_worker() || kind == FaultKind::kill_daemon || kind == FaultKind::pause_daemon ||
         kind == FaultKind::stop_daemon || kind == FaultKind::blink || kind == FaultKind::cut;
}

bool Fault::loses_node() const { return kind == FaultKind::kill_daemon || kind == FaultKind::cut; }

std::string Fault::to_string() const {
  auto text =
      fmt::format("{} ({}) at {} ms", test::to_string(kind),
                  hits_worker() ? std::to_string(worker) : std::string(1, node), at.count());
  if (kind == FaultKind::blink || kind == FaultKind::cut || kind == FaultKind::lose_card)
    text += is_silent ? ", silent" : ", down";
  if (lasts) text += fmt::format(", for {} ms", lasts->count());
  return text;
}

Plan Plan::draw(std::uint64_t seed, bool can_cut) {
  std::mt19937_64 random(seed);
  auto plan = without_faults(random());
  plan.seed = seed;
  for (auto i = random() % 10 < 3 ? 2 : 1; i > 0; --i)
    plan.faults.push_back(draw_fault(random, can_cut));
  std::ranges::sort(plan.faults, {}, &Fault::at);
  if (std::ranges::any_of(plan.faults, &Fault::hits_worker))  // Somebody else goes on.
    plan.workers.push_back({"abc"[random() % 3], random() % 2 == 0});
  return plan;
}

Plan Plan::without_faults(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Plan plan{seed, milliseconds(300 + random() % 250), {}, {}};
  plan.workers.push_back({"abc"[random() % 3], random() % 2 == 0});
  return plan;
}

std::string Plan::may_fail(int worker) const {
  std::string nodes;
  for (const auto& fault : faults)
    if (fault.hits_worker()) {
      if (fault.worker == worker) nodes += '*';
    } else if (fault.is_felt()) {
      nodes += fault.node;
    }
  // Calls are short where something is felt; that a card is lost takes longer to notice.
  if (!nodes.empty())
    for (const auto& fault : faults)
      if (fault.kind == FaultKind::lose_card) nodes += fault.node;
  return nodes;
}

std::string Plan::may_be_gone() const {
  std::string nodes;
  for (const auto& fault : faults)
    if (fault.loses_node()) nodes += fault.node;
  return nodes;
}

std::string Plan::to_string() const {
  auto text = fmt::format("seed {}:", seed);
  for (const auto& fault : faults) text += " " + fault.to_string() + ";";
  for (const auto& worker : workers)
    text += fmt::format(" worker at {}{}", worker.home, worker.is_local ? " (local)" : "");
  return text;
}

}  // namespace causeway::test
