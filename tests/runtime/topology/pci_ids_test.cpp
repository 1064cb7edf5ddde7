// Goal:   PCI ids name GPUs that the catalogue has; sets of CPUs read back as they are written.
// Method: edges by hand; then random sets through both spellings.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "runtime/topology/pci_ids.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <random>

#include "causeway/gpu_catalogue.h"
#include "runtime/topology/cpu_set.h"

using namespace causeway;

TEST_CASE("ids of GPUs") {
  REQUIRE(find_pci_gpu(0x10de, 0x2b85) != nullptr);
  CHECK(find_pci_gpu(0x10de, 0x2b85)->model == "rtx-5090");
  CHECK(find_pci_gpu(0x10de, 0x2b85)->sm == 120);
  CHECK(find_pci_gpu(0x10de, 0x20b0)->model.empty());  // 40 GB
  CHECK(find_pci_gpu(0x1002, 0x2b85) == nullptr);
  CHECK(find_pci_gpu(std::nullopt, 0x2b85) == nullptr);
  CHECK(find_pci_gpu(0x10de, std::nullopt) == nullptr);
  CHECK(find_pci_gpu(0x10de, 0xffff) == nullptr);
  // Every model of the catalogue has an id, and no id a model that is not there.
  for (std::uint32_t id = 0; id <= 0xffff; ++id)
    if (const auto* gpu = find_pci_gpu(0x10de, id); gpu != nullptr && !gpu->model.empty())
      CHECK(find_gpu_model(gpu->model) != nullptr);
  for (const auto& model : gpu_models()) {
    bool found = false;
    for (std::uint32_t id = 0; id <= 0xffff; ++id)
      if (const auto* gpu = find_pci_gpu(0x10de, id)) found = found || gpu->model == model.name;
    CHECK_MESSAGE(found, std::string(model.name));
  }
}

TEST_CASE("classes") {
  CHECK(parse_pci_class("0x030200") == 0x030200U);
  CHECK(parse_pci_class("0302") == 0x030200U);
  CHECK(parse_pci_class("0x03") == 0x030000U);
  CHECK_FALSE(parse_pci_class(""));
  CHECK_FALSE(parse_pci_class("0x0302000"));
  CHECK_FALSE(parse_pci_class("0xzz"));
  CHECK(kind_of_pci_class(0x030000, {}) == ComponentKind::gpu);
  CHECK(kind_of_pci_class(0x030000, 0x10de) == ComponentKind::gpu);
  CHECK(kind_of_pci_class(0x030000, 0x1a03) == ComponentKind::unknown);
  CHECK(kind_of_pci_class(0x030000, 0x1002) == ComponentKind::unknown);
  CHECK(kind_of_pci_class(0x038000, 0x1002) == ComponentKind::gpu);
  CHECK(kind_of_pci_class(0x120000, 0x1002) == ComponentKind::gpu);
  CHECK(kind_of_pci_class(0x120000, {}) == ComponentKind::unknown);
  CHECK(kind_of_pci_class(0x020700, {}) == ComponentKind::nic);
  CHECK(kind_of_pci_class(0x060400, {}) == ComponentKind::bridge);
  CHECK(kind_of_pci_class(0x068000, 0x10de) == ComponentKind::nvswitch);
  CHECK(kind_of_pci_class(0x068000, 0x8086) == ComponentKind::unknown);
}

TEST_CASE("masks and lists of CPUs") {
  const auto list = [](std::string_view mask) {
    const auto set = parse_cpu_mask(mask);
    return set ? to_cpu_list(*set) : "refused";
  };
  CHECK(list("00ff00ff") == "0-7,16-23");
  CHECK(list("0000,00000000,000000ff,ffffffff,ffffffff") == "0-71");
  CHECK(list("0x00000303,0x03030000,,0x03030303") ==
        "0-1,8-9,16-17,24-25,80-81,88-89,96-97,104-105");
  CHECK(list("0x000f,,0x0") == "64-67");
  CHECK(list("0") == "");
  CHECK(list("ffffffffffff") == "0-47");
  CHECK(list("") == "refused");
  CHECK(list("0xf...f") == "refused");
  CHECK(list("1,123456789") == "refused");
  CHECK(list("zz") == "refused");
  CHECK(list(std::string(20'000, 'f')) == "refused");
  CHECK(to_cpu_mask(*parse_cpu_list("0-7,33")) == "00000002,000000ff");
  CHECK(to_cpu_mask({}) == "00000000");
  for (const auto* bad : {"1-", "-1", "3-1", "1,1", "5,3", "65536", "1,", "a"})
    CHECK_MESSAGE(!parse_cpu_list(bad), bad);
  CHECK(overlap(*parse_cpu_list("0-3,9"), *parse_cpu_list("4-9")));
  CHECK_FALSE(overlap(*parse_cpu_list("0-3,9"), *parse_cpu_list("4-8,10")));
  CHECK_FALSE(overlap({}, *parse_cpu_list("4")));
}

TEST_CASE("random sets read back") {
  const char* text = std::getenv("CAUSEWAY_TEST_SEED");
  const auto seed = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device()();
  MESSAGE("CAUSEWAY_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 500; ++round) {
    CpuSet set;
    std::uint32_t next = 0;
    for (auto ranges = random() % 20; ranges-- > 0;) {
      const auto first = next + static_cast<std::uint32_t>(random() % 40);
      const auto last = first + static_cast<std::uint32_t>(random() % 40);
      set.push_back({first, last});
      next = last + 2;
    }
    CHECK(parse_cpu_list(to_cpu_list(set)) == set);
    CHECK(parse_cpu_mask(to_cpu_mask(set)) == set);
  }
}
