// The cost model's formulas, by hand.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "causeway/transformer_shape.h"
#include "runtime/placement/cost/device_rates.h"
#include "runtime/placement/cost/links.h"
#include "runtime/placement/cost/pipeline_step.h"
#include "runtime/placement/cost/runtime_memory.h"
#include "runtime/placement/cost/serving_cost.h"
#include "runtime/placement/cost/training_cost.h"

using namespace causeway;
using doctest::Approx;

static TransformerShape gpt3() {
  TransformerShape shape;
  shape.name = "gpt3";
  shape.layers = 96;
  shape.hidden = 12288;
  shape.heads = 96;
  shape.feed_width = 4 * 12288;
  shape.vocabulary = 51200;
  shape.tied_embeddings = true;
  return shape;
}

TEST_CASE("shape: parameters and operations as the papers count them") {
  const auto shape = gpt3();
  CHECK(static_cast<double>(shape.parameters()) == Approx(174.6e9).epsilon(0.002));
  // 72 B L s h^2 (1 + s / 6h + V / 12hL), arXiv:2205.05198, for three passes of one token.
  const double h = 12288;
  const double paper = 72 * 96 * h * h * (1 + 2048 / (6 * h) + 51200 / (12 * h * 96));
  CHECK(3 * shape.forward_flops(2048) == Approx(paper).epsilon(1e-9));

  TransformerShape mixtral;
  mixtral.name = "mixtral";
  mixtral.layers = 32;
  mixtral.hidden = 4096;
  mixtral.heads = 32;
  mixtral.kv_heads = 8;
  mixtral.feed_width = 14336;
  mixtral.vocabulary = 32000;
  mixtral.gated_feed = true;
  mixtral.experts = 8;
  mixtral.experts_per_token = 2;
  CHECK_NOTHROW(mixtral.validate());
  CHECK(static_cast<double>(mixtral.parameters()) == Approx(46.7e9).epsilon(0.001));
  const double active = 32.0 * static_cast<double>(mixtral.active_parameters(0)) +
                        2.0 * static_cast<double>(mixtral.head_parameters());
  CHECK(active == Approx(12.88e9).epsilon(0.002));
  CHECK(kv_bytes(mixtral, 4096, 2, 2) == 2.0 * 2 * 1024 * 32 * 4096 * 2);
  mixtral.sliding_window = 1000;
  CHECK(kv_bytes(mixtral, 4096, 2, 2) == 2.0 * 2 * 1024 * 32 * 1000 * 2);

  auto broken = shape;
  broken.kv_heads = 5;
  CHECK_THROWS_AS(broken.validate(), Error);
  broken = shape;
  broken.layers = 0;
  CHECK_THROWS_AS(broken.validate(), Error);
}

TEST_CASE("activations: the paper's formulas") {
  const auto shape = gpt3();
  TrainingSetup setup;
  setup.sequence = 2048;
  setup.dropout = true;
  setup.flash_attention = false;
  const double sbh = 2048.0 * 12288;
  const double scores = 5.0 * 96 * 2048 / 12288;
  CHECK(layer_activation_bytes(shape, setup) == Approx(sbh * (34 + scores)));
  setup.tensor_parallel = 8;
  CHECK(layer_activation_bytes(shape, setup) == Approx(sbh * (10 + 24.0 / 8 + scores / 8)));
  setup.score_bytes = 12;
  CHECK(layer_activation_bytes(shape, setup) == Approx(sbh * (13 + 12 * scores / 40)));
  setup.score_bytes = 5;
  const MemoryAllowance none{0, 0};
  const auto split = stage_training_memory(shape, setup, 0, 0, 96, none).logits;
  setup.gathered_logits = true;
  CHECK(stage_training_memory(shape, setup, 0, 0, 96, none).logits == Approx(8 * split));
  setup.sequence_parallel = true;
  CHECK(layer_activation_bytes(shape, setup) == Approx(sbh / 8 * (34 + scores)));
  setup.recompute = Recompute::selective;
  CHECK(layer_activation_bytes(shape, setup) == Approx(sbh / 8 * 34));
  setup.recompute = Recompute::full;
  CHECK(layer_activation_bytes(shape, setup) == Approx(sbh / 8 * 2));
}

