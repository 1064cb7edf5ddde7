// Copies between memory of GPUs and other memory of the daemon, on a thread of its own: neither a
// slow copy nor a driver that hangs holds up the daemon.
//
// Shape:   one copy at a time, in order. Between memory of two GPUs, by as much host memory.
// Units:   bytes.
// Errors:  what the driver says.
// Cost:    host memory is not pinned: about half of what the card's link carries.
// Threads: the daemon's one. Destroyed only once the copy that runs has ended.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <map>
#include <memory>
#include <vector>

#include "runtime/node/lender.h"
#include "transport/blocking.h"

namespace causeway {

class GpuCopier {
 public:
  explicit GpuCopier(boost::asio::io_context& context);
  ~GpuCopier();

  // Errors: timed_out. A copy that runs then still ends, and keeps the memory until it has; one
  // that has not begun never does.
  boost::asio::awaitable<void> copy(Lender::Part to, Lender::Part from, Deadline deadline);

 private:
  void copy_now(const Lender::Part& to, const Lender::Part& from);  // On the thread.
  CudaStream& stream_of(const std::shared_ptr<CudaContext>& gpu);

  boost::asio::io_context& context_;
  std::map<const CudaContext*, CudaStream> streams_;  // On the thread.
  std::vector<std::byte> between_;                    // On the thread.
  IoThread thread_;                                   // Goes first.
};

}  // namespace causeway
