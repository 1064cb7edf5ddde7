#include "transport/ucx/log.h"

#include <ucs/debug/log_def.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>

namespace causeway::ucx {

namespace {

thread_local std::string last_error;

// The format is UCX's own: it passes what its callers wrote.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
ucs_log_func_rc_t keep(const char*, unsigned, const char*, ucs_log_level_t level,
                       const ucs_log_component_config_t*, const char* format, va_list arguments) {
  if (level == UCS_LOG_LEVEL_FATAL) return UCS_LOG_FUNC_RC_CONTINUE;  // It aborts: let it say why.
  if (level == UCS_LOG_LEVEL_ERROR) {
    std::array<char, 512> text{};
    std::vsnprintf(text.data(), text.size(), format, arguments);
    last_error = text.data();
  }
  return UCS_LOG_FUNC_RC_STOP;
}
#pragma GCC diagnostic pop

}  // namespace

void keep_log_quiet() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (std::getenv("UCX_LOG_LEVEL") == nullptr && std::getenv("UCX_LOG_FILE") == nullptr)
      ucs_log_push_handler(keep);
  });
}

std::string take_last_error() { return std::exchange(last_error, {}); }

}  // namespace causeway::ucx
