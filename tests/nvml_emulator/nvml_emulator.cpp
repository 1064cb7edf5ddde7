// A software libnvidia-ml.so.1: answers from the scenario that CAUSEWAY_NVML_SCENARIO names.
//
// Shape:   a scenario is lines of words; '#' starts a comment. GPU is a number or '*', LINKS "3" or
//          "0-17", GEN and WIDTH are "now/most":
//            driver VERSION
//            cuda 13000
//            gpu PCI UUID SM MEMORY_MIB BAR1_MIB GEN WIDTH NAME...
//            p2p FROM TO READ WRITE           numbers of nvmlGpuP2PStatus_t
//            nvlink GPU LINKS down
//            nvlink GPU LINKS up gpu|cpu|switch PCI
//            fabric GPU STATE STATUS [UUID of 32 digits]
//            c2c GPU
//            numa GPU NODE                    its memory is that NUMA node
//            fail FUNCTION GPU CODE           that function's answer for that GPU
//            hang FUNCTION GPU                it never returns
//            crash FUNCTION GPU               it ends the process
// Errors:  as the driver: "not supported" for links of a GPU without any, and for what the scenario
//          does not say. Without a scenario, or with a line that it does not know, nvmlInit_v2
//          fails.
// Old:     built with CAUSEWAY_OLD_DRIVER it lacks the functions that came after 2021.
#include <dlfcn.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/topology/discovery/nvml_abi.h"

namespace nvml = causeway::nvml;

namespace {

constexpr int kUninitialized = 1;
constexpr int kInvalidArgument = 2;
constexpr int kInsufficientSize = 7;
constexpr int kUnknownError = 999;

struct Link {
  bool is_up = false;
  int type = 0xff;
  std::string pci;
};

struct Gpu {
  std::string pci, uuid, name;
  int sm = 0;
  unsigned long long memory_bytes = 0, bar1_bytes = 0;
  unsigned generation = 0, generation_max = 0, width = 0, width_max = 0;
  std::map<unsigned, Link> links;
  std::optional<nvml::FabricInfoV2> fabric;
  bool has_c2c = false;
  std::optional<unsigned> numa;
};

enum class Fault { fail, hang, crash };

struct Scenario {
  bool is_loaded = false;
  bool is_running = false;
  std::string driver;
  int cuda = 0;
  std::vector<Gpu> gpus;
  std::map<std::pair<unsigned, unsigned>, std::pair<int, int>> peers;
  std::map<std::pair<std::string, unsigned>, std::pair<Fault, int>> faults;
};

Scenario scenario;
constexpr unsigned kSystem = ~0U;  // Faults of functions that ask of no GPU: "-".

unsigned long long number(const std::string& text, int base = 10) {
  unsigned long long value = 0;
  const auto end = text.data() + text.size();
  if (std::from_chars(text.data(), end, value, base).ptr != end) throw text;
  return value;
}

std::vector<unsigned> gpus_of(const std::string& word) {
  if (word == "-") return {kSystem};
  if (word != "*") return {static_cast<unsigned>(number(word))};
  std::vector<unsigned> all;
  for (unsigned i = 0; i < scenario.gpus.size(); ++i) all.push_back(i);
  return all;
}

std::pair<unsigned, unsigned> pair_of(const std::string& word, char between) {
  const auto at = word.find(between);
  const auto first = static_cast<unsigned>(number(word.substr(0, at)));
  return {first,
          at == std::string::npos ? first : static_cast<unsigned>(number(word.substr(at + 1)))};
}

void read_gpu(std::istringstream& words) {
  Gpu gpu;
  std::string memory, bar1, generation, width;
  words >> gpu.pci >> gpu.uuid >> gpu.sm >> memory >> bar1 >> generation >> width >> std::ws;
  std::getline(words, gpu.name);
  gpu.memory_bytes = number(memory) << 20;
  gpu.bar1_bytes = number(bar1) << 20;
  std::tie(gpu.generation, gpu.generation_max) = pair_of(generation, '/');
  std::tie(gpu.width, gpu.width_max) = pair_of(width, '/');
  scenario.gpus.push_back(gpu);
}

void read_nvlink(std::istringstream& words) {
  std::string gpu, range, state, type;
  Link link;
  words >> gpu >> range >> state >> type >> link.pci;
  link.is_up = state == "up";
  link.type = type == "gpu"      ? nvml::kRemoteGpu
              : type == "cpu"    ? nvml::kRemoteCpu
              : type == "switch" ? nvml::kRemoteSwitch
                                 : 0xff;
  const auto [first, last] = pair_of(range, '-');
  for (const auto index : gpus_of(gpu))
    for (auto i = first; i <= last; ++i) scenario.gpus.at(index).links[i] = link;
}

void read_fabric(std::istringstream& words) {
  std::string gpu, uuid;
  int state = 0;
  nvml::FabricInfoV2 info{};
  words >> gpu >> state >> info.status >> uuid;
  info.state = static_cast<unsigned char>(state);
  for (std::size_t i = 0; i + 1 < uuid.size() && i < 32; i += 2)
    info.cluster_uuid[i / 2] = static_cast<unsigned char>(number(uuid.substr(i, 2), 16));
  for (const auto index : gpus_of(gpu)) scenario.gpus.at(index).fabric = info;
}

void read_line(const std::string& line) {
  std::istringstream words(line);
  std::string key, a, b;
  if (!(words >> key) || key[0] == '#') return;
  if (key == "driver") {
    words >> scenario.driver;
  } else if (key == "cuda") {
    words >> scenario.cuda;
  } else if (key == "gpu") {
    read_gpu(words);
  } else if (key == "nvlink") {
    read_nvlink(words);
  } else if (key == "fabric") {
    read_fabric(words);
  } else if (key == "c2c") {
    words >> a;
    for (const auto gpu : gpus_of(a)) scenario.gpus.at(gpu).has_c2c = true;
  } else if (key == "numa") {
    words >> a >> b;
    for (const auto gpu : gpus_of(a)) scenario.gpus.at(gpu).numa = static_cast<unsigned>(number(b));
  } else if (key == "p2p") {
    int read = 0, write = 0;
    words >> a >> b >> read >> write;
    for (const auto from : gpus_of(a))
      for (const auto to : gpus_of(b)) scenario.peers[{from, to}] = {read, write};
  } else if (key == "fail" || key == "hang" || key == "crash") {
    int code = 0;
    words >> a >> b >> code;
    for (const auto gpu : gpus_of(b))
      scenario.faults[{a, gpu}] = {key == "fail"   ? Fault::fail
                                   : key == "hang" ? Fault::hang
                                                   : Fault::crash,
                                   code};
  } else {
    throw key;
  }
}

bool load() {
  const char* path = std::getenv("CAUSEWAY_NVML_SCENARIO");
  std::ifstream file(path == nullptr ? "" : path);
  if (!file) return false;
  scenario = Scenario{};
  try {
    for (std::string line; std::getline(file, line);) read_line(line);
  } catch (...) {
    return false;
  }
  return true;
}

// What a scenario has a function do instead of its work. nullopt: its work.
std::optional<int> fault(const char* function, unsigned gpu) {
  const auto at = scenario.faults.find({function, gpu});
  if (at == scenario.faults.end()) return std::nullopt;
  if (at->second.first == Fault::hang)
    for (;;) ::pause();
  if (at->second.first == Fault::crash) std::abort();
  return at->second.second;
}

// Handles are indices plus one.
unsigned index_of(nvml::Device device) {
  return static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(device)) - 1;
}

