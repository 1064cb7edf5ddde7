#include "runtime/node/gpu_copier.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <optional>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

namespace causeway {

namespace asio = boost::asio;

GpuCopier::GpuCopier(asio::io_context& context) : context_(context), thread_("causeway-gpu") {}
GpuCopier::~GpuCopier() = default;

asio::awaitable<void> GpuCopier::copy(Lender::Part to, Lender::Part from, Deadline deadline) {
  struct Job {
    Lender::Part to;
    Lender::Part from;
    asio::steady_timer ended;
    bool is_done = false;
    std::optional<Error> failed;
    std::atomic<bool> is_given_up = false;

    Job(Lender::Part target, Lender::Part source, asio::steady_timer timer)
        : to(std::move(target)), from(std::move(source)), ended(std::move(timer)) {}
  };
  const auto job =
      std::make_shared<Job>(std::move(to), std::move(from), asio::steady_timer(context_, deadline));
  struct Waiting {  // Whoever stops, for whatever reason, may write to the memory by other ways.
    std::shared_ptr<Job> job;
    ~Waiting() { job->is_given_up = true; }
  };
  const Waiting waiting{job};
  asio::post(thread_.context(), [this, job]() mutable {
    std::optional<Error> failed;
    try {
      if (!job->is_given_up) copy_now(job->to, job->from);
    } catch (const Error& error) {
      failed = error;
    } catch (const std::exception& error) {
      failed = Error(Errc::internal, error.what());
    }
    asio::post(context_, [job = std::move(job), failed = std::move(failed)] {
      job->failed = failed;
      job->is_done = true;
      job->ended.cancel();
    });
  });
  co_await job->ended.async_wait(asio::experimental::as_tuple(asio::use_awaitable));
  if (!job->is_done) throw Error(Errc::timed_out, "the copy did not end in time");
  if (job->failed) throw Error(*job->failed);
}

CudaStream& GpuCopier::stream_of(const std::shared_ptr<CudaContext>& gpu) {
  const auto known = streams_.find(gpu.get());
  if (known != streams_.end()) return known->second;
  return streams_.emplace(gpu.get(), CudaStream(gpu)).first->second;
}

void GpuCopier::copy_now(const Lender::Part& to, const Lender::Part& from) {
  const auto size = to.bytes.size();
  if (!to.gpu || !from.gpu || to.gpu == from.gpu) {
    auto& stream = stream_of(to.gpu ? to.gpu : from.gpu);
    if (!from.gpu)
      stream.copy_in(to.bytes.data(), from.bytes.data(), size);
    else if (!to.gpu)
      stream.copy_out(to.bytes.data(), from.bytes.data(), size);
    else
      stream.copy(to.bytes.data(), from.bytes.data(), size);
    stream.synchronize();
    return;
  }
  between_.resize(size);
  auto& source = stream_of(from.gpu);
  source.copy_out(between_.data(), from.bytes.data(), size);
  source.synchronize();
  auto& target = stream_of(to.gpu);
  target.copy_in(to.bytes.data(), between_.data(), size);
  target.synchronize();
}

}  // namespace causeway
