// The pool as a process sees it: allocate regions on any device of any node, reach their bytes.
//
//   auto pool = causeway::Pool::connect();
//   auto region = pool.allocate(1 << 30, {.near = DeviceName::parse("desktop/gpu0")});
//   std::memset(region.data(), 0, region.size_bytes());      // if it is in this node's host memory
//   region.write(0, bytes);                                  // wherever it is
//
// Shape:   a Pool is one session with the daemons. A Region is contiguous bytes [0, size) made of
//          extents, each on one device. Extents on this node are mapped: access is load and store,
//          by the processor or, where Region::memory_kind() is cuda, by a GPU.
// Units:   bytes; offsets are within the region.
// Errors:  every call throws Error. out_of_memory carries needed and available bytes; peer_lost
// names
//          the node and comes within 2 s of its death; a call ends options.timeout after its begin,
//          or for large ones a second per 10 MB more, and half a second later where something must
//          be put right.
// Cost:    allocate is one request per owning node; mapped access costs nothing; read, write and
//          copy run at the link's speed plus 10 to 50 us.
// Threads: a Pool may be used from many threads; a Region from one at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "causeway/device_name.h"
#include "causeway/error.h"
#include "causeway/topology.h"

namespace causeway {

struct PoolOptions {
  // The unix socket of this node's daemon. Empty: $CAUSEWAY_SOCKET, else the default of `up`.
  std::string socket_path{};
  // Instead of a socket: a daemon elsewhere, "10.0.0.2:7070", and the pool's token
  // (empty: $CAUSEWAY_ADDRESS, $CAUSEWAY_TOKEN). Nothing is mapped then.
  std::string address{};
  std::string token{};
  std::string client_name{};                 // Shown by `causeway status`; empty: program[pid].
  std::chrono::milliseconds timeout{30000};  // Of each call.
};

// How bytes of a GPU's own memory pass to and from other nodes: by slots of pinned host memory.
struct StagingStatus {
  std::size_t slots = 0;  // For what the node asks of others, and as many for what these ask.
  std::uint64_t chunk_bytes = 0;
  struct Trial {
    std::uint64_t chunk_bytes;
    double bytes_per_second;  // Of both directions together.
  };
  std::vector<Trial> trials{};  // Why chunks of that size.
};

struct DeviceStatus {
  DeviceName name;
  std::string model;
  std::string kind;  // "host", "emulated" (host memory that stands for a GPU's), "cuda"
  std::uint64_t capacity_bytes = 0;
  std::uint64_t used_bytes = 0;
  std::uint64_t granule_bytes = 0;    // Extents are multiples of it.
  std::string uuid;                   // Of kind "cuda": the card, in every process of its node.
  std::vector<DeviceName> reaches{};  // Of kind "cuda": whose memory it can map beside its own.
  std::optional<StagingStatus> staging{};  // Of kind "cuda".
};

// How one node reaches an address of another, from their first copy on.
struct RailStatus {
  std::string node;  // The other one.
  std::string address;
  bool is_open = false;
  std::uint64_t channels = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;
  double bytes_per_second = 0;  // Measured while it was busy; 0: not yet.
  std::uint64_t losses = 0;
  // What a probe found to carry most; `reason` is empty as long as none has ended.
  std::uint64_t probes = 0;
  std::uint64_t part_bytes = 0;
  std::uint64_t eager_bytes = 0;
  bool by_stream = false;
  double answer_seconds = 0;
  std::string reason;
  struct Trial {
    std::uint64_t operation_bytes = 0;
    std::uint64_t part_bytes = 0;
    std::uint64_t eager_bytes = 0;
    bool by_stream = false;
    double write_bytes_per_second = 0;
    double read_bytes_per_second = 0;
  };
  std::vector<Trial> trials;
};

struct NodeStatus {
  std::string name;
  bool alive = false;
  std::string control_address;
  std::string data_address;
  std::vector<DeviceStatus> devices;
  std::vector<RailStatus> rails;        // To other nodes.
  std::vector<std::string> gpu_report;  // What its CUDA driver can do; empty if it was not asked.
};

struct RegionStatus {
  std::uint64_t id = 0;
  std::string name;
  std::string client;
  std::uint64_t size_bytes = 0;
  struct Extent {
    DeviceName device;
    std::uint64_t offset_bytes = 0;  // Within the region.
    std::uint64_t size_bytes = 0;
  };
  std::vector<Extent> extents;
};

// Bytes that crossed from one device's node to another's, since the daemons started.
struct RouteStatus {
  std::string from;
  std::string to;
  std::string transport;  // "ucx", "local"
  std::uint64_t bytes = 0;
};

struct PoolStatus {
  std::string directory_node;
  std::vector<NodeStatus> nodes;
  std::vector<RegionStatus> regions;
  std::vector<RouteStatus> routes;
  std::vector<std::string> clients;
  [[nodiscard]] std::string to_json() const;  // Schema: docs/control-plane.md, GET /v1/pool.
};

struct AllocateOptions {
  // The device that will use it most, and whose addresses the region has if it is a GPU of this
  // node with memory of its own. Empty: the first of `only`, else this node's first that the
  // processor can address.
  std::optional<DeviceName> near{};
  std::vector<DeviceName> only{};  // Non-empty: no other device may be used.
  std::string name{};              // Shown by `causeway regions`.
};

struct CopyReport {
  std::uint64_t bytes = 0;
  double seconds = 0;  // As the executing node measured it.
  std::string route;   // "desktop -> hgx (ucx)"
};

// Who can load and store at a region's addresses.
enum class MemoryKind : std::uint8_t {
  host,  // The processor; also where the memory stands for an emulated GPU's.
  // One GPU, by kernels and by the driver's copies. The processor faults there, except on extents
  // that lie in host memory.
  cuda,
};

class Region {
 public:
  struct Extent {
    DeviceName device;
    std::uint64_t offset_bytes;
    std::uint64_t size_bytes;
    bool mapped;  // True if on this node and within reach of the region's addresses.
  };

