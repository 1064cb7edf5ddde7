#include "collect.h"

#include <fmt/format.h>

#include <algorithm>

#include "causeway/error.h"

namespace train_gpt {

std::vector<std::string> all_gather(Link& link, const std::string& mine) {
  std::vector<double> sizes(static_cast<std::size_t>(link.world()), 0);
  sizes[static_cast<std::size_t>(link.rank())] = static_cast<double>(mine.size());
  link.all_reduce_sum(sizes);
  std::vector<std::string> texts(sizes.size());
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    texts[rank].resize(static_cast<std::size_t>(sizes[rank]));
    if (static_cast<int>(rank) == link.rank()) texts[rank] = mine;
    if (!texts[rank].empty())
      link.broadcast(static_cast<int>(rank), std::as_writable_bytes(std::span(texts[rank])));
  }
  return texts;
}

void require_same(Link& link, const std::string& description) {
  const auto first = all_gather(link, description).front();
  if (first == description) return;
  std::size_t start = 0;  // Of the first line that differs.
  for (std::size_t i = 0; i < std::min(first.size(), description.size()); ++i) {
    if (first[i] != description[i]) break;
    if (first[i] == '\n') start = i + 1;
  }
  const auto line = [start](const std::string& text) {
    return text.substr(start, text.find('\n', start) - start);
  };
  throw causeway::Error(causeway::Errc::invalid_argument,
                        fmt::format("rank {} has '{}' where rank 0 has '{}'; start all processes "
                                    "with the same options, text and plan",
                                    link.rank(), line(description), line(first)));
}

}  // namespace train_gpt
