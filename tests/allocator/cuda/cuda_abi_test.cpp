// Goal:   allocator/cuda/abi.h, and what the software driver adds, declare the driver as it is.
// Method: numbers, layouts and signatures against cuda.h, where the build finds it (CMake:
//         CUDA_INCLUDE_DIR); else the test says that it skipped.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "tests/cuda_emulator/api.h"

#if __has_include(<cuda.h>)
// Before cuda.h, whose macros rename the functions.
namespace causeway::cuda {
#define CAUSEWAY_CUDA_OWN(name, suffix, version, parameters) \
  using Own_##name = Result(*) parameters;
CAUSEWAY_CUDA_FUNCTIONS(CAUSEWAY_CUDA_OWN)
CAUSEWAY_EMULATOR_FUNCTIONS(CAUSEWAY_CUDA_OWN)
}  // namespace causeway::cuda

#include <cuda.h>

#include <type_traits>

namespace own = causeway::cuda;

// A parameter as it is passed: by size, whether it is a pointer, and its sign is the caller's.
template <typename T>
using Passed = std::conditional_t<
    std::is_pointer_v<T>, void*,
    std::conditional_t<std::is_class_v<T>, char[sizeof(T)],
                       std::conditional_t<sizeof(T) == 8, std::uint64_t,
                                          std::conditional_t<sizeof(T) == 4, std::uint32_t, T>>>>;
template <typename T>
struct Call;
template <typename Return, typename... Parameters>
struct Call<Return (*)(Parameters...)> {
  using Type = Passed<Return> (*)(Passed<Parameters>...);
};

