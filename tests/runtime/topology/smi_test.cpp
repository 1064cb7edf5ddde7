// Goal:   the tables of nvidia-smi are read rightly in every shape that terminals, wikis and old
//         drivers give them, and what is wrong in them is said.
// Method: each hazard by hand; then random machines, printed with random damage that keeps the
//         meaning, must read back; then the published files. Replay with CAUSEWAY_TEST_SEED.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <fmt/format.h>

#include <array>
#include <map>
#include <random>
#include <vector>

#include "import_support.h"

using causeway::ComponentKind;
using causeway::Errc;
using causeway::ImportFormat;
using causeway::ImportOptions;
using causeway::LinkKind;
using causeway::PathClass;
using causeway::PeerStatus;
using causeway::TopologyGraph;
using causeway_test::count_notes;
using causeway_test::count_of;
using causeway_test::find_link;
using causeway_test::find_pair;
using causeway_test::fixture;
using causeway_test::has_note;
using causeway_test::parse_refusal;
using causeway_test::published;
using Note = causeway::TopologyNote::Kind;

static TopologyGraph read(const std::string& text, ImportFormat format = ImportFormat::automatic) {
  return causeway::import_topology(text, "file", {format, "m"});
}

static std::optional<PathClass> path(const TopologyGraph& graph, const char* from, const char* to) {
  const auto* pair = find_pair(graph, from, to);
  return pair == nullptr ? std::nullopt : pair->path;
}

// A matrix of `count` GPUs with the same cell everywhere.
static std::string mesh(int count, const std::string& cell) {
  std::string text;
  for (int i = 0; i < count; ++i) text += fmt::format("\tGPU{}", i);
  text += "\tCPU Affinity\tNUMA Affinity\n";
  for (int i = 0; i < count; ++i) {
    text += fmt::format("GPU{}", i);
    for (int j = 0; j < count; ++j) text += i == j ? "\t X " : "\t" + cell;
    text += "\t0-7\t0\n";
  }
  return text;
}

TEST_CASE("a plain table gives devices, paths, links and what is near") {
  const auto graph = read(fixture("two-gpus-two-nics.topo.txt"));
  CHECK(graph.nodes.size() == 1);
  CHECK(graph.nodes[0].name == "m");
  CHECK(graph.nodes[0].nvlinks_known);
  CHECK(count_of(graph, ComponentKind::gpu) == 2);
  CHECK(count_of(graph, ComponentKind::nic) == 2);
  CHECK(graph.components.size() == 4);
  CHECK(path(graph, "m/gpu0", "m/gpu1") == PathClass::nvlink);
  CHECK(path(graph, "m/gpu0", "m/nic0") == PathClass::pix);
  CHECK(path(graph, "m/nic0", "m/gpu1") == PathClass::sys);
  CHECK(path(graph, "m/nic1", "m/gpu1") == PathClass::node);
  CHECK(find_pair(graph, "m/gpu0", "m/gpu0") == nullptr);
  REQUIRE(graph.links.size() == 1);
  CHECK(graph.links[0].kind == LinkKind::nvlink);
  CHECK(graph.links[0].count == 4);
  CHECK_FALSE(graph.links[0].line_bytes_per_s);  // The chip is not known.
  CHECK(graph.find("m/gpu0")->cpus == "0-7,16-23");
  CHECK(graph.find("m/gpu0")->numa == 0U);
  CHECK(graph.find("m/gpu1")->cpus.empty());  // Clipped: an empty field.
  CHECK(graph.find("m/gpu1")->numa == 1U);
  CHECK(graph.find("m/nic0")->title == "mlx5_0");
  CHECK(graph.find("m/nic1")->title.empty());  // The legend is partial.
  CHECK_FALSE(graph.find("m/nic0")->numa);
}

TEST_CASE("the header may be damaged in every known way") {
  const std::string rows =
      "GPU0\t X \tSYS\tPIX\t0-3\t0\nGPU1\tSYS\t X \tPHB\t4-7\t1\nNIC0\tPIX\tPHB\t X \n";
  const auto good = read("\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\n" + rows);
  REQUIRE(good.pairs.size() == 6);
  for (const std::string header : {
           "\t\t\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\n",              // Shifted.
           "GPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\n",                    // The other way.
           "\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\x1b[0m\n",    // On a terminal.
           "\tGPU0\n\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\n",                // Wrapped.
           "\tGPU0\tGPU1\tNIC0\n\tCPU Affinity\tNUMA Affinity\n",                // Late.
           "\tGPU0\tGPU1NIC0\tCPU Affinity\tNUMA Affinity\n",                    // Fused.
           "\tGPU0GPU1NIC0CPU Affinity\tNUMA Affinity\n",                        // All of it.
           "    GPU0    GPU1    NIC0    CPU      Affinity   NUMA Affinity\r\n",  // Blanks.
           "\xef\xbb\xbf\n\n\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\n",
           "GPU0: the first card\nthis is GPU0\n\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\n",
           "root@a:~# nvidia-smi topo -m\n\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\n",
           "$ nvidia-smi topo -m   GPU0    GPU1   NIC0  CPU Affinity    NUMA Affinity\n",
           "GPU0\n\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\n",  // A title, then the table.
           "\tGPU0\tNIC0\tCPU Affinity\tNUMA Affinity\n",              // A column is gone.
           "\tGPU1\tGPU0\tNIC0\tCPU Affinity\tNUMA Affinity\n",        // Or in the wrong place.
       }) {
    CAPTURE(header);
    const auto graph = read(header + rows);
    CHECK(graph.components == good.components);
    CHECK(graph.pairs == good.pairs);
  }
}

