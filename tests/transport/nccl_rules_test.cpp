// Goal:   the software NCCL sees what its callers do wrong: else the other test proves nothing.
// Method: raw calls by one thread for two ranks, each case with one mistake, and what is said of
// it.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <thread>

#include "tests/transport/nccl_emulated.h"

using causeway::NcclLibrary;
using nccl_emulated::EmulatedStream;
using nccl_emulated::emulator;
using nccl_emulated::library_path;
using namespace causeway::nccl;

namespace {

// Two ranks that have begun, by raw calls.
class Pair {
 public:
  explicit Pair(bool is_begun = true) {
    const NcclEmulatorFaults faults{.polls = 2};
    emulator().reset(&faults);
    library_ = NcclLibrary::open(library_path());
    CHECK(nccl().GetUniqueId(&id) == kSuccess);
    if (!is_begun) return;
    for (int r = 0; r < 2; ++r) CHECK(begin(r) == kInProgress);
    for (int r = 0; r < 2; ++r) settle(r);
    CHECK(emulator().violation() == "");
  }
  Result begin(int r) {
    Config config;
    config.blocking = 0;
    streams[r].make_current();
    return nccl().CommInitRankConfig(&comm[r], 2, id, r, &config);
  }
  void settle(int r) {
    Result result = kInProgress;
    for (int i = 0; i < 100 && result == kInProgress; ++i)
      CHECK(nccl().CommGetAsyncError(comm[r], &result) == kSuccess);
    CHECK(result == kSuccess);
  }
  Result reduce(int r, std::size_t count = 4, DataType type = kInt32, RedOp op = kSum) {
    return nccl().AllReduce(values[r].data(), values[r].data(), count, type, op, comm[r], at(r));
  }
  Stream at(int r) { return static_cast<Stream>(streams[r].handle()); }
  const Functions& nccl() const { return library_->functions(); }

  UniqueId id{};
  EmulatedStream streams[2];
  Comm comm[2]{};
  std::vector<std::int32_t> values[2] = {{1, 2, 3, 4}, {5, 6, 7, 8}};

