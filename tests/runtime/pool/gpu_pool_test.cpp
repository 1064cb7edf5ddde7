// Goal:   memory of a GPU is lent, mapped, copied and given back as any other, and never taken for
//         the processor's.
// Method: real daemons and clients on the software driver, three GPUs of which two see each other.
//         Bytes are compared by another way than they were written: the driver's own copy, the
//         daemon's, the processor's. Deaths are real, and a device can be lent whole afterwards
//         only if the driver has the bytes back.
#define DOCTEST_CONFIG_IMPLEMENT
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <thread>

#include "allocator/cuda/stream.h"
#include "causeway/pool.h"
#include "causeway/worker.h"
#include "live_pool.h"
#include "region_checks.h"
#include "runtime/control/client.h"
#include "runtime/pool/session.h"
#include "tests/error_of.h"

using namespace causeway;
using namespace causeway::test;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr auto kCluster = R"(
name: test
nodes:
  - name: a
    devices:
      - {gpu: rtx-5090, count: 3, capacity: 64 MiB}
      - {host: 32 MiB}
  - name: b
    devices:
      - {host: 32 MiB}
links:
  - {between: [a, b], bandwidth: 1 GB/s, latency: 100 us}
)";

std::string one_gpu_and(const std::string& host_memory) {
  return "name: small\nnodes:\n  - name: a\n    devices:\n"
         "      - {gpu: rtx-5090, capacity: 64 MiB}\n      - {host: " +
         host_memory + "}\n";
}

// What every process of this test takes for its driver; `more` are further fields.
std::string machine(const std::string& more = "") {
  return "{devices: [{memory_mib: 64}, {memory_mib: 64}, {memory_mib: 64, island: 1}], "
         "strict_contexts: true" +
         (more.empty() ? "" : ", " + more) + "}";
}

using Environment = std::map<std::string, std::string>;

Environment with_driver(const std::string& config) {
  return {{"CAUSEWAY_CUDA_LIBRARY", CAUSEWAY_CUDA_EMULATOR_FILE},
          {"CAUSEWAY_CUDA_EMULATOR", config}};
}

struct GpuPool : LivePool {
  explicit GpuPool(const std::string& more = "", const std::vector<std::string>& nodes = {"a"})
      : LivePool(kCluster, nodes, {"--gpus", "cuda"}, with_driver(machine(more))) {}
};

// By the driver, as a program of the user's would.
std::vector<std::byte> read_by_driver(const Region& region) {
  CudaStream stream(CudaContext::retain(CudaDriver::open(), region.cuda_ordinal()));
  std::vector<std::byte> bytes(region.size_bytes());
  stream.copy_out(bytes.data(), region.data(), bytes.size());
  stream.synchronize();
  return bytes;
}

DeviceStatus status_of(Pool& pool, const char* name) {
  for (const auto& node : pool.status().nodes)
    for (const auto& each : node.devices)
      if (each.name == device(name)) return each;
  throw std::runtime_error(std::string("no device ") + name);
}

std::vector<std::string> places(const Region& region) {
  std::vector<std::string> names;
  for (const auto& extent : region.extents()) {
    auto name = extent.device.to_string() + (extent.mapped ? "" : " unmapped");
    if (names.empty() || names.back() != name) names.push_back(std::move(name));
  }
  return names;
}
using Names = std::vector<std::string>;

std::string report_of(Pool& pool) {
  std::string text;
  for (const auto& node : pool.status().nodes)
    for (const auto& line : node.gpu_report) text += line + "\n";
  return text;
}

