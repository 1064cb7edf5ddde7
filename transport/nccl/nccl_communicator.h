// Collectives inside an NVLink domain, by NCCL: values are in device memory.
//
// Shape:   a Communicator; the spans are addresses of the stream's device, which the host never
//          touches. What is to be in `values` has been written when the call is made. The first
//          operation that is not refused connects the ranks, and its deadline covers that: seconds
//          with a real NCCL; a barrier() will do.
// Errors:  as Communicator, and: unsupported for `in_rank_order`, which NCCL cannot promise
//          (refused as invalid arguments are), and if ranks have different NCCLs;
//          invalid_argument, at once and for good, if ranks call different things. A failure aborts
//          NCCL's communicator and closes the channels, so that the others hear of it: NCCL would
//          leave them waiting. The error comes when NCCL has let go of the values, or after
//          the library's patience: then it says that the values are not safe to use yet.
//          A maximum or minimum may drop a NaN, which NCCL does not promise to keep.
// Cost:    NCCL's own, a round of small messages over the channels, and a poll each 20 us to 1 ms,
//          an eighth of the time that the operation has taken. all_to_all has 8 MiB of scratch
//          memory. No thread while it runs; one for a moment at its begin and its end.
// Threads: the io_context's, as channel.h.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "transport/collective/communicator.h"
#include "transport/nccl/device_stream.h"
#include "transport/nccl/library.h"

namespace causeway {

struct NcclGroup {
  // Its destructor waits until NCCL has ended its communicators: let it go last, elsewhere.
  std::shared_ptr<NcclLibrary> library;
  std::shared_ptr<DeviceStream> stream;
  int rank;                                     // Here.
  std::vector<std::shared_ptr<Channel>> peers;  // As make_channel_communicator's; so is `tag`.
  std::uint64_t tag;
  std::vector<int> names{};
};

// A receive on `tag` stays on each channel, also after the communicator's end: it tells of deaths.
// Errors: invalid_argument for a rank that is not there, or a missing channel, library or
// stream.
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_communicator(boost::asio::io_context& context,
                                                                   NcclGroup group);

}  // namespace causeway