 private:
  std::shared_ptr<NcclLibrary> library_;
};

void expect(const std::string& part) {
  INFO(emulator().violation());
  CHECK(emulator().violation().find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("a caller who keeps the rules breaks none, and the values are right") {
  Pair pair;
  for (int r = 0; r < 2; ++r) CHECK(pair.reduce(r) == kInProgress);
  for (int r = 0; r < 2; ++r) pair.settle(r);
  for (auto& stream : pair.streams) {
    stream.mark();
    CHECK(stream.is_reached());
  }
  CHECK((pair.values[1] == std::vector<std::int32_t>{6, 8, 10, 12}));
  for (auto* comm : pair.comm) CHECK(pair.nccl().CommFinalize(comm) == kInProgress);
  for (int r = 0; r < 2; ++r) pair.settle(r);
  for (auto* comm : pair.comm) CHECK(pair.nccl().CommDestroy(comm) == kSuccess);
  CHECK(emulator().violation() == "");
  CHECK(emulator().live() == 0);
}

TEST_CASE("a communicator's life") {
  SUBCASE("used before it has begun") {
    Pair pair(false);
    (void)pair.begin(0);
    (void)pair.reduce(0);
    expect("while it is in progress");
  }
  SUBCASE("used after an abort") {
    Pair pair;
    CHECK(pair.nccl().CommAbort(pair.comm[0]) == kSuccess);
    (void)pair.reduce(0);
    expect("has ended");
  }
  SUBCASE("ended twice") {
    Pair pair;
    CHECK(pair.nccl().CommAbort(pair.comm[0]) == kSuccess);
    (void)pair.nccl().CommAbort(pair.comm[0]);
    expect("ncclCommAbort of a communicator that has ended");
  }
  SUBCASE("finalized twice") {
    Pair pair;
    (void)pair.nccl().CommFinalize(pair.comm[0]);
    (void)pair.nccl().CommFinalize(pair.comm[0]);
    expect("or twice");
  }
  SUBCASE("destroyed before it was finalized") {
    Pair pair;
    (void)pair.nccl().CommDestroy(pair.comm[0]);
    expect("before ncclCommFinalize has ended");
  }
  SUBCASE("never there") {
    Pair pair(false);
    (void)pair.reduce(0);
    expect("of no communicator");
  }
  SUBCASE("a rank that is taken") {
    Pair pair(false);
    (void)pair.begin(0);
    (void)pair.begin(0);
    expect("taken");
  }
  SUBCASE("an id of one's own") {
    Pair pair(false);
    pair.id.internal[0] = 99;
    (void)pair.begin(0);
    expect("did not make");
  }
  SUBCASE("a blocking one") {
    Pair pair(false);
    Config config;
    config.blocking = 1;
    (void)pair.nccl().CommInitRankConfig(&pair.comm[0], 2, pair.id, 0, &config);
    expect("a blocking communicator");
  }
  SUBCASE("without a magic number") {
    Pair pair(false);
    Config config;
    config.magic = 0;
    (void)pair.nccl().CommInitRankConfig(&pair.comm[0], 2, pair.id, 0, &config);
    expect("not initialised");
  }
  SUBCASE("a stream that goes first") {
    Pair pair;
    {
      EmulatedStream own;
      (void)pair.nccl().AllReduce(pair.values[0].data(), pair.values[0].data(), 4, kInt32, kSum,
                                  pair.comm[0], static_cast<Stream>(own.handle()));
    }
    expect("before its communicator has ended");
  }
}

TEST_CASE("on which thread") {
  SUBCASE("a begin without a device") {
    Pair pair(false);
    std::thread([&] {
      Config config;
      config.blocking = 0;
      (void)pair.nccl().CommInitRankConfig(&pair.comm[0], 2, pair.id, 0, &config);
    }).join();
    expect("no device was made current");
  }
  SUBCASE("what may block on a loop's") {
    Pair pair;
    std::thread([&] {
      emulator().this_is_a_loop();
      (void)pair.nccl().CommAbort(pair.comm[0]);
    }).join();
    expect("on the thread of a loop");
  }
}

TEST_CASE("what ranks must agree about") {
  Pair pair;
  const auto run = [&] {
    for (int r = 0; r < 2; ++r) pair.settle(r);
    expect("ranks call different collectives");
  };
  SUBCASE("count") {
    (void)pair.reduce(0, 4), (void)pair.reduce(1, 3);
    run();
  }
  SUBCASE("type") {
    (void)pair.reduce(0, 4, kInt32), (void)pair.reduce(1, 4, kFloat32);
    run();
  }
  SUBCASE("operation") {
    (void)pair.reduce(0, 4, kInt32, kSum), (void)pair.reduce(1, 4, kInt32, kMax);
    run();
  }
  SUBCASE("order") {
    (void)pair.reduce(0);
    (void)pair.nccl().Broadcast(pair.values[1].data(), pair.values[1].data(), 4, kInt32, 0,
                                pair.comm[1], pair.at(1));
    run();
  }
  SUBCASE("a root that is not there") {
    (void)pair.nccl().Broadcast(pair.values[1].data(), pair.values[1].data(), 4, kInt32, 2,
                                pair.comm[1], pair.at(1));
    expect("not there");
  }
}

TEST_CASE("groups and messages") {
  Pair pair;
  const auto& nccl = pair.nccl();
  SUBCASE("an end without a begin") {
    (void)nccl.GroupEnd();
    expect("without ncclGroupStart");
  }
  SUBCASE("one that stays open") {
    (void)nccl.GroupStart();
    (void)pair.reduce(0);
    pair.streams[0].mark();
    expect("inside of a group");
    (void)nccl.GroupEnd();
  }
  SUBCASE("a send outside") {
    (void)nccl.Send(pair.values[0].data(), 4, kInt32, 1, pair.comm[0], pair.at(0));
    expect("outside of a group");
  }
  SUBCASE("of different sizes") {
    (void)nccl.GroupStart();
    (void)nccl.Send(pair.values[0].data(), 4, kInt32, 1, pair.comm[0], pair.at(0));
    (void)nccl.Recv(pair.values[1].data(), 3, kInt32, 0, pair.comm[1], pair.at(1));
    (void)nccl.GroupEnd();
    for (int r = 0; r < 2; ++r) pair.settle(r);
    expect("does not meet");
  }
}

TEST_CASE("streams and values") {
  Pair pair;
  SUBCASE("a mark before the launch is on the stream") {
    (void)pair.reduce(0);
    pair.streams[0].mark();
    expect("a mark before the launch");
  }
  SUBCASE("a second call before the first is on the stream") {
    (void)pair.reduce(0);
    (void)pair.reduce(0);
    expect("while it is in progress");
  }
  SUBCASE("values that somebody touches before the mark") {
    (void)pair.reduce(0);
    pair.settle(0);
    pair.values[0][2] = 0;
    (void)pair.reduce(1);
    pair.settle(1);
    expect("touched between launch and run");
  }
  SUBCASE("a part over the whole") {
    for (int r = 0; r < 2; ++r)
      (void)pair.nccl().ReduceScatter(pair.values[r].data(), pair.values[r].data() + 1, 2, kInt32,
                                      kSum, pair.comm[r], pair.at(r));
    for (int r = 0; r < 2; ++r) pair.settle(r);
    expect("over its own values");
  }
  SUBCASE("no stream") {
    (void)pair.nccl().AllReduce(pair.values[0].data(), pair.values[0].data(), 4, kInt32, kSum,
                                pair.comm[0], nullptr);
    expect("on no stream");
  }
}
