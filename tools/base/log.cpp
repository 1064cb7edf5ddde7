#include "tools/base/log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "tools/base/files.h"

namespace causeway::tools {

namespace {

class DroppingSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  DroppingSink() {
    struct stat status {};
    if (::fstat(STDOUT_FILENO, &status) != 0) return;
    is_socket_ = S_ISSOCK(status.st_mode);
    // To set O_NONBLOCK would set it for all who have the pipe or terminal: opened anew, it is
    // ours.
    if (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode))
      own_ = UniqueFd(::open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    if (write_rest() && dropped_ > 0) {
      rest_ = fmt::format("log lines dropped count={}\n", dropped_);
      dropped_ = 0;
    }
    if (!write_rest()) {
      ++dropped_;
      return;
    }
    rest_.assign(line.data(), line.size());
    // What has begun is ended some time; what has not is dropped.
    if (!write_rest() && rest_.size() == line.size()) {
      rest_.clear();
      ++dropped_;
    }
  }
  void flush_() override {}

  // False if something is left.
  bool write_rest() noexcept {
    while (!rest_.empty()) {
      const int fd = own_.valid() ? own_.get() : STDOUT_FILENO;
      const auto wrote = is_socket_
                             ? ::send(fd, rest_.data(), rest_.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                             : ::write(fd, rest_.data(), rest_.size());
      if (wrote <= 0) return false;
      rest_.erase(0, static_cast<std::size_t>(wrote));
    }
    return true;
  }

  UniqueFd own_;
  bool is_socket_ = false;
  std::string rest_;  // Of a line that has begun.
  std::uint64_t dropped_ = 0;
};

}  // namespace

void log_without_waiting() {
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("", std::make_shared<DroppingSink>()));
}

}  // namespace causeway::tools