template <typename Work>
int answer(const char* function, nvml::Device device, Work work) {
  if (!scenario.is_running) return kUninitialized;
  const auto index = index_of(device);
  if (index >= scenario.gpus.size()) return kInvalidArgument;
  if (const auto code = fault(function, index)) return *code;
  return work(scenario.gpus[index]);
}

int give_text(const std::string& text, char* out, unsigned size) {
  if (text.size() >= size) return kInsufficientSize;
  std::memcpy(out, text.c_str(), text.size() + 1);
  return nvml::kSuccess;
}

void give_pci(const std::string& address, nvml::PciInfo* out) {
  *out = {};
  std::strncpy(out->bus_id, address.c_str(), sizeof out->bus_id - 1);
}

template <typename Work>
int answer_link(const char* function, nvml::Device device, unsigned link, Work work) {
  return answer(function, device, [&](Gpu& gpu) {
    if (gpu.links.empty()) return nvml::kNotSupported;
    const auto at = gpu.links.find(link);
    return at == gpu.links.end() ? kInvalidArgument : work(at->second);
  });
}

}  // namespace

extern "C" {

int nvmlInit_v2() {
  // Discovery must have no use for CUDA.
  if (::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD) != nullptr) return kUnknownError;
  if (!load()) return nvml::kDriverNotLoaded;
  if (const auto code = fault(__func__, kSystem)) return *code;
  scenario.is_running = true;
  return nvml::kSuccess;
}

int nvmlSystemGetDriverVersion(char* out, unsigned size) {
  return give_text(scenario.driver, out, size);
}

int nvmlSystemGetCudaDriverVersion(int* out) {
  *out = scenario.cuda;
  return nvml::kSuccess;
}

int nvmlDeviceGetCount_v2(unsigned* out) {
  *out = static_cast<unsigned>(scenario.gpus.size());
  return nvml::kSuccess;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvml::Device* out) {
  *out = reinterpret_cast<nvml::Device>(std::uintptr_t{index} + 1);
  return answer(__func__, *out, [](Gpu&) { return nvml::kSuccess; });
}

int nvmlDeviceGetName(nvml::Device device, char* out, unsigned size) {
  return answer(__func__, device, [&](Gpu& gpu) { return give_text(gpu.name, out, size); });
}

int nvmlDeviceGetUUID(nvml::Device device, char* out, unsigned size) {
  return answer(__func__, device, [&](Gpu& gpu) { return give_text(gpu.uuid, out, size); });
}

