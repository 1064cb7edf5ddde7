// Memory of one device as the transport reaches it: by copies through pinned host memory.
//
// Shape:   two sets of slots, so that neither waits for the other: one for what this side asks of
//          peers, one for what peers ask of it. (With one, two daemons that write to each other
//          would wait for each other's slots.) Three lanes of copies: to the device, from it, and
//          between devices of an island; all three run at once. A copy's end comes to the loop.
// Units:   bytes.
// Errors:  device_failed with the driver's name; the constructor also out_of_memory and those of
//          the driver. Once the context is broken (an illegal address) every copy ends so.
// Cost:    2 * slots * kStagingSlotBytes of pinned memory and at most 30 ms to begin with, in which
//          chunks are measured; a thread for each lane in use. Copies: copy_lane.h.
// Threads: the loop's, which outlives this. The destructor waits for copies under way; who has
//          asked for one keeps this until its `done`.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "allocator/cuda/copy_lane.h"
#include "transport/device/slots.h"

namespace causeway {

// Chunks of one size, both ways at once.
struct StagingTrial {
  std::uint64_t chunk_bytes;
  double bytes_per_second;  // Of both ways together, in the best round.
};

struct StagingReport {
  std::string device;  // "GPU 0"
  std::uint64_t chunk_bytes = kStagingSlotBytes;
  std::size_t slots = 0;               // On either side.
  std::vector<StagingTrial> trials{};  // Why; none: nothing could be measured.
};

// The smallest chunk that carries nearly as much as the best: the less of a transfer waits for its
// first copy and its last, and the less is lost with a rail.
[[nodiscard]] std::uint64_t choose_chunk(std::span<const StagingTrial> trials) noexcept;

class DeviceStaging {
 public:
  using Done = std::function<void(std::optional<Error> error)>;
  using Summed = std::function<void(std::optional<Error> error, std::uint64_t sum)>;
  struct Options {
    std::size_t slots = 16;  // On either side; at least 2.
    std::chrono::milliseconds measures = std::chrono::milliseconds(30);  // At most.
  };

  DeviceStaging(boost::asio::io_context& loop, std::shared_ptr<CudaContext> context,
                Options options);
  DeviceStaging(boost::asio::io_context& loop, std::shared_ptr<CudaContext> context)
      : DeviceStaging(loop, std::move(context), Options{}) {}

  // For what this side asks, and for what peers do.
  [[nodiscard]] StagingSlots& own() noexcept { return *own_; }
  [[nodiscard]] StagingSlots& served() noexcept { return *served_; }
  [[nodiscard]] const StagingReport& report() const noexcept { return report_; }
  void check() const;  // Throws, if the context is broken.

  // `done` is called once, later. The slot stays taken until then; the device's memory is the
  // caller's to keep.
  void copy_in(std::byte* to, StagingSlotPtr from, std::size_t size_bytes, Done done);
  void copy_out(StagingSlotPtr to, const std::byte* from, std::size_t size_bytes, Done done);
  // Both addresses on this device, or one on a peer of its island.
  void copy_across(std::byte* to, const std::byte* from, std::size_t size_bytes, Done done);

  // The checksum of memory of the device, in pieces that pass through one slot.
  void sum(StagingSlotPtr through, const std::byte* from, std::size_t size_bytes, Summed done);

 private:
  struct Sum;
  void copy(CudaCopyLane& lane, std::byte* to, const std::byte* from, std::size_t size_bytes,
            StagingSlotPtr slot, Done done);
  void sum_next(const std::shared_ptr<Sum>& sum);
  void measure(const std::shared_ptr<CudaContext>& context, std::chrono::milliseconds limit);
  [[nodiscard]] double measure_round(std::byte* on_device, std::uint64_t chunk_bytes);

  boost::asio::io_context& loop_;
  std::shared_ptr<std::optional<Error>> failure_ = std::make_shared<std::optional<Error>>();
  std::shared_ptr<StagingSlots> own_;
  std::shared_ptr<StagingSlots> served_;
  CudaCopyLane in_;
  CudaCopyLane out_;
  CudaCopyLane across_;
  StagingReport report_;
};

}  // namespace causeway