// What a daemon says that does not become ready.
std::string last_words(const std::string& cluster, std::vector<std::string> options,
                       const Environment& environment) {
  try {
    const LivePool live(cluster, {"a"}, std::move(options), environment);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "it was ready";
}

// Programs: clients that are killed, or see another driver than this test does.
int hold(const std::string& socket) {
  auto pool = Pool::connect({.socket_path = socket, .client_name = "victim"});
  auto region = pool.allocate(70 * kMiB, {.near = device("a/gpu0")});
  region.write(0, pattern(kMiB, 1));
  std::cout << "held" << std::endl;
  ::pause();
  return 0;
}

int allocate_without_driver(const std::string& socket) {
  auto pool = Pool::connect({.socket_path = socket, .client_name = "poor"});
  const auto error =
      error_of([&] { (void)pool.allocate(kMiB, {.near = device("a/gpu2"), .name = "w"}); });
  std::cout << error.what() << std::endl;
  auto plain = pool.allocate(kMiB);  // Needs no driver.
  std::memset(plain.data(), 1, plain.size_bytes());
  return error.code() == Errc::unsupported && read_all(plain)[0] == std::byte{1} ? 0 : 1;
}

// A GPU that reads and writes this process's memory in place, some time after it was asked to.
int read_in_part(const std::string& socket) {
  constexpr std::uint64_t kBorder = 64 * kMiB;  // From the GPU's memory to the host's.
  auto pool = Pool::connect({.socket_path = socket, .client_name = "unlucky"});
  auto region = pool.allocate(70 * kMiB, {.near = device("a/gpu0")});
  region.write(kBorder - 4096, pattern(8192, 1));
  using Fail = void (*)(const char*, unsigned long, int);
  const auto fail = reinterpret_cast<Fail>(
      ::dlsym(::dlopen(CAUSEWAY_CUDA_EMULATOR_FILE, RTLD_NOW | RTLD_NOLOAD), "causeway_cuda_fail"));
  fail("cuMemcpyDtoHAsync", 2, 999);
  std::vector<std::byte> bytes(8192);
  const auto error = error_of([&] { region.read(kBorder - 4096, bytes); });
  fail(nullptr, 0, 0);
  const auto then = bytes;
  const auto context = CudaContext::retain(CudaDriver::open(), region.cuda_ordinal());
  context->make_current();
  (void)context->functions().cuCtxSynchronize();
  std::cout << error.what() << std::endl;
  return bytes == then ? 0 : 1;
}

Process start(const char* program, const LivePool& live, const Environment& environment,
              const std::string& output) {
  return Process({"/proc/self/exe", program, live.socket("a")}, environment, output);
}

std::string text_of(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "r");
  if (file == nullptr) return "";
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  return text;
}

}  // namespace

TEST_CASE("a region near a GPU has addresses of that GPU") {
  GpuPool live;
  auto pool = live.connect("a");
  {
    auto region = pool.allocate(3 * kMiB + 5, {.near = device("a/gpu1")});
    CHECK(region.size_bytes() == 3 * kMiB + 5);
    REQUIRE(region.is_mapped());
    CHECK(region.memory_kind() == MemoryKind::cuda);
    CHECK(region.cuda_ordinal() == 1);
    CHECK(places(region) == Names{"a/gpu1"});
    CHECK(read_all(region) == std::vector<std::byte>(region.size_bytes()));  // Nobody else's.
    const auto bytes = pattern(region.size_bytes(), 1);
    region.write(0, bytes);
    CHECK(read_by_driver(region) == bytes);
    std::vector<std::byte> part(1000);
    region.read(kMiB + 3, part);
    CHECK(std::equal(part.begin(), part.end(), bytes.begin() + kMiB + 3));
    CHECK(status_of(pool, "a/gpu1").used_bytes == 4 * kMiB);  // In granules of the driver's.
  }
  CHECK(live.used_bytes() == 0);
  const auto gpu = status_of(pool, "a/gpu0");
  CHECK(gpu.kind == "cuda");
  CHECK(gpu.granule_bytes == 2 * kMiB);
  CHECK(gpu.uuid == "GPU-e0000000-0000-0000-0000-000000000000");
  CHECK(gpu.reaches == std::vector{device("a/gpu1"), device("a/host0")});
  CHECK(status_of(pool, "a/gpu2").reaches == std::vector{device("a/host0")});
  CHECK(status_of(pool, "a/host0").kind == "host");
  CHECK_CONTAINS(report_of(pool), "CUDA driver 12.4, 3 GPUs");
  CHECK_CONTAINS(report_of(pool), "a/gpu2 is Emulated GPU at 0000:12:00.0");
}

