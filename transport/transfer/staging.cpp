// How chunks of a device get to their slots, ahead of the rails.
#include "transport/device/staging.h"

#include "transport/transfer/state.h"

namespace causeway {

// Inside of deal_chunks(): what becomes ready here is dealt next.
void Rails::State::stage_ahead(const TransferPtr& transfer) {
  while (transfer->may_stage()) {
    auto chunk = transfer->take_new();
    if (!pin(*transfer, chunk)) return;
    if (chunk.memory.device == nullptr)
      return transfer->fail(
          Error(Errc::invalid_argument, "a transfer of a device's memory and of the host's"));
    stage(transfer, std::move(chunk));
  }
}

void Rails::State::stage(const TransferPtr& transfer, Chunk chunk) {
  auto& device = *chunk.memory.device;
  try {
    device.check();
  } catch (const Error& error) {
    return transfer->fail(error);
  }
  if (!transfer->staging) {
    transfer->staging = device.report();
    transfer->chunk_bytes = device.report().chunk_bytes;
  }
  ++transfer->staged;
  ++transfer->in_flight;
  if ((chunk.slot = device.own().take())) return fill(transfer, std::move(chunk));
  transfer->in_line = device.own().wait(
      [self = shared_from_this(), transfer, chunk = std::move(chunk)](StagingSlotPtr slot) mutable {
        const auto place = std::move(transfer->in_line);  // Which is this very function.
        chunk.slot = std::move(slot);
        self->fill(transfer, std::move(chunk));
        self->deal();
      });
}

// A write's bytes come from the device first; a read's slot waits for its rail.
void Rails::State::fill(const TransferPtr& transfer, Chunk chunk) {
  if (!transfer->is_write) {
    --transfer->in_flight;
    if (!transfer->error) transfer->put_back(std::move(chunk));
    return transfer->end_if_idle();
  }
  auto& device = *chunk.memory.device;
  const auto slot = chunk.slot;
  const auto memory = chunk.memory.bytes;
  device.copy_out(slot, memory.data(), memory.size(),
                  [self = shared_from_this(), transfer,
                   chunk = std::move(chunk)](const std::optional<Error>& error) mutable {
                    self->filled(transfer, std::move(chunk), error);
                  });
}

void Rails::State::filled(const TransferPtr& transfer, Chunk chunk,
                          const std::optional<Error>& error) {
  --transfer->in_flight;
  if (error)
    transfer->fail(*error);
  else if (!transfer->error)
    transfer->put_back(std::move(chunk));
  transfer->end_if_idle();
  deal();
}

}  // namespace causeway
