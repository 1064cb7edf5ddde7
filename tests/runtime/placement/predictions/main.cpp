// predictions DATA: what the cost model says to published measurements, as docs/planner.md has it.
#include <fmt/format.h>

#include <exception>

#include "tests/runtime/placement/predictions/report.h"

int main(int argc, char** argv) try {
  if (argc != 2) {
    fmt::print(stderr, "usage: predictions DATA   (a folder with published.csv and sailor/)\n");
    return 2;
  }
  fmt::print("{}", causeway::predictions::report(argv[1]));
} catch (const std::exception& error) {
  fmt::print(stderr, "predictions: {}\n", error.what());
  return 1;
}