TEST_CASE("training memory: ZeRO, offload and 1F1B move what they should") {
  const auto shape = gpt3();
  TrainingSetup setup;
  setup.sequence = 2048;
  setup.micro_batches = 16;
  setup.data_parallel = 8;
  const MemoryAllowance none{0, 0};
  const double n = static_cast<double>(shape.parameters());
  const auto plain = training_memory(shape, setup, none);
  CHECK(plain.weights == Approx(2 * n));
  CHECK(plain.gradients == Approx(4 * n));
  CHECK(plain.optimizer == Approx(12 * n));
  setup.zero = 1;
  CHECK(training_memory(shape, setup, none).optimizer == Approx(12 * n / 8));
  CHECK(training_memory(shape, setup, none).gradients == Approx(4 * n));
  setup.zero = 3;
  CHECK(training_memory(shape, setup, none).weights == Approx(2 * n / 8));
  setup.offload_optimizer = true;
  CHECK(training_memory(shape, setup, none).optimizer == 0);
  setup.offload_weights = true;
  CHECK(training_memory(shape, setup, none).weights == 0);
  CHECK(training_memory(shape, setup, none).workspace ==
        Approx(4.0 * static_cast<double>(shape.layer_parameters(0))));

  setup = {};
  setup.sequence = 2048;
  setup.micro_batches = 16;
  setup.pipeline = 4;
  const auto first = stage_training_memory(shape, setup, 0, 0, 24, none);
  const auto last = stage_training_memory(shape, setup, 3, 72, 96, none);
  CHECK(first.activations == Approx(4 * last.activations));
  CHECK(first.logits == 0);
  CHECK(last.logits > 0);
  setup.micro_batches = 2;  // No more in flight than there are.
  CHECK(stage_training_memory(shape, setup, 0, 0, 24, none).activations ==
        Approx(2 * last.activations));
  setup.pipeline = 97;
  CHECK_THROWS_AS((void)training_memory(shape, setup, none), Error);
}

TEST_CASE("training step: what each choice costs") {
  const auto shape = gpt3();
  const auto device = rates_of("a100-sxm");
  TrainingLinks links;
  links.tensor = {200e9};
  links.data = {100e9};
  TrainingSetup setup;
  setup.sequence = 2048;
  setup.micro_batches = 8;
  setup.tensor_parallel = 8;
  setup.pipeline = 4;
  const auto plain = training_step(shape, setup, device, links);
  CHECK(plain.seconds == Approx(plain.gemm_s + plain.elementwise_s + plain.tensor_s +
                                plain.pipeline_s + plain.bubble_s + plain.optimizer_s));
  auto again = setup;
  again.recompute = Recompute::full;
  const auto recomputed = training_step(shape, again, device, links);
  CHECK(recomputed.gemm_s / plain.gemm_s > 1.25);
  CHECK(recomputed.gemm_s / plain.gemm_s < 1.34);
  auto chunks = setup;
  chunks.interleave = 3;
  CHECK(training_step(shape, chunks, device, links).bubble_s == Approx(plain.bubble_s / 3));
  auto hidden = setup;
  hidden.hide_tensor_traffic = true;
  CHECK(training_step(shape, hidden, device, links).tensor_s == 0);
  // Backward's exchanges hide behind the products of the weights' gradients, as far as these last.
  auto beside = setup;
  beside.hide_backward_tensor_traffic = true;
  const auto half = training_step(shape, beside, device, links);
  CHECK(half.tensor_s == Approx(plain.tensor_s / 2));
  auto split = beside;
  split.sequence_parallel = true;  // Half of backward's exchanges are all-gathers.
  CHECK(training_step(shape, split, device, links).tensor_s == Approx(plain.tensor_s * 0.75));
  auto slow = links;
  slow.tensor = {1e9};
  const auto exposed = training_step(shape, beside, device, slow);
  CHECK(exposed.tensor_s > 0.9 * training_step(shape, setup, device, slow).tensor_s);
  auto eight_bits = setup;
  eight_bits.weight_product_speed = 2;
  const auto quick = training_step(shape, eight_bits, device, links);
  CHECK(quick.gemm_s < 0.6 * plain.gemm_s);
  CHECK(quick.elementwise_s > plain.elementwise_s);
  auto fetched = setup;
  fetched.offload_weights = true;
  auto narrow = links;
  narrow.host = {1e12};
  CHECK(training_step(shape, fetched, device, narrow).offload_s == 0);  // Behind the work.
  narrow.host = {1e9};
  CHECK(training_step(shape, fetched, device, narrow).offload_s > 0);
  auto replicas = setup;
  replicas.data_parallel = 16;
  replicas.hide_data_traffic = false;
  const auto reduced = training_step(shape, replicas, device, links);
  const double own = (static_cast<double>(shape.layer_parameters(0)) * 24 +
                      static_cast<double>(shape.head_parameters())) /
                     8;
  CHECK(reduced.data_s == Approx(4 * own * 15 / 16 / 100e9));
  auto away = setup;
  away.offload_optimizer = true;
  links.host = {250e9};
  CHECK(training_step(shape, away, device, links).offload_s == Approx(4 * own / 250e9));
  links.host = {1e9};  // Each micro-batch's gradients leave, and the work hides some of that.
  const double work_s = (plain.gemm_s + plain.elementwise_s + plain.tensor_s) / 8;
  CHECK(training_step(shape, away, device, links).offload_s ==
        Approx(4 * own / 1e9 + 8 * (2 * own / 1e9 - work_s)));
  setup.micro_batch = 0;
  CHECK_THROWS_AS((void)training_step(shape, setup, device, links), Error);
}

