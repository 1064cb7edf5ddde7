// One part of what is measured of a GPU: gpu_bench PART [--mib N] [--rounds N]; prints JSON.
//
// Exit:    0 measured, 1 failed ("error" says why), 77 something it needs is not here ("absent").
#include <cstdlib>
#include <iostream>
#include <map>

#include "tests/gpu/parts.h"

using namespace causeway::gpu;

namespace {

const std::map<std::string, json::object (*)(const Amount&)> kParts{
    {"card", measure_card},
    {"probe", measure_probe},
    {"vmm", measure_vmm},
    {"copies", measure_copies},
    {"zero_copy", measure_zero_copy},
    {"move", measure_move},
    {"staged", measure_staged},
    {"ucx", measure_ucx},
    {"nccl", measure_nccl},
    {"train_gpt", measure_train_gpt}};

constexpr int kAbsent = 77;

int usage() {
  std::cerr << "usage: gpu_bench PART [--mib N] [--rounds N]\nparts:";
  for (const auto& [name, part] : kParts) std::cerr << ' ' << name;
  std::cerr << '\n';
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  Amount amount{256 * kMiB, 9};
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "serve" && argc == 3) return serve_staged(std::strtoull(argv[2], nullptr, 10));
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    const auto value = std::strtoull(argv[i + 1], nullptr, 10);
    if (option == "--mib" && value >= 2 && value <= 65536)
      amount.most_bytes = value * kMiB;
    else if (option == "--rounds" && value >= 1 && value <= 1000)
      amount.rounds = static_cast<int>(value);
    else
      return usage();
  }
  if (argc % 2 != 0 || !kParts.contains(name)) return usage();
  try {
    std::cout << json::serialize(kParts.at(name)(amount)) << std::endl;
    return 0;
  } catch (const Absent& absent) {
    std::cout << json::serialize(json::object{{"absent", absent.what()}}) << std::endl;
    return kAbsent;
  } catch (const std::exception& error) {
    std::cout << json::serialize(json::object{{"error", error.what()}}) << std::endl;
    return 1;
  }
}
