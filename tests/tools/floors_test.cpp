// Goal:   the house keeps its floors: includes go downwards only, and what belongs to one folder
//         (CUDA, UCX, NCCL) is named nowhere else.
// Method: every #include of the tree against a table; then the checker itself on lines that it must
//         refuse.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fs = std::filesystem;

struct Floor {
  std::string_view folder;
  std::vector<std::string_view> may_include;  // Prefixes of quoted or angled includes.
};

// The most special folder first.
static const std::vector<Floor>& floors() {
  static const std::vector<Floor> kFloors = {
      {"runtime/include/", {"causeway/", "allocator/error.h", "allocator/device_name.h"}},
      {"runtime/", {"causeway/", "runtime/", "transport/", "allocator/"}},
      {"transport/", {"transport/", "allocator/"}},
      {"allocator/", {"allocator/"}},
      {"tools/", {"causeway/", "tools/"}},
      {"examples/", {"causeway/", "examples/"}},
  };
  return kFloors;
}

// Headers of others that only one folder may know.
struct Private {
  std::string_view prefix;
  std::string_view home;
  std::string_view also{};  // A test that compares an example's own declarations with them.
};
static constexpr Private kPrivate[] = {
    {"cuda", "allocator/cuda/", "tests/examples/gpt_gpu_abi_test.cpp"},
    {"nvml", "runtime/topology/discovery/"},
    {"ucp/", "transport/ucx/"},
    {"uct/", "transport/ucx/"},
    {"ucs/", "transport/ucx/"},
    {"ucm/", "transport/ucx/"},
    {"nccl", "transport/nccl/"},
};

// "transport/ucx/" is tested by "tests/transport/ucx...": a hostile peer speaks raw UCX.
static std::string test_of(std::string_view home) {
  return "tests/" + std::string(home.substr(0, home.size() - 1));
}

// What is wrong with `line` of the file at `path`, if anything.
static std::optional<std::string> fault(const std::string& path, const std::string& line) {
  const auto hash = line.find_first_not_of(" \t");
  if (hash == std::string::npos || line[hash] != '#') return std::nullopt;
  const auto word = line.find_first_not_of(" \t", hash + 1);
  if (word == std::string::npos || line.compare(word, 7, "include") != 0) return std::nullopt;
  const auto open = line.find_first_of("\"<", word);
  if (open == std::string::npos) return std::nullopt;
  const auto name = line.substr(open + 1, line.find_first_of("\">", open + 1) - open - 1);
  for (const auto& [prefix, home, also] : kPrivate)
    if (name.starts_with(prefix) && !path.starts_with(home) && !path.starts_with(test_of(home)) &&
        path != also)
      return path + " includes " + name + ", which only " + std::string(home) + " may know";
  const auto floor = std::ranges::find_if(
      floors(), [&](const Floor& entry) { return path.starts_with(entry.folder); });
  if (floor == floors().end()) return std::nullopt;
  const auto starts = [&](std::string_view prefix) { return name.starts_with(prefix); };
  constexpr std::string_view kOurs[] = {"causeway/", "allocator/", "transport/", "runtime/",
                                        "tools/",    "examples/",  "tests/"};
  // An example is there to be copied: its own files name each other without their folder.
  if (path.starts_with("examples/") && line[open] == '"' && name.find('/') == std::string::npos)
    return std::nullopt;
  const bool ours = line[open] == '"' || std::ranges::any_of(kOurs, starts);
  if (!ours || std::ranges::any_of(floor->may_include, starts)) return std::nullopt;
  return path + " includes " + name + ", which " + std::string(floor->folder) + " may not";
}

TEST_CASE("every include of the tree goes downwards") {
  const fs::path root = SOURCE_FOLDER;
  std::size_t files = 0;
  for (const char* folder : {"allocator", "transport", "runtime", "tools", "examples", "tests"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const auto extension = entry.path().extension();
      if (extension != ".h" && extension != ".cpp") continue;
      ++files;
      std::ifstream stream(entry.path());
      const auto path = fs::relative(entry.path(), root).string();
      for (std::string line; std::getline(stream, line);) {
        const auto found = fault(path, line);
        CHECK_MESSAGE(!found, *found);
      }
    }
  }
  CHECK(files > 50);  // Else the walk itself is broken.
}

TEST_CASE("the checker refuses what it must") {
  CHECK(fault("allocator/a.cpp", "#include \"transport/channel.h\""));
  CHECK(fault("allocator/a.cpp", "#include <causeway/pool.h>"));
  CHECK(fault("transport/a.cpp", "#include \"runtime/topology/x.h\""));
  CHECK(fault("tools/a.cpp", "#include \"allocator/error.h\""));
  CHECK(fault("tools/a.cpp", "#  include <runtime/pool/pool.h>"));
  CHECK(fault("examples/x/a.cpp", "#include \"runtime/pool/pool.h\""));
  CHECK(fault("examples/x/a.cpp", "#include \"../y/local.h\""));
  CHECK(fault("tools/a.cpp", "#include \"lab.h\""));
  CHECK_FALSE(fault("examples/x/a.cpp", "#include \"local.h\""));
  CHECK(fault("runtime/include/causeway/a.h", "#include \"allocator/backend.h\""));
  CHECK(fault("runtime/node/a.cpp", "#include <ucp/api/ucp.h>"));
  CHECK(fault("runtime/node/a.cpp", "#include \"tools/lab.h\""));
  CHECK(fault("allocator/host.cpp", "#include <cuda.h>"));
  CHECK(fault("transport/ucx/a.cpp", "#include <nccl.h>"));
  CHECK(fault("tests/transport/local_test.cpp", "#include <ucp/api/ucp.h>"));
  CHECK(fault("transport/collective/a.cpp", "#include <nccl.h>"));
  CHECK_FALSE(fault("tests/transport/nccl_abi_test.cpp", "#include <nccl.h>"));
  CHECK_FALSE(fault("tests/transport/ucx_hostile_test.cpp", "#include <ucp/api/ucp.h>"));
  CHECK_FALSE(fault("transport/ucx/a.cpp", "#include <ucp/api/ucp.h>"));
  CHECK_FALSE(fault("runtime/node/a.cpp", "#include \"allocator/error.h\""));
  CHECK_FALSE(fault("runtime/node/a.cpp", "#include <boost/json.hpp>"));
  CHECK_FALSE(fault("tools/a.cpp", "// #include \"allocator/error.h\""));
  CHECK_FALSE(fault("tools/a.cpp", "#include <vector>"));
}
