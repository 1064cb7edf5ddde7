// Goal:   NCCL and the stream it is given go together: what it does to a GPU's memory comes behind
// what
//         was queued before and ahead of what is queued later, on the thread whose GPU is current.
// Method: the software NCCL on streams of the software driver, which are slowed: a launch is a host
//         function on each rank's stream. That the real two do the same is not shown here.
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_NO_POSIX_SIGNALS  // The software driver catches faults of its streams.
#include <cstdlib>

#include "tests/transport/nccl_emulated.h"
#include "transport/nccl/cuda_device_stream.h"

using namespace communicator_suite;
using nccl_emulated::emulator;

namespace {

constexpr std::size_t kCount = 5000;

const std::shared_ptr<CudaContext>& gpu() {
  static const auto* const made_once =  // Nobody asks the driver while the process ends.
      new std::shared_ptr<CudaContext>(CudaContext::retain(CudaDriver::open(), 0));
  return *made_once;
}

int launch_host_func(void* stream, void (*function)(void*), void* data) {
  using LaunchHostFunc = int (*)(void*, void (*)(void*), void*);
  static const auto launch = reinterpret_cast<LaunchHostFunc>(
      ::dlsym(::dlopen(CAUSEWAY_CUDA_EMULATOR_FILE, RTLD_NOW | RTLD_NOLOAD), "cuLaunchHostFunc"));
  const CudaContext::Current current(*gpu());  // NCCL's own doing.
  return launch(stream, function, data);
}
int get_current(void** context) {
  using GetCurrent = int (*)(void**);
  static const auto get = reinterpret_cast<GetCurrent>(
      ::dlsym(::dlopen(CAUSEWAY_CUDA_EMULATOR_FILE, RTLD_NOW | RTLD_NOLOAD), "cuCtxGetCurrent"));
  return get(context);
}

// Ranks on one GPU, each with memory of it.
class Gpus {
 public:
  explicit Gpus(int size, const NcclEmulatorFaults& faults = {}) {
    emulator().reset(&faults);
    const NcclEmulatorCuda driver{launch_host_func, get_current};
    emulator().use_cuda(&driver);
    library_ = NcclLibrary::open(nccl_emulated::library_path());
    for (int rank = 0; rank < size; ++rank) {
      memory_.push_back(CudaPlainMemory::on_device(gpu(), kCount * sizeof(std::int32_t)));
      streams_.push_back(std::make_shared<CudaDeviceStream>(gpu()));
    }
    ranks_ = std::make_unique<RankGroup>(
        size, false,
        [this](boost::asio::io_context& context, int rank,
               std::vector<std::shared_ptr<Channel>> peers, RankGroup::Made done) {
          emulator().this_is_a_loop();
          done(std::nullopt,
               make_nccl_communicator(context, {library_, streams_[static_cast<std::size_t>(rank)],
                                                rank, std::move(peers), kTag}));
        });
  }
  ~Gpus() {
    ranks_.reset();
    streams_.clear();
    library_.reset();
    gpu()->make_current();
    CHECK(gpu()->functions().cuCtxSynchronize() == cuda::kSuccess);
    emulator().use_cuda(nullptr);
    CHECK(emulator().violation() == "");
    CHECK(emulator().live() == 0);
  }
  Gpus(const Gpus&) = delete;
  Gpus& operator=(const Gpus&) = delete;

  [[nodiscard]] RankGroup& ranks() { return *ranks_; }
  [[nodiscard]] std::span<std::byte> bytes(int rank) const {
    return memory_[static_cast<std::size_t>(rank)].bytes();
  }
  void put(int rank, const std::vector<std::int32_t>& values) const {
    CudaStream stream(gpu());
    stream.copy_in(bytes(rank).data(), values.data(), bytes(rank).size());
    stream.synchronize();
  }
  [[nodiscard]] std::vector<std::int32_t> get(int rank) const {
    std::vector<std::int32_t> values(kCount);
    CudaStream stream(gpu());
    stream.copy_out(values.data(), bytes(rank).data(), bytes(rank).size());
    stream.synchronize();
    return values;
  }

 private:
  std::shared_ptr<NcclLibrary> library_;
  std::vector<CudaPlainMemory> memory_;
  std::vector<std::shared_ptr<CudaDeviceStream>> streams_;
  std::unique_ptr<RankGroup> ranks_;
};

constexpr Reduction kSum{DataType::i32, ReduceOp::sum, false};

}  // namespace

TEST_CASE("ranks combine and spread what lies in a GPU's memory") {
  for (const int n : {1, 2, 3}) {
    INFO("ranks=", n);
    Gpus gpus(n);
    const auto values = whole_values<std::int32_t>(n, kCount, 5);
    std::vector<std::int32_t> sum(kCount);
    for (int rank = 0; rank < n; ++rank) {
      const auto& own = values[static_cast<std::size_t>(rank)];
      gpus.put(rank, own);
      for (std::size_t i = 0; i < kCount; ++i) sum[i] += own[i];
    }
    check_all(gpus.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
      c.all_reduce(gpus.bytes(rank), kSum, in(kAmple), std::move(done));
    }));
    for (int rank = 0; rank < n; ++rank) CHECK(gpus.get(rank) == sum);
    gpus.put(n - 1, values[0]);
    check_all(gpus.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
      c.broadcast(gpus.bytes(rank), n - 1, in(kAmple), std::move(done));
    }));
    for (int rank = 0; rank < n; ++rank) CHECK(gpus.get(rank) == values[0]);
    // Through scratch memory: copies on the same stream, before and after what NCCL does.
    check_all(gpus.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
      c.all_to_all(gpus.bytes(rank).first(static_cast<std::size_t>(n) * 400), 4, in(kAmple),
                   std::move(done));
    }));
    for (int rank = 0; rank < n; ++rank) {
      const auto got = gpus.get(rank);
      for (std::size_t i = 0; i < static_cast<std::size_t>(n) * 100; ++i)
        REQUIRE(got[i] == values[0][static_cast<std::size_t>(rank) * 100 + i % 100]);
    }
  }
}

TEST_CASE("a rank that does not come lets the others' streams go, in time and with an error") {
  Gpus gpus(2);
  const auto results = gpus.ranks().run(
      [&](Communicator& c, int rank, Communicator::Done done) {
        c.all_reduce(gpus.bytes(rank), kSum, in(300ms), std::move(done));
      },
      {0});
  CHECK((results[0].code == Errc::timed_out));
}

int main(int argc, char** argv) {
  ::setenv("CAUSEWAY_CUDA_LIBRARY", CAUSEWAY_CUDA_EMULATOR_FILE, 1);
  ::setenv("CAUSEWAY_CUDA_EMULATOR", "{devices: 1, stream_delay_us: 5000, strict_contexts: true}",
           1);
  return doctest::Context(argc, argv).run();
}
