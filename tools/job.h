// A job over a lab: one process per rank, each told its rank, the world and its node's daemon.
//
// Shape:   rank 0 has this program's stdin, stdout and stderr; the lines of the others come out on
//          stderr behind "[rank N] ". The first rank that fails ends the job with its exit code:
//          the others get SIGTERM, then SIGKILL after 5 s. SIGINT and SIGTERM are passed on.
//          A keeper process between this program and the ranks outlives a SIGKILL of this program
//          just long enough to kill them, and everything that they started, at whatever depth; it
//          does the same at the end of every job.
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
