#include "transport/nccl/library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>

namespace causeway {

namespace {

using namespace nccl;

template <typename Function>
void load(void* library, const std::string& path, const char* name, Function& into) {
  into = reinterpret_cast<Function>(::dlsym(library, name));
  if (into == nullptr)
    throw Error(Errc::unsupported,
                fmt::format("{} has no function {}: install NCCL {} or newer, or name another "
                            "library in CAUSEWAY_NCCL_LIBRARY",
                            path, name, nccl_version_text(kLeastVersion)));
}

Errc code_of(Result result) noexcept {
  switch (result) {
    case kUnhandledCudaError:
    case kSystemError:
      return Errc::io;
    case kRemoteError:
      return Errc::peer_lost;
    case kTimeout:
      return Errc::timed_out;
    default:
      return Errc::internal;
  }
}

}  // namespace

std::shared_ptr<NcclLibrary> NcclLibrary::open(const std::string& path,
                                               std::chrono::milliseconds patience) {
  const char* named = std::getenv("CAUSEWAY_NCCL_LIBRARY");
  const std::string file = !path.empty()                        ? path
                           : named != nullptr && *named != '\0' ? named
                                                                : "libnccl.so.2";
  void* handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    throw Error(Errc::unsupported,
                fmt::format("no NCCL: {}; install NCCL {} or newer (libnccl2), or name its file in "
                            "CAUSEWAY_NCCL_LIBRARY",
                            reason != nullptr ? reason : file, nccl_version_text(kLeastVersion)));
  }
  const std::shared_ptr<NcclLibrary> library(new NcclLibrary(patience));
  auto& f = library->functions_;
  load(handle, file, "ncclGetVersion", f.GetVersion);
  const auto result = f.GetVersion(&library->version_);
  if (result != kSuccess || library->version_ < kLeastVersion)
    throw Error(Errc::unsupported,
                fmt::format("{} is NCCL {}: {} or newer is needed, since older ones cannot be "
                            "aborted safely",
                            file, result == kSuccess ? nccl_version_text(library->version_) : "?",
                            nccl_version_text(kLeastVersion)));
  load(handle, file, "ncclGetErrorString", f.GetErrorString);
  load(handle, file, "ncclGetLastError", f.GetLastError);
  load(handle, file, "ncclGetUniqueId", f.GetUniqueId);
  load(handle, file, "ncclCommInitRankConfig", f.CommInitRankConfig);
  load(handle, file, "ncclCommGetAsyncError", f.CommGetAsyncError);
  load(handle, file, "ncclCommFinalize", f.CommFinalize);
  load(handle, file, "ncclCommDestroy", f.CommDestroy);
  load(handle, file, "ncclCommAbort", f.CommAbort);
  load(handle, file, "ncclGroupStart", f.GroupStart);
  load(handle, file, "ncclGroupEnd", f.GroupEnd);
  load(handle, file, "ncclAllReduce", f.AllReduce);
  load(handle, file, "ncclReduceScatter", f.ReduceScatter);
  load(handle, file, "ncclReduce", f.Reduce);
  load(handle, file, "ncclAllGather", f.AllGather);
  load(handle, file, "ncclBroadcast", f.Broadcast);
  load(handle, file, "ncclSend", f.Send);
  load(handle, file, "ncclRecv", f.Recv);
  return library;
}

Error NcclLibrary::error(const std::string& what, Result result) const {
  // The last error is the thread's or the process's: a hint, not always of this call.
  const char* text = functions_.GetErrorString(result);
  const char* last = functions_.GetLastError(nullptr);
  return Error(code_of(result), fmt::format("{} failed: {}{}{}", what, text != nullptr ? text : "?",
                                            last != nullptr && *last != '\0' ? "; " : "",
                                            last != nullptr ? last : ""));
}

std::string nccl_version_text(int version) {
  const int scale = version < 10000 ? 1000 : 10000;  // Up to 2.8 it was MAJOR * 1000.
  return fmt::format("{}.{}.{}", version / scale, version % scale / 100, version % 100);
}

}  // namespace causeway
