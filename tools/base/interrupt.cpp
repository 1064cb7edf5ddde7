#include "tools/base/interrupt.h"

#include <csignal>

#include "causeway/error.h"

namespace causeway::tools {

namespace {
volatile std::sig_atomic_t interrupted = 0;
}

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigemptyset(&action.sa_mask);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(number, &action, nullptr);
}

bool is_interrupted() noexcept { return interrupted != 0; }

void throw_if_interrupted() {
  if (is_interrupted()) throw Error(Errc::cancelled, "interrupted");
}

}  // namespace causeway::tools
