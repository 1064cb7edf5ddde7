#include <linux/tcp.h>  // glibc's tcp_info ends before tcpi_min_rtt.
#include <netinet/in.h>
#include <sys/socket.h>

#include "transport/ucx/net.h"

namespace causeway::ucx {

std::optional<double> shortest_round_trip(int socket_fd) noexcept {
  tcp_info info{};
  socklen_t size_bytes = sizeof(info);
  if (getsockopt(socket_fd, IPPROTO_TCP, TCP_INFO, &info, &size_bytes) != 0 ||
      info.tcpi_min_rtt == 0 || info.tcpi_min_rtt == ~__u32{0})
    return std::nullopt;
  return info.tcpi_min_rtt * 1e-6;
}

}  // namespace causeway::ucx
