// libnccl.so.2, opened when it is needed and never linked.
//
// Shape:   functions() are valid for the rest of the process: the library starts threads of its own
//          and is not unloaded.
// Errors:  open() throws unsupported: not installed, older than 2.19.1 (the first whose
//          communicators can be aborted from another thread), or without a function. The message
//          says what to do.
// Threads: open() from any; then immutable. What NCCL asks of its callers' threads is in
//          member.h.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "allocator/error.h"
#include "transport/nccl/abi.h"
#include "transport/nccl/aside.h"

namespace causeway {

class NcclLibrary {
 public:
  // Patience is how long NCCL may take to end a communicator that was aborted, or to end one in
  // order with all its ranks, before it is given up.
  static constexpr std::chrono::milliseconds kPatience{5000};

  // `path`: a library's name or file; empty: what CAUSEWAY_NCCL_LIBRARY says, or libnccl.so.2.
  [[nodiscard]] static std::shared_ptr<NcclLibrary> open(
      const std::string& path = {}, std::chrono::milliseconds patience = kPatience);

  [[nodiscard]] const nccl::Functions& functions() const noexcept { return functions_; }
  [[nodiscard]] int version() const noexcept { return version_; }
  [[nodiscard]] std::chrono::milliseconds patience() const noexcept { return patience_; }
  [[nodiscard]] nccl::Aside& aside() noexcept { return aside_; }

  // "ncclAllReduce failed: ...", with the code that fits `result`.
  [[nodiscard]] Error error(const std::string& what, nccl::Result result) const;

 private:
  explicit NcclLibrary(std::chrono::milliseconds patience)
      : patience_(patience), aside_(2 * patience) {}
  nccl::Functions functions_{};
  int version_ = 0;
  const std::chrono::milliseconds patience_;
  nccl::Aside aside_;
};

[[nodiscard]] std::string nccl_version_text(int version);  // "2.19.1"

}  // namespace causeway
