#include "tools/bench/memory_bench.h"

#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <latch>
#include <mutex>
#include <thread>

#include "causeway/error.h"
#include "tools/base/interrupt.h"

namespace causeway::tools {

namespace {

using Clock = std::chrono::steady_clock;

bool bind_thread(std::size_t core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  return ::sched_setaffinity(0, sizeof set, &set) == 0;
}

// Anonymous pages that are not there until they are touched.
class Buffer {
 public:
  explicit Buffer(std::uint64_t bytes) : bytes_(bytes) {
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
      throw Error(Errc::out_of_memory, fmt::format("no {} bytes for a buffer", bytes));
    data_ = static_cast<std::byte*>(at);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::munmap(data_, bytes_); }
  [[nodiscard]] std::byte* data() const noexcept { return data_; }

  // False if the kernel does not allow it.
  [[nodiscard]] bool bind(std::uint32_t numa) const {
    constexpr std::size_t kBits = 8 * sizeof(unsigned long);
    std::array<unsigned long, 1024 / kBits> mask{};
    if (numa >= mask.size() * kBits) return false;
    mask[numa / kBits] |= 1UL << (numa % kBits);
    return ::syscall(SYS_mbind, data_, bytes_, MPOL_BIND, mask.data(), mask.size() * kBits, 0U) ==
           0;
  }

 private:
  std::uint64_t bytes_;
  std::byte* data_ = nullptr;
};

// Differs at every eighth byte, and between threads.
void fill(std::byte* data, std::uint64_t bytes, std::uint64_t seed) {
  std::uint64_t value = seed + 1;
  for (std::uint64_t at = 0; at + sizeof value <= bytes; at += sizeof value) {
    value = value * 6364136223846793005U + 1442695040888963407U;
    std::memcpy(data + at, &value, sizeof value);
  }
}

class CopyRun {
 public:
  CopyRun(const NumaPlace& from, const NumaPlace& to, const MemoryCopyOptions& options)
      : from_(from), to_(to), options_(options), cores_(usable_cores(from.cpus)) {
    if (!to.cpus.empty()) near_target_ = usable_cores(to.cpus);
    if (cores_.empty())
      throw Error(Errc::unsupported,
                  fmt::format("this process may use none of the cores {} of NUMA "
                              "node {}",
                              from.cpus, from.numa));
    if (cores_.size() > options.max_threads) cores_.resize(options.max_threads);
  }

  MemoryCopy run() {
    std::latch ready(static_cast<std::ptrdiff_t>(cores_.size()));
    {
      std::vector<std::jthread> threads;
      for (std::size_t i = 0; i < cores_.size(); ++i)
        threads.emplace_back([this, i, &ready]() { work(i, ready); });
      ready.wait();
      wait();
      stop_ = true;
    }
    if (failure_) std::rethrow_exception(failure_);
    throw_if_interrupted();
    return {rate_, cores_.size()};
  }

 private:
  void wait() {
    const auto end = Clock::now() + options_.time;
    while (Clock::now() < end && !is_interrupted() && !stop_)
      std::this_thread::sleep_for(std::min<std::chrono::duration<double>>(
          end - Clock::now(), std::chrono::milliseconds(20)));
  }

  void work(std::size_t index, std::latch& ready) {
    ::pthread_setname_np(::pthread_self(), "memory-bench");
    bool is_ready = false;
    try {
      const Buffer source(options_.buffer_bytes);
      const Buffer target(options_.buffer_bytes);
      place(source, target, index);
      is_ready = true;
      ready.arrive_and_wait();
      copy(source, target);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stop_ = true;
      if (!is_ready) ready.count_down();
    }
  }

  void place(const Buffer& source, const Buffer& target, std::size_t index) {
    const bool is_bound = target.bind(to_.numa);
    if (!is_bound && near_target_.empty())
      throw Error(Errc::unsupported, fmt::format("memory of NUMA node {} cannot be asked for: {}",
                                                 to_.numa, std::strerror(errno)));
    if (!is_bound && !bind_thread(near_target_[index % near_target_.size()]))
      throw Error(Errc::unsupported, fmt::format("no core of NUMA node {} can be used", to_.numa));
    std::memset(target.data(), 0xff, options_.buffer_bytes);
    if (!bind_thread(cores_[index]))
      throw Error(Errc::unsupported, fmt::format("core {} cannot be used", cores_[index]));
    (void)source.bind(from_.numa);  // Else its first touch, by a core of that node, places it.
    fill(source.data(), options_.buffer_bytes, index);
  }

  void copy(const Buffer& source, const Buffer& target) {
    std::uint64_t bytes = 0;
    const auto begin = Clock::now();
    do {
      std::memcpy(target.data(), source.data(), options_.buffer_bytes);
      asm volatile("" : : "r"(target.data()) : "memory");  // Else repeated copies are dropped.
      bytes += options_.buffer_bytes;
    } while (!stop_);
    const std::chrono::duration<double> took = Clock::now() - begin;
    if (std::memcmp(target.data(), source.data(), options_.buffer_bytes) != 0)
      throw Error(Errc::internal, fmt::format("memory of NUMA node {} holds other bytes than were "
                                              "copied there",
                                              to_.numa));
    const std::lock_guard lock(mutex_);
    rate_ += static_cast<double>(bytes) / took.count();
  }

  const NumaPlace& from_;
  const NumaPlace& to_;
  const MemoryCopyOptions& options_;
  std::vector<std::size_t> cores_;
  std::vector<std::size_t> near_target_;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;  // Of the first thread that failed.
  double rate_ = 0;
};

}  // namespace

MemoryCopy measure_memory_copy(const NumaPlace& from, const NumaPlace& to,
                               const MemoryCopyOptions& options) {
  return CopyRun(from, to, options).run();
}

std::vector<std::size_t> usable_cores(std::string_view list) {
  cpu_set_t own;
  CPU_ZERO(&own);
  if (::sched_getaffinity(0, sizeof own, &own) != 0) return {};
  const auto number = [&](std::string_view text) {
    std::size_t value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (result.ec != std::errc() || result.ptr != text.data() + text.size())
      throw Error(Errc::parse, fmt::format("cores '{}': write them as 0-23,48", list));
    return value;
  };
  std::vector<std::size_t> cores;
  for (auto rest = list; !rest.empty();) {
    const auto part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    const auto dash = part.find('-');
    const auto first = number(part.substr(0, dash));
    const auto last = dash == part.npos ? first : number(part.substr(dash + 1));
    for (auto core = first; core <= last && core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &own)) cores.push_back(core);
  }
  return cores;
}

}  // namespace causeway::tools
