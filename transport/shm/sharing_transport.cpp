#include "transport/shm/sharing_transport.h"

#include <bit>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "transport/collective/turns.h"
#include "transport/shm/acquaint.h"

namespace causeway {

namespace asio = boost::asio;
using shm::Acquaintance;
using shm::Port;
using shm::Ring;
using shm::Wire;

namespace {

constexpr auto kGreeting = std::chrono::seconds(5);  // For an accepted peer to say where it is.
// What a peer that went in order has still to say below, when its process is gone.
constexpr auto kLastWords = std::chrono::milliseconds(500);

// A channel and its wire, which end together.
class Pair : public std::enable_shared_from_this<Pair> {
 public:
  Pair(std::shared_ptr<Port> port, std::shared_ptr<Channel> below, Acquaintance known)
      : below_(std::move(below)),
        before_(below_->counters()),
        process_(port->context()),
        timer_(port->context()),
        wire_(std::move(port), std::move(known.wire)) {
    if (!known.process) return;
    process_.assign(known.process.get());
    static_cast<void>(known.process.release());  // Only now: assign() may throw.
  }

  void begin() {
    const auto weak = weak_from_this();
    below_->on_close([weak](const Error& reason) {
      if (const auto self = weak.lock()) self->end(reason);
    });
    if (!process_.is_open()) return;
    process_.async_wait(asio::posix::descriptor_base::wait_read,
                        [weak](const boost::system::error_code& error) {
                          const auto self = weak.lock();
                          if (!error && self) self->bury_peer();
                        });
  }

  [[nodiscard]] Channel& below() const noexcept { return *below_; }
  [[nodiscard]] Wire& wire() noexcept { return wire_; }
  [[nodiscard]] bool is_open() const { return wire_.is_open() && below_->is_open(); }
  [[nodiscard]] ChannelCounters counters() const {
    const auto below = below_->counters();
    const auto here = wire_.counters();
    return {below.sent_bytes - before_.sent_bytes + here.sent_bytes,
            below.received_bytes - before_.received_bytes + here.received_bytes};
  }

  // Of a peer that is to be told; end() follows from below.
  void close(const Error& reason) {
    below_->close(reason);
    wire_.end(reason);
  }
  void end(const Error& reason) {
    if (ended_) return;
    ended_ = reason;
    wire_.end(reason);
    boost::system::error_code ignored;
    process_.close(ignored);
    timer_.cancel();
    if (on_close_) tell(std::exchange(on_close_, {}));
  }
  void on_close(std::function<void(const Error&)> handler) {
    if (!ended_)
      on_close_ = std::move(handler);
    else if (handler)
      tell(std::move(handler));
  }

 private:
  void tell(std::function<void(const Error&)> handler) {
    wire_.port()->later([handler = std::move(handler), reason = *ended_] { handler(reason); });
  }
  void bury_peer() {
    const Error lost(Errc::peer_lost, below_->peer_name() + " was lost: its process has ended");
    if (!wire_.has_peer_left()) return close(lost);
    timer_.expires_after(kLastWords);
    timer_.async_wait([weak = weak_from_this(), lost](const boost::system::error_code& error) {
      const auto self = weak.lock();
      if (!error && self) self->close(lost);
    });
  }

  const std::shared_ptr<Channel> below_;
  const ChannelCounters before_;
  asio::posix::stream_descriptor process_;
  asio::steady_timer timer_;
  Wire wire_;
  std::optional<Error> ended_;
  std::function<void(const Error&)> on_close_;
};

class SharedChannel final : public Channel {
 public:
  explicit SharedChannel(std::shared_ptr<Pair> pair) : pair_(std::move(pair)) {}
  ~SharedChannel() override {
    const Error reason(Errc::cancelled, "the channel to " + peer_name() + " was destroyed");
    if (pair_->is_open()) pair_->close(reason);
    pair_->end(reason);
  }

  [[nodiscard]] const std::string& peer_name() const noexcept override {
    return pair_->below().peer_name();
  }
  [[nodiscard]] const Hello& peer() const noexcept override { return pair_->below().peer(); }
  [[nodiscard]] ChannelId id() const noexcept override { return pair_->below().id(); }
  [[nodiscard]] bool is_open() const noexcept override { return pair_->is_open(); }
  [[nodiscard]] ChannelCounters counters() const noexcept override { return pair_->counters(); }
  [[nodiscard]] std::optional<double> round_trip() const noexcept override {
    return pair_->below().round_trip();
  }
  void set_settings(const LinkSettings& settings) override {
    pair_->below().set_settings(settings);
  }
  [[nodiscard]] LinkSettings settings() const noexcept override {
    return pair_->below().settings();
  }
  void close(Error reason) override { pair_->close(reason); }
  void on_close(std::function<void(const Error&)> handler) override {
    pair_->on_close(std::move(handler));
  }
  void write(RemoteAddress to, std::span<const std::byte> source, Deadline deadline,
             Completion done) override {
    pair_->below().write(to, source, deadline, std::move(done));
  }
  void read(std::span<std::byte> target, RemoteAddress from, Deadline deadline,
            Completion done) override {
    pair_->below().read(target, from, deadline, std::move(done));
  }
  void checksum(RemoteAddress of, std::uint64_t size_bytes, Deadline deadline,
                Completion done) override {
    pair_->below().checksum(of, size_bytes, deadline, std::move(done));
  }
  void fence(ChannelId other, Deadline deadline, Completion done) override {
    pair_->below().fence(other, deadline, std::move(done));
  }
  void send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
            Completion done) override {
    pair_->wire().send(tag, message, deadline, std::move(done));
  }
  void receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline,
               Completion done) override {
    pair_->wire().receive(tag, target, deadline, std::move(done));
  }

