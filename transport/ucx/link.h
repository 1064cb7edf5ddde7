// One connection of the UCX transport: the state behind a Channel.
//
// Shape:   greeting -> open -> leaving -> closed. The greeting goes over the lifeline: the peer
// says
//          who it is, and only then UCX connects. Users' operations live in `requests_`; a write or
//          read is cut into chunks, each one active message and one answer. Whatever UCX holds a
//          pointer to is a Flight, and an operation completes only when none of its flights is in
//          the air. Where both ends have a stream, large parts cross by it; all else is the same.
// Bounds:  kWindow* for what this side starts, kMaxServing for what the peer may have open here,
//          kMaxUnexpected* for messages that nobody asked for yet. What all links have in service
//          at a time goes through the worker's turnstile.
// Errors:  what a peer sends wrongly ends this link with Errc::protocol and no other.
// Threads: the worker's. on_*() are called from UCX and run no user code but the DataService.
#pragma once

#include <deque>
#include <list>
#include <unordered_map>
#include <unordered_set>

#include "transport/ucx/lifeline.h"
#include "transport/ucx/worker.h"

namespace causeway::ucx {

constexpr std::uint64_t kMinPartBytes = 4 << 10;
constexpr std::uint64_t kWindowBytes = 8 << 20;
constexpr std::size_t kWindowCount = 64;
constexpr std::size_t kMaxServing = 256;
constexpr std::uint64_t kTurnBytes = 16 << 10;          // What is larger waits for its turn.
constexpr std::uint64_t kEagerMessageBytes = 16 << 10;  // Larger ones wait at the sender.
constexpr std::uint64_t kMaxUnexpectedBytes = 16 << 20;
constexpr std::size_t kMaxUnexpectedCount = 4096;
constexpr auto kGrace = std::chrono::milliseconds(500);   // For a peer to let go of a buffer.
constexpr auto kLinger = std::chrono::milliseconds(200);  // For a farewell to arrive.
constexpr auto kLastWords =
    std::chrono::milliseconds(100);  // For what a gone peer had sent before.

// What arrived with a header: bytes in place, or a rendezvous that may be taken.
struct Payload {
  void* data;
  std::uint64_t size_bytes;
  bool rendezvous;
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
    return {static_cast<const std::byte*>(data), rendezvous ? 0 : size_bytes};
  }
};

class Link;

// The links that one transport accepted, by the number of their channel, for fences. What holds a
// buffer for UCX holds its link as well, so a link that is gone has nothing in the air.
struct Links {
  std::uint64_t transport;  // Of which they are.
  std::unordered_map<std::uint64_t, std::weak_ptr<Link>> by_number;
};

[[nodiscard]] std::uint64_t new_key();  // That nobody can guess.

class Link : public std::enable_shared_from_this<Link>, private Stream::Owner {
 public:
  using Opened = std::function<void(std::optional<Error>, std::shared_ptr<Link>)>;
  struct Setup {
    DataService* service;
    Hello own;          // What this side says: of an accepting side, only the name.
    Deadline deadline;  // For the greeting.
    Opened opened;      // Called once, by the worker's later().
    std::shared_ptr<Links> links;
  };

  // Whether links are to have a stream, as CAUSEWAY_LINK_STREAM=yes or no says: its word is final.
  // Errors: invalid_argument.
  [[nodiscard]] static std::optional<bool> wished_stream();

  // Calls the door at `to`. Errors: io.
  static void connect(std::shared_ptr<Worker> worker, const SocketAddress& to, Setup setup);
  // Welcomes a peer that was admitted. Errors: io.
  static void accept(std::shared_ptr<Worker> worker, std::shared_ptr<Lifeline> line,
                     Greeting greeting, Setup setup);
  ~Link() override;

