#include "transport/local/staged_access.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cstring>

#include "transport/device/staging.h"

namespace causeway {

StagedAccess::StagedAccess(boost::asio::io_context& context, Setup setup)
    : context_(context), setup_(std::move(setup)), deadline_(context, setup_.deadline) {}

std::shared_ptr<StagedAccess> StagedAccess::start(boost::asio::io_context& context, Setup setup) {
  auto access = std::make_shared<StagedAccess>(context, std::move(setup));
  // What is asked for keeps itself until it has ended.
  access->deadline_.async_wait([access](boost::system::error_code error) {
    if (!error)
      access->stop(
          Error(Errc::timed_out, "a copy by way of a device's slots reached its deadline"));
  });
  boost::asio::post(context, [access] {
    if (access->setup_.done) access->next();
  });
  return access;
}

void StagedAccess::stop(const Error& reason) {
  if (!setup_.done) return;
  if (!stopped_) stopped_ = reason;
  if (!is_copying_) finish(stopped_, 0);
}

void StagedAccess::next() {
  auto& slots = setup_.memory.device->served();
  if (auto slot = slots.take()) return use(std::move(slot));
  place_ = slots.wait([this](StagingSlotPtr slot) {
    const auto place = std::move(place_);  // Which is this very function.
    use(std::move(slot));
  });
}

void StagedAccess::use(StagingSlotPtr slot) {
  slot_ = std::move(slot);
  is_copying_ = true;
  auto& device = *setup_.memory.device;
  const auto memory = setup_.memory.bytes;
  const auto ended = [self = shared_from_this()](const auto& error) { self->copied(error); };
  if (setup_.kind == Kind::sum)
    return device.sum(slot_, memory.data(), memory.size(),
                      [self = shared_from_this()](const auto& error, std::uint64_t sum) {
                        self->is_copying_ = false;
                        self->finish(error ? error : self->stopped_, sum);
                      });
  piece_bytes_ = std::min<std::uint64_t>(memory.size() - at_, kStagingSlotBytes);
  if (setup_.kind == Kind::read)
    return device.copy_out(slot_, memory.data() + at_, piece_bytes_, ended);
  if (piece_bytes_ > 0) std::memcpy(slot_->data(), setup_.local.data() + at_, piece_bytes_);
  device.copy_in(memory.data() + at_, slot_, piece_bytes_, ended);
}

void StagedAccess::copied(const std::optional<Error>& error) {
  is_copying_ = false;
  if (error || stopped_) return finish(error ? error : stopped_, 0);
  if (setup_.kind == Kind::read && piece_bytes_ > 0)
    std::memcpy(setup_.local.data() + at_, slot_->data(), piece_bytes_);
  slot_ = nullptr;
  at_ += piece_bytes_;
  if (at_ < setup_.memory.bytes.size()) return next();
  finish(std::nullopt, at_);
}

void StagedAccess::finish(std::optional<Error> error, std::uint64_t bytes) {
  deadline_.cancel();
  place_ = nullptr;
  slot_ = nullptr;
  setup_.memory.pin = nullptr;
  boost::asio::post(context_, [done = std::exchange(setup_.done, nullptr), error = std::move(error),
                               bytes] { done(error, error ? 0 : bytes); });
}

}  // namespace causeway
