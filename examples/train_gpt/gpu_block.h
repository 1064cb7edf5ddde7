// The few words that a kernel is written in, for the CUDA compiler and for the host's.
//
// Shape:   a block has kThreads threads, and a kernel is the code of one block, in phases.
//          each_thread() runs its body once for every thread, first_threads() for some, and both
//          end with a barrier. What threads share (GPU_SHARED) and what each keeps from phase to
//          phase (PerThread) is declared outside of phases. Within one phase no thread reads what
//          another writes. Between phases there is no branch that threads could take differently.
// Threads: on a GPU the phases are those of CUDA. On the host the threads of a block run one after
//          the other, in an order that must not matter: `descending` turns it round, for tests.
// Source:  loops over threads between barriers: Stratton, Stone and Hwu, "MCUDA", LCPC 2008.
#pragma once

#ifndef __CUDACC__
#include <cmath>
#include <cstddef>
#endif

namespace train_gpt::gpu {

constexpr unsigned kThreads = 256;

#ifdef __CUDACC__

#define GPU_KERNEL extern "C" __global__ void __launch_bounds__(256)
#define GPU_FUNCTION __device__ inline
#define GPU_SHARED __shared__

GPU_FUNCTION unsigned block_index() { return blockIdx.x; }
GPU_FUNCTION unsigned blocks() { return gridDim.x; }
GPU_FUNCTION unsigned batch_index() { return blockIdx.y; }
GPU_FUNCTION unsigned batches() { return gridDim.y; }
GPU_FUNCTION void barrier() { __syncthreads(); }
GPU_FUNCTION float exp(float x) { return expf(x); }
GPU_FUNCTION float log(float x) { return logf(x); }
GPU_FUNCTION float sqrt(float x) { return sqrtf(x); }

template <typename Body>
GPU_FUNCTION void each_thread(Body body) {
  body(threadIdx.x);
  __syncthreads();
}

template <typename Body>
GPU_FUNCTION void first_threads(unsigned count, Body body) {
  if (threadIdx.x < count) body(threadIdx.x);
  __syncthreads();
}

template <typename T>
class PerThread {
 public:
  GPU_FUNCTION T& operator[](unsigned) { return value_; }

 private:
  T value_;
};

#else

#define GPU_KERNEL void
#define GPU_FUNCTION inline
#define GPU_SHARED

// The block that this thread of the host runs.
struct Position {
  unsigned block = 0, blocks = 1, batch = 0, batches = 1;
};
inline thread_local Position position;
inline bool descending = false;

inline unsigned block_index() { return position.block; }
inline unsigned blocks() { return position.blocks; }
inline unsigned batch_index() { return position.batch; }
inline unsigned batches() { return position.batches; }
inline void barrier() {}

template <typename Body>
void first_threads(unsigned count, Body body) {
  if (descending)
    for (unsigned thread = count; thread-- > 0;) body(thread);
  else
    for (unsigned thread = 0; thread < count; ++thread) body(thread);
}

template <typename Body>
void each_thread(Body body) {
  first_threads(kThreads, body);
}

template <typename T>
class PerThread {
 public:
  T& operator[](unsigned thread) { return values_[thread]; }

 private:
  T values_[kThreads];
};

using std::exp, std::log, std::sqrt;

#endif

// body(i) for every i below `count`, dealt to the threads of all blocks.
template <typename Body>
GPU_FUNCTION void each_index(size_t count, Body body) {
  each_thread([&](unsigned thread) {
    const size_t step = size_t{blocks()} * kThreads;
    for (size_t i = size_t{block_index()} * kThreads + thread; i < count; i += step) body(i);
  });
}

// combine() of all parts, in a fixed order; `parts` is used up. Every thread gets it.
template <typename T, typename Combine>
GPU_FUNCTION T reduce(T (&parts)[kThreads], Combine combine) {
  for (unsigned half = kThreads / 2; half > 0; half /= 2)
    first_threads(half, [&](unsigned thread) {
      parts[thread] = combine(parts[thread], parts[thread + half]);
    });
  const T result = parts[0];
  barrier();  // Before anybody writes to the parts again.
  return result;
}

template <typename T>
GPU_FUNCTION T sum(T (&parts)[kThreads]) {
  return reduce(parts, [](T a, T b) { return a + b; });
}

}  // namespace train_gpt::gpu
