#include "causeway/worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <optional>

#include "runtime/sharding/group_maker.h"
#include "runtime/sharding/group_state.h"
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

constexpr std::uint32_t kMaxTag = 1u << 24;

// Whose message it is. Collectives use a stage that no plan has.
std::uint64_t channel_tag(std::uint64_t from, std::uint64_t to, std::uint64_t tag) {
  return from << 44 | to << 24 | tag;
}

}  // namespace

struct Worker::State {
  State(std::shared_ptr<Pool::State> pool, const Plan& plan, const WorkerOptions& options)
      : mesh(std::move(pool), options),
        groups(mesh),
        everyone(groups.of_all()),
        teams(plan.stages.size()) {
    std::map<std::string, std::vector<int>> ranks_of_node;
    for (const auto& each : mesh.members()) ranks_of_node[each.node].push_back(each.rank);
    std::map<std::string, std::vector<int>> stages_of_node;
    for (const auto& stage : plan.stages)
      if (!stage.beside.empty())
        throw Error(Errc::unsupported,
                    fmt::format("plan '{}': {} and {} share the layers of a stage, and this "
                                "runtime's stages have one device each; plan without "
                                "--tensor-parallel",
                                plan.model, stage.device.to_string(),
                                stage.beside.front().device.to_string()));
    for (std::size_t i = 0; i < plan.stages.size(); ++i)
      stages_of_node[plan.stages[i].device.node].push_back(static_cast<int>(i));
    for (const auto& [node, stages] : stages_of_node) {
      const auto ranks = ranks_of_node.find(node);
      if (ranks == ranks_of_node.end())
        throw Error(
            Errc::invalid_argument,
            fmt::format("stage {} is on {}, and no process of this job runs on {}; start one "
                        "there",
                        stages.front(), plan.stages[stages.front()].device.to_string(), node));
      deal(node, stages, ranks->second, static_cast<std::size_t>(options.ranks_per_stage));
    }
  }

  void deal(const std::string& node, const std::vector<int>& stages, const std::vector<int>& ranks,
            std::size_t team_size) {
    if (ranks.size() % team_size != 0)
      throw Error(
          Errc::invalid_argument,
          fmt::format("{} of this job's processes run on {}, no multiple of the {} that share a "
                      "stage; start {} there",
                      ranks.size(), node, team_size, team_size * stages.size()));
    const auto count = ranks.size() / team_size;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      const auto first = ranks.begin() + std::ptrdiff_t(i * count / stages.size() * team_size);
      auto& team = teams[stages[i]];
      team.assign(first, first + std::ptrdiff_t(team_size));
      const auto own = std::ranges::find(team, mesh.rank());
      if (own == team.end()) continue;
      own_stages.push_back(stages[i]);
      member = static_cast<int>(own - team.begin());
    }
  }

  void check_message(int from_stage, int to_stage, std::uint32_t tag) const {
    const auto known = [&](int stage) { return stage >= 0 && stage < std::ssize(teams); };
    if (!known(from_stage) || !known(to_stage) || tag >= kMaxTag)
      throw Error(
          Errc::invalid_argument,
          fmt::format("message {} from stage {} to stage {}: the plan has stages 0 to {}, and "
                      "tags end at {}",
                      tag, from_stage, to_stage, std::ssize(teams) - 1, kMaxTag - 1));
  }

  WorkerMesh mesh;
  GroupMaker groups;
  Group everyone;
  std::vector<std::vector<int>> teams;  // Ranks, by stage.
  std::vector<int> own_stages;
  int member = -1;
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
  if (options.ranks_per_stage < 1)
    throw Error(Errc::invalid_argument,
                fmt::format("{} ranks per stage: give 1 or more", options.ranks_per_stage));
  if (plan.stages.size() >= MeshIo::kCollectiveStage)
    throw Error(Errc::invalid_argument,
                fmt::format("a plan of {} stages is too long for a worker", plan.stages.size()));
  return Worker(std::make_unique<State>(pool.state(), plan, std::move(options)));
}

int Worker::rank() const noexcept { return state_->mesh.rank(); }
int Worker::world() const noexcept { return state_->mesh.world(); }
const std::vector<int>& Worker::stages() const noexcept { return state_->own_stages; }

int Worker::rank_of_stage(int stage) const { return team_of_stage(stage)[std::max(member(), 0)]; }

const std::vector<int>& Worker::team_of_stage(int stage) const {
  state_->check_message(stage, stage, 0);
  return state_->teams[stage];
}

int Worker::member() const noexcept { return state_->member; }

void Worker::send_bytes(int from_stage, int to_stage, std::uint32_t tag,
                        std::span<const std::byte> message) {
  state_->check_message(from_stage, to_stage, tag);
  state_->mesh.io()->pool->gpu_addresses.require_host(message);
  const auto name = channel_tag(from_stage, to_stage, tag);
  const int to = rank_of_stage(to_stage);
  if (to != rank()) return state_->mesh.send(to, name, message);
  state_->own_messages[name].emplace_back(message.begin(), message.end());
  state_->mesh.count(rank(), message.size());
}

void Worker::receive_bytes(int from_stage, int to_stage, std::uint32_t tag,
                           std::span<std::byte> message) {
  state_->check_message(from_stage, to_stage, tag);
  state_->mesh.io()->pool->gpu_addresses.require_host(message);
  const auto name = channel_tag(from_stage, to_stage, tag);
  const int from = rank_of_stage(from_stage);
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

Group Worker::group(const std::vector<int>& ranks) { return state_->groups.of(ranks); }
Group Worker::split(int colour, int key) {
  return state_->groups.split(state_->everyone, colour, key);
}

void Worker::barrier() { state_->everyone.barrier(); }
void Worker::broadcast(int root, std::span<std::byte> bytes) {
  state_->everyone.broadcast(bytes, root);
}
void Worker::all_reduce_sum(std::span<float> values) { state_->everyone.all_reduce(values); }
void Worker::all_reduce_sum(std::span<double> values) { state_->everyone.all_reduce(values); }

std::vector<Worker::Traffic> Worker::traffic() const { return state_->mesh.traffic(); }

}  // namespace causeway