TEST_CASE("a step, operation by operation") {
  // Alike stages and no sends: the formula, exactly.
  const std::vector<PipelineStageTimes> alike(4, {1, 2});
  CHECK(simulate_pipeline(alike, 8).seconds == Approx(4 * 3 + 7 * 3));
  CHECK(simulate_pipeline(alike, 1).seconds == Approx(12));
  CHECK(simulate_pipeline({{1, 2}}, 5).seconds == Approx(15));
  // One micro-batch over two stages: there and back again, by hand.
  CHECK(simulate_pipeline({{1, 2, 0.25, 0.5}, {3, 4}}, 1).seconds == Approx(1 + 7 + 2 + 2 * 0.75));
  // A stage that is fast beside a slow one hides its sends; the slow one never waits.
  const auto hidden = simulate_pipeline({{1, 2, 0.5, 0.1}, {10, 20}}, 6);
  CHECK(hidden.seconds == Approx(1 + 0.6 + 6 * 30 + 0.6 + 2));
  // Alike ones do not: no more than two micro-batches are on their way between two stages, so a
  // round trip, 6 of work and 2 of sends, is two micro-batches' pace.
  const auto alternating = simulate_pipeline({{1, 2, 1, 0}, {1, 2}}, 101);
  const auto shorter = simulate_pipeline({{1, 2, 1, 0}, {1, 2}}, 1);
  CHECK((alternating.seconds - shorter.seconds) / 100 == Approx(4).epsilon(0.01));
  // A link carries one message at a time: the second forward is there 5 s after the first, and so
  // is its gradient. By hand, over three stages.
  CHECK(simulate_pipeline({{1, 1, 5}, {1, 1}, {1, 1}}, 2).seconds == Approx(24));
  // A stage keeps to its order: it waits for the next forward though a gradient is there, so that
  // two micro-batches are under way in a round trip, 12.2 s here, however many stages follow.
  const std::vector<PipelineStageTimes> slow{{1, 1, 5}, {0.1, 0.1}, {0.1, 0.1}, {0.1, 0.1}};
  CHECK((simulate_pipeline(slow, 140).seconds - simulate_pipeline(slow, 40).seconds) / 100 ==
        Approx(6.1).epsilon(0.001));
  // Who does what when: in order on a stage, after what it needs.
  const auto timeline = simulate_pipeline({{1, 2, 0.5, 0.25}, {2, 1, 0.5}, {1, 3}}, 4);
  CHECK(timeline.operations.size() == 3 * 2 * 4);
  double before = 0;
  std::uint32_t stage = 0;
  for (const auto& operation : timeline.operations) {
    if (operation.stage != stage) before = 0, stage = operation.stage;
    CHECK(operation.start_s >= before);
    before = operation.end_s;
    for (const auto& other : timeline.operations)
      if (other.micro_batch == operation.micro_batch &&
          other.is_backward == operation.is_backward && other.stage == operation.stage + 1)
        CHECK((operation.is_backward ? operation.start_s >= other.end_s + 0.5
                                     : other.start_s >= operation.end_s + 0.5));
  }
  CHECK(pipeline_order(0, 3, 2).size() == 4);
  CHECK(pipeline_order(0, 3, 2)[1].is_backward == false);
  CHECK(pipeline_order(2, 3, 2)[1].is_backward == true);
  CHECK_THROWS_AS((void)simulate_pipeline({}, 1), Error);
  CHECK_THROWS_AS((void)simulate_pipeline({{1, 1}}, 0), Error);
  CHECK_THROWS_AS((void)simulate_pipeline({{-1, 1}}, 1), Error);
}