TEST_CASE("a table is the same wherever it was pasted") {
  const std::vector<std::string> lines = {
      "\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity",
      "GPU0\t X \tSYS\tPIX\t0-3\t0",
      "GPU1\tSYS\t X \tPHB\t\t1",
      "NIC0\tPIX\tPHB\t X \t\t",
  };
  const auto each = [&](const std::string& before, const std::string& after) {
    std::string text;
    for (const auto& line : lines) text += before + line + after + "\n";
    return text;
  };
  const auto good = read(each("", ""));
  REQUIRE(good.pairs.size() == 6);
  CHECK(good.find("m/gpu1")->numa == 1U);
  const std::string lost_escapes = "\t[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity[0m\n" +
                                   lines[1] + "\n" + lines[2] + "\n" + lines[3] + "\n";
  const std::string caret_escapes = "\t^[[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity^[[0m\n" +
                                    lines[1] + "\n" + lines[2] + "\n" + lines[3] + "\n";
  const std::string markdown =
      "| Device | GPU0 | GPU1 | NIC0 | CPU Affinity | NUMA Affinity |\n"
      "| :--- | :---: | :---: | :---: | :--- | :---: |\n"
      "| **GPU0** | **X** | SYS | PIX | 0-3 | 0 |\n"
      "| **GPU1** | SYS | **X** | PHB | | 1 |\n"
      "| **NIC0** | PIX | PHB | **X** | | |\n";
  const std::string grid =
      "+------+------+------+------+--------------+---------------+\n"
      "| GPU  | GPU0 | GPU1 | NIC0 | CPU Affinity | NUMA Affinity |\n"
      "+======+======+======+======+==============+===============+\n"
      "| GPU0 | X    | SYS  | PIX  | 0-3          | 0             |\n"
      "+------+------+------+------+--------------+---------------+\n"
      "| GPU1 | SYS  | X    | PHB  |              | 1             |\n"
      "+------+------+------+------+--------------+---------------+\n"
      "| NIC0 | PIX  | PHB  | X    |              |               |\n";
  std::string no_breaks;  // As a web page pads its cells.
  for (const auto c : each("", ""))
    no_breaks += c == '\t' ? "\xc2\xa0\t" : c == ' ' ? "\xc2\xa0" : std::string(1, c);
  std::string stamped;  // The label of a log need not be the same in each line.
  for (std::size_t i = 0; i < lines.size(); ++i)
    stamped += fmt::format("2026-01-01T10:00:0{}Z {}\n", i, lines[i]);
  for (const auto& text :
       {"Said before:\n\n> ```\n" + each("> ", "") + "> ```\n", each(">", ""), each("> > ", ""),
        lost_escapes, caret_escapes, markdown, grid, each("0: ", ""), each("host-1: ", "\r"),
        each("", "\xc2\xa0"), no_breaks, each("[pod/a/main] ", ""), each("# ", ""), stamped}) {
    CAPTURE(text);
    const auto graph = read(text);
    CHECK(graph.components == good.components);
    CHECK(graph.pairs == good.pairs);
  }
  // Such a label is of one table; a line that only names GPUs is none.
  CHECK(read("the cards are GPU0 GPU1\n" + each("", "")).pairs == good.pairs);
}

TEST_CASE("without a header the rows name the columns") {
  const std::string rows =
      "GPU0     X      NV18    PIX     0-3             0\n"
      "GPU1    NV18     X      SYS     4-7             1\n";
  const std::string nic = "NIC0    PIX     SYS      X\n";
  CHECK(causeway::detect_format(rows) == ImportFormat::smi_topo);
  const auto graph = read("The rest of it:\n" + rows + nic);
  const auto good =
      read("        GPU0    GPU1    NIC0    CPU Affinity    NUMA Affinity\n" + rows + nic);
  CHECK(graph.components == good.components);
  CHECK(graph.pairs == good.pairs);
  CHECK(graph.links == good.links);
  CHECK(has_note(graph, Note::repaired, "each column for the row that has its X there"));
  // Its upper rows are gone too: numbers go up from the left, the GPUs before the NICs.
  const auto lower = read(
      "GPU2    NV8     PIX      X      SYS     PXB     0-3     0\n"
      "NIC1    SYS     PXB     PXB     NODE     X\n");
  CHECK(path(lower, "m/gpu2", "m/gpu0") == PathClass::nvlink);
  CHECK(path(lower, "m/gpu2", "m/gpu1") == PathClass::pix);
  CHECK(path(lower, "m/gpu2", "m/nic0") == PathClass::sys);
  CHECK(path(lower, "m/nic1", "m/nic0") == PathClass::node);
  CHECK(lower.components.size() == 5);
  // What is right of the last row has no name.
  const auto cut = read(rows);
  CHECK(cut.components.size() == 2);
  CHECK(cut.find("m/gpu1")->cpus == "4-7");
  const auto peers = read(" GPU0\tX\tOK\t\n GPU1\tOK\tX\t\n");
  REQUIRE(find_pair(peers, "m/gpu0", "m/gpu1") != nullptr);
  CHECK(find_pair(peers, "m/gpu0", "m/gpu1")->granted_read == PeerStatus::ok);
  CHECK(causeway::detect_format("GPU0 is X\nGPU1 X\n") == std::nullopt);
}

