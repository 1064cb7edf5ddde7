// Handles by which another process opens a plain allocation: the file behind it, found through
// the process that has it. Memory of cuMemCreate has no such handle, as with the real driver.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Block;
using em::Needs;
using em::require;
using em::run_call;

namespace {

constexpr std::uint64_t kMagic = 0x31435049'57535743ULL;
constexpr std::uint64_t kPage = 4096;

struct Source {
  std::uint64_t magic = kMagic;
  std::int32_t pid = 0;
  std::int32_t file = -1;
  std::int32_t device = 0;
  std::uint64_t offset = 0;
  std::uint64_t size_bytes = 0;
};
static_assert(sizeof(Source) <= sizeof(IpcMemHandle));

causeway::UniqueFd open_source(const Source& source) {
  const auto path = fmt::format("/proc/{}/fd/{}", source.pid, source.file);
  causeway::UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  require(static_cast<bool>(file));
  std::array<char, 128> name{};
  require(::readlink(path.c_str(), name.data(), name.size() - 1) > 0);
  const auto expected = fmt::format("/memfd:cuda-emulator-plain:{}", source.device);
  require(std::string_view(name.data()).starts_with(expected));
  return file;
}

DevicePtr map_source(const Source& source, std::uint64_t mapped_bytes) {
  const auto file = open_source(source);
  const auto at = em::reserve_addresses(mapped_bytes + kPage, kPage);
  auto* const where = reinterpret_cast<void*>(at);
  const bool is_mapped =
      ::mmap(where, mapped_bytes, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file.get(),
             static_cast<off_t>(source.offset)) != MAP_FAILED &&
      em::protect(where, mapped_bytes, PROT_READ | PROT_WRITE, true);
  if (is_mapped) return at;
  em::free_addresses(at, mapped_bytes + kPage);
  throw em::Failure{kOutOfMemory};
}

}  // namespace

extern "C" {
namespace causeway::cuda {

Result cuIpcGetMemHandle(IpcMemHandle* handle, DevicePtr at) {
  return run_call("cuIpcGetMemHandle", Needs::context, [&] {
    require(handle != nullptr);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto found = em::find_block(at);
    require(found != w.blocks.end() && found->second.kind == Block::Kind::device);
    const auto& block = found->second;
    Source source;
    source.pid = ::getpid();
    source.file = w.files[static_cast<std::size_t>(block.device)].file.get();
    source.device = block.device;
    source.offset = block.offset;
    source.size_bytes = block.size_bytes;
    *handle = {};
    std::memcpy(handle->bytes, &source, sizeof source);
  });
}

Result cuIpcOpenMemHandle_v2(DevicePtr* at, IpcMemHandle handle, unsigned flags) {
  return run_call("cuIpcOpenMemHandle", Needs::context, [&] {
    require(at != nullptr && flags == kIpcLazyPeerAccess);
    Source source;
    std::memcpy(static_cast<void*>(&source), handle.bytes, sizeof source);
    require(source.magic == kMagic && source.size_bytes > 0);
    require(source.pid != ::getpid(), kInvalidContext);
    const int device = em::checked_device(source.device);
    require(em::reach(em::current()->device, device), kPeerAccessUnsupported);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    for (auto& [start, block] : w.blocks) {
      const bool is_same = block.kind == Block::Kind::opened && block.context == em::current() &&
                           std::memcmp(&block.source, &handle, sizeof handle) == 0;
      if (!is_same) continue;
      ++block.holders;
      *at = start;
      return;
    }
    Block block;
    block.kind = Block::Kind::opened;
    block.size_bytes = source.size_bytes;
    block.mapped_bytes = em::whole_pages(source.size_bytes);
    block.device = device;
    block.context = em::current();
    block.id = w.next_id++;
    block.source = handle;
    *at = map_source(source, block.mapped_bytes);
    w.blocks.emplace(*at, block);
  });
}

Result cuIpcCloseMemHandle(DevicePtr at) {
  return run_call("cuIpcCloseMemHandle", Needs::context, [&] {
    for (const auto& ticket : em::all_work(*em::current())) ticket.wait();
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto block = w.blocks.find(at);
    require(block != w.blocks.end() && block->second.kind == Block::Kind::opened);
    if (--block->second.holders == 0) em::close_block(block);
  });
}

}  // namespace causeway::cuda
}
