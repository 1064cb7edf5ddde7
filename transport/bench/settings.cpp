#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "transport/bench/bench.h"
#include "transport/ucx/link.h"
#include "transport/ucx/net.h"

namespace causeway::bench {

void print_settings(const std::string& address) {
  const auto parsed = ucx::parse_address(address);
  auto interface = ucx::interface_of(parsed);
  if (interface.empty()) interface = ucx::interface_towards(parsed);
  std::string environment;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (std::strncmp(*entry, "UCX_", 4) == 0 && std::strpbrk(*entry, "\"\\\n") == nullptr)
      environment += (environment.empty() ? "\"" : ",\"") + std::string(*entry) + '"';
  std::printf(
      R"({"interface":"%s","part_bytes":%ju,"window_bytes":%ju,"eager_bytes":%ju,"environment":[%s]})"
      "\n",
      interface.c_str(), static_cast<std::uintmax_t>(ucx::kChunkBytes),
      static_cast<std::uintmax_t>(ucx::kWindowBytes), static_cast<std::uintmax_t>(ucx::kEagerBytes),
      environment.c_str());
}

}  // namespace causeway::bench
