#include "runtime/control/message.h"

#include <boost/json.hpp>

namespace causeway {

unsigned http_status(Errc code) noexcept {
  switch (code) {
    case Errc::invalid_argument:
    case Errc::parse:
    case Errc::out_of_bounds:
      return 400;
    case Errc::unauthenticated:
      return 401;
    case Errc::permission_denied:
      return 403;
    case Errc::not_found:
      return 404;
    case Errc::already_exists:
      return 409;
    case Errc::exhausted:
      return 429;
    case Errc::unsupported:
      return 501;
    case Errc::peer_lost:
      return 502;
    case Errc::closed:
    case Errc::cancelled:
      return 503;
    case Errc::timed_out:
      return 504;
    case Errc::out_of_memory:
      return 507;
    case Errc::corrupted:
    case Errc::io:
    case Errc::device_failed:
    case Errc::protocol:
    case Errc::internal:
      return 500;
  }
  return 500;
}

ControlResponse error_response(const Error& error) {
  ControlResponse response;
  response.status = http_status(error.code());
  response.body = boost::json::serialize(boost::json::object{
      {"error", {{"code", to_string(error.code())}, {"message", error.what()}}}});
  return response;
}

void throw_if_error(unsigned status, std::string_view body, std::string_view peer) {
  if (status >= 200 && status < 300) return;
  boost::json::error_code failed;
  const auto document = boost::json::parse({body.data(), body.size()}, failed);
  if (!failed && document.is_object()) {
    const auto* error = document.get_object().if_contains("error");
    if (error && error->is_object()) {
      const auto* code = error->get_object().if_contains("code");
      const auto* message = error->get_object().if_contains("message");
      if (code && message && code->is_string() && message->is_string())
        throw Error(errc_from_string(std::string_view(code->get_string())),
                    std::string(std::string_view(message->get_string())));
    }
  }
  throw Error(Errc::protocol, std::string(peer) + " answered with HTTP status " +
                                  std::to_string(status) + " and no error document");
}

}  // namespace causeway
