// Three machines of a kind: a network namespace for each node, and this program's own between them
// as a router.
//
// Shape:   node i of "abc" has two cards: e0 with the address 10.97.i.1 and e1 with 10.98.i.1. This
//          program is 10.97.i.2 and 10.98.i.2, on h0i and h1i. Without root, unshare, ip, tc and
//          veth devices all nodes are this machine's loopback, and no link can be cut.
// Errors:  std::runtime_error if a command fails.
// Threads: one. The namespaces end with this program.
#pragma once

#include <array>
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

  enum Card : int { first, second };
  [[nodiscard]] static std::string host(char node, Card card = first);
  [[nodiscard]] static std::string interface_towards(char node, Card card = first);
  // What goes before a command that is to run on `node`.
  [[nodiscard]] std::vector<std::string> prefix(char node) const;

  // One card, or all. `silent`: packets vanish; else the card is down, which the node's kernel
  // knows.
  void cut(char node, Card card, bool silent);
  void cut(char node, bool silent);
  void mend(char node);  // Undoes all of them. Nothing happens if there are none.

 private:
  struct State {  // Of a card.
    bool is_down = false;
    bool is_silent = false;
  };
  struct Machine {
    tools::Process holder;  // Keeps the namespace.
    std::array<State, 2> cards{};
  };
  Machine& machine(char node) { return machines_[static_cast<std::size_t>(node - 'a')]; }
  void run_there(char node, const std::string& command) const;
  void add_card(char node, Card card) const;
  void start_card(char node, Card card) const;
  void mend(char node, Card card);
  std::vector<Machine> machines_;
};

}  // namespace causeway::test