TEST_CASE("cells that stand without a blank are taken apart") {
  const auto graph = read(
      "\tGPU0\tGPU1\tNIC0NIC1\tNIC2\tCPU Affinity\n"
      "GPU0\t X \tNV4\tNODEPIX\tSYS\t0-3\n"
      "GPU1\tNV4\t X \tSYSSYS\tPXB\t4-7\n"
      "NIC0\tNODE\tSYS\t X \tNODE\tSYS\n"
      "NIC1\tPIX\tSYS\tNODE X \tSYS\n"
      "NIC2\tSYS\tPXB\tSYSSYS\t X \n");
  CHECK(path(graph, "m/gpu0", "m/nic0") == PathClass::node);
  CHECK(path(graph, "m/gpu0", "m/nic1") == PathClass::pix);
  CHECK(path(graph, "m/gpu0", "m/nic2") == PathClass::sys);
  CHECK(path(graph, "m/gpu1", "m/nic2") == PathClass::pxb);
  CHECK(path(graph, "m/nic2", "m/nic1") == PathClass::sys);
  CHECK(graph.find("m/gpu0")->cpus == "0-3");
  CHECK(has_note(graph, Note::repaired, "cells of GPU0 apart"));
  CHECK(count_notes(graph, Note::conflict) == 0);
}

TEST_CASE("a row goes on in the next line with whatever is left of it") {
  const auto graph = read(
      "        GPU0    GPU1    NIC0    \n"
      "NIC1    CPU Affinity    NUMA Affinity   GPU NUMA ID\n"
      "GPU0     X      NV12    PXB     \n"
      "SYS     48-63,176-191   3               N/A\n"
      "GPU1    NV12     X      SYS     PXB     \n"
      "16-31,144-159   1               N/A\n"
      "NIC0    PXB     SYS      X      \n"
      "SYS\n"
      "NIC1    SYS     PXB     SYS     \n"
      " X\n");
  CHECK(path(graph, "m/gpu0", "m/nic1") == PathClass::sys);
  CHECK(graph.find("m/gpu0")->cpus == "48-63,176-191");
  CHECK(graph.find("m/gpu0")->numa == 3U);
  CHECK(graph.find("m/gpu1")->cpus == "16-31,144-159");
  CHECK(graph.find("m/gpu1")->numa == 1U);
  CHECK(graph.pairs.size() == 12);
}

TEST_CASE("a line that is wrapped within a word says nothing wrong, and that it was cut") {
  const auto graph = read(
      "        GPU0    GPU1    CPU Affi\n"
      "nity    NUMA Affinity   GPU NUMA ID\n"
      "GPU0     X      NV12    0-55,112\n"
      "-167    0               N/A\n"
      "GPU1    NV12     X      0-55,1\n"
      "12-167  0               N/A\n");
  CHECK(graph.find("m/gpu0")->cpus.empty());
  CHECK(graph.find("m/gpu1")->cpus.empty());
  CHECK(path(graph, "m/gpu0", "m/gpu1") == PathClass::nvlink);
  CHECK(has_note(graph, Note::repaired, "wrapped within a word"));
}

TEST_CASE("a table of PCI alone says nothing of NVLinks") {
  const std::string table =
      "\tGPU0\tGPU1\tCPU Affinity\n"
      "GPU0\t X \tNODE\t0-3\n"
      "GPU1\tNODE\t X \t0-3\n";
  const std::string legend = "\nLegend:\n\n  X    = Self\n  PIX  = One bridge\n";
  CHECK(read(table).nodes[0].nvlinks_known);
  CHECK(
      read("$ nvidia-smi topo -m\n" + table + legend + "  NV#  = Links\n").nodes[0].nvlinks_known);
  const auto asked = read("$ nvidia-smi topo -mp\n" + table);
  CHECK_FALSE(asked.nodes[0].nvlinks_known);
  CHECK(asked.nodes[0].unseen.size() == 1);
  CHECK(path(asked, "m/gpu0", "m/gpu1") == PathClass::node);
  CHECK_FALSE(read(table + legend).nodes[0].nvlinks_known);  // Its legend has no NV#.
  const auto both = read("$ nvidia-smi topo -mp\n" + table + legend +
                         "$ nvidia-smi topo -m\n\tGPU0\tGPU1\nGPU0\t X \tNV4\nGPU1\tNV4\t X \n");
  CHECK(both.nodes[0].nvlinks_known);
  REQUIRE(find_link(both, "m/gpu0", "m/gpu1") != nullptr);
}

