// Goal:   measured steps and links replace what specifications say, with the error on the steps
// that
//         were not fitted; a file that lies is refused.
// Method: steps made from known rates, with and without noise; a topology whose link was measured.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "causeway/calibration.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

using namespace causeway;
using doctest::Approx;

namespace {

// A device of these rates, timed at work that is bound now by one and now by the other.
std::vector<MeasuredStep> steps_of(const std::string& device, double flops_per_s,
                                   double bytes_per_s, double layer_s, double noise, int count) {
  std::mt19937_64 random(7);
  std::vector<MeasuredStep> steps;
  for (int i = 0; i < count; ++i) {
    MeasuredStep step{device, 1e12 * static_cast<double>(1 + random() % 20),
                      1e9 * static_cast<double>(1 + random() % 40),
                      static_cast<std::uint32_t>(1 + random() % 30)};
    const double swing = (static_cast<double>(random() % 2001) / 1000 - 1) * noise;
    step.seconds =
        (std::max(step.flops / flops_per_s, step.bytes / bytes_per_s) + step.layers * layer_s) *
        (1 + swing);
    steps.push_back(step);
  }
  return steps;
}

template <typename Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == Errc::parse);
    return error.what();
  }
  return "accepted";
}

bool has(const std::string& text, const std::string& part) {
  CAPTURE(text);
  CAPTURE(part);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("rates are found from every second step, and the others tell how well") {
  Calibration calibration;
  calibration.steps = steps_of("rtx-4090", 120e12, 0.8e12, 1e-3, 0, 40);
  const auto exact = calibration.fit();
  REQUIRE(exact.size() == 1);
  CHECK(exact[0].device == "rtx-4090");
  CHECK(exact[0].flops_per_s.value() == Approx(120e12).epsilon(0.01));
  CHECK(exact[0].bytes_per_s.value() == Approx(0.8e12).epsilon(0.01));
  CHECK(exact[0].layer_s / 1e-3 == Approx(1).epsilon(0.02));
  CHECK(exact[0].fitted_steps == 20);
  CHECK(exact[0].held_out_steps == 20);
  CHECK(exact[0].held_out_error.value() < 0.005);

  calibration.steps = steps_of("rtx-4090", 120e12, 0.8e12, 1e-3, 0.1, 40);
  const auto noisy = calibration.fit().front();
  CHECK(noisy.flops_per_s.value() == Approx(120e12).epsilon(0.08));
  CHECK(noisy.held_out_error.value() > 0.02);
  CHECK(noisy.held_out_error.value() < 0.08);
  // The steps held out are not looked at: only their error tells of them.
  auto worse = calibration;
  for (std::size_t i = 1; i < worse.steps.size(); i += 2) worse.steps[i].seconds *= 2;
  CHECK(worse.fit().front().flops_per_s == noisy.flops_per_s);
  CHECK(worse.fit().front().held_out_error.value() == Approx(0.5).epsilon(0.1));
}

TEST_CASE("what no step tells stays with the specification, or unknown") {
  Calibration calibration;
  calibration.steps = {{"h100-sxm", 1e13, 0, 0, 0.02}, {"mystery", 0, 1e9, 0, 0.01}};
  const auto devices = calibration.fit();
  REQUIRE(devices.size() == 2);
  CHECK(devices[0].flops_per_s.value() == Approx(5e14).epsilon(0.01));
  CHECK_FALSE(devices[0].bytes_per_s);
  CHECK_FALSE(devices[0].held_out_error);
  CHECK(devices[0].seconds(5e14, 3e12, 0, 1, 1e12) == Approx(3));
  CHECK(devices[1].bytes_per_s.value() == Approx(1e11).epsilon(0.01));
  // Reading decides in every step: products keep their usual rate.
  calibration.steps = {{"h100-sxm", 1e9, 1e12, 0, 0.4}};
  const auto reading = calibration.fit().front();
  CHECK(reading.bytes_per_s.value() == Approx(2.5e12).epsilon(0.01));
  CHECK(reading.flops_per_s.value() == Approx(0.675 * 989.4e12).epsilon(0.01));
}

TEST_CASE("links: measured figures are the topology's, between nodes for all their devices") {
  const auto topology = Topology::from_cluster(ClusterSpec::from_yaml(
      "{name: s, nodes: [{name: a, devices: [{gpu: rtx-4090, count: 2}]}, {name: b, devices: "
      "[{gpu: rtx-4090}]}], links: [{between: [a, b], bandwidth: 100 Gbit/s, latency: 5 us}]}",
      "test"));
  const auto calibration = Calibration::from_yaml(
      R"({"measurements": [
        {"what": "network", "from": "a/gpu0", "to": "b/gpu0", "bandwidth_bytes_per_s": 7.5e9,
         "reference_bytes_per_s": 1.25e10, "reference": "spec", "remark": "4 MiB pieces"},
        {"what": "memory", "from": "a/host0", "to": "a/host0", "bandwidth_bytes_per_s": 3e10,
         "remark": ""},
        {"what": "network", "from": "x/gpu0", "to": "b/gpu0", "bandwidth_bytes_per_s": 1e9,
         "remark": ""},
        {"what": "loopback", "from": "one process", "to": "another",
         "bandwidth_bytes_per_s": 5e9, "remark": ""},
        {"what": "gpu", "from": "2 GPUs", "to": "", "bandwidth_bytes_per_s": null,
         "skipped": "no CUDA"}], "file": "m.json"})",
      "measured.json");
  CHECK(calibration.links.size() == 3);
  const auto measured = calibration.applied_to(topology);
  const auto rate = [](const Topology& of, const char* from, const char* to) {
    return of.access(DeviceName::parse(from), DeviceName::parse(to)).value().rate;
  };
  CHECK(rate(topology, "a/gpu1", "b/gpu0").bandwidth_bytes_per_s != Approx(7.5e9));
  for (const auto* from : {"a/gpu0", "a/gpu1"}) {
    CHECK(rate(measured, from, "b/gpu0").bandwidth_bytes_per_s == Approx(7.5e9));
    CHECK(rate(measured, from, "b/gpu0").provenance == Provenance::measured);
    CHECK(rate(measured, "b/gpu0", from).bandwidth_bytes_per_s ==
          rate(topology, "b/gpu0", from).bandwidth_bytes_per_s);
  }
  CHECK(rate(measured, "a/gpu0", "a/gpu1").bandwidth_bytes_per_s ==
        rate(topology, "a/gpu0", "a/gpu1").bandwidth_bytes_per_s);
  const auto host = calibration.fit();
  REQUIRE(host.size() == 1);
  CHECK(host[0].device == "host");
  CHECK(host[0].bytes_per_s.value() == 3e10);
}

