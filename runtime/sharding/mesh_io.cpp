#include "runtime/sharding/mesh_io.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "runtime/node/lender.h"
#include "transport/collective/make_communicator.h"
#include "transport/shm/sharing_transport.h"

namespace causeway {

namespace {

using namespace std::chrono_literals;

constexpr auto kLossGrace = 500ms;  // For the reason why a partner left to become known.

// A rank's channel as a communicator has it: counts, and tells the mesh of a death.
class RankChannel final : public Channel {
 public:
  RankChannel(std::shared_ptr<Channel> inner, std::weak_ptr<MeshIo> io, int rank)
      : inner_(std::move(inner)), io_(std::move(io)), rank_(rank) {}

  const std::string& peer_name() const noexcept override { return inner_->peer_name(); }
  const Hello& peer() const noexcept override { return inner_->peer(); }
  ChannelId id() const noexcept override { return inner_->id(); }
  bool is_open() const noexcept override { return inner_->is_open(); }
  ChannelCounters counters() const noexcept override { return inner_->counters(); }

  void write(RemoteAddress to, std::span<const std::byte> source, Deadline deadline,
             Completion done) override {
    count(source.size());
    inner_->write(to, source, deadline, named(std::move(done)));
  }
  void read(std::span<std::byte> target, RemoteAddress from, Deadline deadline,
            Completion done) override {
    inner_->read(target, from, deadline, named(std::move(done)));
  }
  void checksum(RemoteAddress of, std::uint64_t size_bytes, Deadline deadline,
                Completion done) override {
    inner_->checksum(of, size_bytes, deadline, named(std::move(done)));
  }
  void fence(ChannelId other, Deadline deadline, Completion done) override {
    inner_->fence(other, deadline, named(std::move(done)));
  }
  void send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
            Completion done) override {
    count(message.size());
    inner_->send(tag, message, deadline, named(std::move(done)));
  }
  void receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline,
               Completion done) override {
    inner_->receive(tag, target, deadline, named(std::move(done)));
  }
  void close(Error reason) override {
    if (const auto io = io_.lock(); io && inner_->is_open()) io->given_up.insert(rank_);
    inner_->close(std::move(reason));
  }
  void on_close(std::function<void(const Error&)>) override {
    throw Error(Errc::internal, "the mesh listens for the end of its channels");
  }

 private:
  void count(std::uint64_t bytes) {
    const auto io = io_.lock();
    if (!io) return;
    auto& sent = io->sent[rank_];
    sent.bytes += bytes;
    ++sent.messages;
  }
  Completion named(Completion done) const {
    return [done = std::move(done), io = io_, rank = rank_](std::optional<Error> failed,
                                                            std::uint64_t bytes) {
      if (failed) {
        // An operation may hear of the rank's death before the channel does.
        if (const auto alive = io.lock(); alive && failed->code() == Errc::peer_lost)
          alive->closed(rank, *failed);
      }
      done(std::move(failed), bytes);
    };
  }

  std::shared_ptr<Channel> inner_;
  std::weak_ptr<MeshIo> io_;
  int rank_;
};

}  // namespace

void MeshIo::admit(const Hello& hello) {
  const bool member = hello.role == Hello::Role::worker && same_secret(hello.credential, key);
  if (!member)
    throw Error(Errc::unauthenticated, fmt::format("'{}' is not of this job", hello.name));
  const auto rank = static_cast<int>(std::min<SessionId>(hello.session, 1 << 30));
  if (rank <= own_rank || rank >= world || !admitted.insert(rank).second)
    throw Error(Errc::protocol, fmt::format("'{}' says that it is rank {}", hello.name, rank));
}

PinnedMemory MeshIo::pin(const Hello& hello, const RemoteAddress&, std::uint64_t, Access) {
  throw Error(Errc::permission_denied,
              fmt::format("{} may only send messages to a worker", hello.name));
}

void MeshIo::add(int rank, std::shared_ptr<Channel> channel) {
  channel->on_close([weak = weak_from_this(), rank](const Error& error) {
    if (const auto self = weak.lock()) self->closed(rank, error);
  });
  channels[rank] = std::move(channel);
  const std::lock_guard lock(mutex);
  ++connected;
  changed.notify_all();
}

void MeshIo::closed(int rank, const Error& error) {
  if (ending || given_up.contains(rank)) return;
  // A rank that left in order has said what it had to say; only who waits for more is told.
  if (error.code() == Errc::closed) return;
  lose({Errc::peer_lost, fmt::format("{} was lost: {}", name_of(rank), error.what())});
}

