// Memory of a GPU, of a peer that it can reach, or of a host NUMA node, at addresses of that GPU.
//
// Shape:   a segment is a handle of the driver's virtual memory management. `memory` says where
//          create() takes it; set_access() grants it to the context's device and, where the bytes
//          lie in host memory, to the processor too. A range may hold segments of several places.
// Units:   bytes; the driver's granule, 2 MiB as a rule.
// Errors:  those of MemoryBackend, with the driver's name for them. unsupported: no virtual memory
//          management on that device, or one that peers cannot reach. What the driver does not take
//          back in a destructor is offered again by later calls.
// Cost:    create fills the bytes with zeros, since the driver promises no content and another
//          session's bytes are nobody's business: the device's own speed, and some 250 us. import
//          maps the memory once to learn its size. remap is no single step: nothing may use the
//          range meanwhile, and unmap waits for nothing that runs.
// Threads: those of MemoryBackend; any context may be current, and is again afterwards.
// Source:  CUDA driver API reference, virtual memory management.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "allocator/cuda/stream.h"
#include "allocator/memory_backend.h"

namespace causeway {

class CudaBackend : public MemoryBackend {
 public:
  struct Options {
    std::string name;                  // "desktop/gpu0"
    std::uint64_t capacity_bytes = 0;  // 0: this process only imports.
    // Where create() takes memory: {kLocationDevice, ordinal}, {kLocationHostNuma, node};
    // nothing: on the context's device.
    std::optional<cuda::Location> memory = std::nullopt;
  };

  // Errors: unsupported if the device has no virtual memory management.
  CudaBackend(std::shared_ptr<CudaContext> context, Options options);
  ~CudaBackend() override;

  [[nodiscard]] const std::string& name() const noexcept override { return options_.name; }
  [[nodiscard]] const char* family() const noexcept override { return "cuda"; }
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept override { return granule_bytes_; }
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept override {
    return options_.capacity_bytes;
  }
  [[nodiscard]] std::uint64_t used_bytes() const noexcept override;
  [[nodiscard]] const std::shared_ptr<CudaContext>& context() const noexcept { return context_; }

 protected:
  std::uint64_t do_create(std::uint64_t size_bytes) override;
  void do_destroy(std::uint64_t handle, std::uint64_t size_bytes, bool created) noexcept override;
  std::byte* do_reserve(std::uint64_t size_bytes) override;
  void do_free(std::byte* data, std::uint64_t size_bytes) noexcept override;
  void do_map(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle) override;
  void do_unmap(std::byte* at, std::uint64_t size_bytes) override;
  void do_set_access(std::byte* at, std::uint64_t size_bytes, Protection protection) override;
  void do_remap(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle,
                Protection protection) override;
  UniqueFd do_export(std::uint64_t handle) override;
  std::uint64_t do_import(UniqueFd fd, std::uint64_t size_bytes) override;

 private:
  class Scratch;
  struct Mapping {
    std::uint64_t size_bytes;
    cuda::Location location;
  };
  struct Leftover {
    std::byte* range;  // Null: a handle.
    std::uint64_t size_bytes;
    cuda::Handle handle;
    bool created;
  };

  void check(cuda::Result result, const char* call) const;
  void take_capacity(std::uint64_t size_bytes);
  void give_capacity(std::uint64_t size_bytes) noexcept;
  [[nodiscard]] cuda::AllocationProp properties() const noexcept;
  [[nodiscard]] cuda::Handle create_handle(std::uint64_t size_bytes) const;
  void zero(cuda::Handle handle, std::uint64_t size_bytes);
  void check_imported(cuda::Handle handle, std::uint64_t size_bytes);
  [[nodiscard]] cuda::Location location_of(cuda::Handle handle) const;
  void set_flags(std::byte* at, std::uint64_t size_bytes, int flags);
  void restore(std::byte* at, std::uint64_t size_bytes, cuda::Handle old, int flags,
               const Error& why);
  [[nodiscard]] bool give_back_handle(cuda::Handle handle, std::uint64_t size_bytes,
                                      bool created) noexcept;
  [[nodiscard]] bool give_back_range(std::byte* at, std::uint64_t size_bytes) noexcept;
  void keep_leftover(const Leftover& leftover) noexcept;
  void offer_leftovers() noexcept;

  std::shared_ptr<CudaContext> context_;
  Options options_;
  cuda::Location memory_;
  std::uint64_t granule_bytes_ = 0;
  std::optional<CudaStream> stream_;  // Fills fresh memory. Absent where nothing is created.

  mutable std::mutex mutex_;  // Guards what follows; not held over a call of the driver.
  std::uint64_t used_bytes_ = 0;
  std::map<std::byte*, Mapping> mappings_;  // By address; map order is address order.
  std::vector<Leftover> leftovers_;
};

}  // namespace causeway
