// Goal:   hwloc's XML of every version reads as what the machine is, with its known errors undone.
// Method: one small file for each rule, hostile texts by hand, then the published file.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <fmt/format.h>

#include <map>

#include "causeway/topology_export.h"
#include "import_support.h"
#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/xml_text.h"

using namespace causeway;
using namespace causeway_test;
using NoteKind = TopologyNote::Kind;

namespace {

TopologyGraph read(const std::string& text) { return read_hwloc_xml(text, "f.xml", "n"); }
TopologyGraph read_fixture(const std::string& name) { return read(fixture("hwloc_xml/" + name)); }

const Component& part(const TopologyGraph& graph, const std::string& name) {
  const auto* found = graph.find(name);
  REQUIRE_MESSAGE(found != nullptr, "no " << name);
  return *found;
}

const TopologyLink& link(const TopologyGraph& graph, LinkKind kind, const std::string& a,
                         const std::string& b) {
  const auto found = std::ranges::find_if(graph.links, [&](const TopologyLink& each) {
    return each.kind == kind && each.a == a && each.b == b;
  });
  REQUIRE_MESSAGE(found != graph.links.end(), "no link " << a << " - " << b);
  return *found;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("hwloc 1: memory around the sockets, GPUs without NVML, ports of one card") {
  const auto graph = read_fixture("v1.xml");
  CHECK(graph.nodes[0].kernel == "3.10.0-1160.el7.x86_64");
  CHECK_FALSE(graph.nodes[0].nvlinks_known);
  CHECK(graph.nodes[0].unseen.size() == 1);
  const auto& cpu = part(graph, "n/cpu0");
  CHECK(cpu.title == "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz");
  CHECK(cpu.cpu_model == 79U);
  CHECK(cpu.arch == "x86_64");
  CHECK(cpu.cpus == "0-1");
  CHECK(part(graph, "n/host0").capacity_bytes == 34225520640U);
  CHECK(link(graph, LinkKind::socket, "n/cpu0", "n/cpu1").effective_bytes_per_s->value == 6e9);
  CHECK(count_of(graph, ComponentKind::gpu) == 1);  // The management controller is none.
  const auto& gpu = part(graph, "n/gpu0");
  CHECK(gpu.model == "rtx-3090");
  CHECK(gpu.title == "NVIDIA GeForce RTX 3090");
  CHECK(gpu.capacity_bytes == std::uint64_t{24884480} * 1024);
  CHECK(gpu.numa == 0U);
  // An idle card, and the port above it.
  CHECK_FALSE(link(graph, LinkKind::pcie, "n/gpu0", "n/bridge0").line_bytes_per_s);
  CHECK_FALSE(link(graph, LinkKind::pcie, "n/bridge0", "n/cpu0").line_bytes_per_s);
  CHECK(has_note(graph, NoteKind::remark, "idle card"));
  CHECK(count_of(graph, ComponentKind::bridge) == 2);  // That above the controller does not count.

  CHECK(count_of(graph, ComponentKind::nic) == 3);
  const auto& up = part(graph, "n/nic0");
  CHECK(up.title == "mlx4_0");
  CHECK(up.uuid == "0xe41d2d0300112230");
  CHECK(up.is_rdma == true);
  CHECK(up.port_up == true);
  const auto& down = part(graph, "n/nic1");
  CHECK(down.title == "mlx4_0:2");
  CHECK(down.port_up == false);
  const auto& plain = part(graph, "n/nic2");
  CHECK(plain.uuid == "0c:c4:7a:11:22:33");
  CHECK(plain.numa == 1U);
  CHECK_FALSE(plain.is_rdma);
  CHECK(link(graph, LinkKind::pcie, "n/nic2", "n/cpu1").pcie == PcieMode{});  // Gen1 x1
}

TEST_CASE("hwloc 2 of before 2.9.1: NVLink counted double, PCIe cut at Gen3") {
  const auto text = fixture("hwloc_xml/a100_old.xml");
  const auto graph = read(text);
  CHECK(graph.nodes[0].nvlinks_known);
  const auto& nvlink = link(graph, LinkKind::nvlink, "n/gpu1", "n/gpu0");
  CHECK(nvlink.count == 4);
  CHECK(nvlink.line_bytes_per_s->value == 100e9);
  CHECK(has_note(graph, NoteKind::repaired, "halved"));
  const auto newer = read(replaced(text, "value=\"2.8.0\"", "value=\"2.10.0\""));
  CHECK(link(newer, LinkKind::nvlink, "n/gpu1", "n/gpu0").count == 8);
  CHECK_FALSE(has_note(newer, NoteKind::repaired, "halved"));
  // Of no known version, but more than the chip's 12 links.
  const auto over = read(replaced(replaced(text, "value=\"2.8.0\"", "value=\"master-2023\""),
                                  "200000 200000", "600000 600000"));
  CHECK(link(over, LinkKind::nvlink, "n/gpu1", "n/gpu0").count == 12);
  const auto uneven = read(replaced(text, "200000 200000", "225000 225000"));
  CHECK(link(uneven, LinkKind::nvlink, "n/gpu1", "n/gpu0").count == 9);

  const auto& pcie = link(graph, LinkKind::pcie, "n/gpu1", "n/bridge0");
  CHECK(pcie.pcie == PcieMode{{}, 16});
  CHECK_FALSE(pcie.line_bytes_per_s);
  CHECK(has_note(graph, NoteKind::remark, "nothing faster than Gen3"));
  const auto& port = link(graph, LinkKind::pcie, "n/bridge0", "n/cpu0");
  CHECK(port.line_bytes_per_s->value == doctest::Approx(31.5e9).epsilon(0.001));
  CHECK(port.effective_bytes_per_s == Figure{24e9, Provenance::import});
  CHECK(port.pcie == PcieMode{});  // Gen4 x16 and Gen5 x8 are alike.
}

TEST_CASE("NUMA nodes: shared cores, none, a GPU's own; devices of no known node") {
  const auto graph = read_fixture("a100_old.xml");
  CHECK(count_of(graph, ComponentKind::cpu) == 2);
  CHECK(part(graph, "n/cpu1").title ==
        "AMD EPYC 7763 &a; &b; <64>");  // Nothing expanded or opened.
  CHECK(count_of(graph, ComponentKind::host) == 4);
  CHECK(graph.find("n/host3") == nullptr);  // It is the GPU's.
  (void)link(graph, LinkKind::memory, "n/cpu1", "n/host2");
  (void)link(graph, LinkKind::memory, "n/cpu1", "n/host4");
  CHECK(part(graph, "n/gpu0").uuid == "GPU-22222222-2222-2222-2222-222222222222");  // nvml0
  CHECK(part(graph, "n/gpu0").numa == 1U);
  CHECK(part(graph, "n/gpu1").numa == 0U);
  CHECK(part(graph, "n/gpu0").model.empty());  // 40 GB: not the catalogue's.
  CHECK(part(graph, "n/gpu0").sm == 80U);
  CHECK_FALSE(part(graph, "n/nic0").numa);  // Below a package of two nodes.
  CHECK(has_note(graph, NoteKind::remark, "may be any of several"));
}

TEST_CASE("NVLinks to processors") {
  const auto graph = read_fixture("power.xml");
  CHECK(part(graph, "n/cpu1").arch == "ppc64");
  CHECK(part(graph, "n/cpu1").cpus == "64-67");
  CHECK(link(graph, LinkKind::nvlink, "n/gpu0", "n/cpu0").count == 2);  // 20 GB/s each.
  CHECK(link(graph, LinkKind::nvlink, "n/gpu0", "n/cpu0").line_bytes_per_s->value == 40e9);
  CHECK(link(graph, LinkKind::nvlink, "n/gpu0", "n/gpu1").count == 1);  // One-sided.
  CHECK(has_note(graph, NoteKind::repaired, "a link has two ends"));
  CHECK(has_note(graph, NoteKind::remark, "no whole number of links"));  // 30 GB/s
  // Chips of Gen3: what NVML says is all there is. The port above says less: it idled.
  CHECK(link(graph, LinkKind::pcie, "n/gpu0", "n/bridge0").pcie == PcieMode{3, 16});
  CHECK_FALSE(link(graph, LinkKind::pcie, "n/bridge0", "n/cpu0").line_bytes_per_s);
}

TEST_CASE("NVSwitches, one of which hides its ids") {
  const auto graph = read_fixture("switched.xml");
  CHECK(count_of(graph, ComponentKind::nvswitch) == 2);
  CHECK(link(graph, LinkKind::nvlink, "n/gpu0", "n/nvswitch0").count == 10);  // Over 18: halved.
  CHECK(link(graph, LinkKind::nvlink, "n/gpu0", "n/nvswitch1").count == 8);
  CHECK(link(graph, LinkKind::nvlink, "n/gpu1", "n/nvswitch0").count == 9);
  CHECK(link(graph, LinkKind::nvlink, "n/gpu1", "n/nvswitch0").line_bytes_per_s->value == 225e9);
  CHECK(part(graph, "n/gpu0").model == "h100-sxm");
  // A newer NVML part that does not stop at Gen3.
  CHECK(link(graph, LinkKind::pcie, "n/gpu0", "n/cpu0").effective_bytes_per_s->value == 48e9);
}

TEST_CASE("an unknown chip keeps the matrix's figure") {
  const auto text = replaced(fixture("hwloc_xml/a100_old.xml"), "[10de:20b0]", "[10de:ffff]");
  const auto graph = read(replaced(text, "[10de:20b0]", "[10de:ffff]"));
  const auto& nvlink = link(graph, LinkKind::nvlink, "n/gpu1", "n/gpu0");
  CHECK(nvlink.count == 1);
  CHECK(nvlink.line_bytes_per_s == Figure{200e9, Provenance::import});
}

TEST_CASE("a machine without NUMA nodes has one") {
  const auto graph = read(
      R"(<topology><object type="Machine" cpuset="0x3" local_memory="8000000000"/></topology>)");
  CHECK(part(graph, "n/cpu0").cpus == "0-1");
  CHECK(part(graph, "n/host0").capacity_bytes == 8000000000U);
  CHECK(count_of(graph, LinkKind::memory) == 1);
}

TEST_CASE("hwloc 1 leaves out the machine around its only NUMA node") {
  const auto graph = read(
      R"(<topology><object type="NUMANode" os_index="0" cpuset="0x3" local_memory="8000000000">
      <info name="Architecture" value="x86_64"/></object></topology>)");
  CHECK(part(graph, "n/cpu0").cpus == "0-1");
  CHECK(part(graph, "n/cpu0").arch == "x86_64");
  CHECK(part(graph, "n/cpu0").numa == 0U);
  CHECK(part(graph, "n/host0").capacity_bytes == 8000000000U);
}

TEST_CASE("a cloud's machine: no NodeGUID, no CUDA, Gen6, ports of one lane") {
  const auto text = [](const std::string& root, const std::string& uplink) {
    const auto port = [](const std::string& bus, const std::string& speed) {
      return fmt::format(R"(<object type="Bridge" gp_index="1" bridge_type="1-1"
        pci_busid="0000:{}" pci_type="0604 [1d0f:0200] [1d0f:0200] 00" pci_link_speed="{}">)",
                         bus, speed);
    };
    return R"(<topology version="2.0"><object type="Machine" cpuset="0x1" gp_index="1">
      <object type="NUMANode" os_index="0" cpuset="0x1" gp_index="2" local_memory="1024"/>
      <object type="Bridge" gp_index="3" bridge_type="0-1">)" +
           port("10:00.0", root) + port("11:00.0", uplink) + port("12:00.0", "126.030769") +
           R"(<object type="PCIDev" gp_index="4" pci_busid="0000:13:00.0"
        pci_type="0302 [10de:3182] [10de:20e6] a1" pci_link_speed="126.030769">
        <object type="OSDev" gp_index="5" name="opencl0d0" subtype="OpenCL" osdev_type="5">
        <info name="GPUModel" value="NVIDIA B300"/>
        <info name="OpenCLGlobalMemorySize" value="280692032"/></object></object></object>)" +
           port("12:00.1", "63.015385") + R"(<object type="PCIDev" gp_index="6"
        pci_busid="0000:14:00.0" pci_type="0200 [1d0f:efa3] [1d0f:efa3] 00"
        pci_link_speed="63.015385"><object type="OSDev" gp_index="7" name="rdmap20s0"
        osdev_type="3"><info name="SysImageGUID" value="0000:0000:0000:0000"/>
        <info name="Port1State" value="4"/></object></object></object>
      </object></object></object></object></topology>)";
  };
  const auto graph = read(text("63.015385", "63.015385"));
  const auto& gpu = part(graph, "n/gpu0");
  CHECK(gpu.capacity_bytes == std::uint64_t{280692032} * 1024);
  CHECK(gpu.title == "NVIDIA B300");
  const auto& pcie = link(graph, LinkKind::pcie, "n/gpu0", "n/bridge2");
  CHECK(pcie.pcie == PcieMode{6, 16});
  CHECK(pcie.effective_bytes_per_s->value == 96e9);
  // The GPU is faster than the uplink, whose two ends agree.
  CHECK(link(graph, LinkKind::pcie, "n/bridge0", "n/cpu0").pcie == PcieMode{5, 16});
  CHECK(link(graph, LinkKind::pcie, "n/bridge1", "n/bridge0").pcie == PcieMode{5, 16});
  const auto& nic = part(graph, "n/nic0");
  CHECK(nic.title == "rdmap20s0");
  CHECK(nic.is_rdma == true);
  CHECK(nic.port_up == true);
  CHECK(nic.uuid.empty());
  CHECK(graph.notes.empty());

  const auto made_up = read(text("1.969231", "1.969231"));  // Gen4 x1, or Gen3 x2.
  CHECK_FALSE(link(made_up, LinkKind::pcie, "n/bridge0", "n/cpu0").line_bytes_per_s);
  CHECK_FALSE(link(made_up, LinkKind::pcie, "n/bridge1", "n/bridge0").line_bytes_per_s);
  CHECK(count_notes(made_up, NoteKind::remark) == 2);
  // An eGPU's cable: four lanes of Gen3, as fast as one of Gen5.
  const auto cable = read(text("3.938462", "3.938462"));
  CHECK(link(cable, LinkKind::pcie, "n/bridge1", "n/bridge0").line_bytes_per_s);
  const auto idle = read(text("15.753846", "63.015385"));
  CHECK_FALSE(link(idle, LinkKind::pcie, "n/bridge0", "n/cpu0").line_bytes_per_s);
  CHECK(link(idle, LinkKind::pcie, "n/bridge1", "n/bridge0").pcie == PcieMode{5, 16});
}

