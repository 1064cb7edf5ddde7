// The connections over which a process asks one daemon: several requests can be under way.
//
// Shape:   a caller takes a connection, asks over it, and gives it back with the Taken's end. They
//          are made when first needed, at most kMaxConnections, and kept. Requests that wait
//          (transfers, groups) may hold all but one of them, so that a short one always gets by.
// Errors:  take(): timed_out.
// Cost:    a lock; the connection's making, for the first requests.
// Threads: any. take() waits until there is a connection, or until its caller's deadline.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/control/client.h"

namespace causeway {

class Connections {
 public:
  static constexpr std::size_t kMaxConnections = 8;
  enum class Use : std::uint8_t { brief, waits };

  Connections(std::string target, std::string token, std::string peer_name);

  // One connection for one caller.
  class Taken {
   public:
    Taken(Connections& owner, Use use, ControlClient client);
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;
    ~Taken();
    ControlClient* operator->() noexcept { return &client_; }

   private:
    Connections& owner_;
    Use use_;
    ControlClient client_;
  };
  [[nodiscard]] Taken take(Use use, std::chrono::steady_clock::time_point deadline);
  // One that counts for nothing and waits for nobody: for the last request.
  [[nodiscard]] ControlClient make() const;

 private:
  const std::string target_;
  const std::string token_;
  const std::string peer_name_;
  std::mutex mutex_;  // Guards what follows.
  std::condition_variable given_back_;
  std::vector<ControlClient> idle_;
  std::size_t taken_ = 0;
  std::size_t waiting_ = 0;  // Of those taken, for requests that wait.
};

}  // namespace causeway
