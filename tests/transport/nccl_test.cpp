// Goal:   collectives by NCCL keep its rules and the communicator's: right values, an error in time
//         whatever fails, and nothing left behind. No GPU is needed, and nothing here shows that
//         one would do the same.
// Method: tests/nccl_emulator is the library and the device, and counts what its caller does wrong;
//         each rank has a stream of its own in it. It is then called wrongly, to see it count.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN

#include <cstdlib>

#include "tests/conformance/communicator_suite.h"
#include "tests/nccl_emulator/control.h"
#include "tests/transport/nccl_emulated.h"
#include "transport/nccl/nccl_communicator.h"

using namespace communicator_suite;
using nccl_emulated::Domain;
using nccl_emulated::emulator;

namespace {

constexpr NcclEmulatorFaults kSlow{.polls = 3};

std::span<std::byte> of(std::vector<std::vector<std::int32_t>>& values, int rank) {
  return bytes_of(values[static_cast<std::size_t>(rank)]);
}

void check_failed(const std::vector<Result>& results, Errc code, const std::string& part) {
  for (const auto& result : results) {
    INFO(result.text);
    CHECK((result.code == code));
    CHECK(result.text.find(part) != std::string::npos);
  }
}

// An idle rank aborts on a thread that nobody waits for.
void await_aborts(Domain& domain, int count) {
  for (const auto limit = in(5s); emulator().aborts() < count && in(0ms) < limit;)
    domain.ranks().on(0, [] {});
  CHECK(emulator().aborts() == count);
}

const RankGroup::Call kBarrier = [](Communicator& c, int, Communicator::Done done) {
  c.barrier(in(kAmple), std::move(done));
};

}  // namespace

TEST_CASE("every operation, size and number of ranks") {
  for (const int n : {1, 2, 3, 4, 5, 8}) {
    Domain domain(n, kSlow);
    try_everything(domain.ranks(), {false});
  }
}

TEST_CASE("every operation and size, each rank on a thread of its own") {
  for (const int n : {2, 3}) {
    Domain domain(n, {}, true);
    try_everything(domain.ranks(), {false});
  }
}

TEST_CASE("every type and operation") {
  const int n = 3;
  Domain domain(n, kSlow);
  for (const auto type :
       {DataType::f32, DataType::f64, DataType::f16, DataType::bf16, DataType::i32, DataType::i64})
    for (const auto op : {ReduceOp::sum, ReduceOp::avg, ReduceOp::max, ReduceOp::min}) {
      INFO(name_of(type), " ", name_of(op));
      const auto bytes = size_of(type) * 1001;
      std::vector<Bytes> values;
      // Small in any type: bytes of 0x3b or less at the sign and the exponent.
      for (int r = 0; r < n; ++r) {
        values.push_back(pattern(bytes, static_cast<std::uint64_t>(r)));
        for (auto& byte : values.back()) byte &= std::byte{0x3b};
      }
      Bytes expected(bytes);
      const std::vector<std::span<const std::byte>> parts(values.begin(), values.end());
      combine_in_order({type, op}, expected, parts);
      check_all(domain.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
        c.all_reduce(values[static_cast<std::size_t>(rank)], {type, op}, in(kAmple),
                     std::move(done));
      }));
      for (const auto& rank : values) REQUIRE((rank == expected));
    }
}

TEST_CASE("reduce-scatter and all-gather by shares that differ make an all-reduce") {
  for (const int n : {2, 3, 5}) {
    Domain domain(n, kSlow);
    std::vector<double> weights;
    for (int r = 0; r < n; ++r) weights.push_back(r == 1 ? 0 : r * 10 + 1);
    for (const auto count : kCounts) {
      INFO("ranks=", n, " count=", count);
      auto values = whole_values<std::int32_t>(n, count, count);
      std::vector<std::int32_t> sum(count);
      for (const auto& rank : values)
        for (std::size_t i = 0; i < count; ++i) sum[i] += rank[i];
      const auto shares = Shares::weighted(count * 4, 4, weights);
      check_all(domain.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
        c.reduce_scatter(of(values, rank), shares, {DataType::i32}, in(kAmple), std::move(done));
      }));
      check_all(domain.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
        c.all_gather(of(values, rank), shares, in(kAmple), std::move(done));
      }));
      for (const auto& rank : values) REQUIRE((rank == sum));
    }
  }
}

