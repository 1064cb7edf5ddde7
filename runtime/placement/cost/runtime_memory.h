// Memory of a device that is no part of any model: what a process takes by being there, and what an
// allocator cannot use. Named, so that a plan can say what it left free and why.
//
// Units:   bytes; shares of what is counted.
// Threads: constants and a plain function.
// Source:  workspace: cuBLAS documentation, cublasSetWorkspace (32 MiB from Hopper on, 4 MiB
// before)
//          and PyTorch's default of two buffers of 4 MiB; context: what a process with the CUDA
//          libraries loaded takes, 0.3 to 0.6 GB by card; fragmentation: fitted to half of the
//          Sailor plans (docs/planner.md), of which the other half is 1.5% off.
#pragma once

#include <cstdint>
#include <string_view>

#include "causeway/plan.h"

namespace causeway {

inline constexpr double kContextBytes = 0.4e9;
inline constexpr double kHopperWorkspaceBytes = 32.0 * (1 << 20);
inline constexpr double kWorkspaceBytes = 8.1 * (1 << 20);
inline constexpr double kFragmentation = kDefaultMargin;

// Context and library workspaces of one process on a card of this model that has `capacity_bytes`.
// An emulated card with less than the catalogue's memory is taken to be scaled down as a whole. 0
// for what is no GPU of the catalogue: host memory, unknown cards.
[[nodiscard]] std::uint64_t runtime_reserve_bytes(std::string_view gpu,
                                                  std::uint64_t capacity_bytes) noexcept;

}  // namespace causeway
