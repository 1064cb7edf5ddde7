// causeway-bench: what `causeway bench` starts to measure the transport; prints JSON lines.
//   causeway-bench latency|collective|connections [--OPTION VALUE]...
//   causeway-bench settings ADDRESS,...
// Exit:   0 measured, 1 failed, 2 usage.
#include <charconv>
#include <cstdio>
#include <map>
#include <string_view>

#include "allocator/error.h"
#include "transport/bench/bench.h"

namespace causeway::bench {

namespace {

// The words after the first as options; each must be asked for.
class Words {
 public:
  Words(int count, char** words) {
    for (int i = 2; i < count; i += 2) {
      const std::string_view name = words[i];
      if (!name.starts_with("--") || i + 1 == count) throw usage("what is '", name);
      values_.emplace(name.substr(2), words[i + 1]);
    }
  }

  std::string_view text(std::string_view name, std::string_view otherwise) {
    const auto found = values_.find(name);
    if (found == values_.end()) return otherwise;
    const auto value = found->second;
    values_.erase(found);
    return value;
  }
  template <typename Number>
  Number number(std::string_view name, Number otherwise) {
    const auto value = text(name, "");
    return value.empty() ? otherwise : parse<Number>(value);
  }
  std::vector<std::size_t> sizes() {
    std::vector<std::size_t> list;
    for (auto rest = text("sizes", "8"); !rest.empty();) {
      const auto comma = std::min(rest.find(','), rest.size());
      list.push_back(parse<std::size_t>(rest.substr(0, comma)));
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    return list;
  }
  // The place of the option's value in `names`.
  std::size_t choice(std::string_view name, const std::vector<std::string_view>& names) {
    const auto value = text(name, names.front());
    for (std::size_t i = 0; i < names.size(); ++i)
      if (names[i] == value) return i;
    throw usage("what is '", value);
  }
  void end() const {
    if (!values_.empty()) throw usage("what is '--", values_.begin()->first);
  }

 private:
  static Error usage(std::string_view text, std::string_view word) {
    return {Errc::invalid_argument, std::string(text) + std::string(word) + "'?"};
  }
  template <typename Number>
  static Number parse(std::string_view value) {
    Number result{};
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (error != std::errc{} || end != value.data() + value.size() || result < 0)
      throw usage("which number is '", value);
    return result;
  }

  std::map<std::string_view, std::string_view> values_;
};

bool run_latency(Words& words) {
  LatencyBench bench;
  bench.sizes = words.sizes();
  bench.concurrency = words.number<std::size_t>("concurrency", 1);
  bench.seconds = words.number("seconds", 1.0);
  bench.shares_memory = words.choice("memory", {"host", "shared"}) == 1;
  words.end();
  return measure_latency(bench);
}

bool run_collective(Words& words) {
  CollectiveBench bench;
  bench.operation = static_cast<CollectiveBench::Operation>(words.choice(
      "operation",
      {"all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all", "barrier"}));
  bench.how.type =
      static_cast<DataType>(words.choice("type", {"f32", "f64", "f16", "bf16", "i32", "i64"}));
  bench.how.op = static_cast<ReduceOp>(words.choice("reduce", {"sum", "avg", "max", "min"}));
  bench.how.in_rank_order = words.choice("order", {"any", "rank"}) == 1;
  bench.ranks = words.number<std::size_t>("ranks", 2);
  bench.sizes = words.sizes();
  bench.rounds = words.number("rounds", 5);
  bench.seconds = words.number("seconds", 1.0);
  bench.shares_memory = words.choice("memory", {"shared", "host"}) == 0;
  words.end();
  return measure_collective(bench);
}

bool run_connections(Words& words) {
  ConnectionsBench bench;
  bench.count = words.number<std::size_t>("count", 1000);
  bench.concurrency = words.number<std::size_t>("concurrency", 1);
  words.end();
  return measure_connections(bench);
}

int run(int count, char** words) {
  const std::string_view what = count > 1 ? words[1] : "";
  if (what == "settings" && count == 3) {
    print_settings(words[2]);
    return 0;
  }
  Words options(count, words);
  if (what == "latency") return run_latency(options) ? 0 : 1;
  if (what == "collective") return run_collective(options) ? 0 : 1;
  if (what == "connections") return run_connections(options) ? 0 : 1;
  throw Error(Errc::invalid_argument, "latency, collective, connections or settings ADDRESS,...");
}

}  // namespace

}  // namespace causeway::bench

int main(int count, char** words) {
  try {
    return causeway::bench::run(count, words);
  } catch (const causeway::Error& error) {
    std::fprintf(stderr, "causeway-bench: %s\n", error.what());
    return error.code() == causeway::Errc::invalid_argument ? 2 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "causeway-bench: %s\n", error.what());
    return 1;
  }
}
