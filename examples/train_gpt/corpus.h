// The text to learn from, and the micro-batches drawn from it.
//
// Shape:   a micro-batch is micro_batch sequences of `context` bytes; targets are the next bytes.
//          It depends on (seed, step, number) alone, so on no plan.
// Errors:  from_file throws io with the path, invalid_argument if the text is too short.
// Threads: const calls from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config.h"

namespace train_gpt {

struct Batch {
  std::vector<unsigned char> inputs;
  std::vector<unsigned char> targets;
};

class Corpus {
 public:
  [[nodiscard]] static Corpus from_file(const std::string& path, const GptConfig& config);
  // `origin` stands for the file's name in errors.
  [[nodiscard]] static Corpus from_text(std::string text, const std::string& origin,
                                        const GptConfig& config);

  [[nodiscard]] Batch batch(std::uint64_t seed, std::uint64_t step, std::uint64_t number) const;
  [[nodiscard]] std::uint64_t hash() const noexcept;

 private:
  Corpus(std::string text, const GptConfig& config) : text_(std::move(text)), config_(config) {}
  std::string text_;
  GptConfig config_;
};

}  // namespace train_gpt
