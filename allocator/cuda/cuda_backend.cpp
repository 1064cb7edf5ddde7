#include "allocator/cuda/cuda_backend.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace causeway {

using namespace cuda;

namespace {

int flags_of(Protection protection) noexcept {
  switch (protection) {
    case Protection::none:
      return kAccessNone;
    case Protection::read:
      return kAccessRead;
    case Protection::read_write:
      break;
  }
  return kAccessReadWrite;
}

// A peer that claims more is wrong; below, it is this process that lacks addresses.
constexpr std::uint64_t kMostImportedBytes = std::uint64_t{1} << 45;

// What the driver may say of a descriptor that is not one of its own.
bool is_of_the_peer(Result result) noexcept {
  return result == kInvalidValue || result == kInvalidHandle || result == kOperatingSystem ||
         result == kNotPermitted || result == kUnknown;
}

std::byte* as_bytes(DevicePtr at) noexcept { return reinterpret_cast<std::byte*>(at); }

}  // namespace

// Addresses for the time of a call; a mapping there goes with them.
class CudaBackend::Scratch {
 public:
  Scratch(CudaBackend& backend, std::uint64_t size_bytes)
      : backend_(backend), size_bytes_(size_bytes), at_(backend.do_reserve(size_bytes)) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { backend_.do_free(at_, size_bytes_); }
  [[nodiscard]] std::byte* at() const noexcept { return at_; }

 private:
  CudaBackend& backend_;
  std::uint64_t size_bytes_;
  std::byte* at_;
};

CudaBackend::CudaBackend(std::shared_ptr<CudaContext> context, Options options)
    : context_(std::move(context)),
      options_(std::move(options)),
      memory_(options_.memory.value_or(Location{kLocationDevice, context_->ordinal()})) {
  const auto& f = context_->functions();
  for (const auto& [attribute, what] : {std::pair{kAttributeVmm, "virtual memory management"},
                                        {kAttributePosixFd, "memory that processes can share"}}) {
    int has = 0;
    check(f.cuDeviceGetAttribute(&has, attribute, context_->device()), "cuDeviceGetAttribute");
    if (has == 0)
      throw Error(Errc::unsupported, fmt::format("{}: {} has no {}; it cannot be lent",
                                                 options_.name, context_->label(), what));
  }
  const auto prop = properties();
  std::size_t granularity = 0;
  check(f.cuMemGetAllocationGranularity(&granularity, &prop, kGranularityMinimum),
        "cuMemGetAllocationGranularity");
  granule_bytes_ = granularity;
  if (options_.capacity_bytes > 0) stream_.emplace(context_);
}

CudaBackend::~CudaBackend() {
  if (CudaDriver::is_exiting()) return;
  offer_leftovers();
}

void CudaBackend::check(Result result, const char* call) const {
  context_->driver().check(result, options_.name, call);
}

std::uint64_t CudaBackend::used_bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  return used_bytes_;
}

void CudaBackend::take_capacity(std::uint64_t size_bytes) {
  const std::lock_guard lock(mutex_);
  const auto available = options_.capacity_bytes - used_bytes_;
  if (size_bytes > available)
    throw Error(Errc::out_of_memory,
                fmt::format("{}: {} bytes needed, {} bytes available of {}", options_.name,
                            size_bytes, available, options_.capacity_bytes));
  used_bytes_ += size_bytes;
}

void CudaBackend::give_capacity(std::uint64_t size_bytes) noexcept {
  const std::lock_guard lock(mutex_);
  used_bytes_ -= size_bytes;
}

AllocationProp CudaBackend::properties() const noexcept {
  AllocationProp prop;
  prop.type = kAllocationPinned;
  prop.handle_types = kHandleTypePosixFd;
  prop.location = memory_;
  return prop;
}

