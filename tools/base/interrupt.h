// Ctrl-C and SIGTERM as an error at the next wait, so that owners on the stack take down what they
// started.
//
// Errors:  throw_if_interrupted() throws Errc::cancelled.
// Threads: the handler only sets a flag; install once, from main.
#pragma once

namespace causeway::tools {

void catch_interrupts();
[[nodiscard]] bool is_interrupted() noexcept;
void throw_if_interrupted();

}  // namespace causeway::tools
