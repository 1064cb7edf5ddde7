#include "runtime/directory/embedded.h"

#include <fmt/format.h>
#include <openssl/rand.h>

#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

namespace causeway {

namespace {
namespace asio = boost::asio;
using namespace std::chrono_literals;
constexpr std::size_t kMaxRegions = 100'000;
constexpr std::size_t kMaxExtentsPerSession = 16384;
constexpr std::size_t kMaxGroups = 4096;
constexpr std::size_t kMaxNodes = 4096;
constexpr int kMaxWorld = 4096;
constexpr auto kEmptyGroupLife = 10min;  // A group that was opened and never joined.
}  // namespace

std::string random_hex(std::size_t bytes) {
  std::vector<unsigned char> raw(bytes);
  if (RAND_bytes(raw.data(), static_cast<int>(raw.size())) != 1)
    throw Error(Errc::io, "the system gives no random bytes");
  std::string text;
  for (const auto byte : raw) text += fmt::format("{:02x}", byte);
  return text;
}

asio::awaitable<void> EmbeddedDirectory::put_node(NodeRecord node) {
  const auto known = nodes_.find(node.name);
  if (known != nodes_.end() && known->second.alive)
    throw Error(
        Errc::already_exists,
        fmt::format("node '{}' is already in the pool, at {}; give the new one another name",
                    node.name, known->second.control_address));
  if (known == nodes_.end() && nodes_.size() >= kMaxNodes)
    throw Error(Errc::exhausted, fmt::format("the pool already has {} nodes", kMaxNodes));
  node.alive = true;
  nodes_[node.name] = std::move(node);
  co_return;
}

asio::awaitable<void> EmbeddedDirectory::node_lost(std::string name) {
  if (const auto known = nodes_.find(name); known != nodes_.end()) known->second.alive = false;
  co_return;
}

asio::awaitable<std::vector<NodeRecord>> EmbeddedDirectory::nodes() {
  std::vector<NodeRecord> result;
  for (const auto& [_, node] : nodes_) result.push_back(node);
  co_return result;
}

asio::awaitable<void> EmbeddedDirectory::put_region(RegionRecord region) {
  const std::pair key{region.session, region.region.id};
  auto extents = region.region.extents.size();
  for (auto other = regions_.lower_bound({region.session, 0});
       other != regions_.end() && other->first.first == region.session; ++other)
    if (other->first != key) extents += other->second.region.extents.size();
  if (extents > kMaxExtentsPerSession)
    throw Error(Errc::exhausted,
                fmt::format("session {:016x} would record {} extents; {} are allowed",
                            region.session, extents, kMaxExtentsPerSession));
  if (!regions_.contains(key) && regions_.size() >= kMaxRegions)
    throw Error(Errc::exhausted, fmt::format("the pool already has {} regions", kMaxRegions));
  regions_[key] = std::move(region);
  co_return;
}

asio::awaitable<void> EmbeddedDirectory::drop_region(std::uint64_t session, std::uint64_t region) {
  regions_.erase({session, region});
  co_return;
}

asio::awaitable<std::vector<RegionRecord>> EmbeddedDirectory::regions() {
  std::vector<RegionRecord> result;
  for (const auto& [_, region] : regions_) result.push_back(region);
  co_return result;
}

void EmbeddedDirectory::remove_stale_groups() {
  const auto now = std::chrono::steady_clock::now();
  std::erase_if(groups_, [now](const auto& entry) {
    const auto& group = *entry.second;
    return group.members.empty() &&
           (!group.failure.empty() || now - group.opened > kEmptyGroupLife);
  });
}

void EmbeddedDirectory::leave(Group& group, int rank, std::string reason) {
  if (group.failure.empty()) group.failure = std::move(reason);
  group.members.erase(rank);
  group.changed.cancel();
}

asio::awaitable<std::string> EmbeddedDirectory::open_group(std::string name, int world) {
  remove_stale_groups();
  if (world < 1 || world > kMaxWorld)
    throw Error(Errc::invalid_argument,
                fmt::format("group '{}': a world of {} ranks; 1 to {} are possible", name, world,
                            kMaxWorld));
  auto& group = groups_[name];
  if (!group) {
    if (groups_.size() > kMaxGroups) {
      groups_.erase(name);
      throw Error(Errc::exhausted, fmt::format("the pool already has {} groups", kMaxGroups));
    }
    group = std::make_shared<Group>(context_, world);
    group->key = random_hex(16);
    group->opened = std::chrono::steady_clock::now();
    group->changed.expires_at(asio::steady_timer::time_point::max());
  }
  if (group->world != world)
    throw Error(Errc::invalid_argument,
                fmt::format("group '{}' has {} ranks, not {}; give this job another group name",
                            name, group->world, world));
  co_return group->key;
}

asio::awaitable<std::vector<GroupMember>> EmbeddedDirectory::join_group(std::string name,
                                                                        GroupMember member,
                                                                        Deadline deadline) {
  const auto found = groups_.find(name);
  if (found == groups_.end())
    throw Error(Errc::not_found, fmt::format("no group '{}'; open it first", name));
  const auto group = found->second;
  if (!group->failure.empty()) throw Error(Errc::peer_lost, group->failure);
  if (member.rank < 0 || member.rank >= group->world)
    throw Error(Errc::invalid_argument, fmt::format("group '{}' has ranks 0 to {}, not {}", name,
                                                    group->world - 1, member.rank));
  const auto rank = member.rank;
  if (!group->members.emplace(rank, std::move(member)).second)
    throw Error(
        Errc::already_exists,
        fmt::format("group '{}' already has a rank {}; is the job started twice?", name, rank));
  const auto complete = [&] { return std::ssize(group->members) == group->world; };
  if (complete()) {
    group->changed.cancel();
    groups_.erase(name);  // Whoever comes now starts a new one.
  }
  asio::steady_timer limit(context_, deadline);
  limit.async_wait([group](boost::system::error_code failed) {
    if (!failed) group->changed.cancel();
  });
  while (!complete() && group->failure.empty()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      const auto present = group->members.size();
      leave(*group, rank, fmt::format("rank {} of group '{}' gave up waiting", rank, name));
      throw Error(Errc::timed_out, fmt::format("group '{}': only {} of {} ranks came in time", name,
                                               present, group->world));
    }
    co_await group->changed.async_wait(asio::experimental::as_tuple(asio::use_awaitable));
    const auto state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() == asio::cancellation_type::none) continue;
    leave(*group, rank, fmt::format("rank {} of group '{}' went away", rank, name));
    throw Error(Errc::cancelled, group->failure);
  }
  if (!group->failure.empty()) throw Error(Errc::peer_lost, group->failure);
  std::vector<GroupMember> result;
  for (const auto& [_, each] : group->members) result.push_back(each);
  co_return result;
}

asio::awaitable<void> EmbeddedDirectory::drop_session(std::uint64_t session) {
  std::erase_if(regions_, [session](const auto& entry) { return entry.first.first == session; });
  for (auto& [name, group] : groups_) {
    const auto gone = std::ranges::find_if(
        group->members, [session](const auto& entry) { return entry.second.session == session; });
    if (gone == group->members.end()) continue;
    leave(*group, gone->first,
          fmt::format("rank {} of group '{}', on {}, died or left", gone->first, name,
                      gone->second.node));
  }
  remove_stale_groups();
  co_return;
}

}  // namespace causeway
