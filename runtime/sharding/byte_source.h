// The bytes of a file (or of an image in memory) from front to back, in pieces.
//
// Shape:   read() and skip() move forward; left() is what the file had behind at() when it was
// opened. Errors:  io from the system, and where the file became shorter meanwhile; not_found.
// Cost:    one system call per 256 KiB; skip() reads nothing.
// Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace causeway {

class ByteSource {
 public:
  [[nodiscard]] static ByteSource open(const std::string& path);
  [[nodiscard]] static ByteSource over(std::span<const std::byte> image);
  ByteSource(ByteSource&& other) noexcept;
  ByteSource& operator=(ByteSource&&) = delete;
  ~ByteSource();

  [[nodiscard]] std::uint64_t at() const noexcept { return at_; }
  [[nodiscard]] std::uint64_t left() const noexcept { return bytes_ - at_; }
  // Both at most left().
  void read(std::span<std::byte> target);
  void skip(std::uint64_t bytes) noexcept { at_ += bytes; }

 private:
  ByteSource() = default;
  void fill();

  std::string path_;
  int fd_ = -1;
  std::uint64_t bytes_ = 0;
  std::uint64_t at_ = 0;
  std::vector<std::byte> piece_;       // Of the file, from piece_at_ on.
  std::span<const std::byte> window_;  // The piece, or the whole image.
  std::uint64_t window_at_ = 0;
};

}  // namespace causeway
