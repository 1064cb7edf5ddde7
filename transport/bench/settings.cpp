#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "transport/addresses.h"
#include "transport/bench/bench.h"
#include "transport/transfer/state.h"
#include "transport/ucx/link.h"
#include "transport/ucx/net.h"

namespace causeway::bench {

namespace {

// What addresses hold needs no escape in JSON.
std::string rail(const std::string& address) {
  const auto parsed = ucx::parse_address(address);
  auto interface = ucx::interface_of(parsed);  // Of this machine's own.
  if (interface.empty()) interface = ucx::interface_towards(parsed);
  return R"({"address":")" + parsed.to_string() + R"(","interface":")" + interface + "\"}";
}

}  // namespace

void print_settings(const std::string& addresses) {
  std::string rails;
  for (const auto& address : split_addresses(addresses))
    rails += (rails.empty() ? "" : ",") + rail(address);
  std::string environment;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (std::strncmp(*entry, "UCX_", 4) == 0 && std::strpbrk(*entry, "\"\\\n") == nullptr)
      environment += (environment.empty() ? "\"" : ",\"") + std::string(*entry) + '"';
  std::printf(
      R"({"rails":[%s],"part_bytes":%ju,"window_bytes":%ju,"eager_bytes":%ju,"environment":[%s]})"
      "\n",
      rails.c_str(), static_cast<std::uintmax_t>(kTransferChunkBytes),
      static_cast<std::uintmax_t>(ucx::kWindowBytes), static_cast<std::uintmax_t>(LinkSettings{}.eager_bytes),
      environment.c_str());
}

}  // namespace causeway::bench
