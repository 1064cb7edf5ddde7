// Goal:   the folder that goes to a machine with a card works, and says what did not.
// Method: tools/gpu-bundle.sh makes it from this build; it runs on the software driver in short,
//         with a part that crashes, with one that hangs, and with no time for the rest.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "tests/tools/run_command.h"

using namespace causeway::test;
namespace fs = std::filesystem;
namespace json = boost::json;
using namespace std::chrono_literals;

namespace {

const std::set<std::string> kParts{"card",   "probe",  "conformance", "backend",
                                   "vmm",    "copies", "zero_copy",   "move",
                                   "staged", "ucx",    "nccl",        "train_gpt"};

// Made once; gone with the process.
const std::string& bundle() {
  static const TemporaryFolder folder;
  static const std::string path = [] {
    const auto made = run_command(
        {BUNDLE_SCRIPT, "--no-build", "--build", BUILD_FOLDER, "--out", folder.path() + "/b"}, {},
        120s);
    INFO(made.err);
    REQUIRE(made.exit_code == 0);
    return folder.path() + "/b";
  }();
  return path;
}

struct Ran {
  int exit_code;
  std::string err;
  json::object report;

  [[nodiscard]] const json::object& part(const std::string& name) const {
    return report.at("parts").at(name).as_object();
  }
  [[nodiscard]] std::string result_of(const std::string& name) const {
    return std::string(part(name).at("result").as_string());
  }
};

Ran run(std::vector<std::string> options, const std::string& driver = "{devices: 1}") {
  const TemporaryFolder folder;
  const auto out = folder.path() + "/results.json";
  std::vector<std::string> command{bundle() + "/run.sh", "--quick", "--out", out};
  command.insert(command.end(), options.begin(), options.end());
  const auto result = run_command(
      command, {{"CAUSEWAY_CUDA_LIBRARY", CUDA_EMULATOR}, {"CAUSEWAY_CUDA_EMULATOR", driver}},
      400s);
  std::ifstream file(out);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  INFO(result.err);
  REQUIRE(!text.empty());
  return {result.exit_code, result.err, json::parse(text).as_object()};
}

double number(const json::object& data, const char* key) {
  return data.at(key).to_number<double>();
}

}  // namespace

TEST_CASE("the folder has all it needs but the C library and the driver") {
  std::uintmax_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(bundle()))
    if (entry.is_regular_file()) bytes += entry.file_size();
  CHECK(bytes < (std::uintmax_t{60} << 20));
  CHECK(run_command({bundle() + "/run.sh", "--help"}).exit_code == 0);  // Unpacks the rest.
  const std::set<std::string> machines{"linux-vdso.so.1", "libc.so.6",           "libm.so.6",
                                       "libdl.so.2",      "librt.so.1",          "libpthread.so.0",
                                       "libresolv.so.2",  "ld-linux-x86-64.so.2"};
  for (const auto& program : fs::directory_iterator(bundle() + "/bin")) {
    if (program.path().extension() == ".txt") continue;
    const auto found = run_command(
        {"ldd", program.path()}, {{"LD_LIBRARY_PATH", bundle() + "/lib:" + bundle() + "/lib/c++"}});
    std::istringstream lines(found.out);
    for (std::string line; std::getline(lines, line);) {
      const auto name = fs::path(line.substr(1, line.find(' ') - 1)).filename().string();
      INFO(program.path().string(), ": ", line);
      CHECK((machines.contains(name) || line.find(bundle() + "/lib/") != std::string::npos));
    }
  }
}

// 2.35 is Ubuntu 22.04's. The C++ library is the one that such a machine has to bring.
TEST_CASE("nothing but the C++ library wants a newer glibc than 2.35") {
  CHECK(run_command({bundle() + "/run.sh", "--help"}).exit_code == 0);  // Unpacks the rest.
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(bundle())) {
    const auto path = entry.path().string();
    if (!entry.is_regular_file() || path.find("/lib/c++/") != std::string::npos) continue;
    if (path.find("/bin/") == std::string::npos && path.find("/lib/") == std::string::npos)
      continue;
    const auto symbols = run_command({"objdump", "-T", path}).out;
    for (auto at = symbols.find("GLIBC_2."); at != std::string::npos;
         at = symbols.find("GLIBC_2.", at + 1)) {
      INFO(path, ": ", symbols.substr(at, symbols.find('\n', at) - at));
      REQUIRE(std::atoi(symbols.c_str() + at + 8) <= 35);
    }
    files += symbols.find("GLIBC_2.") != std::string::npos ? 1 : 0;
  }
  CHECK(files > 10);
}

