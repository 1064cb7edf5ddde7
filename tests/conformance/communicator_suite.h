// What every communicator must do, whatever carries it: the ranks of a group in one process, and
// the results of every operation against a loop over all ranks' values.
//
// Use:    a RankGroup makes channels between ranks and, by a Make, the communicators over them;
//         try_everything() checks the results.
#pragma once

#include <algorithm>
#include <numeric>
#include <random>

#include "transport/collective/communicator.h"

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/conformance/channel_suite.h"
#include "transport/local/local_transport.h"
#include "transport/ucx/ucx_transport.h"

namespace communicator_suite {

using namespace channel_suite;

constexpr std::uint64_t kTag = std::uint64_t{7} << 32;

// All ranks of a group in this process.
class RankGroup {
 public:
  using Call = std::function<void(Communicator&, int rank, Communicator::Done)>;

  using Made = std::function<void(std::optional<Error>, std::unique_ptr<Communicator>)>;
  // Makes one rank's, on its thread.
  using Make = std::function<void(boost::asio::io_context&, int rank,
                                  std::vector<std::shared_ptr<Channel>> peers, Made done)>;

  // Over UCX each rank has a thread of its own.
  RankGroup(int size, bool over_ucx, const Make& maker) : size_(size), over_ucx_(over_ucx) {
    threads_.resize(static_cast<std::size_t>(over_ucx_ ? size : 1));
    for (auto& thread : threads_) thread = std::make_unique<IoThread>("rank");
    transports_.resize(count());
    channels_.assign(count(), std::vector<std::shared_ptr<Channel>>(count()));
    communicators_.resize(count());
    if (!over_ucx_) on(0, [&] { network_ = std::make_unique<LocalNetwork>(thread(0).context()); });
    for (int rank = 0; rank < size; ++rank) listen(rank);
    for (int from = 0; from < size; ++from)
      for (int to = 0; to < from; ++to) connect(from, to);
    for (int rank = 0; rank < size; ++rank) {
      await([&] { return std::ranges::count(channels_[index(rank)], nullptr) == 1; }, rank);
    }
    std::vector<std::future<Result>> made;
    for (int rank = 0; rank < size; ++rank) made.push_back(make(rank, maker));
    for (auto& result : made) {
      const auto got = result.get();
      INFO(got.text);
      REQUIRE_FALSE(got.code);
    }
  }
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;
  ~RankGroup() {
    for (int rank = 0; rank < size_; ++rank) kill(rank);
    on(0, [&] { network_.reset(); });
  }

  // Lets the ranks of `who` (all, if empty) do the same thing; their results in order of rank.
  std::vector<Result> run(const Call& call, std::vector<int> who = {}) {
    std::vector<std::future<Result>> results;
    for (int rank = 0; rank < size_; ++rank)
      if (who.empty() || std::ranges::find(who, rank) != who.end())
        results.push_back(start(rank, call));
    std::vector<Result> got;
    for (auto& result : results) got.push_back(result.get());
    return got;
  }
  std::future<Result> start(int rank, const Call& call) {
    auto promise = std::make_shared<std::promise<Result>>();
    auto future = promise->get_future();
    on(rank, [&] {
      call(*communicators_[index(rank)], rank,
           [promise, calls = std::make_shared<int>(0)](std::optional<Error> error) {
             if (++*calls > 1) std::abort();
             promise->set_value(error ? Result{error->code(), error->what()} : Result{});
           });
      if (future.wait_for(0s) == std::future_status::ready) std::abort();  // Never inside the call.
    });
    return future;
  }
  // As if its process ended.
  void kill(int rank) {
    on(rank, [&] {
      channels_[index(rank)].clear();
      communicators_[index(rank)].reset();
      transports_[index(rank)].reset();
    });
  }
  void on(int rank, const std::function<void()>& function) { thread(rank).run_on(function); }
  [[nodiscard]] std::shared_ptr<Communicator> in_place(int rank) {
    return communicators_[index(rank)]->in_place();
  }
  void drop_communicator(int rank) {
    on(rank, [&] { reset_communicator(rank); });
  }
  void reset_communicator(int rank) { communicators_[index(rank)].reset(); }  // On its thread.
  [[nodiscard]] int size() const { return size_; }
  [[nodiscard]] bool is_open(int rank, int peer) {
    bool is = false;
    on(rank, [&] { is = channels_[index(rank)][index(peer)]->is_open(); });
    return is;
  }

