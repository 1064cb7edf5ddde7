#include "transport/ucx/ucx_transport.h"

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <map>
#include <vector>

#include "transport/addresses.h"
#include "transport/ucx/door.h"
#include "transport/ucx/link.h"

namespace causeway {

namespace {

using ucx::Greeting;
using ucx::Lifeline;
using ucx::Link;
using ucx::Worker;

constexpr std::size_t kMaxLinks = 4096;
constexpr auto kGreeting = std::chrono::seconds(5);  // For an admitted peer to connect UCX.
constexpr std::size_t kMaxNameBytes = 255;

class UcxChannel final : public Channel {
 public:
  explicit UcxChannel(std::shared_ptr<Link> link) : link_(std::move(link)) {}
  ~UcxChannel() override {
    if (link_->is_open())
      link_->close(Error(Errc::cancelled, "the channel to " + peer_name() + " was destroyed"));
  }

  [[nodiscard]] const std::string& peer_name() const noexcept override { return peer().name; }
  [[nodiscard]] const Hello& peer() const noexcept override { return link_->peer(); }
  [[nodiscard]] bool is_open() const noexcept override { return link_->is_open(); }
  [[nodiscard]] ChannelCounters counters() const noexcept override { return link_->counters(); }
  [[nodiscard]] ChannelId id() const noexcept override { return link_->id(); }
  void close(Error reason) override { link_->close(reason); }
  void on_close(std::function<void(const Error&)> handler) override {
    link_->on_close(std::move(handler));
  }
  [[nodiscard]] std::optional<double> round_trip() const noexcept override {
    return link_->round_trip();
  }
  void set_settings(const LinkSettings& settings) override { link_->set_settings(settings); }
  [[nodiscard]] LinkSettings settings() const noexcept override { return link_->settings(); }
  void write(RemoteAddress to, std::span<const std::byte> source, Deadline deadline,
             Completion done) override {
    link_->write(to, source, deadline, std::move(done));
  }
  void read(std::span<std::byte> target, RemoteAddress from, Deadline deadline,
            Completion done) override {
    link_->read(target, from, deadline, std::move(done));
  }
  void checksum(RemoteAddress of, std::uint64_t size_bytes, Deadline deadline,
                Completion done) override {
    link_->checksum(of, size_bytes, deadline, std::move(done));
  }
  void fence(ChannelId other, Deadline deadline, Completion done) override {
    link_->fence(other, deadline, std::move(done));
  }
  void send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
            Completion done) override {
    link_->send(tag, message, deadline, std::move(done));
  }
  void receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline,
               Completion done) override {
    link_->receive(tag, target, deadline, std::move(done));
  }

 private:
  std::shared_ptr<Link> link_;
};

class UcxTransport final : public Transport {
 public:
  UcxTransport(boost::asio::io_context& context, UcxOptions options)
      : context_(context), options_(std::move(options)) {
    if (options_.name.size() > kMaxNameBytes)
      throw Error(Errc::invalid_argument, "a transport's name takes at most 255 bytes");
    static_cast<void>(Link::wished_stream());  // So that a wrong word is told at once.
    try {
      if (!options_.listen.empty()) listen();
    } catch (...) {
      stop();  // The loop holds a running worker.
      throw;
    }
  }

  ~UcxTransport() override { stop(); }

  [[nodiscard]] const std::string& address() const noexcept override { return address_; }

  void connect(const std::string& address, Hello hello, Deadline deadline,
               Connected done) override {
    const auto own = std::make_shared<Connected>(std::move(done));
    try {
      if (hello.name.size() > kMaxNameBytes || hello.credential.size() > kMaxNameBytes)
        throw Error(Errc::invalid_argument, "name and credential take at most 255 bytes");
      const auto to = ucx::parse_address(address);
      const auto opened = [own](std::optional<Error> error, std::shared_ptr<Link> link) {
        if (error) return (*own)(std::move(error), nullptr);
        (*own)(std::nullopt, std::make_shared<UcxChannel>(std::move(link)));
      };
      Link::connect(worker_for(ucx::interface_towards(to), to.is_ipv6()), to,
                    {options_.service, std::move(hello), deadline, opened, links_});
    } catch (const Error& error) {
      boost::asio::post(context_, [own, error] { (*own)(error, nullptr); });
    }
  }

