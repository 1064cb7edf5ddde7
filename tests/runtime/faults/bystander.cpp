#include "bystander.h"

#include <fmt/format.h>

#include <chrono>
#include <random>
#include <stdexcept>

namespace causeway::test {

using namespace std::chrono_literals;

Bystander::Bystander(Daemons& daemons) : daemons_(daemons) { begin_anew(); }

void Bystander::begin_anew() {
  held_.clear();
  pool_.reset();
  pool_ = Pool::connect({.address = daemons_.control('a'),
                         .token = Daemons::token(),
                         .client_name = "bystander",
                         .timeout = 10s});
  std::mt19937_64 random(pool_->session());
  for (const char node : {'a', 'b', 'c'}) {
    auto& held = held_[node];
    const auto device = DeviceName::parse(std::string(1, node) + "/gpu0");
    held.secret = pool_->allocate(kBytesPerNode / 2, {.only = {device}});
    held.scratch = pool_->allocate(kBytesPerNode / 2, {.only = {device}});
    held.bytes.resize(kBytesPerNode / 2);
    for (auto& byte : held.bytes) byte = static_cast<std::byte>(random());
    held.secret.write(0, held.bytes);
  }
}

void Bystander::check(const std::string& gone) {
  bool is_whole = true;
  for (auto& [node, held] : held_) {
    std::vector<std::byte> got(held.bytes.size());
    try {
      held.secret.read(0, got);
    } catch (const Error& error) {
      if (gone.find(node) == std::string::npos)
        throw std::runtime_error(
            fmt::format("a bystander's region on {} is lost: {}", node, error.what()));
      is_whole = false;
      continue;
    }
    if (got != held.bytes)
      throw std::runtime_error(fmt::format("a bystander's region on {} was changed", node));
  }
  try {
    static_cast<void>(pool_->status());
  } catch (const Error& error) {
    if (gone.find('a') == std::string::npos)
      throw std::runtime_error(fmt::format("a bystander lost its daemon: {}", error.what()));
    is_whole = false;
  }
  if (!is_whole) begin_anew();
}

void Bystander::introduce_nodes() {
  for (auto& [from, source] : held_)
    for (auto& [to, target] : held_)
      if (from != to) pool_->copy(target.scratch, 0, source.secret, 0, 64 * 1024);
}

std::string Bystander::region(char node) const {
  return fmt::format("{:016x}", held_.at(node).secret.id());
}

std::string Bystander::session() const { return fmt::format("{:016x}", pool_->session()); }

}  // namespace causeway::test
