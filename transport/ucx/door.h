// Where others connect to: accepts TCP connections and reads one Greeting from each.
//
// Shape:   a visitor has kPatience to say who it is; at most kMaxVisitors wait at a time. When
//          there are more, or no descriptors are left, the oldest of the host with the most goes
//          (of IPv6, of the /64), and nobody of the last 200 ms while an older one is there:
//          strangers may hold the places, but not keep others out.
// Errors:  open() throws io. Whoever breaks the protocol is hung up on; another version hears why.
// Threads: the io_context's. `on_greeting` may close the door.
#pragma once

#include <list>

#include "transport/ucx/lifeline.h"

namespace causeway::ucx {

constexpr std::size_t kMaxVisitors = 128;
constexpr auto kPatience = std::chrono::seconds(3);

class Door : public std::enable_shared_from_this<Door> {
 public:
  using OnGreeting = std::function<void(std::shared_ptr<Lifeline>, Greeting)>;
  using OnJoin = std::function<void(std::shared_ptr<Lifeline>, Join)>;

  // Visitors are sent away until `has_room` says that one may be taken.
  using HasRoom = std::function<bool()>;

  static std::shared_ptr<Door> open(boost::asio::io_context& context, const SocketAddress& address,
                                    HasRoom has_room, OnGreeting on_greeting, OnJoin on_join);
  ~Door();

  [[nodiscard]] const SocketAddress& address() const noexcept { return address_; }
  void close() noexcept;

 private:
  struct Acceptor;
  struct Visitor;

  Door(boost::asio::io_context& context, HasRoom has_room, OnGreeting on_greeting, OnJoin on_join);
  void bind(const SocketAddress& address);
  void accept();
  void back_off();
  void receive(int socket_fd, const SocketAddress& peer);
  bool see_off(const std::shared_ptr<Lifeline>& line);  // False if it is no visitor any more.
  void take(const std::shared_ptr<Lifeline>& line, const std::optional<Error>& error,
            const Lifeline::Frame& frame);
  bool send_away_one();  // False if nobody was there.

  boost::asio::io_context& context_;
  HasRoom has_room_;
  OnGreeting on_greeting_;
  OnJoin on_join_;
  std::unique_ptr<Acceptor> acceptor_;
  SocketAddress address_;
  std::list<Visitor> visitors_;  // The oldest first.
};

// Tells the other end why not, and hangs up.
void turn_away(const std::shared_ptr<Lifeline>& line, const Error& why);

}  // namespace causeway::ucx
