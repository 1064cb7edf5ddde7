// What rank 0 shows: progress, who computes, where the bytes live, which routes they took, the
// text.
//
// Errors:  write_json throws io.
// Threads: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "causeway/plan.h"
#include "causeway/worker.h"
#include "link.h"
#include "pool_link.h"

namespace train_gpt {

// A bar that is drawn again on a terminal; elsewhere a line every tenth of the run. Throws nothing.
class Progress {
 public:
  Progress(std::uint64_t first_step, std::uint64_t steps, bool enabled);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void update(std::uint64_t steps_done, double loss, double tokens_per_s);

 private:
  std::uint64_t first_;
  std::uint64_t steps_;
  std::uint64_t every_;
  bool enabled_;
  bool terminal_;
  bool open_line_ = false;
};

struct StepRecord {
  std::uint64_t step;  // Counted from 1.
  double loss;
  double gradient_norm;
  double seconds;
};

// Bytes of one kind on one device.
struct PlacedBytes {
  int stage;
  std::string device;
  std::string kind;  // "weights", "gradients", "optimizer", "activations"
  std::uint64_t bytes;
};

// Who computes a stage, on one of its processes.
struct StageCompute {
  int stage;
  std::string by;
  bool operator<=>(const StageCompute&) const = default;
};

struct Report {
  causeway::Plan plan;
  std::vector<StepRecord> steps;
  double tokens_per_s = 0;
  std::vector<StageCompute> compute;
  std::vector<PlacedBytes> placement;
  std::vector<causeway::Worker::Traffic> routes;
  std::string sample;
  std::string prompt;
  bool stopped = false;
};

// Collects the placement and the traffic of all processes in `report` of rank 0. All call it.
void gather(Link& link, PoolStorage& storage, const causeway::Worker& worker, Report& report);

void print_plan(const causeway::Plan& plan, int world, const Parallel& parallel);
void print_report(const Report& report);
void write_json(const std::string& path, const Report& report);

}  // namespace train_gpt