Handle CudaBackend::create_handle(std::uint64_t size_bytes) const {
  const auto& f = context_->functions();
  const auto prop = properties();
  Handle handle = 0;
  const auto result = f.cuMemCreate(&handle, size_bytes, &prop, 0);
  if (result == kSuccess) return handle;
  auto text = fmt::format("{}: {} bytes needed: cuMemCreate", options_.name, size_bytes);
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  if (result == kOutOfMemory && memory_.type == kLocationDevice &&
      f.cuMemGetInfo(&free_bytes, &total_bytes) == kSuccess)
    text = fmt::format("{}: {} bytes needed, {} bytes available of {} on the device: cuMemCreate",
                       options_.name, size_bytes, free_bytes, total_bytes);
  throw context_->driver().error(text, result);
}

std::uint64_t CudaBackend::do_create(std::uint64_t size_bytes) {
  const CudaContext::Current current(*context_);
  offer_leftovers();
  take_capacity(size_bytes);
  Handle handle = 0;
  try {
    handle = create_handle(size_bytes);
  } catch (...) {
    give_capacity(size_bytes);
    throw;
  }
  try {
    zero(handle, size_bytes);
  } catch (...) {
    do_destroy(handle, size_bytes, true);
    throw;
  }
  return handle;
}

void CudaBackend::zero(Handle handle, std::uint64_t size_bytes) {
  const Scratch scratch(*this, size_bytes);
  do_map(scratch.at(), size_bytes, handle);
  set_flags(scratch.at(), size_bytes, kAccessReadWrite);
  stream_->fill(scratch.at(), 0, size_bytes);
  const auto& f = context_->functions();
  const auto result = f.cuStreamSynchronize(stream_->handle());
  if (result == kSuccess) return;
  // The fill may still run; the addresses go next.
  (void)f.cuStreamSynchronize(stream_->handle());
  check(result, "cuStreamSynchronize");
}

bool CudaBackend::give_back_handle(Handle handle, std::uint64_t size_bytes, bool created) noexcept {
  if (context_->functions().cuMemRelease(handle) != kSuccess) return false;
  if (created) give_capacity(size_bytes);
  return true;
}

bool CudaBackend::give_back_range(std::byte* at, std::uint64_t size_bytes) noexcept {
  const auto& f = context_->functions();
  for (;;) {
    std::byte* mapped = nullptr;
    std::uint64_t mapped_bytes = 0;
    {
      const std::lock_guard lock(mutex_);
      const auto next = mappings_.lower_bound(at);
      if (next != mappings_.end() && next->first < at + size_bytes) {
        mapped = next->first;
        mapped_bytes = next->second.size_bytes;
      }
    }
    if (mapped == nullptr) return f.cuMemAddressFree(device_address(at), size_bytes) == kSuccess;
    if (f.cuMemUnmap(device_address(mapped), mapped_bytes) != kSuccess) return false;
    const std::lock_guard lock(mutex_);
    mappings_.erase(mapped);
  }
}

void CudaBackend::keep_leftover(const Leftover& leftover) noexcept {
  const std::lock_guard lock(mutex_);
  try {
    leftovers_.push_back(leftover);
  } catch (const std::bad_alloc&) {  // Lost to this process; the driver has it until the end.
  }
}

void CudaBackend::offer_leftovers() noexcept {
  std::vector<Leftover> offered;
  {
    const std::lock_guard lock(mutex_);
    if (leftovers_.empty()) return;
    offered.swap(leftovers_);
  }
  const CudaContext::TryCurrent current(*context_);
  for (const auto& each : offered) {
    const bool taken = each.range != nullptr
                           ? give_back_range(each.range, each.size_bytes)
                           : give_back_handle(each.handle, each.size_bytes, each.created);
    if (!taken) keep_leftover(each);
  }
}

void CudaBackend::do_destroy(std::uint64_t handle, std::uint64_t size_bytes,
                             bool created) noexcept {
  if (CudaDriver::is_exiting()) return;
  const CudaContext::TryCurrent current(*context_);
  if (!give_back_handle(handle, size_bytes, created))
    keep_leftover({nullptr, size_bytes, handle, created});
}

