// The pool as GET /v1/pool tells it: document to value and back.
//
// Errors:  parse, naming the field.
// Threads: pure functions.
#pragma once

#include <boost/json.hpp>

#include "causeway/pool.h"

namespace causeway {

[[nodiscard]] PoolStatus parse_pool_status(const boost::json::object& document);
[[nodiscard]] Topology parse_pool_topology(const boost::json::object& document);

}  // namespace causeway