#define CAUSEWAY_CUDA_SAME(name, suffix, version, parameters) \
  static_assert(std::is_same_v<Call<own::Own_##name>::Type, Call<decltype(&::name)>::Type>);
CAUSEWAY_CUDA_FUNCTIONS(CAUSEWAY_CUDA_SAME)

static_assert(own::kOutOfMemory == CUDA_ERROR_OUT_OF_MEMORY &&
              own::kNotReady == CUDA_ERROR_NOT_READY);
static_assert(own::kInvalidValue == CUDA_ERROR_INVALID_VALUE &&
              own::kUnknown == CUDA_ERROR_UNKNOWN);
static_assert(own::kNotInitialized == CUDA_ERROR_NOT_INITIALIZED);
static_assert(own::kDeinitialized == CUDA_ERROR_DEINITIALIZED);
static_assert(own::kStubLibrary == CUDA_ERROR_STUB_LIBRARY &&
              own::kNoDevice == CUDA_ERROR_NO_DEVICE);
static_assert(own::kDeviceUnavailable == CUDA_ERROR_DEVICE_UNAVAILABLE);
static_assert(own::kInvalidDevice == CUDA_ERROR_INVALID_DEVICE);
static_assert(own::kInvalidImage == CUDA_ERROR_INVALID_IMAGE);
static_assert(own::kInvalidContext == CUDA_ERROR_INVALID_CONTEXT);
static_assert(own::kEccUncorrectable == CUDA_ERROR_ECC_UNCORRECTABLE);
static_assert(own::kPeerAccessUnsupported == CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
static_assert(own::kOperatingSystem == CUDA_ERROR_OPERATING_SYSTEM);
static_assert(own::kInvalidHandle == CUDA_ERROR_INVALID_HANDLE);
static_assert(own::kIllegalState == CUDA_ERROR_ILLEGAL_STATE &&
              own::kNotFound == CUDA_ERROR_NOT_FOUND);
static_assert(own::kIllegalAddress == CUDA_ERROR_ILLEGAL_ADDRESS);
static_assert(own::kPeerAccessAlreadyEnabled == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
static_assert(own::kContextIsDestroyed == CUDA_ERROR_CONTEXT_IS_DESTROYED);
static_assert(own::kLaunchFailed == CUDA_ERROR_LAUNCH_FAILED);
static_assert(own::kNotPermitted == CUDA_ERROR_NOT_PERMITTED);
static_assert(own::kNotSupported == CUDA_ERROR_NOT_SUPPORTED);
static_assert(own::kSystemNotReady == CUDA_ERROR_SYSTEM_NOT_READY);
static_assert(own::kSystemDriverMismatch == CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);

static_assert(own::kAttributeVmm == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
static_assert(own::kAttributePosixFd ==
              CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
static_assert(own::kLocationDevice == CU_MEM_LOCATION_TYPE_DEVICE);
static_assert(own::kLocationHostNuma == CU_MEM_LOCATION_TYPE_HOST_NUMA);
static_assert(own::kHandleTypePosixFd == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
static_assert(own::kAllocationPinned == CU_MEM_ALLOCATION_TYPE_PINNED);
static_assert(own::kAccessRead == CU_MEM_ACCESS_FLAGS_PROT_READ);
static_assert(own::kAccessReadWrite == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
static_assert(own::kStreamNonBlocking == CU_STREAM_NON_BLOCKING);
static_assert(own::kEventDisableTiming == CU_EVENT_DISABLE_TIMING);
static_assert(own::kEventBlockingSync == CU_EVENT_BLOCKING_SYNC);
static_assert(own::kHostAllocPortable == CU_MEMHOSTALLOC_PORTABLE);

static_assert(sizeof(own::Location) == sizeof(CUmemLocation));
static_assert(sizeof(own::AccessDesc) == sizeof(CUmemAccessDesc));
static_assert(offsetof(own::AccessDesc, flags) == offsetof(CUmemAccessDesc, flags));
static_assert(sizeof(own::AllocationProp) == sizeof(CUmemAllocationProp));
static_assert(offsetof(own::AllocationProp, handle_types) ==
              offsetof(CUmemAllocationProp, requestedHandleTypes));
static_assert(offsetof(own::AllocationProp, location) == offsetof(CUmemAllocationProp, location));
static_assert(offsetof(own::AllocationProp, flags) == offsetof(CUmemAllocationProp, allocFlags));

#if CUDA_VERSION >= 12040  // What only the software driver adds may be newer than the toolkit.
CAUSEWAY_EMULATOR_FUNCTIONS(CAUSEWAY_CUDA_SAME)

static_assert(own::kPrimaryContextActive == CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE);
static_assert(own::kHostMemoryAlreadyRegistered == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
static_assert(own::kHostMemoryNotRegistered == CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
static_assert(own::kPeerAccessNotEnabled == CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
static_assert(own::kCooperativeLaunchTooLarge == CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
static_assert(own::kCaptureUnsupported == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
static_assert(own::kCaptureInvalidated == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
static_assert(own::kCaptureMerge == CUDA_ERROR_STREAM_CAPTURE_MERGE);
static_assert(own::kCaptureUnmatched == CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
static_assert(own::kCaptureUnjoined == CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
static_assert(own::kCaptureIsolation == CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
static_assert(own::kCaptureImplicit == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
static_assert(own::kCapturedEvent == CUDA_ERROR_CAPTURED_EVENT);
static_assert(own::kCaptureWrongThread == CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);

static_assert(own::kPerThreadStream == CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
static_assert(own::kMemoryHost == CU_MEMORYTYPE_HOST && own::kMemoryDevice == CU_MEMORYTYPE_DEVICE);
static_assert(own::kMemoryUnified == CU_MEMORYTYPE_UNIFIED);
static_assert(int{own::kPoolReleaseThreshold} == int{CU_MEMPOOL_ATTR_RELEASE_THRESHOLD});
static_assert(int{own::kPoolUsedHigh} == int{CU_MEMPOOL_ATTR_USED_MEM_HIGH});
static_assert(int{own::kPointerMemoryType} == int{CU_POINTER_ATTRIBUTE_MEMORY_TYPE});
static_assert(int{own::kPointerSyncMemops} == int{CU_POINTER_ATTRIBUTE_SYNC_MEMOPS});
static_assert(int{own::kPointerIsIpcCapable} ==
              int{CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE});
static_assert(int{own::kPointerMappingBase} == int{CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR});
static_assert(own::kIpcLazyPeerAccess == CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
static_assert(own::kWaitNor == CU_STREAM_WAIT_VALUE_NOR &&
              own::kWaitFlush == CU_STREAM_WAIT_VALUE_FLUSH);
static_assert(int{own::kCaptureBroken} == int{CU_STREAM_CAPTURE_STATUS_INVALIDATED});
static_assert(int{own::kCaptureRelaxed} == int{CU_STREAM_CAPTURE_MODE_RELAXED});
static_assert(int{own::kNodeEmpty} == int{CU_GRAPH_NODE_TYPE_EMPTY} &&
              int{own::kNodeValue} == int{CU_GRAPH_NODE_TYPE_BATCH_MEM_OP});
static_assert(own::kLaunchCooperative == CU_LAUNCH_ATTRIBUTE_COOPERATIVE);
static_assert(own::kLaunchCluster == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);

static_assert(sizeof(own::Copy2d) == sizeof(CUDA_MEMCPY2D));
static_assert(offsetof(own::Copy2d, to_x) == offsetof(CUDA_MEMCPY2D, dstXInBytes));
static_assert(offsetof(own::Copy2d, width) == offsetof(CUDA_MEMCPY2D, WidthInBytes));
static_assert(sizeof(own::PoolProps) == sizeof(CUmemPoolProps));
static_assert(offsetof(own::PoolProps, most_bytes) == offsetof(CUmemPoolProps, maxSize));
static_assert(sizeof(own::LaunchAttribute) == sizeof(CUlaunchAttribute));
static_assert(offsetof(own::LaunchAttribute, value) == offsetof(CUlaunchAttribute, value));
static_assert(sizeof(own::LaunchConfig) == sizeof(CUlaunchConfig));
static_assert(offsetof(own::LaunchConfig, stream) == offsetof(CUlaunchConfig, hStream));
#endif

TEST_CASE("own declarations agree with CUDA's header") { CHECK(CUDA_VERSION >= 11040); }
#else
TEST_CASE("own declarations agree with CUDA's header") { MESSAGE("skipped: no cuda.h"); }
#endif