void MeshIo::lose(const Error& error) {
  {
    const std::lock_guard lock(mutex);
    if (lost || ending) return;
    lost = error;
    changed.notify_all();
  }
  if (waiting_for) {
    if (const auto channel = channels.find(*waiting_for); channel != channels.end())
      channel->second->close(error);
  }
  for (const auto& [_, communicator] : communicators) communicator->abort(error);
}

void MeshIo::check() {
  const std::lock_guard lock(mutex);
  if (lost) throw Error(*lost);
}

std::optional<Error> MeshIo::loss_behind(const Error& error) {
  std::unique_lock lock(mutex);
  // The channel's end and its explanation arrive one after the other.
  if (error.code() == Errc::peer_lost || error.code() == Errc::closed)
    changed.wait_for(lock, kLossGrace, [&] { return lost.has_value(); });
  return lost;
}

void MeshIo::add_communicator(std::uint32_t number, const std::vector<int>& ranks,
                              Deadline deadline) {
  try {
    pool->io.wait_for([&](Completion done) {
      start_communicator(number, ranks, deadline,
                         [done](std::optional<Error> failed) { done(std::move(failed), 0); });
    });
  } catch (const Error& error) {
    if (const auto reason = loss_behind(error)) throw Error(*reason);
    const auto own = with_node(error);
    pool->io.run_on([&] { lose(own); });
    throw Error(own);
  }
}

void MeshIo::start_communicator(std::uint32_t number, const std::vector<int>& ranks,
                                Deadline deadline, Communicator::Done done) {
  std::vector<std::shared_ptr<Channel>> peers(ranks.size());
  for (std::size_t i = 0; i < ranks.size(); ++i)
    if (ranks[i] != own_rank)
      peers[i] = std::make_shared<RankChannel>(channels.at(ranks[i]), weak_from_this(), ranks[i]);
  const auto own = static_cast<int>(std::ranges::find(ranks, own_rank) - ranks.begin());
  // A node is an island, also where a lab has several on one host. Its ranks have one way to
  // others, so there is nothing to measure.
  const auto first = std::ranges::find_if(
      nodes, [&](const auto& entry) { return entry.second == nodes.at(own_rank); });
  make_communicator(pool->io.context(), own, std::move(peers),
                    {.tag = tag_of(number),
                     .names = ranks,
                     .island = static_cast<std::uint64_t>(first->first),
                     .measures_links = false},
                    deadline,
                    [this, number, done = std::move(done)](std::optional<Error> failed,
                                                           std::unique_ptr<Communicator> made) {
                      if (!failed) communicators[number] = std::move(made);
                      done(std::move(failed));
                    });
}

Communicator& MeshIo::communicator(std::uint32_t number) {
  const auto found = communicators.find(number);
  if (found == communicators.end()) throw Error(Errc::closed, "the worker of this group has left");
  return *found->second;
}

void MeshIo::drop_communicator(std::uint32_t number) {
  const auto found = communicators.find(number);
  if (found == communicators.end()) return;
  const auto given = found->second->shared();
  given_before.bytes += given.bytes;
  given_before.messages += given.operations;
  communicators.erase(found);
}

MeshIo::Sent MeshIo::given() const {
  auto sum = given_before;
  for (const auto& [_, communicator] : communicators) {
    const auto given = communicator->shared();
    sum.bytes += given.bytes;
    sum.messages += given.operations;
  }
  return sum;
}

const char* MeshIo::carrier(int rank) const {
  const auto channel = channels.find(rank);
  return channel != channels.end() && shares_memory(*channel->second) ? "shm" : "ucx";
}

void MeshIo::leave() {
  ending = true;
  communicators.clear();
  for (const auto& [_, channel] : channels) channel->close({Errc::closed, "the worker left"});
  channels.clear();
  transport.reset();
}

// Communicators end with "because of rank N", as they were told to call it, wherever they failed.
Error MeshIo::with_node(const Error& error) const {
  constexpr std::string_view kReason = "because of rank ";
  const std::string text = error.what();
  const auto reason = text.find(kReason);
  if (reason == std::string::npos) return error;
  int rank = -1;
  const char* const begin = text.data() + reason + kReason.size();
  const auto [end, failed] = std::from_chars(begin, text.data() + text.size(), rank);
  const auto rest = std::string_view(end, text.data() + text.size());
  if (failed != std::errc{} || !nodes.contains(rank) || rest.starts_with(" on ")) return error;
  return {error.code(),
          fmt::format("{}because of {}{}", text.substr(0, reason), name_of(rank), rest)};
}

std::string MeshIo::name_of(int rank) const {
  const auto node = nodes.find(rank);
  return node == nodes.end() ? fmt::format("rank {}", rank)
                             : fmt::format("rank {} on {}", rank, node->second);
}

}  // namespace causeway
