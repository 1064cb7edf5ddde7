// The daemon's state and the requests that change it: what run_node() wires together.
//
// Shape:   lends this node's memory (Lender), carries copies to other nodes (Transport), serves the
//          pool's directory or asks the node that does. One method per request of the control
//          plane; docs/control-plane.md lists them.
// Errors:  thrown Errors become the answer.
// Threads: the io_context's one thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json.hpp>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "causeway/node.h"
#include "causeway/pool.h"
#include "runtime/control/async_client.h"
#include "runtime/control/server.h"
#include "runtime/directory/directory.h"
#include "runtime/node/gpu_copier.h"
#include "runtime/node/lender.h"
#include "transport/transfer/rails.h"

namespace causeway {

class Daemon : public ControlHandler {
 public:
  Daemon(boost::asio::io_context& context, const NodeOptions& options);
  ~Daemon() override;

  // Listens, joins the pool, then calls `ready`. What fails ends the context's run() with the
  // Error.
  boost::asio::awaitable<void> start(std::function<void()> ready);
  void stop();

  boost::asio::awaitable<ControlResponse> handle(ControlRequest request) override;
  void connection_closed(ConnectionId connection) noexcept override;

 private:
  using Json = boost::json::object;
  using Answer = boost::asio::awaitable<ControlResponse>;

  // daemon.cpp: lifetime, the pool's other nodes.
  Lender open_lender();
  boost::asio::awaitable<void> join_pool();
  boost::asio::awaitable<void> stay_joined(boost::asio::ip::tcp::socket connection);
  boost::asio::awaitable<void> expire_sessions();
  // Lives as long as this. Errors: not_found, peer_lost if the node has left.
  boost::asio::awaitable<Rails*> rails_to(std::string node);
  boost::asio::awaitable<std::vector<NodeRecord>> all_nodes();
  [[nodiscard]] NodeRecord own_record() const;
  [[nodiscard]] Directory& directory() const;  // Errors: unsupported unless this node serves it.
  [[nodiscard]] PeerAddress peer(const NodeRecord& node) const;
  void end_sessions(const std::vector<SessionId>& ended) noexcept;
  void accept_channel(std::shared_ptr<Channel> channel);
  void write_state_file() const;

  // requests.cpp: one per request.
  ControlResponse open_session(const ControlRequest& request);
  ControlResponse renew_session(const ControlRequest& request);
  ControlResponse close_session(const ControlRequest& request);
  ControlResponse lend(const ControlRequest& request);
  ControlResponse take_back(const ControlRequest& request);
  ControlResponse rename(const ControlRequest& request);
  Answer settle(ControlRequest request);
  Answer transfer(ControlRequest request);
  Answer put_node(ControlRequest request);
  Answer list_nodes(ControlRequest request);
  Answer put_region(ControlRequest request);
  Answer drop_region(ControlRequest request);
  Answer open_group(ControlRequest request);
  Answer join_group(ControlRequest request);

  // views.cpp: what people and tools look at.
  [[nodiscard]] Json node_json() const;
  boost::asio::awaitable<Json> pool_json(bool with_regions);
  boost::asio::awaitable<Json> ask_node(NodeRecord node);
  boost::asio::awaitable<void> knock(NodeRecord node);
  // Nodes that did not answer in time, and whether somebody knocks there.
  std::map<std::string, bool> silent_;
  Answer topology();
  struct PoolCluster {
    std::uint64_t version = 0;  // With these nodes it is the cluster of this topology.
    std::vector<std::string> nodes{};
    ClusterSpec spec{};
    std::string yaml{};
  };
  const PoolCluster& pool_cluster(const std::vector<NodeRecord>& records);
  ControlResponse metrics() const;
  [[nodiscard]] std::vector<RailStatus> rails_status() const;
  [[nodiscard]] std::string rail_metrics() const;
  ControlResponse page() const;

  struct Route;
  static const Route* find_route(const ControlRequest& request);

  boost::asio::io_context& context_;
  NodeOptions options_;
  std::unique_ptr<Directory> directory_;  // Null unless served here.
  PeerAddress directory_peer_;            // Where it is otherwise.
  std::vector<std::string> gpu_report_;   // Set by open_lender().
  Lender lender_;
  std::unique_ptr<GpuCopier> copier_;  // Null without memory of GPUs.
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<Transport> transport_;
  std::string control_address_;
  std::set<std::shared_ptr<Channel>> accepted_;
  std::map<std::string, std::unique_ptr<Rails>> rails_;  // To other nodes, by name.
  std::map<ConnectionId, std::string> joined_;           // Nodes by the connection they hold.
  // Of the directory's node: changes when a node comes or goes, and is another after a new start.
  std::uint64_t topology_version_;
  PoolCluster pool_cluster_;
  std::uint64_t requests_ = 0;
  // Every request that is being answered holds a copy: a coroutine may outlive this.
  std::shared_ptr<const int> running_ = std::make_shared<const int>();
  bool stopping_ = false;
};

}  // namespace causeway
