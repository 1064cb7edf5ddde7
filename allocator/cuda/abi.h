// The part of the CUDA driver's binary interface that is called: own declarations of the numbers,
// layouts and signatures that libcuda.so.1 keeps stable, so that nothing needs the CUDA Toolkit.
//
// Source:  the CUDA driver API reference. Where cuda.h is at hand when the tests are built,
//          tests/allocator/cuda/cuda_abi_test.cpp compares all of it with that header.
// Threads: types.
#pragma once

#include <cstddef>
#include <cstdint>

namespace causeway::cuda {

using Result = int;
constexpr Result kSuccess = 0;
constexpr Result kInvalidValue = 1;
constexpr Result kOutOfMemory = 2;
constexpr Result kNotInitialized = 3;
constexpr Result kDeinitialized = 4;
constexpr Result kStubLibrary = 34;
constexpr Result kDeviceUnavailable = 46;
constexpr Result kNoDevice = 100;
constexpr Result kInvalidDevice = 101;
constexpr Result kInvalidImage = 200;
constexpr Result kInvalidContext = 201;
constexpr Result kEccUncorrectable = 214;
constexpr Result kPeerAccessUnsupported = 217;
constexpr Result kOperatingSystem = 304;
constexpr Result kInvalidHandle = 400;
constexpr Result kIllegalState = 401;
constexpr Result kNotFound = 500;
constexpr Result kNotReady = 600;
constexpr Result kIllegalAddress = 700;
constexpr Result kPeerAccessAlreadyEnabled = 704;
constexpr Result kContextIsDestroyed = 709;
constexpr Result kLaunchFailed = 719;
constexpr Result kNotPermitted = 800;
constexpr Result kNotSupported = 801;
constexpr Result kSystemNotReady = 802;
constexpr Result kSystemDriverMismatch = 803;
constexpr Result kUnknown = 999;

using Device = int;  // What cuDeviceGet() gives for an ordinal.
using DevicePtr = std::uint64_t;
using Handle = std::uint64_t;  // CUmemGenericAllocationHandle
using Context = struct ContextTag*;
using Stream = struct StreamTag*;
using Event = struct EventTag*;

struct Uuid {
  unsigned char bytes[16];
};

using DeviceAttribute = int;
constexpr DeviceAttribute kAttributeComputeMajor = 75;
constexpr DeviceAttribute kAttributeComputeMinor = 76;
constexpr DeviceAttribute kAttributeVmm = 102;
constexpr DeviceAttribute kAttributePosixFd = 103;
constexpr DeviceAttribute kAttributeHostNumaId = 134;
constexpr DeviceAttribute kAttributeHostNumaVmm = 141;

using LocationType = int;
constexpr LocationType kLocationDevice = 1;
constexpr LocationType kLocationHostNuma = 3;

struct Location {
  LocationType type = 0;
  int id = 0;
  bool operator==(const Location&) const = default;
};

constexpr int kHandleTypePosixFd = 1;
constexpr int kAllocationPinned = 1;
constexpr int kGranularityMinimum = 0;

struct AllocationProp {
  int type = 0;
  int handle_types = 0;
  Location location;
  void* win32_metadata = nullptr;
  struct {
    unsigned char compression = 0;
    unsigned char gpu_direct_rdma = 0;
    unsigned short usage = 0;
    unsigned char reserved[4] = {};
  } flags;
};

constexpr int kAccessNone = 0;
constexpr int kAccessRead = 1;
constexpr int kAccessReadWrite = 3;

struct AccessDesc {
  Location location;
  int flags = kAccessNone;
};

constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventBlockingSync = 1;
constexpr unsigned kEventDisableTiming = 2;
constexpr unsigned kHostAllocPortable = 1;  // Pinned for every context, not only the current one.
constexpr std::uint64_t kLegacyStream = 1;  // Of cuGetProcAddress: not the per-thread twins.

using GetProcAddress = Result (*)(const char* name, void** into, int version, std::uint64_t flags);
using GetProcAddressV2 = Result (*)(const char* name, void** into, int version, std::uint64_t flags,
                                    int* status);

// The first driver with every function below.
constexpr int kLeastVersion = 11040;

// X(name, suffix of the symbol, the API version that has this signature, parameters)
#define CAUSEWAY_CUDA_FUNCTIONS(X)                                                                 \
  X(cuInit, , 2000, (unsigned flags))                                                              \
  X(cuDriverGetVersion, , 2020, (int* version))                                                    \
  X(cuGetErrorName, , 6000, (Result result, const char** name))                                    \
  X(cuGetErrorString, , 6000, (Result result, const char** text))                                  \
  X(cuDeviceGet, , 2000, (Device * device, int ordinal))                                           \
  X(cuDeviceGetCount, , 2000, (int* count))                                                        \
  X(cuDeviceGetName, , 2000, (char* name, int size, Device device))                                \
  X(cuDeviceGetPCIBusId, , 4010, (char* id, int size, Device device))                              \
  X(cuDeviceGetUuid, _v2, 11040, (Uuid * uuid, Device device))                                     \
  X(cuDeviceTotalMem, _v2, 3020, (std::size_t * bytes, Device device))                             \
  X(cuDeviceGetAttribute, , 2000, (int* value, DeviceAttribute attribute, Device device))          \
  X(cuDeviceCanAccessPeer, , 4000, (int* can, Device device, Device peer))                         \
  X(cuDevicePrimaryCtxRetain, , 7000, (Context * context, Device device))                          \
  X(cuDevicePrimaryCtxRelease, _v2, 11000, (Device device))                                        \
  X(cuCtxPushCurrent, _v2, 4000, (Context context))                                                \
  X(cuCtxPopCurrent, _v2, 4000, (Context * context))                                               \
  X(cuCtxSetCurrent, , 4000, (Context context))                                                    \
  X(cuCtxSynchronize, , 2000, (void))                                                              \
  X(cuMemGetInfo, _v2, 3020, (std::size_t * free, std::size_t * total))                            \
  X(cuMemAddressReserve, , 10020,                                                                  \
    (DevicePtr * at, std::size_t size, std::size_t alignment, DevicePtr hint,                      \
     unsigned long long flags))                                                                    \
  X(cuMemAddressFree, , 10020, (DevicePtr at, std::size_t size))                                   \
  X(cuMemCreate, , 10020,                                                                          \
    (Handle * handle, std::size_t size, const AllocationProp* prop, unsigned long long flags))     \
  X(cuMemRelease, , 10020, (Handle handle))                                                        \
  X(cuMemMap, , 10020,                                                                             \
    (DevicePtr at, std::size_t size, std::size_t offset, Handle handle, unsigned long long flags)) \
  X(cuMemUnmap, , 10020, (DevicePtr at, std::size_t size))                                         \
  X(cuMemSetAccess, , 10020,                                                                       \
    (DevicePtr at, std::size_t size, const AccessDesc* desc, std::size_t count))                   \
  X(cuMemGetAccess, , 10020, (unsigned long long* flags, const Location* location, DevicePtr at))  \
  X(cuMemGetAllocationGranularity, , 10020,                                                        \
    (std::size_t * granularity, const AllocationProp* prop, int option))                           \
  X(cuMemGetAllocationPropertiesFromHandle, , 10020, (AllocationProp * prop, Handle handle))       \
  X(cuMemRetainAllocationHandle, , 11000, (Handle * handle, void* at))                             \
  X(cuMemExportToShareableHandle, , 10020,                                                         \
    (void* shareable, Handle handle, int type, unsigned long long flags))                          \
  X(cuMemImportFromShareableHandle, , 10020, (Handle * handle, void* shareable, int type))         \
  X(cuMemAlloc, _v2, 3020, (DevicePtr * at, std::size_t size))                                     \
  X(cuMemFree, _v2, 3020, (DevicePtr at))                                                          \
  X(cuMemHostAlloc, , 2020, (void** at, std::size_t size, unsigned flags))                         \
  X(cuMemFreeHost, , 2000, (void* at))                                                             \
  X(cuMemcpyHtoD, _v2, 3020, (DevicePtr to, const void* from, std::size_t size))                   \
  X(cuMemcpyDtoH, _v2, 3020, (void* to, DevicePtr from, std::size_t size))                         \
  X(cuMemcpyAsync, , 4000, (DevicePtr to, DevicePtr from, std::size_t size, Stream stream))        \
  X(cuMemcpyHtoDAsync, _v2, 3020,                                                                  \
    (DevicePtr to, const void* from, std::size_t size, Stream stream))                             \
  X(cuMemcpyDtoHAsync, _v2, 3020, (void* to, DevicePtr from, std::size_t size, Stream stream))     \
  X(cuMemcpyDtoDAsync, _v2, 3020, (DevicePtr to, DevicePtr from, std::size_t size, Stream stream)) \
  X(cuMemsetD8Async, , 3020, (DevicePtr to, unsigned char value, std::size_t size, Stream stream)) \
  X(cuStreamCreate, , 2000, (Stream * stream, unsigned flags))                                     \
  X(cuStreamDestroy, _v2, 4000, (Stream stream))                                                   \
  X(cuStreamSynchronize, , 2000, (Stream stream))                                                  \
  X(cuStreamQuery, , 2000, (Stream stream))                                                        \
  X(cuStreamWaitEvent, , 3020, (Stream stream, Event event, unsigned flags))                       \
  X(cuEventCreate, , 2000, (Event * event, unsigned flags))                                        \
  X(cuEventDestroy, _v2, 4000, (Event event))                                                      \
  X(cuEventRecord, , 2000, (Event event, Stream stream))                                           \
  X(cuEventQuery, , 2000, (Event event))                                                           \
  X(cuEventSynchronize, , 2000, (Event event))                                                     \
  X(cuEventElapsedTime, , 2000, (float* milliseconds, Event start, Event end))

struct Functions {
#define CAUSEWAY_CUDA_MEMBER(name, suffix, version, parameters) Result(*name) parameters = nullptr;
  CAUSEWAY_CUDA_FUNCTIONS(CAUSEWAY_CUDA_MEMBER)
#undef CAUSEWAY_CUDA_MEMBER
};

}  // namespace causeway::cuda