TEST_CASE("all-to-all of more than the scratch memory holds") {
  const int n = 3;
  Domain domain(n, kSlow);
  const std::size_t share = (std::size_t{5} << 20) + 13;
  std::vector<Bytes> values;
  for (int r = 0; r < n; ++r) values.push_back(pattern(share * n, static_cast<std::uint64_t>(r)));
  const auto given = values;
  check_all(domain.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
    c.all_to_all(values[static_cast<std::size_t>(rank)], 1, in(kAmple), std::move(done));
  }));
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      REQUIRE(std::memcmp(&values[i][j * share], &given[j][i * share], share) == 0);
}

TEST_CASE("operations that are started together run one after the other") {
  Domain domain(3, kSlow);
  auto values = whole_values<std::int32_t>(3, 1000, 1);
  std::vector<std::future<Result>> results;
  for (int i = 0; i < 20; ++i)
    for (int rank = 0; rank < 3; ++rank)
      results.push_back(domain.ranks().start(rank, [&](Communicator& c, int r,
                                                       Communicator::Done done) {
        if (i % 2 == 0)
          c.all_reduce(of(values, r), {DataType::i32, ReduceOp::max}, in(kAmple), std::move(done));
        else
          c.broadcast(of(values, r), i % 3, in(kAmple), std::move(done));
      }));
  for (auto& result : results) REQUIRE_FALSE(result.get().code);
  CHECK((values[0] == values[1]));
  CHECK((values[0] == values[2]));
}

TEST_CASE("nobody is through a barrier before all have come") {
  Domain domain(3, kSlow);
  for (int late = 0; late < 3; ++late) {
    std::vector<std::future<Result>> early;
    for (int rank = 0; rank < 3; ++rank)
      if (rank != late) early.push_back(domain.ranks().start(rank, kBarrier));
    for (int i = 0; i < 100; ++i) domain.ranks().on(0, [] {});
    for (auto& result : early) CHECK((result.wait_for(0s) == std::future_status::timeout));
    CHECK_FALSE(domain.ranks().start(late, kBarrier).get().code);
    for (auto& result : early) CHECK_FALSE(result.get().code);
  }
}

TEST_CASE("what cannot be is refused, and breaks nothing; the order of ranks is one such thing") {
  auto values = whole_values<std::int32_t>(2, 4, 1);
  const auto in_order = [&](Communicator& c, int rank, Communicator::Done done) {
    c.all_reduce(of(values, rank), {DataType::i32, ReduceOp::sum, true}, in(kAmple),
                 std::move(done));
  };
  {
    Domain domain(2, kSlow);
    check_failed(domain.ranks().run(in_order), Errc::unsupported, "order of ranks");
    check_failed(domain.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
      c.broadcast(of(values, rank), 2, in(kAmple), std::move(done));
    }),
                 Errc::invalid_argument, "no rank 2");
    check_all(domain.ranks().run(kBarrier));
  }
  Domain alone(1, {});
  check_all(alone.ranks().run(in_order));
  alone.ranks().on(0, [&] {
    boost::asio::io_context* none = nullptr;
    CHECK_THROWS_AS(static_cast<void>(make_nccl_communicator(*none, {{}, {}, 0, {nullptr}, kTag})),
                    Error);
  });
}

TEST_CASE("ranks that call different things hear so at once, and NCCL does not") {
  Domain domain(3, kSlow);
  auto values = whole_values<std::int32_t>(3, 100, 1);
  check_all(domain.ranks().run(kBarrier));
  const auto before = values;
  const auto results = domain.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
    c.all_reduce(of(values, rank), {rank == 1 ? DataType::f32 : DataType::i32}, in(kAmple),
                 std::move(done));
  });
  for (const auto& result : results) CHECK(result.code.has_value());
  CHECK(std::ranges::any_of(
      results, [](const Result& result) { return result.code == Errc::invalid_argument; }));
  for (const auto& result : domain.ranks().run(kBarrier)) CHECK(result.code.has_value());
  CHECK((values == before));
}

