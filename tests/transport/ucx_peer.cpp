// The other process of ucx_process_test, there to be killed and stopped.
//
// ucx_peer serve [HOST,... [SECONDS]]
//                         listens as "peer", prints its addresses, serves region 1 of session 7
//                         (64 MiB), echoes tag 1 on tag 2, and runs until its standard output or
//                         its life ends. With SECONDS, each channel makes it start a program that
//                         lives so long and knows nothing of channels.
// ucx_peer share [SECONDS] likewise at 127.0.0.1, with messages through shared memory.
// ucx_peer hammer ADDRESS connects as "hammer", prints "ready", and then writes, reads and sends
//                         until the channel ends; then it prints "ended CODE" and exits with 0.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "transport/addresses.h"
#include "transport/blocking.h"
#include "transport/shm/sharing_transport.h"
#include "transport/ucx/ucx_transport.h"

using namespace causeway;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t kRegionBytes = 64 << 20;

Deadline later() { return std::chrono::steady_clock::now() + 1h; }

struct Region final : DataService {
  std::vector<std::byte> bytes = std::vector<std::byte>(kRegionBytes);
  void admit(const Hello&) override {}
  PinnedMemory pin(const Hello&, const RemoteAddress& address, std::uint64_t size,
                   Access) override {
    if (address.offset_bytes > bytes.size() || size > bytes.size() - address.offset_bytes)
      throw Error(Errc::out_of_bounds, "outside of the region");
    return {std::span(bytes).subspan(address.offset_bytes, size), nullptr};
  }
};

void echo(Channel& channel, const std::shared_ptr<std::vector<std::byte>>& buffer) {
  // The channel lives as long as the process.
  channel.receive(1, *buffer, later(), [&channel, buffer](auto error, std::uint64_t bytes) {
    if (error) return;
    channel.send(2, std::span(*buffer).first(bytes), later(),
                 [&channel, buffer](auto failed, std::uint64_t) {
                   if (!failed) echo(channel, buffer);
                 });
  });
}

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

[[noreturn]] void sleep_until_killed() {
  for (;;) pause();
}

void start_program(const std::string& seconds) {
  if (std::system(("sleep " + seconds + " >/dev/null 2>&1 &").c_str()) != 0) std::abort();
}

[[noreturn]] void serve(const std::string& host, const std::string& child_seconds, bool shares) {
  Region region;
  IoThread thread("peer");
  std::vector<std::shared_ptr<Channel>> channels;
  std::unique_ptr<Transport> transport;
  std::string listen;
  for (const auto& each : split_addresses(host))
    listen += (listen.empty() ? "" : ",") + each + ":0";
  thread.run_on([&] {
    const auto accept = [&](std::shared_ptr<Channel> channel) {
      if (!child_seconds.empty()) start_program(child_seconds);
      echo(*channel, std::make_shared<std::vector<std::byte>>(8 << 20));
      channels.push_back(std::move(channel));
    };
    const auto make = [&](Transport::Accepted accepted) {
      return make_ucx_transport(thread.context(), {listen, "peer", &region, std::move(accepted)});
    };
    transport = shares ? make_sharing_transport(thread.context(), {.on_accept = accept}, make)
                       : make(accept);
  });
  say(transport->address());
  sleep_until_killed();
}

void hammer(const std::string& address) {
  IoThread thread("hammer");
  std::unique_ptr<Transport> transport;
  std::shared_ptr<Channel> channel;
  thread.run_on([&] { transport = make_ucx_transport(thread.context(), {"", "", nullptr, {}}); });
  thread.wait_for([&](const Completion& done) {
    transport->connect(address, {Hello::Role::client, "hammer", 7, "secret"}, later(),
                       [&, done](std::optional<Error> error, std::shared_ptr<Channel> made) {
                         channel = std::move(made);
                         done(std::move(error), 0);
                       });
  });
  std::vector<std::byte> out(4 << 20, std::byte{1}), in(4 << 20), message(1 << 20);
  std::function<void()> write, read, send;
  const auto again = [](std::function<void()>& next) {
    return [&next](const std::optional<Error>& error, std::uint64_t) {
      if (!error) next();
    };
  };
  write = [&] { channel->write({7, 1, 0}, out, later(), again(write)); };
  read = [&] { channel->read(in, {7, 1, 0}, later(), again(read)); };
  send = [&] { channel->send(1, message, later(), again(send)); };
  std::promise<Errc> ended;
  thread.run_on([&] {
    channel->on_close([&](const Error& reason) { ended.set_value(reason.code()); });
    write();
    read();
    send();
  });
  say("ready");
  const auto code = ended.get_future().get();
  thread.run_on([&] {
    channel.reset();
    transport.reset();
  });
  say("ended " + std::string(to_string(code)));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc >= 2 && argc <= 4 && std::string(argv[1]) == "serve")
      serve(argc > 2 ? argv[2] : "127.0.0.1", argc > 3 ? argv[3] : "", false);
    if ((argc == 2 || argc == 3) && std::string(argv[1]) == "share")
      serve("127.0.0.1", argc > 2 ? argv[2] : "", true);
    if (argc == 3 && std::string(argv[1]) == "hammer") {
      hammer(argv[2]);
      return 0;
    }
    std::fprintf(stderr,
                 "usage: ucx_peer serve [HOST,... [SECONDS]] | ucx_peer share [SECONDS] | "
                 "ucx_peer hammer ADDRESS\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ucx_peer: %s\n", error.what());
  }
  return 2;
}
