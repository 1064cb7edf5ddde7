// A device's primary context, kept alive while somebody uses it.
//
// Shape:   retained once by this object; the driver counts holders, so that other libraries of the
//          process share the same context.
// Errors:  retain() throws not_found (no such GPU), or what the driver says.
// Cost:    the first holder of a process starts the context: some 100 ms and some 100 MB.
// Threads: any. A Current is of the thread that made it.
#pragma once

#include <memory>
#include <string>

#include "allocator/cuda/driver.h"

namespace causeway {

class CudaContext {
 public:
  [[nodiscard]] static std::shared_ptr<CudaContext> retain(std::shared_ptr<CudaDriver> driver,
                                                           int ordinal);
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;
  ~CudaContext();

  [[nodiscard]] const CudaDriver& driver() const noexcept { return *driver_; }
  [[nodiscard]] const cuda::Functions& functions() const noexcept { return driver_->functions(); }
  [[nodiscard]] int ordinal() const noexcept { return ordinal_; }
  [[nodiscard]] cuda::Device device() const noexcept { return device_; }
  [[nodiscard]] const std::string& label() const noexcept { return label_; }  // "GPU 0"

  void make_current() const;  // For the rest of the thread.

  // Makes the context the thread's, and the one before again at its end.
  class Current {
   public:
    explicit Current(const CudaContext& context);
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
    ~Current();

   private:
    const CudaContext& context_;
  };

  // The same where nothing may throw: false if the driver would not.
  class TryCurrent {
   public:
    explicit TryCurrent(const CudaContext& context) noexcept
        : context_(context),
          is_current_(context.functions().cuCtxPushCurrent(context.context_) == cuda::kSuccess) {}
    TryCurrent(const TryCurrent&) = delete;
    TryCurrent& operator=(const TryCurrent&) = delete;
    ~TryCurrent();

   private:
    const CudaContext& context_;
    bool is_current_;
  };

 private:
  CudaContext(std::shared_ptr<CudaDriver> driver, int ordinal);

  std::shared_ptr<CudaDriver> driver_;
  int ordinal_;
  std::string label_;
  cuda::Device device_ = 0;
  cuda::Context context_ = nullptr;
};

}  // namespace causeway
