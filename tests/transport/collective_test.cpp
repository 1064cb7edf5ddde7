// Goal:   what ranks do together is right for any number of ranks, sizes and types, over any
// channel;
//         when one fails, all learn so in time, and no buffer is touched after its completion.
// Method: each rank has its transport; results against a loop over all ranks' values.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <atomic>
#include <cmath>
#include <thread>

#include "tests/conformance/communicator_suite.h"
#include "transport/collective/make_communicator.h"

using namespace communicator_suite;

namespace {

// Channels of two kinds, shared memory, and two islands of shared memory with channels between.
enum class Way : std::uint8_t { local, ucx, shm, islands };
constexpr Way kWays[] = {Way::local, Way::ucx, Way::shm, Way::islands};
constexpr std::size_t kSlotBytes = 20'000;  // Many chunks, and no power of two.

RankGroup::Make maker(Way way) {
  return [way](boost::asio::io_context& context, int rank,
               std::vector<std::shared_ptr<Channel>> peers, RankGroup::Made done) {
    CommunicatorOptions options{.tag = kTag,
                                .shares_memory = way == Way::shm || way == Way::islands,
                                .slot_bytes = kSlotBytes};
    if (way == Way::islands) {
      // Neighbours are apart, and the links of each island are unlike and in another order.
      options.island = static_cast<std::uint64_t>(rank % 2);
      options.link_bytes_per_s = (rank % 2 == 0 ? 1 + rank : 8 - rank) * 1e9;
      options.measures_links = false;
    }
    make_communicator(context, rank, std::move(peers), options, in(20s), std::move(done));
  };
}

struct Ranks : RankGroup {
  Ranks(int size, Way way) : RankGroup(size, way == Way::ucx, maker(way)) {}
};

}  // namespace

TEST_CASE("every operation, size and number of ranks, over local channels") {
  for (const int n : {1, 2, 3, 4, 5, 8}) {
    Ranks ranks(n, Way::local);
    try_everything(ranks);
  }
}

TEST_CASE("every operation, size and number of ranks, over shared memory") {
  for (const int n : {1, 2, 3, 4, 5, 8}) {
    Ranks ranks(n, Way::shm);
    CHECK((ranks.in_place(0) != nullptr) == (n > 1));
    try_everything(ranks);
  }
}

TEST_CASE("every operation, size and number of ranks, over two islands") {
  for (const int n : {2, 3, 4, 5, 8}) {
    Ranks ranks(n, Way::islands);
    try_everything(ranks);
  }
}

TEST_CASE("every operation and size over UCX") {
  for (const int n : {2, 3}) {
    Ranks ranks(n, Way::ucx);
    try_everything(ranks);
  }
}

TEST_CASE("shares by weight cover all values, and a rank may have none") {
  const auto check = [](const Shares& shares, std::size_t size_bytes) {
    CHECK(shares.begin(0) == 0);
    CHECK(shares.begin(shares.ranks()) == size_bytes);
    for (int r = 0; r < shares.ranks(); ++r) {
      CHECK(shares.begin(r) <= shares.begin(r + 1));
      CHECK(shares.begin(r) % shares.value_bytes() == 0);
    }
  };
  const double one_to_ten[] = {1, 0, 10, 0};
  const auto shares = Shares::weighted(4400, 4, one_to_ten);
  check(shares, 4400);
  CHECK(shares.size_bytes(0) == 400);
  CHECK(shares.size_bytes(1) == 0);
  CHECK(shares.size_bytes(2) == 4000);
  CHECK(shares.size_bytes(3) == 0);
  std::mt19937_64 random(3);
  for (int round = 0; round < 1000; ++round) {
    std::vector<double> weights(1 + random() % 9);
    for (auto& w : weights)
      w = random() % 3 == 0 ? 0 : std::exp2(static_cast<double>(random() % 2000) - 1000);
    weights[random() % weights.size()] = 1e300;
    const auto bytes = random() % 1000 * 8;
    const auto some = Shares::weighted(bytes, 8, weights);
    check(some, bytes);
    for (int r = 0; r < some.ranks(); ++r)
      if (weights[static_cast<std::size_t>(r)] == 0) CHECK(some.size_bytes(r) == 0);
  }
  for (const std::vector<double>& bad :
       {std::vector<double>{}, {0, 0}, {1, -1}, {1, NAN}, {1, INFINITY}})
    CHECK_THROWS_AS(static_cast<void>(Shares::weighted(8, 4, bad)), Error);
  CHECK_THROWS_AS(static_cast<void>(Shares::weighted(9, 4, one_to_ten)), Error);
  CHECK_THROWS_AS(static_cast<void>(Shares::equal(8, 0, 1)), Error);
  CHECK_THROWS_AS(static_cast<void>(Shares::equal(8, 4, 0)), Error);
}

