#include "causeway/worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>

#include "runtime/sharding/worker_mesh.h"

namespace causeway {

namespace {

int env_number(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    if (!text || !*text) continue;
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (*end != '\0' || value < 0 || value > 1'000'000)
      throw Error(Errc::invalid_argument,
                  fmt::format("{}='{}' is not a rank or a size", name, text));
    return static_cast<int>(value);
  }
  return otherwise;
}

// A tag of the channel: who sends, to whom, which message. Collectives use a stage that no plan
// has.
constexpr std::uint64_t kCollective = (1u << 20) - 1;
constexpr std::uint32_t kMaxTag = 1u << 24;

std::uint64_t channel_tag(std::uint64_t from, std::uint64_t to, std::uint64_t tag) {
  return from << 44 | to << 24 | tag;
}

enum CollectiveTag : std::uint32_t { kBarrier = 0x100, kBroadcast = 0x200, kReduce = 0x300 };

}  // namespace

struct Worker::State {
  State(std::shared_ptr<Pool::State> pool, const Plan& plan, WorkerOptions options)
      : mesh(std::move(pool), options) {
    const auto& members = mesh.members();
    // The stages of a node's devices are dealt out in order to the ranks that came from that node.
    std::map<std::string, std::vector<int>> ranks_of_node;
    for (const auto& member : members) ranks_of_node[member.node].push_back(member.rank);
    std::map<std::string, std::vector<int>> stages_of_node;
    for (std::size_t i = 0; i < plan.stages.size(); ++i)
      stages_of_node[plan.stages[i].device.node].push_back(static_cast<int>(i));
    rank_of_stage.resize(plan.stages.size());
    for (const auto& [node, stages] : stages_of_node) {
      const auto ranks = ranks_of_node.find(node);
      if (ranks == ranks_of_node.end())
        throw Error(
            Errc::invalid_argument,
            fmt::format("stage {} is on {}, and no process of this job runs on {}; start one "
                        "there",
                        stages.front(), plan.stages[stages.front()].device.to_string(), node));
      for (std::size_t i = 0; i < stages.size(); ++i)
        rank_of_stage[stages[i]] = ranks->second[i * ranks->second.size() / stages.size()];
    }
    for (std::size_t i = 0; i < rank_of_stage.size(); ++i)
      if (rank_of_stage[i] == mesh.rank()) own_stages.push_back(static_cast<int>(i));
  }

  void check_message(int from_stage, int to_stage, std::uint32_t tag) const {
    const auto known = [&](int stage) { return stage >= 0 && stage < std::ssize(rank_of_stage); };
    if (!known(from_stage) || !known(to_stage) || tag >= kMaxTag)
      throw Error(
          Errc::invalid_argument,
          fmt::format("message {} from stage {} to stage {}: the plan has stages 0 to {}, and "
                      "tags end at {}",
                      tag, from_stage, to_stage, std::ssize(rank_of_stage) - 1, kMaxTag - 1));
  }

  template <typename T>
  void all_reduce(std::span<T> values);

  WorkerMesh mesh;
  std::vector<int> rank_of_stage;
  std::vector<int> own_stages;
  std::map<std::uint64_t, std::deque<std::vector<std::byte>>> own_messages;  // To own stages.
};

