// Three machines of a kind: a network namespace for each node, and this program's own between them
// as a router.
//
// Shape:   node i of "abc" has the address 10.97.i.1 on its card e0, this program 10.97.i.2 on hi.
//          Without root, unshare, ip, tc and veth devices all nodes are this machine's loopback,
//          and no link can be cut.
// Errors:  std::runtime_error if a command fails.
// Threads: one. The namespaces end with this program.
#pragma once

#include <string>
#include <vector>

#include "tools/base/process.h"

namespace causeway::test {

class Network {
 public:
  // Whether this program may make namespaces; it then has to run itself in one of its own first.
  [[nodiscard]] static bool is_possible();
  // Runs this program again inside namespaces of its own. Does not return unless that fails.
  static void enter(char** argv);
  [[nodiscard]] static bool is_entered();

  Network();
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  [[nodiscard]] static std::string host(char node);
  [[nodiscard]] static std::string interface_towards(char node);
  // What goes before a command that is to run on `node`.
  [[nodiscard]] std::vector<std::string> prefix(char node) const;

  // `silent`: packets vanish; else the node's own card is down, which its kernel knows.
  void cut(char node, bool silent);
  void mend(char node);  // Undoes both. Nothing happens if neither is there.

 private:
  struct Machine {
    tools::Process holder;  // Keeps the namespace.
    bool is_down = false;
    bool is_silent = false;
  };
  Machine& machine(char node) { return machines_[static_cast<std::size_t>(node - 'a')]; }
  void run_there(char node, const std::string& command) const;
  void wait_up(char node) const;
  std::vector<Machine> machines_;
};

}  // namespace causeway::test
