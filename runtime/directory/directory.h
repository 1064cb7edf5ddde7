// Who is in the pool and who holds what. One idea, two bodies: embedded in a daemon, or (later)
// etcd.
//
// Shape:   nodes by name; regions by (session, id); groups by name. A node or a session that is
// gone
//          takes what depends on it along.
// Errors:  already_exists (a living node of that name, a rank taken), not_found, invalid_argument,
//          timed_out, peer_lost (a member of the group died), exhausted.
// Threads: the daemon's one thread; the awaitables resume there.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "causeway/pool.h"

namespace causeway {

struct NodeRecord {
  std::string name;
  std::string control_address;
  std::string data_address;
  std::string cluster_yaml;  // This node and its links, as a cluster file.
  std::string topology =
      {};  // The machine as it found itself, as JSON; empty: only the cluster file.
  bool alive = true;
};

struct RegionRecord {
  std::uint64_t session = 0;
  RegionStatus region;
};

struct GroupMember {
  std::uint64_t session = 0;
  int rank = 0;
  std::string node;
  std::string address;  // Of its data plane.
};

class Directory {
 public:
  using Deadline = std::chrono::steady_clock::time_point;
  virtual ~Directory() = default;

  virtual boost::asio::awaitable<void> put_node(NodeRecord node) = 0;
  virtual boost::asio::awaitable<void> node_lost(std::string name) = 0;
  virtual boost::asio::awaitable<std::vector<NodeRecord>> nodes() = 0;

  // Adds or replaces the record.
  virtual boost::asio::awaitable<void> put_region(RegionRecord region) = 0;
  virtual boost::asio::awaitable<void> drop_region(std::uint64_t session, std::uint64_t region) = 0;
  virtual boost::asio::awaitable<std::vector<RegionRecord>> regions() = 0;

  // The key that members of group `name` show each other; the first caller makes the group.
  // Errors: invalid_argument if the group exists with another world size.
  virtual boost::asio::awaitable<std::string> open_group(std::string name, int world) = 0;
  // Adds `member` and waits until all ranks are there. Returns them by rank. Cancelled, it takes
  // the member out again, and whoever waits in the group gets peer_lost.
  virtual boost::asio::awaitable<std::vector<GroupMember>> join_group(std::string name,
                                                                      GroupMember member,
                                                                      Deadline deadline) = 0;

  // Drops the session's regions and memberships; whoever waits in its groups gets peer_lost.
  virtual boost::asio::awaitable<void> drop_session(std::uint64_t session) = 0;
};

}  // namespace causeway
