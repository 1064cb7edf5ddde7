#include "transport/local/local_transport.h"

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <unordered_map>
#include <vector>

#include "transport/checksum.h"
#include "transport/local/staged_access.h"
#include "transport/proving_ground.h"

namespace causeway {

namespace {
class LocalTransport;
struct End;
}  // namespace

struct LocalNetwork::State {
  explicit State(boost::asio::io_context& io) : context(io) {}
  boost::asio::io_context& context;
  std::unordered_map<std::string, LocalTransport*> listeners;
  std::unordered_map<std::uint64_t, std::weak_ptr<End>> accepted;  // By the channel's number.
  std::uint64_t next_number = 1;                                   // Of transports and channels.
  ProvingGround proving_ground;
};

namespace {

using boost::asio::steady_timer;

struct PendingReceive {
  std::span<std::byte> target;
  Completion done;
  std::unique_ptr<steady_timer> timer = nullptr;
  std::uint64_t id = 0;
};

struct PendingSend {
  std::span<const std::byte> message;
  Completion done;
  std::unique_ptr<steady_timer> timer = nullptr;
  std::uint64_t id = 0;
};

struct Mailbox {  // One tag of one direction. At most one of the two lists has entries.
  std::list<PendingReceive> receives;
  std::list<PendingSend> sends;
};

// One end. The two ends know each other until one closes.
struct End : std::enable_shared_from_this<End> {
  End(boost::asio::io_context& io, DataService* judge, Hello hello)
      : context(io), service(judge), peer(std::move(hello)) {}

  boost::asio::io_context& context;
  DataService* service;
  Hello peer;
  ChannelId id{};
  std::shared_ptr<End> other;              // Null once closed.
  std::map<std::uint64_t, Mailbox> inbox;  // By tag: what the other end sends, this end receives.
  ChannelCounters counters;
  std::list<std::weak_ptr<StagedAccess>> accesses;  // Of this end, to memory of devices.
  std::size_t copies = 0;                           // Of such memory here, for the other end.
  std::vector<std::function<void()>> when_idle;     // Called when there are none.
  std::uint64_t next_id = 0;
  std::optional<Error> ended;
  std::function<void(const Error&)> on_close;

  void post(Completion done, std::optional<Error> error, std::uint64_t bytes) const {
    boost::asio::post(
        context, [done = std::move(done), error = std::move(error), bytes] { done(error, bytes); });
  }

  void end(const Error& reason) {
    if (ended) return;
    ended = reason;
    for (auto& [tag, box] : std::exchange(inbox, {})) {
      for (auto& receive : box.receives) post(std::move(receive.done), reason, 0);
      // These belong to the other end, which learns of it as a closed peer.
      for (auto& send : box.sends)
        post(std::move(send.done), Error(Errc::closed, own_name() + " closed the channel"), 0);
    }
    for (const auto& weak : std::exchange(accesses, {}))
      if (const auto access = weak.lock()) access->stop(reason);
    if (on_close)
      boost::asio::post(context,
                        [handler = std::exchange(on_close, {}), reason] { handler(reason); });
  }

  // As the other end knows this one.
  [[nodiscard]] std::string own_name() const { return other ? other->peer.name : "the peer"; }

  void close(const Error& reason) {
    if (ended) return;
    const auto partner = other;
    // This end's own unreceived sends lie in the partner's inbox; they end with our reason.
    if (partner)
      for (auto& [tag, box] : partner->inbox) {
        for (auto& send : box.sends) post(std::move(send.done), reason, 0);
        box.sends.clear();
      }
    end(reason);
    if (partner)
      partner->end(
          Error(Errc::closed, partner->peer.name + " closed the channel: " + reason.what()));
    if (partner) partner->other.reset();
    other.reset();
  }
};

void hand_over(End& receiver, PendingReceive receive, std::span<const std::byte> message) {
  if (message.size() > receive.target.size()) {
    const auto text = "a message of " + std::to_string(message.size()) + " bytes from " +
                      receiver.peer.name + " does not fit the receive of " +
                      std::to_string(receive.target.size()) + " bytes and was dropped";
    return receiver.post(std::move(receive.done), Error(Errc::out_of_bounds, text), 0);
  }
  if (!message.empty()) std::memcpy(receive.target.data(), message.data(), message.size());
  receiver.counters.received_bytes += message.size();
  if (receiver.other) receiver.other->counters.sent_bytes += message.size();
  receiver.post(std::move(receive.done), std::nullopt, message.size());
}

class LocalChannel final : public Channel {
 public:
  LocalChannel(std::shared_ptr<LocalNetwork::State> network, std::shared_ptr<End> end)
      : network_(std::move(network)), end_(std::move(end)) {}
  ~LocalChannel() override {
    end_->close(Error(Errc::cancelled, "the channel to " + end_->peer.name + " was destroyed"));
  }

