// One request and one response of the control plane, as handlers see them, without HTTP's details.
//
// Shape:   bodies are JSON texts (or, for responses, another content type); file descriptors travel
//          beside a response on a unix socket only.
// Errors:  an Error becomes {"error":{"code","message"}} under the matching HTTP status, and back.
// Threads: plain values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "allocator/error.h"
#include "allocator/unique_fd.h"

namespace causeway {

// Names one connection of a server for as long as the server lives; never reused.
using ConnectionId = std::uint64_t;

struct ControlRequest {
  std::string method;  // "GET", "POST", "PUT", "DELETE"
  std::string path;    // "/v1/pool", without the query.
  std::string body;
  ConnectionId connection = 0;
  bool local = false;  // Came over the unix socket, from this user.
};

struct ControlResponse {
  unsigned status = 200;
  std::string body = "{}";
  std::string content_type = "application/json";
  std::vector<UniqueFd> fds;  // At most kMaxFdsPerResponse.
};

// The kernel's bound on one SCM_RIGHTS message is 253.
inline constexpr std::size_t kMaxFdsPerResponse = 250;

[[nodiscard]] unsigned http_status(Errc code) noexcept;
[[nodiscard]] ControlResponse error_response(const Error& error);

// Throws the Error that `body` describes if `status` is not a success; `peer` stands in front of
// its text. A body that is no error document gives Errc::protocol.
void throw_if_error(unsigned status, std::string_view body, std::string_view peer);

}  // namespace causeway
