// Goal:   NCCL's and RCCL's XML reads as what the machine is, and what is written reads back.
// Method: one small file for each rule, hostile texts by hand, then every published file.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <fmt/format.h>

#include <map>
#include <set>

#include "causeway/topology_export.h"
#include "import_support.h"
#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/xml_text.h"

using namespace causeway;
using namespace causeway_test;
using NoteKind = TopologyNote::Kind;

namespace {

TopologyGraph read(const std::string& text) { return read_nccl_xml(text, "f.xml", "n"); }
TopologyGraph read_fixture(const std::string& name) { return read(fixture("nccl_xml/" + name)); }

const Component& part(const TopologyGraph& graph, const std::string& name) {
  const auto* found = graph.find(name);
  REQUIRE_MESSAGE(found != nullptr, "no " << name);
  return *found;
}

const Component& at(const TopologyGraph& graph, const std::string& address) {
  const auto found =
      std::ranges::find(graph.components, PciAddress::parse(address), &Component::pci);
  REQUIRE_MESSAGE(found != graph.components.end(), "nothing at " << address);
  return *found;
}

const TopologyLink& link(const TopologyGraph& graph, const std::string& a, const std::string& b) {
  const auto* found = find_link(graph, a, b);
  REQUIRE_MESSAGE(found != nullptr, "no link " << a << " - " << b);
  return *found;
}

// NVLinks and xGMI links of a GPU.
std::uint32_t links_of(const TopologyGraph& graph, const std::string& gpu) {
  std::uint32_t count = 0;
  for (const auto& each : graph.links)
    if ((each.kind == LinkKind::nvlink || each.kind == LinkKind::xgmi) &&
        (each.a == gpu || each.b == gpu))
      count += each.count;
  return count;
}

// How many sets of GPUs, and of what size, are joined by NVLinks: {size: how many}.
std::map<std::size_t, std::size_t> domains(const TopologyGraph& graph) {
  std::map<std::string, std::string> parent;
  for (const auto& each : graph.components) parent[each.name] = each.name;
  const auto find = [&](std::string name) {
    while (parent.at(name) != name) name = parent.at(name);
    return name;
  };
  for (const auto& each : graph.links)
    if (each.kind == LinkKind::nvlink || each.kind == LinkKind::xgmi)
      parent[find(each.a)] = find(each.b);
  std::map<std::string, std::size_t> sizes;
  for (const auto& each : graph.components)
    if (each.kind == ComponentKind::gpu) ++sizes[find(each.name)];
  std::map<std::size_t, std::size_t> result;
  for (const auto& [root, size] : sizes) ++result[size];
  return result;
}

// What is written reads back equal, notes aside: an import's repairs are not in what it gives.
void check_round_trip(const TopologyGraph& graph) {
  if (graph.nodes.size() != 1) return;
  const auto text = graph_to_nccl_xml(graph, graph.nodes[0].name);
  CAPTURE(text);
  auto again = read_nccl_xml(text, "written.xml", graph.nodes[0].name);
  again.notes = graph.notes;
  again.name = graph.name;
  CHECK(again.components == graph.components);
  CHECK(again.links == graph.links);
  CHECK(again == graph);
}

std::string one_gpu(const std::string& inside) {
  return R"(<system version="1"><cpu numaid="0"><pci busid="0000:01:00.0" class="0x030200">)" +
         inside + "</pci></cpu></system>";
}

}  // namespace

TEST_CASE("a mesh: numbers, places, speeds") {
  const auto graph = read_fixture("mesh.xml");
  CHECK(graph.nodes.size() == 1);
  CHECK(graph.nodes[0].nvlinks_known);
  CHECK(at(graph, "0000:41:00.0").name == "n/gpu0");  // By dev, not by place in the text.
  CHECK(at(graph, "0000:81:00.0").name == "n/gpu1");
  CHECK(at(graph, "0000:c1:00.0").name == "n/gpu2");
  const auto& gpu = part(graph, "n/gpu1");
  CHECK(gpu.model == "a100-sxm");
  CHECK(gpu.sm == 80U);
  CHECK(gpu.numa == 0U);
  CHECK(gpu.gpu_direct == false);
  CHECK_FALSE(gpu.capacity_bytes);
  CHECK(part(graph, "n/cpu1").cpus == "8-15");
  CHECK(part(graph, "n/cpu1").cpu_vendor == "AuthenticAMD");
  CHECK(part(graph, "n/cpu1").cpu_model == 1U);
  CHECK_FALSE(part(graph, "n/host1").capacity_bytes);
  CHECK(link(graph, "n/cpu1", "n/host1").kind == LinkKind::memory);
  CHECK(link(graph, "n/cpu0", "n/cpu1").kind == LinkKind::socket);

  const auto& above = link(graph, "n/gpu0", "n/cpu1");
  CHECK(above.a == "n/gpu0");  // The lower end.
  CHECK(above.pcie == PcieMode{4, 16});
  CHECK(above.effective_bytes_per_s == Figure{24e9, Provenance::import});
  CHECK(link(graph, "n/nic1", "n/cpu1").pcie == PcieMode{4, 16});  // "16 GT/s"
  CHECK(link(graph, "n/gpu1", "n/bridge0").pcie == PcieMode{3, 8});
  CHECK(link(graph, "n/gpu2", "n/bridge0").pcie == PcieMode{});
  const auto& virtual_port = link(graph, "n/bridge0", "n/cpu0");
  CHECK(virtual_port.pcie == PcieMode{});
  CHECK_FALSE(virtual_port.effective_bytes_per_s);
  CHECK(has_note(graph, NoteKind::remark, "Gen1 x1"));

  CHECK(count_of(graph, LinkKind::nvlink) == 3);
  CHECK(link(graph, "n/gpu0", "n/gpu1").count == 4);  // 2 + 2 on one side.
  CHECK(link(graph, "n/gpu0", "n/gpu1").line_bytes_per_s->value == 100e9);
  CHECK(links_of(graph, "n/gpu2") == 8);
  check_round_trip(graph);
}

