// What the software driver exports: the functions of allocator/cuda/abi.h, and these.
//
// Source:  the CUDA driver API reference; compared with cuda.h by cuda_abi_test.cpp.
// Threads: declarations.
#pragma once

#include "allocator/cuda/abi.h"

namespace causeway::cuda {

constexpr Result kPrimaryContextActive = 708;
constexpr Result kHostMemoryAlreadyRegistered = 712;
constexpr Result kHostMemoryNotRegistered = 713;
constexpr Result kPeerAccessNotEnabled = 705;
constexpr Result kCooperativeLaunchTooLarge = 720;
constexpr Result kCaptureUnsupported = 900;
constexpr Result kCaptureInvalidated = 901;
constexpr Result kCaptureMerge = 902;
constexpr Result kCaptureUnmatched = 903;
constexpr Result kCaptureUnjoined = 904;
constexpr Result kCaptureIsolation = 905;
constexpr Result kCaptureImplicit = 906;
constexpr Result kCapturedEvent = 907;
constexpr Result kCaptureWrongThread = 908;

using Module = struct ModuleTag*;
using Library = struct LibraryTag*;
using Function = struct FunctionTag*;
using Kernel = struct FunctionTag*;  // A launch takes either.
using Graph = struct GraphTag*;
using GraphNode = struct GraphNodeTag*;
using GraphExec = struct GraphExecTag*;
using Pool = struct PoolTag*;
using HostFunction = void (*)(void* data);

// A thread's own default stream, and everybody's.
inline const auto kLegacyDefaultStream = reinterpret_cast<Stream>(std::uintptr_t{1});
inline const auto kPerThreadDefaultStream = reinterpret_cast<Stream>(std::uintptr_t{2});
constexpr std::uint64_t kPerThreadStream = 2;  // Of cuGetProcAddress.

constexpr int kMemoryHost = 1;
constexpr int kMemoryDevice = 2;
constexpr int kMemoryUnified = 4;

struct Copy2d {
  std::size_t from_x = 0;  // In bytes.
  std::size_t from_y = 0;
  int from_type = 0;
  const void* from_host = nullptr;
  DevicePtr from_device = 0;
  void* from_array = nullptr;
  std::size_t from_pitch = 0;
  std::size_t to_x = 0;
  std::size_t to_y = 0;
  int to_type = 0;
  void* to_host = nullptr;
  DevicePtr to_device = 0;
  void* to_array = nullptr;
  std::size_t to_pitch = 0;
  std::size_t width = 0;
  std::size_t height = 0;
};

struct PoolProps {
  int type = 0;
  int handle_types = 0;
  Location location;
  void* win32_attributes = nullptr;
  std::size_t most_bytes = 0;
  unsigned short usage = 0;
  unsigned char reserved[54] = {};
};

enum PoolAttribute : int {
  kPoolReuseFollowEvents = 1,
  kPoolReuseOpportunistic = 2,
  kPoolReuseInternal = 3,
  kPoolReleaseThreshold = 4,
  kPoolReservedCurrent = 5,
  kPoolReservedHigh = 6,
  kPoolUsedCurrent = 7,
  kPoolUsedHigh = 8,
};

enum PointerAttribute : int {
  kPointerContext = 1,
  kPointerMemoryType = 2,
  kPointerDevicePointer = 3,
  kPointerHostPointer = 4,
  kPointerSyncMemops = 6,
  kPointerBufferId = 7,
  kPointerIsManaged = 8,
  kPointerDeviceOrdinal = 9,
  kPointerIsIpcCapable = 10,
  kPointerRangeStart = 11,
  kPointerRangeSize = 12,
  kPointerMapped = 13,
  kPointerHandleTypes = 14,
  kPointerIsRdmaCapable = 15,
  kPointerAccessFlags = 16,
  kPointerPool = 17,
  kPointerMappingSize = 18,
  kPointerMappingBase = 19,
};

struct IpcMemHandle {
  char bytes[64] = {};
};
constexpr unsigned kIpcLazyPeerAccess = 1;

constexpr unsigned kWaitGreaterOrEqual = 0;
constexpr unsigned kWaitEqual = 1;
constexpr unsigned kWaitAnd = 2;
constexpr unsigned kWaitNor = 3;
constexpr unsigned kWaitFlush = 1u << 30;

enum CaptureStatus : int { kCaptureNone = 0, kCaptureActive = 1, kCaptureBroken = 2 };
enum CaptureMode : int { kCaptureGlobal = 0, kCaptureThreadLocal = 1, kCaptureRelaxed = 2 };

enum NodeType : int {
  kNodeKernel = 0,
  kNodeCopy = 1,
  kNodeFill = 2,
  kNodeHost = 3,
  kNodeGraph = 4,
  kNodeEmpty = 5,
  kNodeValue = 12,
};

struct LaunchAttribute {
  int id = 0;
  char padding[4] = {};
  union {
    char bytes[64];
    int cooperative;
    unsigned cluster[3];
  } value = {};
};
constexpr int kLaunchCooperative = 2;
constexpr int kLaunchCluster = 4;
constexpr int kMostLaunchAttribute = 14;

struct LaunchConfig {
  unsigned grid[3] = {};
  unsigned block[3] = {};
  unsigned shared_bytes = 0;
  Stream stream = nullptr;
  LaunchAttribute* attributes = nullptr;
  unsigned attribute_count = 0;
};

// In the `extra` of a launch: an image of all parameters.
inline void* const kExtraEnd = nullptr;
inline void* const kExtraBuffer = reinterpret_cast<void*>(std::uintptr_t{1});
inline void* const kExtraSize = reinterpret_cast<void*>(std::uintptr_t{2});

}  // namespace causeway::cuda