 private:
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }
  std::size_t count() const { return index(size_); }
  IoThread& thread(int rank) { return *threads_[over_ucx_ ? index(rank) : 0]; }

  void listen(int rank) {
    const auto accepted = [this, rank](std::shared_ptr<Channel> channel) {
      const auto from = static_cast<std::size_t>(channel->peer().session);
      channels_[index(rank)][from] = std::move(channel);
    };
    const auto name = "rank" + std::to_string(rank);
    on(rank, [&] {
      if (over_ucx_)
        transports_[index(rank)] =
            make_ucx_transport(thread(rank).context(), {"127.0.0.1:0", name, &memory_, accepted});
      else
        transports_[index(rank)] =
            make_local_transport(*network_, {true, name, &memory_, accepted});
    });
  }
  std::future<Result> make(int rank, const Make& maker) {
    auto promise = std::make_shared<std::promise<Result>>();
    on(rank, [&] {
      maker(thread(rank).context(), rank, channels_[index(rank)],
            [this, rank, promise](std::optional<Error> error, std::unique_ptr<Communicator> made) {
              communicators_[index(rank)] = std::move(made);
              promise->set_value(error ? Result{error->code(), error->what()} : Result{});
            });
    });
    return promise->get_future();
  }
  void connect(int from, int to) {
    Side side;
    const auto result = channel_suite::connect(
        thread(from), *transports_[index(from)], transports_[index(to)]->address(),
        {Hello::Role::worker, "rank", static_cast<SessionId>(from), "secret"}, side, in(20s));
    INFO(result.text);
    REQUIRE_FALSE(result.code);
    on(from, [&] { channels_[index(from)][index(to)] = side.channel; });
  }
  void await(const std::function<bool()>& condition, int rank) {
    bool is_met = false;
    for (const auto limit = in(20s); !is_met && std::chrono::steady_clock::now() < limit;) {
      on(rank, [&] { is_met = condition(); });
      if (!is_met) std::this_thread::yield();
    }
    REQUIRE(is_met);
  }

  const int size_;
  const bool over_ucx_;
  Memory memory_;
  std::vector<std::unique_ptr<IoThread>> threads_;
  std::unique_ptr<LocalNetwork> network_;
  std::vector<std::unique_ptr<Transport>> transports_;
  std::vector<std::vector<std::shared_ptr<Channel>>> channels_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
};

template <typename T>
std::span<std::byte> bytes_of(std::vector<T>& values) {
  return std::as_writable_bytes(std::span(values));
}

inline void check_all(const std::vector<Result>& results) {
  for (const auto& result : results) {
    INFO(result.text);
    REQUIRE_FALSE(result.code);
  }
}

template <typename T>
std::vector<std::vector<T>> random_values(int ranks, std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<T>> values(static_cast<std::size_t>(ranks), std::vector<T>(count));
  for (auto& rank : values)
    for (auto& value : rank)
      value = static_cast<T>(std::uniform_real_distribution<double>(-100, 100)(random));
  return values;
}

// Small whole numbers: their sums are the same in any order.
template <typename T>
std::vector<std::vector<T>> whole_values(int ranks, std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<T>> values(static_cast<std::size_t>(ranks), std::vector<T>(count));
  for (auto& rank : values)
    for (auto& value : rank) value = static_cast<T>(random() % 64);
  return values;
}

constexpr std::size_t kCounts[] = {0, 1, 3, 1000, 4099, 70001, 700003};

