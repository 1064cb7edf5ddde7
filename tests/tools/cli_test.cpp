// Goal:   every command says how it is used, fails with the exit code that its help names, and
//         prints JSON that parses; nothing on the command line ends in a crash.
// Method: the real program, no daemon: what needs none (plan and topo of a cluster file), and what
//         must say that there is none.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <sstream>

#include "causeway/plan.h"
#include "tests/tools/run_command.h"
#include "tools/base/files.h"

using namespace causeway;
using causeway::test::CommandResult;
using causeway::test::TemporaryFolder;

namespace json = boost::json;

// Every test has its own runtime folder, so that it meets no daemon of the user.
static const TemporaryFolder& folder() {
  static const TemporaryFolder made;
  return made;
}

static CommandResult causeway_run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), CAUSEWAY);
  return test::run_command(std::move(arguments), {{"XDG_RUNTIME_DIR", folder().path()}});
}

static bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

static std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

static const char* const kCommands[] = {"up",          "down",         "status",     "regions",
                                        "topo show",   "topo islands", "topo path",  "topo whatif",
                                        "topo import", "topo export",  "topo watch", "topo measure",
                                        "plan",        "lab up",       "lab down",   "lab run",
                                        "lab list",    "bench copy",   "model show"};
// Whose 1 and 2 are answers, so their help lists codes of their own.
static const char* const kAnswers[] = {"topo doctor", "topo diff"};

TEST_CASE("every command's help has an example and the exit codes") {
  for (const std::string command : kCommands) {
    INFO(command);
    auto arguments = words(command);
    arguments.push_back("--help");
    const auto result = causeway_run(arguments);
    CHECK(result.exit_code == 0);
    CHECK(contains(result.out, "Example:\n  causeway " + command));
    CHECK(contains(result.out, "Exit codes: 0 ok, 1 error, 2 usage, 3 out of memory"));
    CHECK(contains(result.out, "--json"));
    CHECK(result.err.empty());
  }
  for (const std::string command : kAnswers) {
    INFO(command);
    auto arguments = words(command);
    arguments.push_back("--help");
    const auto result = causeway_run(arguments);
    CHECK(result.exit_code == 0);
    CHECK(contains(result.out, "Example:\n  causeway " + command));
    CHECK(contains(result.out, "Exit codes: 0 "));
    CHECK(contains(result.out, ", 5 could not "));
  }
  const auto result = causeway_run({"--help"});
  CHECK(result.exit_code == 0);
  for (const std::string command : kCommands)
    CHECK(contains(result.out, "\n  " + words(command).front() + " "));
  CHECK(contains(causeway_run({"--version"}).out, "causeway 0."));
  const auto daemon = test::run_command({CAUSEWAYD, "--help"});
  CHECK(daemon.exit_code == 0);
  CHECK(contains(daemon.out, "Example:\n  causewayd"));
}

TEST_CASE("wrong usage is exit code 2 and one line") {
  for (const std::string line : {"",
                                 "nonsense",
                                 "status --nonsense",
                                 "status extra",
                                 "topo",
                                 "lab",
                                 "lab up",
                                 "lab down",
                                 "lab run x",
                                 "plan",
                                 "plan m --format xml --cluster desktop",
                                 "plan m --micro-batches 0",
                                 "plan m --micro-batches x",
                                 "plan m --cluster desktop --pool",
                                 "plan m --compare a --what-fits",
                                 "plan m --compare a -o f",
                                 "plan m --compare a --explain",
                                 "plan m --compare a --for vllm",
                                 "plan m --what-fits -o f",
                                 "plan m --what-fits --explain",
                                 "plan m --what-fits --for vllm",
                                 "plan m --for vllm --explain",
                                 "plan m --for vllm --format json",
                                 "plan m --for vllm --micro-batches 2",
                                 "status --watch --interval 0",
                                 "status --lab a --socket b",
                                 "status --socket a --address b",
                                 "status --token-file t",
                                 "up --cluster f --contribute host0=1GiB",
                                 "bench copy --rounds 0"}) {
    INFO(line);
    const auto result = causeway_run(words(line));
    CHECK(result.exit_code == 2);
    CHECK(result.out.empty());
    CHECK(result.err.starts_with("causeway: "));
    CHECK(result.err.find('\n') == result.err.size() - 1);
  }
}