std::byte* CudaBackend::do_reserve(std::uint64_t size_bytes) {
  const CudaContext::Current current(*context_);
  DevicePtr at = 0;
  const auto result =
      context_->functions().cuMemAddressReserve(&at, size_bytes, granule_bytes_, 0, 0);
  if (result == kSuccess) return as_bytes(at);
  // Addresses and not bytes: no other device's memory would help.
  const auto error = context_->driver().error(
      fmt::format("{}: cannot reserve {} bytes of addresses: cuMemAddressReserve", options_.name,
                  size_bytes),
      result);
  throw error.code() == Errc::out_of_memory ? Error(Errc::exhausted, error.what()) : error;
}

void CudaBackend::do_free(std::byte* data, std::uint64_t size_bytes) noexcept {
  if (CudaDriver::is_exiting()) return;
  const CudaContext::TryCurrent current(*context_);
  if (!give_back_range(data, size_bytes)) keep_leftover({data, size_bytes, 0, false});
}

Location CudaBackend::location_of(Handle handle) const {
  AllocationProp prop;
  check(context_->functions().cuMemGetAllocationPropertiesFromHandle(&prop, handle),
        "cuMemGetAllocationPropertiesFromHandle");
  return prop.location;
}

void CudaBackend::do_map(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle) {
  const CudaContext::Current current(*context_);
  const auto location = location_of(handle);
  {
    const std::lock_guard lock(mutex_);  // First, since this may throw.
    mappings_.insert_or_assign(at, Mapping{size_bytes, location});
  }
  const auto result = context_->functions().cuMemMap(device_address(at), size_bytes, 0, handle, 0);
  if (result == kSuccess) return;
  {
    const std::lock_guard lock(mutex_);
    mappings_.erase(at);
  }
  check(result, "cuMemMap");
}

void CudaBackend::do_unmap(std::byte* at, std::uint64_t size_bytes) {
  const CudaContext::Current current(*context_);
  check(context_->functions().cuMemUnmap(device_address(at), size_bytes), "cuMemUnmap");
  const std::lock_guard lock(mutex_);
  mappings_.erase(mappings_.lower_bound(at), mappings_.lower_bound(at + size_bytes));
}

void CudaBackend::do_set_access(std::byte* at, std::uint64_t size_bytes, Protection protection) {
  const CudaContext::Current current(*context_);
  set_flags(at, size_bytes, flags_of(protection));
}

// One call for each run of mappings in one kind of place: the driver refuses the processor's access
// to a device's memory, and some drivers a run that mixes the two.
void CudaBackend::set_flags(std::byte* at, std::uint64_t size_bytes, int flags) {
  const std::array<AccessDesc, 2> grants{
      {{{kLocationDevice, context_->ordinal()}, flags}, {{kLocationHostNuma, 0}, flags}}};
  std::byte* const end = at + size_bytes;
  while (at < end) {
    std::byte* run_end = at;
    int kind = 0;
    {
      const std::lock_guard lock(mutex_);
      auto mapping = mappings_.find(at);
      if (mapping == mappings_.end())
        throw Error(Errc::internal, options_.name + ": no mapping is known where one should be");
      kind = mapping->second.location.type;
      for (; mapping != mappings_.end() && mapping->first == run_end && run_end < end &&
             mapping->second.location.type == kind;
           ++mapping)
        run_end += mapping->second.size_bytes;
    }
    const auto count = kind == kLocationHostNuma ? 2U : 1U;
    check(context_->functions().cuMemSetAccess(
              device_address(at), static_cast<std::size_t>(run_end - at), grants.data(), count),
          "cuMemSetAccess");
    at = run_end;
  }
}

