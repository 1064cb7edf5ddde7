#include "runtime/sharding/worker_mesh.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cctype>
#include <numeric>

#include "runtime/control/json.h"
#include "runtime/sharding/mesh_io.h"
#include "transport/checksum.h"
#include "transport/shm/sharing_transport.h"
#include "transport/ucx/ucx_transport.h"

namespace causeway {

namespace {
namespace asio = boost::asio;
using Json = boost::json::object;
using namespace std::chrono_literals;

constexpr std::uint64_t kMaxBufferedBytes = 64 * 1024 * 1024;
constexpr auto kFlushTime = 2s;  // For what is still to be sent when a worker goes.
}  // namespace

WorkerMesh::WorkerMesh(std::shared_ptr<Pool::State> pool, const WorkerOptions& options)
    : pool_(std::move(pool)),
      options_(options),
      io_(std::make_shared<MeshIo>(pool_, options.rank, options.world)) {
  if (rank() < 0 || world() < 1 || rank() >= world())
    throw Error(Errc::invalid_argument,
                fmt::format("rank {} of a world of {}: check CAUSEWAY_RANK and CAUSEWAY_WORLD_SIZE",
                            rank(), world()));
  if (world() == 1) {
    members_.push_back({0, pool_->node, ""});
    pool_->io.run_on([&] { io_->nodes[0] = pool_->node; });
    io_->add_communicator(kEveryone, {0}, std::chrono::steady_clock::now() + options_.timeout);
    return;
  }
  loss_handler_ = pool_->on_loss([io = std::weak_ptr(io_)](const Error& error) {
    if (const auto alive = io.lock()) alive->lose(error);
  });
  try {
    meet();
  } catch (...) {
    leave();
    throw;
  }
}

// Finds the others through the directory and connects to them.
void WorkerMesh::meet() {
  constexpr auto kWhere = "answer of the directory";
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.';
  };
  if (options_.group.size() > 200 || !std::ranges::all_of(options_.group, plain))
    throw Error(Errc::invalid_argument,
                fmt::format("group '{}': a name has at most 200 letters, digits and '-_.'",
                            options_.group));
  const auto deadline = std::chrono::steady_clock::now() + options_.timeout;
  const auto directory = pool_->link(pool_->directory);
  auto body = pool_->credentials();
  body["world"] = world();
  const auto opened = pool_->call(*directory, "POST", "/v1/groups/" + options_.group, body);
  io_->key = get_string(opened, "group_key", kWhere);
  std::string address;
  pool_->io.run_on([&] {
    // A node is an island, also where a lab has several on one host.
    const SharingOptions sharing{.island = checksum_of(std::as_bytes(std::span(pool_->node))),
                                 .on_accept = [io = io_.get()](std::shared_ptr<Channel> channel) {
                                   const auto rank = static_cast<int>(channel->peer().session);
                                   io->add(rank, std::move(channel));
                                 }};
    io_->transport =
        make_sharing_transport(pool_->io.context(), sharing, [&](Transport::Accepted accepted) {
          return make_ucx_transport(pool_->io.context(), {.listen = pool_->data_host + ":0",
                                                          .name = pool_->client_name,
                                                          .service = io_.get(),
                                                          .on_accept = std::move(accepted)});
        });
    address = io_->transport->address();
  });
  body["rank"] = rank();
  body["node"] = pool_->node;
  body["address"] = address;
  body["timeout_ms"] = options_.timeout.count();
  const auto joined = pool_->call(*directory, "POST", "/v1/group-members/" + options_.group, body,
                                  nullptr, std::chrono::steady_clock::now() + options_.timeout);
  for (const auto& value : get_array(joined, "members", kWhere)) {
    const auto& member = as_object(value, kWhere);
    members_.push_back({static_cast<int>(get_uint(member, "rank", kWhere)),
                        get_string(member, "node", kWhere), get_string(member, "address", kWhere)});
  }
  connect_all(deadline);
}

void WorkerMesh::connect_all(Deadline deadline) {
  pool_->io.run_on([&] {
    for (const auto& member : members_) io_->nodes[member.rank] = member.node;
    for (const auto& member : members_) {
      if (member.rank >= rank()) continue;
      io_->transport->connect(
          member.address,
          {Hello::Role::worker, pool_->client_name, static_cast<SessionId>(rank()), io_->key},
          deadline,
          [io = io_, rank = member.rank](std::optional<Error> failed,
                                         std::shared_ptr<Channel> channel) {
            if (!failed) return io->add(rank, std::move(channel));
            io->lose({Errc::peer_lost,
                      fmt::format("cannot reach {}: {}", io->name_of(rank), failed->what())});
          });
    }
  });
  std::unique_lock lock(io_->mutex);
  const bool complete = io_->changed.wait_until(
      lock, deadline, [&] { return io_->lost || io_->connected == world() - 1; });
  if (io_->lost) throw Error(*io_->lost);
  if (!complete)
    throw Error(Errc::timed_out,
                fmt::format("group '{}': {} of {} ranks are connected after {} ms", options_.group,
                            io_->connected + 1, world(), options_.timeout.count()));
  lock.unlock();
  std::vector<int> everyone(static_cast<std::size_t>(world()));
  std::iota(everyone.begin(), everyone.end(), 0);
  io_->add_communicator(kEveryone, everyone, deadline);
}

