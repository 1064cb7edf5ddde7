#include "allocator/device_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "allocator/error.h"

namespace causeway {

// Shared by the device and its loans: whoever goes last frees the window.
struct Loan::Device {
  explicit Device(std::shared_ptr<MemoryBackend> memory);

  [[nodiscard]] Error out_of_memory(std::uint64_t size_bytes) const;
  [[nodiscard]] Loan make_loan(const std::shared_ptr<Device>& self, Extent extent);

  std::shared_ptr<MemoryBackend> backend;
  std::mutex mutex;  // Guards what follows.
  ExtentAllocator extents;
  Reservation window;
};

namespace {

ExtentAllocator make_extents(const MemoryBackend& backend) {
  const auto granule_bytes = backend.granule_bytes();
  const auto capacity_bytes = backend.capacity_bytes() / granule_bytes * granule_bytes;
  auto extents = ExtentAllocator::create({capacity_bytes, granule_bytes});
  if (!extents)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: a capacity of {} bytes is less than one granule of {} bytes",
                            backend.name(), backend.capacity_bytes(), granule_bytes));
  return std::move(*extents);
}

}  // namespace

Loan::Device::Device(std::shared_ptr<MemoryBackend> memory)
    : backend(std::move(memory)),
      extents(make_extents(*backend)),
      window(backend->reserve(extents.capacity_bytes())) {}

Error Loan::Device::out_of_memory(std::uint64_t size_bytes) const {
  auto text = fmt::format("{}: {} bytes needed, {} bytes available of {}", backend->name(),
                          size_bytes, extents.free_bytes(), extents.capacity_bytes());
  if (extents.free_bytes() >= size_bytes)
    text += fmt::format("; the largest free piece has {} bytes", extents.largest_hole_bytes());
  return {Errc::out_of_memory, text};
}

// The mutex is held and `extent` is taken; it goes back if this throws.
Loan Loan::Device::make_loan(const std::shared_ptr<Device>& self, Extent extent) {
  bool mapped = false;
  try {
    auto segment = backend->create(extent.size_bytes);
    backend->map(window, extent.offset_bytes, segment);
    mapped = true;
    backend->set_access(window, extent.offset_bytes, extent.size_bytes, Protection::read_write);
    return Loan(self, extent, std::move(segment));
  } catch (...) {
    if (mapped) backend->unmap(window, extent.offset_bytes, extent.size_bytes);
    (void)extents.release(extent);
    throw;
  }
}

Loan::Loan(std::shared_ptr<Device> device, Extent extent, Segment segment) noexcept
    : device_(std::move(device)), extent_(extent), segment_(std::move(segment)) {}

Loan::Loan(Loan&& other) noexcept { *this = std::move(other); }

Loan& Loan::operator=(Loan&& other) noexcept {
  if (this == &other) return *this;
  reset();
  device_ = std::move(other.device_);
  extent_ = std::exchange(other.extent_, Extent{0, 0});
  segment_ = std::move(other.segment_);
  return *this;
}

Loan::~Loan() { reset(); }

void Loan::reset() noexcept {
  if (!device_) return;
  const auto device = std::exchange(device_, nullptr);
  const std::lock_guard lock(device->mutex);
  try {
    device->backend->unmap(device->window, extent_.offset_bytes, extent_.size_bytes);
    segment_ = Segment();
    (void)device->extents.release(extent_);
  } catch (const Error&) {
    // The addresses could not be freed. The extent stays lent, so that nobody gets them twice; the
    // bytes themselves go back with the window.
    segment_ = Segment();
  }
  extent_ = {0, 0};
}

std::span<std::byte> Loan::bytes() const noexcept {
  if (!device_) return {};
  return {device_->window.data() + extent_.offset_bytes, extent_.size_bytes};
}

UniqueFd Loan::export_fd() const {
  if (!device_) throw Error(Errc::invalid_argument, "an empty loan has nothing to export");
  return device_->backend->export_segment(segment_);
}

DeviceMemory::DeviceMemory(std::shared_ptr<MemoryBackend> backend)
    : device_(std::make_shared<Loan::Device>(std::move(backend))) {}

Loan DeviceMemory::lend(std::uint64_t size_bytes) {
  if (size_bytes == 0) throw Error(Errc::invalid_argument, name() + ": cannot lend 0 bytes");
  const std::lock_guard lock(device_->mutex);
  const auto extent = device_->extents.allocate(size_bytes);
  if (!extent) throw device_->out_of_memory(size_bytes);
  return device_->make_loan(device_, *extent);
}

std::vector<Loan> DeviceMemory::lend_pieces(std::uint64_t size_bytes) {
  if (size_bytes == 0) throw Error(Errc::invalid_argument, name() + ": cannot lend 0 bytes");
  std::vector<Loan> loans;  // Outlives the lock, which their destructors take.
  const std::lock_guard lock(device_->mutex);
  auto& extents = device_->extents;
  if (size_bytes > extents.free_bytes()) throw device_->out_of_memory(size_bytes);
  for (auto rest = size_bytes; rest > 0;) {
    auto& loan = loans.emplace_back();
    const auto extent = extents.allocate(std::min(rest, extents.largest_hole_bytes())).value();
    loan = device_->make_loan(device_, extent);
    rest -= std::min(rest, extent.size_bytes);
  }
  return loans;
}

const std::string& DeviceMemory::name() const noexcept { return device_->backend->name(); }

std::uint64_t DeviceMemory::granule_bytes() const noexcept {
  return device_->backend->granule_bytes();
}

std::uint64_t DeviceMemory::capacity_bytes() const noexcept {
  return device_->extents.capacity_bytes();
}

std::uint64_t DeviceMemory::used_bytes() const {
  const std::lock_guard lock(device_->mutex);
  return device_->extents.used_bytes();
}

std::uint64_t DeviceMemory::available_bytes() const {
  const std::lock_guard lock(device_->mutex);
  return device_->extents.free_bytes();
}

}  // namespace causeway