  [[nodiscard]] const std::string& peer_name() const noexcept override { return end_->peer.name; }
  [[nodiscard]] const Hello& peer() const noexcept override { return end_->peer; }
  [[nodiscard]] bool is_open() const noexcept override { return !end_->ended; }
  [[nodiscard]] ChannelCounters counters() const noexcept override { return end_->counters; }
  [[nodiscard]] ChannelId id() const noexcept override { return end_->id; }
  void close(Error reason) override { end_->close(reason); }
  void set_settings(const LinkSettings& settings) override { settings_ = settings; }
  [[nodiscard]] LinkSettings settings() const noexcept override { return settings_; }

  void write(RemoteAddress to, std::span<const std::byte> source, Deadline deadline,
             Completion done) override {
    // A write only reads it.
    one_sided(Access::write, to, {const_cast<std::byte*>(source.data()), source.size()}, deadline,
              std::move(done));
  }

  void read(std::span<std::byte> target, RemoteAddress from, Deadline deadline,
            Completion done) override {
    one_sided(Access::read, from, target, deadline, std::move(done));
  }

  void checksum(RemoteAddress of, std::uint64_t size_bytes, Deadline deadline,
                Completion done) override {
    if (refused(deadline, done)) return;
    std::uint64_t sum = 0;
    bool is_staged = false;
    const auto failed = use_memory(
        of, size_bytes, Access::read,
        [&](const PinnedMemory& memory) {
          is_staged = memory.device != nullptr;
          if (is_staged)
            stage({StagedAccess::Kind::sum, memory, {}, deadline, std::move(done)});
          else
            sum = checksum_of(memory.bytes);
        },
        kMaxChecksumBytes);
    if (!is_staged) end_->post(std::move(done), failed, failed ? 0 : sum);
  }

  // What crosses here lands at once, but for copies of devices: so the end of the channel is all.
  void fence(ChannelId other, Deadline deadline, Completion done) override {
    if (refused(deadline, done)) return;
    if (other == end_->id)
      return end_->post(std::move(done),
                        Error(Errc::invalid_argument, "a fence for its own channel"), 0);
    if (other.transport != end_->id.transport)
      return end_->post(
          std::move(done),
          Error(Errc::not_found, end_->peer.name + " is not whom that channel led to"), 0);
    const auto found = network_->accepted.find(other.number);
    if (found != network_->accepted.end())
      if (const auto end = found->second.lock()) {
        end->close(Error(Errc::closed, "its peer fenced the channel"));
        if (end->copies > 0) return fence_later(*end, deadline, std::move(done));
      }
    end_->post(std::move(done), std::nullopt, 0);
  }

  void send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
            Completion done) override {
    if (refused(deadline, done)) return;
    auto& partner = *end_->other;
    auto& box = partner.inbox[tag];
    if (!box.receives.empty()) {
      auto receive = std::move(box.receives.front());
      box.receives.pop_front();
      hand_over(partner, std::move(receive), message);
      return end_->post(std::move(done), std::nullopt, message.size());
    }
    box.sends.push_back({message, std::move(done)});
    expire(end_->other, tag, &Mailbox::sends, deadline);
  }

  void receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline,
               Completion done) override {
    auto& inbox = end_->inbox;
    if (end_->ended || !inbox.contains(tag) || inbox[tag].sends.empty()) {
      if (refused(deadline, done)) return;
      inbox[tag].receives.push_back({target, std::move(done)});
      return expire(end_, tag, &Mailbox::receives, deadline);
    }
    auto& box = inbox[tag];
    auto send = std::move(box.sends.front());
    box.sends.pop_front();
    hand_over(*end_, {target, std::move(done)}, send.message);
    end_->other->post(std::move(send.done), std::nullopt, send.message.size());
  }

  void on_close(std::function<void(const Error&)> handler) override {
    if (!end_->ended) {
      end_->on_close = std::move(handler);
    } else if (handler) {
      boost::asio::post(end_->context,
                        [handler = std::move(handler), reason = *end_->ended] { handler(reason); });
    }
  }

 private:
  // True, with the completion on its way, if nothing can be started.
  bool refused(Deadline deadline, Completion& done) const {
    if (end_->ended) {
      end_->post(std::move(done),
                 Error(Errc::closed,
                       "the channel to " + end_->peer.name + " is closed: " + end_->ended->what()),
                 0);
      return true;
    }
    if (deadline > std::chrono::steady_clock::now()) return false;
    end_->post(std::move(done),
               Error(Errc::timed_out,
                     "the deadline had passed before the request to " + end_->peer.name + " began"),
               0);
    return true;
  }