// X as in CAUSEWAY_CUDA_FUNCTIONS.
#define CAUSEWAY_EMULATOR_FUNCTIONS(X)                                                             \
  X(cuGetExportTable, , 3000, (const void** table, const Uuid* id))                                \
  X(cuDeviceGetP2PAttribute, , 8000, (int* value, int attribute, Device from, Device to))          \
  X(cuDeviceGetDefaultMemPool, , 11020, (Pool * pool, Device device))                              \
  X(cuDeviceGetMemPool, , 11020, (Pool * pool, Device device))                                     \
  X(cuDeviceSetMemPool, , 11020, (Device device, Pool pool))                                       \
  X(cuDevicePrimaryCtxGetState, , 7000, (Device device, unsigned* flags, int* active))             \
  X(cuDevicePrimaryCtxSetFlags, _v2, 11000, (Device device, unsigned flags))                       \
  X(cuDevicePrimaryCtxReset, _v2, 11000, (Device device))                                          \
  X(cuCtxDestroy, _v2, 4000, (Context context))                                                    \
  X(cuCtxGetCurrent, , 4000, (Context * context))                                                  \
  X(cuCtxGetDevice, , 2000, (Device * device))                                                     \
  X(cuCtxGetFlags, , 7000, (unsigned* flags))                                                      \
  X(cuCtxGetApiVersion, , 3020, (Context context, unsigned* version))                              \
  X(cuCtxGetStreamPriorityRange, , 5050, (int* least, int* greatest))                              \
  X(cuCtxEnablePeerAccess, , 4000, (Context peer, unsigned flags))                                 \
  X(cuCtxDisablePeerAccess, , 4000, (Context peer))                                                \
  X(cuMemAllocPitch, _v2, 3020,                                                                    \
    (DevicePtr * at, std::size_t * pitch, std::size_t width, std::size_t height,                   \
     unsigned element))                                                                            \
  X(cuMemGetAddressRange, _v2, 3020, (DevicePtr * base, std::size_t * size, DevicePtr at))         \
  X(cuMemAllocHost, _v2, 3020, (void** at, std::size_t size))                                      \
  X(cuMemHostGetDevicePointer, _v2, 3020, (DevicePtr * to, void* at, unsigned flags))              \
  X(cuMemHostGetFlags, , 2030, (unsigned* flags, void* at))                                        \
  X(cuMemHostRegister, _v2, 6050, (void* at, std::size_t size, unsigned flags))                    \
  X(cuMemHostUnregister, , 4000, (void* at))                                                       \
  X(cuPointerGetAttribute, , 4000, (void* data, PointerAttribute attribute, DevicePtr at))         \
  X(cuPointerGetAttributes, , 7000,                                                                \
    (unsigned count, PointerAttribute* attributes, void** data, DevicePtr at))                     \
  X(cuMemcpy, , 4000, (DevicePtr to, DevicePtr from, std::size_t size))                            \
  X(cuMemcpyDtoD, _v2, 3020, (DevicePtr to, DevicePtr from, std::size_t size))                     \
  X(cuMemcpyPeer, , 4000,                                                                          \
    (DevicePtr to, Context to_context, DevicePtr from, Context from_context, std::size_t size))    \
  X(cuMemcpyPeerAsync, , 4000,                                                                     \
    (DevicePtr to, Context to_context, DevicePtr from, Context from_context, std::size_t size,     \
     Stream stream))                                                                               \
  X(cuMemcpy2D, _v2, 3020, (const Copy2d* copy))                                                   \
  X(cuMemcpy2DUnaligned, _v2, 3020, (const Copy2d* copy))                                          \
  X(cuMemcpy2DAsync, _v2, 3020, (const Copy2d* copy, Stream stream))                               \
  X(cuMemsetD8, _v2, 3020, (DevicePtr to, unsigned char value, std::size_t count))                 \
  X(cuMemsetD16, _v2, 3020, (DevicePtr to, unsigned short value, std::size_t count))               \
  X(cuMemsetD32, _v2, 3020, (DevicePtr to, unsigned value, std::size_t count))                     \
  X(cuMemsetD16Async, , 3020,                                                                      \
    (DevicePtr to, unsigned short value, std::size_t count, Stream stream))                        \
  X(cuMemsetD32Async, , 3020, (DevicePtr to, unsigned value, std::size_t count, Stream stream))    \
  X(cuMemAllocAsync, , 11020, (DevicePtr * at, std::size_t size, Stream stream))                   \
  X(cuMemAllocFromPoolAsync, , 11020,                                                              \
    (DevicePtr * at, std::size_t size, Pool pool, Stream stream))                                  \
  X(cuMemFreeAsync, , 11020, (DevicePtr at, Stream stream))                                        \
  X(cuMemPoolCreate, , 11020, (Pool * pool, const PoolProps* props))                               \
  X(cuMemPoolDestroy, , 11020, (Pool pool))                                                        \
  X(cuMemPoolTrimTo, , 11020, (Pool pool, std::size_t keep))                                       \
  X(cuMemPoolSetAttribute, , 11020, (Pool pool, PoolAttribute attribute, void* value))             \
  X(cuMemPoolGetAttribute, , 11020, (Pool pool, PoolAttribute attribute, void* value))             \
  X(cuMemPoolSetAccess, , 11020, (Pool pool, const AccessDesc* access, std::size_t count))         \
  X(cuMemPoolGetAccess, , 11020, (int* flags, Pool pool, Location* location))                      \
  X(cuIpcGetMemHandle, , 4010, (IpcMemHandle * handle, DevicePtr at))                              \
  X(cuIpcOpenMemHandle, _v2, 11000, (DevicePtr * at, IpcMemHandle handle, unsigned flags))         \
  X(cuIpcCloseMemHandle, , 4010, (DevicePtr at))                                                   \
  X(cuStreamCreateWithPriority, , 5050, (Stream * stream, unsigned flags, int priority))           \
  X(cuStreamGetPriority, , 5050, (Stream stream, int* priority))                                   \
  X(cuStreamGetFlags, , 5050, (Stream stream, unsigned* flags))                                    \
  X(cuStreamGetCtx, , 9020, (Stream stream, Context * context))                                    \
  X(cuStreamGetId, , 12000, (Stream stream, unsigned long long* id))                               \
  X(cuStreamWaitValue32, _v2, 11070,                                                               \
    (Stream stream, DevicePtr at, std::uint32_t value, unsigned flags))                            \
  X(cuStreamWaitValue64, _v2, 11070,                                                               \
    (Stream stream, DevicePtr at, std::uint64_t value, unsigned flags))                            \
  X(cuStreamWriteValue32, _v2, 11070,                                                              \
    (Stream stream, DevicePtr at, std::uint32_t value, unsigned flags))                            \
  X(cuStreamWriteValue64, _v2, 11070,                                                              \
    (Stream stream, DevicePtr at, std::uint64_t value, unsigned flags))                            \
  X(cuLaunchHostFunc, , 10000, (Stream stream, HostFunction function, void* data))                 \
  X(cuEventRecordWithFlags, , 11010, (Event event, Stream stream, unsigned flags))                 \
  X(cuStreamBeginCapture, _v2, 10010, (Stream stream, CaptureMode mode))                           \
  X(cuStreamEndCapture, , 10000, (Stream stream, Graph * graph))                                   \
  X(cuStreamIsCapturing, , 10000, (Stream stream, CaptureStatus * status))                         \
  X(cuThreadExchangeStreamCaptureMode, , 10010, (CaptureMode * mode))                              \
  X(cuGraphCreate, , 10000, (Graph * graph, unsigned flags))                                       \
  X(cuGraphDestroy, , 10000, (Graph graph))                                                        \
  X(cuGraphGetNodes, , 10000, (Graph graph, GraphNode * nodes, std::size_t * count))               \
  X(cuGraphNodeGetType, , 10000, (GraphNode node, NodeType * type))                                \
  X(cuGraphInstantiateWithFlags, , 11040,                                                          \
    (GraphExec * executable, Graph graph, unsigned long long flags))                               \
  X(cuGraphLaunch, , 10000, (GraphExec executable, Stream stream))                                 \
  X(cuGraphExecDestroy, , 10000, (GraphExec executable))                                           \
  X(cuModuleLoadData, , 2000, (Module * module, const void* image))                                \
  X(cuModuleLoadDataEx, , 2010,                                                                    \
    (Module * module, const void* image, unsigned count, int* options, void** values))             \
  X(cuModuleUnload, , 2000, (Module module))                                                       \
  X(cuModuleGetFunction, , 2000, (Function * function, Module module, const char* name))           \
  X(cuLibraryLoadData, , 12000,                                                                    \
    (Library * library, const void* code, int* jit_options, void** jit_values, unsigned jit_count, \
     int* options, void** values, unsigned count))                                                 \
  X(cuLibraryUnload, , 12000, (Library library))                                                   \
  X(cuLibraryGetKernel, , 12000, (Kernel * kernel, Library library, const char* name))             \
  X(cuLibraryGetModule, , 12000, (Module * module, Library library))                               \
  X(cuKernelGetFunction, , 12000, (Function * function, Kernel kernel))                            \
  X(cuKernelGetParamInfo, , 12040,                                                                 \
    (Kernel kernel, std::size_t index, std::size_t * offset, std::size_t * size))                  \
  X(cuFuncGetParamInfo, , 12040,                                                                   \
    (Function function, std::size_t index, std::size_t * offset, std::size_t * size))              \
  X(cuFuncGetAttribute, , 2020, (int* value, int attribute, Function function))                    \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, , 6050,                                           \
    (int* blocks, Function function, int block_size, std::size_t shared_bytes))                    \
  X(cuLaunchKernel, , 4000,                                                                        \
    (Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,       \
     unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters,  \
     void** extra))                                                                                \
  X(cuLaunchKernelEx, , 11060,                                                                     \
    (const LaunchConfig* config, Function function, void** parameters, void** extra))              \
  X(cuLaunchCooperativeKernel, , 9000,                                                             \
    (Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,       \
     unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters))

// The same for signatures that newer headers have under another suffix: not compared with cuda.h.
#define CAUSEWAY_EMULATOR_VERSIONED_FUNCTIONS(X)                                \
  X(cuCtxCreate, _v2, 3020, (Context * context, unsigned flags, Device device)) \
  X(cuStreamGetCaptureInfo, _v2, 11030,                                         \
    (Stream stream, CaptureStatus * status, std::uint64_t * id, Graph * graph,  \
     const GraphNode** dependencies, std::size_t* count))                       \
  X(cuStreamGetCaptureInfo, _v3, 12030,                                         \
    (Stream stream, CaptureStatus * status, std::uint64_t * id, Graph * graph,  \
     const GraphNode** dependencies, const void** edges, std::size_t* count))