TEST_CASE("who names no GPU gets memory of the processor's") {
  GpuPool live;
  auto pool = live.connect("a");
  auto region = pool.allocate(kMiB);
  CHECK(places(region) == Names{"a/host0"});
  CHECK(region.memory_kind() == MemoryKind::host);
  CHECK(region.cuda_ordinal() == -1);
  std::memset(region.data(), 7, region.size_bytes());
  CHECK(read_all(region) == std::vector<std::byte>(kMiB, std::byte{7}));
  CHECK(pool.allocate(kMiB, {.only = {device("a/gpu0")}}).memory_kind() == MemoryKind::cuda);
}

TEST_CASE("memory of a GPU, of its host and of a peer make one range") {
  GpuPool live;
  auto pool = live.connect("a");
  auto region = pool.allocate(110 * kMiB, {.near = device("a/gpu0")});
  CHECK(places(region) == Names{"a/gpu0", "a/host0", "a/gpu1"});
  REQUIRE(region.is_mapped());
  const auto bytes = pattern(region.size_bytes(), 2);
  region.write(0, bytes);
  CHECK(read_by_driver(region) == bytes);
  CHECK(std::memcmp(region.data() + 64 * kMiB, bytes.data() + 64 * kMiB, 32 * kMiB) == 0);
  const auto full = error_of([&] { (void)pool.allocate(kMiB, {.only = {device("a/host0")}}); });
  CHECK(full.code() == Errc::out_of_memory);  // The same bytes, lent in two ways.
}

TEST_CASE("host memory is lent once, whoever maps it and whatever a client believes to be free") {
  GpuPool live;
  using Json = boost::json::object;
  ControlClient client("unix:" + live.socket("a"), "", "a");
  auto body =
      boost::json::parse(
          client.call("POST", "/v1/sessions", R"({"client": "raw", "ttl_ms": 60000})", 5s).body)
          .as_object();
  body["region"] = "1";
  body["device"] = "host0";
  body["map"] = false;
  const auto lend = [&](std::uint64_t offset, std::uint64_t size, bool for_gpus) {
    body["for_gpus"] = for_gpus;
    body["pieces"] = boost::json::array{Json{{"offset_bytes", offset}, {"size_bytes", size}}};
    (void)client.call("POST", "/v1/extents", serialize(body), 5s);
  };
  lend(0, 20 * kMiB, true);
  for (const bool for_gpus : {false, true}) {
    const auto full = error_of([&] { lend(20 * kMiB, 12 * kMiB + 64 * 1024, for_gpus); });
    CHECK(full.code() == Errc::out_of_memory);
    CHECK_CONTAINS(full.what(), "12648448 bytes needed, 12582912 bytes available of 33554432");
  }
  lend(20 * kMiB, 12 * kMiB, false);
  body["device"] = "gpu0";
  lend(40 * kMiB, 2 * kMiB, true);
  CHECK(live.used_bytes() == 34 * kMiB);
}

TEST_CASE("what a GPU does not reach stays unmapped, and the text says so") {
  GpuPool live;
  auto pool = live.connect("a");
  auto region = pool.allocate(
      66 * kMiB, {.near = device("a/gpu0"), .only = {device("a/gpu0"), device("a/gpu2")}});
  CHECK(places(region) == Names{"a/gpu0", "a/gpu2 unmapped"});
  const auto refused = error_of([&] { (void)region.data(); });
  CHECK(refused.code() == Errc::unsupported);
  CHECK_CONTAINS(refused.what(), "has bytes on a/gpu2");
  CHECK_CONTAINS(refused.what(), "at addresses of a/gpu0");
  auto spilled = pool.allocate(34 * kMiB, {.near = device("a/host0")});
  CHECK(places(spilled).front() == "a/host0");
  CHECK(places(spilled).back().ends_with(" unmapped"));
  CHECK(spilled.memory_kind() == MemoryKind::host);
}

TEST_CASE("on a driver without host memory or peers these stay unmapped") {
  for (const char* lacks : {"host_numa_vmm: false", "mixed_ranges: false"}) {
    INFO(lacks);
    GpuPool live(lacks);
    auto pool = live.connect("a");
    CHECK(status_of(pool, "a/gpu0").reaches == std::vector{device("a/gpu1")});
    auto region = pool.allocate(66 * kMiB, {.near = device("a/gpu0")});
    CHECK(places(region) == Names{"a/gpu0", "a/host0 unmapped"});
    const auto bytes = pattern(region.size_bytes(), 3);
    region.write(0, bytes);  // Of host memory by the daemon.
    CHECK(read_all(region) == bytes);
  }
  GpuPool live("peers_work: false");
  auto pool = live.connect("a");
  CHECK(status_of(pool, "a/gpu0").reaches == std::vector{device("a/host0")});
  CHECK_CONTAINS(report_of(pool), "other bytes came back than were written");
}