TEST_CASE("network devices: ports, rates, a device of no PCI") {
  const auto graph = read_fixture("mesh.xml");
  CHECK(count_of(graph, ComponentKind::nic) == 3);
  const auto& port = part(graph, "n/nic1");
  CHECK(port.title == "mlx5_1");
  CHECK(port.uuid == "0x1070fd0300a1b2c3");
  CHECK(port.port_bytes_per_s == 25e9);
  CHECK(port.is_rdma == true);
  CHECK(port.gpu_direct == true);
  CHECK_FALSE(part(graph, "n/nic2").port_bytes_per_s);  // speed="-1"
  const auto& tcp = part(graph, "n/nic0");
  CHECK(tcp.title == "eth0");
  CHECK_FALSE(tcp.pci);
  CHECK_FALSE(tcp.numa);  // Hung on a CPU for want of a place,
  CHECK(std::ranges::none_of(graph.links, [&](const TopologyLink& each) {
    return each.a == tcp.name || each.b == tcp.name;  // so nothing is said of paths to it.
  }));
  CHECK_FALSE(tcp.is_rdma);
  CHECK(tcp.uuid.empty());  // guid 0x0
  const auto twice = read(R"(<system version="1">
    <cpu numaid="0"><nic><net name="eth0" dev="0" guid="0x0"/></nic></cpu>
    <cpu numaid="1"><nic><net name="eth0" dev="0" guid="0x0"/></nic></cpu></system>)");
  CHECK(count_of(twice, ComponentKind::nic) == 1);
  CHECK(twice.notes.at(0).kind == NoteKind::repaired);
  CHECK(twice.notes.at(0).source == "f.xml:3");
}

TEST_CASE("a rate that no port has is named; a file by hand says nothing of NVLinks") {
  const auto file = [](const std::string& gpu, const std::string& speed) {
    return read(fmt::format(R"(<system version="1"><cpu numaid="0">
      <pci busid="0000:01:00.0" class="0x030200">{}</pci>
      <pci busid="0000:02:00.0" class="0x020000"><nic><net name="cxi0" dev="0" speed="{}"/></nic>
      </pci></cpu></system>)",
                            gpu, speed));
  };
  const auto kilobits = file("", "200000000");
  CHECK_FALSE(part(kilobits, "n/nic0").port_bytes_per_s);
  CHECK(
      has_note(kilobits, NoteKind::repaired, "cxi0: no port has a speed of \"200000000\" Mbit/s"));
  const auto two = read(R"(<system version="1"><cpu numaid="0">
      <pci busid="0000:02:00.0" class="0x020000">
        <nic><net name="eth0" dev="0" speed="1000000"/><net name="mlx5_0" dev="1" speed="200000000"/></nic>
      </pci></cpu></system>)");
  CHECK_FALSE(part(two, "n/nic0").port_bytes_per_s);
  CHECK_FALSE(part(two, "n/nic1").port_bytes_per_s);
  const auto merged = file("", "3200000");
  CHECK(part(merged, "n/nic0").port_bytes_per_s == 400e9);
  CHECK(count_notes(merged, NoteKind::repaired) == 0);

  // NCCL gives every chip as new as this its ids; who wrote it leaves the NVLinks to NCCL.
  const auto by_hand = file(R"(<gpu dev="0" sm="90" rank="0" gdr="1"/>)", "100000");
  CHECK_FALSE(by_hand.nodes[0].nvlinks_known);
  CHECK(by_hand.nodes[0].unseen.size() == 1);
  CHECK(part(by_hand, "n/gpu0").sm == 90U);
  check_round_trip(by_hand);
  CHECK(file(R"(<gpu dev="0" sm="75"/>)", "1").nodes[0].nvlinks_known);
  CHECK(file(R"(<gpu dev="0" sm="120" gcn="908"/>)", "1").nodes[0].nvlinks_known);
  CHECK(file(R"(<gpu dev="0" sm="90"><nvlink target="0000:03:00.0" count="18" tclass="0x068000"/>
      </gpu>)",
             "1")
            .nodes[0]
            .nvlinks_known);
}

