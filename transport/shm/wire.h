// The messages of one channel through memory that its two processes share.
//
// Shape:   a message of up to kEagerBytes travels in one record and waits at the receiver. A larger
//          one is offered, waits at the sender, and follows in parts when a receive has asked for
//          it; small ones pass between. Either side can end what it waits for at any moment without
//          the other's help: no process has ever more than its own buffers and the ring in hand.
// Bounds:  kMaxUnexpected* for messages that nobody asked for yet: a peer that sends more, or that
//          breaks a rule, ends this wire by `broken`, and no other.
// Errors:  as Channel's send() and receive().
// Cost:    two copies, one on each side, in parts that stay in the cache; below 1 us for 8 bytes
//          while both sides are awake.
// Threads: the port's.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "allocator/unique_fd.h"
#include "transport/channel.h"
#include "transport/shm/port.h"
#include "transport/shm/ring.h"
#include "transport/shm/shared_segment.h"

namespace causeway::shm {

class Wire {
 public:
  static constexpr std::uint64_t kEagerBytes = std::uint64_t{16} * 1024;
  static constexpr std::uint64_t kMaxUnexpectedBytes = std::uint64_t{16} << 20;
  static constexpr std::size_t kMaxUnexpectedCount = 4096;

  // Of a segment for rings of so many bytes each: both ends' counts, what `secret_of` gives, both
  // rings.
  [[nodiscard]] static std::size_t segment_bytes(std::size_t ring_bytes) noexcept;
  [[nodiscard]] static std::span<std::byte> secret_of(const SharedSegment& segment) noexcept;

  struct Setup {
    SharedSegment segment;
    std::size_t ring_bytes;
    bool is_first;                             // Which of the two rings is written here.
    UniqueFd bell;                             // The peer's.
    std::string peer;                          // For messages.
    std::function<void(const Error&)> broken;  // The peer broke a rule, in this moment.
    std::shared_ptr<const void> place{};       // Port::take_place().
  };
  Wire(std::shared_ptr<Port> port, Setup setup);
  ~Wire();  // After end(), or nobody is told.
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  void send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
            Completion done);
  void receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline, Completion done);
  // Takes what has arrived, then ends everything outstanding. Idempotent.
  void end(const Error& reason);
  [[nodiscard]] bool is_open() const noexcept { return !ended_; }
  // Whether the peer went in order, as far as it says.
  [[nodiscard]] bool has_peer_left() const noexcept;
  [[nodiscard]] ChannelCounters counters() const noexcept { return counters_; }
  [[nodiscard]] const std::shared_ptr<Port>& port() const noexcept { return port_; }

  // For the port.
  [[nodiscard]] std::uint64_t held_bytes() const noexcept { return held_bytes_; }
  void overflow();  // Ends it for what it holds, and lets go of that.
  bool advance();   // True if anything moved.
  void expire(std::uint64_t id, std::uint64_t tag);
  bool fall_asleep() noexcept;  // False if there is something to do.
  void stay_awake() noexcept;

 private:
  using Alarm = Port::Alarms::iterator;
  // What one side tells the other when it sleeps, as bits of `asleep`: what it waits for.
  static constexpr std::uint32_t kRecords = 1;
  static constexpr std::uint32_t kRoom = 2;

  struct Send {
    std::uint64_t tag;
    std::span<const std::byte> message;
    Completion done;
    Alarm alarm;
    std::uint64_t sent_bytes = 0;  // In parts.
    bool is_asked_for = false;
  };
  using Sends = std::map<std::uint64_t, Send>;
  struct Receive {
    std::uint64_t id;
    std::uint64_t tag;
    std::span<std::byte> target;
    Completion done;
    Alarm alarm;
  };
  struct Unexpected {  // A copy, or what waits at the sender.
    std::uint64_t size_bytes;
    bool is_offer;
    std::vector<std::byte> bytes;
  };
  struct Mailbox {                                 // At most one of the two has entries.
    std::list<Receive> receives;                   // As they were asked for.
    std::map<std::uint64_t, Unexpected> messages;  // By number.
  };
  struct Taking {  // What was asked for: it comes in parts.
    std::uint64_t size_bytes;
    std::uint64_t got_bytes = 0;
    std::list<Receive> receive{};  // Empty: nobody wants it any more.
  };
  using Mailboxes = std::unordered_map<std::uint64_t, Mailbox>;

  bool refuse(Deadline deadline, Completion& done);
  void finish(Receive& receive, std::optional<Error> error, std::uint64_t bytes);
  void finish(Sends::iterator send, std::optional<Error> error);

  // What goes out: wire.cpp.
  bool put(const Record& record, std::span<const std::byte> payload = {});
  [[nodiscard]] bool has_unsent() const noexcept;
  [[nodiscard]] bool has_outgoing() const noexcept;
  bool flush();      // True if anything went.
  void send_soon();  // Now, as far as there is room.
  bool put_unsent();
  bool put_part();
  void tell_peer(std::uint32_t news) noexcept;

  // What comes in: wire_incoming.cpp.
  bool take_some(std::uint64_t most_bytes);
  void take(const RingReader::Taken& taken);
  void take_message(const RingReader::Taken& taken);
  void take_offer(const Record& record);
  void take_part(const RingReader::Taken& taken);
  void take_withdrawal(const Record& record);
  void ask_for(std::uint64_t number, std::uint64_t size_bytes, std::list<Receive> receive);
  void match(std::list<Receive> receive);
  void hold(const Record& record, Unexpected message);
  void give(Receive& receive, std::span<const std::byte> message);
  bool take_held(std::uint64_t tag, std::span<std::byte> target, Completion& done);
  [[nodiscard]] std::pair<std::uint64_t, Unexpected> pop(Mailboxes::iterator mailbox);
  void count_held(int more, std::uint64_t size_bytes) noexcept;
  [[nodiscard]] Error too_many() const;
  void drop_offers();

  std::shared_ptr<Port> port_;
  SharedSegment segment_;
  UniqueFd bell_;
  std::string peer_;
  std::function<void(const Error&)> broken_;
  std::shared_ptr<const void> place_;
  RingEnd& own_;
  RingEnd& theirs_;
  RingWriter writer_;
  RingReader reader_;
  std::optional<Error> ended_;
  ChannelCounters counters_;

  std::uint64_t next_number_ = 1;        // Of sends; of receives, which are no numbers on the wire.
  Sends sends_;                          // By number: those that are not all in the ring yet.
  std::uint64_t first_unsent_ = 1;       // Of lower numbers the peer knows, by an offer.
  std::deque<Record> answers_;           // To go out: what is no message.
  std::deque<std::uint64_t> asked_for_;  // Offers whose parts go out, in order.
  bool is_part_next_ = false;            // One found no room: nothing goes before it.
  Mailboxes mailboxes_;                  // By tag.
  std::unordered_map<std::uint64_t, Taking> taking_;
  std::size_t unwanted_ = 0;  // Of these, that nobody wants any more.
  std::uint64_t last_number_in_ = 0;
  std::uint64_t held_bytes_ = 0;
  std::size_t held_count_ = 0;
};

}  // namespace causeway::shm