TEST_CASE("where the C++ library of the folder does not load, the machine's own serves") {
  const auto own = bundle() + "/lib/c++/libstdc++.so.6";
  REQUIRE(fs::exists(own));
  fs::rename(own, own + ".good");
  std::ofstream(own) << "not of this machine";
  const auto result = run_command({bundle() + "/run.sh", "--help"});
  fs::rename(own + ".good", own);
  INFO(result.err);
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("--total-s") != std::string::npos);
}

TEST_CASE("on the software driver every part has a result") {
  const auto ran = run({});
  INFO(ran.err);
  CHECK(ran.exit_code == 0);
  std::set<std::string> names;
  for (const auto& [name, part] : ran.report.at("parts").as_object()) {
    names.insert(std::string(name));
    const auto result = ran.result_of(std::string(name));
    CHECK((result == "passed" || (result == "absent" && (name == "nccl" || name == "train_gpt"))));
  }
  CHECK(names == kParts);
  CHECK(ran.report.at("software_driver").as_bool());
  CHECK(ran.report.at("card").as_string() == "Emulated GPU");
  CHECK(ran.report.at("date").as_string().starts_with("20"));
  CHECK(ran.report.at("made_of").as_string().starts_with("commit "));
  CHECK(ran.report.contains("driver"));
  CHECK(ran.report.at("complete").as_bool());
  const auto data = [&](const char* name) { return ran.part(name).at("data").as_object(); };
  CHECK(number(data("conformance"), "passed") > 80);
  CHECK(number(data("conformance"), "failed") == 0);
  CHECK(number(data("vmm").at("sizes").at(0).as_object(), "cuMemCreate_us") > 0);
  for (const char* key : {"in_ours_gb_per_s", "out_plain_gb_per_s", "both_ratio"})
    CHECK(number(data("copies").at("sizes").at(0).as_object(), key) > 0);
  CHECK(number(data("zero_copy"), "host_numa_gb_per_s") > 0);
  CHECK(number(data("move").at("device").at("out").as_object(), "gb_per_s") > 0);
  CHECK(number(data("move").at("host_numa").at("in").as_object(), "gb_per_s") > 0);
  CHECK(number(data("backend"), "passed") == 10);
  CHECK(data("copies").at("published").is_null());  // Of a card that nobody makes.
  CHECK(number(data("staged"), "write_gb_per_s") > 0);
  CHECK(data("ucx").at("way").as_string() == "staged");  // Debian's UCX takes no device's memory.
}

TEST_CASE("a case of the backend that breaks its process takes no other with it") {
  const auto ran =
      run({"--only", "backend"}, "{devices: 1, crashes: {cuMemImportFromShareableHandle: 11}}");
  INFO(ran.err);
  CHECK(ran.exit_code == 1);
  CHECK(ran.result_of("backend") == "failed");
  const auto& data = ran.part("backend").at("data").as_object();
  CHECK(number(data, "passed") + number(data, "failed") == 10);
  CHECK(number(data, "passed") >= 5);
  CHECK(number(data, "failed") >= 1);
  for (const auto& one : data.at("cases").as_array()) {
    CHECK_FALSE(one.at("name").as_string().empty());
    if (one.at("result").as_string() != "passed")
      CHECK(one.at("error").as_string() == "ended by signal 11");
  }
}

TEST_CASE("an extent moves within the device whatever the driver says of host memory") {
  const auto ran = run({"--only", "move"}, "{devices: 1, host_numa_vmm: false}");
  CHECK(ran.exit_code == 0);
  const auto& data = ran.part("move").at("data").as_object();
  CHECK(number(data.at("device").at("in").as_object(), "gb_per_s") > 0);
  CHECK(number(data, "host_numa_attribute") == 0);
  CHECK(data.at("host_numa").at("refused").as_string().find("CUDA_ERROR_") !=
        std::string_view::npos);
}

TEST_CASE("copies are set against what is published for the card") {
  const auto ran =
      run({"--only", "copies"}, "{devices: [{name: NVIDIA GeForce RTX 4090}], host_gb_per_s: 1}");
  CHECK(ran.exit_code == 0);
  const auto& data = ran.part("copies").at("data").as_object();
  const auto& published = data.at("published").as_object();
  CHECK(published.at("model").as_string() == "rtx-4090");
  CHECK(number(published, "gb_per_s") == doctest::Approx(28.8).epsilon(0.01));
  const auto& row = data.at("sizes").at(0).as_object();
  CHECK(number(row, "in_ratio") ==
        doctest::Approx(number(row, "in_ours_gb_per_s") / number(published, "gb_per_s")));
  CHECK(number(row, "in_ratio_to_driver") > 5 * number(row, "in_ratio"));
}

