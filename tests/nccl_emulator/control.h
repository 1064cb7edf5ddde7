// How a test steers the software libnccl.so.2 and its device: functions that the library exports
// beside NCCL's, to be found by dlsym.
//
// Shape:   one world per process; reset() begins a new one. Time is in polls: what takes time is
//          done after so many calls of ncclCommGetAsyncError.
// Errors:  what NCCL forbids its callers is a violation: it is counted and its first one kept.
// Threads: any.
#pragma once

#include <cstddef>

extern "C" {

struct NcclEmulatorFaults {
  int fail_call = 0;        // The n-th of all calls fails, NCCL's and the device's; 0: none.
  int fail_result = 0;      // With this result.
  int fail_async_rank = 0;  // This rank's communicator fails...
  int fail_async_poll = 0;  // ...at its n-th poll in all; 0: none.
  int is_hung = 0;          // What is on a stream never runs, until an abort.
  int is_abort_hung = 0;    // ncclCommAbort does not return until this is 0 again.
  int is_begin_hung = 0;    // ncclCommInitRankConfig does not, either.
  int version = 0;          // 0: that of the file.
  int polls = 0;            // That a begin, a launch and an end take.
};

void nccl_emulator_reset(const NcclEmulatorFaults* faults);
void nccl_emulator_set(const NcclEmulatorFaults* faults);  // Other faults, same world.
int nccl_emulator_calls();                                 // In this world so far.
int nccl_emulator_is_fault_spent();                        // The n-th call was made.
int nccl_emulator_live();       // Communicators that were neither aborted nor destroyed.
int nccl_emulator_aborts();     // In this world so far.
int nccl_emulator_destroyed();  // In order.
int nccl_emulator_violations(char* text, std::size_t size);
// The calling thread runs an event loop: no call that may block.
void nccl_emulator_this_is_a_loop();

// Instead of its own device: streams of a CUDA driver. What is launched is a host function on them
// that ends when all ranks have come. Null: its own again.
struct NcclEmulatorCuda {
  int (*launch_host_func)(void* stream, void (*function)(void*), void* data);
  int (*get_current)(void** context);
};
void nccl_emulator_use_cuda(const NcclEmulatorCuda* driver);

// The device: its memory is the host's. Calls that can fail return 0 if they did not.
int nccl_emulator_make_current(void* stream);
void* nccl_emulator_stream();
void nccl_emulator_free_stream(void* stream);
int nccl_emulator_copy(void* stream, void* to, const void* from, std::size_t size);
int nccl_emulator_mark(void* stream);
int nccl_emulator_is_reached(void* stream, int* is_reached);

}  // extern "C"
