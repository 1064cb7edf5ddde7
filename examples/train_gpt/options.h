// The command line of train_gpt.
//
// Errors:  parse_options() prints usage errors and --help itself and returns the exit code.
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config.h"
#include "parallel.h"
#include "pool_link.h"

namespace train_gpt {

enum ExitCode : int {
  kExitOk = 0,
  kExitError = 1,
  kExitUsage = 2,
  kExitOutOfMemory = 3,
  kExitPeerLost = 4,
};

struct Options {
  // What a checkpoint remembers is optional here: what is not given comes from there.
  std::optional<std::uint32_t> blocks, width, heads, context, micro_batch, micro_batches;
  std::optional<std::uint64_t> seed;
  std::optional<double> learning_rate;

  std::string text = "/usr/share/common-licenses/GPL-3";
  std::uint64_t steps = 50;
  std::string plan;
  std::vector<std::string> only;
  std::uint32_t stages = 0;
  Parallel parallel;
  DeviceChoice device = DeviceChoice::any;
  std::string describe;
  std::string checkpoint;
  std::uint64_t checkpoint_every = 0;
  std::string resume;
  std::size_t sample = 160;
  std::string prompt = "The ";
  double temperature = 0.7;
  std::string json;
  int blas_threads = 1;
  bool quiet = false;

  // The given figures over `base`.
  [[nodiscard]] GptConfig config(GptConfig base) const;
};

struct ParsedOptions {
  std::optional<Options> options;  // Empty: end with exit_code.
  int exit_code = kExitOk;
};

// Prints only if `is_first`: every process of a job gets the same command line.
[[nodiscard]] ParsedOptions parse_options(int argc, char** argv, bool is_first);

}  // namespace train_gpt
