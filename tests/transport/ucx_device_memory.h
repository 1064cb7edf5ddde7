// Whether the loaded UCX takes memory of CUDA devices: what the transport asks, too.
#pragma once

#include <string>

namespace causeway::test {

// Throws std::runtime_error if UCX does not start.
[[nodiscard]] bool ucx_takes_device_memory();
[[nodiscard]] std::string ucx_version();  // "1.13.1"

}  // namespace causeway::test
