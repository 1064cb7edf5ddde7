// How fast the processes of one host all-reduce floats over loopback:
//   collective_bench [--ranks N] [--sizes BYTES,BYTES] [--rounds N] [--in-rank-order]
//                    [--no-shared-memory] [--slot-bytes N] [--islands N] [--flat]
//                    [--at NAMESPACE/ADDRESS,...]
//
// Method: the ranks are this program, forked before it has a thread; each pair has a channel over
//         UCX; batches of operations (peers/batches.h). `peers/all_reduce.sh` sets gloo and Open
//         MPI beside it. One line per size: bytes, ranks, median seconds per operation, and the
//         bytes per second that this is (size by time), as gloo and nccl-tests say it ("algbw").
// Exit:   0 measured, 1 failed.
#include <charconv>
#include <string_view>

#include "tests/transport/peers/batches.h"
#include "transport/bench/forked_ranks.h"

using namespace causeway;
using namespace causeway::bench;

namespace {

struct Options {
  GroupOptions group{};
  std::vector<std::size_t> sizes{64 << 10, 1 << 20, 4 << 20, 64 << 20};
  int rounds = 5;
  Reduction how{};
};

void batch(RankProcess& rank, std::span<std::byte> values, const Reduction& how, int times) {
  rank.barrier();
  for (int i = 0; i < times; ++i)
    rank.run([&](Communicator& c, Communicator::Done done) {
      c.all_reduce(values, how, Clock::now() + 60s, done);
    });
}

// The same number for all ranks: rank 0's.
int agree(RankProcess& rank, int number) {
  rank.run([&](Communicator& c, Communicator::Done done) {
    c.broadcast(std::as_writable_bytes(std::span(&number, 1)), 0, Clock::now() + 60s, done);
  });
  return number;
}

int work(RankProcess& rank, const Options& options) {
  for (const auto size : options.sizes) {
    std::vector<float> values(size / sizeof(float), 1.0F);
    const auto bytes = std::as_writable_bytes(std::span(values));
    const double seconds = bench::median_seconds(
        options.rounds, [&](int times) { batch(rank, bytes, options.how, times); },
        [&](int times) { return agree(rank, times); }, [&] { std::ranges::fill(values, 1.0F); });
    if (rank.rank() == 0)
      bench::print("causeway", size, static_cast<int>(options.group.count), seconds);
  }
  rank.barrier();
  return 0;
}

std::size_t number(std::string_view text) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value == 0)
    throw Error(Errc::invalid_argument, "'" + std::string(text) + "' is no number above 0");
  return value;
}

Options parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--in-rank-order") {
      options.how.in_rank_order = true;
      continue;
    }
    if (word == "--flat") {
      options.group.made.has_islands = false;
      continue;
    }
    if (word == "--no-shared-memory") {
      options.group.made.shares_memory = false;
      continue;
    }
    if (i + 1 == count) throw Error(Errc::invalid_argument, "what is '" + std::string(word) + "'?");
    std::string_view value = words[++i];
    if (word == "--ranks") {
      options.group.count = std::min(number(value), GroupOptions::kMost);
    } else if (word == "--rounds") {
      options.rounds = static_cast<int>(number(value));
    } else if (word == "--at") {
      while (!value.empty()) {
        const auto comma = std::min(value.find(','), value.size());
        const auto at = value.substr(0, comma);
        const auto slash = std::min(at.find('/'), at.size());
        options.group.places.emplace_back(at.substr(0, slash),
                                          at.substr(std::min(slash + 1, at.size())));
        value.remove_prefix(std::min(comma + 1, value.size()));
      }
    } else if (word == "--islands") {
      options.group.islands = number(value);
    } else if (word == "--slot-bytes") {
      options.group.made.slot_bytes = number(value);
    } else if (word == "--sizes") {
      options.sizes.clear();
      while (!value.empty()) {
        const auto comma = std::min(value.find(','), value.size());
        options.sizes.push_back(number(value.substr(0, comma)));
        value.remove_prefix(std::min(comma + 1, value.size()));
      }
    } else {
      throw Error(Errc::invalid_argument, "what is '" + std::string(word) + "'?");
    }
  }
  return options;
}

}  // namespace

int main(int count, char** words) {
  try {
    const auto options = parse(count, words);
    ForkedRanks ranks(options.group, [&](RankProcess& rank) { return work(rank, options); });
    return ranks.wait_all() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "collective_bench: %s\n", error.what());
    return 1;
  }
}