void CudaBackend::do_remap(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle,
                           Protection protection) {
  const CudaContext::Current current(*context_);
  const auto& f = context_->functions();
  const Location own{kLocationDevice, context_->ordinal()};
  unsigned long long old_flags = 0;
  check(f.cuMemGetAccess(&old_flags, &own, device_address(at)), "cuMemGetAccess");
  Handle old = 0;
  check(f.cuMemRetainAllocationHandle(&old, at), "cuMemRetainAllocationHandle");
  try {
    do_unmap(at, size_bytes);
    try {
      do_map(at, size_bytes, handle);
      set_flags(at, size_bytes, flags_of(protection));
    } catch (const Error& error) {
      restore(at, size_bytes, old, static_cast<int>(old_flags), error);
      throw;
    }
  } catch (...) {
    do_destroy(old, size_bytes, false);
    throw;
  }
  do_destroy(old, size_bytes, false);
}

// Puts `old` back where it was, after a remap that failed half way for the reason `why`.
void CudaBackend::restore(std::byte* at, std::uint64_t size_bytes, Handle old, int flags,
                          const Error& why) {
  try {
    bool is_mapped = false;
    {
      const std::lock_guard lock(mutex_);
      is_mapped = mappings_.contains(at);
    }
    if (is_mapped) do_unmap(at, size_bytes);
    do_map(at, size_bytes, old);
    set_flags(at, size_bytes, flags);
  } catch (const Error& error) {
    throw Error(Errc::internal,
                fmt::format("{}: {} bytes at {} are mapped no more: {}; and then: {}",
                            options_.name, size_bytes, fmt::ptr(at), why.what(), error.what()));
  }
}

UniqueFd CudaBackend::do_export(std::uint64_t handle) {
  const CudaContext::Current current(*context_);
  int fd = -1;
  check(context_->functions().cuMemExportToShareableHandle(&fd, handle, kHandleTypePosixFd, 0),
        "cuMemExportToShareableHandle");
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  return UniqueFd(fd);
}

std::uint64_t CudaBackend::do_import(UniqueFd fd, std::uint64_t size_bytes) {
  const CudaContext::Current current(*context_);
  Handle handle = 0;
  const auto result = context_->functions().cuMemImportFromShareableHandle(
      &handle, reinterpret_cast<void*>(static_cast<std::uintptr_t>(fd.get())), kHandleTypePosixFd);
  const auto refuse = [&](const std::string& why) {
    return Error(Errc::protocol, fmt::format("{}: refused to import {} bytes: {}; ask the peer for"
                                             " an exported segment",
                                             options_.name, size_bytes, why));
  };
  if (result != kSuccess) {
    const auto error =
        context_->driver().error(options_.name + ": cuMemImportFromShareableHandle", result);
    throw is_of_the_peer(result) ? refuse(error.what()) : error;
  }
  try {
    check_imported(handle, size_bytes);
  } catch (const Error& error) {
    do_destroy(handle, size_bytes, false);
    if (error.code() == Errc::protocol || error.code() == Errc::invalid_argument)
      throw refuse(error.what());
    throw;
  }
  return handle;
}

// The driver does not tell how large a handle's memory is, but maps no more than there is.
void CudaBackend::check_imported(Handle handle, std::uint64_t size_bytes) {
  const auto& f = context_->functions();
  const auto kind = location_of(handle).type;
  if (kind != kLocationDevice && kind != kLocationHostNuma)
    throw Error(Errc::protocol, fmt::format("its memory is of the unknown kind {}", kind));
  if (size_bytes > kMostImportedBytes) throw Error(Errc::protocol, "no device has that many bytes");
  const auto more_bytes = size_bytes + granule_bytes_;
  const Scratch scratch(*this, more_bytes);
  const auto at = device_address(scratch.at());
  const auto result = f.cuMemMap(at, more_bytes, 0, handle, 0);
  if (result == kSuccess) {
    if (f.cuMemUnmap(at, more_bytes) != kSuccess) check(f.cuMemUnmap(at, more_bytes), "cuMemUnmap");
    throw Error(Errc::protocol, "it has more bytes");
  }
  if (result != kInvalidValue) check(result, "cuMemMap");  // No answer to the question.
  do_map(scratch.at(), size_bytes, handle);
}

}  // namespace causeway