TEST_CASE("with --json an error is JSON on stdout and still a line on stderr") {
  for (const auto& [line, code, exit_code] : std::vector<std::tuple<std::string, std::string, int>>{
           {"status --json --nonsense", "usage", 2},
           {"status --json", "peer_lost", 4},
           {"status --json --lab none", "not_found", 1},
           {"plan --json no-such-model --cluster desktop", "", 1}}) {
    INFO(line);
    const auto result = causeway_run(words(line));
    CHECK(result.exit_code == exit_code);
    CHECK(result.err.starts_with("causeway: "));
    const auto error = json::parse(result.out).at("error");
    if (!code.empty()) CHECK(error.at("code").as_string() == code);
    CHECK_FALSE(error.at("message").as_string().empty());
  }
}

TEST_CASE("no daemon is exit code 4 and says how to start one") {
  for (const std::string line :
       {"status", "regions", "topo show --pool", "bench copy", "status --socket /nowhere/at.sock",
        "status --address 127.0.0.1:1"}) {
    INFO(line);
    auto arguments = words(line);
    arguments.insert(arguments.begin(), CAUSEWAY);
    const auto result = test::run_command(
        arguments, {{"XDG_RUNTIME_DIR", folder().path()}, {"CAUSEWAY_TOKEN", "0123456789abcdef"}});
    CHECK(result.exit_code == 4);
    CHECK(contains(result.err, "causeway up"));
  }
}

TEST_CASE("topo show draws islands, links and tiers of a cluster file") {
  const auto text =
      causeway_run({"topo", "show", "--cluster", "desktop-and-hgx", "--near", "desktop/gpu0"});
  CHECK(text.exit_code == 0);
  CHECK(contains(text.out, "\ndesktop/gpu0"));
  CHECK(contains(text.out, "\ndesktop/gpu1"));
  CHECK(contains(text.out, "\nhgx/nvlink0"));
  CHECK(contains(text.out, "RTX 5090"));
  CHECK(contains(text.out, "network"));
  CHECK(contains(text.out, "from desktop/gpu0"));
  CHECK_FALSE(contains(text.out, "\033["));  // Not on a terminal: no colours.

  const auto result = causeway_run(
      {"topo", "show", "--json", "--cluster", "desktop-and-hgx", "--near", "desktop/gpu0"});
  const auto value = json::parse(result.out);
  CHECK(value.at("islands").as_array().size() == 3);
  CHECK(value.at("ranking").as_array().size() == 10);
  CHECK(value.at("ranking").at(0).at("device").as_string() == "desktop/gpu0");

  const auto unknown =
      causeway_run({"topo", "show", "--cluster", "desktop", "--near", "desktop/gpu7"});
  CHECK(unknown.exit_code == 1);
  CHECK(contains(unknown.err, "desktop/gpu7"));
}

TEST_CASE("a bad cluster file is refused with file, line and field") {
  const auto path = folder().path() + "/bad.yaml";
  tools::write_file(path, "name: x\nnodes:\n  - name: a\n    devizes: []\n");
  const auto result = causeway_run({"topo", "show", "--cluster", path});
  CHECK(result.exit_code == 1);
  CHECK(contains(result.err, path + ":4"));
  CHECK(contains(result.err, "devizes"));
  const auto absent = causeway_run({"topo", "show", "--cluster", "no-such-lab"});
  CHECK(absent.exit_code == 1);
  CHECK(contains(absent.err, "desktop-and-hgx"));
}

// A chain of `layers` equal layers of `megabytes` of weights each.
static std::string model_file(int layers, int megabytes) {
  ModelSpec model;
  model.name = "chain";
  for (int i = 0; i < layers; ++i) {
    LayerSpec layer;
    layer.name = "layer" + std::to_string(i);
    layer.tensors = {
        {layer.name + ".w", DType::f32, {static_cast<std::uint64_t>(megabytes) * 250000}}};
    layer.forward_flops = 1e9;
    layer.activation_bytes = 1000;
    layer.output_bytes = 1000;
    model.layers.push_back(layer);
  }
  auto path = folder().path() + "/model-" + std::to_string(layers) + ".yaml";
  tools::write_file(path, model.to_yaml());
  return path;
}

TEST_CASE("plan places a model, in every format, and the file reads back") {
  // 8 MB a layer with its training state: three on a card, one on an H100.
  const auto text = causeway_run({"plan", model_file(10, 2), "--cluster", "desktop-and-hgx"});
  CHECK(text.exit_code == 0);
  CHECK(contains(text.out, "layer0"));
  CHECK(contains(text.out, "predicted step"));
  const auto plan_path = folder().path() + "/plan.yaml";
  const auto yaml = causeway_run({"plan", model_file(10, 2), "--cluster", "desktop-and-hgx",
                                  "--format", "yaml", "--micro-batches", "8"});
  CHECK(yaml.exit_code == 0);
  const auto plan = Plan::from_yaml(yaml.out, "stdout");
  CHECK(plan.micro_batches == 8);
  CHECK(plan.stages.back().end_layer == 10);
  const auto written = causeway_run({"plan", model_file(10, 2), "--cluster", "desktop-and-hgx",
                                     "--micro-batches", "8", "-o", plan_path});
  CHECK(written.exit_code == 0);
  CHECK((Plan::from_file(plan_path) == plan));
  const auto as_json = causeway_run(
      {"plan", model_file(10, 2), "--cluster", "desktop-and-hgx", "--json", "--stages", "6"});
  CHECK(json::parse(as_json.out).at("stages").as_array().size() == 6);
}

