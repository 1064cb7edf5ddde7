#include "runtime/sharding/group_maker.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "runtime/sharding/group_state.h"

namespace causeway {

namespace {

// The last number is for the messages by which the others are agreed on.
constexpr std::uint32_t kAgreement = MeshIo::kMaxCommunicators - 1;
constexpr std::uint64_t kAgreementTag = MeshIo::tag_of(kAgreement);

std::string list_of(const std::vector<int>& ranks) {
  return fmt::format("{{{}}}", fmt::join(ranks, ", "));
}

}  // namespace

Group GroupMaker::of_all() {
  std::vector<int> ranks(static_cast<std::size_t>(mesh_->world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return Group(
      std::make_shared<Group::State>(mesh_->io(), WorkerMesh::kEveryone, ranks, mesh_->timeout()));
}

Group GroupMaker::of(const std::vector<int>& ranks) {
  if (broken_) throw Error(*broken_);
  check(ranks);
  try {
    return make(agree(ranks), ranks);
  } catch (const Error& error) {
    broken_ = error;
    throw;
  }
}

Group GroupMaker::split(Group& everyone, int colour, int key) {
  if (broken_) throw Error(*broken_);
  struct Choice {
    std::int64_t colour, key, next;
  };
  static_assert(sizeof(Choice) == 3 * sizeof(std::int64_t));
  std::vector<Choice> choices(static_cast<std::size_t>(mesh_->world()));
  choices[static_cast<std::size_t>(mesh_->rank())] = {colour, key, next_};
  everyone.all_gather(std::as_writable_bytes(std::span(choices)), DType::i64);
  std::vector<int> ranks;
  std::int64_t number = 0;
  for (int rank = 0; rank < mesh_->world(); ++rank) {
    const auto& choice = choices[static_cast<std::size_t>(rank)];
    if (choice.colour == colour) ranks.push_back(rank);
    number = std::max(number, choice.next);
  }
  std::ranges::stable_sort(ranks, {},
                           [&](int rank) { return choices[static_cast<std::size_t>(rank)].key; });
  return make(static_cast<std::uint32_t>(number), ranks);
}

void GroupMaker::check(const std::vector<int>& ranks) const {
  const std::set<int> once(ranks.begin(), ranks.end());
  const bool known = !once.empty() && *once.begin() >= 0 && *once.rbegin() < mesh_->world();
  if (!known || once.size() != ranks.size() || !once.contains(mesh_->rank()))
    throw Error(Errc::invalid_argument,
                fmt::format("a group of ranks {} at rank {}: it has this rank and others of 0 to "
                            "{}, each once",
                            list_of(ranks), mesh_->rank(), mesh_->world() - 1));
}

// Tells the members what this rank makes, hears what they do, and returns the group's number.
std::uint32_t GroupMaker::agree(const std::vector<int>& ranks) {
  const std::array<std::uint32_t, 2> head{next_, static_cast<std::uint32_t>(ranks.size())};
  for (const int rank : ranks) {
    if (rank == mesh_->rank()) continue;
    mesh_->send(rank, kAgreementTag, std::as_bytes(std::span(head)));
    mesh_->send(rank, kAgreementTag, std::as_bytes(std::span(ranks)));
  }
  auto number = next_;
  for (const int rank : ranks)
    if (rank != mesh_->rank()) number = std::max(number, answer_of(rank, ranks));
  return number;
}

// The number that `rank` has free. Errors: invalid_argument if it makes another group.
std::uint32_t GroupMaker::answer_of(int rank, const std::vector<int>& ranks) {
  const auto who =
      fmt::format("rank {} on {}", rank, mesh_->members()[static_cast<std::size_t>(rank)].node);
  try {
    std::array<std::uint32_t, 2> head{};
    mesh_->receive(rank, kAgreementTag, std::as_writable_bytes(std::span(head)));
    const auto most = static_cast<std::uint32_t>(mesh_->world());
    std::vector<int> theirs(std::min(head[1], most));
    mesh_->receive(rank, kAgreementTag, std::as_writable_bytes(std::span(theirs)));
    if (theirs == ranks) return head[0];
    throw Error(Errc::invalid_argument,
                fmt::format("{} makes a group of ranks {} where rank {} makes one of {}; all "
                            "members give the same list, in the same order of groups",
                            who, list_of(theirs), mesh_->rank(), list_of(ranks)));
  } catch (const Error& error) {
    if (error.code() != Errc::timed_out) throw;
    throw Error(Errc::timed_out, fmt::format("{} has not made the group of ranks {} within {} ms",
                                             who, list_of(ranks), mesh_->timeout().count()));
  }
}

Group GroupMaker::make(std::uint32_t number, const std::vector<int>& ranks) {
  if (number >= kAgreement)
    throw Error(Errc::exhausted,
                fmt::format("a worker makes at most {} groups; keep the ones that there are",
                            kAgreement - 1));
  next_ = number + 1;
  const auto io = mesh_->io();
  io->add_communicator(number, ranks, std::chrono::steady_clock::now() + mesh_->timeout());
  return Group(std::make_shared<Group::State>(io, number, ranks, mesh_->timeout()));
}

}  // namespace causeway
