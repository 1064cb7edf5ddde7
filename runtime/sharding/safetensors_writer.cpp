#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "causeway/safetensors.h"
#include "runtime/sharding/safetensors_header.h"

namespace causeway {

namespace {

// A file under its temporary name; unless renamed, it is removed again.
class PendingFile {
 public:
  explicit PendingFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".tmp") {
    // Whatever an earlier writer left there goes; a link in its place is never followed.
    ::unlink(temporary_.c_str());
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) throw system_error(temporary_ + ": cannot be created", errno);
  }
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  void write(std::span<const std::byte> bytes) {
    constexpr std::size_t kChunk = std::size_t{1} << 30;  // One call moves at most 2 GiB.
    while (!bytes.empty()) {
      const auto done = ::write(fd_, bytes.data(), std::min(bytes.size(), kChunk));
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) throw system_error(temporary_ + ": cannot be written", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
  }

  void commit() {
    if (::fsync(fd_) != 0) throw system_error(temporary_ + ": cannot be synced", errno);
    if (::close(std::exchange(fd_, -1)) != 0)
      throw system_error(temporary_ + ": cannot be closed", errno);
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0)
      throw system_error(path_ + ": cannot be replaced", errno);
    temporary_.clear();
    sync_folder();
  }

 private:
  // The rename itself lasts only once its folder is on disk.
  void sync_folder() const {
    const auto folder = std::filesystem::path(path_).parent_path().string();
    const int fd =
        ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) throw system_error(folder + ": cannot be opened to sync", errno);
    const int status = ::fsync(fd);
    const int reason = errno;
    ::close(fd);
    // Some file systems do not sync folders and say so.
    if (status != 0 && reason != EINVAL) throw system_error(folder + ": cannot be synced", reason);
  }

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

}  // namespace

void write_safetensors(const std::string& path, std::span<const TensorData> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const auto start = write_safetensors_header(tensors, metadata);
  std::uint64_t data_bytes = 0;
  for (const auto& tensor : tensors) data_bytes += tensor.bytes.size();
  const auto bytes = std::as_bytes(std::span(start));
  try {
    // What would not read back is not written: a repeated name, text that is not UTF-8.
    const auto length = read_safetensors_length(bytes, start.size() + data_bytes, path);
    (void)read_safetensors_header(std::string_view(start).substr(kSafetensorsLengthBytes, length),
                                  data_bytes, path, nullptr);
  } catch (const Error& error) {
    throw Error(Errc::invalid_argument, error.what());
  }
  PendingFile file(path);
  file.write(bytes);
  for (const auto& tensor : tensors) file.write(tensor.bytes);
  file.commit();
}

}  // namespace causeway
