// The directory inside one daemon: plain maps, no server to start, gone with that daemon.
//
// Cost:    every call O(log n); join_group wakes each waiter once.
// Threads: as Directory.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <memory>

#include "runtime/directory/directory.h"

namespace causeway {

class EmbeddedDirectory : public Directory {
 public:
  explicit EmbeddedDirectory(boost::asio::io_context& context) : context_(context) {}

  boost::asio::awaitable<void> put_node(NodeRecord node) override;
  boost::asio::awaitable<void> node_lost(std::string name) override;
  boost::asio::awaitable<std::vector<NodeRecord>> nodes() override;
  boost::asio::awaitable<void> put_region(RegionRecord region) override;
  boost::asio::awaitable<void> drop_region(std::uint64_t session, std::uint64_t region) override;
  boost::asio::awaitable<std::vector<RegionRecord>> regions() override;
  boost::asio::awaitable<std::string> open_group(std::string name, int world) override;
  boost::asio::awaitable<std::vector<GroupMember>> join_group(std::string name, GroupMember member,
                                                              Deadline deadline) override;
  boost::asio::awaitable<void> drop_session(std::uint64_t session) override;

 private:
  struct Group {
    Group(boost::asio::io_context& context, int size) : world(size), changed(context) {}
    int world;
    std::string key;
    std::map<int, GroupMember> members;
    std::string failure;  // Why it can no longer be complete.
    std::chrono::steady_clock::time_point opened;
    boost::asio::steady_timer changed;  // Never expires; cancelled to wake who waits.
  };
  // Takes the member out, which fails the group for the others, with the reason.
  static void leave(Group& group, int rank, std::string reason);
  void remove_stale_groups();

  boost::asio::io_context& context_;
  std::map<std::string, NodeRecord> nodes_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, RegionRecord> regions_;
  std::map<std::string, std::shared_ptr<Group>> groups_;
};

// `bytes` random bytes as hexadecimal digits, for keys and tokens.
[[nodiscard]] std::string random_hex(std::size_t bytes);

}  // namespace causeway