TEST_CASE("rows may be ragged, out of order, wrapped or twice") {
  const std::string header = "\tGPU0\tGPU1\tGPU2\tCPU Affinity\n";
  const auto ragged =
      read(header + "GPU0\t X \tPIX\nGPU1\tPIX\t X \tSYS\t0-3\nGPU2\tSYS\tSYS\t X\t0-3\n");
  CHECK_FALSE(path(ragged, "m/gpu0", "m/gpu2"));
  CHECK(path(ragged, "m/gpu2", "m/gpu0") == PathClass::sys);
  CHECK(ragged.find("m/gpu0")->cpus.empty());
  CHECK(has_note(ragged, Note::repaired, "row of GPU0 has 2 of 3 cells"));

  const auto shuffled =
      read(header + "GPU2\tSYS\tPHB\t X\t0\nGPU0\t X \tPIX\tSYS\t0\nGPU1\tPIX\t X \tPHB\t0\n");
  CHECK(path(shuffled, "m/gpu2", "m/gpu1") == PathClass::phb);
  CHECK(path(shuffled, "m/gpu0", "m/gpu1") == PathClass::pix);
  CHECK(shuffled.components[0].name == "m/gpu0");
  CHECK(shuffled.notes.empty());

  const auto wrapped =
      read(header + "GPU0\t X \tPIX\n\tSYS\nGPU1\tPIX\t X \tPHB\t0\nGPU2\tSYS\tPHB\t X\t0\n");
  CHECK(path(wrapped, "m/gpu0", "m/gpu2") == PathClass::sys);

  const auto twice = read(header +
                          "GPU0\t X \tPIX\tSYS\t0\nGPU0\t X \tSYS\tSYS\t0\n"
                          "GPU1\tPIX\t X \tPHB\t0\nGPU2\tSYS\tPHB\t X\t0\n");
  CHECK(path(twice, "m/gpu0", "m/gpu1") == PathClass::pix);
  CHECK(has_note(twice, Note::conflict, "second row of GPU0"));
}

TEST_CASE("a bad cell is unknown, and what the other side says of it stands") {
  const std::string header = "\tGPU0\tGPU1\tGPU2\tCPU Affinity\n";
  const std::string rest = "GPU1\tNV2\t X \tSYS\t0-3\nGPU2\tSYS\tSYS\t X \t0-3\n";
  for (const std::string bad : {"ERR", "NV0", "NV-1", "NV99999999999999", "7"}) {
    CAPTURE(bad);
    const auto middle = read(header + "GPU0\t X \t" + bad + "\tSYS\t0-3\n" + rest);
    CHECK_FALSE(path(middle, "m/gpu0", "m/gpu1"));
    CHECK(path(middle, "m/gpu1", "m/gpu0") == PathClass::nvlink);
    CHECK(path(middle, "m/gpu0", "m/gpu2") == PathClass::sys);
    CHECK(middle.find("m/gpu0")->cpus == "0-3");
    REQUIRE(find_link(middle, "m/gpu0", "m/gpu1") != nullptr);
    CHECK(find_link(middle, "m/gpu0", "m/gpu1")->count == 2);
    CHECK(has_note(middle, Note::repaired, "row of GPU0 says '" + bad + "' of GPU1"));
    CHECK(count_notes(middle, Note::repaired) == 1);

    const auto first = read(header + "GPU0\t X \tNV2\tSYS\t0-3\nGPU1\t" + bad +
                            "\t X \tSYS\t0-3\nGPU2\tSYS\tSYS\t X \t0-3\n");
    CHECK(path(first, "m/gpu1", "m/gpu2") == PathClass::sys);
    CHECK(find_link(first, "m/gpu0", "m/gpu1") != nullptr);
    CHECK(has_note(first, Note::repaired, "row of GPU1 says '" + bad + "' of GPU0"));
  }
  const auto all = read("\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV0\t0-3\nGPU1\tNV0\t X \t0-3\n");
  CHECK(all.pairs.empty());
  CHECK(all.find("m/gpu1")->cpus == "0-3");
}

TEST_CASE("a device without a row has what the rows of others say") {
  const std::string header = "\tGPU0\tGPU1\tGPU2\tCPU Affinity\n";
  const std::string rows = "GPU0\t X \tNV2\tNV4\t0-3\nGPU2\tNV4\tSYS\t X \t0-3\n";
  for (const auto& text : {header + rows, header + rows + "GPU1\tERR\n", header + rows + "GPU1"}) {
    CAPTURE(text);
    const auto graph = read(text);
    CHECK(count_of(graph, ComponentKind::gpu) == 3);
    REQUIRE(find_link(graph, "m/gpu0", "m/gpu1") != nullptr);
    CHECK(find_link(graph, "m/gpu0", "m/gpu1")->count == 2);
    CHECK(path(graph, "m/gpu2", "m/gpu1") == PathClass::sys);
    CHECK(has_note(graph, Note::repaired, "no row of GPU1"));
  }
}

