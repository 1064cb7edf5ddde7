#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string>

#include "transport/collective/communicator.h"
#include "transport/collective/group.h"

namespace causeway {

namespace asio = boost::asio;
using collective::Group;
using collective::Step;
using collective::Values;

namespace {

class ChannelCommunicator final : public Communicator {
  using Kind = Group::Kind;

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
    add(Kind::barrier, {}, "", deadline, std::move(done),
        [group = group_.get()] { return group->barrier(); });
  }
  void broadcast(Values bytes, int root, Deadline deadline, Done done) override {
    const auto refusal = root < 0 || root >= size()
                             ? fmt::format("there is no rank {} among {}", root, size())
                             : std::string();
    add(Kind::broadcast, {bytes.size(), static_cast<std::size_t>(root)}, refusal, deadline,
        std::move(done),
        [group = group_.get(), bytes, root] { return group->broadcast(bytes, root); });
  }
  void all_reduce(Values values, Reduction how, Deadline deadline, Done done) override {
    add(Kind::all_reduce, {values.size(), code_of(how)}, refusal(values, size_of(how.type), 1),
        deadline, std::move(done),
        [group = group_.get(), values, how] { return group->all_reduce(values, how); });
  }
  void reduce_scatter(Values values, const Shares& shares, Reduction how, Deadline deadline,
                      Done done) override {
    add(Kind::reduce_scatter, {values.size(), code_of(how), code_of(shares)},
        refusal(values, shares, size_of(how.type)), deadline, std::move(done),
        [group = group_.get(), values, shares, how] {
          return group->reduce_scatter(values, shares, how);
        });
  }
  void all_gather(Values values, const Shares& shares, Deadline deadline, Done done) override {
    add(Kind::all_gather, {values.size(), code_of(shares)},
        refusal(values, shares, shares.value_bytes()), deadline, std::move(done),
        [group = group_.get(), values, shares] { return group->all_gather(values, shares); });
  }
  void all_to_all(Values values, std::size_t value_bytes, Deadline deadline, Done done) override {
    add(Kind::all_to_all, {values.size()}, refusal(values, value_bytes, size()), deadline,
        std::move(done), [group = group_.get(), values] { return group->all_to_all(values); });
  }

  void abort(Error reason) override { group_->break_with(reason); }

 private:
  // Why values cannot be cut into `parts` shares; empty: they can.
  static std::string refusal(Values values, std::size_t value_bytes, int parts) {
    if (value_bytes != 0 && values.size() % (value_bytes * static_cast<std::size_t>(parts)) == 0)
      return {};
    return fmt::format("{} bytes are no multiple of {} values of {} bytes", values.size(), parts,
                       value_bytes);
  }
  std::string refusal(Values values, const Shares& shares, std::size_t value_bytes) const {
    if (shares.ranks() == size() && shares.total_bytes() == values.size() &&
        shares.value_bytes() == value_bytes)
      return {};
    return fmt::format(
        "{} bytes in values of {} for {} ranks do not go by shares of {} in {} for {}",
        values.size(), value_bytes, size(), shares.total_bytes(), shares.value_bytes(),
        shares.ranks());
  }
  static std::size_t code_of(const Reduction& how) noexcept {
    return static_cast<std::size_t>(how.type) << 16 | static_cast<std::size_t>(how.op) << 8 |
           (how.in_rank_order ? 1U : 0U);
  }
  static std::size_t code_of(const Shares& shares) noexcept {
    std::size_t code = shares.value_bytes();
    for (int r = 0; r < shares.ranks(); ++r) code = code * 0x100000001b3 + shares.begin(r);
    return code;
  }
  // `facts` are what ranks must agree about, beside `kind`. A refused call takes its turn all the
  // same: the other ranks count their calls, too.
  void add(Kind kind, std::initializer_list<std::size_t> facts, const std::string& refused_for,
           Deadline deadline, Done done, std::function<Step()> run) {
    if (!refused_for.empty())
      run = [error = Error(Errc::invalid_argument,
                           fmt::format("{}: {}", Group::name_of(kind), refused_for))]() -> Step {
        throw Error(error);
      };
    group_->enqueue({.kind = kind,
                     .fingerprint = fingerprint(kind, facts),
                     .deadline = deadline,
                     .run = std::move(run),
                     .done = std::move(done),
                     .is_refused = !refused_for.empty()});
  }
  // FNV-1a.
  static std::uint32_t fingerprint(Kind kind, std::initializer_list<std::size_t> facts) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325 + static_cast<std::uint64_t>(kind);
    for (auto fact : facts)
      for (std::size_t i = 0; i < sizeof(fact); ++i, fact >>= 8)
        hash = (hash ^ (fact & 0xff)) * 0x100000001b3;
    return static_cast<std::uint32_t>(hash ^ (hash >> 32) ^ (hash >> 16));
  }

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