TEST_CASE("plan explains, compares, and keeps to what the user wants") {
  const auto model = model_file(10, 2);
  const auto few = model_file(6, 2);  // A layer fits on an H100: six of them hold all.
  const auto run = [&](std::vector<std::string> more, bool small = false) {
    std::vector<std::string> all = {"plan", small ? few : model, "--cluster", "desktop-and-hgx"};
    all.insert(all.end(), more.begin(), more.end());
    return causeway_run(all);
  };
  const auto explained = run({"--explain"});
  CHECK(explained.exit_code == 0);
  CHECK(contains(explained.out, "this plan"));
  CHECK(contains(explained.out, "in proportion to memory"));
  const auto as_json = json::parse(run({"--explain", "--json"}).out);
  const double step = as_json.at("plan").at("step_seconds").to_number<double>();
  const auto& others = as_json.at("alternatives").as_array();
  CHECK(others.size() >= 4);
  CHECK(others.at(0).at("step_seconds").to_number<double>() == doctest::Approx(step));
  for (const auto& other : others)
    if (other.as_object().contains("step_seconds"))
      CHECK(other.at("step_seconds").to_number<double>() >= step * (1 - 1e-9));
    else
      CHECK_FALSE(other.at("why_not").as_string().empty());

  const auto compared = json::parse(run({"--compare", "desktop,hgx,desktop+hgx", "--json"}).out);
  REQUIRE(compared.as_array().size() == 3);
  CHECK(compared.at(2).at("step_seconds").to_number<double>() == doctest::Approx(step));
  CHECK(contains(run({"--compare", "desktop,hgx"}).out, "hgx"));
  CHECK(contains(run({"--compare", "desktop+laptop"}).err, "laptop"));

  const auto limits = json::parse(run({"--what-fits", "--json"}).out);
  CHECK(limits.at("micro_batches").to_number<int>() >= 4);
  CHECK(limits.at("micro_batch_scale").to_number<double>() >= 1);

  CHECK(json::parse(run({"--compare", "desktop,hgx", "--format", "json"}).out).is_array());
  CHECK(json::parse(run({"--what-fits", "--format", "json"}).out).is_object());
  CHECK(run({"--what-fits", "--format", "yaml"}).exit_code == 1);
  const auto priceless = run({"--compare", "desktop,hgx", "--objective", "cost"});
  CHECK(priceless.exit_code == 1);
  CHECK(contains(priceless.err, "the price of a"));
  CHECK(contains(run({"--context", "512"}).err, "add --serve"));
  CHECK(contains(run({"--batch", "1"}).err, "add --serve"));
  const auto gguf =
      causeway_run({"plan", "x.gguf", "--cluster", "desktop", "--micro-batches", "8"});
  CHECK(gguf.exit_code == 1);
  CHECK(contains(gguf.err, "no micro-batches"));

  const auto pinned =
      run({"--pin", "layer4=hgx/gpu3", "--avoid", "desktop", "--format", "yaml"}, true);
  CHECK(pinned.exit_code == 0);
  for (const auto& stage : Plan::from_yaml(pinned.out, "stdout").stages) {
    CHECK(stage.device.node == "hgx");
    CHECK((stage.first_layer <= 4 && 4 < stage.end_layer) == (stage.device.index == 3));
  }
  const auto cheap = run({"--objective", "cost", "--price", "rtx-5090=0.4", "--price",
                          "h100-sxm=400", "--format", "json"});
  CHECK(cheap.exit_code == 0);
  CHECK(contains(cheap.out, "optimal in cost among pipelines of single devices: "));
  CHECK(run({"--objective", "cost"}).exit_code == 1);
  CHECK(run({"--objective", "luck"}).exit_code == 2);
  CHECK(run({"--pin", "layer4"}).exit_code == 1);
  CHECK(run({"--pin", "layer99=hgx/gpu0"}).exit_code == 1);
  CHECK(run({"--price", "h100-sxm=much"}).exit_code == 1);
  CHECK(run({"--margin", "120"}).exit_code == 2);
}

