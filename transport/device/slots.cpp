#include "transport/device/slots.h"

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

namespace causeway {

StagingSlot::~StagingSlot() { slots_->give_back(at_); }

StagingSlots::StagingSlots(boost::asio::io_context& loop,
                           const std::shared_ptr<CudaContext>& context, std::size_t count)
    : loop_(loop),
      count_(count),
      memory_(CudaPlainMemory::pinned(context, count * kStagingSlotBytes)) {
  free_.reserve(count);
  for (std::size_t i = count; i-- > 0;)
    free_.push_back(memory_.bytes().data() + i * kStagingSlotBytes);
}

StagingSlotPtr StagingSlots::take() {
  if (free_.empty()) return nullptr;  // If one is free, nobody waits.
  auto slot = std::make_shared<StagingSlot>(shared_from_this(), free_.back());
  free_.pop_back();
  return slot;
}

StagingSlots::Place StagingSlots::wait(std::function<void(StagingSlotPtr)> taken) {
  auto place = std::make_shared<Waiter>(Waiter{std::move(taken)});
  std::erase_if(line_, [](const auto& other) { return other.expired(); });
  line_.push_back(place);
  serve();
  return place;
}

void StagingSlots::give_back(std::byte* at) {
  free_.push_back(at);
  serve();
}

void StagingSlots::serve() {
  while (!line_.empty() && !free_.empty()) {
    const auto place = std::move(line_.front());
    line_.pop_front();
    if (place.expired()) continue;
    auto slot = std::make_shared<StagingSlot>(shared_from_this(), free_.back());
    free_.pop_back();
    boost::asio::post(loop_, [place, slot = std::move(slot)]() mutable {
      // Who has left in this moment gives it back.
      if (const auto waiter = place.lock()) waiter->taken(std::move(slot));
    });
  }
}

}  // namespace causeway
