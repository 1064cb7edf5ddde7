// The client of another tenant, which does nothing while faults happen and must notice none.
//
// Shape:   holds a region on each node with bytes that only it knows, and one to copy with.
// Errors:  std::runtime_error if it is harmed.
// Threads: one.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "causeway/pool.h"
#include "daemons.h"

namespace causeway::test {

class Bystander {
 public:
  explicit Bystander(Daemons& daemons);

  // Reads everything; what was on the nodes `gone` may be lost, and is allocated again.
  void check(const std::string& gone);
  // Copies from every node to every other, so that all of them know each other again.
  void introduce_nodes();
  [[nodiscard]] std::string session() const;
  [[nodiscard]] std::string region(char node) const;

  static constexpr std::uint64_t kBytesPerNode = 512 * 1024;

 private:
  struct Held {
    Region secret;
    Region scratch;
    std::vector<std::byte> bytes;
  };
  void begin_anew();

  Daemons& daemons_;
  std::optional<Pool> pool_;
  std::map<char, Held> held_;
};

}  // namespace causeway::test