  void one_sided(Access access, RemoteAddress address, std::span<std::byte> local,
                 Deadline deadline, Completion done) {
    if (refused(deadline, done)) return;
    const bool is_write = access == Access::write;
    const auto size_bytes = local.size();
    auto& partner = *end_->other;
    bool is_staged = false;
    const auto failed = use_memory(address, size_bytes, access, [&](const PinnedMemory& memory) {
      if (!ProvingGround::is_at(address)) partner.service->moves(partner.peer, size_bytes, access);
      is_staged = memory.device != nullptr;
      if (is_staged)
        stage({is_write ? StagedAccess::Kind::write : StagedAccess::Kind::read, memory, local,
               deadline, std::move(done)});
      else if (!local.empty())
        std::memcpy(is_write ? memory.bytes.data() : local.data(),
                    is_write ? local.data() : memory.bytes.data(), size_bytes);
    });
    if (is_staged) return;
    if (failed) return end_->post(std::move(done), failed, 0);
    count(*end_, partner, access, size_bytes);
    end_->post(std::move(done), std::nullopt, size_bytes);
  }

  static void count(End& own, End& partner, Access access, std::uint64_t size_bytes) {
    (access == Access::write ? own : partner).counters.sent_bytes += size_bytes;
    (access == Access::write ? partner : own).counters.received_bytes += size_bytes;
  }

  void stage(StagedAccess::Setup setup) {
    const auto partner = end_->other;
    ++partner->copies;
    setup.done = [own = end_, partner, kind = setup.kind, done = std::move(setup.done)](
                     std::optional<Error> error, std::uint64_t bytes) {
      if (!error && kind != StagedAccess::Kind::sum)
        count(*own, *partner, kind == StagedAccess::Kind::write ? Access::write : Access::read,
              bytes);
      if (--partner->copies == 0)
        for (const auto& idle : std::exchange(partner->when_idle, {})) idle();
      done(std::move(error), bytes);
    };
    std::erase_if(end_->accesses, [](const auto& weak) { return weak.expired(); });
    end_->accesses.push_back(StagedAccess::start(end_->context, std::move(setup)));
  }

  // Whichever comes first: the end of what is under way, or the deadline.
  void fence_later(End& other, Deadline deadline, Completion done) {
    const auto timer = std::make_shared<steady_timer>(end_->context, deadline);
    const auto once = std::make_shared<Completion>(std::move(done));
    timer->async_wait([once, timer](boost::system::error_code) {
      if (const auto tell = std::exchange(*once, nullptr))
        tell(Error(Errc::timed_out, "a copy of a device was still under way"), 0);
    });
    other.when_idle.push_back([own = end_, once, timer] {
      timer->cancel();
      if (*once) own->post(std::exchange(*once, nullptr), std::nullopt, 0);
    });
  }

  // Calls `use` with the peer's memory, if its service agrees.
  template <typename Use>
  std::optional<Error> use_memory(RemoteAddress address, std::uint64_t size_bytes, Access access,
                                  Use use, std::uint64_t max_bytes = ~std::uint64_t{0}) {
    auto& partner = *end_->other;
    try {
      if (size_bytes > max_bytes)
        throw Error(Errc::out_of_bounds, "a checksum of " + std::to_string(size_bytes) +
                                             " bytes; the limit is " + std::to_string(max_bytes));
      if (partner.service == nullptr)
        throw Error(Errc::unsupported, end_->peer.name + " serves no memory");
      const auto memory = ProvingGround::is_at(address)
                              ? network_->proving_ground.pin(address, size_bytes, access)
                              : partner.service->pin(partner.peer, address, size_bytes, access);
      if (memory.bytes.size() != size_bytes)
        throw Error(Errc::internal, end_->peer.name + " pinned " +
                                        std::to_string(memory.bytes.size()) + " bytes instead of " +
                                        std::to_string(size_bytes));
      use(memory);
      return std::nullopt;
    } catch (const Error& error) {
      return error;
    } catch (const std::exception& error) {
      return Error(Errc::internal, error.what());
    }
  }

