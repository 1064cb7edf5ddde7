// run_job() as a program, so that the tests can signal it: job_runner RANKS COMMAND...
#include <cstdio>
#include <cstdlib>

#include "causeway/error.h"
#include "tools/job.h"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::vector<causeway::tools::RankPlace> ranks;
  for (int i = 0; i < std::atoi(argv[1]); ++i) {
    std::string node = "node";
    node += static_cast<char>('0' + i);
    ranks.push_back({node, "/sockets/" + node});
  }
  try {
    return causeway::tools::run_job(ranks, {argv + 2, argv + argc});
  } catch (const causeway::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 99;
  }
}