TEST_CASE("links: rings, latency and shared paths") {
  CHECK(all_reduce_seconds({100e9}, 1, 1e9) == 0);
  CHECK(all_reduce_seconds({100e9}, 4, 1e9) == Approx(0.015));
  CHECK(all_reduce_seconds({100e9, 1e-3}, 4, 1e9) == Approx(0.021));
  // Two flows through one root complex divide it; a third elsewhere keeps its own rate; what a slow
  // flow leaves goes to the others.
  const std::vector<Flow> flows = {{{0}, 25e9}, {{0}, 25e9}, {{1}, 25e9}};
  const auto shared = share_bandwidth(flows, {30e9, 60e9});
  CHECK(shared[0] == Approx(15e9));
  CHECK(shared[1] == Approx(15e9));
  CHECK(shared[2] == Approx(25e9));
  const auto uneven = share_bandwidth({{{0}, 5e9}, {{0}, 25e9}}, {20e9});
  CHECK(uneven[0] == Approx(5e9));
  CHECK(uneven[1] == Approx(15e9));
  const auto chain = share_bandwidth({{{0, 1}, 1e12}, {{0}, 1e12}, {{1}, 1e12}}, {10e9, 4e9});
  CHECK(chain[0] == Approx(2e9));
  CHECK(chain[1] == Approx(8e9));
  CHECK(chain[2] == Approx(2e9));
  CHECK(staged_ring_bandwidth(2, 25e9, 40e9) == Approx(10e9));
  CHECK(staged_ring_bandwidth(8, 25e9, 40e9) == Approx(2.5e9));
}

TEST_CASE("decode and prefill by hand") {
  const EngineOverheads engine{.decode_bandwidth = 0.5,
                               .layer_s = 1e-3,
                               .prefill_gemm = 0.5,
                               .dequantise_bytes = 0,
                               .prompt_batch = 1024,
                               .prompt_micro_batch = 256,
                               .remote_call_s = 0.25};
  ServingStage stage{10e9, 10, 100e9, 1e12, 1e9, 5e9, false};
  CHECK(decode_seconds({stage}, {}, engine) == Approx(0.2 + 0.01));
  CHECK(decode_seconds({stage, stage}, {{{1e9, 1e-3}, 1e6, true}}, engine) ==
        Approx(0.42 + 0.001 + 0.001 + 0.25));
  // Per piece of 256 tokens 0.512 s of products, over 0.1 s of reading, and 10 launches.
  CHECK(prefill_seconds({stage}, 1024, engine) == Approx(4 * 0.522));
  CHECK(prefill_seconds({stage, stage}, 1024, engine) == Approx(5 * 0.522));
  CHECK(prefill_seconds({stage, stage}, 2048, engine) == Approx(10 * 0.522));
  CHECK_THROWS_AS((void)decode_seconds({}, {}), Error);
  // A batch is bound by its products once these take longer than reading.
  CHECK(decode_seconds({stage}, {}, engine, 50) == Approx(0.2 + 0.01));
  CHECK(decode_seconds({stage}, {}, engine, 500) == Approx(1 + 0.01));
  // Taking 5e9 weights apart at 20 a cycle of 1.6667 GHz: 0.15 s beside 0.2 s of reading.
  stage.quantised = true;
  stage.multiprocessor_hz = 5e9 / 20 / 0.15;
  CHECK(decode_seconds({stage}, {}, engine) == Approx(0.25 + 0.01));
  // Passes over activations are the memory's: 256 tokens of 0.1 GB at half of 100 GB/s.
  stage.pass_bytes_per_token = 0.1e9;
  CHECK(prefill_seconds({stage}, 1024, engine) == Approx(4 * (0.522 + 0.512)));
}

TEST_CASE("what power allows bounds products, and the specification stays") {
  const auto l40s = rates_of("l40s");
  CHECK(l40s.spec_flops_per_s == 362e12);
  CHECK(l40s.gemm_flops_per_s() == Approx(230e12));
  CHECK(l40s.sustained(0.5) == Approx(181e12));
  CHECK(workstation_power_flops_per_s(175) == Approx(115e12));
  CHECK(rates_of("rtx-pro-6000-max-q").gemm_flops_per_s() == Approx(230e12 * 300 / 350));
  const auto other = rates_of("rtx-4090");
  CHECK(other.gemm_flops_per_s() == Approx(other.achieved.gemm * 165.2e12));
}