TEST_CASE("a calibration file reads back equal and a mistake is named") {
  Calibration calibration;
  calibration.steps = steps_of("rtx 4090: \"odd\"", 1e14, 1e12, 1e-4, 0.1, 9);
  calibration.links = {{DeviceName::parse("a/gpu0"), DeviceName::parse("b/host0"), 1e9, 2e-6},
                       {DeviceName::parse("a/gpu0"), DeviceName::parse("a/gpu0"), 3.1e9}};
  CHECK((Calibration::from_yaml(calibration.to_yaml(), "again") == calibration));
  const auto refused = [](const std::string& text) {
    return refusal([&] { (void)Calibration::from_yaml(text, "c.yaml"); });
  };
  CHECK(has(refused("{}"), "it holds no figure"));
  CHECK(has(refused("{steps: [{flops: 1, seconds: 1}]}"), "'device' is missing"));
  CHECK(has(refused("{steps: [{device: a, flops: 1}]}"), "'seconds' is missing"));
  CHECK(has(refused("{steps: [{device: a, seconds: 1}]}"), "say what was done"));
  CHECK(has(refused("{steps: [{device: a, flops: 1, seconds: 0}]}"), "seconds"));
  CHECK(has(refused("{steps: [{device: a, flops: -1, seconds: 1}]}"), "flops"));
  CHECK(has(refused("{steps: [{device: a, flops: nan, seconds: 1}]}"), "flops"));
  CHECK(has(refused("{steps: [{device: '', flops: 1, seconds: 1}]}"), "model"));
  CHECK(has(refused("{steps: [{device: a, flop: 1, seconds: 1}]}"), "did you mean 'flops'?"));
  CHECK(has(refused("{links: [{from: a, to: b/gpu0, bandwidth_bytes_per_s: 1e9}]}"), "from"));
  CHECK(has(refused("{links: [{from: a/gpu0, to: b/gpu0, bandwidth_bytes_per_s: 0}]}"),
            "bandwidth_bytes_per_s"));
}
