// The pool as GET /v1/pool tells it: document to value and back.
//
// Errors:  parse, naming the field.
// Threads: pure functions.
#pragma once

#include <boost/json.hpp>

#include "causeway/pool.h"

namespace causeway {

[[nodiscard]] PoolStatus parse_pool_status(const boost::json::object& document);
[[nodiscard]] boost::json::object device_to_json(const DeviceStatus& device);
[[nodiscard]] boost::json::object rail_to_json(const RailStatus& rail);
// Of each device what is not lent; of a device that the pool does not lend, nothing.
void set_available(Topology& topology, const PoolStatus& status);

}  // namespace causeway