  [[nodiscard]] const Hello& peer() const noexcept { return peer_; }
  [[nodiscard]] bool is_open() const noexcept { return phase_ == Phase::open && !failure_; }
  [[nodiscard]] ChannelCounters counters() const noexcept { return counters_; }
  [[nodiscard]] std::optional<double> round_trip() const noexcept {
    return lifeline_->round_trip();
  }
  void set_settings(const LinkSettings& settings);
  [[nodiscard]] const LinkSettings& settings() const noexcept { return settings_; }
  void write(RemoteAddress to, std::span<const std::byte> source, Deadline deadline,
             Completion done);
  void read(std::span<std::byte> target, RemoteAddress from, Deadline deadline, Completion done);
  [[nodiscard]] ChannelId id() const noexcept;
  void checksum(RemoteAddress of, std::uint64_t size_bytes, Deadline deadline, Completion done);
  void fence(ChannelId other, Deadline deadline, Completion done);
  void send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
            Completion done);
  void receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline, Completion done);
  void close(const Error& reason);
  void on_close(std::function<void(const Error&)> handler);

  // For the worker.
  void arrive(ucp_ep_h endpoint);  // The peer's, which named this link's key.
  void on_endpoint_error(ucs_status_t status);
  ucs_status_t on_message(const Header& header, const Payload& payload);
  void break_off(const Error& reason);  // Ends the link soon; the peer is told.
  void advance();
  void on_alarm(std::uint64_t id);
  [[nodiscard]] std::uint64_t unexpected_bytes() const noexcept { return unexpected_bytes_; }
  [[nodiscard]] bool is_in_line() const noexcept { return !in_line_.empty(); }  // For a slot.
  [[nodiscard]] bool holds_slot_since(Deadline then);
  void force_close();  // Outside of UCX callbacks.
  void abandon();      // The endpoint is gone for good: whatever is left ends now.

  // For the door: the peer's other connection has named this link. On the accepting side.
  void join(const std::shared_ptr<Lifeline>& line);

 private:
  enum class Phase : std::uint8_t { greeting, open, leaving, closed };
  enum class Kind : std::uint8_t { write, read, sum, fence, send, receive };
  using Alarms = Worker::Alarms;

  // An operation of this side's user. Ends when nothing of it is left: no chunk, no flight.
  struct Request {
    Kind kind{};
    RemoteAddress address{};
    std::uint64_t tag = 0;
    std::uint64_t sequence = 0;   // Of a message.
    std::byte* buffer = nullptr;  // Never written through for write and send.
    std::uint64_t size_bytes = 0;
    std::uint64_t issued_bytes = 0;
    std::size_t chunks = 0;   // Unanswered.
    std::size_t flights = 0;  // Those that hold the buffer.
    bool is_issued = false;   // Nothing is left to be started.
    bool in_grace = false;
    std::optional<Error> error;
    std::uint64_t result_bytes = 0;
    Completion done;
    Alarms::iterator alarm{};
  };
  using Requests = std::unordered_map<std::uint64_t, Request>;

  struct Chunk {  // Of a write or read, by the id on the wire.
    std::uint64_t request;
    std::uint64_t offset_bytes;
    std::uint64_t size_bytes;
    bool in_flight;
    bool is_answered;
    bool by_stream;
    bool is_wanted = false;  // Of a write by the stream: its bytes go to the peer's place, or went.
  };

  enum class Cargo : std::uint8_t {
    control,     // Only the flight's own bytes.
    answer,      // The same, for a request of the peer.
    chunk,       // Of a request of this side: its buffer.
    message,     // Likewise, a whole send or receive.
    peer_write,  // A request of the peer: pinned memory.
    peer_read,
  };
  struct Staged;   // link_staged.cpp
  struct Flight {  // What UCX holds pointers into. Freed when UCX gives it back.
    std::shared_ptr<Link> link;
    Cargo cargo{};
    std::uint64_t id = 0;
    HeaderBytes header{};
    std::vector<std::byte> text;
    std::shared_ptr<const void> pin;
    std::shared_ptr<Staged> staged;  // Of a write whose bytes go on to a device.
    bool is_device = false;          // The memory that UCX is given.
    bool by_stream = false;
    Turnstile::Tenant tenant = 0;  // Whose turn it took.
    std::uint64_t size_bytes = 0;
  };

  struct Unexpected {  // A message that nobody asked for yet: copied, or waiting at the sender.
    std::uint64_t sequence;
    std::uint64_t size_bytes;
    void* rendezvous;
    std::vector<std::byte> bytes;
  };
  struct Mailbox {                       // At most one of the two has entries.
    std::deque<std::uint64_t> receives;  // Request ids.
    std::list<Unexpected> messages;
  };

  Link(std::shared_ptr<Worker> worker, const SocketAddress& peer, Setup setup, bool connecting);
  void greet();
  void take_reply(const Lifeline::Frame& frame);
  void take_welcome(const Lifeline::Frame& frame);
  void let_in(std::vector<HostBytes> hosts);
  void watch_lifeline();
  void await_last_words();
  void become_open();
  void lose(const Error& reason);              // Ends the link soon; there is nobody to tell.
  void end(const Error& reason);               // Outside of UCX callbacks.
  [[nodiscard]] std::string describe() const;  // The peer, for messages.

  // What this side asks for: link_requests.cpp.
  Requests::iterator start(Kind kind, std::span<const std::byte> buffer, Deadline deadline,
                           Completion& done);
  void finish(Requests::iterator request);
  void finish_if_idle(std::uint64_t id);
  void ask(Kind kind, std::span<const std::byte> buffer, RemoteAddress address, Deadline deadline,
           Completion& done);
  void issue();
  [[nodiscard]] std::uint64_t next_part(const Request& request) const;
  void issue_chunk(std::uint64_t id, Request& request);
  void end_chunk(std::uint64_t id);
  void drop_chunks(std::uint64_t request);
  void expire(Requests::iterator request);
  void give(Requests::iterator request, Unexpected& message);
  void land_chunk(const Flight& flight, bool good);
  void land_message(const Flight& flight, bool good);
  void release(Unexpected& message);
  void count_unexpected(int more, std::uint64_t size_bytes) noexcept;
  bool take_leftover(std::uint64_t tag, std::span<std::byte> target, Completion& done);
  [[nodiscard]] Unexpected pop(std::unordered_map<std::uint64_t, Mailbox>::iterator mailbox);
  void end_requests(const Error& reason);

  // What the peer asks for: link_serve.cpp.
  ucs_status_t serve_write(const Header& header, const Payload& payload);
  void land_write(const Header& header, void* rendezvous);
  void serve_read(const Header& header);
  void send_read(const Header& header);
  void send_read_data(const Header& header, std::span<const std::byte> bytes,
                      std::shared_ptr<const void> pin, bool is_device = false);
  [[nodiscard]] Turnstile::Tenant tenant_of(const Header& header) const noexcept;
  void leave_turnstile(Turnstile::Tenant tenant, std::uint64_t size_bytes);
  void refuse_part(const Header& header);
  void serve_sum(const Header& header);
  void serve_fence(const Header& header);
  void when_gone(std::function<void()> function);  // Ends this link, at its peer's wish.
  void be_gone();
  static std::optional<Op> answer_to(Kind kind) noexcept;
  ucs_status_t take_answer(const Header& header, const Payload& payload);
  ucs_status_t take_read_data(const Header& header, const Payload& payload);
  ucs_status_t take_message(const Header& header, const Payload& payload);
  ucs_status_t take_now(Requests::iterator request, const Payload& payload);
  template <typename Serve>
  void guard(std::uint64_t id, Serve serve);
  void take_withdrawal(std::uint64_t sequence);
  void take_recall(const Header& header);
  ucs_status_t dispatch(const Header& header, const Payload& payload);
  [[nodiscard]] PinnedMemory pin_whole(const Header& header, Access access);
  [[nodiscard]] PinnedMemory pin(const Header& header, Access access);
  bool begin_serving();
  void answer(Op op, std::uint64_t id, const std::optional<Error>& failure = {},
              std::uint64_t sum = 0);
  ucs_status_t violate(const std::string& what);  // Returns what drops the message.
  // Bytes of a write that are still with the peer: UCX's rendezvous, or none: the stream's.
  void take_bytes(std::unique_ptr<Flight> flight, const Header& header, void* rendezvous,
                  std::byte* into);
  void refuse_bytes(void* rendezvous);

  // The stream: link_stream.cpp.
  void ask_for_stream();
  void take_stream();                // The peer has it.
  void open_stream(Lifeline& line);  // Errors: io.
  [[nodiscard]] bool goes_by_stream(const Request& request, std::uint64_t size_bytes) const;
  void submit_by_stream(std::unique_ptr<Flight> flight, StreamHead::Kind kind,
                        std::span<const std::byte> bytes);
  void take_go(const Header& header);
  bool recall_granted(std::uint64_t id);
  void take_back(std::uint64_t request);  // What has not begun to leave by the stream.
  void recall(std::uint64_t chunk, const Request& request);
  Stream::Landing land_frame(const StreamHead& head) override;
  Stream::Landing land_read_data(const StreamHead& head);
  void stream_ended(const Error& why) override;
  [[nodiscard]] static Stream::Done landing_of(std::unique_ptr<Flight> flight);
  void close_stream();

  // The same where the bytes lie on a device: link_staged.cpp.
  void stage(const std::shared_ptr<Staged>& staged);
  void stage_eager(const Header& header, PinnedMemory memory, std::span<const std::byte> data);
  void stage_write(const Header& header, PinnedMemory memory, void* rendezvous);
  void stage_read(const Header& header, PinnedMemory memory);
  void start_staged(const std::shared_ptr<Staged>& staged);  // It has a slot.
  void forget_answered();                                    // Of those that had slots.
  void land_staged(const std::shared_ptr<Staged>& staged);
  void copied_in(Staged& staged, const std::optional<Error>& error);
  void copied_out(const std::shared_ptr<Staged>& staged, const std::optional<Error>& error);
  void end_copy();
  void leave_turnstile(const Staged& staged);
  void leave_line(std::list<std::shared_ptr<Staged>>::iterator at);
  void leave_line();  // All of it.
  bool recall_staged(std::uint64_t id);

  // Flights: link.cpp.
  std::unique_ptr<Flight> new_flight(Cargo cargo, std::uint64_t id, Header header);
  // Up to `eager_bytes` go unasked.
  void submit(std::unique_ptr<Flight> flight, const void* data, std::uint64_t size_bytes,
              std::uint64_t eager_bytes = kEagerMessageBytes);
  void submit_text(Cargo cargo, const Header& header, std::vector<std::byte> text);
  void submit_receive(std::unique_ptr<Flight> flight, void* rendezvous, std::byte* into);
  void land(Flight& flight, ucs_status_t status);
  static void on_sent(void* request, ucs_status_t status, void* flight);
  static void on_received(void* request, ucs_status_t status, std::size_t bytes, void* flight);
  static void on_force_closed(void* request, ucs_status_t status, void* self);

  std::shared_ptr<Worker> worker_;
  std::shared_ptr<Links> links_;
  DataService* service_;
  Hello own_;
  Hello peer_;
  std::string peer_address_;
  std::shared_ptr<Lifeline> lifeline_;
  SocketGuard::Pass pass_;  // While UCX connects.
  Opened opened_;
  bool connecting_;
  Phase phase_ = Phase::greeting;
  ucp_ep_h endpoint_ = nullptr;
  std::uint64_t own_key_;             // The peer puts it in what it sends.
  std::uint64_t peer_key_ = 0;        // The other way.
  std::uint64_t peer_transport_ = 0;  // Of the accepting side.
  std::optional<Error> failure_;      // Why the link ends; first one wins.
  bool tell_peer_ = false;
  bool is_peer_gone_ = false;  // There is nobody to linger for.
  bool is_endpoint_gone_ = false;
  bool is_gone_ = false;  // Nothing of it is in the air any more.
  std::vector<std::function<void()>> when_gone_;
  std::function<void(const Error&)> on_close_;
  ChannelCounters counters_;
  LinkSettings settings_;

  Requests requests_;
  std::deque<std::uint64_t> unissued_;  // Writes and reads with chunks left.
  std::unordered_map<std::uint64_t, Chunk> chunks_;
  std::unordered_set<std::uint64_t> withdrawn_;  // Chunks given up; the peer may answer still.
  std::unordered_map<std::uint64_t, Mailbox> mailboxes_;  // By tag.
  std::uint64_t window_bytes_ = 0;
  std::uint64_t next_id_ = 1;  // Of requests and chunks; 0 is the link's own alarm.
  std::uint64_t next_sequence_out_ = 0;
  std::uint64_t next_sequence_in_ = 0;
  std::uint64_t unexpected_bytes_ = 0;
  std::size_t unexpected_count_ = 0;
  std::size_t serving_ = 0;
  std::list<std::shared_ptr<Staged>> in_line_;  // For a slot.
  std::list<std::weak_ptr<Staged>> with_slot_;  // Oldest first.
  struct Grant {                                // A place for bytes that come by the stream.
    std::unique_ptr<Flight> flight;
    std::byte* into;
  };
  std::unordered_map<std::uint64_t, Grant> granted_;
  std::shared_ptr<Lifeline> joining_;  // Becomes the stream when the peer has it.
  std::unique_ptr<Stream> stream_;
  std::size_t flights_ = 0;
  std::size_t copies_ = 0;      // Of devices, under way.
  Alarms::iterator own_alarm_;  // Of the greeting, of last words, of the farewell.
};

}  // namespace causeway::ucx
