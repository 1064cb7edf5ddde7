// What went wrong, in one type that all floors throw: a code to branch on and a sentence to read.
//
// Shape:   Errc is closed: peers exchange it by name, and an unknown name reads as Errc::protocol.
// Errors:  a message names the object, gives the numbers, and says what to do.
// Threads: immutable after construction.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace causeway {

enum class Errc {
  invalid_argument,   // The caller asked for something that can never work.
  parse,              // A file or message is malformed; the text names file, line and field.
  not_found,          // No such device, region, session, node or file.
  already_exists,     // The name or range is taken.
  out_of_memory,      // Not enough free bytes; the text gives needed and available.
  out_of_bounds,      // An offset or size outside of the object.
  permission_denied,  // The object belongs to another session, or the access is not granted.
  unauthenticated,    // The token or the session key is wrong.
  unsupported,        // Meaningful, but not on this device, peer or build.
  peer_lost,          // The process at the other end died or became unreachable.
  timed_out,          // The deadline passed first.
  cancelled,          // The caller withdrew it, or its owner was destroyed.
  closed,             // The object was shut down in order.
  io,                 // The operating system refused; the text carries its reason.
  corrupted,          // Bytes arrived that are not those that were sent.
  protocol,           // A peer sent what no correct peer sends.
  exhausted,          // A limit of the service (connections, requests, file descriptors).
  device_failed,      // A device's driver refused or lost work; the text has its name for it.
  internal,           // A defect in Causeway.
};

[[nodiscard]] std::string_view to_string(Errc code) noexcept;

// The inverse of to_string; a name from a newer peer gives Errc::protocol.
[[nodiscard]] Errc errc_from_string(std::string_view name) noexcept;

class Error : public std::runtime_error {
 public:
  Error(Errc code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] Errc code() const noexcept { return code_; }

 private:
  Errc code_;
};

// An Errc::io error that ends in the text of `error_number` (an errno value).
[[nodiscard]] Error system_error(const std::string& what, int error_number);

}  // namespace causeway
