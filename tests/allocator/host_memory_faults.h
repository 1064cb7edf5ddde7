// The host memory of a test program, counted, and failing where the test says so.
//
// Shape:   link host_memory_faults.cpp into the test: it replaces the global operator new.
// Threads: one.
#pragma once

namespace causeway::test {

inline long allocations = 0;     // So far.
inline long fail_countdown = 0;  // The allocation that brings it to 0 throws std::bad_alloc.

}  // namespace causeway::test