TEST_CASE("faults of a file are repaired and named") {
  const auto graph = read_fixture("faulty_links.xml");
  CHECK(count_of(graph, ComponentKind::gpu) == 3);
  CHECK(count_of(graph, LinkKind::nvlink) == 2);
  CHECK(link(graph, "n/gpu0", "n/gpu1").count == 2);  // One-sided: completed.
  CHECK(link(graph, "n/gpu0", "n/gpu2").count == 1);  // 2 and 1: the lower.
  CHECK(count_notes(graph, NoteKind::repaired) == 5);
  const auto source_of = [&](std::string_view what) -> std::string {
    for (const auto& note : graph.notes)
      if (note.text.find(what) != std::string::npos) return note.source;
    return "no such note";
  };
  CHECK(source_of("to itself") == "f.xml:5");
  CHECK(source_of("none back") == "f.xml:6");
  CHECK(source_of("the lower number") == "f.xml:7");
  CHECK(source_of("not in the file") == "f.xml:8");
  CHECK(source_of("listed twice") == "f.xml:19");
  CHECK(domains(graph) == std::map<std::size_t, std::size_t>{{3, 1}});
}

TEST_CASE("what no encoding, no link and no chip can be is repaired and named") {
  const std::string net = R"(<nic><net name="NAME" dev="0"/></nic>)";
  const auto titled = [&](const std::string& title) {
    auto text = net;
    text.replace(text.find("NAME"), 4, title);
    return read(
        R"(<system version="1"><cpu numaid="0"><pci busid="0000:01:00.0" class="0x020000">)" +
        text + "</pci></cpu></system>");
  };
  const auto latin = titled("ger\xe4t");
  CHECK(part(latin, "n/nic0").title == "ger\xef\xbf\xbdt");
  CHECK(has_note(latin, NoteKind::repaired, "name is not UTF-8"));
  CHECK(part(titled("a&#xD800;"), "n/nic0").title == "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  std::string umlauts = "x";
  for (int i = 0; i < 200; ++i) umlauts += "\xc3\xa4";
  CHECK(part(titled(umlauts), "n/nic0").title == umlauts.substr(0, 255));
  CHECK(part(titled("y" + umlauts), "n/nic0").title == "y" + umlauts.substr(0, 253));
  for (const auto& graph : {latin, titled("a&#xD800;"), titled("y" + umlauts)})
    CHECK(causeway::import_topology(causeway::graph_to_json(graph), "j") == graph);

  const auto pci = [](const std::string& attributes) {
    return read(
        R"(<system version="1"><cpu numaid="0"><pci busid="0000:01:00.0" class="0x030200" )" +
        attributes + "/></cpu></system>");
  };
  const auto speed = pci(R"(link_speed="banana" link_width="16")");
  CHECK(has_note(speed, NoteKind::repaired, "a speed of \"banana\""));
  CHECK(link(speed, "n/gpu0", "n/cpu0").pcie.width == 16U);
  CHECK(has_note(pci(R"(link_speed="8 GT/s" link_width="99")"), NoteKind::repaired,
                 "a width of \"99\""));
  CHECK(pci(R"(link_speed="Unknown" link_width="0")").notes.empty());

  // 54 links of an A100, which has 12, to a switch; and 12 to each of three peers.
  const std::string open = R"(<system version="1"><cpu numaid="0">)";
  const auto gpu = [](int number, const std::string& links) {
    return fmt::format(
        R"(<pci busid="0000:0{0}:00.0" class="0x030200"><gpu dev="{0}" sm="80">{1}</gpu></pci>)",
        number, links);
  };
  const auto many =
      read(open + gpu(0, R"(<nvlink target="0000:0a:00.0" count="54" tclass="0x068000"/>)") +
           "</cpu></system>");
  CHECK(links_of(many, "n/gpu0") == 12);
  CHECK(has_note(many, NoteKind::repaired, "n/gpu0: 54 NVLinks, and its chip has 12"));
  const auto mixed = read(
      open +
      gpu(0, R"(<nvlink target="0000:01:00.0" count="1" tclass="0x030200"/>)"
             R"(<nvlink target="0000:02:00.0" count="1" tclass="0x030200"/>)"
             R"(<nvlink target="0000:0a:00.0" count="200" tclass="0x068000"/>)") +
      gpu(1, R"(<nvlink target="0000:00:00.0" count="1" tclass="0x030200"/>)") +
      gpu(2, R"(<nvlink target="0000:00:00.0" count="1" tclass="0x030200"/>)") + "</cpu></system>");
  CHECK(links_of(mixed, "n/gpu0") == 12);
  std::string mesh = open;
  for (int i = 0; i < 4; ++i) {
    std::string links;
    for (int j = 0; j < 4; ++j)
      if (i != j)
        links += fmt::format(R"(<nvlink target="0000:0{}:00.0" count="12" tclass="0x030200"/>)", j);
    mesh += gpu(i, links);
  }
  const auto switched = read(mesh + "</cpu></system>");
  CHECK(count_of(switched, ComponentKind::nvswitch) == 1);
  CHECK(links_of(switched, "n/gpu3") == 12);
  CHECK(has_note(switched, NoteKind::repaired, "an NVSwitch that the file does not list"));
}

TEST_CASE("a rack: hosts are told apart, the hidden switch joins them") {
  const auto graph = read_fixture("rack.xml");
  CHECK(graph.nodes.size() == 2);
  CHECK(graph.nodes[1].name == "n-1");
  CHECK(part(graph, "n-0/gpu0").pci == part(graph, "n-1/gpu0").pci);
  CHECK(count_of(graph, ComponentKind::nvswitch) == 1);
  CHECK(part(graph, "n-0/nvswitch0").pci->is_hidden());
  CHECK(link(graph, "n-1/gpu0", "n-0/nvswitch0").count == 17);  // Fewer than its peer.
  CHECK(domains(graph) == std::map<std::size_t, std::size_t>{{2, 1}});
  CHECK(find_link(graph, "n-0/cpu0", "n-1/cpu0") == nullptr);
  const auto& coherent = link(graph, "n-0/gpu0", "n-0/cpu0");
  CHECK(coherent.kind == LinkKind::c2c);
  CHECK(coherent.count == 5);
  CHECK(coherent.line_bytes_per_s->value == doctest::Approx(223.56e9));
  // One lane above sixteen.
  CHECK(link(graph, "n-0/bridge0", "n-0/cpu0").pcie == PcieMode{});
  CHECK(has_note(graph, NoteKind::remark, "not as a bottleneck"));
  for (const auto& node : graph.nodes) {
    const auto alone = read_nccl_xml(graph_to_nccl_xml(graph, node.name), "w", "n");
    CHECK(links_of(alone, "n/gpu0") == links_of(graph, node.name + "/gpu0"));
  }
}

TEST_CASE("one lane above one lane is what it says") {
  const auto graph = read(R"(<system version="1"><cpu numaid="0">
    <pci busid="0000:01:00.0" class="0x060400" link_speed="8 GT/s" link_width="1">
      <pci busid="0000:02:00.0" class="0x030200" link_speed="8 GT/s" link_width="1"/>
    </pci></cpu></system>)");
  CHECK(link(graph, "n/bridge0", "n/cpu0").pcie == PcieMode{3, 1});
}

TEST_CASE("AMD: sm counts compute units, links are xGMI") {
  const auto graph = read_fixture("amd.xml");
  for (const auto* name : {"n/gpu0", "n/gpu1"}) {
    CHECK(part(graph, name).arch == "gfx90a");
    CHECK_FALSE(part(graph, name).sm);
    CHECK(part(graph, name).model.empty());
  }
  const auto& joint = link(graph, "n/gpu0", "n/gpu1");
  CHECK(joint.kind == LinkKind::xgmi);
  CHECK(joint.count == 4);
  CHECK(joint.effective_bytes_per_s->value == 4 * 36e9);
  CHECK(graph_to_nccl_xml(graph, "n").starts_with("<system version=\"2\">"));
  check_round_trip(graph);
}

TEST_CASE("NVLinks to the CPU, an unknown NUMA node, devices known by class alone") {
  const auto graph = read_fixture("power.xml");
  const auto& to_cpu = link(graph, "n/gpu0", "n/cpu8");
  CHECK(std::ranges::any_of(graph.links, [](const TopologyLink& each) {
    return each.kind == LinkKind::nvlink && each.a == "n/gpu0" && each.b == "n/cpu8" &&
           each.count == 3;
  }));
  CHECK(to_cpu.kind == LinkKind::pcie);
  CHECK(count_of(graph, ComponentKind::nvswitch) == 0);
  CHECK_FALSE(part(graph, "n/cpu0").numa);  // The first number that is free.
  CHECK(at(graph, "0036:03:00.0").kind == ComponentKind::gpu);
  CHECK(at(graph, "0036:03:00.0").sm == 70U);  // By its device id.
  CHECK_FALSE(at(graph, "0036:03:00.0").numa);
  CHECK(link(graph, at(graph, "0036:03:00.0").name, "n/cpu0").pcie == PcieMode{});
  CHECK(at(graph, "0037:00:00.0").kind == ComponentKind::unknown);  // A management controller.
  CHECK(at(graph, "0038:00:00.0").kind == ComponentKind::nic);
  CHECK(link(graph, "n/nic0", "n/cpu0").pcie == PcieMode{2, 8});
}

TEST_CASE("the NVSwitches of one machine are one fabric") {
  const auto graph = read_fixture("two_boards.xml");
  CHECK(count_of(graph, ComponentKind::nvswitch) == 3);
  CHECK(domains(graph) == std::map<std::size_t, std::size_t>{{2, 1}});
  CHECK(links_of(graph, "n/gpu0") == 6);
  const auto& assumed = link(graph, "n/nvswitch0", "n/nvswitch2");
  CHECK_FALSE(assumed.line_bytes_per_s);
  CHECK(assumed.provenance == Provenance::spec);
  CHECK(has_note(graph, NoteKind::remark, "one fabric"));
  check_round_trip(graph);
}

TEST_CASE("what is no topology is refused with a reason") {
  const auto refusal = [](const std::string& text) {
    return parse_refusal([&] { return read(text); });
  };
  CHECK(refusal("<graphs version=\"1\"/>").find("f.xml:1: this is a graph, not a topology") == 0);
  CHECK(refusal("<topology/>").find("NCCL_TOPO_DUMP_FILE") != std::string::npos);
  CHECK(refusal("<system/>").find("without a <cpu>") != std::string::npos);
  CHECK(refusal("").find("not well-formed") != std::string::npos);
  CHECK(refusal("<system>\n<cpu numaid=\"0\">\n").find("f.xml:2: not well-formed") == 0);
  CHECK(refusal(std::string("<system>\0</system>", 18)).find("NUL") != std::string::npos);
  CHECK(refusal("<system><cpu numaid=\"x\"/></system>").find("numaid \"x\"") != std::string::npos);
  CHECK(refusal("<system><cpu/></system>").find("numaid \"\"") != std::string::npos);
  CHECK(refusal("<system>\n<cpu numaid=\"0\"><pci busid=\"1\"/></cpu></system>")
            .find("f.xml:2: pci: busid \"1\" is not a PCI address") == 0);
  CHECK(refusal("<system><cpu numaid=\"0\"><gpu dev=\"0\"/></cpu></system>").find("gpu:") !=
        std::string::npos);
  CHECK(refusal(one_gpu("<gpu><nvlink target=\"1\" count=\"18\"/></gpu>")).find("target \"1\"") !=
        std::string::npos);
  CHECK(refusal(one_gpu("<gpu><nvlink count=\"18\"/></gpu>")).find("target \"\"") !=
        std::string::npos);
  CHECK(refusal(one_gpu("<gpu><nvlink target=\"0000:02:00.0\" count=\"-1\"/></gpu>"))
            .find("count \"-1\"") != std::string::npos);
  CHECK(refusal(one_gpu("<gpu><nvlink target=\"0000:02:00.0\" count=\"99999999999\"/></gpu>"))
            .find("count") != std::string::npos);
}

TEST_CASE("numbers out of range stay unknown") {
  const auto graph = read(
      R"(<system version="1"><cpu numaid="0" affinity="zz" familyid="-3" modelid="1e9">
      <pci busid="0000:01:00.0" class="0x030200" vendor="0x10de0" device="x" link_speed="9 GT/s"
      link_width="-16"><gpu dev="-1" sm="999999" gdr="y"/></pci>
      <pci busid="0000:02:00.0" class="0x020000"><nic><net name="a" dev="0" speed="9e9"/></nic></pci>
      </cpu></system>)");
  const auto& gpu = part(graph, "n/gpu0");
  CHECK_FALSE(gpu.sm);
  CHECK_FALSE(gpu.vendor_id);
  CHECK_FALSE(gpu.device_id);
  CHECK_FALSE(gpu.gpu_direct);
  CHECK(link(graph, "n/gpu0", "n/cpu0").pcie == PcieMode{});
  CHECK_FALSE(part(graph, "n/cpu0").cpu_family);
  CHECK_FALSE(part(graph, "n/cpu0").cpu_model);
  CHECK(part(graph, "n/cpu0").cpus.empty());
  CHECK_FALSE(part(graph, "n/nic0").port_bytes_per_s);
  CHECK(has_note(graph, NoteKind::repaired, "a: no port has a speed of \"9e9\" Mbit/s"));
  CHECK(count_notes(graph, NoteKind::repaired) == 4);
}

TEST_CASE("hostile texts end in an error or in bounded work") {
  SUBCASE("entities are not expanded") {
    const auto graph = read(
        R"(<!DOCTYPE s [<!ENTITY a "0123456789"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
        <system version="1"><cpu numaid="0" arch="&b;&b;&amp;"/></system>)");
    CHECK(part(graph, "n/cpu0").arch == "&b;&b;&");
  }
  SUBCASE("depth") {
    std::string deep;
    for (int i = 0; i < 1'000'000; ++i) deep += "<pci busid=\"0000:01:00.0\">";
    CHECK(parse_refusal([&] {
            return read("<system><cpu numaid=\"0\">" + deep);
          }).find("not well-formed") != std::string::npos);
    for (int i = 0; i < 1'000'000; ++i) deep += "</pci>";
    CHECK(parse_refusal([&] {
            return read("<system><cpu numaid=\"0\">" + deep + "</cpu></system>");
          }).find("nested more than 128 deep") != std::string::npos);
  }
  SUBCASE("a million links to one switch are one link") {
    std::string links;
    for (int i = 0; i < 1'000'000; ++i) links += "<nvlink target=\"0000:02:00.0\" count=\"1\"/>";
    const auto graph = read(one_gpu("<gpu sm=\"90\">" + links + "</gpu>"));
    CHECK(graph.links.size() == 3);
    CHECK(link(graph, "n/gpu0", "n/nvswitch0").count == 18);  // The limit.
  }
  SUBCASE("a million faults are a hundred notes") {
    std::string links;
    for (int i = 0; i < 1'000'000; ++i) links += "<nvlink target=\"0000:01:00.0\"/>";
    const auto graph = read(one_gpu("<gpu sm=\"90\">" + links + "</gpu>"));
    CHECK(graph.notes.size() == kMaxReaderNotes + 1);
    CHECK(graph.notes.back().text == "999900 more notes are left out");
  }
  SUBCASE("devices, NUMA nodes, hosts, elements") {
    std::string devices;
    for (int i = 0; i < 20'000; ++i) devices += "<pci busid=\"0000:01:00.0\"/>";
    CHECK(parse_refusal([&] {
            return read("<system><cpu numaid=\"0\">" + devices + "</cpu></system>");
          }).find("more than 16384 devices") != std::string::npos);
    std::string cpus;
    for (int i = 0; i < 300; ++i) cpus += fmt::format("<cpu numaid=\"{}\"/>", i);
    CHECK(parse_refusal([&] {
            return read("<system>" + cpus + "</system>");
          }).find("more than 256 NUMA nodes") != std::string::npos);
    std::string hosts;
    for (int i = 0; i < 300; ++i) hosts += fmt::format("<cpu host_hash=\"{}\" numaid=\"0\"/>", i);
    CHECK(parse_refusal([&] {
            return read("<system>" + hosts + "</system>");
          }).find("more than 256") != std::string::npos);
    std::string elements;
    for (int i = 0; i < 2'200'000; ++i) elements += "<a/>";
    CHECK(parse_refusal([&] {
            return read("<system>" + elements + "</system>");
          }).find("elements") != std::string::npos);
    CHECK(parse_refusal([&] {
            return read(std::string((std::size_t{64} << 20) + 1, ' '));
          }).find("at most 67108864") != std::string::npos);
  }
}

TEST_CASE("the writer refuses what NCCL's XML cannot say, and makes do without the rest") {
  const auto refusal = [](const TopologyGraph& graph) -> std::string {
    try {
      return "written: " + graph_to_nccl_xml(graph, "n");
    } catch (const Error& error) {
      CHECK(error.code() == Errc::invalid_argument);
      return error.what();
    }
  };
  auto graph = read_fixture("mesh.xml");
  CHECK_THROWS_WITH_AS((void)graph_to_nccl_xml(graph, "m"), doctest::Contains("no node \"m\""),
                       Error);
  auto broken = graph;
  for (auto& each : broken.components)
    if (each.name == "n/gpu1") each.pci.reset();
  CHECK(refusal(broken).find("n/gpu1 has no PCI address") == 0);
  broken = graph;
  for (auto& each : broken.links)
    if (each.a == "n/bridge0") each.b = "n/bridge0";
  CHECK(refusal(broken).find("hang on no CPU") != std::string::npos);
  // Bridges above bridges, in a circle.
  broken = graph;
  broken.components.push_back(part(graph, "n/bridge0"));
  broken.components.back().name = "n/bridge1";
  for (auto& each : broken.links)
    if (each.a == "n/bridge0") each.b = "n/bridge1";
  broken.links.push_back({.kind = LinkKind::pcie, .a = "n/bridge1", .b = "n/bridge0"});
  CHECK(refusal(broken).find("hang on no CPU") != std::string::npos);
  broken = graph;
  for (auto& each : broken.components)
    if (each.kind == ComponentKind::cpu) each.cpus = "9-3";
  CHECK(refusal(broken).find("not a list") != std::string::npos);
  // Idle cards: what both ends can do counts. A bridge without an address gets one.
  auto idle = graph;
  for (auto& each : idle.links)
    if (each.a == "n/gpu1") {
      each.pcie = {1, 8};
      each.pcie_max = {5, 16};
    }
  for (auto& each : idle.components) {
    if (each.kind == ComponentKind::bridge) each.pci.reset();
    if (each.title == "eth0") each.title = "a\"b<c&\n";
  }
  const auto text = graph_to_nccl_xml(idle, "n");
  CHECK(text.find("link_speed=\"32.0 GT/s PCIe\" link_width=\"8\"") != std::string::npos);
  CHECK(text.find("busid=\"ffff:ff:00.0\" class=\"0x060400\"") != std::string::npos);
  CHECK(read(text).find("n/nic0")->title == "a\"b<c& ");
  // NCCL numbers what it can use: a NIC of which nothing is known has no number.
  auto bare = graph;
  for (auto& each : bare.components)
    if (each.name == "n/nic0") {
      each = Component();
      each.name = "n/nic0";
      each.kind = ComponentKind::nic;
      each.node = "n";
      each.pci = PciAddress{0, 9, 0, 0};
    }
  CHECK(graph_to_nccl_xml(bare, "n").find("name=\"mlx5_1\" dev=\"0\"") != std::string::npos);
  // GPUs of which only the NUMA node is known.
  TopologyGraph flat;
  flat.nodes = graph.nodes;
  for (const auto& each : graph.components)
    if (each.kind == ComponentKind::gpu) flat.components.push_back(each);
  const auto again = read(graph_to_nccl_xml(flat, "n"));
  CHECK(count_of(again, ComponentKind::gpu) == 3);
}

TEST_CASE("every published NCCL file reads back as it was written") {
  for (const auto* name :
       {"aws-g5.48xl-a10gx8-SPARSE", "aws-p4d24xl-a100x8", "aws-p4de24xl-a100x8",
        "azure-ndv2-v100x8", "azure-ndv4-a100x8", "azure-ndv5-h100x8", "gb300-tray-healthy",
        "nersc-perlmutter-a100x4-nv4-mesh", "rccl_topo_16p1h", "rccl_topo_8p_940",
        "rccl_topo_8p_pcie", "rccl_topo_8p_rome_n4_1", "vastai-hgx-h200x8-container"}) {
    CAPTURE(name);
    const auto text = published(std::string(name) + ".nccl.xml");
    if (text) check_round_trip(read(*text));
  }
}

TEST_CASE("published: clouds' skeletons say nothing of NVLink") {
  struct Expected {
    const char* file;
    std::size_t gpus, nics, bridges, numa_nodes;
    PcieMode mode;
    std::map<std::string, std::uint32_t> numa;  // Of these GPUs.
  };
  const std::vector<Expected> all{
      {"azure-ndv5-h100x8", 8, 8, 8, 2, {5, 16}, {{"0008:00:00.0", 0}, {"0009:00:00.0", 1}}},
      {"azure-ndv4-a100x8",
       8,
       8,
       4,
       4,
       {4, 16},
       {{"0003:00:00.0", 0}, {"0001:00:00.0", 1}, {"000d:00:00.0", 2}, {"000b:00:00.0", 3}}},
      {"azure-ndv2-v100x8", 8, 1, 0, 2, {4, 16}, {{"0004:00:00.0", 0}, {"0005:00:00.0", 1}}},
      {"aws-p4d24xl-a100x8", 8, 4, 4, 2, {3, 16}, {{"0000:20:1d.0", 0}, {"0000:90:1c.0", 1}}},
      {"aws-p4de24xl-a100x8", 8, 4, 4, 2, {3, 16}, {{"0000:20:1d.0", 0}, {"0000:90:1c.0", 1}}}};
  for (const auto& expected : all) {
    CAPTURE(expected.file);
    const auto text = published(std::string(expected.file) + ".nccl.xml");
    if (!text) continue;
    const auto graph = read(*text);
    CHECK_FALSE(graph.nodes[0].nvlinks_known);
    CHECK(graph.nodes[0].unseen.size() == 1);
    CHECK(count_of(graph, ComponentKind::gpu) == expected.gpus);
    CHECK(count_of(graph, ComponentKind::nic) == expected.nics);
    CHECK(count_of(graph, ComponentKind::bridge) == expected.bridges);
    CHECK(count_of(graph, ComponentKind::cpu) == expected.numa_nodes);
    for (const auto& [address, numa] : expected.numa) CHECK(at(graph, address).numa == numa);
    for (const auto& each : graph.links)
      if (each.kind == LinkKind::pcie) CHECK(each.pcie == expected.mode);
    CHECK(has_note(graph, NoteKind::remark, "made up") == (expected.bridges > 0));
  }
  if (const auto text = published("aws-p4de24xl-a100x8.nccl.xml"))
    CHECK(part(read(*text), "n/gpu0").model == "a100-sxm");  // By its device id.
  if (const auto text = published("aws-g5.48xl-a10gx8-SPARSE.nccl.xml")) {
    const auto graph = read(*text);
    CHECK(count_of(graph, ComponentKind::unknown) == 9);
    CHECK(count_of(graph, ComponentKind::gpu) == 0);
    CHECK(at(graph, "0000:00:15.0").numa == 1U);
    CHECK_FALSE(graph.nodes[0].nvlinks_known);
  }
  if (const auto text = published("azure-ncv4-a100x4.ncclgraph.xml"))
    CHECK(parse_refusal([&] { return read(*text); }).find("this is a graph, not a topology") !=
          std::string::npos);
}

TEST_CASE("published: dumps of NVIDIA machines") {
  using Domains = std::map<std::size_t, std::size_t>;
  if (const auto text = published("vastai-hgx-h200x8-container.nccl.xml")) {
    const auto graph = read(*text);
    CHECK(domains(graph) == Domains{{8, 1}});
    CHECK(count_of(graph, ComponentKind::nvswitch) == 4);
    for (int i = 0; i < 8; ++i) {
      const auto gpu = fmt::format("n/gpu{}", i);
      CHECK(links_of(graph, gpu) == 18);
      CHECK(part(graph, gpu).model == "h200-sxm");
      CHECK(part(graph, gpu).numa == (i < 4 ? 0U : 1U));
      CHECK(link(graph, gpu, at(graph, "0000:c4:00.0").name).count == 5);
    }
    CHECK(count_of(graph, ComponentKind::nic) == 1);
    CHECK(count_of(graph, ComponentKind::bridge) == 8);
    CHECK(count_notes(graph, NoteKind::repaired) == 1);
  }
  if (const auto text = published("nersc-perlmutter-a100x4-nv4-mesh.nccl.xml")) {
    const auto graph = read(*text);
    CHECK(domains(graph) == Domains{{4, 1}});
    CHECK(count_of(graph, ComponentKind::nvswitch) == 0);
    for (std::uint32_t i = 0; i < 4; ++i) {
      CHECK(part(graph, fmt::format("n/gpu{}", i)).numa == 3 - i);
      const auto& nic = part(graph, fmt::format("n/nic{}", i));
      CHECK(nic.title == fmt::format("cxi{}", i));
      CHECK(nic.numa == i);
    }
    const auto& joint = link(graph, "n/gpu0", "n/gpu3");
    CHECK(joint.count == 4);
    CHECK(joint.line_bytes_per_s->value == 100e9);
    CHECK(joint.effective_bytes_per_s->value == 80e9);
  }
  if (const auto text = published("gb300-tray-healthy.nccl.xml")) {
    const auto graph = read(*text);
    CHECK(domains(graph) == Domains{{4, 1}});
    CHECK(count_of(graph, LinkKind::c2c) == 4);
    CHECK(link(graph, "n/gpu0", "n/cpu0").line_bytes_per_s->value == doctest::Approx(223.56e9));
    for (int i = 0; i < 4; ++i) {
      CHECK(part(graph, fmt::format("n/gpu{}", i)).sm == 103U);
      CHECK(links_of(graph, fmt::format("n/gpu{}", i)) == 18);
    }
    for (const auto& each : graph.links)
      if (each.kind == LinkKind::pcie && graph.find(each.b)->kind == ComponentKind::cpu)
        CHECK(each.pcie.width != 1U);
    CHECK(part(graph, "n/cpu0").arch == "arm64");
    CHECK(part(graph, "n/cpu0").cpus == "0-71");
    CHECK(part(graph, "n/nic0").uuid.empty());
  }
}

TEST_CASE("published: dumps of AMD machines") {
  using Domains = std::map<std::size_t, std::size_t>;
  struct Expected {
    const char* file;
    std::size_t gpus;
    Domains islands;
    std::string arch;
    std::uint32_t links_of_first;
    std::size_t nics;
  };
  const std::vector<Expected> all{{"rccl_topo_8p_940", 8, {{8, 1}}, "gfx942", 7, 8},
                                  {"rccl_topo_16p1h", 16, {{16, 1}}, "gfx90a", 7, 8},
                                  {"rccl_topo_8p_rome_n4_1", 8, {{4, 2}}, "gfx908", 3, 1},
                                  {"rccl_topo_8p_pcie", 8, {{1, 8}}, "gfx906", 0, 1}};
  for (const auto& expected : all) {
    CAPTURE(expected.file);
    const auto text = published(std::string(expected.file) + ".nccl.xml");
    if (!text) continue;
    const auto graph = read(*text);
    CHECK(graph.nodes[0].nvlinks_known);
    CHECK(domains(graph) == expected.islands);
    CHECK(count_of(graph, ComponentKind::gpu) == expected.gpus);
    CHECK(count_of(graph, ComponentKind::nic) == expected.nics);
    CHECK(links_of(graph, "n/gpu0") == expected.links_of_first);
    for (const auto& each : graph.components)
      if (each.kind == ComponentKind::gpu) {
        CHECK(each.arch == expected.arch);
        CHECK_FALSE(each.sm);
      }
    CHECK(count_of(graph, LinkKind::nvlink) == 0);
    CHECK(count_notes(graph, NoteKind::repaired) == 0);
  }
}
