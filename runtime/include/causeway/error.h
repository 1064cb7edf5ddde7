// The error type of every call in <causeway/...>: see allocator/error.h.
#pragma once

#include "allocator/error.h"
