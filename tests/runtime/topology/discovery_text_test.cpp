// Goal:   the small texts of sysfs mean what the kernel writes, and everything else is unknown; a
//         driver's title leads to the catalogue's model and to no relative of it.
// Method: by hand, with the spellings of several kernels; then seeded rubbish. Replay a failure
//         with CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstdlib>
#include <random>
#include <string>

#include "causeway/gpu_catalogue.h"
#include "runtime/topology/discovery/sysfs_text.h"
#include "runtime/topology/gpu_titles.h"
#include "tests/runtime/topology/sysfs_fixture.h"

using namespace causeway;

TEST_CASE("link speeds and widths") {
  CHECK(parse_link_speed("2.5 GT/s PCIe") == 1);
  CHECK(parse_link_speed("8 GT/s") == 3);
  CHECK(parse_link_speed("8.0 GT/s PCIe\n") == 3);
  CHECK(parse_link_speed("16.0 GT/s PCIe") == 4);
  CHECK(parse_link_speed("32.0 GT/s PCIe") == 5);
  CHECK(parse_link_speed("64.0 GT/s PCIe") == 6);
  for (const char* bad : {"", "Unknown", "Unknown speed", "16.0", "nan GT/s", "-8 GT/s", "7 GT/s"})
    CHECK_FALSE(parse_link_speed(bad));
  CHECK(parse_link_width("16\n") == 16);
  CHECK(parse_link_width("1") == 1);
  for (const char* bad : {"", "0", "63", "255", "x16", "-1", "16 lanes"})
    CHECK_FALSE(parse_link_width(bad));
}

TEST_CASE("lists of CPUs") {
  CHECK(count_cpus("0-3,8\n") == 5);
  CHECK(count_cpus("7") == 1);
  CHECK(count_cpus("") == 0);
  CHECK(count_cpus("0-4294967295") == 4294967296);
  for (const char* bad : {"3-1", "a", "1-", "-", "0,,1", "1-2-3", "0-99999999999"})
    CHECK_FALSE(count_cpus(bad));
}

TEST_CASE("ports of InfiniBand") {
  CHECK(parse_infiniband_rate("400 Gb/sec (4X NDR)") == doctest::Approx(50e9));
  CHECK(parse_infiniband_rate("2.5 Gb/sec (1X SDR)") == doctest::Approx(0.3125e9));
  for (const char* bad : {"", "0 Gb/sec", "400", "inf Gb/sec", "nan Gb/sec", "-1 Gb/sec"})
    CHECK_FALSE(parse_infiniband_rate(bad));
  CHECK(parse_guid("b83f:d203:00c6:2f9a\n") == "0xb83fd20300c62f9a");
  CHECK(parse_guid("fe80:0000:0000:0000:b83f:d203:00c6:2f9a") == "0xb83fd20300c62f9a");
  for (const char* bad :
       {"", "0000:0000:0000:0000", "b83f:d203:00c6", "b83f:d203:00c6:2f9g", "b83fd20300c62f9a000"})
    CHECK(parse_guid(bad).empty());
}

TEST_CASE("windows and memory") {
  const std::string card =
      "0x00000000a0000000 0x00000000a0ffffff 0x0000000000040200\n"
      "0x0000018000000000 0x00000187ffffffff 0x000000000014220c\n"
      "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
      "0x0000018800000000 0x0000018801ffffff 0x000000000014220c\n";
  CHECK(parse_prefetchable_bytes(card) == std::uint64_t{32} << 30);
  CHECK_FALSE(parse_prefetchable_bytes(""));
  CHECK_FALSE(parse_prefetchable_bytes("0x1 0x0 0x14220c\n"));
  CHECK_FALSE(parse_prefetchable_bytes("0x0 0xffffffffffffffff 0x14220c\n"));
  // The windows of a bridge come after its six own.
  CHECK_FALSE(parse_prefetchable_bytes("\n\n\n\n\n\n" + card));
  CHECK(parse_memory_total("Node 0 MemTotal:       65536 kB\n") == 65536 * 1024);
  CHECK(parse_memory_total("MemTotal: 1 kB") == 1024);
  for (const char* bad : {"", "MemTotal:", "MemTotal: x kB", "MemTotal: 5", "MemTotal: 5 MB",
                          "MemTotal: 18446744073709551615 kB"})
    CHECK_FALSE(parse_memory_total(bad));
  CHECK(field("a : 1\nmodel\t\t: 85\nmodel name\t: X: Y\n", "model") == "85");
  CHECK(field("model name\t: X: Y", "model name") == "X: Y");
  CHECK(field("model name : X", "model").empty());
}