TEST_CASE("copies between GPUs and host memory of one node") {
  GpuPool live;
  auto pool = live.connect("a");
  const auto bytes = pattern(20 * kMiB, 4);
  auto source = pool.allocate(bytes.size(), {.only = {device("a/gpu0")}});
  source.write(0, bytes);
  const std::map<std::string, std::string> routes{{"a/gpu0", "a (mapped)"},
                                                  {"a/gpu1", "a (local)"},
                                                  {"a/gpu2", "a (local)"},
                                                  {"a/host0", "a (mapped)"}};
  for (const auto& [name, route] : routes) {
    INFO("to ", name);
    auto target = pool.allocate(bytes.size(), {.only = {DeviceName::parse(name)}});
    CHECK(pool.copy(target, 1, source, 1, bytes.size() - 1).route == route);
    source.write(0, std::vector<std::byte>(1));  // The copy has ended: it takes no later bytes.
    auto expected = bytes;
    expected[0] = std::byte{0};
    CHECK(read_all(target) == expected);
    source.write(0, std::vector(1, bytes[0]));
    auto back = pool.allocate(bytes.size(), {.only = {device("a/gpu2")}});
    pool.copy(back, 0, target, 0, bytes.size());
    CHECK(read_by_driver(back) == expected);
  }
}

TEST_CASE("the daemon copies between its GPUs and all of its host memory") {
  GpuPool live;
  auto here = live.connect("a");
  // Nothing is mapped by a client that comes over the network, so that the daemon does all.
  auto pool = Pool::connect({.address = live.control("a"), .token = live.token()});
  const auto bytes = pattern(20 * kMiB, 5);
  auto first = pool.allocate(bytes.size(), {.only = {device("a/host0")}});
  first.write(0, bytes);
  auto on_gpu = pool.allocate(bytes.size(), {.only = {device("a/gpu0")}});
  auto on_same = pool.allocate(bytes.size(), {.only = {device("a/gpu0")}});
  auto on_other = pool.allocate(bytes.size(), {.only = {device("a/gpu2")}});
  CHECK(on_gpu.memory_kind() == MemoryKind::host);
  CHECK_FALSE(on_gpu.is_mapped());
  pool.copy(on_gpu, 0, first, 0, bytes.size());
  first.write(0, std::vector<std::byte>(bytes.size()));
  pool.copy(on_same, 0, on_gpu, 0, bytes.size());
  pool.copy(on_other, 0, on_same, 0, bytes.size());
  pool.copy(first, 3, on_other, 3, bytes.size() - 3);
  auto expected = bytes;
  std::fill_n(expected.begin(), 3, std::byte{0});
  CHECK(read_all(first) == expected);
}

