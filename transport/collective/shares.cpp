#include "transport/collective/shares.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "allocator/error.h"

namespace causeway {

namespace {
std::size_t count_of(std::size_t size_bytes, std::size_t value_bytes) {
  if (value_bytes == 0 || size_bytes % value_bytes != 0)
    throw Error(Errc::invalid_argument, fmt::format("{} bytes are no whole number of values of {}",
                                                    size_bytes, value_bytes));
  return size_bytes / value_bytes;
}
}  // namespace

Shares Shares::equal(std::size_t size_bytes, std::size_t value_bytes, int ranks) {
  if (ranks < 1) throw Error(Errc::invalid_argument, "shares for nobody");
  const auto n = static_cast<std::size_t>(ranks);
  const auto count = count_of(size_bytes, value_bytes);
  Shares shares(value_bytes, n);
  for (std::size_t r = 0; r <= n; ++r)
    shares.begins_[r] = (count / n * r + std::min(count % n, r)) * value_bytes;
  return shares;
}

Shares Shares::weighted(std::size_t size_bytes, std::size_t value_bytes,
                        std::span<const double> weights) {
  const double most = weights.empty() ? 0 : *std::ranges::max_element(weights);
  if (!std::ranges::all_of(weights, [](double w) { return std::isfinite(w) && w >= 0; }) ||
      most == 0)
    throw Error(Errc::invalid_argument,
                "weights of shares must be finite and not negative, and one above 0");
  // Of the largest, so that a sum of large ones is finite.
  const auto add = [most](double sum, double w) { return sum + w / most; };
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0, add);
  const auto count = count_of(size_bytes, value_bytes);
  Shares shares(value_bytes, weights.size());
  // Whoever comes last with a weight takes the rest: no rounding leaves a value over.
  std::size_t last = weights.size();
  while (weights[last - 1] == 0) --last;
  double sum = 0;
  for (std::size_t r = 1; r < last; ++r) {
    sum = add(sum, weights[r - 1]);
    const auto end = static_cast<std::size_t>(std::llround(static_cast<double>(count) * sum / all));
    shares.begins_[r] = std::min(end, count) * value_bytes;
    if (weights[r - 1] == 0) shares.begins_[r] = shares.begins_[r - 1];
  }
  for (std::size_t r = last; r <= weights.size(); ++r) shares.begins_[r] = count * value_bytes;
  return shares;
}

std::size_t Shares::longest_bytes() const noexcept {
  std::size_t longest = 0;
  for (int r = 0; r < ranks(); ++r) longest = std::max(longest, size_bytes(r));
  return longest;
}

}  // namespace causeway