TEST_CASE("a rank that does not come is named at the deadline") {
  Domain domain(3, kSlow);
  check_all(domain.ranks().run(kBarrier));
  auto values = whole_values<std::int32_t>(3, 100, 1);
  const auto results = domain.ranks().run(
      [&](Communicator& c, int rank, Communicator::Done done) {
        c.all_reduce(of(values, rank), {DataType::i32}, in(200ms), std::move(done));
      },
      {0, 1});
  CHECK(std::ranges::any_of(results, [](const Result& result) {
    return result.code == Errc::timed_out && result.text.find("rank 2") != std::string::npos;
  }));
  for (const auto& result : results) CHECK(result.code.has_value());
  CHECK(domain.ranks().run(kBarrier, {2})[0].code.has_value());  // It has heard, too.
  await_aborts(domain, 3);
}

TEST_CASE("an operation that hangs ends at its deadline, and NCCL is aborted") {
  Domain domain(3, kSlow);
  check_all(domain.ranks().run(kBarrier));
  domain.set({.is_hung = 1, .polls = 3});
  auto values = whole_values<std::int32_t>(3, 100, 1);
  const auto before = values;
  const auto begin = std::chrono::steady_clock::now();
  const auto call = [&](Communicator& c, int rank, Communicator::Done done) {
    c.all_reduce(of(values, rank), {DataType::i32}, in(rank == 1 ? 200ms : 10s), std::move(done));
  };
  const auto results = domain.ranks().run(call);
  CHECK(std::chrono::steady_clock::now() - begin < 5s);
  CHECK((results[1].code == Errc::timed_out));
  for (const auto& result : results) CHECK(result.code.has_value());
  CHECK(emulator().aborts() == 3);
  domain.set(kSlow);
  for (const auto& result : domain.ranks().run(call)) CHECK(result.code.has_value());
  CHECK((values == before));
}

TEST_CASE("an abort that hangs: the error says that the values are not safe") {
  Domain domain(2, kSlow, false, 200ms);
  check_all(domain.ranks().run(kBarrier));
  domain.set({.is_hung = 1, .is_abort_hung = 1, .polls = 3});
  auto values = whole_values<std::int32_t>(2, 100, 1);
  const auto begin = std::chrono::steady_clock::now();
  const auto results = domain.ranks().run([&](Communicator& c, int rank, Communicator::Done done) {
    c.all_reduce(of(values, rank), {DataType::i32}, in(100ms), std::move(done));
  });
  CHECK(std::chrono::steady_clock::now() - begin < 5s);
  for (const auto& result : results) {
    INFO(result.text);
    CHECK(result.code.has_value());
    CHECK(result.text.find("not safe to use") != std::string::npos);
  }
  domain.set({});
}

TEST_CASE("a begin that hangs ends at the deadline, and what it makes later is aborted") {
  for (const bool ends_first : {false, true}) {
    Domain domain(2, {.is_begin_hung = 1, .polls = 3}, false, 200ms);
    const auto results = domain.ranks().run([](Communicator& c, int, Communicator::Done done) {
      c.barrier(in(100ms), std::move(done));
    });
    for (const auto& result : results) CHECK(result.code.has_value());
    if (ends_first) domain.ranks().drop_communicator(0);
    domain.set(kSlow);
  }
}

TEST_CASE("an error that NCCL finds later reaches all ranks, with its reason") {
  for (const int at : {1, 4, 7, 10}) {
    INFO("poll ", at);
    Domain domain(3, {.fail_result = 6, .fail_async_rank = 1, .fail_async_poll = at, .polls = 3},
                  true);
    auto values = whole_values<std::int32_t>(3, 100, 1);
    const auto call = [&](Communicator& c, int rank, Communicator::Done done) {
      c.all_reduce(of(values, rank), {DataType::i32}, in(10s), std::move(done));
    };
    std::vector<Result> results;
    for (int i = 0; i < 10 && (results.empty() || !results[1].code); ++i)
      results = domain.ranks().run(call);
    CHECK((results[1].code == Errc::peer_lost));
    for (const auto& result : domain.ranks().run(call)) {
      INFO(result.text);
      CHECK(result.code.has_value());
      CHECK(result.text.find("an error of the emulator") != std::string::npos);
    }
  }
}

