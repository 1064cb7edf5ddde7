// Goal:   transport/nccl/abi.h declares the library as it is.
// Method: numbers and layouts against NCCL's header, where the build finds it and CUDA's beside it
//         (CMake: NCCL_INCLUDE_DIR, CUDA_INCLUDE_DIR); else the test says that it skipped.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "transport/nccl/abi.h"

#if __has_include(<nccl.h>) && __has_include(<cuda_runtime.h>)
#include <nccl.h>

#include <cstddef>
#include <type_traits>

namespace own = causeway::nccl;

static_assert(sizeof(own::UniqueId) == sizeof(ncclUniqueId));
static_assert(sizeof(own::UniqueId) == NCCL_UNIQUE_ID_BYTES);
static_assert(sizeof(own::Comm) == sizeof(ncclComm_t));
static_assert(sizeof(own::Stream) == sizeof(cudaStream_t));
// Functions that take an enumeration take an int here.
static_assert(sizeof(ncclResult_t) == sizeof(own::Result));
static_assert(sizeof(ncclDataType_t) == sizeof(own::DataType));
static_assert(sizeof(ncclRedOp_t) == sizeof(own::RedOp));

static_assert(own::kSuccess == ncclSuccess && own::kUnhandledCudaError == ncclUnhandledCudaError);
static_assert(own::kSystemError == ncclSystemError && own::kInternalError == ncclInternalError);
static_assert(own::kInvalidArgument == ncclInvalidArgument);
static_assert(own::kInvalidUsage == ncclInvalidUsage && own::kRemoteError == ncclRemoteError);
static_assert(own::kInProgress == ncclInProgress);
#if NCCL_VERSION_CODE >= 23200
static_assert(own::kTimeout == ncclTimeout);
#endif
static_assert(own::kUint8 == ncclUint8 && own::kInt32 == ncclInt32 && own::kInt64 == ncclInt64);
static_assert(own::kFloat16 == ncclFloat16 && own::kFloat32 == ncclFloat32);
static_assert(own::kFloat64 == ncclFloat64 && own::kBfloat16 == ncclBfloat16);
static_assert(own::kSum == ncclSum && own::kMax == ncclMax);
static_assert(own::kMin == ncclMin && own::kAvg == ncclAvg);
static_assert(own::kLeastVersion == NCCL_VERSION(2, 19, 1));

// A library takes `size` bytes of a configuration that may be longer.
static_assert(sizeof(own::Config) <= sizeof(ncclConfig_t));
static_assert(offsetof(own::Config, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(own::Config, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(own::Config, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(own::Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(own::Config, cga_cluster_size) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(offsetof(own::Config, min_ctas) == offsetof(ncclConfig_t, minCTAs));
static_assert(offsetof(own::Config, max_ctas) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(own::Config, net_name) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(own::Config, split_share) == offsetof(ncclConfig_t, splitShare));
static_assert(own::kUndefined == NCCL_CONFIG_UNDEF_INT);

// A parameter as it is passed: enumerations as ints, pointers as pointers, an id by value.
template <typename T>
using Passed = std::conditional_t<
    std::is_enum_v<T>, int,
    std::conditional_t<std::is_pointer_v<T>, void*,
                       std::conditional_t<std::is_same_v<T, ncclUniqueId>, own::UniqueId, T>>>;
template <typename T>
struct Call;
template <typename Return, typename... Parameters>
struct Call<Return (*)(Parameters...)> {
  using Type = Passed<Return> (*)(Passed<Parameters>...);
};
template <typename Own, typename Theirs>
constexpr bool same_call = std::is_same_v<typename Call<Own>::Type, typename Call<Theirs>::Type>;

#define CAUSEWAY_SAME(name) \
  static_assert(same_call<decltype(own::Functions::name), decltype(&nccl##name)>)
CAUSEWAY_SAME(GetVersion);
CAUSEWAY_SAME(GetErrorString);
CAUSEWAY_SAME(GetLastError);
CAUSEWAY_SAME(GetUniqueId);
CAUSEWAY_SAME(CommInitRankConfig);
CAUSEWAY_SAME(CommGetAsyncError);
CAUSEWAY_SAME(CommFinalize);
CAUSEWAY_SAME(CommDestroy);
CAUSEWAY_SAME(CommAbort);
CAUSEWAY_SAME(GroupStart);
CAUSEWAY_SAME(GroupEnd);
CAUSEWAY_SAME(AllReduce);
CAUSEWAY_SAME(ReduceScatter);
CAUSEWAY_SAME(Reduce);
CAUSEWAY_SAME(AllGather);
CAUSEWAY_SAME(Broadcast);
CAUSEWAY_SAME(Send);
CAUSEWAY_SAME(Recv);

TEST_CASE("own declarations agree with NCCL's header") {
  const own::Config ours;
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  CHECK(ours.magic == theirs.magic);
  CHECK(ours.blocking == theirs.blocking);
  CHECK(ours.split_share == theirs.splitShare);
}
#else
TEST_CASE("own declarations agree with NCCL's header") {
  MESSAGE("skipped: no nccl.h or no cuda_runtime.h");
}
#endif
