// main() of a test that is also other programs (program.h). After doctest's implementation.
#pragma once

#include <doctest/doctest.h>

#include <csignal>
#include <string>

int run_program(const std::string& name);  // Of the test.

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--program") {
    // The signal itself ends the program, and no sanitizer's exit code.
    std::signal(SIGSEGV, SIG_DFL);
    return run_program(argv[2]);
  }
  return doctest::Context(argc, argv).run();
}
