// A job over a lab: one process per rank, each told its rank, the world and its node's daemon.
//
// Shape:   rank 0 has this program's stdin, stdout and stderr; the lines of the others come out on
//          stderr behind "[rank N] ". The first rank that fails ends the job with its exit code:
//          the others get SIGTERM, then SIGKILL after 5 s. SIGINT and SIGTERM are passed on.
//          Two keeper processes stand between this program and the ranks. When a job ends, or any
//          two of these three are killed, the rest of them kill the ranks and everything that those
//          started, at whatever depth. If all three are killed at once, the ranks still die.
// Errors:  not_found if the command does not exist; io.
// Threads: one thread, which must be the only one.
#pragma once

#include <string>
#include <vector>

namespace causeway::tools {

struct RankPlace {
  std::string node;
  std::string socket_path;
};

// Returns the exit code: 0, the first failing rank's, or 128 + N if signal N ended it.
[[nodiscard]] int run_job(const std::vector<RankPlace>& ranks,
                          const std::vector<std::string>& command);

}  // namespace causeway::tools
