// Small texts from all processes of a job to all.
//
// Errors:  what the Link throws.
// Threads: one thread; every process calls them in the same order.
#pragma once

#include <string>
#include <vector>

#include "link.h"

namespace train_gpt {

// The texts of all ranks, by rank.
[[nodiscard]] std::vector<std::string> all_gather(Link& link, const std::string& mine);

// Throws invalid_argument where `description` (lines "key: value") is not that of rank 0, naming
// the first line that differs.
void require_same(Link& link, const std::string& description);

}  // namespace train_gpt
