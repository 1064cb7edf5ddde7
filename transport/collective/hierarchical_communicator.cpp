#include "transport/collective/hierarchical_communicator.h"

#include <algorithm>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/co_spawn.hpp>

#include "transport/collective/complete.h"

namespace causeway {

namespace {

namespace asio = boost::asio;
using collective::Call;
using collective::Join;
using collective::Step;
using collective::Turns;
using collective::Values;

// Long enough for every lane's link, short enough that the levels overlap.
constexpr std::size_t kChunkBytes = std::size_t{4} * 1024 * 1024;

// One operation of a part, if there is one.
template <typename Start>
Step run(Communicator* part, Start start) {
  if (part != nullptr) co_await collective::complete(*part, start);
}

class Hierarchy final : public Turns {
 public:
  Hierarchy(asio::io_context& io, IslandRanks given) : Turns(io), ranks_(std::move(given)) {}

  [[nodiscard]] SharedCounters shared() const noexcept {
    return ranks_.inner ? ranks_.inner->shared() : SharedCounters{};
  }
  [[nodiscard]] Communicator& flat() const noexcept { return *ranks_.flat; }

  Step barrier() {
    co_await inner_barrier();
    // Lane 0 is enough to know that all islands have come.
    auto* const lane = inner_rank() == 0 ? ranks_.lane.get() : nullptr;
    co_await run(lane, [&](Communicator& c, auto done) { c.barrier(lane_deadline(), done); });
    co_await inner_barrier();
  }

  // The chunks' values are those of the lanes on the way: inside, between, inside.
  Step all_reduce(Values values, Reduction how) {
    const auto ranks = flat().size();
    auto sum = how;
    if (sum.op == ReduceOp::avg) sum.op = ReduceOp::sum;
    co_await in_chunks(
        values, size_of(how.type),
        [&](Values chunk) -> Step {
          prepare(how, chunk, ranks);
          const auto shares = shares_of(chunk, size_of(how.type));
          co_await run(ranks_.inner.get(), [&](Communicator& c, auto done) {
            c.reduce_scatter(chunk, shares, sum, deadline(), done);
          });
        },
        [&](Values chunk) -> Step {
          const auto own = own_share(chunk, size_of(how.type));
          co_await run(ranks_.lane.get(), [&](Communicator& c, auto done) {
            c.all_reduce(own, sum, lane_deadline(), done);
          });
          finish(how, own, ranks);
        },
        [&](Values chunk) -> Step { co_await gather_inside(chunk, size_of(how.type)); });
  }

  Step broadcast(Values bytes, int root) {
    const auto island = ranks_.island_of[static_cast<std::size_t>(root)];
    const auto place = ranks_.inner_rank_of[static_cast<std::size_t>(root)];
    const bool is_here = island == own_island();
    co_await in_chunks(
        bytes, 1,
        [&](Values chunk) -> Step {
          auto* const inner = is_here ? ranks_.inner.get() : nullptr;
          co_await run(inner, [&](Communicator& c, auto done) {
            c.broadcast(chunk, place, deadline(), done);
          });
        },
        [&](Values chunk) -> Step {
          co_await run(ranks_.lane.get(), [&](Communicator& c, auto done) {
            c.broadcast(own_share(chunk, 1), island, lane_deadline(), done);
          });
        },
        [&](Values chunk) -> Step {
          if (!is_here) co_await gather_inside(chunk, 1);
        });
  }

  template <typename Start>
  Step flat_only(Start start) {
    co_await run(ranks_.flat.get(), start);
  }
  [[nodiscard]] Deadline current_deadline() const noexcept { return deadline(); }

 private:
  using Stage = std::function<Step(Values chunk)>;

  void on_break(const Error& error) override {
    for (auto* const part : {ranks_.inner.get(), ranks_.lane.get(), ranks_.flat.get()})
      if (part != nullptr) part->abort(error);
  }

  [[nodiscard]] int own_island() const {
    return ranks_.island_of[static_cast<std::size_t>(flat().rank())];
  }
  [[nodiscard]] int inner_rank() const {
    return ranks_.inner_rank_of[static_cast<std::size_t>(flat().rank())];
  }
  [[nodiscard]] Shares shares_of(Values chunk, std::size_t value_bytes) const {
    return Shares::weighted(chunk.size(), value_bytes, ranks_.weights);
  }
  [[nodiscard]] Values own_share(Values chunk, std::size_t value_bytes) const {
    return shares_of(chunk, value_bytes).of(chunk, inner_rank());
  }
  // A little earlier: whoever waits for another island knows why all others wait, and tells them.
  [[nodiscard]] Deadline lane_deadline() const {
    constexpr std::chrono::steady_clock::duration kAhead = std::chrono::milliseconds(100);
    const auto left = deadline() - std::chrono::steady_clock::now();
    return deadline() - std::clamp(left / 8, left.zero(), kAhead);
  }
  Step inner_barrier() {
    co_await run(ranks_.inner.get(),
                 [&](Communicator& c, auto done) { c.barrier(deadline(), done); });
  }
  Step gather_inside(Values chunk, std::size_t value_bytes) {
    const auto shares = shares_of(chunk, value_bytes);
    co_await run(ranks_.inner.get(), [&](Communicator& c, auto done) {
      c.all_gather(chunk, shares, deadline(), done);
    });
  }