TEST_CASE("what is not known stays unknown") {
  const auto single = read(
      "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
      "GPU0\t X \t0-7\t\tN/A\t\tN/A\n");
  CHECK(single.components.size() == 1);
  CHECK(single.find("m/gpu0")->cpus == "0-7");
  CHECK_FALSE(single.find("m/gpu0")->numa);
  CHECK(single.pairs.empty());

  const auto holes = read("\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tN/A\tN/A\nGPU1\tN/A\t X \t0-1\n");
  CHECK_FALSE(path(holes, "m/gpu0", "m/gpu1"));
  CHECK(holes.find("m/gpu0")->cpus.empty());
  CHECK(holes.find("m/gpu1")->cpus == "0-1");

  const auto cut = read("\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tSYS\t0-3\nGPU1\tSYS\t X \t4-7,");
  CHECK(cut.find("m/gpu1")->cpus == "4-7");
  CHECK(has_note(cut, Note::repaired, "list of CPUs ends in ','"));

  const auto own =
      read("\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t0-71\t0\t\t1\n");
  CHECK(own.find("m/gpu0")->numa == 0U);
  CHECK(own.components.size() == 1);  // Not a host memory.
  CHECK(has_note(own, Note::remark, "memory is NUMA node 1 of its own"));

  const auto two = read("\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \t0-71\t0-1\n");
  CHECK_FALSE(two.find("m/gpu0")->numa);
  CHECK(has_note(two, Note::remark, "'0-1'"));
}

TEST_CASE("with blanks, a value belongs to the heading above it") {
  const auto graph = read(
      "        GPU0    GPU1    CPU Affinity    NUMA Affinity   GPU NUMA ID\n"
      "GPU0     X      SYS     0-3             0               N/A\n"
      "GPU1    SYS      X                      1               N/A\n");
  CHECK(graph.find("m/gpu0")->cpus == "0-3");
  CHECK(graph.find("m/gpu1")->cpus.empty());
  CHECK(graph.find("m/gpu1")->numa == 1U);
}

TEST_CASE("cells that contradict each other are named, and make no link") {
  const auto graph = read(
      "\tGPU0\tGPU1\tGPU2\tCPU Affinity\nGPU0\t X \tNV2\tNV4\t0\n"
      "GPU1\tSYS\t X \tPHB\t0\nGPU2\tNV3\tPHB\t X \t0\n");
  CHECK(has_note(graph, Note::remark, "GPU0 and GPU1: NV2 from GPU0 but SYS from GPU1"));
  CHECK(has_note(graph, Note::conflict, "GPU0 and GPU2: NV4 from GPU0 but NV3 from GPU2"));
  CHECK(path(graph, "m/gpu0", "m/gpu1") == PathClass::nvlink);
  CHECK(path(graph, "m/gpu1", "m/gpu0") == PathClass::sys);
  CHECK(find_link(graph, "m/gpu0", "m/gpu1") == nullptr);
  REQUIRE(find_link(graph, "m/gpu0", "m/gpu2") != nullptr);
  CHECK(find_link(graph, "m/gpu0", "m/gpu2")->count == 3);
}

TEST_CASE("old drivers name the NICs themselves, and SYS is SOC") {
  const auto graph = read(
      "        GPU0    mlx5_0  hsn1    CPU Affinity\n"
      "GPU0     X      SOC     PIX     0-3\n"
      "mlx5_0  SOC      X      SYS\nhsn1    PIX     SYS      X\n");
  CHECK(graph.find("m/nic0")->title == "mlx5_0");
  CHECK(graph.find("m/nic1")->title == "hsn1");
  CHECK(path(graph, "m/gpu0", "m/nic0") == PathClass::sys);
}

TEST_CASE("more links than a chip has end at a switch") {
  struct Case {
    int gpus;
    const char* cell;
    bool switched;
  };
  for (const auto& [gpus, cell, switched] : std::vector<Case>{
           {8, "NV18", true},   // H100 and later behind NVSwitch.
           {8, "NV12", true},   // A100.
           {8, "NV8", true},    // A800.
           {16, "NV6", true},   // DGX-2.
           {4, "NV18", true},   // Half a machine, given to a VM.
           {2, "NV18", false},  // Nothing says so.
           {4, "NV6", false},   // Four H100 joined directly: 3 x 6 = 18.
           {4, "NV4", false},   // Four A100 joined directly.
           {8, "NV1", true},    // By number: nobody builds eight in a direct mesh.
           {7, "NV1", false},
       }) {
    CAPTURE(gpus);
    CAPTURE(cell);
    const auto graph = read(mesh(gpus, cell));
    CHECK(count_of(graph, ComponentKind::nvswitch) == (switched ? 1 : 0));
    const auto count = static_cast<std::size_t>(gpus);
    CHECK(graph.links.size() == (switched ? count : count * (count - 1) / 2));
    for (const auto& link : graph.links) CHECK(fmt::format("NV{}", link.count) == cell);
    CHECK(graph.pairs.size() == count * (count - 1));  // Paths stay.
    if (!switched) continue;
    CHECK(graph.components.back().title == "hidden");
    CHECK(graph.components.back().name == "m/nvswitch0");
    CHECK(has_note(graph, Note::remark, "m/nvswitch0"));
  }
}

TEST_CASE("a GPU that lost links keeps its own count behind the switch") {
  const std::string text =
      "\tGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\n"
      "GPU0\t X \tNV18\tNV18\tNV16\t0\nGPU1\tNV18\t X \tNV18\tNV16\t0\n"
      "GPU2\tNV18\tNV18\t X \tNV16\t0\nGPU3\tNV16\tNV16\tNV16\t X \t0\n";
  const auto graph = read(text);
  CHECK(find_link(graph, "m/gpu0", "m/nvswitch0")->count == 18);
  CHECK(find_link(graph, "m/gpu3", "m/nvswitch0")->count == 16);
}