TEST_CASE("config space: kind of port and ACS") {
  const auto redirect = SysfsFixture::port_config(6, 0x1d);
  CHECK(PciConfig{redirect}.port() == PciPort::downstream);
  CHECK(PciConfig{redirect}.acs_redirect() == true);
  // Upstream forwarding and source validation redirect nothing by themselves.
  CHECK(PciConfig{SysfsFixture::port_config(4, 0x11)}.acs_redirect() == false);
  CHECK(PciConfig{SysfsFixture::port_config(4, 0x04)}.acs_redirect() == true);
  CHECK(PciConfig{SysfsFixture::port_config(4, 0x08)}.acs_redirect() == true);
  const auto none = SysfsFixture::port_config(5);
  CHECK(PciConfig{none}.port() == PciPort::upstream);
  CHECK(PciConfig{none}.acs_redirect() == false);
  // What others than root may read, and what there is without extended config space.
  CHECK_FALSE(PciConfig{std::string_view(redirect).substr(0, 64)}.port());
  CHECK_FALSE(PciConfig{std::string_view(redirect).substr(0, 64)}.acs_redirect());
  CHECK(PciConfig{std::string_view(redirect).substr(0, 256)}.port() == PciPort::downstream);
  CHECK_FALSE(PciConfig{std::string_view(redirect).substr(0, 256)}.acs_redirect());
  CHECK_FALSE(PciConfig{}.port());
  // A device that is gone reads as ones.
  CHECK_FALSE(PciConfig{std::string(4096, '\xff')}.acs_redirect());
  CHECK_FALSE(PciConfig{std::string(4096, '\xff')}.port());
  // Chains that lead back to where they were.
  auto circle = redirect;
  circle[0x61] = 0x50;
  circle[0x60] = 0x01;
  CHECK_FALSE(PciConfig{circle}.port());
  circle[0x148] = 0x01;
  circle[0x14a] = 0x01;
  circle[0x14b] = 0x10;
  CHECK_FALSE(PciConfig{circle}.acs_redirect());
}

TEST_CASE("titles of GPUs lead to the catalogue") {
  CHECK(gpu_model_of("NVIDIA GeForce RTX 5090") == "rtx-5090");
  CHECK(gpu_model_of("GeForce RTX 3090") == "rtx-3090");
  CHECK(gpu_model_of("NVIDIA H100 80GB HBM3") == "h100-sxm");
  CHECK(gpu_model_of("NVIDIA H100 PCIe") == "h100-pcie");
  CHECK(gpu_model_of("NVIDIA H200") == "h200-sxm");
  CHECK(gpu_model_of("NVIDIA A100-SXM4-80GB") == "a100-sxm");
  CHECK(gpu_model_of("NVIDIA A100 80GB PCIe") == "a100-pcie");
  CHECK(gpu_model_of("nvidia rtx a6000") == "rtx-a6000");
  CHECK(gpu_model_of("NVIDIA L40S") == "l40s");
  CHECK(gpu_model_of("NVIDIA B200") == "b200");
  CHECK(gpu_model_of("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition") ==
        "rtx-pro-6000-max-q");
  for (const char* other :
       {"", "NVIDIA ", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-40GB", "NVIDIA H100 NVL",
        "NVIDIA H200 NVL", "NVIDIA L40", "Graphics Device"}) {
    CAPTURE(other);
    CHECK(gpu_model_of(other).empty());
  }
  for (const auto& model : gpu_models()) {
    CAPTURE(model.name);
    CHECK(gpu_model_of(model.title) == model.name);
  }
  for (const char* title : {"NVIDIA GeForce RTX 5090", "NVIDIA H100 80GB HBM3"})
    CHECK(find_gpu_model(gpu_model_of(title)) != nullptr);
}

// Bytes, mostly of the letters that the forms are made of.
static std::string rubbish(std::mt19937_64& random) {
  constexpr std::string_view kLetters = "0123456789abcdefx.,:-_ \n\tGTs/MemTotal:kBPCIe";
  std::string text(random() % 80, ' ');
  for (auto& c : text)
    c = random() % 16 == 0 ? static_cast<char>(random()) : kLetters[random() % kLetters.size()];
  return text;
}

static void run_rubbish(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto text = rubbish(random);
  INFO("seed=", seed, " text=", text);
  const auto generation = parse_link_speed(text);
  CHECK((!generation || (*generation >= 1 && *generation <= 6)));
  const auto width = parse_link_width(text);
  CHECK((!width || (*width >= 1 && *width <= 32)));
  const auto rate = parse_infiniband_rate(text);
  CHECK((!rate || *rate > 0));
  const auto guid = parse_guid(text);
  CHECK((guid.empty() || guid.size() == 18));
  const auto window = parse_prefetchable_bytes(text);
  CHECK((!window || *window > 0));
  (void)count_cpus(text);
  (void)parse_memory_total(text);
  (void)field(text, "x");
  // A config space of random pointers is walked to an end.
  auto config = SysfsFixture::port_config(static_cast<int>(random() % 16), 0x1d);
  for (int i = 0; i < 40; ++i)
    config[random() % (i % 2 == 0 ? 0x200 : config.size())] = static_cast<char>(random());
  config.resize(random() % 4 == 0 ? random() % config.size() : config.size());
  (void)PciConfig{config}.port();
  (void)PciConfig{config}.acs_redirect();
}

TEST_CASE("rubbish is unknown or in bounds, and is read to an end") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) return run_rubbish(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 5000; ++seed) run_rubbish(seed);
}
