// gloo's all-reduce of floats over loopback TCP, as collective_bench measures ours:
//   gloo_all_reduce FOLDER RANK RANKS BYTES...
// FOLDER is an empty one, where the ranks meet.
#include <gloo/allreduce.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <cstdlib>
#include <memory>

#include "tests/transport/peers/batches.h"

int main(int count, char** words) {
  if (count < 5) return 2;
  const int rank = std::atoi(words[2]), ranks = std::atoi(words[3]);
  gloo::transport::tcp::attr address;
  address.hostname = "127.0.0.1";
  auto device = gloo::transport::tcp::CreateDevice(address);
  gloo::rendezvous::FileStore store(words[1]);
  const auto context = std::make_shared<gloo::rendezvous::Context>(rank, ranks);
  context->connectFullMesh(store, device);
  const auto barrier = [&] {
    gloo::BarrierOptions options(context);
    gloo::barrier(options);
  };
  for (int i = 4; i < count; ++i) {
    const auto size = static_cast<std::size_t>(std::strtoull(words[i], nullptr, 10));
    std::vector<float> values(size / sizeof(float));
    const auto batch = [&](int times) {
      barrier();
      for (int k = 0; k < times; ++k) {
        gloo::AllreduceOptions options(context);
        options.setOutput(values.data(), values.size());
        options.setReduceFunction([](void* into, const void* a, const void* b, std::size_t n) {
          gloo::sum<float>(static_cast<float*>(into), static_cast<const float*>(a),
                           static_cast<const float*>(b), n);
        });
        gloo::allreduce(options);
      }
    };
    const auto agree = [&](int number) {
      gloo::BroadcastOptions options(context);
      options.setRoot(0);
      options.setOutput(&number, 1);
      gloo::broadcast(options);
      return number;
    };
    const auto reset = [&] { std::fill(values.begin(), values.end(), 1.0F); };
    const double seconds = causeway::bench::median_seconds(5, batch, agree, reset);
    if (rank == 0) causeway::bench::print("gloo", size, ranks, seconds);
  }
  barrier();
}