WorkerMesh::~WorkerMesh() { leave(); }

void WorkerMesh::leave() noexcept {
  {  // The last messages may still be on their way out.
    std::unique_lock lock(io_->mutex);
    io_->changed.wait_for(lock, kFlushTime,
                          [&] { return io_->buffered_bytes == 0 || io_->lost.has_value(); });
  }
  pool_->ignore_losses(loss_handler_);
  pool_->io.run_on([&] { io_->leave(); });
}

void WorkerMesh::count(int to, std::uint64_t bytes) {
  sent_[to].bytes += bytes;
  ++sent_[to].messages;
}

void WorkerMesh::send(int to, std::uint64_t tag, std::span<const std::byte> message) {
  const auto deadline = std::chrono::steady_clock::now() + options_.timeout;
  {
    std::unique_lock lock(io_->mutex);
    const bool room = io_->changed.wait_until(lock, deadline, [&] {
      return io_->lost || io_->buffered_bytes == 0 ||
             io_->buffered_bytes + message.size() <= kMaxBufferedBytes;
    });
    if (io_->lost) throw Error(*io_->lost);
    if (!room)
      throw Error(Errc::timed_out,
                  fmt::format("rank {} takes no messages: {} bytes have waited for {} ms", to,
                              io_->buffered_bytes, options_.timeout.count()));
    io_->buffered_bytes += message.size();
  }
  auto copy = std::make_shared<std::vector<std::byte>>(message.begin(), message.end());
  asio::post(pool_->io.context(), [io = io_, to, tag, copy, deadline] {
    const auto done = [io, copy](std::optional<Error> failed, std::uint64_t) {
      {
        const std::lock_guard lock(io->mutex);
        io->buffered_bytes -= copy->size();
        io->changed.notify_all();
      }
      // A loss is reported by on_close, with the rank that died; a deadline only by this.
      if (failed && failed->code() == Errc::timed_out) io->lose(*failed);
    };
    const auto channel = io->channels.find(to);
    if (channel == io->channels.end()) return done(Error(Errc::closed, "the worker left"), 0);
    channel->second->send(tag, *copy, deadline, done);
  });
  count(to, message.size());
}

void WorkerMesh::receive(int from, std::uint64_t tag, std::span<std::byte> message) {
  io_->check();
  const auto deadline = std::chrono::steady_clock::now() + options_.timeout;
  std::uint64_t got = 0;
  try {
    got = pool_->io.wait_for([&](Completion done) {
      {
        const std::lock_guard lock(io_->mutex);
        if (io_->lost) return done(*io_->lost, 0);
      }
      io_->waiting_for = from;
      io_->channels.at(from)->receive(
          tag, message, deadline,
          [io = io_, finish = std::move(done)](std::optional<Error> failed, std::uint64_t size) {
            io->waiting_for.reset();
            finish(std::move(failed), size);
          });
    });
  } catch (const Error& error) {
    if (error.code() == Errc::peer_lost || error.code() == Errc::closed) {
      if (const auto lost = io_->loss_behind(error)) throw Error(*lost);
      throw Error(Errc::peer_lost, fmt::format("rank {} on {} has left: {}", from,
                                               members_[from].node, error.what()));
    }
    throw;
  }
  if (got != message.size())
    throw Error(Errc::out_of_bounds, fmt::format("the message from rank {} has {} bytes, not {}",
                                                 from, got, message.size()));
}

std::vector<Worker::Traffic> WorkerMesh::traffic() const {
  std::map<std::pair<std::string, std::string>, MeshIo::Sent> routes;
  pool_->io.run_on([&] {
    const auto count = [&](const std::string& node, const char* carrier, const MeshIo::Sent& more) {
      if (more.messages == 0) return;
      auto& route = routes[{node, carrier}];
      route.bytes += more.bytes;
      route.messages += more.messages;
    };
    for (const auto* counts : {&sent_, &std::as_const(io_->sent)})
      for (const auto& [to, sent] : *counts)
        count(members_[to].node, to == rank() ? "local" : io_->carrier(to), sent);
    count(pool_->node, "shm", io_->given());
  });
  std::vector<Worker::Traffic> result;
  for (const auto& [route, counts] : routes)
    result.push_back({pool_->node, route.first, route.second, counts.bytes, counts.messages});
  return result;
}

}  // namespace causeway