TEST_CASE("the states of -p2p go where the command says") {
  const std::string table =
      " \tGPU0\tGPU1\tGPU2\t\n GPU0\tX\tOK\tCNS\t\n GPU1\tGNS\tX\tU\t\n"
      " GPU2\tTNS\tDR\tX\t\n\nLegend:\n\n  X    = Self\n  OK   = Status Ok\n";
  struct Case {
    const char* command;
    bool read;
    bool write;
  };
  for (const auto& [command, can_read, can_write] :
       std::vector<Case>{{"", true, true},
                         {"$ nvidia-smi topo -p2p r\n", true, false},
                         {"$ nvidia-smi topo -p2p w\n", false, true},
                         {"peers (topo -p2p rw):\n", true, true},
                         {"$ nvidia-smi topo -p2p p\n", true, true},
                         {"$ nvidia-smi topo -p2p n\n", false, false},
                         {"$ nvidia-smi topo -p2p a\n", false, false}}) {
    CAPTURE(command);
    const auto graph = read(command + table);
    CHECK(count_of(graph, ComponentKind::gpu) == 3);
    CHECK_FALSE(graph.nodes[0].nvlinks_known);
    const auto* pair = find_pair(graph, "m/gpu1", "m/gpu0");
    REQUIRE((pair != nullptr) == (can_read || can_write));
    if (pair == nullptr) continue;
    CHECK(pair->granted_read ==
          (can_read ? std::optional(PeerStatus::gpu_not_supported) : std::nullopt));
    CHECK(pair->granted_write ==
          (can_write ? std::optional(PeerStatus::gpu_not_supported) : std::nullopt));
    CHECK_FALSE(pair->path);
    const auto state = [&](const char* from, const char* to) {
      const auto* of = find_pair(graph, from, to);
      return can_read ? of->granted_read : of->granted_write;
    };
    CHECK(state("m/gpu0", "m/gpu1") == PeerStatus::ok);
    CHECK(state("m/gpu0", "m/gpu2") == PeerStatus::chipset_not_supported);
    CHECK(state("m/gpu1", "m/gpu2") == PeerStatus::unknown);
    CHECK(state("m/gpu2", "m/gpu0") == PeerStatus::topology_not_supported);
    CHECK(state("m/gpu2", "m/gpu1") == PeerStatus::disabled_by_registry);
    CHECK(has_note(graph, Note::remark, "does not say which") == (command[0] == '\0'));
  }
}

TEST_CASE("several outputs in one text are one machine") {
  const auto graph = read(fixture("pasted-session.txt"));
  CHECK(count_of(graph, ComponentKind::gpu) == 2);
  const auto* pair = find_pair(graph, "m/gpu0", "m/gpu1");
  REQUIRE(pair != nullptr);
  CHECK(pair->path == PathClass::nvlink);
  CHECK(pair->granted_read == PeerStatus::ok);
  CHECK(pair->granted_write == PeerStatus::not_supported);
  CHECK(graph.find("m/gpu0")->title == "NVIDIA GeForce RTX 3090");
  CHECK(graph.find("m/gpu0")->numa == 0U);
  CHECK(graph.find("m/gpu0")->nvlinks_down == 0U);
  REQUIRE(graph.links.size() == 1);
  CHECK(graph.links[0].count == 4);
  REQUIRE(graph.links[0].line_bytes_per_s);
  CHECK(graph.links[0].line_bytes_per_s->value == 56.25e9);  // 4 x 14.0625
  CHECK(graph.name == "file");
}

TEST_CASE("nvlink -s counts links and those that are down") {
  const auto graph = read(
      "GPU 0: Tesla V100-SXM2-32GB (UUID: GPU-aa)\n\t Link 0: 25.781 GB/s\n\t Link 1: <inactive>\n"
      "\t Link 2: 25.781 GB/s\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bb)\n"
      "\t Link 0: 26.562 GB/s\nGPU 2: Some Card (UUID: GPU-cc)\n\t Link 0: 53.125 GB/s\n");
  CHECK(graph.nodes[0].nvlinks_known);
  const auto* first = graph.find("m/gpu0");
  CHECK(first->title == "Tesla V100-SXM2-32GB");
  CHECK(first->uuid == "GPU-aa");
  CHECK(first->nvlinks_max == 3U);
  CHECK(first->nvlinks_down == 1U);
  CHECK(first->sm == 70U);
  CHECK(graph.find("m/gpu1")->model == "h100-sxm");
  CHECK(graph.find("m/gpu2")->sm == 100U);  // By its links.
  CHECK(graph.links.empty());               // Where they end is not said.
}

TEST_CASE("a list of GPUs alone says nothing of NVLinks") {
  const auto graph = read("GPU 0: NVIDIA L40S (UUID: GPU-1)\nGPU 1: NVIDIA L40S (UUID: GPU-1)\n");
  CHECK_FALSE(graph.nodes[0].nvlinks_known);
  CHECK(graph.find("m/gpu0")->model == "l40s");
  CHECK(graph.find("m/gpu0")->uuid.empty());  // Blacked out: both have it.
  CHECK(count_notes(graph, Note::remark) == 2);
}