TEST_CASE("what a process takes by being there, on a real card and on a small emulated one") {
  const auto gpu = rates_of("h100-sxm");
  const auto whole =
      runtime_reserve_bytes("h100-sxm", static_cast<std::uint64_t>(gpu.memory_bytes));
  CHECK(static_cast<double>(whole) == Approx(0.4e9 + 32 * 1048576));
  CHECK(runtime_reserve_bytes("h100-sxm", 200'000'000'000) == whole);
  CHECK(static_cast<double>(runtime_reserve_bytes("h100-sxm", 80'000'000)) ==
        Approx(static_cast<double>(whole) / 1000).epsilon(1e-3));
  CHECK(runtime_reserve_bytes("rtx-4090", 24'000'000'000) < whole);
  CHECK(runtime_reserve_bytes("host", 1'000'000'000) == 0);
}

TEST_CASE("requests: the fullest stage decides, and more cards serve more") {
  TransformerShape shape;
  shape.name = "llama";
  shape.layers = 80;
  shape.hidden = 8192;
  shape.heads = 64;
  shape.kv_heads = 8;
  shape.feed_width = 28672;
  shape.vocabulary = 128256;
  shape.gated_feed = true;
  ServingLoad load;
  load.weight_bytes_per_parameter = 1;
  const std::vector<std::uint32_t> even(8, 10);
  const std::vector<std::uint32_t> balanced = {7, 11, 11, 11, 11, 11, 11, 7};
  CHECK(requests_that_fit(shape, balanced, 24e9, load, 2048) >
        requests_that_fit(shape, even, 24e9, load, 2048));
  CHECK(requests_that_fit(shape, even, 8e9, load, 2048) == 0);
  const auto device = rates_of("rtx-pro-6000");
  const auto one = serving_throughput(shape, device, {1}, load, 0.4);
  const auto four = serving_throughput(shape, device, {4}, load, 0.4);
  CHECK(one.tokens_per_second > 0);
  CHECK(four.tokens_per_second > 2 * one.tokens_per_second);
  // The last stage has the head, and its pace is everyone's: four cards give less than four times
  // what a model without one would.
  auto headless = shape;
  headless.vocabulary = 1;
  auto quick = load;
  quick.peak_factor = 4;  // The layers' products; the head's stay in 16 bits.
  const auto with_head = serving_throughput(shape, device, {4}, quick, 0.4);
  const auto without = serving_throughput(headless, device, {4}, quick, 0.4);
  CHECK(with_head.step_s / with_head.requests > 1.04 * without.step_s / without.requests);
  // Of a mixture's experts few requests meet few: reading is then the less for it.
  TransformerShape mixture = shape;
  mixture.layers = 8;
  mixture.experts = 64;
  mixture.experts_per_token = 1;
  mixture.expert_feed_width = 1024;
  mixture.vocabulary = 1;
  ServingLoad one_request{.prompt = 1, .answer = 1000, .most_requests = 1, .iteration_s = 0};
  const auto alone = serving_throughput(mixture, device, {1}, one_request, 0.4);
  const double met = 2.0 * 8 * static_cast<double>(mixture.active_parameters(0));
  CHECK(alone.step_s / (met / device.stream_bytes_per_s()) == Approx(1).epsilon(0.02));
  // Devices that share every layer hold it once between them, and pay for what they exchange.
  const auto shared = serving_throughput(shape, device, {1, 4, {50e9}}, load, 0.4);
  CHECK(shared.requests == Approx(four.requests).epsilon(0.05));
  const auto slow = serving_throughput(shape, device, {1, 4, {5e9}}, load, 0.4);
  const double exchanged = 2.0 * 80 * 2 * 3 / 4.0 * 2 * (2 * slow.requests) * 8192;
  CHECK(slow.step_s - shared.step_s == Approx(exchanged / 5e9 - exchanged / 50e9));
}

TEST_CASE("bills: unknown stays unknown") {
  auto device = rates_of("h100-sxm");
  device.price_per_hour = 3.6;
  const auto known = bill(device, 1, 3);
  CHECK(known.joules.value() == Approx(700 + 2 * 175));
  CHECK(known.money.value() == Approx(0.003));
  device.watts.reset();
  device.price_per_hour.reset();
  CHECK_FALSE(bill(device, 1, 3).joules.has_value());
  CHECK_FALSE(bill(device, 1, 3).money.has_value());
  CHECK_THROWS_AS((void)rates_of("voodoo2"), Error);
}