Worker::Worker(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Worker::Worker(Worker&&) noexcept = default;
Worker& Worker::operator=(Worker&&) noexcept = default;
Worker::~Worker() = default;

Worker Worker::join(Pool& pool, const Plan& plan, WorkerOptions options) {
  if (options.group.empty()) {
    const char* group = std::getenv("CAUSEWAY_GROUP");
    options.group = group && *group ? group : "default";
  }
  if (options.rank < 0)
    options.rank = env_number(
        {"CAUSEWAY_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK"}, 0);
  if (options.world < 0)
    options.world = env_number(
        {"CAUSEWAY_WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE"},
        1);
  if (plan.stages.size() >= kCollective)
    throw Error(Errc::invalid_argument,
                fmt::format("a plan of {} stages is too long for a worker", plan.stages.size()));
  return Worker(std::make_unique<State>(pool.state(), plan, std::move(options)));
}

int Worker::rank() const noexcept { return state_->mesh.rank(); }
int Worker::world() const noexcept { return state_->mesh.world(); }
const std::vector<int>& Worker::stages() const noexcept { return state_->own_stages; }

int Worker::rank_of_stage(int stage) const {
  state_->check_message(stage, stage, 0);
  return state_->rank_of_stage[stage];
}

void Worker::send_bytes(int from_stage, int to_stage, std::uint32_t tag,
                        std::span<const std::byte> message) {
  state_->check_message(from_stage, to_stage, tag);
  const auto name = channel_tag(from_stage, to_stage, tag);
  const int to = state_->rank_of_stage[to_stage];
  if (to != rank()) return state_->mesh.send(to, name, message);
  state_->own_messages[name].emplace_back(message.begin(), message.end());
  state_->mesh.count(rank(), message.size());
}

void Worker::receive_bytes(int from_stage, int to_stage, std::uint32_t tag,
                           std::span<std::byte> message) {
  state_->check_message(from_stage, to_stage, tag);
  const auto name = channel_tag(from_stage, to_stage, tag);
  const int from = state_->rank_of_stage[from_stage];
  if (from != rank()) return state_->mesh.receive(from, name, message);
  const auto waiting = state_->own_messages.find(name);
  if (waiting == state_->own_messages.end())
    throw Error(
        Errc::invalid_argument,
        fmt::format("stage {} waits for message {} of stage {}, which is in the same process "
                    "and has not sent it: this would never end",
                    to_stage, tag, from_stage));
  const auto& bytes = waiting->second.front();
  if (bytes.size() != message.size())
    throw Error(Errc::out_of_bounds, fmt::format("message {} of stage {} has {} bytes, not {}", tag,
                                                 from_stage, bytes.size(), message.size()));
  std::ranges::copy(bytes, message.begin());
  waiting->second.pop_front();
  if (waiting->second.empty()) state_->own_messages.erase(waiting);
}

void Worker::barrier() {
  // Dissemination: after round k a rank has heard, directly or not, of 2^(k+1) ranks.
  std::uint32_t round = 0;
  for (int distance = 1; distance < world(); distance *= 2, ++round) {
    const auto name = channel_tag(kCollective, kCollective, kBarrier + round);
    std::array<std::byte, 1> token{};
    state_->mesh.send((rank() + distance) % world(), name, token);
    state_->mesh.receive((rank() - distance + world()) % world(), name, token);
  }
}

void Worker::broadcast(int root, std::span<std::byte> bytes) {
  if (root < 0 || root >= world())
    throw Error(Errc::invalid_argument, fmt::format("broadcast: there is no rank {}", root));
  // Binomial tree over ranks counted from the root.
  const int place = (rank() - root + world()) % world();
  const auto name = channel_tag(kCollective, kCollective, kBroadcast);
  int reach = 1;
  while (reach < world()) reach *= 2;
  for (; reach > 1; reach /= 2) {
    const int half = reach / 2;
    if (place % reach == 0 && place + half < world())
      state_->mesh.send((place + half + root) % world(), name, bytes);
    else if (place % reach == half)
      state_->mesh.receive((place - half + root) % world(), name, bytes);
  }
}

template <typename T>
void Worker::State::all_reduce(std::span<T> values) {
  const int world = mesh.world();
  const int rank = mesh.rank();
  if (world == 1) return;
  const auto part = [&](int index) {
    const auto i = static_cast<std::size_t>((index % world + world) % world);
    const auto first = values.size() * i / world, last = values.size() * (i + 1) / world;
    return values.subspan(first, last - first);
  };
  const int right = (rank + 1) % world, left = (rank - 1 + world) % world;
  const auto name = channel_tag(kCollective, kCollective, kReduce);
  std::vector<T> incoming(values.size() / world + 1);
  // Part c starts at rank c and gathers the sum on its way round: one order, the same for all.
  for (int step = 0; step < world - 1; ++step) {
    mesh.send(right, name, std::as_bytes(part(rank - step)));
    const auto target = part(rank - step - 1);
    const auto arrived = std::span(incoming).first(target.size());
    mesh.receive(left, name, std::as_writable_bytes(arrived));
    for (std::size_t i = 0; i < target.size(); ++i) target[i] = arrived[i] + target[i];
  }
  for (int step = 0; step < world - 1; ++step) {
    mesh.send(right, name, std::as_bytes(part(rank + 1 - step)));
    mesh.receive(left, name, std::as_writable_bytes(part(rank - step)));
  }
}

void Worker::all_reduce_sum(std::span<float> values) { state_->all_reduce(values); }
void Worker::all_reduce_sum(std::span<double> values) { state_->all_reduce(values); }

std::vector<Worker::Traffic> Worker::traffic() const { return state_->mesh.traffic(); }

}  // namespace causeway
