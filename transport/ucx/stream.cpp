#include "transport/ucx/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace causeway::ucx {

namespace {

constexpr std::size_t kTurnBytes = 1 << 20;  // Then other streams, and UCX, have their turn.
// The socket is locked while one call copies, and the peer's acknowledgements wait for it.
constexpr std::size_t kSendBytes = 256 << 10;
// A receiver that wakes for every packet takes the processor from those who bring them: with 2
// cores and 25 Gbit/s that makes 18 Gbit/s of 23.6.
constexpr std::size_t kWakeBytes = 128 << 10;
constexpr int kMaxEvents = 64;

bool is_busy(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

Streams::Streams() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) throw system_error("cannot watch streams", errno);
}

bool Streams::progress() {
  if (all_.empty()) return false;
  bool moved = false;
  for (auto* stream : std::exchange(to_send_, {})) {
    stream->is_in_line_ = false;
    moved |= stream->transmit();
  }
  std::array<epoll_event, kMaxEvents> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), kMaxEvents, 0);
  for (int i = 0; i < count; ++i) {
    auto& stream = *static_cast<Stream*>(events[static_cast<std::size_t>(i)].data.ptr);
    const auto what = events[static_cast<std::size_t>(i)].events;
    if ((what & ~std::uint32_t{EPOLLOUT}) != 0) moved |= stream.receive();
    if ((what & EPOLLOUT) != 0) moved |= stream.transmit();
  }
  return moved;
}

void Streams::look() {
  for (auto* stream : all_)
    if (stream->left_bytes_ > 0) stream->receive();
}

Stream::Stream(Streams& streams, UniqueFd socket, Owner& owner)
    : streams_(streams), socket_(std::move(socket)), owner_(owner) {
  const auto set = [fd = socket_.get()](int level, int option, const void* value,
                                        socklen_t size_bytes) {
    if (::setsockopt(fd, level, option, value, size_bytes) != 0)
      throw system_error("cannot set up a stream", errno);
  };
  const int is_on = 1;
  set(IPPROTO_TCP, TCP_NODELAY, &is_on, sizeof(is_on));
  // Or the kernel would offer the rest to a peer for which the link has ended.
  const linger at_once{1, 0};
  set(SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  epoll_event event{};
  event.events = wanted_ = EPOLLIN;
  event.data.ptr = this;
  if (::epoll_ctl(streams_.epoll_.get(), EPOLL_CTL_ADD, socket_.get(), &event) != 0)
    throw system_error("cannot watch a stream", errno);
  streams_.all_.push_back(this);
}

Stream::~Stream() { close(); }

void Stream::send(const StreamHead& head, std::span<const std::byte> bytes, Done done) {
  if (!socket_) return done(false);
  outgoing_.push_back({head, encode(head), bytes, std::move(done)});
  line_up();
}

void Stream::line_up() {
  if ((wanted_ & EPOLLOUT) != 0 || std::exchange(is_in_line_, true)) return;
  streams_.to_send_.push_back(this);
}

bool Stream::withdraw(const StreamHead& head) {
  const auto found = std::ranges::find_if(outgoing_, [&](const Outgoing& each) {
    return each.head.kind == head.kind && each.head.id == head.id && each.sent_bytes == 0;
  });
  if (found == outgoing_.end()) return false;
  outgoing_.erase(found);
  return true;
}

bool Stream::transmit() {
  bool moved = false;
  for (std::size_t room = kTurnBytes; !outgoing_.empty();) {
    if (is_over_) return moved;
    if (room == 0) {
      line_up();
      return moved;
    }
    auto& first = outgoing_.front();
    // Of what is const nothing is written: sendmsg() takes no other type.
    const auto piece = [&](std::span<const std::byte> bytes, std::size_t before) {
      const auto done =
          std::min(bytes.size(), first.sent_bytes - std::min(first.sent_bytes, before));
      return iovec{const_cast<std::byte*>(bytes.data()) + done, bytes.size() - done};
    };
    std::array pieces{piece(first.head_bytes, 0), piece(first.bytes, kStreamHeadBytes)};
    pieces[1].iov_len = std::min({pieces[1].iov_len, room, kSendBytes});
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = pieces.size();
    const auto sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && is_busy(errno)) {
      want(EPOLLIN | EPOLLOUT);
      return moved;
    }
    if (sent < 0) {
      end(system_error("the stream broke", errno));
      return moved;
    }
    moved = true;
    first.sent_bytes += static_cast<std::size_t>(sent);
    room -= std::min(room, static_cast<std::size_t>(sent));
    if (first.sent_bytes < kStreamHeadBytes + first.bytes.size()) continue;
    const auto done = std::move(first.done);
    outgoing_.pop_front();
    done(true);
  }
  if ((wanted_ & EPOLLOUT) != 0) want(EPOLLIN);
  return moved;
}

