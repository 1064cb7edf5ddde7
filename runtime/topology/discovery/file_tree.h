// Reads small files below a folder that stands for "/": the machine's own, or a test's.
//
// Errors:  nullopt or empty for what is not there or may not be read. Never blocks on a pipe.
// Cost:    one open, read and close a file. Bounded: kMaxFileBytes of a file, kMaxEntries of a
//          folder.
// Threads: immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace causeway {

class FileTree {
 public:
  static constexpr std::size_t kMaxFileBytes = 256 * 1024;
  static constexpr std::size_t kMaxEntries = 16 * 1024;

  explicit FileTree(std::string root);

  // Paths start with '/'. Files of sysfs are one page at most.
  [[nodiscard]] std::optional<std::string> read(const std::string& path,
                                                std::size_t max_bytes = 4096) const;
  // read(), blanks at both ends taken off; empty if there is none.
  [[nodiscard]] std::string text(const std::string& path) const;
  [[nodiscard]] std::optional<std::uint64_t> decimal(const std::string& path) const;
  [[nodiscard]] std::optional<std::uint64_t> hex(const std::string& path) const;
  // The names in a folder, in order; empty also if there is none.
  [[nodiscard]] std::vector<std::string> list(const std::string& path) const;
  // What a symbolic link says, not followed; and the last part of that.
  [[nodiscard]] std::string link(const std::string& path) const;
  [[nodiscard]] std::string link_name(const std::string& path) const;
  [[nodiscard]] bool exists(const std::string& path) const;

 private:
  std::string root_;
};

}  // namespace causeway