TEST_CASE("memory of a GPU is read, written and copied from another node") {
  GpuPool live("", {"a", "b"});
  auto pool = live.connect("b");
  const auto bytes = pattern(5 * kMiB + 3, 6);
  auto far = pool.allocate(bytes.size(), {.only = {device("a/gpu0")}});
  auto near = pool.allocate(bytes.size(), {.only = {device("b/host0")}});
  far.write(0, bytes);
  CHECK(read_all(far) == bytes);
  CHECK(pool.copy(near, 0, far, 0, bytes.size()).bytes == bytes.size());
  CHECK(read_all(near) == bytes);
  auto mixed = pool.allocate(bytes.size(), {.only = {device("a/gpu1")}});
  std::vector<Pool::CopyPiece> pieces;
  for (std::uint64_t at = 0; at < bytes.size(); at += 100'001)
    pieces.push_back({at, at, std::min<std::uint64_t>(100'001, bytes.size() - at)});
  CHECK(pool.copy_batch(mixed, near, pieces, true).bytes == bytes.size());
  CHECK(read_all(mixed) == bytes);
  const auto filler = pool.allocate(60 * kMiB, {.only = {device("a/gpu2")}});
  auto parted = pool.allocate(8 * kMiB, {.only = {device("a/gpu2"), device("a/host0")}});
  CHECK(places(parted).size() > 1);
  const auto more = pattern(8 * kMiB, 7);
  parted.write(0, more);
  auto other = pool.allocate(8 * kMiB, {.only = {device("b/host0")}});
  CHECK(pool.copy(other, 0, parted, 0, more.size()).bytes == more.size());
  CHECK(read_all(other) == more);
}

TEST_CASE("an extent moves between devices under one address") {
  GpuPool live;
  auto pool = live.connect("a");
  auto region = pool.allocate(4 * kMiB, {.near = device("a/gpu0"), .only = {device("a/gpu0")}});
  const auto bytes = pattern(region.size_bytes(), 6);
  region.write(0, bytes);
  const auto* const at = region.data();
  for (const char* to : {"a/gpu1", "a/host0", "a/gpu0"}) {
    INFO("to ", to);
    region.move(0, region.size_bytes(), device(to));
    CHECK(places(region) == Names{to});
    CHECK(region.data() == at);
    CHECK(read_by_driver(region) == bytes);
  }
  region.move(0, region.size_bytes(), device("a/gpu2"));
  CHECK(places(region) == Names{"a/gpu2 unmapped"});
  region.move(0, region.size_bytes(), device("a/gpu0"));
  CHECK(region.data() == at);
  CHECK(read_by_driver(region) == bytes);
  CHECK(live.used_bytes() == 4 * kMiB);
  auto small = pool.allocate(64 * 1024, {.near = device("a/host0")});
  const auto refused = error_of([&] { small.move(0, 1, device("a/gpu0")); });
  CHECK(refused.code() == Errc::invalid_argument);
  CHECK_CONTAINS(refused.what(), "multiples of 2097152 bytes");
  CHECK(small.is_mapped());
}

TEST_CASE("who hands a GPU's memory to messages and collectives is told, and nothing breaks") {
  GpuPool live;
  auto pool = live.connect("a");
  Plan plan;
  for (const char* name : {"a/gpu0", "a/gpu1"})
    plan.stages.push_back({device(name), 0, 1, 0, 0, 0});
  auto worker = Worker::join(pool, plan, {.rank = 0, .world = 1});
  auto all = worker.group({0});
  // The GPU's, then the host's, at addresses of the GPU.
  auto region = pool.allocate(80 * kMiB, {.near = device("a/gpu0")});
  REQUIRE(places(region) == Names{"a/gpu0", "a/host0"});
  const std::span gpu(region.data(), 64 * kMiB);
  const std::span host(region.data() + 64 * kMiB, 16 * kMiB);
  const auto refused = [&](auto&& use) {
    const auto error = error_of(use);
    CHECK(error.code() == Errc::unsupported);
    CHECK_CONTAINS(std::string(error.what()), "are memory of a/gpu0, where the processor cannot");
    CHECK_CONTAINS(std::string(error.what()), "read() them into host memory");
  };
  refused([&] { worker.send_bytes(0, 1, 7, gpu.last(8)); });
  refused([&] { worker.receive_bytes(0, 1, 7, gpu.first(8)); });
  refused([&] { worker.broadcast(0, gpu.subspan(4096, 8)); });
  refused([&] { all.all_reduce(gpu, DType::f32); });
  refused([&] { (void)all.start_reduce_scatter(gpu, DType::f32); });
  refused([&] { (void)all.start_all_gather(gpu.first(4), DType::f32); });
  refused([&] { all.all_to_all(gpu.first(4), DType::f32); });
  // Half of it.
  refused([&] { all.broadcast({host.data() - 8, 16}, 0); });

  std::memset(host.data(), 3, 8);
  worker.send_bytes(0, 1, 7, host.first(8));
  worker.receive_bytes(0, 1, 7, host.last(8));
  CHECK(host.back() == std::byte{3});
  all.broadcast(host, 0);
  std::vector<std::byte> own(8);
  worker.send_bytes(0, 1, 8, own);
  worker.receive_bytes(0, 1, 8, own);

  region.move(64 * kMiB, 2 * kMiB, device("a/gpu1"));  // Widened to the whole extent.
  const auto moved = error_of([&] { worker.send_bytes(0, 1, 7, host.first(8)); });
  CHECK_CONTAINS(std::string(moved.what()), "are memory of a/gpu1");
  region.move(64 * kMiB, 2 * kMiB, device("a/host0"));
  worker.send_bytes(0, 1, 9, host.first(8));
  worker.receive_bytes(0, 1, 9, own);
  // Once freed, the addresses may be the processor's.
  region = Region();
  pool.state()->gpu_addresses.require_host(gpu);
}

TEST_CASE("a client that is killed gives everything back, also to the driver") {
  GpuPool live;
  const auto output = live.folder() + "/victim.txt";
  auto victim = start("--hold", live, with_driver(machine()), output);
  REQUIRE(eventually([&] { return text_of(output) == "held\n"; }, 20s));
  auto pool = live.connect("a");
  CHECK(status_of(pool, "a/gpu0").used_bytes == 64 * kMiB);
  CHECK(status_of(pool, "a/host0").used_bytes == 6 * kMiB);
  victim.signal(SIGKILL);
  CHECK(victim.wait(5s) == -SIGKILL);
  CHECK(eventually([&] { return live.used_bytes() == 0; }));
  const auto whole = pool.allocate(64 * kMiB, {.only = {device("a/gpu0")}});
  CHECK(read_all(whole) == std::vector<std::byte>(64 * kMiB));  // And none of its bytes.
}

TEST_CASE("a full GPU is refused with the figures") {
  GpuPool live;
  auto pool = live.connect("a");
  auto region = pool.allocate(61 * kMiB, {.only = {device("a/gpu0")}});
  const auto full = error_of(
      [&] { (void)pool.allocate(4 * kMiB, {.only = {device("a/gpu0")}, .name = "more"}); });
  CHECK(full.code() == Errc::out_of_memory);
  CHECK_CONTAINS(full.what(), "4194304 bytes");
  CHECK_CONTAINS(full.what(), "2097152 bytes");
  CHECK(pool.allocate(2 * kMiB, {.only = {device("a/gpu0")}}).is_mapped());
  CHECK(status_of(pool, "a/gpu0").used_bytes == 62 * kMiB);
}

TEST_CASE("a client without the driver, or without that GPU, is told so and takes nothing") {
  GpuPool live;
  const auto output = live.folder() + "/poor.txt";
  auto environment = with_driver(machine());
  environment["CAUSEWAY_CUDA_LIBRARY"] = "/nowhere/libcuda.so.1";
  CHECK(start("--without-driver", live, environment, output).wait(20s) == 0);
  CHECK_CONTAINS(text_of(output),
                 "a/gpu2 is memory of a GPU, and this process cannot map it: no "
                 "CUDA driver: /nowhere/libcuda.so.1");
  CHECK(start("--without-driver", live, with_driver("{devices: 2}"), output).wait(20s) == 0);
  CHECK_CONTAINS(text_of(output),
                 "a/gpu2 is memory of GPU-e0000000-0000-0000-0000-000000000002, "
                 "which the CUDA driver does not show to this process");
  CHECK(eventually([&] { return live.used_bytes() == 0; }));
}

TEST_CASE("once a read has failed half-way, nothing more comes into the caller's bytes") {
  GpuPool live;
  const auto output = live.folder() + "/unlucky.txt";
  auto unlucky =
      start("--in-part", live, with_driver(machine("stream_delay_us: 50000, reads_in_place: true")),
            output);
  CHECK(unlucky.wait(20s) == 0);
  CHECK_CONTAINS(text_of(output), "cuMemcpyDtoHAsync failed: CUDA_ERROR_UNKNOWN");
}

TEST_CASE("a daemon told to use the driver does not start without one, and says what to do") {
  const std::vector<std::string> cuda{"--gpus", "cuda", "--gpu-time", "5"};
  auto absent = with_driver(machine());
  absent["CAUSEWAY_CUDA_LIBRARY"] = "/nowhere/libcuda.so.1";
  const auto none = last_words(kCluster, cuda, absent);
  CHECK_CONTAINS(none, "a/gpu0: no GPU to lend: no CUDA driver: /nowhere/libcuda.so.1");
  CHECK_CONTAINS(none, "start the daemon with --gpus auto or --gpus emulated");
  CHECK_CONTAINS(last_words(kCluster, cuda, with_driver("{devices: 2}")),
                 "a/gpu2: no GPU to lend: the driver shows 2 GPUs");
  CHECK_CONTAINS(last_words(kCluster, cuda, with_driver(machine("vmm: false"))),
                 "a/gpu0: no GPU to lend: GPU 0: GPU 0 has no virtual memory management");
  CHECK_CONTAINS(last_words(kCluster, cuda, with_driver(machine("crashes: {cuMemMap: 6}"))),
                 "the CUDA driver crashed (signal 6) when asked for memory of GPU 0");
  CHECK_CONTAINS(last_words(kCluster, {"--gpus", "cuda", "--gpu-time", "0.3"},
                            with_driver(machine("calls_us: {cuInit: 60000000}"))),
                 "the CUDA driver did not answer in time");
}

TEST_CASE("a daemon left the choice emulates what it does not find, and says so") {
  auto absent = with_driver(machine());
  absent["CAUSEWAY_CUDA_LIBRARY"] = "/nowhere/libcuda.so.1";
  const LivePool without(kCluster, {"a"}, {"--gpus", "auto"}, absent);
  auto pool = without.connect("a");
  CHECK(status_of(pool, "a/gpu0").kind == "emulated");
  CHECK_CONTAINS(report_of(pool), "no CUDA driver: /nowhere/libcuda.so.1");
  CHECK_CONTAINS(report_of(pool), "a/gpu0, a/gpu1, a/gpu2 are emulated in host memory\n");
  CHECK_CONTAINS(text_of(without.folder() + "/a.log"), "a/gpu2 are emulated in host memory");
  auto region = pool.allocate(kMiB, {.near = device("a/gpu0")});
  std::memset(region.data(), 1, region.size_bytes());

  const LivePool hanging(kCluster, {"a"}, {"--gpus", "auto", "--gpu-time", "0.3"},
                         with_driver(machine("calls_us: {cuInit: 60000000}")));
  auto slow = hanging.connect("a");
  CHECK(status_of(slow, "a/gpu0").kind == "emulated");
  CHECK_CONTAINS(report_of(slow), "the CUDA driver did not answer in time");

  const LivePool some(kCluster, {"a"}, {"--gpus", "auto"},
                      with_driver("{devices: [{memory_mib: 64}, {memory_mib: 64}]}"));
  auto mixed = some.connect("a");
  CHECK(status_of(mixed, "a/gpu1").kind == "cuda");
  CHECK(status_of(mixed, "a/gpu2").kind == "emulated");
  CHECK_CONTAINS(report_of(mixed), "a/gpu2 is emulated in host memory: the driver shows 2 GPUs");
  CHECK(mixed.allocate(kMiB, {.near = device("a/gpu1")}).memory_kind() == MemoryKind::cuda);
  CHECK(mixed.allocate(kMiB, {.near = device("a/gpu2")}).memory_kind() == MemoryKind::host);
}

TEST_CASE("a cluster file that promises more than a card has free is refused with both figures") {
  const auto config = with_driver("{devices: [{memory_mib: 32, name: Small}]}");
  for (const char* mode : {"cuda", "auto"}) {
    const auto text = last_words(one_gpu_and("32 MiB"), {"--gpus", mode}, config);
    CHECK_CONTAINS(text,
                   "a/gpu0: the cluster file promises 67108864 bytes, and Small at "
                   "0000:10:00.0 has 33554432 bytes free of 33554432");
    CHECK_CONTAINS(text, "write `capacity: 33554432` or less");
  }
}

TEST_CASE("host memory of less than a GPU's granule is lent to the processor alone") {
  const LivePool live(one_gpu_and("1 MiB"), {"a"}, {"--gpus", "cuda"}, with_driver(machine()));
  auto pool = live.connect("a");
  CHECK(status_of(pool, "a/gpu0").reaches.empty());
  CHECK(pool.allocate(64 * 1024, {.only = {device("a/host0")}}).is_mapped());
}

TEST_CASE("a slow copy of a GPU's bytes holds nobody up") {
  GpuPool live("host_gb_per_s: 0.02");
  auto pool = Pool::connect({.address = live.control("a"), .token = live.token()});
  auto from = pool.allocate(24 * kMiB, {.only = {device("a/gpu0")}});
  auto to = pool.allocate(24 * kMiB, {.only = {device("a/host0")}});
  auto watcher = live.connect("a");
  std::atomic<bool> is_done{false};
  std::thread copying([&] {
    pool.copy(to, 0, from, 0, 24 * kMiB);  // 1.2 s.
    is_done = true;
  });
  int answers = 0;
  while (!is_done) {
    (void)watcher.status();
    ++answers;
  }
  copying.join();
  CHECK(answers > 20);
}

TEST_CASE(
    "a copy of a GPU's bytes ends in time for its client, and keeps the memory while it runs") {
  // A slice of 4 MiB takes two seconds.
  const LivePool live(one_gpu_and("32 MiB"), {"a"}, {"--gpus", "cuda", "--gpu-time", "60"},
                      with_driver("{devices: [{memory_mib: 64}], host_gb_per_s: 0.002}"));
  auto pool = Pool::connect({.address = live.control("a"), .token = live.token(), .timeout = 1s});
  {
    auto from = pool.allocate(4 * kMiB, {.only = {device("a/gpu0")}});
    auto to = pool.allocate(4 * kMiB, {.only = {device("a/host0")}});
    const auto late = error_of([&] { pool.copy(to, 0, from, 0, 4 * kMiB); });
    CHECK(late.code() == Errc::timed_out);
    CHECK_CONTAINS(late.what(), "the copy did not end in time");  // The daemon's word.
  }
  CHECK(eventually([&] { return live.used_bytes() == 0; }));
}

TEST_CASE("a copy of a GPU's bytes that was given up before it began does not come later") {
  // A slice of 4 MiB takes two seconds.
  const LivePool live(one_gpu_and("32 MiB"), {"a"}, {"--gpus", "cuda", "--gpu-time", "60"},
                      with_driver("{devices: [{memory_mib: 64}], host_gb_per_s: 0.002}"));
  auto pool = Pool::connect({.address = live.control("a"), .token = live.token(), .timeout = 1s});
  auto patient =
      Pool::connect({.address = live.control("a"), .token = live.token(), .timeout = 30s});
  auto from = pool.allocate(4 * kMiB, {.only = {device("a/gpu0")}});
  auto first = pool.allocate(4 * kMiB, {.only = {device("a/host0")}});
  auto second = pool.allocate(4 * kMiB, {.only = {device("a/host0")}});
  auto other_from = patient.allocate(64 * 1024, {.only = {device("a/gpu0")}});
  auto other_to = patient.allocate(64 * 1024, {.only = {device("a/host0")}});
  std::vector<std::thread> threads;
  for (auto* const to : {&first, &second})
    threads.emplace_back([&, to] {
      CHECK(code_of([&] { pool.copy(*to, 0, from, 0, 4 * kMiB); }) == Errc::timed_out);
    });
  for (auto& thread : threads) thread.join();
  // One of them runs: this driver moves the bytes first and then takes its time. The other stands
  // behind it.
  const auto bytes = pattern(4 * kMiB, 1);
  first.write(0, bytes);
  second.write(0, bytes);
  patient.copy(other_to, 0, other_from, 0, 64 * 1024);  // Behind both.
  CHECK((read_all(first) == bytes));
  CHECK((read_all(second) == bytes));
}

TEST_CASE("a daemon that stops has given everything back to the driver") {
  GpuPool live("check_leaks: true");
  {
    auto pool = live.connect("a");
    auto region = pool.allocate(70 * kMiB, {.near = device("a/gpu0")});
    auto other = pool.allocate(kMiB, {.only = {device("a/gpu2")}});
    pool.copy(other, 0, region, 0, kMiB);
    live.daemon("a").signal(SIGTERM);
    CHECK(live.daemon("a").wait(10s) == 0);
  }
}

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--hold") return hold(argv[2]);
  if (argc == 3 && std::string(argv[1]) == "--in-part") return read_in_part(argv[2]);
  if (argc == 3 && std::string(argv[1]) == "--without-driver")
    return allocate_without_driver(argv[2]);
  for (const auto& [name, value] : with_driver(machine())) ::setenv(name.c_str(), value.c_str(), 1);
  return doctest::Context(argc, argv).run();
}
