// Goal:   what a job's ranks do together is right in any mix of groups; when one of them fails, all
//         learn who in time, and what is dropped in mid-flight is let go.
// Method: real processes (this program, started again per rank) over two real daemons; results
//         against a loop over all ranks' values. What only refuses runs as threads of one process.
#define DOCTEST_CONFIG_IMPLEMENT
#include "causeway/group.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <functional>
#include <mutex>
#include <thread>

#include "tests/error_of.h"
#include "worker_job.h"

using namespace causeway;
using namespace causeway::test;
using namespace std::chrono_literals;

namespace {

constexpr ReduceOptions in_order(Combine how) { return {.how = how, .in_rank_order = true}; }

// Value `i` of rank `rank`. Sums of floats depend on their order.
template <typename T>
T value(int rank, std::size_t i) {
  const auto n = static_cast<double>((i * 7919 + static_cast<std::size_t>(rank) * 104729) % 1999);
  if constexpr (std::is_integral_v<T>) return static_cast<T>(n) - 1000;
  return static_cast<T>((n - 1000) * std::pow(1.37, rank * 3));
}

template <typename T>
std::vector<T> values_of(int rank, std::size_t count) {
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = value<T>(rank, i);
  return values;
}

// As one process would, in the order of the group.
template <typename T>
std::vector<T> combined(const std::vector<int>& ranks, std::size_t count, Combine how) {
  std::vector<T> result = values_of<T>(ranks.front(), count);
  for (std::size_t r = 1; r < ranks.size(); ++r)
    for (std::size_t i = 0; i < count; ++i) {
      const auto next = value<T>(ranks[r], i);
      if (how == Combine::max || how == Combine::min)
        result[i] = how == Combine::max ? std::max(result[i], next) : std::min(result[i], next);
      else
        result[i] += next;
    }
  if (how == Combine::avg)
    for (auto& each : result) each /= static_cast<T>(ranks.size());
  return result;
}

template <typename T>
int reduce(Worker& worker, Group& group, std::size_t count) {
  const int own = worker.rank();
  for (const auto how : {Combine::sum, Combine::avg, Combine::max, Combine::min}) {
    const auto expected = combined<T>(group.ranks(), count, how);
    auto values = values_of<T>(own, count);
    group.all_reduce(std::span(values), in_order(how));
    EXPECT(values == expected);
    values = values_of<T>(own, count);
    group.all_reduce(std::span(values), {.how = how});
    for (std::size_t i = 0; i < count; ++i)
      EXPECT(std::abs(static_cast<double>(values[i]) - static_cast<double>(expected[i])) <=
             1e-6 * 1000 * std::pow(1.37, 12));
    values = values_of<T>(own, count);
    const auto mine = group.reduce_scatter(std::span(values), in_order(how));
    const auto wanted = group.share(std::span<const T>(expected), group.rank());
    EXPECT(std::ranges::equal(mine, wanted));
    group.all_gather(std::span(values));
    EXPECT(values == expected);
  }
  return 0;
}

int move(Worker& worker, Group& group) {
  const auto n = static_cast<std::size_t>(group.size());
  std::vector<std::int32_t> out(n * 1000);
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = group.rank() * 1'000'000 + static_cast<std::int32_t>(i);
  group.all_to_all(std::span(out));
  for (std::size_t i = 0; i < out.size(); ++i)
    EXPECT(out[i] == static_cast<int>(i / 1000) * 1'000'000 + group.rank() * 1000 +
                         static_cast<int>(i % 1000));
  for (int root = 0; root < group.size(); ++root) {
    std::vector<std::byte> bytes(300'001, static_cast<std::byte>(worker.rank()));
    group.broadcast(bytes, root);
    const auto sent = static_cast<std::byte>(group.ranks()[static_cast<std::size_t>(root)]);
    EXPECT(std::ranges::count(bytes, sent) == 300'001);
  }
  group.barrier();
  return 0;
}

// bfloat16 is the upper half of a float.
int halves(Worker& worker, Group& group) {
  std::vector<std::uint16_t> ones(777, 0x3f80);
  group.all_reduce(std::as_writable_bytes(std::span(ones)), DType::bf16);
  const auto sum = static_cast<float>(group.size());
  std::uint32_t bits = 0;
  std::memcpy(&bits, &sum, sizeof(bits));
  EXPECT(std::ranges::count(ones, static_cast<std::uint16_t>(bits >> 16)) == 777);
  return 0;
}

int everything(Worker& worker, Group& group) {
  for (const std::size_t count : {1UL, 1000UL, 200'003UL}) {
    const int wrong = reduce<float>(worker, group, count) + reduce<double>(worker, group, count) +
                      reduce<std::int32_t>(worker, group, count) +
                      reduce<std::int64_t>(worker, group, count);
    EXPECT(wrong == 0);
  }
  return move(worker, group) + halves(worker, group);
}

// Groups that overlap, made in different ways and numbers by each rank.
int overlap(Worker& worker) {
  const int rank = worker.rank();
  std::vector<Group> groups;
  if (rank <= 1) groups.push_back(worker.group({1, 0}));
  if (rank >= 1) groups.push_back(worker.group({3, 1, 2}));
  groups.push_back(worker.split(rank % 2, -rank));
  EXPECT(groups.back().ranks() == (rank % 2 == 0 ? std::vector{2, 0} : std::vector{3, 1}));
  groups.push_back(worker.group({rank}));
  groups.push_back(worker.split(0));
  for (auto& group : groups) {
    EXPECT(group.ranks()[static_cast<std::size_t>(group.rank())] == rank);
    EXPECT(everything(worker, group) == 0);
  }
  worker.barrier();
  return 0;
}

// Sums under way in two groups at once, with stage messages between, awaited in another order.
int side_by_side(Worker& worker) {
  const int rank = worker.rank(), stage = worker.stages().front();
  auto pair = worker.split(rank / 2);
  auto all = worker.split(0);
  std::vector<std::vector<float>> sums;
  std::vector<Pending> pending;
  for (std::size_t i = 0; i < 20; ++i) {
    auto& group = i % 3 == 0 ? pair : all;
    sums.push_back(values_of<float>(rank, 1 + 30'000 * (i % 4)));
    pending.push_back(group.start_all_reduce(std::span(sums.back()), in_order(Combine::sum)));
    const std::vector<int> out{rank};
    std::vector<int> in(1);
    worker.send<int>(stage, (stage + 1) % 4, 1, out);
    worker.receive<int>((stage + 3) % 4, stage, 1, in);
    EXPECT(in[0] == worker.rank_of_stage((stage + 3) % 4));
  }
  for (std::size_t i = pending.size(); i-- > 0;) {
    pending[i].wait();
    EXPECT(pending[i].is_done());
    const auto& ranks = i % 3 == 0 ? pair.ranks() : all.ranks();
    EXPECT(sums[i] == combined<float>(ranks, sums[i].size(), Combine::sum));
  }
  // Two groups of the same ranks, each with its first operation, which the ranks start in turns.
  auto left = worker.split(0), right = worker.split(0);
  std::vector<float> ones(1000, 1), tens(1000, 10);
  auto first = rank % 2 == 0 ? left.start_all_reduce(std::span(ones))
                             : right.start_all_reduce(std::span(tens));
  auto second = rank % 2 == 0 ? right.start_all_reduce(std::span(tens))
                              : left.start_all_reduce(std::span(ones));
  first.wait();
  second.wait();
  EXPECT(ones == std::vector<float>(1000, 4) && tens == std::vector<float>(1000, 40));
  // One that is waited for comes after those that were started before it.
  auto same_node = worker.split(stage == 0 || stage == 3 ? 0 : 1);  // As the plan has them.
  for (std::size_t i = 0; i < 400; ++i) {
    auto& group = i % 2 == 0 ? pair : same_node;
    std::vector<float> started(i % 7 + 1, 1), waited(i % 5 + 20, 2);
    auto running = group.start_all_reduce(std::span(started));
    group.all_reduce(std::span(waited));
    running.wait();
    EXPECT(started == std::vector<float>(started.size(), 2));
    EXPECT(waited == std::vector<float>(waited.size(), 4));
  }
  // A size that cannot be cut is refused, and the next call is the next one on all ranks.
  std::vector<int> odd(5);
  EXPECT(code_of([&] { all.all_to_all(std::span(odd)); }) == Errc::invalid_argument);
  EXPECT(code_of([&] { all.all_reduce(std::as_writable_bytes(std::span(odd)), DType::u8); }) ==
         Errc::invalid_argument);
  EXPECT(code_of([&] { all.broadcast({}, 4); }) == Errc::invalid_argument);
  return move(worker, all);
}

int report(const Error& error) {
  std::cout << to_string(error.code()) << ": " << error.what() << std::endl;
  return error.code() == Errc::peer_lost ? 4 : 1;
}

// Sums without end in two groups; rank 1 is in the one that rank 3 is not in.
int sum_forever(Worker& worker) {
  auto group = worker.rank() == 3 ? worker.group({3, 0}) : worker.group({0, 1, 2});
  auto other = worker.rank() == 0 ? std::optional(worker.group({3, 0})) : std::nullopt;
  std::vector<float> values(1'000'000), more(1'000'000);
  try {
    for (int i = 0;; ++i) {
      auto first = group.start_all_reduce(std::span(values));
      if (other) other->all_reduce(std::span(more));
      first.wait();
      if (i == 3) std::cout << "running" << std::endl;
    }
  } catch (const Error& error) {
    const auto again = error_of([&] { group.barrier(); });
    if (std::string(again.what()) != error.what()) std::cout << "then: " << again.what();
    return report(error);
  }
}

// Rank 1 drops a sum that the others wait for.
int drop(Worker& worker) {
  auto all = worker.split(0);
  std::vector<double> values(500'000, 1);
  if (worker.rank() != 1) {
    const auto error = error_of([&] { all.all_reduce(std::span(values)); });
    return report(error) == 4 || error.code() == Errc::closed ? 0 : 1;
  }
  { const auto dropped = all.start_all_reduce(std::span(values)); }
  std::ranges::fill(values, 2);  // Nobody writes here any more: for AddressSanitizer and the check.
  EXPECT(code_of([&] { worker.barrier(); }) == Errc::cancelled);
  EXPECT(code_of([&] { all.barrier(); }) == Errc::cancelled);
  EXPECT(std::ranges::count(values, 2) == 500'000);
  return 0;
}

int run(const std::string& what) {
  const auto plan = plan_on({"a/gpu0", "b/gpu0", "b/gpu1", "a/gpu1"});
  const std::map<std::string, int (*)(Worker&)> all{
      {"overlap", overlap}, {"side", side_by_side}, {"sum", sum_forever}, {"drop", drop}};
  return run_rank(plan, {.timeout = 30s}, all.at(what));
}

const std::vector<std::string> kNodes{"a", "b", "b", "a"};

void check_all_good(const std::string& what) {
  LivePool live(kTwoNodes, {"a", "b"});
  Job job(live, what, kNodes);
  for (std::size_t rank = 0; rank < kNodes.size(); ++rank) {
    const int code = job.ranks[rank].wait(120s);
    INFO("rank ", rank, ": ", job.output(rank));
    CHECK(code == 0);
  }
  CHECK(live.used_bytes() == 0);
}

// Ranks as threads of this process; the error of each, if it has one.
std::vector<std::optional<Error>> errors_of_ranks(const LivePool& live,
                                                  const std::vector<std::string>& nodes,
                                                  std::chrono::milliseconds timeout,
                                                  const std::function<void(Worker&)>& body) {
  std::vector<std::optional<Error>> errors(nodes.size());
  std::vector<std::thread> threads;
  const auto plan = plan_on({"a/gpu0", "b/gpu0"});
  for (std::size_t rank = 0; rank < nodes.size(); ++rank)
    threads.emplace_back([&, rank] {
      auto pool = live.connect(nodes[rank]);
      auto worker = Worker::join(pool, plan,
                                 {.group = "threads",
                                  .rank = static_cast<int>(rank),
                                  .world = static_cast<int>(nodes.size()),
                                  .timeout = timeout});
      try {
        body(worker);
      } catch (const Error& error) {
        errors[rank] = Error(error.code(), error.what());
      }
    });
  for (auto& thread : threads) thread.join();
  return errors;
}

std::string text_of(const std::optional<Error>& error) {
  return error ? error->what() : "no error";
}

bool says(const std::optional<Error>& error, Errc code, const std::string& text) {
  INFO(text_of(error));
  CHECK(error.has_value());
  return error && error->code() == code &&
         std::string(error->what()).find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("all operations in groups that overlap, of one to four ranks on two nodes") {
  check_all_good("overlap");
}

TEST_CASE("operations of two groups and stage messages run side by side") {
  check_all_good("side");
}

TEST_CASE("an operation that is dropped lets its values go, and the others are told") {
  check_all_good("drop");
}

TEST_CASE("a rank that is killed in mid-collective is named to all within 2 s") {
  LivePool live(kTwoNodes, {"a", "b"});
  Job job(live, "sum", kNodes);
  REQUIRE(eventually([&] { return job.all_said("running"); }, 60s));
  const auto start = std::chrono::steady_clock::now();
  job.ranks[1].signal(SIGKILL);
  for (const std::size_t rank : {0, 2, 3}) {
    const int code = job.ranks[rank].wait(10s);
    INFO("rank ", rank, ": ", job.output(rank));
    CHECK(code == 4);
    CHECK(job.output(rank).find("rank 1 on b") != std::string::npos);
    CHECK(job.output(rank).find("then:") == std::string::npos);
  }
  CHECK(std::chrono::steady_clock::now() - start < 2s);
}

TEST_CASE("members that give other lists are told whose, and make no more groups") {
  LivePool live(kTwoNodes, {"a", "b"});
  const auto errors = errors_of_ranks(live, {"a", "b"}, 10s, [](Worker& worker) {
    const auto list = worker.rank() == 0 ? std::vector{0, 1} : std::vector{1, 0};
    const auto error = error_of([&] { (void)worker.group(list); });
    CHECK(std::string(error_of([&] { (void)worker.group({0, 1}); }).what()) == error.what());
    worker.barrier();  // Other things go on.
    throw Error(error);
  });
  CHECK(says(errors[0], Errc::invalid_argument,
             "rank 1 on b makes a group of ranks {1, 0} where rank 0 makes one of {0, 1}"));
  CHECK(says(errors[1], Errc::invalid_argument, "rank 0 on a makes a group of ranks {0, 1}"));
}

TEST_CASE("a member that makes no group is named in time") {
  LivePool live(kTwoNodes, {"a", "b"});
  const auto errors = errors_of_ranks(live, {"a", "b"}, 700ms, [](Worker& worker) {
    if (worker.rank() == 0) (void)worker.group({0, 1});
    std::vector<std::byte> bytes(1);
    (void)code_of([&] { worker.receive_bytes(0, 1, 5, bytes); });  // Nothing comes.
  });
  CHECK(says(errors[0], Errc::timed_out, "rank 1 on b has not made the group of ranks {0, 1}"));
}

TEST_CASE("lists that name a rank twice, one that is not there, or not oneself are refused") {
  LivePool live(kTwoNodes, {"a", "b"});
  const auto errors = errors_of_ranks(live, {"a", "b"}, 10s, [](Worker& worker) {
    for (const auto& list :
         {std::vector<int>{}, {0, 1, 0}, {0, 2}, {-1, 0, 1}, {1 - worker.rank()}})
      CHECK(code_of([&] { (void)worker.group(list); }) == Errc::invalid_argument);
    worker.group({0, 1}).barrier();  // And break nothing.
  });
  CHECK_FALSE(errors[0]);
  CHECK_FALSE(errors[1]);
}

TEST_CASE("ranks that call something else time out, name each other, and keep the first reason") {
  LivePool live(kTwoNodes, {"a", "b"});
  const auto errors = errors_of_ranks(live, {"a", "b"}, 20s, [](Worker& worker) {
    auto all = worker.split(0);
    std::vector<float> values(100);
    try {
      if (worker.rank() == 0) all.all_reduce(std::span(values), {.timeout = 600ms});
      if (worker.rank() == 1) all.all_gather(std::span(values), 600ms);
    } catch (const Error& error) {
      CHECK(std::string(error_of([&] { all.barrier(); }).what()) == error.what());
      CHECK(std::string(error_of([&] { worker.barrier(); }).what()) == error.what());
      throw;
    }
  });
  for (const auto& error : errors) {
    INFO(text_of(error));
    REQUIRE(error);
    const std::string text = error->what();
    CHECK((error->code() == Errc::timed_out || error->code() == Errc::closed));
    CHECK((text.find("rank 0 on a") != std::string::npos ||
           text.find("rank 1 on b") != std::string::npos));
    CHECK(text.find("does it call the same operation") != std::string::npos);
  }
}

TEST_CASE("a group whose worker has left refuses, and a moved one goes on") {
  LivePool live(kTwoNodes, {"a", "b"});
  auto pool = live.connect("a");
  std::optional<Group> left;
  {
    auto worker = Worker::join(pool, plan_on({"a/gpu0"}), {.rank = 0, .world = 1});
    auto group = worker.group({0});
    left.emplace(std::move(group));
    std::vector<double> values{1, 2};
    left->all_reduce(std::span(values), {.how = Combine::avg});
    CHECK(values == std::vector<double>{1, 2});
    auto pending = left->start_barrier();
    pending.wait();
    pending = left->start_barrier();
    pending.wait();
    pending.wait();
  }
  CHECK(code_of([&] { left->barrier(); }) == Errc::closed);
}

TEST_CASE("a group in place whose worker has left refuses, too") {
  LivePool live(kTwoNodes, {"a", "b"});
  const auto errors = errors_of_ranks(live, {"a", "a", "b"}, 10s, [](Worker& worker) {
    auto here = worker.split(worker.rank() / 2);
    here.barrier();
    { const auto gone = std::move(worker); }
    CHECK(code_of([&] { here.barrier(); }) == Errc::closed);
  });
  for (const auto& error : errors) CHECK_FALSE(error);
}

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--rank") return run(argv[2]);
  return doctest::Context(argc, argv).run();
}
