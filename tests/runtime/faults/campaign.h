// Runs plans over three daemons and looks what is left of them.
//
// Shape:   run() carries one plan out: workers start, faults happen and end, workers verify and
//          go, and then everything must be as before: the bystander's bytes, used memory, sessions
//          and descriptors exactly, memory within bounds. The first error of a run makes new
//          daemons.
// Errors:  run() returns what was wrong, a line each.
// Threads: one.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bystander.h"
#include "daemons.h"
#include "plan.h"

namespace causeway::test {

class WorkerProcess;

class Campaign {
 public:
  explicit Campaign(Network& network);
  ~Campaign();

  [[nodiscard]] std::vector<std::string> run(const Plan& plan);
  // Ends the daemons in order: sanitizers have their word then. Returns what was wrong.
  [[nodiscard]] std::vector<std::string> finish();
  [[nodiscard]] bool can_cut() const { return daemons_->can_fill_disk(); }
  // Plans without faults come first: what is open after them is what has to be open.
  [[nodiscard]] bool is_warm() const;
  [[nodiscard]] int warm_ups() const { return warm_ups_; }
  [[nodiscard]] std::string summary() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Active {  // A fault that has begun.
    Fault fault;
    Clock::time_point end;
    std::optional<tools::Process> garbage{};
  };

  void begin_anew();
  void dismiss_workers();
  void start_workers(const Plan& plan);
  void work(const Plan& plan);
  void apply(const Plan& plan, const Fault& fault);
  void end(Active& active);
  void use_sessions(char node);
  void restart_killed();
  void wait_joined();
  void verify(const Plan& plan);
  void check_left_overs();
  void check_descriptors();
  void watch_memory(char node);
  [[nodiscard]] std::string left_over() const;  // Empty: only what the bystander has.
  void wrong(const std::string& what) { wrong_.push_back(what); }

  Network& network_;
  std::unique_ptr<Daemons> daemons_;
  std::unique_ptr<Bystander> bystander_;
  std::vector<std::unique_ptr<WorkerProcess>> workers_;
  std::vector<Active> active_;
  bool is_calm_ = true;  // No fault of this run is felt by a daemon or worker.
  std::vector<std::string> wrong_;

  std::map<char, int> descriptors_;  // What each has open when nothing happens.
  int warm_ups_ = 0;
  struct Memory {
    int runs = 0;  // Of this process.
    std::int64_t last_kib = 0;
  };
  std::map<char, Memory> memory_;
  std::int64_t grown_kib_ = 0;  // By all that have grown up, over as many runs.
  std::int64_t grown_runs_ = 0;
  std::int64_t most_kib_ = 0;
  std::map<std::string, double> counts_;  // What the workers counted.
  std::map<FaultKind, int> faults_;
};

}  // namespace causeway::test
