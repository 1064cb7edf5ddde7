// The part of NCCL's binary interface that is called: own declarations of the numbers and layouts
// that libnccl.so.2 keeps stable.
//
// Source:  NCCL's user guide and the public header of 2.32.3 (its config structure as of 2.18: a
//          library takes as many bytes of it as `size` says, and its defaults for the rest). Where
//          the header is at hand, tests/transport/nccl_abi_test.cpp compares every number with it.
// Threads: types.
#pragma once

#include <climits>
#include <cstddef>

namespace causeway::nccl {

using Result = int;
constexpr Result kSuccess = 0;
constexpr Result kUnhandledCudaError = 1;
constexpr Result kSystemError = 2;
constexpr Result kInternalError = 3;
constexpr Result kInvalidArgument = 4;
constexpr Result kInvalidUsage = 5;
constexpr Result kRemoteError = 6;
constexpr Result kInProgress = 7;
constexpr Result kTimeout = 8;

using DataType = int;
constexpr DataType kUint8 = 1;
constexpr DataType kInt32 = 2;
constexpr DataType kInt64 = 4;
constexpr DataType kFloat16 = 6;
constexpr DataType kFloat32 = 7;
constexpr DataType kFloat64 = 8;
constexpr DataType kBfloat16 = 9;

using RedOp = int;
constexpr RedOp kSum = 0;
constexpr RedOp kMax = 2;
constexpr RedOp kMin = 3;
constexpr RedOp kAvg = 4;

using Comm = struct CommTag*;
using Stream = struct StreamTag*;  // A cudaStream_t, which is a CUstream.

struct UniqueId {
  char internal[128];
};

// 2.9 and later count MAJOR * 10000 + MINOR * 100 + PATCH.
constexpr int kLeastVersion = 21901;
constexpr unsigned kConfigMagic = 0xcafebeef;
constexpr int kUndefined = INT_MIN;

struct Config {
  std::size_t size = sizeof(Config);
  unsigned magic = kConfigMagic;
  unsigned version = kLeastVersion;  // That of this layout.
  int blocking = kUndefined;
  int cga_cluster_size = kUndefined;
  int min_ctas = kUndefined;
  int max_ctas = kUndefined;
  const char* net_name = nullptr;
  int split_share = kUndefined;
};

// By their names in the library, without "nccl".
struct Functions {
  Result (*GetVersion)(int* version);
  const char* (*GetErrorString)(Result result);
  const char* (*GetLastError)(Comm comm);
  Result (*GetUniqueId)(UniqueId* id);
  Result (*CommInitRankConfig)(Comm* comm, int ranks, UniqueId id, int rank, Config* config);
  Result (*CommGetAsyncError)(Comm comm, Result* result);
  Result (*CommFinalize)(Comm comm);
  Result (*CommDestroy)(Comm comm);
  Result (*CommAbort)(Comm comm);
  Result (*GroupStart)();
  Result (*GroupEnd)();
  Result (*AllReduce)(const void* from, void* to, std::size_t count, DataType type, RedOp op,
                      Comm comm, Stream stream);
  Result (*ReduceScatter)(const void* from, void* to, std::size_t count_each, DataType type,
                          RedOp op, Comm comm, Stream stream);
  Result (*Reduce)(const void* from, void* to, std::size_t count, DataType type, RedOp op, int root,
                   Comm comm, Stream stream);
  Result (*AllGather)(const void* from, void* to, std::size_t count_each, DataType type, Comm comm,
                      Stream stream);
  Result (*Broadcast)(const void* from, void* to, std::size_t count, DataType type, int root,
                      Comm comm, Stream stream);
  Result (*Send)(const void* from, std::size_t count, DataType type, int peer, Comm comm,
                 Stream stream);
  Result (*Recv)(void* to, std::size_t count, DataType type, int peer, Comm comm, Stream stream);
};

}  // namespace causeway::nccl
