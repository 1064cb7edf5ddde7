// A peer that is admitted and then speaks UCX active messages without our code above it.
//
// Errors:  throws causeway::Error where the other side does not go along with the beginning.
// Threads: one. Waits end after 10 s.
#pragma once

#include <ucp/api/ucp.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/transport/raw_caller.h"
#include "transport/ucx/protocol.h"

namespace causeway::test {

// Sends any active message and remembers what came back.
class RawPeer {
 public:
  using Bytes = std::vector<std::byte>;
  using Header = ucx::Header;
  using Op = ucx::Op;

  RawPeer(const std::string& address, const Hello& hello, const char* interface = "lo")
      : lifeline(address), address_(address) {
    require(lifeline.send(ucx::frame(ucx::Greeting{42, hello})), "it takes no greeting");
    const auto reply = lifeline.read_frame();
    const auto welcome = reply ? ucx::decode_welcome(reply->second) : std::nullopt;
    require(welcome.has_value(), "it does not say welcome");
    key = welcome->key;
    ucp_config_t* config = nullptr;
    check(ucp_config_read(nullptr, nullptr, &config));
    check(ucp_config_modify(config, "TLS", "tcp"));
    check(ucp_config_modify(config, "NET_DEVICES", interface));
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM;
    check(ucp_init(&params, config, &context_));
    ucp_config_release(config);
    ucp_worker_params_t worker_params{};
    check(ucp_worker_create(context_, &worker_params, &worker_));
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                         UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.cb = on_message;
    handler.arg = this;
    check(ucp_worker_set_am_recv_handler(worker_, &handler));

    auto to = ucx::parse_address(address);
    to.set_port(welcome->port);
    ucp_ep_params_t ep{};
    ep.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                    UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    ep.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
    ep.sockaddr = {to.get(), to.size_bytes};
    ep.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    ep.err_handler = {
        [](void* self, ucp_ep_h, ucs_status_t) { static_cast<RawPeer*>(self)->is_gone = true; },
        this};
    check(ucp_ep_create(worker_, &ep, &endpoint_));
  }

  ~RawPeer() {
    let_go();
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    auto* request = ucp_ep_close_nbx(endpoint_, &param);
    while (UCS_PTR_IS_PTR(request) && ucp_request_check_status(request) == UCS_INPROGRESS)
      ucp_worker_progress(worker_);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
    for (auto* sent : requests_) {
      while (ucp_request_check_status(sent) == UCS_INPROGRESS) ucp_worker_progress(worker_);
      ucp_request_free(sent);
    }
    ucp_worker_destroy(worker_);
    ucp_cleanup(context_);
  }

  void send(Bytes header, Bytes data = {}, unsigned flags = UCP_AM_SEND_FLAG_REPLY) {
    // UCX may hold both until the end.
    kept_.push_back({std::move(header), std::move(data)});
    const auto& [head, body] = kept_.back();
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = flags;
    auto* request =
        ucp_am_send_nbx(endpoint_, 0, head.data(), head.size(), body.data(), body.size(), &param);
    if (UCS_PTR_IS_PTR(request)) requests_.push_back(request);
    ucp_worker_progress(worker_);
  }
  void send(Header header, Bytes data = {}, unsigned flags = UCP_AM_SEND_FLAG_REPLY) {
    const auto bytes = encode(header);
    send(Bytes(bytes.begin(), bytes.end()), std::move(data), flags);
  }

  void greet() {
    send({.op = Op::hello, .key = key});
    require(wait_for([&] { return answers[Op::welcome] == 1; }), "it does not answer the hello");
  }
  // Its stream, on which it may say what it likes.
  RawCaller& join() {
    auto& stream = streams_.emplace_back(address_);
    require(stream.send(ucx::frame(ucx::Join{key})), "it takes no stream");
    require(wait_for([&] { return answers[Op::joined] > 0; }), "it does not take the stream");
    return stream;
  }
  bool wait_for(const std::function<bool()>& done) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!done() && !is_gone && std::chrono::steady_clock::now() < limit)
      ucp_worker_progress(worker_);
    return done();
  }
  bool wait_until_gone() {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!is_gone && std::chrono::steady_clock::now() < limit) ucp_worker_progress(worker_);
    return is_gone;
  }

  void let_go() {
    for (auto* data : std::exchange(held_, {})) ucp_am_data_release(worker_, data);
  }

  RawCaller lifeline;
  bool holds_data = false;  // Never takes what it asked for: the server keeps its pins.
  bool is_gone = false;
  std::uint64_t key = 0;  // What the server wants to see.
  std::map<Op, int> answers;
  std::map<Op, std::vector<std::uint64_t>> ids;  // Of each, as they came.
  std::optional<Error> farewell;

 private:
  static void require(bool holds, const char* otherwise) {
    if (!holds) throw Error(Errc::protocol, otherwise);
  }
  static void check(ucs_status_t status) { require(status == UCS_OK, ucs_status_string(status)); }

  static ucs_status_t on_message(void* arg, const void* header, std::size_t header_bytes,
                                 void* data, std::size_t size, const ucp_am_recv_param_t* param) {
    auto* self = static_cast<RawPeer*>(arg);
    const auto decoded = ucx::decode_header({static_cast<const std::byte*>(header), header_bytes});
    if (!decoded) return UCS_OK;
    ++self->answers[decoded->op];
    self->ids[decoded->op].push_back(decoded->id);
    if (decoded->op == Op::read_data && self->holds_data) {
      self->held_.push_back(data);
      return UCS_INPROGRESS;
    }
    const bool is_eager = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0;
    if (is_eager && decoded->op == Op::bye)
      self->farewell = ucx::decode_failure({static_cast<const std::byte*>(data), size});
    return UCS_OK;
  }

  std::string address_;
  std::list<RawCaller> streams_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_ep_h endpoint_ = nullptr;
  std::vector<void*> requests_;
  std::vector<void*> held_;
  std::list<std::pair<Bytes, Bytes>> kept_;
};

}  // namespace causeway::test