TEST_CASE("what is no table, or too large, is refused") {
  CHECK(parse_refusal([] { return read("", ImportFormat::smi_topo); }).starts_with("file:1: "));
  CHECK(parse_refusal([] { return read("hello\n"); }).find("nvidia-smi topo -m") !=
        std::string::npos);
  std::string fused = "\t";
  for (int i = 0; i < 100'000; ++i) fused += fmt::format("NIC{}", i % 500);
  CHECK(parse_refusal([&] {
          return read("\tGPU0" + fused + "\nGPU0\t X\n", ImportFormat::smi_topo);
        }).find("more than 512") != std::string::npos);
  std::string wide;
  for (int i = 0; i < 100'000; ++i) wide += fmt::format("\tGPU{}", i % 512);
  CHECK(parse_refusal([&] {
          return read(wide + "\nGPU0\t X \tSYS\n", ImportFormat::smi_topo);
        }).find("more than 512") != std::string::npos);
  std::string many;
  for (int i = 0; i < 100; ++i) many += mesh(1, "");
  CHECK(parse_refusal([&] { return read(many); }).find("more than 64") != std::string::npos);
}

// A machine as a table says it, printed with damage that leaves its meaning.
static std::string print_damaged(const std::vector<std::vector<std::string>>& cells,
                                 std::mt19937_64& random) {
  const auto chance = [&](unsigned percent) { return random() % 100 < percent; };
  const auto count = cells.size();
  const bool tabs = chance(60);
  const auto gap = [&] { return tabs ? std::string(1 + chance(10), '\t') : std::string("    "); };
  std::string text = chance(30) ? "user@host:~$ nvidia-smi topo -m\n" : "";
  if (chance(10)) text = "\xef\xbb\xbf" + text;
  const auto wrap_at = chance(20) ? 1 + random() % count : count + 1;
  for (std::size_t i = 0; i < count; ++i) {
    const bool fuse = i > 0 && chance(10);
    const bool ansi = chance(10);
    if (i == wrap_at) text += '\n';
    if (!fuse || i == wrap_at) text += gap();
    text += ansi ? fmt::format("\x1b[4mGPU{}\x1b[0m", i) : fmt::format("GPU{}", i);
  }
  text += gap() + "CPU Affinity" + gap() + "NUMA Affinity\n";
  std::vector<std::size_t> order(count);
  for (std::size_t i = 0; i < count; ++i) order[i] = i;
  if (chance(30)) std::ranges::shuffle(order, random);
  for (const auto i : order) {
    text += fmt::format("GPU{}", i);
    for (const auto& cell : cells[i]) text += gap() + (cell == "X" ? " X " : cell);
    text += "\t0-7\t0";
    text += chance(10) ? "\r\n" : "\n";
  }
  return text +
         (chance(50) ? "\nLegend:\n\n  X    = Self\n  NV#  = A bonded set of # NVLinks\n" : "");
}

TEST_CASE("random machines read back from damaged tables") {
  const char* given = std::getenv("CAUSEWAY_TEST_SEED");
  const auto first = given != nullptr ? std::strtoull(given, nullptr, 10) : 1;
  const auto last = given != nullptr ? first : 2000;
  for (auto seed = first; seed <= last; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const auto count = 1 + random() % 9;
    constexpr std::array kCells{"NV1", "NV2", "NV4", "PIX", "PXB", "PHB", "NODE", "SYS"};
    std::vector cells(count, std::vector<std::string>(count, "X"));
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t j = i + 1; j < count; ++j)
        cells[i][j] = cells[j][i] = kCells[random() % kCells.size()];
    const auto text = print_damaged(cells, random);
    CAPTURE(text);
    const auto graph = read(text);
    REQUIRE(count_of(graph, ComponentKind::gpu) == count);
    REQUIRE(count_notes(graph, Note::conflict) == 0);
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t j = 0; j < count; ++j) {
        if (i == j) continue;
        const auto a = fmt::format("m/gpu{}", i);
        const auto b = fmt::format("m/gpu{}", j);
        const auto is = path(graph, a.c_str(), b.c_str());
        const bool nvlink = cells[i][j].starts_with("NV");
        REQUIRE(is);
        REQUIRE(to_string(*is) == (nvlink ? "NVL" : cells[i][j]));
        if (count_of(graph, ComponentKind::nvswitch) > 0) continue;
        const auto* link = find_link(graph, a, b);
        REQUIRE((link != nullptr) == nvlink);
        if (nvlink) REQUIRE(fmt::format("NV{}", link->count) == cells[i][j]);
      }
  }
}

struct Published {
  const char* file;
  std::size_t gpus;
  std::size_t nics;
  std::size_t switches;
  std::size_t nvlinks;
  std::vector<std::uint32_t> numa;  // By GPU; empty: not said.
};

