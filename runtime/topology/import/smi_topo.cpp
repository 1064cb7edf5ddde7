// nvidia-smi topo -m
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/smi_matrix.h"
#include "runtime/topology/import/text.h"
#include "runtime/topology/nvlink_domain.h"

namespace causeway {

namespace {

using Kind = TopologyNote::Kind;

// "NIC0: mlx5_0" lines, wherever they stand. They may be fewer than the NICs.
std::map<std::uint32_t, std::string> read_nic_legend(std::string_view text) {
  std::map<std::uint32_t, std::string> titles;
  for (LineReader lines(text); lines.next();) {
    const auto line = trim(lines.line());
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const auto number = numbered(line.substr(0, colon), "NIC");
    const auto title = trim(line.substr(colon + 1));
    if (number && !title.empty() && title.size() <= 64 && split_tokens(title).size() == 1)
      titles.emplace(*number, title);
  }
  return titles;
}

class TopoReader {
 public:
  TopoReader(std::string_view text, const std::string& origin, const std::string& node)
      : builder_(origin, node), legend_(read_nic_legend(text)) {}

  void read(const SmiMatrix& matrix) {
    are_nvlinks_known_ = are_nvlinks_known_ || !matrix.is_pci_only;
    for (const auto& note : matrix.notes) notes_.push_back(note);
    for (const auto& column : matrix.columns) (void)component_name(column);
    for (const auto& row : matrix.rows) {
      (void)component_name(row.device);
      read_affinity(row);
    }
    for (const auto& row : matrix.rows)
      for (std::size_t i = 0; i < row.cells.size(); ++i)
        if (!matrix.columns[i].empty() && matrix.columns[i] != row.device)
          read_cell(row, matrix.columns[i], row.cells[i], matrix.is_pci_only);
    check_symmetry(matrix);
    add_nvlinks(matrix);
  }

  TopologyGraph take() {
    builder_.node().nvlinks_known = are_nvlinks_known_;
    if (!are_nvlinks_known_)
      builder_.node().unseen.emplace_back("NVLinks: the table is of PCI alone");
    auto graph = builder_.take();
    graph.notes.insert(graph.notes.begin(), notes_.begin(), notes_.end());
    for (const auto& name : replace_switched_meshes(graph, true))
      graph.notes.push_back({Kind::remark, builder_.origin(),
                             fmt::format("{}: an NVSwitch that the table does not show; its GPUs "
                                         "have too few links for links to each of their peers",
                                         name)});
    return graph;
  }

 private:
  // The device that the table calls `label`.
  const std::string& component_name(const std::string& label) {
    const auto [at, fresh] = names_.try_emplace(label);
    if (!fresh) return at->second;
    if (const auto gpu = numbered(label, "GPU")) return at->second = builder_.gpu(*gpu).name;
    auto number = numbered(label, "NIC");
    if (!number) {
      while (nics_.contains(next_nic_)) ++next_nic_;
      number = next_nic_;
    }
    nics_.insert(*number);
    auto& nic = builder_.device(ComponentKind::nic, *number);
    const auto title = legend_.find(*number);
    if (!numbered(label, "NIC")) {
      nic.title = label;
    } else if (title != legend_.end()) {
      nic.title = title->second;
    }
    return at->second = nic.name;
  }

  void read_affinity(const SmiRow& row) {
    const auto gpu = numbered(row.device, "GPU");
    if (!gpu) return;
    auto& device = builder_.gpu(*gpu);
    auto cpus = row.after[0];
    if (cpus.ends_with(',') || cpus.ends_with('-')) {
      cpus.pop_back();
      builder_.note(Kind::repaired, row.line,
                    fmt::format("{}: the list of CPUs ends in '{}'; the rest is not known",
                                device.name, row.after[0].back()));
    }
    const bool is_list = cpus.find_first_not_of("0123456789,-") == std::string::npos;
    if (is_list && !cpus.empty()) device.cpus = cpus;
    if (!is_list && cpus != "N/A")
      builder_.note(Kind::repaired, row.line,
                    fmt::format("{}: left out '{}', which is no list of CPUs", device.name,
                                cpus.substr(0, 40)));
    if (const auto numa = parse_u32(row.after[1])) {
      device.numa = *numa;
    } else if (!row.after[1].empty() && row.after[1] != "N/A") {
      builder_.note(Kind::remark, row.line,
                    fmt::format("{}: near to NUMA nodes '{}', not to one", device.name,
                                row.after[1].substr(0, 40)));
    }
    if (const auto own = parse_u32(row.after[2]))
      builder_.note(Kind::remark, row.line,
                    fmt::format("{}: its memory is NUMA node {} of its own", device.name, *own));
  }

