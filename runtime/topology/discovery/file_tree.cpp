#include "runtime/topology/discovery/file_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <memory>

#include "allocator/unique_fd.h"
#include "runtime/topology/discovery/sysfs_text.h"

namespace causeway {

FileTree::FileTree(std::string root) : root_(std::move(root)) {
  while (root_.ends_with('/')) root_.pop_back();
}

std::optional<std::string> FileTree::read(const std::string& path, std::size_t max_bytes) const {
  // O_NONBLOCK: a named pipe without a writer is empty rather than a wait.
  const UniqueFd file(::open((root_ + path).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return std::nullopt;
  std::string text(std::min(max_bytes, kMaxFileBytes), '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const auto got = ::read(file.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && size == 0) return std::nullopt;
    if (got <= 0) break;
    size += static_cast<std::size_t>(got);
  }
  text.resize(size);
  return text;
}

std::string FileTree::text(const std::string& path) const {
  const auto content = read(path);
  return content ? std::string(trimmed(*content)) : std::string();
}

std::optional<std::uint64_t> FileTree::decimal(const std::string& path) const {
  return parse_decimal(text(path));
}

std::optional<std::uint64_t> FileTree::hex(const std::string& path) const {
  return parse_hex(text(path));
}

std::vector<std::string> FileTree::list(const std::string& path) const {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir((root_ + path).c_str()), ::closedir);
  std::vector<std::string> names;
  if (folder == nullptr) return names;
  while (names.size() < kMaxEntries) {
    const auto* entry = ::readdir(folder.get());
    if (entry == nullptr) break;
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  std::ranges::sort(names);
  return names;
}

std::string FileTree::link(const std::string& path) const {
  std::array<char, PATH_MAX> target{};
  const auto size = ::readlink((root_ + path).c_str(), target.data(), target.size());
  return size > 0 ? std::string(target.data(), static_cast<std::size_t>(size)) : std::string();
}

std::string FileTree::link_name(const std::string& path) const {
  const auto target = link(path);
  return target.substr(target.rfind('/') + 1);  // npos + 1 is 0.
}

bool FileTree::exists(const std::string& path) const {
  return ::access((root_ + path).c_str(), F_OK) == 0;
}

}  // namespace causeway