 private:
  const std::shared_ptr<Pair> pair_;
};

// What outlives the transport until every acquaintance is made or has failed.
struct Common {
  std::shared_ptr<Port> port;
  SharingOptions options;
  bool is_gone = false;
};

asio::awaitable<std::shared_ptr<Channel>> share(std::shared_ptr<Common> common,
                                                std::shared_ptr<Channel> channel, bool connecting,
                                                Deadline deadline) {
  std::optional<Error> failure;
  try {
    const auto place = common->port->take_place();
    auto known = co_await shm::acquaint(common->port, channel,
                                        {connecting, place != nullptr, common->options.island,
                                         common->options.ring_bytes, deadline});
    if (common->is_gone) throw Error(Errc::cancelled, "the transport was destroyed");
    if (!known) co_return channel;
    known->wire.place = place;
    // The wire comes into being before its pair can be named.
    const auto named = std::make_shared<std::weak_ptr<Pair>>();
    known->wire.broken = [named](const Error& error) {
      if (const auto pair = named->lock()) pair->close(error);
    };
    const auto pair = std::make_shared<Pair>(common->port, std::move(channel), std::move(*known));
    *named = pair;
    pair->begin();
    co_return std::make_shared<SharedChannel>(pair);
  } catch (const Error& error) {
    failure = error;
  }
  if (channel) channel->close(*failure);
  throw Error(*failure);
}

class SharingTransport final : public Transport {
 public:
  SharingTransport(asio::io_context& context, SharingOptions options,
                   const std::function<std::unique_ptr<Transport>(Accepted)>& make)
      : common_(std::make_shared<Common>(Common{Port::create(context), std::move(options)})),
        below_(make([common = common_](std::shared_ptr<Channel> channel) {
          accept(common, std::move(channel));
        })) {}
  ~SharingTransport() override { common_->is_gone = true; }

  [[nodiscard]] const std::string& address() const noexcept override { return below_->address(); }

  void connect(const std::string& address, Hello hello, Deadline deadline,
               Connected done) override {
    below_->connect(
        address, std::move(hello), deadline,
        [common = common_, deadline, done = std::move(done)](std::optional<Error> error,
                                                             std::shared_ptr<Channel> channel) {
          if (error) return done(std::move(error), nullptr);
          asio::co_spawn(
              common->port->context(), share(common, std::move(channel), true, deadline),
              [common, done](const std::exception_ptr& thrown, std::shared_ptr<Channel> shared) {
                auto failed = collective::error_of(thrown);
                if (!failed && common->is_gone)
                  failed = Error(Errc::cancelled, "the transport was destroyed");
                if (failed) shared.reset();
                done(std::move(failed), std::move(shared));
              });
        });
  }

 private:
  static void accept(const std::shared_ptr<Common>& common, std::shared_ptr<Channel> channel) {
    asio::co_spawn(
        common->port->context(),
        share(common, std::move(channel), false, std::chrono::steady_clock::now() + kGreeting),
        [common](const std::exception_ptr& thrown, std::shared_ptr<Channel> shared) {
          if (thrown || common->is_gone || !common->options.on_accept) return;
          // Its own copy: it may let go of this transport.
          const auto on_accept = common->options.on_accept;
          on_accept(std::move(shared));
        });
  }

  std::shared_ptr<Common> common_;
  std::unique_ptr<Transport> below_;
};

}  // namespace

std::unique_ptr<Transport> make_sharing_transport(
    asio::io_context& context, SharingOptions options,
    const std::function<std::unique_ptr<Transport>(Transport::Accepted)>& make) {
  const auto ring = options.ring_bytes;
  if (!std::has_single_bit(ring) || ring < Ring::kLeastBytes || ring > Ring::kMostBytes)
    throw Error(Errc::invalid_argument,
                "a ring of " + std::to_string(ring) +
                    " bytes; it must be a power of two from 256 KiB to 16 MiB");
  return std::make_unique<SharingTransport>(context, std::move(options), make);
}

bool shares_memory(const Channel& channel) noexcept {
  return dynamic_cast<const SharedChannel*>(&channel) != nullptr;
}

}  // namespace causeway