int nvmlDeviceGetPciInfo_v3(nvml::Device device, nvml::PciInfo* out) {
  return answer(__func__, device, [&](Gpu& gpu) {
    give_pci(gpu.pci, out);
    return nvml::kSuccess;
  });
}

int nvmlDeviceGetMemoryInfo(nvml::Device device, nvml::Memory* out) {
  return answer(__func__, device, [&](Gpu& gpu) {
    *out = {gpu.memory_bytes, gpu.memory_bytes, 0};
    return nvml::kSuccess;
  });
}

int nvmlDeviceGetBAR1MemoryInfo(nvml::Device device, nvml::Bar1Memory* out) {
  return answer(__func__, device, [&](Gpu& gpu) {
    *out = {gpu.bar1_bytes, gpu.bar1_bytes, 0};
    return nvml::kSuccess;
  });
}

int nvmlDeviceGetCudaComputeCapability(nvml::Device device, int* major, int* minor) {
  return answer(__func__, device, [&](Gpu& gpu) {
    *major = gpu.sm / 10;
    *minor = gpu.sm % 10;
    return nvml::kSuccess;
  });
}

int nvmlDeviceGetCurrPcieLinkGeneration(nvml::Device device, unsigned* out) {
  return answer(__func__, device, [&](Gpu& gpu) { return *out = gpu.generation, nvml::kSuccess; });
}

int nvmlDeviceGetMaxPcieLinkGeneration(nvml::Device device, unsigned* out) {
  return answer(__func__, device,
                [&](Gpu& gpu) { return *out = gpu.generation_max, nvml::kSuccess; });
}

int nvmlDeviceGetCurrPcieLinkWidth(nvml::Device device, unsigned* out) {
  return answer(__func__, device, [&](Gpu& gpu) { return *out = gpu.width, nvml::kSuccess; });
}

int nvmlDeviceGetMaxPcieLinkWidth(nvml::Device device, unsigned* out) {
  return answer(__func__, device, [&](Gpu& gpu) { return *out = gpu.width_max, nvml::kSuccess; });
}

int nvmlDeviceGetNvLinkState(nvml::Device device, unsigned link, int* out) {
  return answer_link(__func__, device, link,
                     [&](const Link& at) { return *out = at.is_up ? 1 : 0, nvml::kSuccess; });
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(nvml::Device device, unsigned link, nvml::PciInfo* out) {
  return answer_link(__func__, device, link, [&](const Link& at) {
    if (!at.is_up) return kInvalidArgument;
    give_pci(at.pci, out);
    return nvml::kSuccess;
  });
}

int nvmlDeviceGetP2PStatus(nvml::Device from, nvml::Device to, int use, int* out) {
  return answer(__func__, from, [&](Gpu&) {
    const auto at = scenario.peers.find({index_of(from), index_of(to)});
    if (at == scenario.peers.end() || use > nvml::kPeerWrite) return nvml::kNotSupported;
    *out = use == nvml::kPeerRead ? at->second.first : at->second.second;
    return nvml::kSuccess;
  });
}

#ifndef CAUSEWAY_OLD_DRIVER
int nvmlSystemGetCudaDriverVersion_v2(int* out) { return nvmlSystemGetCudaDriverVersion(out); }

int nvmlDeviceGetNvLinkRemoteDeviceType(nvml::Device device, unsigned link, int* out) {
  return answer_link(__func__, device, link, [&](const Link& at) {
    if (!at.is_up) return kInvalidArgument;
    *out = at.type;
    return nvml::kSuccess;
  });
}

int nvmlDeviceGetGpuFabricInfo(nvml::Device device, nvml::FabricInfo* out) {
  return answer(__func__, device, [&](Gpu& gpu) {
    if (!gpu.fabric) return nvml::kNotSupported;
    std::memcpy(out->cluster_uuid, gpu.fabric->cluster_uuid, sizeof out->cluster_uuid);
    out->status = gpu.fabric->status;
    out->clique_id = 0;
    out->state = gpu.fabric->state;
    return nvml::kSuccess;
  });
}

int nvmlDeviceGetGpuFabricInfoV(nvml::Device device, nvml::FabricInfoV2* out) {
  constexpr int kArgumentVersionMismatch = 25;
  return answer(__func__, device, [&](Gpu& gpu) {
    if (out->version != nvml::kFabricInfoV2) return kArgumentVersionMismatch;
    if (!gpu.fabric) return nvml::kNotSupported;
    *out = *gpu.fabric;
    return nvml::kSuccess;
  });
}

int nvmlDeviceGetNumaNodeId(nvml::Device device, unsigned* out) {
  return answer(__func__, device, [&](Gpu& gpu) {
    if (!gpu.numa) return nvml::kNotSupported;
    *out = *gpu.numa;
    return nvml::kSuccess;
  });
}

int nvmlDeviceGetC2cModeInfoV(nvml::Device device, nvml::C2cModeInfo* out) {
  return answer(__func__, device, [&](Gpu& gpu) {
    out->is_enabled = gpu.has_c2c ? 1 : 0;
    return nvml::kSuccess;
  });
}
#endif

}  // extern "C"
