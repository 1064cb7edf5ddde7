// Text of unknown origin: whether it is UTF-8, and what of it can be shown.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace causeway {

// The length of the UTF-8 sequence that starts at text[at]; 0 if there is none.
[[nodiscard]] std::size_t utf8_length(std::string_view text, std::size_t at) noexcept;
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

// `text` with U+FFFD for control characters and for bytes that are no UTF-8; after
// `max_characters` of them "...".
[[nodiscard]] std::string printable(std::string_view text, std::size_t max_characters);

}  // namespace causeway