TEST_CASE("whichever call fails: an error or right values on every rank, and nothing stays") {
  int n = 0;
  for (bool is_spent = true; is_spent;) {
    ++n;
    INFO("call ", n);
    REQUIRE(n < 2000);
    const double weights[] = {1, 3};
    Domain domain(2, {.fail_call = n, .fail_result = 3, .polls = 2});
    std::vector<bool> has_failed(2);
    const auto step = [&](const RankGroup::Call& call, const std::function<void(int)>& check) {
      const auto results = domain.ranks().run(call);
      for (std::size_t r = 0; r < 2; ++r) {
        if (has_failed[r]) CHECK(results[r].code.has_value());
        CHECK((results[r].code != Errc::timed_out));
        has_failed[r] = results[r].code.has_value();
        if (!results[r].code) check(static_cast<int>(r));
      }
    };
    auto values = whole_values<std::int32_t>(2, 101, 7);
    auto sum = values[0];
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += values[1][i];
    step(
        [&](Communicator& c, int rank, Communicator::Done done) {
          c.all_reduce(of(values, rank), {DataType::i32}, in(10s), std::move(done));
        },
        [&](int rank) { CHECK((values[static_cast<std::size_t>(rank)] == sum)); });
    auto others = whole_values<std::int32_t>(2, 101, 9);
    const auto shares = Shares::weighted(404, 4, weights);
    step(
        [&](Communicator& c, int rank, Communicator::Done done) {
          c.reduce_scatter(of(others, rank), shares, {DataType::i32}, in(10s), std::move(done));
        },
        [](int) {});
    auto parts = whole_values<std::int32_t>(2, 2, 8);
    const auto given = parts;
    step(
        [&](Communicator& c, int rank, Communicator::Done done) {
          c.all_to_all(of(parts, rank), 4, in(10s), std::move(done));
        },
        [&](int rank) {
          const auto r = static_cast<std::size_t>(rank);
          CHECK(parts[r][0] == given[0][r]);
          CHECK(parts[r][1] == given[1][r]);
        });
    for (int rank = 0; rank < 2; ++rank) domain.ranks().drop_communicator(rank);
    domain.await_ends();
    is_spent = emulator().is_fault_spent() != 0;
  }
  MESSAGE(std::to_string(n - 1), " calls, each failed once");
  CHECK(n > 50);
}