// With `orders` for in_rank_order.
inline void try_everything(RankGroup& ranks, const std::vector<bool>& orders = {false, true}) {
  const int n = ranks.size();
  const auto of = [](auto& values, int rank) {
    return bytes_of(values[static_cast<std::size_t>(rank)]);
  };
  for (const auto count : kCounts) {
    for (const bool in_order : orders) {
      INFO("ranks=", n, " count=", count, " in_order=", in_order);
      for (const auto op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min, ReduceOp::avg}) {
        INFO(name_of(op));
        const Reduction how{DataType::i32, op, in_order};
        const auto given = whole_values<std::int32_t>(n, count, count);
        std::vector<std::int32_t> expected(count);
        for (std::size_t i = 0; i < count; ++i) {
          auto& value = expected[i];
          value = given[0][i];
          for (std::size_t r = 1; r < given.size(); ++r) {
            if (op == ReduceOp::max) value = std::max(value, given[r][i]);
            if (op == ReduceOp::min) value = std::min(value, given[r][i]);
            if (op == ReduceOp::sum || op == ReduceOp::avg) value += given[r][i];
          }
          if (op == ReduceOp::avg) value /= n;
        }
        auto values = given;
        check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
          c.all_reduce(of(values, rank), how, in(kAmple), std::move(done));
        }));
        for (const auto& rank : values) REQUIRE((rank == expected));
        values = given;
        check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
          c.reduce_scatter(of(values, rank), Shares::equal(count * 4, 4, n), how, in(kAmple),
                           std::move(done));
        }));
        for (int rank = 0; rank < n; ++rank) {
          const auto shares = Shares::equal(count * 4, 4, n);
          const auto first = shares.begin(rank) / 4;
          const auto last = shares.begin(rank + 1) / 4;
          const auto& got = values[static_cast<std::size_t>(rank)];
          REQUIRE(std::equal(got.begin() + static_cast<std::ptrdiff_t>(first),
                             got.begin() + static_cast<std::ptrdiff_t>(last),
                             expected.begin() + static_cast<std::ptrdiff_t>(first)));
        }
      }
    }
    INFO("ranks=", n, " count=", count);
    for (int root = 0; root < n; root += n / 2 + 1) {
      auto values = whole_values<std::int32_t>(n, count, 5);
      const auto expected = values[static_cast<std::size_t>(root)];
      check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
        c.broadcast(of(values, rank), root, in(kAmple), std::move(done));
      }));
      for (const auto& rank : values) REQUIRE((rank == expected));
    }
    {
      const auto expected = whole_values<std::int32_t>(1, count, 6)[0];
      std::vector<std::vector<std::int32_t>> values(static_cast<std::size_t>(n),
                                                    std::vector<std::int32_t>(count, -1));
      for (int rank = 0; rank < n; ++rank) {
        const auto shares = Shares::equal(count * 4, 4, n);
        const auto share = shares.of(of(values, rank), rank);
        const auto first = shares.begin(rank);
        if (!share.empty())
          std::memcpy(share.data(), reinterpret_cast<const std::byte*>(expected.data()) + first,
                      share.size());
      }
      check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
        c.all_gather(of(values, rank), Shares::equal(count * 4, 4, n), in(kAmple), std::move(done));
      }));
      for (const auto& rank : values) REQUIRE((rank == expected));
    }
    {
      const auto each = count / static_cast<std::size_t>(n);
      auto values = whole_values<std::int32_t>(n, each * static_cast<std::size_t>(n), 8);
      const auto given = values;
      check_all(ranks.run([&](Communicator& c, int rank, Communicator::Done done) {
        c.all_to_all(of(values, rank), 4, in(kAmple), std::move(done));
      }));
      for (std::size_t i = 0; i < values.size(); ++i)
        for (std::size_t j = 0; j < values.size(); ++j)
          REQUIRE(std::equal(values[i].begin() + static_cast<std::ptrdiff_t>(j * each),
                             values[i].begin() + static_cast<std::ptrdiff_t>((j + 1) * each),
                             given[j].begin() + static_cast<std::ptrdiff_t>(i * each)));
    }
  }
}

}  // namespace communicator_suite
