#include "corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "random.h"

namespace train_gpt {

Corpus Corpus::from_file(const std::string& path, const GptConfig& config) {
  std::error_code failed;
  if (std::filesystem::exists(path, failed) && !std::filesystem::is_regular_file(path, failed))
    throw causeway::Error(causeway::Errc::invalid_argument,
                          fmt::format("the text '{}' is not a file; name one with --text", path));
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw causeway::system_error(fmt::format("cannot open the text '{}'", path), errno);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) throw causeway::system_error(fmt::format("cannot read '{}'", path), errno);
  return from_text(std::move(text), path, config);
}

Corpus Corpus::from_text(std::string text, const std::string& origin, const GptConfig& config) {
  if (text.size() <= config.context)
    throw causeway::Error(causeway::Errc::invalid_argument,
                          fmt::format("the text '{}' has {} bytes, one sequence needs {}; give a "
                                      "longer text or a smaller --context",
                                      origin, text.size(), config.context + 1));
  return {std::move(text), config};
}

Batch Corpus::batch(std::uint64_t seed, std::uint64_t step, std::uint64_t number) const {
  Batch batch;
  const std::size_t context = config_.context;
  batch.inputs.resize(config_.tokens_per_micro_batch());
  batch.targets.resize(config_.tokens_per_micro_batch());
  for (std::size_t row = 0; row < config_.micro_batch; ++row) {
    const auto start = mix_all({seed, step, number, row}) % (text_.size() - context);
    std::copy_n(text_.data() + start, context, batch.inputs.data() + row * context);
    std::copy_n(text_.data() + start + 1, context, batch.targets.data() + row * context);
  }
  return batch;
}

std::uint64_t Corpus::hash() const noexcept { return hash_of(text_); }

}  // namespace train_gpt
