// One rank's part in an NCCL communicator: its begin, the way of an operation, and its end.
//
// Shape:   operations take turns (turns.h). Each: the ranks agree over their channels about what
//          they call; NCCL is called; when it says that the work is on the stream, a mark is put
//          behind it; when the mark is reached, the operation has ended. What is called is in
//          operations.cpp.
// Errors:  the first failure of any step breaks the member: the channels are closed and NCCL's
//          communicator is aborted.
// Threads: the io_context's. NCCL's communicators are non-blocking, so its calls return at once and
//          ncclCommGetAsyncError tells the rest. Five may block all the same, and are made aside:
//          ncclGetUniqueId and ncclCommInitRankConfig (the first of a process starts CUDA and looks
//          for networks), ncclCommAbort (waits for kernels and for NCCL's threads; of several ranks
//          in one process, the last one does it for all), ncclCommDestroy, and ncclCommFinalize
//          before it, which waits for all ranks. Nothing else uses the communicator then.
// Source:  NCCL's user guide, "Fault Tolerance" and "Group Calls"; its sources of 2.32 for what
//          blocks.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "transport/collective/turns.h"
#include "transport/nccl/nccl_communicator.h"

namespace causeway::nccl {

namespace asio = boost::asio;
using collective::Step;
using collective::Values;

struct Member final : collective::Turns {
  Member(asio::io_context& io, NcclGroup own);
  ~Member() override;

  // `work` has what NCCL does; empty: nothing.
  Step run(const std::function<Step()>& work);
  void leave();  // The communicator is gone.

  Step broadcast(Values bytes, int root);
  Step all_reduce(Values values, Reduction how);
  Step reduce_scatter(Values values, Shares shares, Reduction how);
  Step all_gather(Values values, Shares shares);
  Step all_to_all(Values values, std::size_t value_bytes);

  const int rank;
  const int size;

 private:
  using Clock = std::chrono::steady_clock;
  using Add = std::function<void(const char* call, Result result)>;
  struct Joining;

  // "all_reduce (operation 3)"
  [[nodiscard]] std::string describe() const;
  [[nodiscard]] Error error(const char* call, Result result) const;
  [[nodiscard]] Stream stream() const noexcept;

  void on_break(const Error& error) override;
  void watch();
  Step connect();
  Step agree();
  Step make_id(UniqueId& id);
  Step join_ranks(UniqueId id);
  void take_comm();
  void abort_comm();
  Step let_go();
  Step doze(Clock::time_point limit, std::function<bool()> is_met);

  // Waits a moment. Errors: what broke the member; timed_out at the operation's deadline.
  Step pause();
  // Until NCCL has done what `call` began with `result`.
  Step settled(const char* call, Result result);
  // Until all that is on the stream has run.
  Step reached();
  // Calls what `each` adds as one.
  Step grouped(const std::function<void(const Add&)>& each);

  const NcclGroup group_;
  const Functions& nccl_;
  const std::unique_ptr<Communicator> control_;  // The same ranks, over the channels.
  asio::steady_timer timer_;
  Clock::time_point begin_;  // Of the operation.
  bool is_watching_ = false;
  Comm comm_ = nullptr;
  std::shared_ptr<Joining> joining_;                // While NCCL makes the communicator.
  std::shared_ptr<const std::atomic<bool>> ended_;  // Once it is being aborted.
};

}  // namespace causeway::nccl
