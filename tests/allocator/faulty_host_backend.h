// A host backend whose n-th system-facing call fails, for "fail the n-th call" loops.
//
// Shape:   arm(n) counts down over all do_ calls; the n-th throws Errc::io and does nothing.
//          fail_unmaps makes every unmap fail, until it is reset;
//          refuses_read_only every grant of reading alone.
// Threads: one.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "allocator/error.h"
#include "allocator/host/host_backend.h"

namespace causeway::test {

class FaultyHostBackend : public HostBackend {
 public:
  using HostBackend::HostBackend;

  void arm(int n) { countdown_ = n; }
  // True if the call that was to fail has not come. Afterwards none is to fail.
  [[nodiscard]] bool disarm() { return std::exchange(countdown_, 0) > 0; }
  bool fail_unmaps = false;
  std::optional<Errc> refuses_read_only;  // With this code.

 protected:
  std::uint64_t do_create(std::uint64_t size_bytes) override {
    step("create");
    return HostBackend::do_create(size_bytes);
  }
  std::byte* do_reserve(std::uint64_t size_bytes) override {
    step("reserve");
    return HostBackend::do_reserve(size_bytes);
  }
  void do_map(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle) override {
    step("map");
    HostBackend::do_map(at, size_bytes, handle);
  }
  void do_unmap(std::byte* at, std::uint64_t size_bytes) override {
    if (fail_unmaps) throw Error(Errc::io, "unmap fails on purpose");
    step("unmap");
    HostBackend::do_unmap(at, size_bytes);
  }
  void do_set_access(std::byte* at, std::uint64_t size_bytes, Protection protection) override {
    step("set_access");
    if (refuses_read_only && protection == Protection::read)
      throw Error(*refuses_read_only, "read-only access is refused on purpose");
    HostBackend::do_set_access(at, size_bytes, protection);
  }
  void do_remap(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle,
                Protection protection) override {
    step("remap");
    HostBackend::do_remap(at, size_bytes, handle, protection);
  }

 private:
  void step(const char* call) {
    if (countdown_ > 0 && --countdown_ == 0)
      throw Error(Errc::io, std::string(call) + " fails on purpose");
  }
  int countdown_ = 0;
};

}  // namespace causeway::test
