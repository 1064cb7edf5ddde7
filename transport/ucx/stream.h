// The second TCP connection of a link: parts of writes and reads as nothing but bytes.
//
// Shape:   frames, each a StreamHead and its bytes, both ways. What arrives goes from the kernel
//          straight to where the owner wants it; UCX's active messages over TCP pass through a
//          buffer first. A stream asks nobody and answers nothing: links talk over UCX, and send a
//          frame only when the peer has a place for it.
//          Streams is the set of all streams of a worker, looked at by its loop.
// Cost:    a descriptor; per MiB about six system calls at each end.
// Errors:  what breaks a stream, and its end, is told once, by Owner::stream_ended(); what is
//          under way then, or sent after it, ends with false at close(). io from the constructors.
// Threads: the worker's. The owner's functions run inside progress() and close() only; close() and
//          the destructor must not be called from inside progress().
// Why:     docs/transport.md, "Streams".
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "allocator/error.h"
#include "allocator/unique_fd.h"
#include "transport/ucx/protocol.h"

namespace causeway::ucx {

class Stream;

class Streams {
 public:
  Streams();  // Errors: io.
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;

  // Moves what can be moved without waiting; true if anything did.
  bool progress();
  // Likewise, of what the kernel did not call readable yet.
  void look();
  // Readable when progress() has something to do.
  [[nodiscard]] int fd() const noexcept { return epoll_.get(); }

 private:
  friend class Stream;
  UniqueFd epoll_;
  std::vector<Stream*> all_;
  std::vector<Stream*> to_send_;  // May take more; those that the kernel must wake are not in it.
};

class Stream {
 public:
  using Done = std::function<void(bool is_whole)>;
  struct Landing {
    std::byte* into = nullptr;  // Null: the bytes are dropped.
    Done done{};
  };
  class Owner {
   public:
    virtual ~Owner() = default;
    // Where the bytes of this frame go. Errors: throws for a frame that was not to come.
    virtual Landing land_frame(const StreamHead& head) = 0;
    virtual void stream_ended(const Error& why) = 0;
  };

  Stream(Streams& streams, UniqueFd socket, Owner& owner);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Behind what was given before. `bytes` must stay until `done`.
  void send(const StreamHead& head, std::span<const std::byte> bytes, Done done);
  // Takes back what has not begun to leave; its `done` is not called.
  bool withdraw(const StreamHead& head);
  // Nothing of it touches a buffer any more.
  void close();

 private:
  friend class Streams;
  struct Outgoing {
    StreamHead head;
    StreamHeadBytes head_bytes;
    std::span<const std::byte> bytes;
    Done done;
    std::size_t sent_bytes = 0;  // Of both.
  };

  bool receive();
  bool transmit();
  void line_up();
  void take(std::size_t size_bytes);
  void end_landing(bool is_whole);
  void take_head();
  void want(std::uint32_t events);
  void wake_at(std::size_t size_bytes);
  void end(const Error& why);

  Streams& streams_;
  UniqueFd socket_;
  Owner& owner_;
  std::deque<Outgoing> outgoing_;
  StreamHeadBytes head_{};
  std::size_t head_bytes_ = 0;  // That have come.
  Landing landing_;             // Of the frame that has begun.
  std::uint64_t left_bytes_ = 0;
  std::uint32_t wanted_ = 0;
  std::size_t wakes_at_ = 1;
  bool is_in_line_ = false;  // Of to_send_.
  bool is_over_ = false;
};

}  // namespace causeway::ucx
