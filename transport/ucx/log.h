// UCX prints to standard output, which belongs to the program. Its errors go into ours instead.
//
// Shape:   one handler for the process, set once, unless the user's environment says where UCX is
// to
//          log (UCX_LOG_LEVEL or UCX_LOG_FILE).
// Threads: any.
#pragma once

#include <string>

namespace causeway::ucx {

void keep_log_quiet();

// The newest error that UCX reported on this thread, which is forgotten by this call; or empty.
[[nodiscard]] std::string take_last_error();

}  // namespace causeway::ucx