TEST_CASE("reduce-scatter and all-gather by shares that differ make an all-reduce") {
  for (const auto way : {Way::local, Way::shm, Way::islands})
    for (const int n : {2, 3, 5}) {
      Ranks ranks(n, way);
      std::vector<double> weights;
      for (int r = 0; r < n; ++r) weights.push_back(r == 1 ? 0 : r * 10 + 1);
      for (const auto count : kCounts)
        for (const bool in_order : {false, true}) {
          INFO("ranks=", n, " count=", count, " in_order=", in_order);
          auto values = whole_values<std::int32_t>(n, count, count);
          std::vector<std::int32_t> sum(count);
          for (const auto& rank : values)
            for (std::size_t i = 0; i < count; ++i) sum[i] += rank[i];
          const auto shares = Shares::weighted(count * 4, 4, weights);
          check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
            c.reduce_scatter(bytes_of(values[static_cast<std::size_t>(rank)]), shares,
                             {DataType::i32, ReduceOp::sum, in_order}, in(kAmple), std::move(done));
          }));
          check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
            c.all_gather(bytes_of(values[static_cast<std::size_t>(rank)]), shares, in(kAmple),
                         std::move(done));
          }));
          for (const auto& rank : values) REQUIRE((rank == sum));
        }
    }
}

TEST_CASE("floating point: all ranks have the same bits; in rank order those of one process") {
  for (const auto way : {Way::local, Way::shm, Way::islands})
    for (const int n : {2, 3, 5})
      for (const std::size_t count : {std::size_t{7}, std::size_t{5001}, std::size_t{400001}}) {
        Ranks ranks(n, way);
        INFO("ranks=", n, " count=", count);
        const auto given = random_values<float>(n, count, count);
        for (const bool in_order : {false, true}) {
          auto values = given;
          check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
            c.all_reduce(bytes_of(values[static_cast<std::size_t>(rank)]),
                         {DataType::f32, ReduceOp::sum, in_order}, in(kAmple), std::move(done));
          }));
          for (const auto& rank : values) REQUIRE((rank == values[0]));
          for (std::size_t i = 0; i < count; ++i) {
            float sum = given[0][i];
            for (std::size_t r = 1; r < given.size(); ++r) sum += given[r][i];
            if (in_order)
              REQUIRE(values[0][i] == sum);
            else
              REQUIRE(std::abs(values[0][i] - sum) < 1e-3);
          }
        }
      }
}

TEST_CASE("values of two and of eight bytes, and averages of floating point") {
  const int n = 4;
  for (const auto way : {Way::local, Way::shm, Way::islands}) {
    Ranks ranks(n, way);
    for (const std::size_t count : {std::size_t{9}, std::size_t{300'001}})
      for (const bool in_order : {false, true}) {
        INFO("count=", count, " in_order=", in_order);
        auto halves =
            whole_values<std::uint16_t>(n, count, 1);  // Positive ones are ordered as bits.
        auto doubles = whole_values<double>(n, count, 2);
        auto most = halves[0];
        std::vector<double> mean(count);
        for (std::size_t r = 0; r < halves.size(); ++r)
          for (std::size_t i = 0; i < count; ++i) {
            most[i] = std::max(most[i], halves[r][i]);
            mean[i] += doubles[r][i] / n;  // Exact: n is a power of two.
          }
        check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
          c.all_reduce(bytes_of(halves[static_cast<std::size_t>(rank)]),
                       {DataType::f16, ReduceOp::max, in_order}, in(kAmple), std::move(done));
        }));
        check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
          c.all_reduce(bytes_of(doubles[static_cast<std::size_t>(rank)]),
                       {DataType::f64, ReduceOp::avg, in_order}, in(kAmple), std::move(done));
        }));
        for (const auto& rank : halves) CHECK((rank == most));
        for (const auto& rank : doubles) CHECK((rank == mean));
      }
  }
}

