#include "transport/nccl/nccl_communicator.h"

#include "transport/nccl/member.h"

namespace causeway {

namespace {

using collective::Call;
using collective::Step;
using collective::Values;
using nccl::Member;

class NcclCommunicator final : public Communicator {
 public:
  explicit NcclCommunicator(std::shared_ptr<Member> member) : member_(std::move(member)) {}
  ~NcclCommunicator() override { member_->leave(); }

  [[nodiscard]] int rank() const noexcept override { return member_->rank; }
  [[nodiscard]] int size() const noexcept override { return member_->size; }

  // The agreement before every operation is one.
  void barrier(Deadline deadline, Done done) override {
    add(Call::barrier(), deadline, std::move(done), {});
  }
  void broadcast(Values bytes, int root, Deadline deadline, Done done) override {
    add(Call::broadcast(bytes.size(), root, size()), deadline, std::move(done),
        [member = member_.get(), bytes, root] { return member->broadcast(bytes, root); });
  }
  void all_reduce(Values values, Reduction how, Deadline deadline, Done done) override {
    add(
        Call::all_reduce(values.size(), how), deadline, std::move(done),
        [member = member_.get(), values, how] { return member->all_reduce(values, how); },
        how.in_rank_order);
  }
  void reduce_scatter(Values values, const Shares& shares, Reduction how, Deadline deadline,
                      Done done) override {
    add(
        Call::reduce_scatter(values.size(), shares, how, size()), deadline, std::move(done),
        [member = member_.get(), values, shares, how] {
          return member->reduce_scatter(values, shares, how);
        },
        how.in_rank_order);
  }
  void all_gather(Values values, const Shares& shares, Deadline deadline, Done done) override {
    add(Call::all_gather(values.size(), shares, size()), deadline, std::move(done),
        [member = member_.get(), values, shares] { return member->all_gather(values, shares); });
  }
  void all_to_all(Values values, std::size_t value_bytes, Deadline deadline, Done done) override {
    add(Call::all_to_all(values.size(), value_bytes, size()), deadline, std::move(done),
        [member = member_.get(), values, value_bytes] {
          return member->all_to_all(values, value_bytes);
        });
  }

  void abort(Error reason) override { member_->break_with(reason); }

 private:
  void add(Call call, Deadline deadline, Done done, std::function<Step()> work,
           bool in_rank_order = false) {
    if (call.refused_for.empty() && in_rank_order && size() > 1) {
      call.refused_for =
          "NCCL does not combine in the order of ranks; do without, or use another communicator";
      call.refused_with = Errc::unsupported;
    }
    member_->add(
        std::move(call), deadline,
        [member = member_.get(), work = std::move(work)] { return member->run(work); },
        std::move(done));
  }

  const std::shared_ptr<Member> member_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(boost::asio::io_context& context,
                                                     NcclGroup group) {
  if (!group.library || !group.stream)
    throw Error(Errc::invalid_argument, "an NCCL communicator needs a library and a stream");
  return std::make_unique<NcclCommunicator>(std::make_shared<Member>(context, std::move(group)));
}

}  // namespace causeway