TEST_CASE("a part that crashes is told, and the others go on") {
  const auto ran = run({"--only", "card,vmm,move"}, "{devices: 1, crashes: {cuMemHostAlloc: 11}}");
  INFO(ran.err);
  CHECK(ran.exit_code == 1);
  CHECK(ran.result_of("card") == "passed");
  CHECK(ran.result_of("vmm") == "failed");
  CHECK(ran.part("vmm").at("error").as_string() == "ended by signal 11");
  CHECK(number(ran.report, "failures") == 2);
  CHECK(ran.err.find("vmm: failed (ended by signal 11)") != std::string::npos);
}

TEST_CASE("the conformance cases before a crash and those before the deadline are kept") {
  const auto kept = [](const char* driver, const char* result) {
    const auto ran = run({"--only", "conformance", "--part-s", "8"}, driver);
    INFO(ran.err);
    CHECK(ran.exit_code == 1);
    CHECK(ran.result_of("conformance") == result);
    CHECK(number(ran.part("conformance").at("data").as_object(), "passed") > 0);
    CHECK(number(ran.part("conformance").at("data").as_object(), "failed") == 1);
  };
  kept("{devices: 1, crashes: {cuMemHostAlloc: 11}}", "failed");
  kept("{devices: 1, calls_us: {cuMemHostAlloc: 600000000}}", "timed_out");
}

TEST_CASE("a part that the driver refuses is told with the driver's reason") {
  const auto ran = run({"--only", "vmm,nccl"}, "{devices: 1, vmm: false}");
  CHECK(ran.exit_code == 1);
  CHECK(ran.result_of("vmm") == "failed");
  CHECK(ran.part("vmm").at("error").as_string().find("CUDA_ERROR_NOT_SUPPORTED") !=
        std::string_view::npos);
  CHECK(ran.result_of("nccl") == "absent");
}

TEST_CASE("a part that hangs is ended, and the others go on") {
  const auto ran = run({"--only", "card,probe,vmm,zero_copy", "--part-s", "4"},
                       "{devices: 1, calls_us: {cuMemHostAlloc: 600000000}}");
  INFO(ran.err);
  CHECK(ran.exit_code == 1);
  CHECK(ran.result_of("probe") == "passed");
  CHECK(ran.result_of("vmm") == "timed_out");
  CHECK(number(ran.part("vmm"), "seconds") < 15);
  CHECK(ran.result_of("zero_copy") == "timed_out");
}

TEST_CASE("a conformance case that fails is one of the results, with what it saw") {
  const auto ran = run({"--only", "conformance"}, "{devices: [{memory_mib: 1}]}");
  CHECK(ran.exit_code == 1);
  CHECK(ran.result_of("conformance") == "failed");
  const auto& data = ran.part("conformance").at("data").as_object();
  CHECK(number(data, "failed") > 0);
  CHECK(number(data, "passed") > 0);
  CHECK(json::serialize(data).find("cuMemCreate(&handle_, size_, &prop, 0) answers "
                                   "CUDA_ERROR_OUT_OF_MEMORY") != std::string::npos);
}

TEST_CASE("what there is no time for is not begun, and that is a failure") {
  const auto ran = run({"--only", "card,probe,vmm", "--total-s", "2"},
                       "{devices: 1, calls_us: {cuDeviceGetName: 600000000}}");
  CHECK(ran.exit_code == 1);
  CHECK(ran.result_of("card") == "timed_out");
  CHECK(ran.result_of("vmm") == "not_started");
}

// Also what knows a software driver from when it was built.
TEST_CASE("without a driver everything fails, with the reason") {
  const TemporaryFolder folder;
  std::ofstream(folder.path() + "/libcuda.so.1") << "none";
  const auto result =
      run_command({"env", "-u", "CAUSEWAY_CUDA_LIBRARY", bundle() + "/run.sh", "--only",
                   "card,conformance,backend", "--out", folder.path() + "/results.json"},
                  {{"LD_LIBRARY_PATH", folder.path()}});
  INFO(result.err);
  CHECK(result.exit_code == 1);
  CHECK(result.err.find("install NVIDIA's driver") != std::string::npos);
  CHECK(result.err.find("3 failed") != std::string::npos);
}

TEST_CASE("results that cannot be written are a mistake told before the first part") {
  const auto result =
      run_command({bundle() + "/run.sh", "--only", "card", "--out", bundle() + "/none/r.json"});
  CHECK(result.exit_code == 2);
  CHECK(result.err.find("cannot write") != std::string::npos);
  CHECK(result.err.find("card:") == std::string::npos);
}

TEST_CASE("a part that is not there is a mistake of the caller") {
  const auto result = run_command({bundle() + "/run.sh", "--only", "copys"});
  CHECK(result.exit_code == 2);
  CHECK(result.err.find("no part 'copys'") != std::string::npos);
}