bool Stream::receive() {
  bool moved = false;
  for (std::size_t room = kTurnBytes; room > 0 && !is_over_;) {
    // The next head comes with the rest of the bytes before it.
    const bool drops = left_bytes_ > 0 && landing_.into == nullptr;
    std::array<iovec, 2> pieces{};
    pieces[0] = {landing_.into, std::min<std::size_t>(left_bytes_, room)};
    const bool takes_head = !drops && pieces[0].iov_len == left_bytes_;
    pieces[1] = {head_.data() + head_bytes_, takes_head ? kStreamHeadBytes - head_bytes_ : 0};
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = pieces.size();
    const auto wanted = pieces[0].iov_len + pieces[1].iov_len;
    // TCP drops what it is asked to truncate without a copy.
    const auto came = drops ? ::recv(socket_.get(), nullptr, wanted, MSG_DONTWAIT | MSG_TRUNC)
                            : ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (came < 0 && is_busy(errno)) break;
    if (came <= 0) {
      end(came == 0 ? Error(Errc::peer_lost, "the peer closed the stream")
                    : system_error("the stream broke", errno));
      return moved;
    }
    moved = true;
    const auto size = static_cast<std::size_t>(came);
    room -= std::min(room, size);
    take(size);
    if (size < wanted) break;  // There was no more.
  }
  if (!is_over_) wake_at(std::clamp<std::size_t>(left_bytes_, 1, kWakeBytes));
  return moved;
}

void Stream::take(std::size_t size_bytes) {
  const auto landed = std::min<std::uint64_t>(size_bytes, left_bytes_);
  left_bytes_ -= landed;
  if (landing_.into != nullptr) landing_.into += landed;
  if (landed > 0 && left_bytes_ == 0) end_landing(true);
  head_bytes_ += size_bytes - landed;
  if (head_bytes_ == kStreamHeadBytes) take_head();
}

void Stream::end_landing(bool is_whole) {
  if (const auto done = std::exchange(landing_, {}).done) done(is_whole);
}

void Stream::take_head() {
  head_bytes_ = 0;
  try {
    const auto head = decode_stream_head(head_);
    if (!head) throw Error(Errc::protocol, "the peer sent a malformed frame on its stream");
    landing_ = owner_.land_frame(*head);
    left_bytes_ = head->size_bytes;
  } catch (const Error& error) {
    return end(error);
  } catch (const std::exception& error) {
    return end(Error(Errc::internal, error.what()));
  }
  if (left_bytes_ == 0) end_landing(true);
}

void Stream::want(std::uint32_t events) {
  if (wanted_ == events) return;
  epoll_event event{};
  event.events = wanted_ = events;
  event.data.ptr = this;
  static_cast<void>(::epoll_ctl(streams_.epoll_.get(), EPOLL_CTL_MOD, socket_.get(), &event));
}

// Streams::look() is there for what the kernel keeps back all the same.
void Stream::wake_at(std::size_t size_bytes) {
  if (wakes_at_ == size_bytes) return;
  wakes_at_ = size_bytes;
  const int value = static_cast<int>(size_bytes);
  static_cast<void>(::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVLOWAT, &value, sizeof(value)));
}

void Stream::end(const Error& why) {
  if (is_over_) return;
  is_over_ = true;
  static_cast<void>(::epoll_ctl(streams_.epoll_.get(), EPOLL_CTL_DEL, socket_.get(), nullptr));
  owner_.stream_ended(why);
}

void Stream::close() {
  if (!socket_) return;
  is_over_ = true;
  std::erase(streams_.all_, this);
  std::erase(streams_.to_send_, this);
  // A child that was forked and did not exec may hold a copy of the descriptor, which would keep
  // it in the set as well.
  static_cast<void>(::epoll_ctl(streams_.epoll_.get(), EPOLL_CTL_DEL, socket_.get(), nullptr));
  static_cast<void>(::shutdown(socket_.get(), SHUT_RDWR));
  socket_.reset();
  end_landing(false);
  for (const auto& each : std::exchange(outgoing_, {})) each.done(false);
}

}  // namespace causeway::ucx
