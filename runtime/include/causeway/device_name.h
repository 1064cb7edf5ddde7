// The names of devices in every call of <causeway/...>: see allocator/device_name.h.
#pragma once

#include "allocator/device_name.h"
