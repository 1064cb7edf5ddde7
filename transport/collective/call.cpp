#include "transport/collective/call.h"

#include <fmt/format.h>

#include <array>
#include <initializer_list>

namespace causeway::collective {

namespace {

// FNV-1a.
Call make(Call::Kind kind, std::size_t size_bytes, std::initializer_list<std::size_t> facts,
          std::string refused_for) {
  std::uint64_t hash = 0xcbf29ce484222325 + static_cast<std::uint64_t>(kind);
  const auto add = [&hash](std::size_t fact) {
    for (std::size_t i = 0; i < sizeof(fact); ++i, fact >>= 8)
      hash = (hash ^ (fact & 0xff)) * 0x100000001b3;
  };
  add(size_bytes);
  add(refused_for.empty() ? 0 : 1);
  for (const auto fact : facts) add(fact);
  Call call;
  call.kind = kind;
  call.size_bytes = size_bytes;
  call.fingerprint = static_cast<std::uint32_t>(hash ^ (hash >> 32) ^ (hash >> 16));
  call.refused_for = std::move(refused_for);
  return call;
}

// Why values cannot be cut into `parts` shares; empty: they can.
std::string check(std::size_t size_bytes, std::size_t value_bytes, int parts) {
  const auto n = static_cast<std::size_t>(parts);
  if (value_bytes != 0 && size_bytes % n == 0 && size_bytes / n % value_bytes == 0) return {};
  return fmt::format("{} bytes are no multiple of {} values of {} bytes", size_bytes, parts,
                     value_bytes);
}

std::string check(std::size_t size_bytes, const Shares& shares, std::size_t value_bytes,
                  int ranks) {
  if (shares.ranks() == ranks && shares.total_bytes() == size_bytes &&
      shares.value_bytes() == value_bytes)
    return {};
  return fmt::format("{} bytes in values of {} for {} ranks do not go by shares of {} in {} for {}",
                     size_bytes, value_bytes, ranks, shares.total_bytes(), shares.value_bytes(),
                     shares.ranks());
}

std::size_t code_of(const Reduction& how) noexcept {
  return static_cast<std::size_t>(how.type) << 16 | static_cast<std::size_t>(how.op) << 8 |
         (how.in_rank_order ? 1U : 0U);
}

std::size_t code_of(const Shares& shares) noexcept {
  std::size_t code = shares.value_bytes();
  for (int r = 0; r < shares.ranks(); ++r) code = code * 0x100000001b3 + shares.begin(r);
  return code;
}

}  // namespace

Call Call::barrier() { return make(Kind::barrier, 0, {}, ""); }

Call Call::broadcast(std::size_t size_bytes, int root, int ranks) {
  return make(
      Kind::broadcast, size_bytes, {static_cast<std::size_t>(root)},
      root >= 0 && root < ranks ? "" : fmt::format("there is no rank {} among {}", root, ranks));
}

Call Call::all_reduce(std::size_t size_bytes, const Reduction& how) {
  return make(Kind::all_reduce, size_bytes, {code_of(how)},
              check(size_bytes, size_of(how.type), 1));
}

Call Call::reduce_scatter(std::size_t size_bytes, const Shares& shares, const Reduction& how,
                          int ranks) {
  return make(Kind::reduce_scatter, size_bytes, {code_of(how), code_of(shares)},
              check(size_bytes, shares, size_of(how.type), ranks));
}

Call Call::all_gather(std::size_t size_bytes, const Shares& shares, int ranks) {
  return make(Kind::all_gather, size_bytes, {code_of(shares)},
              check(size_bytes, shares, shares.value_bytes(), ranks));
}

Call Call::all_to_all(std::size_t size_bytes, std::size_t value_bytes, int ranks) {
  return make(Kind::all_to_all, size_bytes, {}, check(size_bytes, value_bytes, ranks));
}

Error Call::refusal() const {
  return {refused_with, fmt::format("{}: {}", name_of(kind), refused_for)};
}

Error missed_turn(Call::Kind kind) {
  return {Errc::timed_out,
          fmt::format("{}: the operation before it did not end in its time", name_of(kind))};
}

std::string_view name_of(Call::Kind kind) noexcept {
  constexpr std::array kNames = {"barrier",        "broadcast",  "all_reduce",
                                 "reduce_scatter", "all_gather", "all_to_all"};
  return kNames.at(static_cast<std::size_t>(kind));
}

}  // namespace causeway::collective