  // While chunk k is between the islands, k - 1 is shared out inside them and k + 1 comes up: in
  // this order on every rank.
  Step in_chunks(Values values, std::size_t value_bytes, Stage up, Stage across, Stage down) {
    const auto number = values.size() / value_bytes;
    const auto per_chunk = std::max(kChunkBytes / value_bytes, std::size_t{1});
    const auto count = std::max((number + per_chunk - 1) / per_chunk, std::size_t{1});
    const auto chunk = [&](std::size_t k) {
      const auto begin = number * k / count * value_bytes;
      return values.subspan(begin, number * (k + 1) / count * value_bytes - begin);
    };
    co_await up(chunk(0));
    for (std::size_t k = 0; k < count; ++k) {
      const auto inside = [&]() -> Step {
        if (k > 0) co_await down(chunk(k - 1));
        if (k + 1 < count) co_await up(chunk(k + 1));
      };
      co_await collective::join(2, [&](const std::shared_ptr<Join>& both) {
        start(across(chunk(k)), both);
        start(inside(), both);
      });
    }
    co_await down(chunk(count - 1));
  }

  void start(Step step, const std::shared_ptr<Join>& joined) {
    asio::co_spawn(context, std::move(step),
                   [self = shared_from_this(), joined](const std::exception_ptr& thrown) {
                     auto error = collective::error_of(thrown);
                     // The other one may wait for a rank that waits for this one.
                     if (error) self->break_with(*error);
                     joined->ended(std::move(error));
                   });
  }

  IslandRanks ranks_;
};

class HierarchicalCommunicator final : public Communicator {
 public:
  explicit HierarchicalCommunicator(std::shared_ptr<Hierarchy> hierarchy)
      : hierarchy_(std::move(hierarchy)) {}
  ~HierarchicalCommunicator() override { hierarchy_->leave(); }

  [[nodiscard]] int rank() const noexcept override { return hierarchy_->flat().rank(); }
  [[nodiscard]] int size() const noexcept override { return hierarchy_->flat().size(); }

  void barrier(Deadline deadline, Done done) override {
    hierarchy_->add(
        Call::barrier(), deadline, [h = hierarchy_.get()] { return h->barrier(); },
        std::move(done));
  }
  void broadcast(Values bytes, int root, Deadline deadline, Done done) override {
    hierarchy_->add(
        Call::broadcast(bytes.size(), root, size()), deadline,
        [h = hierarchy_.get(), bytes, root] { return h->broadcast(bytes, root); }, std::move(done));
  }
  void all_reduce(Values values, Reduction how, Deadline deadline, Done done) override {
    auto call = Call::all_reduce(values.size(), how);
    if (how.in_rank_order)
      return add_flat(std::move(call), deadline, std::move(done),
                      [=](Communicator& c, Deadline limit, Done ended) {
                        c.all_reduce(values, how, limit, std::move(ended));
                      });
    hierarchy_->add(
        std::move(call), deadline,
        [h = hierarchy_.get(), values, how] { return h->all_reduce(values, how); },
        std::move(done));
  }
  void reduce_scatter(Values values, const Shares& shares, Reduction how, Deadline deadline,
                      Done done) override {
    add_flat(Call::reduce_scatter(values.size(), shares, how, size()), deadline, std::move(done),
             [=](Communicator& c, Deadline limit, Done ended) {
               c.reduce_scatter(values, shares, how, limit, std::move(ended));
             });
  }
  void all_gather(Values values, const Shares& shares, Deadline deadline, Done done) override {
    add_flat(Call::all_gather(values.size(), shares, size()), deadline, std::move(done),
             [=](Communicator& c, Deadline limit, Done ended) {
               c.all_gather(values, shares, limit, std::move(ended));
             });
  }
  void all_to_all(Values values, std::size_t value_bytes, Deadline deadline, Done done) override {
    add_flat(Call::all_to_all(values.size(), value_bytes, size()), deadline, std::move(done),
             [=](Communicator& c, Deadline limit, Done ended) {
               c.all_to_all(values, value_bytes, limit, std::move(ended));
             });
  }
  void abort(Error reason) override { hierarchy_->break_with(reason); }
  [[nodiscard]] SharedCounters shared() const noexcept override { return hierarchy_->shared(); }

 private:
  void add_flat(Call call, Deadline deadline, Done done,
                std::function<void(Communicator&, Deadline, Done)> start) {
    hierarchy_->add(
        std::move(call), deadline,
        [h = hierarchy_.get(), start = std::move(start)] {
          return h->flat_only([h, &start](Communicator& c, Done ended) {
            start(c, h->current_deadline(), std::move(ended));
          });
        },
        std::move(done));
  }

  const std::shared_ptr<Hierarchy> hierarchy_;
};

}  // namespace

std::unique_ptr<Communicator> make_hierarchical_communicator(asio::io_context& context,
                                                             IslandRanks ranks) {
  return std::make_unique<HierarchicalCommunicator>(
      std::make_shared<Hierarchy>(context, std::move(ranks)));
}

}  // namespace causeway