 private:
  void stop() {
    const Error reason(Errc::cancelled, "the transport '" + options_.name + "' was destroyed");
    for (const auto& door : doors_) door->close();
    for (const auto& worker : listening_) worker->stop(reason);
    for (const auto& [key, worker] : workers_)
      if (worker) worker->stop(reason);
  }

  void listen() {
    for (const auto& address : split_addresses(options_.listen)) {
      const auto door = listen_at(ucx::parse_address(address));
      address_ += (address_.empty() ? "" : ",") + door->address().to_string();
    }
  }

  std::shared_ptr<ucx::Door> listen_at(const ucx::SocketAddress& wanted) {
    const std::pair key(ucx::interface_of(wanted), wanted.is_ipv6());
    // UCX listens at one port per worker; what connects takes the first of its interface.
    const auto worker = Worker::create(context_, key.first, key.second);
    listening_.push_back(worker);
    workers_.emplace(key, worker);
    doors_.push_back(ucx::Door::open(
        context_, wanted, [raw = worker.get()] { return raw->has_descriptors(); },
        [this, raw = worker.get()](std::shared_ptr<Lifeline> line, Greeting greeting) {
          accept(*raw, line, std::move(greeting));
        },
        [this](const std::shared_ptr<Lifeline>& line, const ucx::Join& join) {
          const auto found = links_->by_number.find(join.key);
          const auto link = found == links_->by_number.end() ? nullptr : found->second.lock();
          if (link) return link->join(line);
          line->close();
        }));
    worker->listen(wanted);
    return doors_.back();
  }

  void accept(Worker& worker, const std::shared_ptr<Lifeline>& line, Greeting greeting) {
    // Its own copy: it may let go of this transport.
    const auto opened = [on_accept = options_.on_accept](const std::optional<Error>& error,
                                                         std::shared_ptr<Link> link) {
      if (error) return;
      auto channel = std::make_shared<UcxChannel>(std::move(link));
      if (on_accept) on_accept(std::move(channel));
    };
    try {
      if (worker.link_count() >= kMaxLinks)
        throw Error(Errc::exhausted, options_.name + " has " + std::to_string(kMaxLinks) +
                                         " channels, as many as it takes");
      if (options_.service != nullptr) options_.service->admit(greeting.hello);
      Link::accept(worker.shared_from_this(), line, std::move(greeting),
                   {options_.service, Hello{Hello::Role::node, options_.name, 0, {}},
                    std::chrono::steady_clock::now() + kGreeting, opened, links_});
    } catch (const Error& error) {
      ucx::turn_away(line, error);
    } catch (const std::exception& error) {
      ucx::turn_away(line, Error(Errc::internal, error.what()));
    }
  }

  const std::shared_ptr<Worker>& worker_for(const std::string& interface, bool ipv6) {
    auto& worker = workers_[{interface, ipv6}];
    if (!worker) worker = Worker::create(context_, interface, ipv6);
    return worker;
  }

  boost::asio::io_context& context_;
  UcxOptions options_;
  std::string address_;
  std::shared_ptr<ucx::Links> links_ = std::make_shared<ucx::Links>(ucx::Links{ucx::new_key(), {}});
  std::vector<std::shared_ptr<ucx::Door>> doors_;
  std::vector<std::shared_ptr<Worker>> listening_;
  std::map<std::pair<std::string, bool>, std::shared_ptr<Worker>> workers_;
};

}  // namespace

std::unique_ptr<Transport> make_ucx_transport(boost::asio::io_context& context,
                                              UcxOptions options) {
  return std::make_unique<UcxTransport>(context, std::move(options));
}

}  // namespace causeway