TEST_CASE("the published tables are read as they are meant") {
  for (const auto& [file, gpus, nics, switches, nvlinks, numa] : std::vector<Published>{
           {"1x-p4-numa-NA.topo.txt", 1, 0, 0, 0, {}},
           {"2x-rtx3090-nvlink-bridge.topo.txt", 2, 0, 0, 1, {0, 0}},
           {"2x-rtx5090-threadripper-p2pGNS.topo.txt", 2, 0, 0, 0, {0, 0}},
           {"4x-nv4-3nic-slurm-affinity-clipped.topo.txt", 4, 3, 0, 6, {0, 0, 1, 1}},
           {"4x-pxb-pix-acs-hang.topo.txt", 4, 0, 0, 0, {0, 0, 1, 1}},
           {"5x-rtx5060ti-epyc-node-p2pOK.topo.txt", 5, 0, 0, 0, {0, 0, 0, 0, 0}},
           {"8x-rtx4090-2xepyc7542-nps4-allSYS.topo.txt", 8, 4, 0, 0, {3, 2, 1, 0, 7, 6, 5, 4}},
           {"alcf-polaris-a100x4.topo.txt", 4, 2, 0, 6, {3, 2, 1, 0}},
           {"dgx1v-v100x8-hybridcube-TRUNCATED.topo.txt", 8, 2, 0, 16, {}},
           {"vastai-hgx-h200x8-container.topo.txt", 8, 8, 1, 8, {0, 0, 0, 0, 1, 1, 1, 1}},
       }) {
    const auto text = published(file);
    if (!text) return;
    CAPTURE(file);
    CHECK(causeway::detect_format(*text) == ImportFormat::smi_topo);
    const auto graph = read(*text);
    CHECK(count_of(graph, ComponentKind::gpu) == gpus);
    CHECK(count_of(graph, ComponentKind::nic) == nics);
    CHECK(count_of(graph, ComponentKind::nvswitch) == switches);
    CHECK(count_of(graph, LinkKind::nvlink) == nvlinks);
    const auto rows = std::string_view(file).find("TRUNCATED") == std::string_view::npos
                          ? gpus + nics
                          : gpus;  // The rows of its NICs are cut.
    CHECK(graph.pairs.size() == rows * (gpus + nics - 1));
    CHECK(count_notes(graph, Note::conflict) == 0);
    for (std::size_t i = 0; i < gpus; ++i)
      CHECK(graph.find(fmt::format("m/gpu{}", i))->numa ==
            (numa.empty() ? std::nullopt : std::optional(numa[i])));
  }
}

TEST_CASE("particulars of the published tables") {
  const auto cube = published("dgx1v-v100x8-hybridcube-TRUNCATED.topo.txt");
  if (!cube) return;
  const auto v100 = read(*cube);
  CHECK(path(v100, "m/gpu0", "m/gpu5") == PathClass::sys);
  CHECK(find_link(v100, "m/gpu0", "m/gpu5") == nullptr);
  CHECK(find_link(v100, "m/gpu0", "m/gpu1")->count == 2);
  CHECK(find_link(v100, "m/gpu0", "m/gpu4")->count == 1);
  CHECK(has_note(v100, Note::repaired, "m/gpu7: the list of CPUs ends"));
  std::map<std::string, std::uint32_t> links;
  for (const auto& link : v100.links) {
    links[link.a] += link.count;
    links[link.b] += link.count;
  }
  for (const auto& [gpu, count] : links) CHECK(count == 6);

  const auto clipped = read(*published("4x-nv4-3nic-slurm-affinity-clipped.topo.txt"));
  CHECK(clipped.find("m/gpu0")->cpus == "0");
  CHECK(clipped.find("m/gpu2")->cpus.empty());

  const auto polaris = read(*published("alcf-polaris-a100x4.topo.txt"));
  CHECK(polaris.find("m/nic0")->title == "mlx5_0");
  CHECK(path(polaris, "m/nic0", "m/gpu3") == PathClass::phb);
  CHECK(path(polaris, "m/gpu1", "m/nic1") == PathClass::phb);
  CHECK(polaris.find("m/gpu0")->cpus == "24-31,56-63");

  const auto nps4 = read(*published("8x-rtx4090-2xepyc7542-nps4-allSYS.topo.txt"));
  CHECK(path(nps4, "m/gpu6", "m/nic3") == PathClass::phb);
  CHECK(nps4.find("m/nic3")->title == "mlx5_3");

  const auto h200 = read(*published("vastai-hgx-h200x8-container.topo.txt"));
  for (const auto& link : h200.links) CHECK(link.count == 18);
  CHECK(path(h200, "m/nic5", "m/gpu5") == PathClass::pix);

  const auto states = read(*published("2x-rtx5090-threadripper-p2pGNS.p2p-rw.txt"));
  CHECK(find_pair(states, "m/gpu1", "m/gpu0")->granted_read == PeerStatus::gpu_not_supported);
  CHECK(find_pair(states, "m/gpu0", "m/gpu1")->granted_write == PeerStatus::gpu_not_supported);

  const auto bridge = read(*published("2x-rtx3090-nvlink-bridge.nvlink-s.txt"));
  CHECK(bridge.find("m/gpu1")->nvlinks_max == 4U);
  CHECK(bridge.find("m/gpu1")->uuid.empty());
  REQUIRE(bridge.links.size() == 1);
  CHECK(bridge.links[0].count == 4);
  CHECK(bridge.links[0].line_bytes_per_s->value == 56.25e9);
}
