// predictions DATA: what the cost model says to published measurements, as docs/planner.md has it;
// with --fit the coefficients that half of the rows give.
#include <fmt/format.h>

#include <exception>
#include <string_view>

#include "tests/runtime/placement/predictions/published.h"
#include "tests/runtime/placement/predictions/report.h"
#include "tests/runtime/placement/predictions/sailor.h"

static void print_fits(const std::string& data) {
  using namespace causeway::predictions;
  const auto fit = fit_families(read_rows(data + "/published.csv"));
  fmt::print("a100 gemm {:.4f}\nh100 gemm {:.4f} elementwise {:.4f}\nworkstation gemm {:.4f}\n",
             fit.ampere.gemm, fit.hopper.gemm, fit.hopper.elementwise, fit.workstation.gemm);
  fmt::print("fsdp {:.4f}\nprefill gemm {:.4f} dequantise {:.4f}\nunpack {:.4f}\n", fit.fsdp_factor,
             fit.prefill_gemm, fit.dequantise_bytes, fit.unpack_per_cycle);
  fmt::print("serving gemm {:.4f}\nnotebook {:.4f}\n", fit.serving_gemm, fit.notebook_bandwidth);
  const auto memory = fit_memory(read_sailor(data + "/sailor"));
  fmt::print("sailor fragmentation {:.4f} communicators {:.4g} score bytes {:.4f} logits {:.4f}\n",
             memory.fragmentation, memory.communicator_bytes, memory.score_bytes,
             memory.logit_bytes);
}

int main(int argc, char** argv) try {
  if (argc == 3 && std::string_view(argv[1]) == "--fit") {
    print_fits(argv[2]);
    return 0;
  }
  if (argc != 2) {
    fmt::print(stderr,
               "usage: predictions [--fit] DATA   (a folder with published.csv and sailor/)\n");
    return 2;
  }
  fmt::print("{}", causeway::predictions::report(argv[1]));
} catch (const std::exception& error) {
  fmt::print(stderr, "predictions: {}\n", error.what());
  return 1;
}