TEST_CASE("what is no topology is refused with a reason") {
  const auto refusal = [](const std::string& text) {
    return parse_refusal([&] { return read(text); });
  };
  CHECK(refusal("<topologydiff/>").find("f.xml:1: this is a difference") == 0);
  CHECK(refusal("<system/>").find("lstopo FILE.xml") != std::string::npos);
  CHECK(refusal("<topology>\n<object type=\"System\"/></topology>").find("Machine") !=
        std::string::npos);
  CHECK(refusal("<topology><object type=\"Machine\" cpuset=\"0xzz\"/></topology>").find("cpuset") !=
        std::string::npos);
  const auto power = fixture("hwloc_xml/power.xml");
  CHECK(refusal(power.substr(0, power.size() / 2)).find("not well-formed") != std::string::npos);
  CHECK(refusal(replaced(power, "OSDev:13 ", "")).find("16 values for 3 objects") !=
        std::string::npos);
  CHECK(refusal(replaced(power, " 20000 ", " -5 ")).find("\"-5\" is no bandwidth") !=
        std::string::npos);
  CHECK(refusal(replaced(power, "pci_busid=\"000a:01:00.0\"", "pci_busid=\"x\""))
            .find("f.xml:15: pci_busid \"x\"") == 0);
  CHECK(refusal(replaced(power, "type=\"NUMANode\" os_index=\"0\"", "type=\"NUMANode\""))
            .find("os_index") != std::string::npos);
}