  // Ends the newest entry of `list` at the deadline. A timer that fired may still be queued when
  // its entry is matched and gone, so the handler looks for the entry by number.
  template <typename List>
  static void expire(const std::shared_ptr<End>& owner, std::uint64_t tag, List Mailbox::*list,
                     Deadline deadline) {
    auto& entry = (owner->inbox[tag].*list).back();
    entry.id = ++owner->next_id;
    entry.timer = std::make_unique<steady_timer>(owner->context, deadline);
    entry.timer->async_wait(
        [weak = std::weak_ptr(owner), tag, list, id = entry.id](boost::system::error_code error) {
          const auto end = weak.lock();
          if (error || !end || !end->inbox.contains(tag)) return;
          auto& entries = end->inbox[tag].*list;
          const auto found = std::ranges::find(entries, id, &List::value_type::id);
          if (found == entries.end()) return;
          const auto done = std::move(found->done);
          entries.erase(found);
          done(Error(Errc::timed_out, "a message of tag " + std::to_string(tag) +
                                          " found no partner before its deadline"),
               0);
        });
  }

  std::shared_ptr<LocalNetwork::State> network_;
  std::shared_ptr<End> end_;
  LinkSettings settings_;
};

class LocalTransport final : public Transport {
 public:
  LocalTransport(std::shared_ptr<LocalNetwork::State> network, LocalOptions options)
      : network_(std::move(network)),
        options_(std::move(options)),
        number_(network_->next_number++) {
    if (!options_.listens) return;
    address_ = "local:" + options_.name;
    if (!network_->listeners.emplace(address_, this).second)
      throw Error(Errc::already_exists, "a transport listens at " + address_ + " already");
  }

  ~LocalTransport() override {
    if (!address_.empty()) network_->listeners.erase(address_);
    for (const auto& weak : ends_)
      if (const auto end = weak.lock())
        end->close(Error(Errc::cancelled, "the transport '" + options_.name + "' was destroyed"));
  }

  [[nodiscard]] const std::string& address() const noexcept override { return address_; }

  void connect(const std::string& address, Hello hello, Deadline deadline,
               Connected done) override {
    boost::asio::post(
        network_->context, [this, alive = std::weak_ptr(alive_), address, hello = std::move(hello),
                            deadline, done = std::move(done)]() mutable {
          if (alive.expired())
            return done(Error(Errc::cancelled, "the transport was destroyed while connecting"),
                        nullptr);
          connect_now(address, std::move(hello), deadline, done);
        });
  }

 private:
  void connect_now(const std::string& address, Hello hello, Deadline deadline,
                   const Connected& done) {
    if (deadline <= std::chrono::steady_clock::now())
      return done(Error(Errc::timed_out, "the deadline passed before connecting to " + address),
                  nullptr);
    const auto found = network_->listeners.find(address);
    if (found == network_->listeners.end())
      return done(Error(Errc::peer_lost, "no transport listens at " + address), nullptr);
    auto& listener = *found->second;
    try {
      if (hello.name.size() > 255 || hello.credential.size() > 255)
        throw Error(Errc::invalid_argument, "name and credential take at most 255 bytes");
      if (listener.options_.service != nullptr) listener.options_.service->admit(hello);
    } catch (const Error& error) {
      return done(error, nullptr);
    } catch (const std::exception& error) {
      return done(Error(Errc::internal, error.what()), nullptr);
    }
    const Hello from_listener{Hello::Role::node, listener.options_.name, 0, ""};
    auto mine = std::make_shared<End>(network_->context, options_.service, from_listener);
    auto theirs =
        std::make_shared<End>(network_->context, listener.options_.service, std::move(hello));
    mine->other = theirs;
    theirs->other = mine;
    mine->id = theirs->id = {listener.number_, network_->next_number++};
    std::erase_if(network_->accepted, [](const auto& entry) { return entry.second.expired(); });
    network_->accepted[theirs->id.number] = theirs;
    remember(mine);
    listener.remember(theirs);
    auto accepted = std::make_shared<LocalChannel>(network_, std::move(theirs));
    if (listener.options_.on_accept) listener.options_.on_accept(std::move(accepted));
    accepted.reset();
    done(std::nullopt, std::make_shared<LocalChannel>(network_, std::move(mine)));
  }

  void remember(const std::shared_ptr<End>& end) {
    std::erase_if(ends_, [](const auto& weak) { return weak.expired(); });
    ends_.push_back(end);
  }

  std::shared_ptr<LocalNetwork::State> network_;
  LocalOptions options_;
  std::uint64_t number_;
  std::string address_;
  std::vector<std::weak_ptr<End>> ends_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace

LocalNetwork::LocalNetwork(boost::asio::io_context& context)
    : state_(std::make_shared<State>(context)) {}
LocalNetwork::~LocalNetwork() = default;

std::unique_ptr<Transport> make_local_transport(LocalNetwork& network, LocalOptions options) {
  if (options.name.size() > 255)
    throw Error(Errc::invalid_argument, "a transport's name takes at most 255 bytes");
  return std::make_unique<LocalTransport>(network.state(), std::move(options));
}

}  // namespace causeway
