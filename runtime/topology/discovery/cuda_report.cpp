#include "causeway/cuda_report.h"

#include "allocator/cuda/probe.h"

namespace causeway {

std::vector<std::string> cuda_report(std::chrono::milliseconds timeout) {
  return probe_cuda(timeout)->to_lines();
}

}  // namespace causeway