TEST_CASE("one address is one device; a speed that no link has is unknown") {
  const auto graph = read(R"(<topology><object type="Machine" cpuset="0x1">
    <object type="PCIDev" pci_busid="0000:01:00.0" pci_type="0302 [10de:20b0]" gp_index="1"
            pci_link_speed="lots"/>
    <object type="PCIDev" pci_busid="0000:01:00.0" pci_type="0302 [10de:2330]" gp_index="2"/>
    </object></topology>)");
  CHECK(count_of(graph, ComponentKind::gpu) == 1);
  CHECK(part(graph, "n/gpu0").device_id == 0x20b0U);
  CHECK(has_note(graph, NoteKind::repaired, "a second device at 0000:01:00.0"));
  CHECK(has_note(graph, NoteKind::repaired, "no PCIe link has \"lots\" GB/s"));
}

TEST_CASE("hostile texts end in an error or in bounded work") {
  const auto machine = [](const std::string& inside, const std::string& after = "") {
    return R"(<topology><object type="Machine" cpuset="0x3">)" + inside + "</object>" + after +
           "</topology>";
  };
  const auto refusal = [](const std::string& text) {
    return parse_refusal([&] { return read(text); });
  };
  SUBCASE("depth") {
    std::string deep;
    for (int i = 0; i < 100'000; ++i) deep += "<object type=\"Group\">";
    for (int i = 0; i < 100'000; ++i) deep += "</object>";
    CHECK(refusal(machine(deep)).find("nested more than 128 deep") != std::string::npos);
  }
  SUBCASE("a matrix of nothing") {
    std::string indexes;
    for (int i = 0; i < 300; ++i) indexes += fmt::format("OSDev:{} ", i);
    CHECK(refusal(machine("", "<distances2hetero name=\"NVLinkBandwidth\"><indexes>" + indexes +
                                  "</indexes></distances2hetero>"))
              .find("more than 256 objects") != std::string::npos);
    const auto graph =
        read(machine("",
                     "<distances2 name=\"NVLinkBandwidth\"><indexes>7 7</indexes><u64values>1 2 3 4"
                     "</u64values></distances2><distances2 name=\"NVLinkBandwidth\"/>"));
    CHECK(count_of(graph, LinkKind::nvlink) == 0);
    CHECK(has_note(graph, NoteKind::repaired, "joins nothing"));
    CHECK(has_note(graph, NoteKind::repaired, "a second"));
  }
  SUBCASE("many devices, each with many cores around it") {
    std::string cores = "0x1";
    for (int i = 0; i < 2000; ++i) cores += ",0x55555555";
    std::string devices;
    for (int i = 0; i < 16'000; ++i)
      devices += fmt::format(
          "<object type=\"PCIDev\" pci_busid=\"{:04x}:01:00.0\" pci_type=\"0302 [10de:2330]\"/>",
          i);
    const auto graph = read(R"(<topology><object type="Machine" cpuset=")" + cores + "\">" +
                            devices + "</object></topology>");
    CHECK(count_of(graph, ComponentKind::gpu) == 16'000);
  }
  SUBCASE("long names are cut") {
    const auto graph =
        read(machine("<info name=\"CPUModel\" value=\"" + std::string(1'000'000, 'x') + "\"/>"));
    CHECK(part(graph, "n/cpu0").title.size() == kMaxXmlName);
  }
}

TEST_CASE("memory that several NUMA nodes' cores share is no CPU of its own") {
  const auto numa = [](int number, const char* cpus) {
    return fmt::format(
        "<object type=\"NUMANode\" os_index=\"{}\" cpuset=\"{}\" local_memory=\"{}\"/>", number,
        cpus, (number + 1) * 1024);
  };
  // Two nodes of cores in each package; slower memory at each package, and at the machine.
  const auto graph = read(
      "<topology version=\"2.0\"><object type=\"Machine\" cpuset=\"0xff\">" + numa(6, "0xff") +
      "<object type=\"Package\" cpuset=\"0xf\">" + numa(4, "0xf") +
      "<object type=\"Group\" cpuset=\"0x3\">" + numa(0, "0x3") +
      "<object type=\"PCIDev\" pci_busid=\"0000:01:00.0\" pci_type=\"0302 [10de:2330]\"/></object>"
      "<object type=\"Group\" cpuset=\"0xc\">" +
      numa(1, "0xc") +
      "</object></object>"
      "<object type=\"Package\" cpuset=\"0xf0\">" +
      numa(5, "0xf0") + "<object type=\"Group\" cpuset=\"0x30\">" + numa(2, "0x30") +
      "</object>"
      "<object type=\"Group\" cpuset=\"0xc0\">" +
      numa(3, "0xc0") +
      "</object></object>"
      "</object></topology>");
  CHECK(count_of(graph, ComponentKind::cpu) == 4);
  CHECK(count_of(graph, ComponentKind::host) == 7);
  CHECK(part(graph, "n/gpu0").numa == 0U);
  CHECK(graph.notes.empty());
  for (const auto& [host, cpu] :
       std::map<int, std::string>{{3, "n/cpu3"}, {4, "n/cpu0"}, {5, "n/cpu2"}, {6, "n/cpu0"}}) {
    const auto name = fmt::format("n/host{}", host);
    CHECK(part(graph, name).numa == static_cast<std::uint32_t>(host));
    CHECK(std::ranges::count_if(graph.links, [&, cpu = cpu](const TopologyLink& each) {
            return each.kind == LinkKind::memory && (each.a == name || each.b == name) &&
                   (each.a == cpu || each.b == cpu);
          }) == 1);
  }
}

TEST_CASE("Intel's GPUs, by Level Zero") {
  const auto device = [](const char* address, const char* type) {
    return fmt::format(
        "<object type=\"PCIDev\" pci_busid=\"{}\" pci_type=\"{} [8086:0bd5]\">"
        "<object type=\"OSDev\" name=\"ze0\"><info name=\"LevelZeroModel\" value=\"Max 1550\"/>"
        "<info name=\"LevelZeroHBMSize\" value=\"1024\"/></object></object>",
        address, type);
  };
  const auto graph = read(
      "<topology version=\"2.0\"><object type=\"Machine\" cpuset=\"0x1\">" +
      device("0000:18:00.0", "0380") + device("0000:00:02.0", "0300") +
      "</object><distances2 type=\"OSDev\" name=\"XeLinkBandwidth\" indexing=\"gp\"/></topology>");
  CHECK(count_of(graph, ComponentKind::gpu) == 1);  // The processor's graphics are none.
  CHECK(part(graph, "n/gpu0").title == "Max 1550");
  CHECK(part(graph, "n/gpu0").capacity_bytes == 1024U * 1024);
  CHECK(has_note(graph, NoteKind::remark, "XeLinkBandwidth"));
}

TEST_CASE("published: DGX-2") {
  const auto text = published("nvidia-dgx2-v100x16.hwloc.xml");
  if (!text) return;
  const auto graph = read(*text);
  CHECK(count_of(graph, ComponentKind::gpu) == 16);
  CHECK(count_of(graph, ComponentKind::nvswitch) == 12);
  for (int i = 0; i < 16; ++i) {
    const auto gpu = fmt::format("n/gpu{}", i);
    std::uint32_t count = 0;
    double line = 0;
    for (const auto& each : graph.links)
      if (each.kind == LinkKind::nvlink && each.a == gpu) {
        count += each.count;
        line += each.line_bytes_per_s->value;
      }
    CHECK(count == 6);
    CHECK(line == 150e9);
    CHECK(part(graph, gpu).sm == 70U);
    CHECK(part(graph, gpu).uuid.starts_with("GPU-"));
    CHECK(part(graph, gpu).numa == (i < 8 ? 0U : 1U));
  }
  const auto hidden =
      std::ranges::find(graph.components, PciAddress::parse("0000:66:00.0"), &Component::pci);
  REQUIRE(hidden != graph.components.end());
  CHECK(hidden->kind == ComponentKind::nvswitch);
  CHECK_FALSE(hidden->vendor_id);
  // The two boards are one domain.
  const auto joints = std::ranges::count_if(graph.links, [&](const TopologyLink& each) {
    return each.kind == LinkKind::nvlink && graph.find(each.a)->kind == ComponentKind::nvswitch &&
           graph.find(each.b)->kind == ComponentKind::nvswitch;
  });
  CHECK(joints == 1);
  CHECK(has_note(graph, NoteKind::remark, "one fabric"));
  CHECK(part(graph, "n/host1").capacity_bytes == 811737923584U);
  CHECK(count_notes(graph, NoteKind::repaired) == 0);
  // And can be handed to NCCL.
  const auto again = read_nccl_xml(graph_to_nccl_xml(graph, "n"), "w", "n");
  CHECK(count_of(again, ComponentKind::gpu) == 16);
  CHECK(count_of(again, ComponentKind::nvswitch) == 12);
}
