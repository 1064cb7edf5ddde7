// Draws with graphviz's program `dot`, if it is installed.
//
// Errors:  Errc::not_found, with how to install it; timed_out; io with what `dot` said.
// Threads: as spawn() of process.h.
#pragma once

#include <chrono>
#include <string>

namespace causeway::tools {

// The picture of a text in graphviz's language.
[[nodiscard]] std::string dot_to_svg(const std::string& dot,
                                     std::chrono::seconds limit = std::chrono::seconds(60));

}  // namespace causeway::tools
