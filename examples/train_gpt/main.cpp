// Trains a transformer over the pool. Every process of the job runs this program; each works on the
// stages of the plan that its Worker gets, and rank 0 prints.
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <optional>

#include "checkpoint.h"
#include "collect.h"
#include "options.h"
#include "pool_link.h"
#include "report.h"

namespace {

using namespace train_gpt;
using causeway::Errc;
using causeway::Error;

std::atomic<bool> stop_asked = false;
static_assert(std::atomic<bool>::is_always_lock_free);  // A signal handler writes it.

extern "C" void ask_to_stop(int) { stop_asked = true; }

void stop_on_signals() {
  struct sigaction action {};
  action.sa_handler = ask_to_stop;
  for (const int number : {SIGINT, SIGTERM}) ::sigaction(number, &action, nullptr);
}

// What Worker::join will take, needed before it: all ranks fail alike at first, one should speak.
int expected_rank() {
  for (const char* name :
       {"CAUSEWAY_RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK"})
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return 0;
}

// An error that every rank meets alike, so that one line is enough.
struct CommonError {
  Errc code;
  std::string text;
};

template <typename Function>
auto in_common(Function&& function) {
  try {
    return function();
  } catch (const Error& error) {
    throw CommonError{error.code(), error.what()};
  }
}

struct Job {
  Options options;
  GptConfig config;
  OptimizerOptions optimizer;
  std::uint64_t seed = 1;
  std::optional<Checkpoint> checkpoint;
  std::optional<causeway::Plan> plan;  // Of --plan.
};

// Options and, for what they leave open, the checkpoint, then the plan.
Job make_job(const Options& options) {
  Job job{options, {}, {}, 1, std::nullopt, std::nullopt};
  if (!options.plan.empty()) {
    job.plan = causeway::Plan::from_file(options.plan);
    job.config.micro_batches = job.plan->micro_batches;
  }
  if (!options.resume.empty()) {
    job.checkpoint = Checkpoint::open(options.resume);
    const auto& info = job.checkpoint->info();
    job.config = info.config;
    job.seed = info.seed;
    job.optimizer.learning_rate = info.learning_rate;
    if (info.step >= options.steps)
      throw Error(Errc::invalid_argument,
                  fmt::format("'{}' is at step {} and --steps is {}; give more --steps",
                              job.checkpoint->folder().string(), info.step, options.steps));
  }
  job.config = options.config(job.config);
  job.config.validate();
  options.parallel.validate(job.config);
  job.seed = options.seed.value_or(job.seed);
  job.optimizer.learning_rate = options.learning_rate.value_or(job.optimizer.learning_rate);
  return job;
}

std::vector<causeway::DeviceName> allowed_devices(const std::vector<std::string>& names,
                                                  const causeway::Topology& topology) {
  std::vector<causeway::DeviceName> devices;
  for (const auto& name : names) {
    if (name.find('/') != std::string::npos) {
      devices.push_back(causeway::DeviceName::parse(name));
      continue;
    }
    const auto before = devices.size();
    for (const auto& device : topology.devices())
      if (device.name.node == name && device.name.kind == causeway::DeviceKind::gpu)
        devices.push_back(device.name);
    if (devices.size() == before)
      throw Error(Errc::not_found,
                  fmt::format("--only {}: the pool has no such node with a GPU; its nodes are {}",
                              name, fmt::join(topology.nodes(), ", ")));
  }
  return devices;
}

causeway::Plan plan_for(const Job& job, const causeway::ModelSpec& model, causeway::Pool& pool) {
  const auto topology = pool.topology();
  if (!job.plan)
    return causeway::make_plan(model, topology,
                               {.micro_batches = job.config.micro_batches,
                                .only = allowed_devices(job.options.only, topology),
                                .stages = job.options.stages});
  if (job.plan->micro_batches != job.config.micro_batches)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: the plan is for {} micro-batches, the run has {}; make the plan "
                            "again or give --micro-batches {}",
                            job.options.plan, job.plan->micro_batches, job.config.micro_batches,
                            job.plan->micro_batches));
  auto checked = *job.plan;
  // A plan of the whole model holds for its shards, which need less.
  if (job.options.parallel.tensor > 1)
    for (auto& stage : checked.stages) stage.state_bytes = 0;
  causeway::check_plan(checked, model, topology);
  return *job.plan;
}

std::string description(const Job& job, const causeway::Plan& plan, const Corpus& corpus) {
  const auto& config = job.config;
  return fmt::format(
      "layers: {}\nwidth: {}\nheads: {}\ncontext: {}\nmicro_batch: {}\nmicro_batches: {}\n"
      "seed: {}\nlearning_rate: {}\nsteps: {}\ntext hash: {:x}\ncheckpoint: {}\n"
      "checkpoint_every: {}\nresume: {}\nsample: {}\nprompt: {}\ntemperature: {}\n"
      "data_parallel: {}\ntensor_parallel: {}\nexact: {}\n{}",
      config.blocks, config.width, config.heads, config.context, config.micro_batch,
      config.micro_batches, job.seed, job.optimizer.learning_rate, job.options.steps, corpus.hash(),
      job.options.checkpoint, job.options.checkpoint_every, job.options.resume, job.options.sample,
      job.options.prompt, job.options.temperature, job.options.parallel.data,
      job.options.parallel.tensor, job.options.parallel.exact, plan.to_yaml());
}

