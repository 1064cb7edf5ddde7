#include "runtime/topology/discovery/nvml.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "allocator/guarded_child.h"
#include "runtime/topology/discovery/nvml_calls.h"

namespace causeway {

std::uint32_t NvmlReport::reported() const noexcept { return std::min(gpu_count, kMaxNvmlGpus); }

std::unique_ptr<const NvmlReport> ask_nvml(const std::string& library,
                                           std::chrono::milliseconds timeout) {
  auto result = std::make_unique<NvmlReport>();
  const SharedReport<NvmlReport> shared;
  const auto end =
      shared.get() == nullptr
          ? ChildEnd{ChildEnd::How::no_child, errno}
          : run_guarded(
                "causeway-nvml", [&] { fill_report(library, *shared.get()); }, timeout);
  if (shared.get() != nullptr) *result = *shared.get();
  switch (end.how) {
    case ChildEnd::How::by_itself:  // The report itself says how it went.
      if (!result->is_complete && result->outcome == NvmlOutcome::complete)
        result->outcome = NvmlOutcome::crashed;
      break;
    case ChildEnd::How::timed_out:
      result->outcome = NvmlOutcome::timed_out;
      break;
    case ChildEnd::How::crashed:
      result->outcome = NvmlOutcome::crashed;
      result->code = end.code;
      break;
    case ChildEnd::How::no_child:
      result->outcome = NvmlOutcome::no_child;
      result->code = end.code;
      break;
  }
  return result;
}

std::vector<std::string> missing_facts(const NvmlReport& report) {
  std::vector<std::string> facts;
  for (std::size_t i = 0; i < nvml_function_count(); ++i) {
    const auto& function = nvml_function(i);
    // The newer of two names may be missing as long as the older is there, and the other way round.
    const bool has_newer = i > 0 && nvml_function(i - 1).fact == nullptr &&
                           std::string_view(nvml_function(i - 1).name).starts_with(function.name) &&
                           (report.missing >> (i - 1) & 1) == 0;
    if ((report.missing >> i & 1) != 0 && function.fact != nullptr && !has_newer)
      facts.push_back(
          fmt::format("{}: {} is not in this driver's library", function.fact, function.name));
  }
  return facts;
}

std::string last_call(const NvmlReport& report) {
  return fmt::format("{} of GPU {}", nvml_function(report.function).name, report.subject);
}

std::string nvml_error(nvml::Return code) {
  const auto reason = [code]() -> std::string_view {
    switch (code) {
      case nvml::kNotSupported:
        return "not supported";
      case nvml::kNoPermission:
        return "no permission";
      case nvml::kDriverNotLoaded:
        return "the driver is not loaded";
      case nvml::kTimeout:
        return "the driver timed out";
      case nvml::kGpuIsLost:
        return "the GPU is lost: it has fallen off the bus";
      case nvml::kResetRequired:
        return "the GPU must be reset";
      case nvml::kBlocked:
        return "the operating system blocks the device";
      case nvml::kVersionMismatch:
        return "the library and the loaded driver are of different versions";
      default:
        return "an error";
    }
  }();
  return fmt::format("{} (NVML error {})", reason, code);
}

}  // namespace causeway
