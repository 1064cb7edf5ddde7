// Goal:   no input ends the process, whatever it is: the corpus, then seeded mutations of it.
// Method: mutate a random seed file a few times, run the target, repeat. A failure prints seed;
// replay
//         it with CAUSEWAY_TEST_SEED=<seed>. CAUSEWAY_FUZZ_RUNS sets how many seeds are run.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "fuzz_target.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace {

constexpr std::uint64_t kRuns = 10'000;
constexpr std::size_t kMaxInputBytes = 1 << 16;
constexpr double kMaxSeconds = 10;  // One input; far above what any takes with a sanitizer.

std::string g_now = "start";  // What is being run, for the message when it ends the process.

void report() { std::fprintf(stderr, "fuzz: failed at %s\n", g_now.c_str()); }

std::vector<std::string> read_corpus() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(CAUSEWAY_FUZZ_CORPUS))
    files.push_back(entry.path().string());
  std::ranges::sort(files);
  std::vector<std::string> inputs;
  for (const auto& path : files) {
    std::ifstream file(path, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

// Returns false if it took too long.
bool run_one(const std::string& input) {
  const auto start = std::chrono::steady_clock::now();
  (void)LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  if (took.count() < kMaxSeconds) return true;
  std::fprintf(stderr, "fuzz: %zu bytes took %.1f s\n", input.size(), took.count());
  return false;
}

class Mutator {
 public:
  Mutator(std::uint64_t seed, const std::vector<std::string>& corpus)
      : random_(seed), corpus_(corpus) {}

  std::string next() {
    std::string input = pick(corpus_);
    for (auto rounds = 1 + below(6); rounds-- > 0;) mutate(input);
    if (input.size() > kMaxInputBytes) input.resize(kMaxInputBytes);
    return input;
  }

 private:
  std::size_t below(std::size_t limit) { return static_cast<std::size_t>(random_() % limit); }
  const std::string& pick(const std::vector<std::string>& from) { return from[below(from.size())]; }

  void mutate(std::string& input) {
    static const std::vector<std::string> kTokens{"0",
                                                  "-1",
                                                  "18446744073709551615",
                                                  "18446744073709551616",
                                                  "1e308",
                                                  "nan",
                                                  "inf",
                                                  "null",
                                                  "~",
                                                  "[",
                                                  "]",
                                                  "{",
                                                  "}",
                                                  "\"",
                                                  ": ",
                                                  "- ",
                                                  "\n",
                                                  "\n  ",
                                                  "&a ",
                                                  "*a",
                                                  "!!str ",
                                                  "? ",
                                                  "|\n ",
                                                  ">\n ",
                                                  "%YAML 1.2\n---\n",
                                                  "---\n",
                                                  "...",
                                                  "#",
                                                  "'",
                                                  "\\u0000",
                                                  "\xff",
                                                  "\xef\xbb\xbf",
                                                  "\xc2\x85",
                                                  "\xe2\x80\xa8",
                                                  "__metadata__",
                                                  "<",
                                                  "/>",
                                                  "</pci>",
                                                  "<!--",
                                                  "<![CDATA[",
                                                  "&lt;&#0;",
                                                  std::string(1, '\0'),
                                                  "0.5 GB",
                                                  "9999999 PiB"};
    const auto at = below(input.size() + 1);
    const auto length = input.empty() ? 0 : below(std::min<std::size_t>(input.size(), 40));
    switch (below(7)) {
      case 0:
        input.insert(at, pick(kTokens));
        break;
      case 1:
        input.erase(at, length);
        break;
      case 2:
        if (at < input.size()) input[at] = static_cast<char>(random_());
        break;
      case 3:
        if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
        break;
      case 4:  // Doubles a part.
        input.insert(at, input.substr(below(input.size() + 1), length));
        break;
      case 5:
        input.replace(std::min(at, input.size()), length, pick(kTokens));
        break;
      default: {  // The rest of another file.
        const auto& other = pick(corpus_);
        input = input.substr(0, at) + other.substr(below(other.size() + 1));
        break;
      }
    }
  }

  std::mt19937_64 random_;
  const std::vector<std::string>& corpus_;
};

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

int main() {
  std::signal(SIGABRT, [](int) { report(); });  // Also what an exception that escapes ends in.
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_set_death_callback(report);
#endif
  const auto corpus = read_corpus();
  if (corpus.empty()) {
    std::fprintf(stderr, "fuzz: no seed in %s\n", CAUSEWAY_FUZZ_CORPUS);
    return 1;
  }
  bool quick = true;
  for (std::size_t i = 0; i < corpus.size(); ++i) {
    g_now = "corpus file " + std::to_string(i);
    quick = run_one(corpus[i]) && quick;
  }
  const auto one = from_environment("CAUSEWAY_TEST_SEED", 0);
  const auto runs = one != 0 ? 1 : from_environment("CAUSEWAY_FUZZ_RUNS", kRuns);
  for (std::uint64_t i = 0; i < runs; ++i) {
    const auto seed = one != 0 ? one : i + 1;
    g_now = "seed=" + std::to_string(seed);
    const auto input = Mutator(seed, corpus).next();
    if (one != 0) std::fprintf(stderr, "fuzz: input of %s:\n%s\n", g_now.c_str(), input.c_str());
    quick = run_one(input) && quick;
  }
  std::printf("%zu corpus files, %llu mutations\n", corpus.size(),
              static_cast<unsigned long long>(runs));
  return quick ? 0 : 1;
}
