// A group of ranks over the software NCCL, and what must hold when it ends.
//
// Use:    a Domain begins a new world of the emulator; its end waits for what NCCL still does, and
//         checks that no rule was broken and no communicator is left.
#pragma once

#include <dlfcn.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/conformance/communicator_suite.h"
#include "tests/nccl_emulator/control.h"
#include "transport/nccl/nccl_communicator.h"

namespace nccl_emulated {

using namespace communicator_suite;

inline std::string library_path() {
  return std::string(CAUSEWAY_NCCL_FOLDER) + "/current/libnccl.so.2";
}

// The emulator's own functions.
struct Emulator {
  void* handle = ::dlopen(library_path().c_str(), RTLD_NOW | RTLD_LOCAL);
  template <typename Function>
  Function* get(Function*, const char* name) const {
    auto* const found = reinterpret_cast<Function*>(::dlsym(handle, name));
    REQUIRE((found != nullptr));
    return found;
  }
#define CAUSEWAY_EMULATED(name)          \
  decltype(&nccl_emulator_##name) name = \
      get(decltype(&nccl_emulator_##name){}, "nccl_emulator_" #name)
  CAUSEWAY_EMULATED(reset);
  CAUSEWAY_EMULATED(set);
  CAUSEWAY_EMULATED(is_fault_spent);
  CAUSEWAY_EMULATED(live);
  CAUSEWAY_EMULATED(aborts);
  CAUSEWAY_EMULATED(destroyed);
  CAUSEWAY_EMULATED(violations);
  CAUSEWAY_EMULATED(use_cuda);
  CAUSEWAY_EMULATED(this_is_a_loop);
  CAUSEWAY_EMULATED(make_current);
  CAUSEWAY_EMULATED(stream);
  CAUSEWAY_EMULATED(free_stream);
  CAUSEWAY_EMULATED(copy);
  CAUSEWAY_EMULATED(mark);
  CAUSEWAY_EMULATED(is_reached);
#undef CAUSEWAY_EMULATED

  [[nodiscard]] std::string violation() const {
    char text[256];
    return violations(text, sizeof text) == 0 ? "" : text;
  }
};

inline const Emulator& emulator() {
  static const Emulator one;
  return one;
}

class EmulatedStream final : public DeviceStream {
 public:
  ~EmulatedStream() override { emulator().free_stream(stream_); }
  void make_current() override { check(emulator().make_current(stream_), "make current"); }
  [[nodiscard]] void* handle() const noexcept override { return stream_; }
  [[nodiscard]] std::span<std::byte> scratch(std::size_t size_bytes) override {
    if (scratch_.size() < size_bytes) scratch_.resize(size_bytes);
    return scratch_;
  }
  void copy(std::span<std::byte> to, std::span<const std::byte> from) override {
    check(emulator().copy(stream_, to.data(), from.data(), to.size()), "copy");
  }
  void mark() override { check(emulator().mark(stream_), "mark"); }
  [[nodiscard]] bool is_reached() override {
    int is = 0;
    check(emulator().is_reached(stream_, &is), "query");
    return is != 0;
  }

 private:
  static void check(int result, const char* what) {
    if (result != 0) throw Error(Errc::io, std::string("the device refused to ") + what);
  }
  void* const stream_ = emulator().stream();
  Bytes scratch_;
};

class Domain {
 public:
  Domain(int size, const NcclEmulatorFaults& faults, bool has_threads = false,
         std::chrono::milliseconds patience = NcclLibrary::kPatience) {
    emulator().reset(&faults);
    library_ = NcclLibrary::open(library_path(), patience);
    ranks_ = std::make_unique<RankGroup>(size, has_threads, by(library_, library_));
  }
  // All ranks but the first have `others`.
  Domain(int size, const NcclEmulatorFaults& faults, const std::shared_ptr<NcclLibrary>& others) {
    emulator().reset(&faults);
    library_ = NcclLibrary::open(library_path());
    ranks_ = std::make_unique<RankGroup>(size, false, by(library_, others));
  }
  ~Domain() {
    ranks_.reset();
    await_ends();
    CHECK(emulator().violation() == "");
    CHECK(emulator().live() == 0);
  }
  Domain(const Domain&) = delete;
  Domain& operator=(const Domain&) = delete;

  [[nodiscard]] RankGroup& ranks() { return *ranks_; }
  void set(const NcclEmulatorFaults& faults) { emulator().set(&faults); }
  // The last of the library's owners: it waits.
  void await_ends() { library_.reset(); }

 private:
  static RankGroup::Make by(const std::shared_ptr<NcclLibrary>& first,
                            const std::shared_ptr<NcclLibrary>& others) {
    return [first, others](boost::asio::io_context& context, int rank,
                           std::vector<std::shared_ptr<Channel>> peers, RankGroup::Made done) {
      emulator().this_is_a_loop();
      done(std::nullopt, make_nccl_communicator(context, {rank == 0 ? first : others,
                                                          std::make_shared<EmulatedStream>(), rank,
                                                          std::move(peers), kTag}));
    };
  }
  std::shared_ptr<NcclLibrary> library_;
  std::unique_ptr<RankGroup> ranks_;
};

}  // namespace nccl_emulated
