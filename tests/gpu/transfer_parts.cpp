// Bytes of a card between two processes, through the transport; and NCCL alone with itself.
#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <iostream>

#include "tests/gpu/parts.h"
#include "tests/transport/device_end.h"
#include "tests/transport/ucx_device_memory.h"
#include "tools/base/process.h"
#include "transport/device/way.h"
#include "transport/nccl/library.h"
#include "transport/transfer/rails.h"
#include "transport/ucx/ucx_transport.h"

namespace causeway::gpu {

namespace {

using test::DeviceEnd;

constexpr auto kPatience = std::chrono::seconds(20);

// The other process: this program again, which says its address and ends with our end of its input.
class Peer {
 public:
  explicit Peer(std::uint64_t size_bytes) {
    auto in = tools::make_pipe();
    auto out = tools::make_pipe();
    tools::SpawnOptions options;
    options.command = {"/proc/self/exe", "serve", std::to_string(size_bytes)};
    options.stdin_fd = in.read_end.get();
    options.stdout_fd = out.write_end.get();
    options.die_with_parent = true;
    process_.emplace(tools::spawn(options));
    keep_ = std::move(in.write_end);
    out.write_end.reset();
    const auto deadline = Clock::now() + kPatience;
    char byte = 0;
    pollfd event{out.read_end.get(), POLLIN, 0};
    while (address_.empty() || address_.back() != '\n') {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
      require(left.count() > 0 && ::poll(&event, 1, static_cast<int>(left.count())) > 0 &&
                  ::read(event.fd, &byte, 1) == 1,
              "the other process did not say its address");
      address_ += byte;
    }
    address_.pop_back();
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() {
    keep_.reset();
    if (!process_->wait_ended(Clock::now() + std::chrono::seconds(5))) process_->signal(SIGKILL);
  }
  [[nodiscard]] const std::string& address() const { return address_; }

 private:
  std::optional<tools::Process> process_;
  tools::UniqueFd keep_;
  std::string address_;
};

// This process's end, and the way to the other's.
class Link {
 public:
  Link(const std::shared_ptr<CudaContext>& context, std::uint64_t size)
      : size_(size), peer_(size), near_("gpu-near", context, size) {
    near_.thread.run_on([&] {
      near_.transport = make_ucx_transport(near_.thread.context(), {"", "near", nullptr, {}});
      rails_ = std::make_unique<Rails>(
          near_.thread.context(), "far", [&](const auto& address, Deadline deadline, auto done) {
            near_.transport->connect(address, {Hello::Role::client, "near", 7, ""}, deadline,
                                     std::move(done));
          });
      rails_->set_addresses({peer_.address()});
    });
  }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link() {
    near_.thread.run_on([&] { rails_.reset(), near_.transport.reset(), near_.staging.reset(); });
  }

  double transfer(bool is_write) {
    return seconds_of([&] {
      std::optional<Transfer> transfer;
      near_.thread.wait_for([&](const Completion& done) {
        const auto pin = [this](std::size_t, std::uint64_t offset, std::uint64_t bytes) {
          return near_.memory(true, offset, bytes);
        };
        const TransferOptions options{Clock::now() + kPatience, false, done};
        const std::vector<TransferPiece> pieces{{{7, 2, 0}, size_}};
        transfer =
            is_write ? rails_->write(pieces, pin, options) : rails_->read(pieces, pin, options);
      });
      near_.thread.run_on([&] { transfer.reset(); });
    });
  }
  [[nodiscard]] std::span<std::byte> bytes() const { return near_.device->bytes(); }
  [[nodiscard]] const StagingReport& report() const { return near_.staging->report(); }