  void read_cell(const SmiRow& row, const std::string& column, const std::string& cell,
                 bool is_pci_only) {
    const auto path = parse_path_class(cell);
    if (!path) return;  // N/A
    auto& pair = builder_.pair(component_name(row.device), component_name(column));
    if (is_pci_only && pair.path == PathClass::nvlink) return;  // Both are true.
    if (pair.path && *pair.path != *path)
      builder_.note(
          Kind::conflict, row.line,
          fmt::format("{} to {}: {} here, {} in a table before; kept {}", pair.from, pair.to,
                      to_string(*path), to_string(*pair.path), to_string(*pair.path)));
    if (!pair.path) pair.path = path;
  }

  static std::map<std::string_view, std::size_t> index_columns(const SmiMatrix& matrix) {
    std::map<std::string_view, std::size_t> at;
    for (std::size_t i = 0; i < matrix.columns.size(); ++i) at.emplace(matrix.columns[i], i);
    return at;
  }

  // What a table says of one device; `row` is nullptr where it has only the column.
  struct Label {
    std::string_view device;
    const SmiRow* row;
  };

  // Calls `use` with each two devices of the table and what each says of the other; empty where it
  // says nothing.
  template <typename Use>
  void for_each_pair(const SmiMatrix& matrix, Use use) {
    const auto columns = index_columns(matrix);
    std::vector<Label> labels;
    for (const auto& row : matrix.rows) labels.push_back({row.device, &row});
    for (const auto& column : matrix.columns)
      if (!column.empty() &&
          std::ranges::find(matrix.rows, column, &SmiRow::device) == matrix.rows.end())
        labels.push_back({column, nullptr});
    const auto cell = [&](const Label& of, std::string_view column) -> std::string_view {
      const auto at = columns.find(column);
      if (of.row == nullptr || at == columns.end() || at->second >= of.row->cells.size()) return {};
      const auto& said = of.row->cells[at->second];
      return said == "N/A" ? std::string_view() : said;
    };
    for (std::size_t i = 0; i < labels.size(); ++i)
      for (std::size_t j = i + 1; j < labels.size(); ++j)
        use(labels[i], labels[j], cell(labels[i], labels[j].device),
            cell(labels[j], labels[i].device));
  }

  // Where the paths differ the pairs hold both, for whoever examines the machine; of numbers of
  // links only this note is left.
  void check_symmetry(const SmiMatrix& matrix) {
    for_each_pair(matrix, [&](const Label& a, const Label& b, auto forth, auto back) {
      if (forth == back || forth.empty() || back.empty()) return;
      const bool is_kept = parse_path_class(forth) != parse_path_class(back);
      builder_.note(is_kept ? Kind::remark : Kind::conflict, b.row->line,
                    fmt::format("{} and {}: {} from {} but {} from {}", a.device, b.device, forth,
                                a.device, back, b.device));
    });
  }

  // A link needs both its ends; where a row was cut, one has to do.
  void add_nvlinks(const SmiMatrix& matrix) {
    for_each_pair(matrix, [&](const Label& a, const Label& b, auto forth, auto back) {
      if (!numbered(a.device, "GPU") || !numbered(b.device, "GPU")) return;
      if (forth.empty()) forth = back;
      if (back.empty()) back = forth;
      const auto one = parse_nvlink_count(forth);
      const auto other = parse_nvlink_count(back);
      if (!one || !other) return;
      const std::string first(a.device);
      const std::string second(b.device);
      if (linked_.contains({second, first}) || !linked_.emplace(first, second).second) return;
      TopologyLink link{LinkKind::nvlink, component_name(first), component_name(second)};
      link.provenance = Provenance::import;
      link.count = std::min(*one, *other);
      link.state = LinkState::up;
      builder_.links().push_back(std::move(link));
    });
  }

  MachineBuilder builder_;
  std::map<std::uint32_t, std::string> legend_;
  std::unordered_map<std::string, std::string> names_;  // By the table's label.
  std::set<std::uint32_t> nics_;
  std::uint32_t next_nic_ = 0;
  bool are_nvlinks_known_ = false;
  std::set<std::pair<std::string, std::string>> linked_;
  std::vector<TopologyNote> notes_;
};

}  // namespace

TopologyGraph read_smi_topo(std::string_view text, const std::string& origin,
                            const std::string& node) {
  TopoReader reader(text, origin, node);
  auto matrices = read_smi_matrices(text, origin);
  std::erase_if(matrices, [](const SmiMatrix& matrix) { return matrix.is_p2p; });
  // What is of PCI alone comes last: the others know of more.
  std::stable_partition(matrices.begin(), matrices.end(),
                        [](const SmiMatrix& matrix) { return !matrix.is_pci_only; });
  for (const auto& matrix : matrices) reader.read(matrix);
  if (matrices.empty())
    throw text_error(origin, 1,
                     "no table with a header GPU0 GPU1 ... and rows of paths; give the output of "
                     "'nvidia-smi topo -m'");
  return reader.take();
}

}  // namespace causeway