TEST_CASE("a rank that dies in mid-operation is an error for all others within two seconds") {
  for (const bool is_hung : {false, true})
    for (int round = 0; round < 5; ++round) {
      INFO("round=", round, " hung=", is_hung);
      Domain domain(4, kSlow, true);
      check_all(domain.ranks().run(kBarrier));
      domain.set({.is_hung = is_hung ? 1 : 0, .polls = 3});
      auto values = whole_values<std::int32_t>(4, 100'000, 1);
      const auto call = [&](Communicator& c, int rank, Communicator::Done done) {
        c.all_reduce(of(values, rank), {DataType::i32}, in(kAmple), std::move(done));
      };
      std::vector<std::future<Result>> results;
      for (int rank = 0; rank < 4; ++rank) results.push_back(domain.ranks().start(rank, call));
      for (int i = 0; i < 20 * round; ++i) domain.ranks().on(2, [] {});
      domain.ranks().kill(2);
      const auto limit = in(2s);
      int failed = 0;
      for (auto& result : results) {
        REQUIRE((result.wait_until(limit) == std::future_status::ready));
        failed += result.get().code.has_value() ? 1 : 0;
      }
      if (is_hung) CHECK(failed == 4);
      const auto after = values;
      domain.set(kSlow);
      for (const auto& result : domain.ranks().run(call, {0, 1, 3})) CHECK(result.code.has_value());
      CHECK((values == after));
    }
}

TEST_CASE("a rank that dies while nothing runs breaks the others") {
  Domain domain(3, kSlow, true);
  check_all(domain.ranks().run(kBarrier));
  domain.ranks().kill(2);
  await_aborts(domain, 2);
  for (const auto& result : domain.ranks().run(kBarrier, {0, 1})) {
    INFO(result.text);
    CHECK(result.text.find("because of rank 2") != std::string::npos);
  }
}

TEST_CASE("communicators that have done all they had to are ended in order, not aborted") {
  Domain domain(3, kSlow);
  check_all(domain.ranks().run(kBarrier));
  for (int rank = 0; rank < 3; ++rank) domain.ranks().drop_communicator(rank);
  domain.await_ends();
  CHECK(emulator().destroyed() == 3);
  CHECK(emulator().aborts() == 0);
  CHECK(domain.ranks().is_open(0, 1));
}

TEST_CASE("a rank whose others never end is ended all the same") {
  Domain domain(2, kSlow, false, 100ms);
  check_all(domain.ranks().run(kBarrier));
  domain.ranks().drop_communicator(0);
  await_aborts(domain, 1);
}

TEST_CASE("ranks with different NCCLs hear so") {
  const NcclEmulatorFaults newer{.version = 22400};
  const auto other = [&] {
    emulator().reset(&newer);
    return NcclLibrary::open(nccl_emulated::library_path());
  }();
  Domain domain(2, kSlow, other);
  const auto results = domain.ranks().run(kBarrier);
  CHECK((results[1].code == Errc::unsupported));
  CHECK(results[1].text.find("rank 0 has NCCL 2.23.4, this rank 2.24.0") != std::string::npos);
  CHECK(results[0].code.has_value());
}

TEST_CASE("abort and the end of a communicator end what is outstanding") {
  {
    Domain domain(2, kSlow);
    check_all(domain.ranks().run(kBarrier));
    auto alone = domain.ranks().start(0, kBarrier);
    auto queued = domain.ranks().start(0, kBarrier);
    domain.ranks().drop_communicator(0);
    CHECK((alone.get().code == Errc::cancelled));
    CHECK((queued.get().code == Errc::cancelled));
    CHECK(domain.ranks().start(1, kBarrier).get().code.has_value());
  }
  const auto abort = [](Communicator& c, int, Communicator::Done done) {
    c.abort(Error(Errc::peer_lost, "rank 0 is gone"));
    c.barrier(in(kAmple), std::move(done));
  };
  Domain other(2, kSlow);
  auto waiting = other.ranks().start(0, kBarrier);
  CHECK((other.ranks().start(0, abort).get().code == Errc::peer_lost));
  CHECK((waiting.get().code == Errc::peer_lost));
}

TEST_CASE("a library that is not there, too old or lacks a function says what to do") {
  const auto text = [](const std::string& path) -> std::string {
    try {
      (void)NcclLibrary::open(path);
    } catch (const Error& error) {
      CHECK((error.code() == Errc::unsupported));
      return error.what();
    }
    return "opened";
  };
  const std::string folder = CAUSEWAY_NCCL_FOLDER;
  CHECK(text("/nowhere/libnccl.so.2").find("CAUSEWAY_NCCL_LIBRARY") != std::string::npos);
  const auto old = text(folder + "/old/libnccl.so.2");
  CHECK(old.find("2.18.5") != std::string::npos);
  CHECK(old.find("2.19.1") != std::string::npos);
  CHECK(text(folder + "/bare/libnccl.so.2").find("ncclCommInitRankConfig") != std::string::npos);
  ::setenv("CAUSEWAY_NCCL_LIBRARY", (folder + "/current/libnccl.so.2").c_str(), 1);
  CHECK(NcclLibrary::open()->version() == 22304);
  ::setenv("CAUSEWAY_NCCL_LIBRARY", "/nowhere/other.so", 1);
  CHECK(text("").find("/nowhere/other.so") != std::string::npos);
  ::unsetenv("CAUSEWAY_NCCL_LIBRARY");
  CHECK(nccl_version_text(2708) == "2.7.8");
}
