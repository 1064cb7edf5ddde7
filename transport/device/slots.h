// Pieces of pinned host memory through which bytes of a device pass, lent in order.
//
// Shape:   a fixed number of slots of kStagingSlotBytes, pinned once. Who finds none free waits in
//          line and is called when its turn comes; nothing grows.
// Errors:  the constructor throws what pinning does.
// Cost:    a slot is one small allocation.
// Threads: the io_context's, which outlives the slots.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "allocator/cuda/plain_memory.h"
#include "transport/channel.h"

namespace causeway {

constexpr std::uint64_t kStagingSlotBytes = kMaxPartBytes;

class StagingSlots;

class StagingSlot {
 public:
  StagingSlot(std::shared_ptr<StagingSlots> slots, std::byte* at) noexcept
      : slots_(std::move(slots)), at_(at) {}
  StagingSlot(const StagingSlot&) = delete;
  StagingSlot& operator=(const StagingSlot&) = delete;
  ~StagingSlot();

  [[nodiscard]] std::byte* data() const noexcept { return at_; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {at_, kStagingSlotBytes}; }

 private:
  std::shared_ptr<StagingSlots> slots_;
  std::byte* at_;
};
using StagingSlotPtr = std::shared_ptr<StagingSlot>;

class StagingSlots : public std::enable_shared_from_this<StagingSlots> {
 public:
  struct Waiter {
    std::function<void(StagingSlotPtr)> taken;
  };
  using Place = std::shared_ptr<Waiter>;  // In line: whoever drops it has left.

  StagingSlots(boost::asio::io_context& loop, const std::shared_ptr<CudaContext>& context,
               std::size_t count);

  [[nodiscard]] StagingSlotPtr take();  // Null if none is free.
  // `taken` is called later, unless the place is dropped first.
  [[nodiscard]] Place wait(std::function<void(StagingSlotPtr)> taken);
  [[nodiscard]] std::size_t count() const noexcept { return count_; }
  [[nodiscard]] std::size_t free_count() const noexcept { return free_.size(); }
  [[nodiscard]] std::span<std::byte> memory() const noexcept { return memory_.bytes(); }

 private:
  friend StagingSlot;
  void give_back(std::byte* at);
  void serve();

  boost::asio::io_context& loop_;
  const std::size_t count_;
  CudaPlainMemory memory_;
  std::vector<std::byte*> free_;
  std::deque<std::weak_ptr<Waiter>> line_;
};

}  // namespace causeway
