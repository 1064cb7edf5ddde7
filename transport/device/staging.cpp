#include "transport/device/staging.h"

#include <fmt/format.h>

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "transport/checksum.h"

namespace causeway {

namespace {

std::string lane_name(const CudaContext& context, const char* way) {
  return fmt::format("gpu{}-{}", context.ordinal(), way);
}

std::size_t checked(std::size_t slots) {
  if (slots < 2)
    throw Error(Errc::invalid_argument, "staging takes at least two slots on either side");
  return slots;
}

}  // namespace

DeviceStaging::DeviceStaging(boost::asio::io_context& loop, std::shared_ptr<CudaContext> context,
                             Options options)
    : loop_(loop),
      own_(std::make_shared<StagingSlots>(loop, context, checked(options.slots))),
      served_(std::make_shared<StagingSlots>(loop, context, options.slots)),
      in_(context, lane_name(*context, "in")),
      out_(context, lane_name(*context, "out")),
      across_(context, lane_name(*context, "across")) {
  report_.device = context->label();
  report_.slots = options.slots;
  measure(context, options.measures);
}

void DeviceStaging::check() const {
  if (*failure_) throw Error(**failure_);
}

void DeviceStaging::copy_in(std::byte* to, StagingSlotPtr from, std::size_t size_bytes, Done done) {
  const auto* data = from->data();
  copy(in_, to, data, size_bytes, std::move(from), std::move(done));
}

void DeviceStaging::copy_out(StagingSlotPtr to, const std::byte* from, std::size_t size_bytes,
                             Done done) {
  auto* data = to->data();
  copy(out_, data, from, size_bytes, std::move(to), std::move(done));
}

void DeviceStaging::copy_across(std::byte* to, const std::byte* from, std::size_t size_bytes,
                                Done done) {
  copy(across_, to, from, size_bytes, nullptr, std::move(done));
}

void DeviceStaging::copy(CudaCopyLane& lane, std::byte* to, const std::byte* from,
                         std::size_t size_bytes, StagingSlotPtr slot, Done done) {
  // The lane's thread only passes things on: what the copy holds goes on the loop's. Until then the
  // loop has work, and it outlives the lane.
  struct Copy {
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work;
    StagingSlotPtr slot;
    Done done;
  };
  const auto state = std::make_shared<Copy>(
      Copy{boost::asio::make_work_guard(loop_), std::move(slot), std::move(done)});
  const auto ended = [state, &lane, failure = failure_](std::optional<Error> error) {
    boost::asio::post(
        state->work.get_executor(),
        [slot = std::exchange(state->slot, nullptr), done = std::exchange(state->done, nullptr),
         failure, broken = error ? lane.failure() : std::nullopt, error = std::move(error)] {
          if (broken && !*failure) *failure = broken;
          done(error);
        });
    state->work.reset();
  };
  if (*failure_) return ended(*failure_);
  try {
    lane.copy(to, from, size_bytes, ended);
  } catch (const Error& error) {
    ended(error);
  }
}

struct DeviceStaging::Sum {
  StagingSlotPtr slot;
  const std::byte* from = nullptr;
  std::size_t left_bytes = 0;
  Summed done;
  Checksum value;
};

void DeviceStaging::sum(StagingSlotPtr through, const std::byte* from, std::size_t size_bytes,
                        Summed done) {
  const auto sum = std::make_shared<Sum>();
  sum->slot = std::move(through);
  sum->from = from;
  sum->left_bytes = size_bytes;
  sum->done = std::move(done);
  sum_next(sum);
}

void DeviceStaging::sum_next(const std::shared_ptr<Sum>& sum) {
  const auto size_bytes = std::min<std::size_t>(sum->left_bytes, kStagingSlotBytes);
  copy_out(sum->slot, sum->from, size_bytes, [this, sum, size_bytes](std::optional<Error> error) {
    if (error) return sum->done(std::move(error), 0);
    sum->value.add(sum->slot->bytes().first(size_bytes));
    sum->from += size_bytes;
    sum->left_bytes -= size_bytes;
    if (sum->left_bytes > 0) return sum_next(sum);
    sum->done(std::nullopt, sum->value.result());
  });
}

}  // namespace causeway
