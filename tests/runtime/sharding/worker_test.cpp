// Goal:   the processes of a job find each other, exchange what was sent and nothing else, and
// learn
//         within 2 s that one of them, or a daemon, has died.
// Method: real processes (this program, started again per rank) over two real daemons; sums are
//         checked against plain loops.
#define DOCTEST_CONFIG_IMPLEMENT
#include "causeway/worker.h"

#include <doctest/doctest.h>

#include <atomic>
#include <csignal>
#include <iostream>
#include <map>
#include <thread>

#include "tests/error_of.h"
#include "worker_job.h"

using namespace causeway;
using namespace causeway::test;
using namespace std::chrono_literals;

namespace {

const auto kCluster = kTwoNodes;

Plan four_stages() { return plan_on({"a/gpu0", "b/gpu0", "a/gpu1", "b/gpu1"}); }

// Every stage sends every other a message of its own size and content; collectives between.
int talk(Worker& worker) {
  const int stages = 4;
  const auto message = [](int from, int to) {
    std::vector<std::uint32_t> values(1 + 40000 * (from + to));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<std::uint32_t>(i * 7 + from * 100 + to);
    return values;
  };
  for (int round = 0; round < 3; ++round) {
    for (const int from : worker.stages())
      for (int to = 0; to < stages; ++to) {
        const auto values = message(from, to);
        worker.send<std::uint32_t>(from, to, 5, values);
        worker.send<std::uint32_t>(from, to, 6, std::span(values).first(1));
      }
    worker.barrier();
    for (const int to : worker.stages())
      for (int from = stages - 1; from >= 0; --from) {
        const auto expected = message(from, to);
        std::vector<std::uint32_t> got(expected.size()), one(1);
        worker.receive<std::uint32_t>(from, to, 6, one);
        worker.receive<std::uint32_t>(from, to, 5, got);
        EXPECT(one[0] == expected[0]);
        EXPECT(got == expected);
      }
  }
  for (const std::size_t size : {0, 1, 3, 1000, 100003}) {
    std::vector<float> values(size);
    std::vector<double> exact(size, 0.25 * (worker.rank() + 1));
    for (std::size_t i = 0; i < size; ++i) values[i] = static_cast<float>(worker.rank() + i % 10);
    worker.all_reduce_sum(std::span<float>(values));
    worker.all_reduce_sum(std::span<double>(exact));
    const int world = worker.world();
    for (std::size_t i = 0; i < size; ++i) {
      EXPECT(values[i] == static_cast<float>(world * (world - 1) / 2 + world * (i % 10)));
      EXPECT(exact[i] == 0.25 * world * (world + 1) / 2);
    }
  }
  for (int root = 0; root < worker.world(); ++root) {
    std::vector<std::byte> bytes(5000, static_cast<std::byte>(worker.rank()));
    worker.broadcast(root, bytes);
    EXPECT(bytes == std::vector<std::byte>(5000, static_cast<std::byte>(root)));
  }
  // What ranks of a node tell each other goes through memory that they share, and no other does.
  std::map<std::string, std::uint64_t> sent;
  for (const auto& route : worker.traffic()) {
    sent[route.transport] += route.bytes;
    EXPECT((route.transport != "ucx") == (route.from_node == route.to_node));
  }
  EXPECT(sent["ucx"] > 0);
  const bool shares_node = worker.world() == 4 || (worker.world() == 3 && worker.rank() > 0);
  EXPECT((sent["shm"] > 100003) == shares_node);
  worker.barrier();
  return 0;
}

// Waits for a message that never comes; the error and how long it took is what is tested.
int wait_forever(Worker& worker) {
  std::cout << "joined" << std::endl;
  const int stage = worker.stages().front();
  std::vector<std::byte> bytes(100);
  try {
    worker.receive_bytes((stage + 1) % 4, stage, 1, bytes);
  } catch (const Error& error) {
    std::cout << to_string(error.code()) << ": " << error.what() << std::endl;
    return error.code() == Errc::peer_lost ? 4 : 1;
  }
  return 1;
}

}  // namespace

TEST_CASE("messages and collectives between 2, 3 and 4 processes on two nodes") {
  LivePool live(kCluster, {"a", "b"});
  for (const auto& nodes :
       {std::vector<std::string>{"a", "b"}, {"b", "a", "a"}, {"a", "b", "b", "a"}}) {
    Job job(live, "talk", nodes);
    for (std::size_t rank = 0; rank < nodes.size(); ++rank) {
      const int code = job.ranks[rank].wait(60s);
      INFO("world ", nodes.size(), " rank ", rank, ": ", job.output(rank));
      CHECK(code == 0);
    }
  }
  CHECK(live.used_bytes() == 0);
}

TEST_CASE("one process holds every stage and talks to itself") {
  LivePool live(kCluster, {"a"});
  auto pool = live.connect("a");
  Plan plan;
  for (const char* name : {"a/gpu0", "a/gpu1"})
    plan.stages.push_back({DeviceName::parse(name), 0, 1, 0, 0, 0});
  auto worker = Worker::join(pool, plan, {.rank = 0, .world = 1});
  CHECK(worker.stages() == std::vector<int>{0, 1});
  const std::vector<int> values{1, 2, 3};
  worker.send<int>(0, 1, 9, values);
  std::vector<int> got(3), longer(4);
  CHECK_THROWS_AS(worker.receive<int>(0, 1, 9, longer), Error);
  worker.receive<int>(0, 1, 9, got);
  CHECK(got == values);
  CHECK_THROWS_AS(worker.receive<int>(0, 1, 9, got), Error);  // Would never end.
  CHECK_THROWS_AS(worker.send<int>(0, 2, 9, values), Error);
}

