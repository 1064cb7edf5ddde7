// The software driver's own calls, for tests; look them up with dlsym.
//
// Shape:   plain C. What is set holds until it is set again, across cuInit().
// Threads: any.
#pragma once

extern "C" {

// The `nth` call from now on (1: the next) that is named `call` (null: any call of the driver that
// may fail) does nothing and returns `result`. 0: no call fails.
void causeway_cuda_fail(const char* call, unsigned long nth, int result);
// True once the failure that was asked for has happened; `name` gets which call it was.
bool causeway_cuda_failed(const char** name);
// How often `call` (null: any that may fail) was made so far.
unsigned long causeway_cuda_calls(const char* call);
// What is held now and would be a leak if the process ended: handles, addresses, allocations,
// streams, events, modules, contexts. `text` (may be null) gets a line for each, cut to fit.
unsigned long causeway_cuda_held(char* text, unsigned long text_size);
// True if the processor cannot touch memory of devices: needs protection keys.
bool causeway_cuda_hides_memory();
}
