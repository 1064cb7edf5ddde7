#include "runtime/placement/cost/pipeline_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "causeway/error.h"

namespace causeway {

namespace {

constexpr double kNotYet = std::numeric_limits<double>::infinity();
constexpr std::uint64_t kMostOperations = std::uint64_t{1} << 24;

void check(const std::vector<PipelineStageTimes>& stages, std::uint32_t micro_batches) {
  if (stages.empty() || micro_batches == 0 ||
      std::uint64_t{2} * stages.size() * micro_batches > kMostOperations)
    throw Error(Errc::invalid_argument,
                fmt::format("a pipeline of {} stages and {} micro-batches; write one of each at "
                            "least, and no more than {} operations",
                            stages.size(), micro_batches, kMostOperations));
  for (const auto& stage : stages)
    for (const double seconds : {stage.forward_s, stage.backward_s, stage.send_s, stage.latency_s})
      if (!(seconds >= 0) || !std::isfinite(seconds))
        throw Error(Errc::invalid_argument,
                    fmt::format("a pipeline's stage takes {} s; write 0 or more", seconds));
}

// One way between two stages: when each micro-batch's message is there.
class Link {
 public:
  explicit Link(std::uint32_t micro_batches) : there_s_(micro_batches, kNotYet) {}
  void send(std::uint32_t micro_batch, double at_s, const PipelineStageTimes& of) {
    free_s_ = std::max(free_s_, at_s) + of.send_s;
    there_s_[micro_batch] = free_s_ + of.latency_s;
  }
  [[nodiscard]] double there_s(std::uint32_t micro_batch) const { return there_s_[micro_batch]; }

 private:
  double free_s_ = 0;
  std::vector<double> there_s_;
};

}  // namespace

std::vector<PipelineOperation> pipeline_order(std::uint32_t stage, std::uint32_t stages,
                                              std::uint32_t micro_batches) {
  const auto ahead = std::min(micro_batches, stages - stage) - 1;
  std::vector<PipelineOperation> order;
  for (std::uint32_t i = 0; i < ahead; ++i) order.push_back({stage, false, i});
  for (std::uint32_t i = ahead; i < micro_batches; ++i) {
    order.push_back({stage, false, i});
    order.push_back({stage, true, i - ahead});
  }
  for (std::uint32_t i = micro_batches - ahead; i < micro_batches; ++i)
    order.push_back({stage, true, i});
  return order;
}

PipelineTimeline simulate_pipeline(const std::vector<PipelineStageTimes>& stages,
                                   std::uint32_t micro_batches) {
  check(stages, micro_batches);
  const auto count = static_cast<std::uint32_t>(stages.size());
  std::vector<Link> forward(count, Link(micro_batches));   // From stage i to i + 1,
  std::vector<Link> backward(count, Link(micro_batches));  // and back.
  std::vector<std::vector<PipelineOperation>> orders;
  for (std::uint32_t i = 0; i < count; ++i)
    orders.push_back(pipeline_order(i, count, micro_batches));
  std::vector<std::size_t> next(count, 0);
  std::vector<double> free_s(count, 0);
  PipelineTimeline result;
  // A stage goes on as far as its inputs are there; each pass over the stages gets some further, as
  // the order cannot wait for itself.
  for (bool moved = true; moved;) {
    moved = false;
    for (std::uint32_t i = 0; i < count; ++i)
      for (; next[i] < orders[i].size(); ++next[i], moved = true) {
        auto& operation = orders[i][next[i]];
        const auto batch = operation.micro_batch;
        double ready_s = 0;
        if (!operation.is_backward && i > 0) ready_s = forward[i - 1].there_s(batch);
        if (operation.is_backward && i + 1 < count) ready_s = backward[i].there_s(batch);
        if (ready_s == kNotYet) break;
        operation.start_s = std::max(free_s[i], ready_s);
        operation.end_s = operation.start_s +
                          (operation.is_backward ? stages[i].backward_s : stages[i].forward_s);
        free_s[i] = operation.end_s;
        if (!operation.is_backward && i + 1 < count)
          forward[i].send(batch, operation.end_s, stages[i]);
        if (operation.is_backward && i > 0)
          backward[i - 1].send(batch, operation.end_s, stages[i - 1]);
      }
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    result.seconds = std::max(result.seconds, free_s[i]);
    result.operations.insert(result.operations.end(), orders[i].begin(), orders[i].end());
  }
  return result;
}

}  // namespace causeway
