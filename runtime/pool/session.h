// One process's session with the daemons of a pool: what Pool, Region and Worker share.
//
// Shape:   a link per daemon that this process has business with: connections for requests, one
//          more that holds the session (its end, at either side, is the other's death), and rails
//          for data, made when first needed.
// Errors:  as Pool. Once a daemon is lost, every call that needs it throws peer_lost with its name.
//          Once the pool is closed, every call throws closed, those under way too.
// Threads: any; requests of several threads run side by side. Rails live on the io thread.
#pragma once

#include <boost/json.hpp>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "allocator/host/host_backend.h"
#include "causeway/pool.h"
#include "runtime/pool/connections.h"
#include "runtime/pool/gpu_addresses.h"
#include "runtime/pool/gpus.h"
#include "transport/blocking.h"
#include "transport/channel.h"
#include "transport/transfer/rails.h"

namespace causeway {

class DaemonLink;

// The time that one call of the user has, over all the requests that it makes. Within another one
// on the same thread it changes nothing.
class CallTime {
 public:
  explicit CallTime(std::chrono::milliseconds time);
  ~CallTime();
  CallTime(const CallTime&) = delete;
  CallTime& operator=(const CallTime&) = delete;

  // When a request that has `time` of its own must have ended. What a call that failed has to put
  // right it does even when its own time is over, and shortly.
  [[nodiscard]] static Deadline deadline(std::chrono::milliseconds time);

 private:
  bool is_outermost_;
};

// Daemons take no more for a transfer or a settlement.
constexpr std::chrono::milliseconds kMostRequestTime = std::chrono::hours(1);
// What a request that is sent now can have; 1 ms at least.
[[nodiscard]] std::chrono::milliseconds left_until(Deadline deadline);

struct Pool::State : std::enable_shared_from_this<Pool::State> {
  explicit State(PoolOptions options);
  ~State();
  void open();            // Opens the session at home and at the directory.
  void close() noexcept;  // Ends the session everywhere. Idempotent.

  // The link to node `name`, made if there is none. Errors: not_found, peer_lost.
  std::shared_ptr<DaemonLink> link(const std::string& name);
  // `until`: of a request that may wait, when the daemon answers at the latest.
  boost::json::object call(DaemonLink& link, const char* method, const std::string& path,
                           boost::json::object body, std::vector<UniqueFd>* fds = nullptr,
                           std::optional<Deadline> until = {});
  // {"session", "key"}: what every request of a session carries.
  [[nodiscard]] boost::json::object credentials() const;
  [[nodiscard]] bool is_local(const std::string& node_name) const;  // Can be mapped.

  // Moves bytes between this process and one node's extents of `region`, over all rails to it.
  // Returns, or throws, when nothing touches the memory any more. Errors: as Transfer.
  struct Part {
    std::uint64_t offset_bytes;  // Within the region.
    std::span<std::byte> bytes;  // A write only reads them.
  };
  void move_parts(DaemonLink& link, Access access, RegionId region, const std::vector<Part>& parts);

  // Copies from one region's extents to another's by their daemons: `pull` lets the target's node
  // execute it. Every piece lies within one extent on either side. Returns the seconds it took
  // there.
  struct Place {
    std::string node;
    RegionId region;
  };
  double transfer(bool pull, const Place& from, const Place& to,
                  std::span<const Pool::CopyPiece> pieces);

  PoolStatus status();
  // What is free now, and what the devices are.
  struct Memory {
    Topology topology;
    std::map<DeviceName, DeviceStatus> devices;
  };
  Memory memory();
  Topology topology() { return memory().topology; }
  // As of the last memory(), and asked for once where that did not know it. Errors: not_found.
  DeviceStatus device(const DeviceName& name);
  // A slow link is no dead link: large batches get time in proportion, at 10 MB/s.
  [[nodiscard]] std::chrono::milliseconds time_for(std::uint64_t bytes) const;

  // `handler` runs on the io thread when a daemon is lost, with the error that names it. Returns a
  // number for ignore_losses().
  int on_loss(std::function<void(const Error&)> handler);
  void ignore_losses(int number);

  PoolOptions options;
  std::string client_name;  // "train_gpt[812]@desktop"
  std::string node;
  std::string data_host;  // This node's address for data: where its workers listen, too.
  SessionId session = 0;
  std::string key;
  std::string token;
  std::string directory;
  std::string directory_address;
  std::shared_ptr<HostBackend> backend;  // Imports what the home daemon exports.
  Gpus gpus;                             // The same, of GPUs.
  GpuAddresses gpu_addresses;            // Of all regions.
  IoThread io;

 private:
  std::shared_ptr<DaemonLink> find_link(const std::string& name);
  std::shared_ptr<DaemonLink> add_link(const std::string& name, const std::string& address);
  void watch(const std::shared_ptr<DaemonLink>& link, UniqueFd connection);
  void lose(DaemonLink& link, const Error& error);  // On the io thread.
  Rails& rails_to(DaemonLink& link);                // On the io thread. Errors: closed.
  boost::json::object pool_document(const char* path);
  void check_open();  // Errors: closed.

  struct Connecting;
  std::mutex mutex_;                  // Guards what follows, to closed_.
  std::set<std::string> connecting_;  // Nodes that a thread makes the link to.
  std::condition_variable connected_;
  std::map<std::string, std::shared_ptr<DaemonLink>> links_;
  std::map<int, std::function<void(const Error&)>> handlers_;
  int next_handler_ = 1;
  bool closed_ = false;
  std::unique_ptr<Transport> transport_;  // On the io thread.

  std::mutex topology_mutex_;  // Guards what follows.
  Topology topology_;
  std::string topology_version_;  // As the directory names it.
  std::map<DeviceName, DeviceStatus> devices_;
};

class DaemonLink {
 public:
  DaemonLink(std::string name, const std::string& target, const std::string& token,
             std::vector<std::string> data_addresses)
      : name_(std::move(name)),
        data_addresses_(std::move(data_addresses)),
        connections_(target, token, "node " + name_) {}

  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  friend struct Pool::State;
  struct Watch;
  void check() const;

  std::string name_;
  std::vector<std::string> data_addresses_;
  Connections connections_;
  mutable std::mutex mutex_;  // Guards lost_.
  std::optional<Error> lost_;
  std::unique_ptr<Rails> rails_;  // On the io thread.
  std::shared_ptr<Watch> watch_;  // On the io thread.
};

}  // namespace causeway