// The steps of a run. Ends early where a process was asked to stop.
void train(const Job& job, const causeway::Worker& worker, Pipeline& pipeline, Link& link,
           const Part& part, const Corpus& corpus, Report& report) {
  const auto& options = job.options;
  const auto save = [&](std::uint64_t step) {
    save_checkpoint(link, options.checkpoint,
                    {job.config, job.seed, step, job.optimizer.learning_rate}, worker.stages(),
                    report.plan.stages.size(), pipeline.tensors(), part);
  };
  const auto first = job.checkpoint ? job.checkpoint->info().step : 0;
  const auto tokens =
      static_cast<double>(job.config.tokens_per_micro_batch() * job.config.micro_batches);
  Progress progress(first, options.steps, link.rank() == 0 && !options.quiet);
  double seconds = 0;
  auto done = first;
  std::uint64_t saved = first;
  while (done < options.steps && !report.stopped) {
    const auto start = std::chrono::steady_clock::now();
    const auto step = pipeline.step(corpus, job.seed, done, job.optimizer, stop_asked);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    ++done;
    seconds += taken.count();
    report.steps.push_back({done, step.loss, step.gradient_norm, taken.count()});
    report.stopped = step.stop;
    report.tokens_per_s = tokens * static_cast<double>(done - first) / seconds;
    progress.update(done, step.loss, report.tokens_per_s);
    if (options.checkpoint_every > 0 && done % options.checkpoint_every == 0) save(saved = done);
  }
  if (!options.checkpoint.empty() && saved != done) save(done);
}

// The right number of processes is the caller's to start, so that is what an error is about.
causeway::Worker join(causeway::Pool& pool, const causeway::Plan& plan, const Parallel& parallel) {
  const auto each = parallel.ranks_per_stage();
  try {
    return causeway::Worker::join(pool, plan, {.ranks_per_stage = static_cast<int>(each)});
  } catch (const Error& error) {
    if (each == 1 || error.code() != Errc::invalid_argument) throw;
    throw CommonError{
        error.code(),
        fmt::format("{}; --data-parallel {} with --tensor-parallel {} wants {} processes for each "
                    "of the plan's {} stages: causeway lab run LAB --plan PLAN --ranks-per-stage "
                    "{}, or as many tasks of Slurm or torchrun on the stage's node",
                    error.what(), parallel.data, parallel.tensor, each, plan.stages.size(), each)};
  }
}

void run(const Job& job) {
  const auto& options = job.options;
  set_blas_threads(options.blas_threads);
  const auto& parallel = options.parallel;
  const auto model = describe_shard(job.config, parallel.tensor);
  const auto corpus = in_common([&] { return Corpus::from_file(options.text, job.config); });
  causeway::PoolOptions pool_options;
  pool_options.client_name = fmt::format("train_gpt[{}]", ::getpid());
  auto pool = causeway::Pool::connect(pool_options);
  Report report;
  report.plan = in_common([&] { return plan_for(job, model, pool); });
  auto worker = join(pool, report.plan, parallel);
  const auto part = Part::of_member(parallel, worker.member());
  PoolLink link(worker, part);
  require_same(link, description(job, report.plan, corpus));
  const bool speaks = link.rank() == 0 && !options.quiet;
  if (speaks) print_plan(report.plan, link.world(), parallel);

  PoolStorage storage(
      pool, model,
      plan_of_member(report.plan, pool.topology(), parallel.ranks_per_stage(), worker.member()),
      worker.stages(), options.device);
  std::vector<StageRange> ranges;
  for (const auto& stage : report.plan.stages)
    ranges.push_back({stage.first_layer, stage.end_layer});
  Pipeline pipeline(job.config, ranges, worker.stages(), storage, link, part);
  if (job.checkpoint)
    for (const auto& tensor : pipeline.tensors()) job.checkpoint->load(tensor);
  else
    pipeline.initialize(job.seed);

  train(job, worker, pipeline, link, part, corpus, report);
  report.prompt = options.prompt;
  if (options.sample > 0 && !report.stopped)
    report.sample =
        pipeline.sample(options.prompt, options.sample, job.seed, options.temperature, &stop_asked);
  gather(link, storage, worker, report);
  if (speaks) print_report(report);
  if (link.rank() == 0 && !options.json.empty()) write_json(options.json, report);
  link.barrier();  // Nobody leaves while another still waits for a message.
}

void write_description(const Options& options) {
  const auto config = options.config({});
  options.parallel.validate(config);
  const auto text = describe_shard(config, options.parallel.tensor).to_yaml();
  if (options.describe == "-") {
    fmt::print("{}", text);
    return;
  }
  errno = 0;
  std::ofstream file(options.describe);
  file << text;
  file.close();
  if (!file)
    throw causeway::system_error(fmt::format("cannot write '{}'", options.describe), errno);
}

int exit_code(Errc code) {
  if (code == Errc::out_of_memory) return kExitOutOfMemory;
  if (code == Errc::peer_lost) return kExitPeerLost;
  return kExitError;
}

}  // namespace

int main(int argc, char** argv) {
  const auto rank = expected_rank();
  const auto parsed = parse_options(argc, argv, rank == 0);
  if (!parsed.options) return parsed.exit_code;
  const auto say = [rank](const std::string& text) {
    const auto who = std::getenv("CAUSEWAY_RANK") == nullptr ? "" : fmt::format("rank {}: ", rank);
    fmt::print(stderr, "train_gpt: {}{}\n", who, text);
  };
  try {
    if (!parsed.options->describe.empty()) {
      if (rank == 0) write_description(*parsed.options);
      return kExitOk;
    }
    stop_on_signals();
    run(in_common([&] { return make_job(*parsed.options); }));
    return kExitOk;
  } catch (const CommonError& error) {
    if (rank == 0) say(error.text);
    return exit_code(error.code);
  } catch (const Error& error) {
    say(error.what());
    return exit_code(error.code());
  } catch (const std::exception& error) {
    say(error.what());
    return kExitError;
  }
}
