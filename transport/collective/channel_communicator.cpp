#include <fmt/format.h>

#include <algorithm>

#include "transport/collective/communicator.h"
#include "transport/collective/group.h"

namespace causeway {

namespace asio = boost::asio;
using collective::Group;
using collective::Step;
using collective::Values;

std::size_t share_begin(std::size_t size_bytes, std::size_t value_bytes, int rank,
                        int ranks) noexcept {
  const std::size_t count = size_bytes / value_bytes;
  const auto n = static_cast<std::size_t>(ranks);
  const auto r = static_cast<std::size_t>(rank);
  return (count / n * r + std::min(count % n, r)) * value_bytes;
}

std::span<std::byte> share_of(std::span<std::byte> values, std::size_t value_bytes, int rank,
                              int ranks) noexcept {
  const auto first = share_begin(values.size(), value_bytes, rank, ranks);
  return values.subspan(first, share_begin(values.size(), value_bytes, rank + 1, ranks) - first);
}

namespace {

class ChannelCommunicator final : public Communicator {
  using Kind = Group::Kind;
  using Operation = Group::Operation;

 public:
  explicit ChannelCommunicator(std::shared_ptr<Group> group) : group_(std::move(group)) {}
  ~ChannelCommunicator() override {
    const Error gone(Errc::cancelled, "the communicator is gone");
    if (group_->waiting.empty())
      group_->broken = gone;  // The channels may have other uses.
    else
      group_->break_with(gone);
  }

  [[nodiscard]] int rank() const noexcept override { return group_->rank; }
  [[nodiscard]] int size() const noexcept override { return group_->size; }

  void barrier(Deadline deadline, Done done) override {
    add({.kind = Kind::barrier,
         .fingerprint = fingerprint({0}),
         .deadline = deadline,
         .run = [group = group_.get()] { return group->barrier(); },
         .done = std::move(done)});
  }
  void broadcast(Values bytes, int root, Deadline deadline, Done done) override {
    Operation operation{
        .kind = Kind::broadcast,
        .fingerprint = fingerprint({1, bytes.size(), static_cast<std::size_t>(root)}),
        .deadline = deadline,
        .run = [group = group_.get(), bytes, root] { return group->broadcast(bytes, root); },
        .done = std::move(done)};
    if (root < 0 || root >= size())
      refuse(operation, fmt::format("there is no rank {} among {}", root, size()));
    add(std::move(operation));
  }
  void all_reduce(Values values, Reduction how, Deadline deadline, Done done) override {
    add_checked(
        values, size_of(how.type), 1,
        {.kind = Kind::all_reduce,
         .fingerprint = fingerprint_of(2, values, how),
         .deadline = deadline,
         .run = [group = group_.get(), values, how] { return group->all_reduce(values, how); },
         .done = std::move(done)});
  }
  void reduce_scatter(Values values, Reduction how, Deadline deadline, Done done) override {
    add_checked(
        values, size_of(how.type), 1,
        {.kind = Kind::reduce_scatter,
         .fingerprint = fingerprint_of(3, values, how),
         .deadline = deadline,
         .run = [group = group_.get(), values, how] { return group->reduce_scatter(values, how); },
         .done = std::move(done)});
  }
  void all_gather(Values values, std::size_t value_bytes, Deadline deadline, Done done) override {
    add_checked(values, value_bytes, 1,
                {.kind = Kind::all_gather,
                 .fingerprint = fingerprint({4, values.size(), value_bytes}),
                 .deadline = deadline,
                 .run = [group = group_.get(), values,
                         value_bytes] { return group->all_gather(values, value_bytes); },
                 .done = std::move(done)});
  }
  void all_to_all(Values values, std::size_t value_bytes, Deadline deadline, Done done) override {
    add_checked(values, value_bytes, size(),
                {.kind = Kind::all_to_all,
                 .fingerprint = fingerprint({5, values.size()}),
                 .deadline = deadline,
                 .run = [group = group_.get(), values] { return group->all_to_all(values); },
                 .done = std::move(done)});
  }

  void abort(Error reason) override { group_->break_with(reason); }

 private:
  // FNV-1a.
  static std::uint32_t fingerprint(std::initializer_list<std::size_t> facts) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (auto fact : facts)
      for (std::size_t i = 0; i < sizeof(fact); ++i, fact >>= 8)
        hash = (hash ^ (fact & 0xff)) * 0x100000001b3;
    return static_cast<std::uint32_t>(hash ^ (hash >> 32) ^ (hash >> 16));
  }
  static std::uint32_t fingerprint_of(std::size_t kind, Values values,
                                      const Reduction& how) noexcept {
    return fingerprint({kind, values.size(), static_cast<std::size_t>(how.type),
                        static_cast<std::size_t>(how.op), how.in_rank_order ? 1U : 0U});
  }

  // It takes its turn all the same: the other ranks count their calls, too.
  static void refuse(Operation& operation, const std::string& why) {
    operation.is_refused = true;
    operation.run =
        [error = Error(Errc::invalid_argument, fmt::format("{}: {}", Group::name_of(operation.kind),
                                                           why))]() -> Step { throw Error(error); };
  }
  void add_checked(Values values, std::size_t value_bytes, int parts, Operation operation) {
    if (value_bytes == 0 || values.size() % (value_bytes * static_cast<std::size_t>(parts)) != 0)
      refuse(operation, fmt::format("{} bytes are no multiple of {} values of {} bytes",
                                    values.size(), parts, value_bytes));
    add(std::move(operation));
  }
  void add(Operation operation) { group_->enqueue(std::move(operation)); }

  const std::shared_ptr<Group> group_;
};

}  // namespace

std::unique_ptr<Communicator> make_channel_communicator(asio::io_context& context, int rank,
                                                        std::vector<std::shared_ptr<Channel>> peers,
                                                        std::uint64_t tag) {
  const auto size = static_cast<int>(peers.size());
  if (rank < 0 || rank >= size)
    throw Error(Errc::invalid_argument, fmt::format("there is no rank {} among {}", rank, size));
  for (int i = 0; i < size; ++i)
    if ((peers[static_cast<std::size_t>(i)] == nullptr) != (i == rank))
      throw Error(Errc::invalid_argument,
                  fmt::format("rank {}: every other rank has a channel, and it has none", i));
  return std::make_unique<ChannelCommunicator>(
      std::make_shared<Group>(context, rank, std::move(peers), tag));
}

}  // namespace causeway