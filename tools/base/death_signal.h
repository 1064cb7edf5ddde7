// For the child between fork and exec: its death with its parent, asked of the kernel.
//
// Errors:  false, with nothing asked for, if the kernel refuses; false if the parent has died
//          already. The child should end then.
// Threads: async-signal-safe. The "parent" of the kernel is the thread that forked: it must be one
//          that lives as long as the child may.
// Source:  PR_SET_PDEATHSIG: prctl(2). The child's own children do not inherit it.
#pragma once

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>

namespace causeway::tools {

// SIGKILL when `parent`, which forked, ends, however it ends.
inline bool die_with(pid_t parent) noexcept {
  return ::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && ::getppid() == parent;
}

}  // namespace causeway::tools