TEST_CASE("nobody is through a barrier before all have come") {
  for (const auto way : {Way::local, Way::shm, Way::islands})
    for (const int n : {2, 3, 7}) {
      Ranks ranks(n, way);
      const auto call = [](Communicator& c, int, Communicator::Done done) {
        c.barrier(in(kAmple), std::move(done));
      };
      for (int late = 0; late < n; ++late) {
        std::vector<std::future<Result>> early;
        for (int rank = 0; rank < n; ++rank)
          if (rank != late) early.push_back(ranks.start(rank, call));
        // Turns of the loop in which all that can happen happens.
        for (int i = 0; i < 100; ++i) ranks.on(0, [] {});
        for (auto& result : early) CHECK((result.wait_for(0s) == std::future_status::timeout));
        auto last = ranks.start(late, call);
        for (auto& result : early) CHECK_FALSE(result.get().code);
        CHECK_FALSE(last.get().code);
      }
    }
}

TEST_CASE("operations that are started together run one after the other") {
  for (const auto way : kWays) {
    Ranks ranks(3, way);
    auto values = whole_values<std::int32_t>(3, 100'000, 1);
    std::vector<std::future<Result>> results;
    for (int i = 0; i < 20; ++i)
      for (int rank = 0; rank < 3; ++rank)
        results.push_back(ranks.start(rank, [&](Communicator& c, int r, Communicator::Done done) {
          const auto bytes = bytes_of(values[static_cast<std::size_t>(r)]);
          if (i % 2 == 0)
            c.all_reduce(bytes, {DataType::i32, ReduceOp::max}, in(kAmple), std::move(done));
          else
            c.broadcast(bytes, i % 3, in(kAmple), std::move(done));
        }));
    for (auto& result : results) REQUIRE_FALSE(result.get().code);
    CHECK((values[0] == values[1]));
    CHECK((values[0] == values[2]));
  }
}

TEST_CASE("what cannot be is refused, and breaks nothing") {
  for (const auto way : kWays) {
    Ranks ranks(2, way);
    Bytes bytes(10);
    const auto refused = [&](const Ranks::Call& call) {
      for (const auto& result : ranks.run(call)) CHECK((result.code == Errc::invalid_argument));
    };
    refused([&](Communicator& c, int, Communicator::Done done) {
      c.all_reduce(bytes, {DataType::f32}, in(kAmple), std::move(done));
    });
    refused([&](Communicator& c, int, Communicator::Done done) {
      c.broadcast(bytes, 2, in(kAmple), std::move(done));
    });
    refused([&](Communicator& c, int, Communicator::Done done) {
      c.all_gather(bytes, Shares::equal(20, 1, 2), in(kAmple), std::move(done));
    });
    refused([&](Communicator& c, int, Communicator::Done done) {
      c.all_to_all(std::span(bytes).first(6), 2, in(kAmple), std::move(done));
    });
    refused([&](Communicator& c, int, Communicator::Done done) {
      c.all_to_all(bytes, std::size_t{1} << 63, in(kAmple), std::move(done));
    });
    check_all(ranks.run([](Communicator& c, int, Communicator::Done done) {
      c.barrier(in(kAmple), std::move(done));
    }));
  }
  {
    boost::asio::io_context* none = nullptr;
    CHECK_THROWS_AS(make_channel_communicator(*none, 1, {nullptr}, kTag), Error);
    CHECK_THROWS_AS(make_channel_communicator(*none, 0, {nullptr, nullptr}, kTag), Error);
  }
}

TEST_CASE("a rank that does not come is named at the deadline, and everything later fails") {
  for (const auto way : kWays) {
    Ranks ranks(3, way);
    auto values = whole_values<std::int32_t>(3, 100'000, 1);
    const auto call = [&](Communicator& c, int rank, Communicator::Done done) {
      c.all_reduce(bytes_of(values[static_cast<std::size_t>(rank)]), {DataType::i32}, in(300ms),
                   std::move(done));
    };
    const auto results = ranks.run(call, {0, 1});  // Rank 2 does not call it.
    CHECK(std::ranges::any_of(results, [](const Result& result) {
      return result.code == Errc::timed_out && result.text.find("rank 2") != std::string::npos;
    }));
    for (const auto& result : results) CHECK(result.code.has_value());
    const auto after = values;
    for (const auto& result : ranks.run(call)) CHECK(result.code.has_value());  // Rank 2 too.
    CHECK((after[0] == values[0]));
  }
}

TEST_CASE("ranks that call different operations get an error, not each other's bytes") {
  for (const auto way : kWays)
    for (const bool is_left_out : {false, true}) {
      Ranks ranks(2, way);
      std::vector<std::vector<float>> values(2, std::vector<float>(1000));
      const auto all_reduce = [&](Communicator& c, int rank, Communicator::Done done) {
        c.all_reduce(bytes_of(values[static_cast<std::size_t>(rank)]), {}, in(500ms),
                     std::move(done));
      };
      const auto broadcast = [&](Communicator& c, int rank, Communicator::Done done) {
        c.broadcast(bytes_of(values[static_cast<std::size_t>(rank)]), 0, in(500ms),
                    std::move(done));
      };
      // The root need not wait for an answer to a broadcast.
      auto first = ranks.start(0, broadcast);
      if (way == Way::ucx) CHECK_FALSE(first.get().code);
      if (is_left_out) {
        auto second = ranks.start(0, broadcast);
        CHECK_FALSE(ranks.start(1, broadcast).get().code);
      }
      for (const auto& result : ranks.run(all_reduce)) CHECK(result.code.has_value());
    }
}

TEST_CASE("a root that is far ahead of the others waits for them") {
  for (const auto way : kWays) {
    Ranks ranks(2, way);
    std::vector<Bytes> bytes(2, Bytes(8192));
    const auto broadcast = [&](Communicator& c, int rank, Communicator::Done done) {
      c.broadcast(bytes[static_cast<std::size_t>(rank)], 0, in(kAmple), std::move(done));
    };
    std::vector<std::future<Result>> results;
    for (int i = 0; i < 5000; ++i) results.push_back(ranks.start(0, broadcast));
    for (int i = 0; i < 5000; ++i) results.push_back(ranks.start(1, broadcast));
    for (auto& result : results) REQUIRE_FALSE(result.get().code);
  }
}

TEST_CASE("ranks that disagree about size, type or root get an error, not wrong values") {
  const auto disagree = [](Way way, const Ranks::Call& call) {
    Ranks ranks(2, way);
    for (const auto& result : ranks.run(call)) {
      CHECK((result.code == Errc::timed_out || result.code == Errc::closed ||
             result.code == Errc::invalid_argument));
      INFO(result.text);
      // A local channel does not say why it was closed.
      if (way == Way::ucx) CHECK(result.text.find("does it call the same") != std::string::npos);
      if (way == Way::shm)
        CHECK(result.text.find("all ranks must do the same") != std::string::npos);
    }
  };
  for (const auto way : kWays) {
    // The first message of the one is as long as that of the other.
    for (const std::size_t count : {std::size_t{4096}, std::size_t{100'000}}) {
      std::vector<std::vector<float>> values{std::vector<float>(count),
                                             std::vector<float>(2 * count)};
      disagree(way, [&](Communicator& c, int rank, Communicator::Done done) {
        c.all_reduce(bytes_of(values[static_cast<std::size_t>(rank)]), {}, in(300ms),
                     std::move(done));
      });
    }
    std::vector<Bytes> bytes(2, Bytes(16));
    disagree(way, [&](Communicator& c, int rank, Communicator::Done done) {
      c.all_reduce(bytes[static_cast<std::size_t>(rank)],
                   {rank == 0 ? DataType::f32 : DataType::i32}, in(300ms), std::move(done));
    });
  }
  // Each is its own root, and none waits for the other: the next operation tells.
  Ranks ranks(2, Way::local);
  std::vector<Bytes> bytes(2, Bytes(16));
  for (const auto& result : ranks.run([&](Communicator&c, int rank, Communicator::Done done) {
         c.broadcast(bytes[static_cast<std::size_t>(rank)], 1 - rank, in(300ms), std::move(done));
       }))
    CHECK(result.code.has_value());
}

TEST_CASE("a refused call counts: the others' next one is not taken for it") {
  for (const auto way : kWays) {
    Ranks ranks(2, way);
    std::vector<std::vector<std::int32_t>> values(2, std::vector<std::int32_t>(4));
    auto refused = ranks.start(0, [&](Communicator& c, int, Communicator::Done done) {
      c.all_reduce(bytes_of(values[0]).first(10), {DataType::i32}, in(300ms), std::move(done));
    });
    CHECK((refused.get().code == Errc::invalid_argument));
    for (const auto& result : ranks.run([&](Communicator&c, int rank, Communicator::Done done) {
           c.all_reduce(bytes_of(values[static_cast<std::size_t>(rank)]), {DataType::i32},
                        in(300ms), std::move(done));
         }))
      CHECK(result.code.has_value());
  }
}

TEST_CASE("an operation that waits behind another ends at its own deadline") {
  for (const auto way : kWays) {
    Ranks ranks(2, way);
    auto first = ranks.start(0, [](Communicator& c, int, Communicator::Done done) {
      c.barrier(in(kAmple), std::move(done));
    });
    auto second = ranks.start(0, [](Communicator& c, int, Communicator::Done done) {
      c.barrier(in(100ms), std::move(done));
    });
    REQUIRE((second.wait_for(5s) == std::future_status::ready));
    CHECK((second.get().code == Errc::timed_out));
    CHECK((first.get().code == Errc::timed_out));
  }
}

TEST_CASE("threads that wait do the work themselves, between operations that nobody waits for") {
  Ranks ranks(3, Way::shm);
  std::vector<std::vector<std::int32_t>> own(3, std::vector<std::int32_t>(20'000, 1));
  std::vector<std::vector<std::int32_t>> other(3, std::vector<std::int32_t>(20'000, 1));
  const auto all_reduce = [](std::vector<std::vector<std::int32_t>>& values) {
    return [&values](Communicator& c, int rank, Communicator::Done done) {
      c.all_reduce(bytes_of(values[static_cast<std::size_t>(rank)]), {DataType::i32}, in(kAmple),
                   std::move(done));
    };
  };
  std::vector<std::thread> threads;
  std::vector<std::future<Result>> started(3 * 8);
  std::atomic<int> failed{0};
  for (int rank = 0; rank < 3; ++rank)
    threads.emplace_back([&, rank] {
      for (int i = 0; i < 8; ++i) {
        started[static_cast<std::size_t>(rank * 8 + i)] = ranks.start(rank, all_reduce(other));
        all_reduce(own)(*ranks.in_place(rank), rank,
                        [&](std::optional<Error> error) { failed += error ? 1 : 0; });
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(failed == 0);
  for (auto& result : started) CHECK_FALSE(result.get().code);
  const std::vector<std::int32_t> expected(20'000, 6561);  // 3 to the power of 8.
  for (const auto& values : {own, other})
    for (const auto& rank : values) CHECK((rank == expected));
}

TEST_CASE("an abort ends what a thread waits for, and all that others wait for") {
  Ranks ranks(2, Way::shm);
  Communicator& here = *ranks.in_place(0);
  std::optional<Error> ended;
  std::thread waiting(
      [&] { here.barrier(in(kAmple), [&](std::optional<Error> error) { ended = error; }); });
  auto queued = ranks.start(0, [](Communicator& c, int, Communicator::Done done) {
    c.barrier(in(kAmple), std::move(done));
  });
  ranks
      .start(0,
             [](Communicator& c, int, Communicator::Done done) {
               c.abort(Error(Errc::cancelled, "no more"));
               c.barrier(in(kAmple), std::move(done));
             })
      .get();
  waiting.join();
  REQUIRE(ended);
  CHECK((ended->code() == Errc::cancelled));
  CHECK((queued.get().code == Errc::cancelled));
  const auto result =
      ranks
          .start(1, [](Communicator& c, int,
                       Communicator::Done done) { c.barrier(in(kAmple), std::move(done)); })
          .get();
  CHECK((result.code == Errc::closed));
  CHECK(result.text.find("no more") != std::string::npos);
}

TEST_CASE("the reason of a failure reaches all, and does not grow on its way") {
  Ranks ranks(8, Way::ucx);
  std::vector<std::vector<float>> values(8, std::vector<float>(1 << 20));
  std::vector<std::future<Result>> results;
  for (int rank = 0; rank < 8; ++rank)
    if (rank != 2)
      results.push_back(ranks.start(rank, [&](Communicator& c, int r, Communicator::Done done) {
        c.all_reduce(bytes_of(values[static_cast<std::size_t>(r)]), {}, in(kAmple),
                     std::move(done));
      }));
  ranks.kill(2);
  for (auto& future : results) {
    const auto result = future.get();
    INFO(result.text);
    CHECK((result.code == Errc::peer_lost || result.code == Errc::closed));
    CHECK(result.text.find("because of rank 2") != std::string::npos);
    CHECK(result.text.size() < 400);
  }
}

TEST_CASE("an idle communicator leaves its channels open") {
  for (const auto way : {Way::local, Way::shm, Way::islands}) {
    Ranks ranks(2, way);
    check_all(ranks.run([](Communicator& c, int, Communicator::Done done) {
      c.barrier(in(kAmple), std::move(done));
    }));
    ranks.drop_communicator(0);
    CHECK(ranks.is_open(0, 1));
  }
}

TEST_CASE("a rank that dies in mid-operation is an error for all others within two seconds") {
  for (const auto way : {Way::ucx, Way::shm, Way::islands})
    for (int round = 0; round < 5; ++round) {
      INFO("round=", round);
      Ranks ranks(4, way);
      auto values = whole_values<std::int32_t>(4, 4 << 20, 1);
      const auto call = [&](Communicator& c, int rank, Communicator::Done done) {
        c.all_reduce(bytes_of(values[static_cast<std::size_t>(rank)]), {DataType::i32}, in(kAmple),
                     std::move(done));
      };
      std::vector<std::future<Result>> results;
      for (int rank = 0; rank < 4; ++rank) results.push_back(ranks.start(rank, call));
      for (int i = 0; i < 20 * round; ++i) ranks.on(2, [] {});  // At another point of it each time.
      ranks.kill(2);
      const auto limit = in(2s);
      for (auto& result : results) REQUIRE((result.wait_until(limit) == std::future_status::ready));
      int failed = 0;
      for (auto& result : results) failed += result.get().code.has_value() ? 1 : 0;
      if (failed == 0) continue;  // It was over before.
      const auto after = values;
      for (const auto& result : ranks.run(call, {0, 1, 3})) CHECK(result.code.has_value());
      CHECK((values == after));  // Nothing is on its way any more.
    }
}

TEST_CASE("abort and the end of a communicator end what is outstanding") {
  for (const auto way : kWays) {
    Ranks ranks(2, way);
    auto values = whole_values<std::int32_t>(2, 1 << 20, 1);
    const auto call = [&](Communicator& c, int rank, Communicator::Done done) {
      c.all_reduce(bytes_of(values[static_cast<std::size_t>(rank)]), {DataType::i32}, in(kAmple),
                   std::move(done));
    };
    auto alone = ranks.start(0, call);
    auto queued = ranks.start(0, call);
    ranks.drop_communicator(0);
    CHECK((alone.get().code == Errc::cancelled));
    CHECK((queued.get().code == Errc::cancelled));
    CHECK(ranks.start(1, call).get().code.has_value());

    Ranks others(2, way);
    auto waiting = others.start(0, call);
    const auto abort = [](Communicator& c, int, Communicator::Done done) {
      c.abort(Error(Errc::peer_lost, "rank 1 is gone"));
      c.barrier(in(kAmple), std::move(done));
    };
    CHECK(others.start(0, abort).get().text.find("rank 1 is gone") != std::string::npos);
    CHECK((waiting.get().code == Errc::peer_lost));
    Ranks one(1, way);
    CHECK((one.start(0, abort).get().code == Errc::peer_lost));
  }
}