 private:
  const std::uint64_t size_;
  Peer peer_;
  DeviceEnd near_;
  std::unique_ptr<Rails> rails_;
};

json::object measure_link(const Amount& amount) {
  const auto context = first_gpu();
  const auto size = std::min(amount.most_bytes, 64 * kMiB);
  Link link(context, size);
  CudaStream stream(context);
  const auto sent = pattern(size, 9);
  stream.copy_in(link.bytes().data(), sent.data(), size);
  stream.synchronize();
  std::vector<double> writes;
  std::vector<double> reads;
  for (int i = 0; i <= amount.rounds; ++i) {  // In the first the link finds its settings.
    const auto write = link.transfer(true);
    stream.fill(link.bytes().data(), 0, size);
    stream.synchronize();
    const auto read = link.transfer(false);
    std::vector<std::byte> back(size);
    stream.copy_out(back.data(), link.bytes().data(), size);
    stream.synchronize();
    require(back == sent, "other bytes came back");
    if (i == 0) continue;
    writes.push_back(write);
    reads.push_back(read);
  }
  json::array trials;
  for (const auto& trial : link.report().trials)
    trials.push_back(json::object{{"chunk_bytes", trial.chunk_bytes},
                                  {"gb_per_s", trial.bytes_per_second / 1e9}});
  return {{"bytes", size},
          {"write_gb_per_s", gb_per_s(size, median(std::move(writes)))},
          {"read_gb_per_s", gb_per_s(size, median(std::move(reads)))},
          {"chunk_bytes", link.report().chunk_bytes},
          {"slots", link.report().slots},
          {"trials", std::move(trials)}};
}

}  // namespace

int serve_staged(std::uint64_t size_bytes) {
  DeviceEnd far("gpu-far", first_gpu(), size_bytes);
  std::vector<std::shared_ptr<Channel>> accepted;
  far.thread.run_on([&] {
    far.transport = make_ucx_transport(
        far.thread.context(), {"127.0.0.1:0", "far", &far,
                               [&](auto channel) { accepted.push_back(std::move(channel)); }});
    std::cout << far.transport->address() << std::endl;
  });
  char byte = 0;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  far.thread.run_on([&] { accepted.clear(), far.transport.reset(), far.staging.reset(); });
  return 0;
}

// Through pinned memory at both ends, whatever the UCX that was found can do.
json::object measure_staged(const Amount& amount) {
  ::setenv("UCX_TLS", "tcp", 1);
  auto result = measure_link(amount);
  require(!test::ucx_takes_device_memory(), "UCX takes memory of devices although UCX_TLS=tcp");
  result["way"] = "staged";
  return result;
}

// As a pool would have it on this machine: the end that serves says which way.
json::object measure_ucx(const Amount& amount) {
  const bool takes = test::ucx_takes_device_memory();
  auto result = measure_link(amount);
  result["version"] = test::ucx_version();
  result["takes_device_memory"] = takes;
  result["way"] = choose_device_way(takes, true) == DeviceWay::direct ? "direct" : "staged";
  return result;
}

json::object measure_nccl(const Amount& amount) {
  if (is_software_driver())
    throw Absent("NCCL needs the real driver, and this is the software one");
  std::shared_ptr<NcclLibrary> library;
  try {
    library = NcclLibrary::open();
  } catch (const Error& error) {
    if (error.code() != Errc::unsupported) throw;
    std::ifstream note(tools::executable_folder() + "/nccl.txt");  // Of tools/gpu-bundle.sh.
    std::string line;
    throw Absent(error.what() + (std::getline(note, line) ? "; " + line : std::string()));
  }
  const auto context = first_gpu();
  const CudaContext::Current current(*context);
  const auto& f = library->functions();
  const auto check = [&](nccl::Result result, const char* call) {
    if (result != nccl::kSuccess) throw library->error(call, result);
  };
  const auto size = std::min(amount.most_bytes, 64 * kMiB);
  const auto memory = CudaPlainMemory::on_device(context, size);
  CudaStream stream(context);
  std::vector<float> values(size / sizeof(float));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1000);
  stream.copy_in(memory.bytes().data(), values.data(), size);
  stream.synchronize();
  nccl::UniqueId id{};
  nccl::Config config;
  config.blocking = 1;
  nccl::Comm comm = nullptr;
  check(f.GetUniqueId(&id), "ncclGetUniqueId");
  const auto begin = seconds_of(
      [&] { check(f.CommInitRankConfig(&comm, 1, id, 0, &config), "ncclCommInitRankConfig"); });
  auto* const at = memory.bytes().data();
  const auto time = median_seconds(amount.rounds, [&] {
    check(f.AllReduce(at, at, values.size(), nccl::kFloat32, nccl::kSum, comm,
                      reinterpret_cast<nccl::Stream>(stream.handle())),
          "ncclAllReduce");
    stream.synchronize();
  });
  std::vector<float> back(values.size());
  stream.copy_out(back.data(), at, size);
  stream.synchronize();
  require(back == values, "a sum of one rank is not its values");
  check(f.CommDestroy(comm), "ncclCommDestroy");
  return {{"version", nccl_version_text(library->version())},
          {"bytes", size},
          {"init_s", begin},
          {"all_reduce_us", time * 1e6}};
}

}  // namespace causeway::gpu