TEST_CASE("vLLM is planned with a block on every stage") {
  // A table of words that would fill a device by itself, and two blocks.
  const auto path = folder().path() + "/config.json";
  tools::write_file(path, R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60000,
      "torch_dtype": "float16"})");
  const auto shown = causeway_run({"plan", path, "--for", "vllm", "--cluster", "desktop-and-hgx",
                                   "--only", "hgx/gpu0,hgx/gpu1", "--context", "64"});
  INFO(shown.err);
  CHECK(shown.exit_code == 0);
  CHECK(contains(shown.out, "VLLM_PP_LAYER_PARTITION=1,1 vllm serve MODEL"));
}

TEST_CASE("plan takes measured steps, and says how well they predict the others") {
  const auto path = folder().path() + "/measured.yaml";
  tools::write_file(path,
                    "steps:\n"
                    "  - {device: rtx-5090, flops: 1e13, seconds: 10}\n"
                    "  - {device: rtx-5090, flops: 2e13, seconds: 25}\n");
  const std::vector<std::string> plan = {
      "plan", model_file(6, 2), "--cluster", "desktop-and-hgx", "--calibration", path};
  const auto shown = causeway_run(plan);
  INFO(shown.out, shown.err);
  CHECK(shown.exit_code == 0);
  CHECK(contains(shown.out, "Calibrated: rtx-5090 by 1 step, "));
  CHECK(contains(shown.out, "20.0% on 1 other\n"));
  CHECK_FALSE(contains(shown.out, "desktop/gpu"));  // So slow, they are left alone.
  tools::write_file(path, "steps: [{device: rtx-5090, seconds: 1}]");
  const auto refused = causeway_run(plan);
  CHECK(refused.exit_code == 1);
  CHECK(contains(refused.err, "say what was done in that time"));
}

TEST_CASE("a model without work is compared without a ratio") {
  const auto path = folder().path() + "/idle.yaml";
  ModelSpec model;
  model.name = "idle";
  for (int i = 0; i < 3; ++i)
    model.layers.push_back(
        {"l" + std::to_string(i), {{"w" + std::to_string(i), DType::f32, {16}}}, 0, 0, 0});
  tools::write_file(path, model.to_yaml());
  const auto shown = causeway_run({"plan", path, "--cluster", "desktop-and-hgx", "--explain"});
  INFO(shown.out);
  CHECK(shown.exit_code == 0);
  CHECK_FALSE(contains(shown.out, "nan"));
  CHECK_FALSE(contains(shown.out, "x inf"));
}

TEST_CASE("a model that does not fit is exit code 3 with needed and available") {
  for (const std::string only : {"desktop/gpu0", "desktop/gpu0,desktop/gpu1"}) {
    const auto result = causeway_run(
        {"plan", model_file(10, 2), "--cluster", "desktop-and-hgx", "--only", only, "--json"});
    INFO(result.err);
    CHECK(result.exit_code == 3);
    const auto error = json::parse(result.out).at("error");
    CHECK(error.at("code").as_string() == "out_of_memory");
    CHECK(contains(result.err, "desktop/gpu0"));
  }
  const auto unknown =
      causeway_run({"plan", model_file(10, 2), "--cluster", "desktop", "--only", "desktop/gpu5"});
  CHECK(unknown.exit_code == 1);
  CHECK(contains(unknown.err, "desktop/gpu5"));
  const auto malformed =
      causeway_run({"plan", model_file(10, 2), "--cluster", "desktop", "--only", "gpu5"});
  CHECK(malformed.exit_code == 1);
  CHECK(contains(malformed.err, "NODE/gpuN"));
}

TEST_CASE("the daemon refuses what cannot work before it listens") {
  const auto run = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), CAUSEWAYD);
    return test::run_command(std::move(arguments), {{"XDG_RUNTIME_DIR", folder().path()}});
  };
  const auto check = [&](const std::string& line, int exit_code, const std::string& text) {
    INFO(line);
    const auto result = run(words(line));
    INFO(result.err);
    CHECK(result.exit_code == exit_code);
    CHECK(result.err.starts_with("causewayd: "));
    CHECK(contains(result.err, text));
  };
  const auto token = folder().path() + "/open-token";
  tools::write_file(token, std::string(32, 'x'));
  std::filesystem::permissions(token, std::filesystem::perms(0644));
  check("--nonsense", 2, "--help");
  check("--contribute gpu0=1GiB", 1, "host0=BYTES");
  check("--contribute host0=much", 1, "much");
  check("--contribute host0=64MiB --token-file " + token, 1, "chmod 600");
  check("--cluster no-such-file.yaml --node a", 1, "no-such-file.yaml");
}
