// Random graphs that are whole (graph_check.h) and shaped like machines: PCIe trees under CPUs,
// GPUs with NVLinks, NICs at network switches. Every field of every record is there sometimes.
//
// Threads: pure functions of the generator's state.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "causeway/gpu_catalogue.h"
#include "causeway/topology_graph.h"
#include "runtime/topology/graph_fields.h"

namespace causeway::test {

class GraphGenerator {
 public:
  explicit GraphGenerator(std::mt19937_64& random) : random_(random) {}

  TopologyGraph make(std::size_t max_nodes = 4) {
    graph_ = {};
    if (coin()) graph_.name = text();
    for (auto i = below(3); i-- > 0;) add_switch();
    for (auto i = below(max_nodes + 1); i-- > 0;) add_node();
    add_pairs();
    for (auto i = below(3); i-- > 0;) {
      TopologyNote note;
      fill(note);
      graph_.notes.push_back(note);
    }
    return graph_;
  }

  // A value of the field's type that may stand there.
  template <typename T>
  void set(T& field) {
    if constexpr (kIsOptional<T>) {
      set(field.emplace());
    } else if constexpr (RecordType<T>) {
      for_each_field(field, [&](FieldName, auto& inner) { set(inner); });
    } else if constexpr (kIsList<T>) {
      field.resize(1 + below(3));
      for (auto& item : field) set(item);
    } else if constexpr (std::is_enum_v<T>) {
      std::size_t count = 0;
      while (!to_string(static_cast<T>(count)).empty()) ++count;
      field = static_cast<T>(below(count));
    } else if constexpr (std::same_as<T, bool>) {
      field = coin();
    } else if constexpr (std::same_as<T, double>) {
      field = real();
    } else if constexpr (std::same_as<T, std::string>) {
      field = text();
    } else if constexpr (std::same_as<T, PciAddress>) {
      field = {static_cast<std::uint32_t>(coin() ? 0 : random_()),
               static_cast<std::uint8_t>(random_()), static_cast<std::uint8_t>(below(32)),
               static_cast<std::uint8_t>(below(8))};
    } else {
      field = static_cast<T>(random_() >> below(64));  // All sizes.
    }
  }

  // Sets each field that is not required in half of the cases, whatever the record is.
  template <typename Record>
  void fill(Record& record) {
    for_each_field(record, [&](FieldName name, auto& field) {
      if (name.required || coin()) set(field);
    });
  }

  std::size_t below(std::size_t limit) { return static_cast<std::size_t>(random_() % limit); }
  bool coin() { return (random_() & 1) != 0; }

  // From 5e-324 to 1e308, whole ones among them.
  double real() {
    switch (below(4)) {
      case 0:
        return static_cast<double>(random_() >> below(64));
      case 1:
        return static_cast<double>(below(4000)) / 10 * 1e9;
      default: {
        for (;;) {
          const auto bits = random_() & ~(std::uint64_t{1} << 63);
          double value;
          static_assert(sizeof value == sizeof bits);
          std::memcpy(&value, &bits, sizeof value);
          if (std::isfinite(value)) return value;
        }
      }
    }
  }

  std::string text() {
    static const std::vector<std::string> kParts{"NVIDIA GeForce RTX 5090",
                                                 "mlx5_0",
                                                 "0-23,48-71",
                                                 "\"",
                                                 "\\",
                                                 "<b>&amp;",
                                                 "\n",
                                                 "\t",
                                                 std::string(1, '\0'),
                                                 "\x7f",
                                                 "é",
                                                 "漢",
                                                 "\xF0\x9F\x98\x80",
                                                 " ",
                                                 "->",
                                                 "{}"};
    std::string text;
    for (auto i = 1 + below(3); i-- > 0;) text += kParts[below(kParts.size())];
    return text;
  }

 private:
  Component& add(ComponentKind kind, const std::string& node, const std::string& name) {
    Component component;
    fill(component);
    component.kind = kind;
    component.node = node;
    component.name = name;
    component.model.clear();
    component.uuid.clear();
    component.pci.reset();
    component.driver = kind == ComponentKind::nic ? component.driver : "";
    if (kind == ComponentKind::gpu) {
      component.model = gpu_models()[below(gpu_models().size())].name;
      if (coin()) component.uuid = fmt::format("GPU-{:016x}", random_());
      constexpr std::uint32_t kSms[] = {60, 70, 80, 86, 89, 90, 100, 120};
      if (coin()) component.sm = kSms[below(8)];
    }
    if (kind == ComponentKind::nic && coin()) component.uuid = fmt::format("0x{:016x}", random_());
    if (kind == ComponentKind::host) {
      component.model = "host";
      component.capacity_bytes = (std::uint64_t{1} << 30) * (1 + below(2048));
    }
    const bool on_pci = kind == ComponentKind::gpu || kind == ComponentKind::nic ||
                        kind == ComponentKind::bridge || kind == ComponentKind::nvswitch;
    if (on_pci && coin())
      component.pci = PciAddress{static_cast<std::uint32_t>(graph_.components.size()),
                                 static_cast<std::uint8_t>(below(256)),
                                 static_cast<std::uint8_t>(below(32)), 0};
    graph_.components.push_back(component);
    return graph_.components.back();
  }

