// gloo's send and receive over loopback TCP, as ucx_copy_bench measures ours:
//   gloo_copy FOLDER RANK BYTES...
// FOLDER is an empty one, where the two ranks meet.
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <cstdlib>
#include <memory>

#include "tests/transport/peers/batches.h"

namespace bench = causeway::bench;

int main(int count, char** words) {
  if (count < 4) return 2;
  const int rank = std::atoi(words[2]);
  gloo::transport::tcp::attr address;
  address.hostname = "127.0.0.1";
  auto device = gloo::transport::tcp::CreateDevice(address);
  gloo::rendezvous::FileStore store(words[1]);
  const auto context = std::make_shared<gloo::rendezvous::Context>(rank, 2);
  context->connectFullMesh(store, device);
  const auto barrier = [&] {
    gloo::BarrierOptions options(context);
    gloo::barrier(options);
  };
  const auto agree = [&](int number) {
    gloo::BroadcastOptions options(context);
    options.setRoot(0);
    options.setOutput(&number, 1);
    gloo::broadcast(options);
    return number;
  };
  const auto nothing = [] {};
  for (int i = 3; i < count; ++i) {
    const auto size = static_cast<std::size_t>(std::strtoull(words[i], nullptr, 10));
    std::vector<char> bytes(size, 1);
    auto buffer = context->createUnboundBuffer(bytes.data(), size);
    const auto batch = [&](int times) {
      barrier();
      for (int left = times; left > 0; left -= bench::window(size)) {
        const int now = std::min(left, bench::window(size));
        for (int k = 0; k < now; ++k)
          if (rank == 0)
            buffer->send(1, 1);
          else
            buffer->recv(0, 1);
        for (int k = 0; k < now; ++k)
          if (rank == 0)
            buffer->waitSend();
          else
            buffer->waitRecv();
      }
      barrier();  // All have arrived.
    };
    const double seconds = bench::median_seconds(1, batch, agree, nothing, bench::kMostCopies);
    if (rank == 0) bench::print_copy("send", size, seconds);
  }
  std::vector<char> small(8);
  auto buffer = context->createUnboundBuffer(small.data(), small.size());
  const auto trips = [&](int times) {
    barrier();
    for (int k = 0; k < times; ++k) {
      if (rank == 1) buffer->recv(0, 2), buffer->waitRecv();
      buffer->send(1 - rank, 2), buffer->waitSend();
      if (rank == 0) buffer->recv(1, 2), buffer->waitRecv();
    }
  };
  const double seconds = bench::median_seconds(1, trips, agree, nothing, bench::kMostCopies);
  if (rank == 0) bench::print_half_trip(seconds / 2);
  barrier();
}
