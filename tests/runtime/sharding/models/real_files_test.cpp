// Goal:   files of independent writers are read as those libraries read them themselves, tensor by
//         tensor.
// Method: write_models.py writes safetensors and GGUF files (every type, shards, parts, other
//         alignments) and says what its libraries read back. It needs a Python with safetensors,
//         gguf and numpy: CAUSEWAY_TEST_PYTHON, or python3, or a virtual environment that is made
//         here once where pip finds the packages; else the test says that it skipped.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>

#include "causeway/gguf.h"
#include "causeway/model_description.h"
#include "causeway/safetensors.h"
#include "tests/runtime/sharding/models/model_folder.h"
#include "tests/tools/run_command.h"

using namespace causeway;
namespace json = boost::json;

namespace {

bool has_libraries(const std::string& python) {
  try {
    return test::run_command({python, "-c", "import safetensors.numpy, gguf, numpy"}).exit_code ==
           0;
  } catch (const Error&) {  // No such program.
    return false;
  }
}

// Empty if there is none.
std::string python_with_libraries() {
  if (const char* given = std::getenv("CAUSEWAY_TEST_PYTHON"))
    return has_libraries(given) ? given : "";
  if (has_libraries("python3")) return "python3";
  const std::string folder = TEST_VENV;
  const auto python = folder + "/bin/python";
  if (has_libraries(python)) return python;
  const auto run = [](std::vector<std::string> command) {
    return test::run_command(std::move(command), {}, std::chrono::seconds(120)).exit_code == 0;
  };
  try {
    if (run({"python3", "-m", "venv", folder}) &&
        run({python, "-m", "pip", "install", "--quiet", "--retries", "0", "--timeout", "10",
             "safetensors", "gguf", "numpy"}) &&
        has_libraries(python))
      return python;
  } catch (const Error&) {
    // Neither Python nor a way to the packages.
  }
  return {};
}

std::vector<std::uint64_t> shape_of(const json::value& row) {
  return json::value_to<std::vector<std::uint64_t>>(row.at("shape"));
}

void check_safetensors(const std::string& path, const json::array& rows) {
  const auto file = SafetensorsFile::open(path);
  CHECK(file.entries().size() == rows.size());
  for (const auto& row : rows) {
    const auto name = json::value_to<std::string>(row.at("name"));
    CAPTURE(name);
    REQUIRE(file.contains(name));
    const auto& tensor = file.tensor(name);
    CHECK(to_string(tensor.dtype) == json::value_to<std::string>(row.at("dtype")));
    CHECK(tensor.shape == shape_of(row));
    CHECK(tensor.size_bytes() == row.at("bytes").to_number<std::uint64_t>());
    std::uint64_t sum = 0;
    for (const auto byte : file.data(name)) sum += static_cast<std::uint64_t>(byte);
    CHECK(sum == row.at("sum").to_number<std::uint64_t>());
  }
}

void check_keys(const GgufHeader& header, const json::object& keys) {
  for (const auto& [key, value] : keys) {
    const std::string name(key);
    CAPTURE(name);
    REQUIRE(header.metadata.contains(name));
    const auto& read = header.metadata.at(name);
    if (value.is_string()) {
      const auto text = json::value_to<std::string>(value);
      CHECK(std::get<std::string>(read) == (text.size() > kMaxGgufText ? "" : text));
    } else if (value.is_bool()) {
      CHECK(std::get<bool>(read) == value.get_bool());
    } else if (value.is_double()) {
      CHECK(std::get<double>(read) == value.get_double());
    } else if (value.is_int64() && value.get_int64() < 0) {
      CHECK(std::get<std::int64_t>(read) == value.get_int64());
    } else {
      CHECK(header.number(name) == value.to_number<std::uint64_t>());
    }
  }
}

void check_gguf(const std::string& path, const json::value& file) {
  const auto header = GgufHeader::read(path);
  const auto& rows = file.at("tensors").as_array();
  CHECK(header.alignment_bytes == file.at("alignment").to_number<std::uint64_t>());
  REQUIRE(header.entries.size() == rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& tensor = header.entries[i].tensor;
    CAPTURE(tensor.name);
    CHECK(tensor.name == json::value_to<std::string>(rows[i].at("name")));
    CHECK(to_string(tensor.dtype) == json::value_to<std::string>(rows[i].at("dtype")));
    CHECK(tensor.shape == shape_of(rows[i]));
    CHECK(tensor.size_bytes() == rows[i].at("bytes").to_number<std::uint64_t>());
    CHECK(header.data_offset_bytes + header.entries[i].offset_bytes ==
          rows[i].at("at").to_number<std::uint64_t>());
  }
  check_keys(header, file.at("keys").as_object());
}

}  // namespace

TEST_CASE("files of other writers are read as they read them") {
  const auto python = python_with_libraries();
  if (python.empty()) {
    MESSAGE("SKIPPED: no Python with safetensors, gguf and numpy (give CAUSEWAY_TEST_PYTHON)");
    return;
  }
  const ModelFolder folder;
  const auto written = test::run_command({python, WRITE_MODELS, folder.path()});
  CAPTURE(written.err);
  REQUIRE(written.exit_code == 0);
  std::stringstream text;
  text << std::ifstream(folder.file("expected.json")).rdbuf();
  std::size_t tensors = 0;
  const auto expected_files = json::parse(text.str());
  for (const auto& file : expected_files.as_array()) {
    const auto name = json::value_to<std::string>(file.at("file"));
    CAPTURE(name);
    const auto& rows = file.at("tensors").as_array();
    tensors += rows.size();
    if (file.at("kind") == "gguf")
      check_gguf(folder.file(name), file);
    else
      check_safetensors(folder.file(name), rows);
    // And each of them has its place in the description.
    if (name.starts_with("parts/")) continue;
    const auto model = ModelDescription::read(folder.file(name));
    std::size_t placed = 0;
    std::uint64_t bytes = 0;
    for (const auto& layer : model.layers) {
      placed += layer.tensors.size();
      for (const auto& tensor : layer.tensors) bytes += tensor.spec.size_bytes();
    }
    CHECK(placed == rows.size());
    std::uint64_t expected = 0;
    for (const auto& row : rows) expected += row.at("bytes").to_number<std::uint64_t>();
    CHECK(bytes == expected);
  }
  CHECK(tensors > 100);
  const auto llama = ModelDescription::read(folder.file("llama"));
  CHECK(llama.notes.empty());
  CHECK(llama.layers.size() == 5);
  CHECK(llama.parameters() == 2 * 6400 + 64 + 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64 + 128));
  const auto whole = ModelDescription::read(folder.file("llama.gguf"));
  const auto parts = ModelDescription::read(folder.file("parts"));
  CHECK(whole.notes.empty());
  CHECK(parts.layers == whole.layers);
  CHECK((parts.architecture == whole.architecture));
  CHECK(whole.parameters() == 2 * 256'000 + 256 + 3 * (2 * 65536 + 2 * 16384 + 3 * 131072 + 512));
}