TEST_CASE("a plan with a stage where no process runs is refused") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  const auto refused =
      error_of([&] { (void)Worker::join(pool, four_stages(), {.rank = 0, .world = 1}); });
  CHECK(refused.code() == Errc::invalid_argument);
  CHECK(std::string(refused.what()).find("b/gpu0") != std::string::npos);
}

TEST_CASE("ranks share a stage in teams, and talk to the same member of another's") {
  LivePool live(kCluster, {"a", "b"});
  const auto plan = plan_on({"a/gpu0", "b/gpu0", "a/gpu1"});
  const std::vector<const char*> nodes{"b", "a", "a", "b", "a", "a"};
  std::vector<std::thread> ranks;
  std::atomic<int> good = 0;
  for (int rank = 0; rank < 6; ++rank)
    ranks.emplace_back([&, rank] {
      auto pool = live.connect(nodes[static_cast<std::size_t>(rank)]);
      auto worker = Worker::join(
          pool, plan, {.group = "teams", .rank = rank, .world = 6, .ranks_per_stage = 2});
      const std::vector<std::vector<int>> teams{{1, 2}, {0, 3}, {4, 5}};
      bool right = true;
      for (int stage = 0; stage < 3; ++stage) {
        const auto& team = teams[static_cast<std::size_t>(stage)];
        right = right && worker.team_of_stage(stage) == team &&
                worker.rank_of_stage(stage) == team[static_cast<std::size_t>(worker.member())];
      }
      const int stage = worker.stages().at(0);
      const std::vector<int> mine{worker.member() * 10 + stage};
      std::vector<int> got(1);
      worker.send<int>(stage, (stage + 1) % 3, 0, mine);
      worker.receive<int>((stage + 2) % 3, stage, 0, got);
      right = right && got[0] == worker.member() * 10 + (stage + 2) % 3;
      worker.barrier();
      if (right && worker.stages().size() == 1) ++good;
    });
  for (auto& rank : ranks) rank.join();
  CHECK(good == 6);
}

TEST_CASE("a node with ranks that are no whole team is refused") {
  LivePool live(kCluster, {"a"});
  auto pool = live.connect("a");
  const auto refused = error_of([&] {
    (void)Worker::join(pool, plan_on({"a/gpu0"}), {.rank = 0, .world = 1, .ranks_per_stage = 2});
  });
  CHECK(refused.code() == Errc::invalid_argument);
  CHECK(std::string(refused.what()) ==
        "1 of this job's processes run on a, no multiple of the 2 that share a stage; start 2 "
        "there");
}

TEST_CASE("a rank that is killed is named to every survivor within 2 s") {
  LivePool live(kCluster, {"a", "b"});
  Job job(live, "wait", {"a", "b", "a", "b"});
  REQUIRE(eventually([&] { return job.all_said("joined"); }, 30s));
  const auto start = std::chrono::steady_clock::now();
  job.ranks[1].signal(SIGKILL);
  for (const std::size_t rank : {0, 2, 3}) {
    const int code = job.ranks[rank].wait(10s);
    INFO("rank ", rank, ": ", job.output(rank));
    CHECK(code == 4);
    CHECK(job.output(rank).find("rank 1 on b") != std::string::npos);
  }
  CHECK(std::chrono::steady_clock::now() - start < 2s);
}

TEST_CASE("a daemon that is killed is named to the ranks of its node within 2 s") {
  LivePool live(kCluster, {"a", "b"});
  Job job(live, "wait", {"a", "b"});
  REQUIRE(eventually([&] { return job.all_said("joined"); }, 30s));
  const auto start = std::chrono::steady_clock::now();
  live.kill("b");
  CHECK(job.ranks[1].wait(10s) == 4);
  CHECK(std::chrono::steady_clock::now() - start < 2s);
  INFO(job.output(1));
  CHECK(job.output(1).find("node b") != std::string::npos);
  CHECK(job.ranks[0].wait(10s) == 4);  // Its partner has gone.
}

TEST_CASE("the same processes join the same group again and again") {
  LivePool live(kCluster, {"a", "b"});
  std::vector<std::thread> ranks;
  std::atomic<int> rounds = 0;
  for (int rank = 0; rank < 2; ++rank)
    ranks.emplace_back([&, rank] {
      auto pool = live.connect(rank == 0 ? "a" : "b");
      for (int round = 0; round < 5; ++round) {
        auto worker =
            Worker::join(pool, four_stages(), {.group = "again", .rank = rank, .world = 2});
        worker.barrier();
        ++rounds;
      }
    });
  for (auto& rank : ranks) rank.join();
  CHECK(rounds == 10);
}

TEST_CASE("a group's name must be plain") {
  LivePool live(kCluster, {"a"});
  auto pool = live.connect("a");
  for (const char* name : {"job 1", "a/b", "x\r\nHost: y"})
    CHECK_THROWS_AS((void)Worker::join(pool, four_stages(), {.group = name, .rank = 0, .world = 2}),
                    Error);
}

TEST_CASE("a job whose last rank never comes ends with who is missing") {
  LivePool live(kCluster, {"a"});
  auto pool = live.connect("a");
  const auto alone = error_of([&] {
    (void)Worker::join(pool, four_stages(),
                       {.group = "g", .rank = 0, .world = 2, .timeout = 500ms});
  });
  CHECK(alone.code() == Errc::timed_out);
  CHECK(std::string(alone.what()).find("1 of 2") != std::string::npos);
}

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--rank")
    return run_rank(four_stages(), {.timeout = 30s},
                    std::string(argv[2]) == "talk" ? talk : wait_forever);
  return doctest::Context(argc, argv).run();
}
