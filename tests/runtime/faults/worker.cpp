#include "worker.h"

#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "causeway/pool.h"
#include "region_model.h"

namespace causeway::test {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Bytes = RegionModel::Bytes;

constexpr const char* kNodeOf = "abc";
constexpr int kThreads = 2;
constexpr int kRegionsPerThread = 3;

std::mutex g_saying;
std::atomic<bool> g_is_wrong = false;

void say(const std::string& line) {
  const std::lock_guard lock(g_saying);
  std::cout << line << std::endl;
}

void say_wrong(const std::string& what) {
  g_is_wrong = true;
  say("wrong " + what);
}

// Time that this process did not get, because it was stopped or the machine was busy.
class LostTime {
 public:
  LostTime() : thread_([this](const std::stop_token& stop) { watch(stop); }) {}
  [[nodiscard]] std::chrono::microseconds get() const {
    return std::chrono::microseconds(lost_us_.load());
  }

 private:
  void watch(const std::stop_token& stop) {
    constexpr auto kTick = 5ms;
    for (auto last = Clock::now(); !stop.stop_requested();) {
      std::this_thread::sleep_for(kTick);
      const auto now = Clock::now();
      if (now - last > 4 * kTick)
        lost_us_ += std::chrono::duration_cast<std::chrono::microseconds>(now - last).count();
      last = now;
    }
  }
  std::atomic<std::int64_t> lost_us_ = 0;
  std::jthread thread_;
};

Bytes random_bytes(std::size_t size, std::mt19937_64& random) {
  Bytes bytes(size + 8);
  for (std::size_t at = 0; at < size; at += 8) {
    const auto word = random();
    std::memcpy(&bytes[at], &word, 8);
  }
  bytes.resize(size);
  return bytes;
}

class Counts {
 public:
  void add(const std::string& what, double value = 1) {
    const std::lock_guard lock(mutex_);
    values_[what] += value;
  }
  void at_least(const std::string& what, double value) {
    const std::lock_guard lock(mutex_);
    values_[what] = std::max(values_[what], value);
  }
  [[nodiscard]] std::string to_string() const {
    std::string text;
    for (const auto& [what, value] : values_) text += fmt::format(" {}={:.0f}", what, value);
    return text;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, double> values_;
};

// A region and what must be in it; empty while the allocation fails.
struct Slot {
  Region region;
  std::optional<RegionModel> model;
  char node = 'a';
};

// What all threads of the process share.
struct Shared {
  const WorkerOptions& options;
  Pool& pool;
  const LostTime& lost;
  Counts& counts;
};

class Thread {
 public:
  Thread(const Shared& shared, std::uint64_t seed) : shared_(shared), random_(seed) {
    for (int i = 0; i < kRegionsPerThread; ++i) {
      slots_.emplace_back();
      slots_.back().node = kNodeOf[i % 3];
    }
  }

  // Before any fault.
  void allocate_all() {
    for (auto& slot : slots_) renew(slot);
  }
  void work(Clock::time_point end) {
    while (Clock::now() < end) {
      auto& slot = slots_[random_() % slots_.size()];
      const auto choice = random_() % 100;
      if (!slot.model || choice < 8)
        renew(slot);
      else if (choice < 35)
        write(slot);
      else if (choice < 55)
        read(slot);
      else
        copy(slot, slots_[random_() % slots_.size()]);
    }
  }
  // Reads all back; those on `gone` may be lost.
  void verify(const std::string& gone) {
    for (auto& slot : slots_)
      if (slot.model) verify(slot, gone);
    for (const auto& [buffer, was] : failed_reads_)
      if (*buffer != was) say_wrong("a buffer changed after its read had ended in an error");
  }

 private:
  enum class Ended { well, ill };

