// The kernels of the conformance suite and of the benchmarks, for whichever driver is loaded.
//
// Shape:   text of PTX, which a real driver compiles when it is loaded; for the software driver an
//          image of host functions of the same names and parameters. The cases see neither.
// Threads: immutable.
#pragma once

namespace causeway::conformance {

// fill(u64 out, u32 first, u32 count)         out[i] = first + i
// follow(u64 where, u64 out)                  *out = **where, where `where` holds an address
// touch(u64 at)                               *at = *at, 4 bytes
// wait_flag(u64 flag, u64 out)                spins until *flag != 0; *out = 1
// mixed(u8, u32, u64, struct of two u64, u64 out)   out[0..4] = its parameters
// read_all(u64 in, u64 out, u64 count)        reads count x 16 bytes; *out ^= all of their words
const void* kernel_image(bool is_software_driver);

}  // namespace causeway::conformance
