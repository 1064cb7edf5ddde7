#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "transport/collective/communicator.h"
#include "transport/collective/group.h"

namespace causeway {

namespace asio = boost::asio;
using collective::Call;
using collective::Group;
using collective::Step;
using collective::Values;

namespace {

class ChannelCommunicator final : public Communicator {
 public:
  explicit ChannelCommunicator(std::shared_ptr<Group> group) : group_(std::move(group)) {}
  ~ChannelCommunicator() override { group_->leave(); }

  [[nodiscard]] int rank() const noexcept override { return group_->rank; }
  [[nodiscard]] int size() const noexcept override { return group_->size; }

  void barrier(Deadline deadline, Done done) override {
    add(Call::barrier(), deadline, std::move(done),
        [group = group_.get()] { return group->barrier(); });
  }
  void broadcast(Values bytes, int root, Deadline deadline, Done done) override {
    add(Call::broadcast(bytes.size(), root, size()), deadline, std::move(done),
        [group = group_.get(), bytes, root] { return group->broadcast(bytes, root); });
  }
  void all_reduce(Values values, Reduction how, Deadline deadline, Done done) override {
    add(Call::all_reduce(values.size(), how), deadline, std::move(done),
        [group = group_.get(), values, how] { return group->all_reduce(values, how); });
  }
  void reduce_scatter(Values values, const Shares& shares, Reduction how, Deadline deadline,
                      Done done) override {
    add(Call::reduce_scatter(values.size(), shares, how, size()), deadline, std::move(done),
        [group = group_.get(), values, shares, how] {
          return group->reduce_scatter(values, shares, how);
        });
  }
  void all_gather(Values values, const Shares& shares, Deadline deadline, Done done) override {
    add(Call::all_gather(values.size(), shares, size()), deadline, std::move(done),
        [group = group_.get(), values, shares] { return group->all_gather(values, shares); });
  }
  void all_to_all(Values values, std::size_t value_bytes, Deadline deadline, Done done) override {
    add(Call::all_to_all(values.size(), value_bytes, size()), deadline, std::move(done),
        [group = group_.get(), values] { return group->all_to_all(values); });
  }

  void abort(Error reason) override { group_->break_with(reason); }

 private:
  void add(Call call, Deadline deadline, Done done, std::function<Step()> run) {
    // Alone there is nothing to do: values are in place, and their own average.
    if (size() == 1) run = []() -> Step { co_return; };
    group_->add(std::move(call), deadline, std::move(run), std::move(done));
  }

  const std::shared_ptr<Group> group_;
};

}  // namespace

std::unique_ptr<Communicator> make_channel_communicator(asio::io_context& context, int rank,
                                                        std::vector<std::shared_ptr<Channel>> peers,
                                                        std::uint64_t tag, std::vector<int> names) {
  const auto size = static_cast<int>(peers.size());
  if (rank < 0 || rank >= size)
    throw Error(Errc::invalid_argument, fmt::format("there is no rank {} among {}", rank, size));
  for (int i = 0; i < size; ++i)
    if ((peers[static_cast<std::size_t>(i)] == nullptr) != (i == rank))
      throw Error(Errc::invalid_argument,
                  fmt::format("rank {}: every other rank has a channel, and it has none", i));
  if (names.empty()) {
    names.resize(peers.size());
    std::iota(names.begin(), names.end(), 0);
  }
  return std::make_unique<ChannelCommunicator>(
      std::make_shared<Group>(context, rank, std::move(peers), tag, std::move(names)));
}

}  // namespace causeway