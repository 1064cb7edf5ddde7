// The log of a program that must not wait for whoever reads it.
//
// Shape:   lines go to standard output, each at once and whole. One that does not fit (a full disk,
//          a pipe that nobody reads, a terminal that is held) is dropped, and the next that fits
//          comes behind a line that says how many were.
// Errors:  none: what cannot be logged is not.
// Cost:    one system call per line.
// Threads: any, after log_without_waiting().
#pragma once

namespace causeway::tools {

// From now on spdlog's default logger writes this way.
void log_without_waiting();

}  // namespace causeway::tools
