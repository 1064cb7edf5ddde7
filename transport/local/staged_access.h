// One request of a local channel for memory of a device: its bytes pass through slots, one by one.
//
// Errors:  timed_out at the deadline, or when the copy that is under way then has ended;
//          device_failed.
// Cost:    a memcpy and a copy of the device for each slot.
// Threads: the io_context's. `done` is called once, never inside start() or stop().
#pragma once

#include <memory>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/steady_timer.hpp>

#include "transport/device/slots.h"

namespace causeway {

class StagedAccess : public std::enable_shared_from_this<StagedAccess> {
 public:
  enum class Kind : std::uint8_t { write, read, sum };
  struct Setup {
    Kind kind;
    PinnedMemory memory;
    std::span<std::byte> local;  // The other end of a write or read.
    Deadline deadline;
    Completion done;
  };
  StagedAccess(boost::asio::io_context& context, Setup setup);
  static std::shared_ptr<StagedAccess> start(boost::asio::io_context& context, Setup setup);
  void stop(const Error& reason);  // Ends with it, once no copy is under way.

 private:
  void next();
  void use(StagingSlotPtr slot);
  void copied(const std::optional<Error>& error);
  void finish(std::optional<Error> error, std::uint64_t bytes);

  boost::asio::io_context& context_;
  Setup setup_;
  boost::asio::steady_timer deadline_;
  StagingSlots::Place place_;
  StagingSlotPtr slot_;
  std::optional<Error> stopped_;
  std::uint64_t at_ = 0;
  std::uint64_t piece_bytes_ = 0;
  bool is_copying_ = false;
};

}  // namespace causeway
