#include "causeway/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <unordered_map>
#include <utility>

#include "runtime/sharding/safetensors_header.h"

namespace causeway {

struct SafetensorsFile::State {
  std::string path;
  int fd = -1;
  void* base = MAP_FAILED;
  std::uint64_t file_bytes = 0;
  std::uint64_t data_offset = 0;
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  std::unordered_map<std::string_view, std::size_t> index;  // Views into entries.

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (base != MAP_FAILED) ::munmap(base, file_bytes);
    if (fd >= 0) ::close(fd);
  }

  [[nodiscard]] std::uint64_t size_now() const {
    struct stat info {};
    if (::fstat(fd, &info) != 0) throw system_error(path + ": cannot be examined", errno);
    if (!S_ISREG(info.st_mode)) throw Error(Errc::io, path + ": is not a regular file");
    return static_cast<std::uint64_t>(info.st_size);
  }

  void read_at(std::uint64_t offset, std::span<std::byte> target) const {
    for (std::size_t done = 0; done < target.size();) {
      const auto got = ::pread(fd, target.data() + done, target.size() - done,
                               static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw system_error(path + ": cannot be read", errno);
      if (got == 0) throw Error(Errc::io, path + ": became shorter while it was read");
      done += static_cast<std::size_t>(got);
    }
  }

  [[nodiscard]] const Entry& find(std::string_view name) const {
    const auto at = index.find(name);
    if (at != index.end()) return entries[at->second];
    throw Error(Errc::not_found, fmt::format("{}: has no tensor '{}' among its {}", path,
                                             name.substr(0, 200), entries.size()));
  }
};

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  // Not blocking: a fifo in the file's place must not hang the caller.
  state->fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (state->fd < 0 && errno == ENOENT) throw Error(Errc::not_found, path + ": no such file");
  if (state->fd < 0) throw system_error(path + ": cannot be opened", errno);
  state->file_bytes = state->size_now();
  std::vector<std::byte> start(std::min(kSafetensorsLengthBytes, state->file_bytes));
  state->read_at(0, start);
  // The header is read, not mapped: a file that shrinks meanwhile is an error, not a signal.
  std::string header(read_safetensors_length(start, state->file_bytes, path), '\0');
  state->read_at(kSafetensorsLengthBytes, std::as_writable_bytes(std::span(header)));
  state->data_offset = kSafetensorsLengthBytes + header.size();
  state->entries = read_safetensors_header(header, state->file_bytes - state->data_offset, path,
                                           &state->metadata);
  for (std::size_t i = 0; i < state->entries.size(); ++i)
    state->index.emplace(state->entries[i].tensor.name, i);
  state->base = ::mmap(nullptr, state->file_bytes, PROT_READ, MAP_PRIVATE, state->fd, 0);
  if (state->base == MAP_FAILED) throw system_error(path + ": cannot be mapped", errno);
  return SafetensorsFile(std::move(state));
}

std::vector<SafetensorsFile::Entry> SafetensorsFile::parse_header(
    std::span<const std::byte> image, const std::string& origin,
    std::map<std::string, std::string>* metadata) {
  const auto length = read_safetensors_length(image, image.size(), origin);
  const auto header = image.subspan(kSafetensorsLengthBytes, length);
  return read_safetensors_header({reinterpret_cast<const char*>(header.data()), header.size()},
                                 image.size() - kSafetensorsLengthBytes - length, origin, metadata);
}

SafetensorsFile::SafetensorsFile(std::unique_ptr<State> state) noexcept
    : state_(std::move(state)) {}
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

const std::vector<SafetensorsFile::Entry>& SafetensorsFile::entries() const noexcept {
  return state_->entries;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const noexcept {
  return state_->metadata;
}

bool SafetensorsFile::contains(std::string_view name) const noexcept {
  return state_->index.contains(name);
}

std::span<const std::byte> SafetensorsFile::data(std::string_view name) const {
  const Entry& entry = state_->find(name);
  if (const auto now = state_->size_now(); now < state_->file_bytes)
    throw Error(Errc::io, fmt::format("{}: shrank from {} to {} bytes since it was opened",
                                      state_->path, state_->file_bytes, now));
  return {static_cast<const std::byte*>(state_->base) + state_->data_offset + entry.offset_bytes,
          entry.tensor.size_bytes()};
}

const TensorSpec& SafetensorsFile::tensor(std::string_view name) const {
  return state_->find(name).tensor;
}

}  // namespace causeway