  // Runs one call to its end and judges it: in time, and without an error that has no cause.
  template <typename Call>
  Ended run(const char* name, const std::string& nodes, std::uint64_t bytes, Call&& call) {
    const auto limit = shared_.options.timeout + std::chrono::milliseconds(bytes / 10'000);
    const auto start = Clock::now();
    const auto lost = shared_.lost.get();
    std::optional<Error> error;
    try {
      call();
    } catch (const Error& failed) {
      error = failed;
    } catch (const std::exception& failed) {
      say_wrong(fmt::format("{}: an error without a type: {}", name, failed.what()));
      return Ended::ill;
    }
    const auto lost_here = shared_.lost.get() - lost;
    const auto took = Clock::now() - start - lost_here;
    const auto late_ms = std::chrono::duration<double, std::milli>(took - limit).count();
    shared_.counts.at_least("latest_ms", late_ms);
    const auto what = fmt::format("{} of {} bytes on {}", name, bytes, nodes);
    if (took > limit + slack())
      say_wrong(fmt::format("{} ended {:.0f} ms after its deadline of {} ms: {}", what, late_ms,
                            limit.count(), error ? error->what() : "success"));
    shared_.counts.add(error ? std::string(to_string(error->code())) : "ok");
    if (!error) return Ended::well;
    if (!may_fail(nodes) || !is_expected(error->code()))
      say_wrong(
          fmt::format("{} failed without a cause after {:.0f} ms, of which this process did "
                      "not have {:.0f}: {}: {}",
                      what, std::chrono::duration<double, std::milli>(took + lost_here).count(),
                      std::chrono::duration<double, std::milli>(lost_here).count(),
                      to_string(error->code()), error->what()));
    return Ended::ill;
  }
  [[nodiscard]] bool may_fail(const std::string& nodes) const {
    return shared_.options.may_fail.find('*') != std::string::npos ||
           nodes.find_first_of(shared_.options.may_fail) != std::string::npos;
  }
  // What a fault can be the cause of; not a call that was wrong, nor a defect.
  static bool is_expected(Errc code) {
    constexpr Errc kUnexpected[] = {Errc::invalid_argument,  Errc::parse,       Errc::out_of_bounds,
                                    Errc::already_exists,    Errc::unsupported, Errc::corrupted,
                                    Errc::permission_denied, Errc::protocol,    Errc::internal};
    return std::ranges::find(kUnexpected, code) == std::end(kUnexpected);
  }

  void renew(Slot& slot) {
    if (slot.model) {
      // Destructors ask the daemons, too, and have no error to show.
      run("free", "abc", 0, [&] { slot.region = {}; });
      slot.model.reset();
    }
    const auto size = 1 + (random_() % 8 == 0 ? random_() % (12 << 20) : random_() % (2 << 20));
    const auto device = DeviceName::parse(std::string(1, slot.node) + "/gpu0");
    const auto ended = run("allocate", "abc", 0,
                           [&] { slot.region = shared_.pool.allocate(size, {.only = {device}}); });
    if (ended == Ended::well) slot.model.emplace(size);  // Fresh memory is zero.
  }

  std::pair<std::uint64_t, std::uint64_t> range(std::uint64_t size, std::uint64_t most) {
    const auto length = 1 + random_() % std::min(size, random_() % 4 == 0 ? 4096 : most);
    return {random_() % (size - length + 1), length};
  }

  void write(Slot& slot) {
    const auto [at, size] = range(slot.model->size_bytes(), 4 << 20);
    RegionModel::Piece piece{at, random_bytes(size, random_)};
    const auto ended = run("write", std::string(1, slot.node), size,
                           [&, at = at] { slot.region.write(at, piece.bytes); });
    if (ended == Ended::well)
      slot.model->wrote(piece);
    else
      slot.model->may_have_written(std::move(piece));
  }

  void read(Slot& slot) {
    const auto [at, size] = range(slot.model->size_bytes(), 4 << 20);
    auto buffer = std::make_unique<Bytes>(size);
    const auto ended = run("read", std::string(1, slot.node), size,
                           [&, at = at] { slot.region.read(at, *buffer); });
    if (ended == Ended::well) {
      check(slot, at, *buffer);
    } else if (failed_reads_.size() < 8) {
      auto was = *buffer;
      failed_reads_.emplace_back(std::move(buffer), std::move(was));
    }
  }

  void check(const Slot& slot, std::uint64_t at, std::span<const std::byte> got) {
    if (const auto wrong = slot.model->first_wrong(at, got))
      say_wrong(fmt::format("byte {} of a region of {} bytes on {} is what it cannot be: {:02x}",
                            *wrong, slot.model->size_bytes(), slot.node,
                            static_cast<unsigned>(got[*wrong - at])));
  }

  void copy(Slot& to, const Slot& from) {
    if (&to == &from || !from.model) return;
    const auto most = std::min(to.model->size_bytes(), from.model->size_bytes());
    std::vector<Pool::CopyPiece> pieces;
    std::uint64_t bytes = 0;
    for (std::uint64_t at = 0; pieces.size() < 1 + random_() % 4 && at < most;) {
      const auto [skip, size] = range(most - at, 8 << 20);
      pieces.push_back({at + skip, random_() % (from.model->size_bytes() - size + 1), size});
      at += skip + size;  // Pieces of one batch have no order: their targets must not overlap.
      bytes += size;
    }
    const bool pull = random_() % 2 == 0;
    // Another node's address is asked for at the directory, which is on a.
    const auto nodes = std::string{from.node, to.node} + "a";
    const auto ended = run(pull ? "pull" : "push", nodes, bytes,
                           [&] { shared_.pool.copy_batch(to.region, from.region, pieces, pull); });
    for (const auto& piece : pieces) {
      auto brought =
          from.model->copied(piece.from_offset_bytes, piece.size_bytes, piece.to_offset_bytes);
      for (std::size_t i = 0; i < brought.size(); ++i)
        if (i == 0 && ended == Ended::well)
          to.model->wrote(brought[i]);
        else
          to.model->may_have_written(std::move(brought[i]));
    }
  }

  void verify(Slot& slot, const std::string& gone) {
    Bytes bytes(slot.model->size_bytes());
    std::string why;
    for (const auto end = Clock::now() + 10s; Clock::now() < end;) {
      try {
        slot.region.read(0, bytes);
        check(slot, 0, bytes);
        shared_.counts.add("verified_bytes", static_cast<double>(bytes.size()));
        return;
      } catch (const Error& error) {
        why = error.what();
        if (gone.find(slot.node) != std::string::npos) return;
      }
    }
    say_wrong(fmt::format("a region on {} is lost without a cause: {}", slot.node, why));
  }

  Shared shared_;
  std::mt19937_64 random_;
  std::vector<Slot> slots_;
  std::vector<std::pair<std::unique_ptr<Bytes>, Bytes>> failed_reads_;
};

void in_threads(std::vector<std::unique_ptr<Thread>>& threads, const auto& call) {
  std::vector<std::jthread> running;
  for (auto& thread : threads) running.emplace_back([&] { call(*thread); });
}

std::string next_command() {
  std::string line;
  return std::getline(std::cin, line) ? line : "quit";
}

}  // namespace

std::chrono::milliseconds slack() {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  return 3000ms;
#else
  return 1000ms;
#endif
}

std::vector<std::string> WorkerOptions::to_arguments() const {
  return {target,
          token,
          std::to_string(seed),
          std::to_string(timeout.count()),
          std::to_string(work_time.count()),
          may_fail};
}

WorkerOptions WorkerOptions::from_arguments(const std::vector<std::string>& arguments) {
  return {arguments.at(0),
          arguments.at(1),
          std::stoull(arguments.at(2)),
          std::chrono::milliseconds(std::stoll(arguments.at(3))),
          std::chrono::milliseconds(std::stoll(arguments.at(4))),
          arguments.at(5)};
}

int run_worker(const WorkerOptions& options) {
  const LostTime lost;
  Counts counts;
  const bool local = options.target.starts_with("unix:");
  auto pool = Pool::connect({.socket_path = local ? options.target.substr(5) : "",
                             .address = local ? "" : options.target,
                             .token = local ? "" : options.token,
                             .client_name = "worker",
                             .timeout = options.timeout});
  std::vector<std::unique_ptr<Thread>> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.push_back(std::make_unique<Thread>(Shared{options, pool, lost, counts},
                                               options.seed * kThreads + static_cast<unsigned>(i)));
  for (auto& thread : threads) thread->allocate_all();
  say("ready");
  for (auto command = next_command(); command != "quit"; command = next_command()) {
    if (command == "go") {
      const auto end = Clock::now() + options.work_time;
      in_threads(threads, [end](Thread& thread) { thread.work(end); });
      say("ended");
    } else if (command.starts_with("verify ")) {
      in_threads(threads, [gone = command.substr(7)](Thread& thread) { thread.verify(gone); });
      say("verified");
    }
  }
  threads.clear();
  say("counts" + counts.to_string());
  return g_is_wrong ? 1 : 0;
}

}  // namespace causeway::test