  void join(LinkKind kind, const std::string& a, const std::string& b) {
    TopologyLink link{kind, a, b};
    fill(link);
    link.kind = kind;
    link.a = a;
    link.b = b;
    link.count = static_cast<std::uint32_t>(1 + below(18));
    graph_.links.push_back(link);
  }

  void add_switch() {
    const auto name = fmt::format("switch{}", graph_.components.size());
    add(ComponentKind::network_switch, "", name);
    switches_.push_back(name);
    if (switches_.size() > 1 && coin())
      join(LinkKind::network, name, switches_[below(switches_.size() - 1)]);
  }

  void add_node() {
    TopologyNode node;
    fill(node);
    node.name = fmt::format("node{}", graph_.nodes.size());
    graph_.nodes.push_back(node);
    const auto name = [&](const char* kind, std::size_t i) {
      return fmt::format("{}/{}{}", node.name, kind, i);
    };
    std::vector<std::string> ports;
    const auto sockets = 1 + below(2);
    for (std::size_t i = 0; i < sockets; ++i) {
      add(ComponentKind::cpu, node.name, name("cpu", i));
      add(ComponentKind::host, node.name, name("host", i));
      join(LinkKind::memory, name("cpu", i), name("host", i));
      ports.push_back(name("cpu", i));
    }
    if (sockets == 2) join(LinkKind::socket, name("cpu", 0), name("cpu", 1));
    for (auto i = below(4); i-- > 0;) {
      const auto bridge = name("bridge", i);
      add(ComponentKind::bridge, node.name, bridge);
      join(LinkKind::pcie, bridge, ports[below(ports.size())]);
      ports.push_back(bridge);
    }
    std::vector<std::string> gpus;
    for (std::size_t i = 0, count = below(5); i < count; ++i) {
      gpus.push_back(name("gpu", i));
      add(ComponentKind::gpu, node.name, gpus.back());
      join(LinkKind::pcie, gpus.back(), ports[below(ports.size())]);
    }
    std::string nvswitch;
    if (gpus.size() > 2 && coin()) {
      nvswitch = name("nvswitch", 0);
      add(ComponentKind::nvswitch, node.name, nvswitch);
    }
    for (std::size_t i = 0; i < gpus.size(); ++i) {
      if (!nvswitch.empty()) join(LinkKind::nvlink, gpus[i], nvswitch);
      for (std::size_t j = 0; j < i && nvswitch.empty(); ++j)
        if (coin()) join(coin() ? LinkKind::nvlink : LinkKind::xgmi, gpus[i], gpus[j]);
    }
    if (!gpus.empty() && below(4) == 0) join(LinkKind::c2c, gpus.front(), name("cpu", 0));
    for (std::size_t i = 0, count = below(3); i < count; ++i) {
      add(ComponentKind::nic, node.name, name("nic", i));
      join(LinkKind::pcie, name("nic", i), ports[below(ports.size())]);
      if (!switches_.empty())
        join(LinkKind::network, name("nic", i), switches_[below(switches_.size())]);
    }
    if (below(4) == 0) {
      add(ComponentKind::unknown, node.name, name("pci", 0));
      join(LinkKind::pcie, name("pci", 0), ports[below(ports.size())]);
    }
    if (graph_.nodes.size() > 1 && coin())
      join(LinkKind::network, node.name, graph_.nodes[below(graph_.nodes.size() - 1)].name);
  }

  void add_pairs() {
    for (const auto& from : graph_.components) {
      for (const auto& to : graph_.components) {
        const bool gpus = from.kind == ComponentKind::gpu && to.kind == ComponentKind::gpu;
        if (!gpus || from.node != to.node || &from == &to || !coin()) continue;
        Pair pair;
        fill(pair);
        pair.from = from.name;
        pair.to = to.name;
        graph_.pairs.push_back(pair);
      }
    }
  }

  std::mt19937_64& random_;
  TopologyGraph graph_;
  std::vector<std::string> switches_;
};

inline TopologyGraph random_graph(std::mt19937_64& random, std::size_t max_nodes = 4) {
  return GraphGenerator(random).make(max_nodes);
}

}  // namespace causeway::test