  Region() noexcept;  // Holds nothing; size 0.
  Region(Region&&) noexcept;
  Region& operator=(Region&&) noexcept;
  ~Region();  // Gives the memory back.

  [[nodiscard]] std::uint64_t id() const noexcept;
  [[nodiscard]] std::uint64_t size_bytes() const noexcept;
  [[nodiscard]] std::vector<Extent> extents() const;

  // The first byte, if every extent is mapped; the address never changes, also across move(). Whose
  // address it is says memory_kind(). After a write or copy into the region that failed, ask again
  // before you store there: its bytes may still be on their way, and this waits until none are.
  // Errors: unsupported, naming the device that holds a part which is not mapped.
  [[nodiscard]] std::byte* data() const;
  [[nodiscard]] bool is_mapped() const noexcept;
  [[nodiscard]] MemoryKind memory_kind() const noexcept;
  // Of kind cuda: the GPU, as cuDeviceGet() counts in this process; else -1.
  [[nodiscard]] int cuda_ordinal() const noexcept;

  // These work for every kind of memory. They do not wait for kernels of the caller's: work that
  // uses the bytes must have ended. A GPU that hangs holds them for as long as it does.
  void read(std::uint64_t offset_bytes, std::span<std::byte> target) const;
  void write(std::uint64_t offset_bytes, std::span<const std::byte> source);

  // Moves the bytes of [offset, offset + size) to `to`, extent by extent, contents intact and
  // address unchanged. The range is widened to whole extents. Nobody may write to it meanwhile.
  // Errors: out_of_memory and the bytes stay where they are.
  void move(std::uint64_t offset_bytes, std::uint64_t size_bytes, const DeviceName& to);

  struct State;

 private:
  friend class Pool;
  explicit Region(std::shared_ptr<State> state) noexcept;
  std::shared_ptr<State> state_;
};

class Pool {
 public:
  [[nodiscard]] static Pool connect(PoolOptions options = {});
  Pool(Pool&&) noexcept;
  Pool& operator=(Pool&&) noexcept;
  ~Pool();  // Ends the session; regions still held become unusable.

  // The node whose daemon this process talks to; the session's id.
  [[nodiscard]] const std::string& node() const noexcept;
  [[nodiscard]] std::uint64_t session() const noexcept;

  [[nodiscard]] Topology topology();
  [[nodiscard]] PoolStatus status();

  [[nodiscard]] Region allocate(std::uint64_t size_bytes, const AllocateOptions& options = {});

  // Device to device by the best route, never through this process. Both regions are this pool's.
  // Errors: out_of_bounds; invalid_argument if source and target overlap; peer_lost with what was
  // copied unspecified.
  CopyReport copy(Region& to, std::uint64_t to_offset_bytes, const Region& from,
                  std::uint64_t from_offset_bytes, std::uint64_t size_bytes);

  // The same for many pieces, kept in flight together; `pull` lets the target's node read instead
  // of the source's node write.
  struct CopyPiece {
    std::uint64_t to_offset_bytes;
    std::uint64_t from_offset_bytes;
    std::uint64_t size_bytes;
  };
  CopyReport copy_batch(Region& to, const Region& from, std::span<const CopyPiece> pieces,
                        bool pull = false);

  struct State;
  [[nodiscard]] const std::shared_ptr<State>& state() const noexcept { return state_; }

 private:
  explicit Pool(std::shared_ptr<State> state) noexcept;
  std::shared_ptr<State> state_;
};

}  // namespace causeway
