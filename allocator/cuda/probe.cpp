#include "allocator/cuda/probe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <string_view>

#include "allocator/cuda/cuda_backend.h"
#include "allocator/guarded_child.h"

namespace causeway {

namespace {

using Bytes = std::vector<std::byte>;

template <std::size_t N>
void set_text(std::array<char, N>& to, std::string_view text) noexcept {
  const auto size = std::min(text.size(), N - 1);
  std::memcpy(to.data(), text.data(), size);
  to[size] = '\0';
}

Bytes random_bytes(std::uint64_t size_bytes, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes(size_bytes);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// One GPU while the child lasts.
struct Trial {
  explicit Trial(std::shared_ptr<CudaContext> its_context)
      : context(std::move(its_context)), stream(context) {}

  void write(std::byte* to, const Bytes& bytes) {
    stream.copy_in(to, bytes.data(), bytes.size());
    stream.synchronize();
  }
  [[nodiscard]] bool holds(const std::byte* at, const Bytes& expected) {
    Bytes bytes(expected.size());
    stream.copy_out(bytes.data(), at, bytes.size());
    stream.synchronize();
    return bytes == expected;
  }

  std::shared_ptr<CudaContext> context;
  CudaStream stream;
  std::unique_ptr<CudaBackend> memory;  // Its own.
};

// A range with segments mapped one behind the other, readable and writable.
Reservation map_all(CudaBackend& backend, std::initializer_list<const Segment*> segments) {
  std::uint64_t at = 0;
  for (const auto* segment : segments) at += segment->size_bytes();
  auto range = backend.reserve(at);
  at = 0;
  for (const auto* segment : segments) {
    backend.map(range, at, *segment);
    at += segment->size_bytes();
  }
  backend.set_access(range, 0, at, Protection::read_write);
  return range;
}

class Probing {
 public:
  Probing(CudaProbe& report, const std::string& library)
      : report_(report), driver_(CudaDriver::open(library)) {}

  void run() {
    report_.driver_version = driver_->version();
    list_gpus();
    for (std::uint32_t i = 0; i < report_.probed; ++i) try_own_memory(i);
    for (std::uint32_t i = 0; i < report_.probed; ++i) try_host_memory(i);
    for (std::uint32_t reader = 0; reader < report_.probed; ++reader)
      for (std::uint32_t owner = 0; owner < report_.probed; ++owner)
        if (reader != owner) try_peer(reader, owner);
  }

 private:
  void list_gpus() {
    step("the list of GPUs");
    report_.gpu_count = static_cast<std::uint32_t>(driver_->device_count());
    std::atomic_ref(report_.probed) = std::min(report_.gpu_count, kMaxProbedGpus);
    for (std::uint32_t i = 0; i < report_.probed; ++i) {
      const auto facts = driver_->describe(static_cast<int>(i));
      auto& gpu = report_.gpus[i];
      gpu.ordinal = static_cast<int>(i);
      gpu.total_bytes = facts.total_bytes;
      set_text(gpu.name, facts.name);
      set_text(gpu.bus_id, facts.bus_id);
      set_text(gpu.uuid, facts.uuid);
    }
    const auto end = report_.gpus.begin() + report_.probed;
    std::sort(report_.gpus.begin(), end, [](const ProbedGpu& a, const ProbedGpu& b) {
      return std::strcmp(a.bus_id.data(), b.bus_id.data()) < 0;
    });
    trials_.resize(report_.probed);
  }

  void try_own_memory(std::uint32_t index) {
    auto& gpu = report_.gpus[index];
    attempt(gpu, gpu.memory, fmt::format("memory of GPU {}", index), [&] {
      auto& trial = trials_[index].emplace(CudaContext::retain(driver_, gpu.ordinal));
      {
        const CudaContext::Current current(*trial.context);
        std::size_t free_bytes = 0;
        std::size_t total_bytes = 0;
        driver_->check(driver_->functions().cuMemGetInfo(&free_bytes, &total_bytes),
                       trial.context->label(), "cuMemGetInfo");
        gpu.free_bytes = free_bytes;
      }
      // Room for what one trial needs; the device itself is the limit.
      trial.memory = std::make_unique<CudaBackend>(
          trial.context, CudaBackend::Options{trial.context->label(), gpu.total_bytes});
      const auto segment = trial.memory->create(trial.memory->granule_bytes());
      const auto range = map_all(*trial.memory, {&segment});
      const auto bytes = random_bytes(segment.size_bytes(), index);
      trial.write(range.data(), bytes);
      return trial.holds(range.data(), bytes);
    });
    if (gpu.memory != Tried::yes) return;
    attempt(gpu, gpu.crosses_processes, fmt::format("a descriptor of GPU {}", index), [&] {
      auto& trial = *trials_[index];
      const auto segment = trial.memory->create(trial.memory->granule_bytes());
      const auto range = map_all(*trial.memory, {&segment});
      const auto bytes = random_bytes(segment.size_bytes(), index + 1);
      trial.write(range.data(), bytes);
      const auto again =
          trial.memory->import_segment(trial.memory->export_segment(segment), segment.size_bytes());
      const auto other = map_all(*trial.memory, {&again});
      return trial.holds(other.data(), bytes);
    });
  }

  [[nodiscard]] int attribute(const Trial& trial, cuda::DeviceAttribute which) const {
    int value = 0;
    const auto result =
        driver_->functions().cuDeviceGetAttribute(&value, which, trial.context->device());
    return result == cuda::kSuccess ? value : 0;  // A driver that does not know it has it not.
  }

  void try_host_memory(std::uint32_t index) {
    auto& gpu = report_.gpus[index];
    if (gpu.memory != Tried::yes) return;
    auto& trial = *trials_[index];
    gpu.host_numa = std::max(attribute(trial, cuda::kAttributeHostNumaId), 0);
    if (attribute(trial, cuda::kAttributeHostNumaVmm) == 0) {
      gpu.host_memory = gpu.mixed_range = gpu.mixed_grant = Tried::no;
      return;
    }
    std::optional<CudaBackend> host;
    const auto bytes = random_bytes(trial.memory->granule_bytes(), index + 2);
    attempt(gpu, gpu.host_memory, fmt::format("host memory by GPU {}", index), [&] {
      host.emplace(trial.context,
                   CudaBackend::Options{fmt::format("host{}", gpu.host_numa), bytes.size() * 2,
                                        cuda::Location{cuda::kLocationHostNuma, gpu.host_numa}});
      const auto segment = host->create(bytes.size());
      const auto range = map_all(*host, {&segment});
      std::memcpy(range.data(), bytes.data(), bytes.size());
      return trial.holds(range.data(), bytes);
    });
    if (gpu.host_memory != Tried::yes) return;
    attempt(gpu, gpu.mixed_range, fmt::format("host memory beside that of GPU {}", index), [&] {
      const auto own = trial.memory->create(bytes.size());
      const auto other = host->create(bytes.size());
      auto range = map_all(*trial.memory, {&own, &other});
      trial.write(range.data(), bytes);
      trial.stream.copy(range.data() + bytes.size(), range.data(), bytes.size());
      const bool holds = trial.holds(range.data() + bytes.size(), bytes);
      try_one_grant(gpu, trial, range);
      return holds;
    });
  }

  void try_one_grant(ProbedGpu& gpu, const Trial& trial, const Reservation& range) const {
    const CudaContext::Current current(*trial.context);
    const cuda::AccessDesc grant{{cuda::kLocationDevice, gpu.ordinal}, cuda::kAccessReadWrite};
    const auto result = driver_->functions().cuMemSetAccess(device_address(range.data()),
                                                            range.size_bytes(), &grant, 1);
    gpu.mixed_grant = result == cuda::kSuccess ? Tried::yes : Tried::no;
  }

  // The reader copies the owner's memory by its own addresses.
  void try_peer(std::uint32_t reader, std::uint32_t owner) {
    auto& gpu = report_.gpus[reader];
    if (gpu.memory != Tried::yes || report_.gpus[owner].memory != Tried::yes) return;
    auto& own = *trials_[reader];
    auto& other = *trials_[owner];
    auto& found = report_.peers[reader][owner];
    int can = 0;
    (void)driver_->functions().cuDeviceCanAccessPeer(&can, own.context->device(),
                                                     other.context->device());
    if (can == 0) {
      found = Tried::no;
      return;
    }
    attempt(gpu, found, fmt::format("GPU {} reading GPU {}", reader, owner), [&] {
      const auto segment = other.memory->create(
          std::max(own.memory->granule_bytes(), other.memory->granule_bytes()));
      const auto there = map_all(*other.memory, {&segment});
      const auto bytes = random_bytes(segment.size_bytes(), 100 + reader * kMaxProbedGpus + owner);
      other.write(there.data(), bytes);
      const auto target = own.memory->create(segment.size_bytes());
      const auto here = map_all(*own.memory, {&segment, &target});
      auto* const copy = here.data() + segment.size_bytes();
      own.stream.copy(copy, here.data(), segment.size_bytes());
      return own.holds(copy, bytes);
    });
  }

  // Tries one thing, and notes what came of it before the next begins.
  void attempt(ProbedGpu& gpu, Tried& found, const std::string& what,
               const std::function<bool()>& trial) {
    step(what);
    std::string refusal;
    try {
      found = trial() ? Tried::yes : Tried::no;
      if (found == Tried::no) refusal = what + ": other bytes came back than were written";
    } catch (const std::exception& error) {
      found = Tried::no;
      refusal = error.what();
    }
    if (!refusal.empty() && gpu.problem.front() == '\0') set_text(gpu.problem, refusal);
  }

  void step(const std::string& what) { set_text(report_.step, what); }

  CudaProbe& report_;
  std::shared_ptr<CudaDriver> driver_;
  std::vector<std::optional<Trial>> trials_;  // By GPU.
};

void fill_report(CudaProbe& report, const std::string& library) {
  set_text(report.step, "the start of the driver");
  try {
    Probing probing(report, library);
    probing.run();
    report.is_complete = true;
  } catch (const std::exception& error) {
    report.outcome = CudaProbe::Outcome::no_driver;
    set_text(report.error, error.what());
  }
}

std::uint32_t count_kernel_gpus() noexcept {
  std::error_code ignored;
  std::uint32_t count = 0;
  std::filesystem::directory_iterator gpus("/proc/driver/nvidia/gpus", ignored);
  for (; !ignored && gpus != end(gpus) && count < kMaxProbedGpus; gpus.increment(ignored)) ++count;
  return count;
}

const char* word_of(Tried tried) noexcept {
  return tried == Tried::yes ? "yes" : tried == Tried::no ? "no" : "not tried";
}

}  // namespace

std::unique_ptr<const CudaProbe> probe_cuda(std::chrono::milliseconds time_per_gpu,
                                            const std::string& library) {
  using Outcome = CudaProbe::Outcome;
  auto result = std::make_unique<CudaProbe>();
  const SharedReport<CudaProbe> shared;
  // The driver starts every GPU before it says how many there are.
  const auto time_limit = [&, least = std::max(count_kernel_gpus(), 1U)] {
    return time_per_gpu * std::max(least, std::atomic_ref(shared.get()->probed).load());
  };
  const auto end =
      shared.get() == nullptr
          ? ChildEnd{ChildEnd::How::no_child, errno}
          : run_guarded(
                "causeway-cuda", [&] { fill_report(*shared.get(), library); }, time_limit);
  if (shared.get() != nullptr) *result = *shared.get();
  result->code = end.code;
  if (end.how == ChildEnd::How::timed_out)
    result->outcome = Outcome::timed_out;
  else if (end.how == ChildEnd::How::no_child)
    result->outcome = Outcome::no_child;
  else if (end.how == ChildEnd::How::crashed ||
           (!result->is_complete && result->outcome == Outcome::complete))
    result->outcome = Outcome::crashed;
  return result;
}

std::string CudaProbe::trouble() const {
  switch (outcome) {
    case Outcome::complete:
      return "";
    case Outcome::no_driver:
      return error.data();
    case Outcome::timed_out:
      return fmt::format("the CUDA driver did not answer in time when asked for {}", step.data());
    case Outcome::crashed:
      return fmt::format("the CUDA driver crashed (signal {}) when asked for {}", code,
                         step.data());
    case Outcome::no_child:
      break;
  }
  return fmt::format("no process could be started to try the CUDA driver: {}", std::strerror(code));
}

std::vector<std::string> CudaProbe::to_lines() const {
  std::vector<std::string> lines;
  if (driver_version != 0)
    lines.push_back(fmt::format("CUDA driver {}, {} GPU{}", cuda_version_text(driver_version),
                                gpu_count, gpu_count == 1 ? "" : "s"));
  if (const auto text = trouble(); !text.empty()) lines.push_back(text);
  for (std::uint32_t i = 0; i < probed; ++i) {
    const auto& gpu = gpus[i];
    std::vector<std::uint32_t> reached;
    for (std::uint32_t other = 0; other < probed; ++other)
      if (peers[i][other] == Tried::yes) reached.push_back(other);
    auto line = fmt::format(
        "GPU {}: {} at {}, {:.1f} of {:.1f} GB free; memory {}, crosses processes {}, host memory "
        "{}, "
        "mixed ranges {} (one grant {}), reaches GPU {}",
        i, gpu.name.data(), gpu.bus_id.data(), static_cast<double>(gpu.free_bytes) / 1e9,
        static_cast<double>(gpu.total_bytes) / 1e9, word_of(gpu.memory),
        word_of(gpu.crosses_processes), word_of(gpu.host_memory), word_of(gpu.mixed_range),
        word_of(gpu.mixed_grant),
        reached.empty() ? "none" : fmt::format("{}", fmt::join(reached, ", ")));
    if (gpu.problem.front() != '\0') line += fmt::format("; {}", gpu.problem.data());
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace causeway
