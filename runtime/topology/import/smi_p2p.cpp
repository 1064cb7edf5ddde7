// nvidia-smi topo -p2p r|w|n|a|p
#include <fmt/format.h>

#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/smi_matrix.h"
#include "runtime/topology/import/text.h"

namespace causeway {

namespace {

using Kind = TopologyNote::Kind;

struct Capabilities {
  bool read;
  bool write;
};

// The table does not say which capability it is of; the command does, where it is in the text.
Capabilities capabilities(const SmiMatrix& matrix, MachineBuilder& builder) {
  const auto has = [&](char c) { return matrix.command.find(c) != std::string::npos; };
  if (has('r') || has('w')) return {has('r'), has('w')};
  if (has('n') || has('a')) {
    builder.note(Kind::remark, matrix.line,
                 fmt::format("this table is of -p2p {}: it says nothing of reads and writes",
                             matrix.command));
    return {false, false};
  }
  if (!has('p'))
    builder.note(Kind::remark, matrix.line,
                 "the text does not say which of r, w, n, a and p this table is of; taken for "
                 "reads and writes");
  return {true, true};
}

void grant(std::optional<PeerStatus>& granted, PeerStatus status, const Pair& pair,
           std::size_t line, MachineBuilder& builder) {
  if (granted && *granted != status)
    builder.note(Kind::conflict, line,
                 fmt::format("{} to {}: {} here, {} in a table before; kept {}", pair.from, pair.to,
                             to_string(status), to_string(*granted), to_string(*granted)));
  if (!granted) granted = status;
}

}  // namespace

TopologyGraph read_smi_p2p(std::string_view text, const std::string& origin,
                           const std::string& node) {
  MachineBuilder builder(origin, node);
  std::vector<TopologyNote> notes;
  for (const auto& matrix : read_smi_matrices(text, origin)) {
    if (!matrix.is_p2p) continue;
    notes.insert(notes.end(), matrix.notes.begin(), matrix.notes.end());
    const auto [read, write] = capabilities(matrix, builder);
    for (const auto& row : matrix.rows) {
      const auto from = numbered(row.device, "GPU");
      if (!from) continue;
      (void)builder.gpu(*from);
      for (std::size_t i = 0; i < row.cells.size(); ++i) {
        const auto to = numbered(matrix.columns[i], "GPU");
        const auto status = parse_name<PeerStatus>(row.cells[i]);
        if (!to || !status || *to == *from) continue;
        (void)builder.gpu(*to);
        if (!read && !write) continue;
        auto& pair = builder.pair(builder.name(ComponentKind::gpu, *from),
                                  builder.name(ComponentKind::gpu, *to));
        if (read) grant(pair.granted_read, *status, pair, row.line, builder);
        if (write) grant(pair.granted_write, *status, pair, row.line, builder);
      }
    }
  }
  if (builder.empty())
    throw text_error(origin, 1,
                     "no table of peer states (OK, CNS, GNS, TNS, DR, NS, U); give the output of "
                     "'nvidia-smi topo -p2p r'");
  auto graph = builder.take();
  graph.notes.insert(graph.notes.begin(), notes.begin(), notes.end());
  return graph;
}

}  // namespace causeway
