// Goal:   a GGUF header is read rightly, and one that lies is refused with the reason, at no more
// cost
//         than the file justifies.
// Method: images made here, field by field; a lie in each field. Files of an independent writer are
//         read in real_files_test.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "causeway/gguf.h"

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tests/runtime/sharding/models/model_folder.h"

using namespace causeway;

namespace {

constexpr std::uint32_t kU32 = 4;
constexpr std::uint32_t kText = 8;
constexpr std::uint32_t kList = 9;

class Image {
 public:
  template <typename T>
  Image& add(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Image& text(std::string_view text) {
    add<std::uint64_t>(text.size());
    bytes_ += text;
    return *this;
  }
  Image& start(std::uint64_t tensors, std::uint64_t pairs, std::uint32_t version = 3) {
    bytes_ += "GGUF";
    return add(version).add(tensors).add(pairs);
  }
  Image& number(std::string_view key, std::uint32_t value) {
    return text(key).add(kU32).add(value);
  }
  Image& words(std::string_view key, std::string_view value) {
    return text(key).add(kText).text(value);
  }
  Image& tensor(std::string_view name, const std::vector<std::uint64_t>& extents,
                std::uint32_t type, std::uint64_t offset) {
    text(name).add(static_cast<std::uint32_t>(extents.size()));
    for (const auto extent : extents) add(extent);
    return add(type).add(offset);
  }
  // Up to the alignment, then so many bytes.
  Image& data(std::uint64_t bytes, std::uint64_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment + bytes, '\0');
    return *this;
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  [[nodiscard]] GgufHeader parse() const {
    return GgufHeader::parse(std::as_bytes(std::span(bytes_)), "input");
  }
  [[nodiscard]] std::string refusal() const {
    return error_of(Errc::parse, [this] { (void)parse(); });
  }

 private:
  std::string bytes_;
};

// The metadata of a small model of that family, and its tensors.
Image small_model(const std::string& family,
                  const std::vector<std::pair<std::string, std::uint32_t>>& keys,
                  const std::vector<std::pair<std::string, std::vector<std::uint64_t>>>& tensors) {
  Image image;
  image.start(tensors.size(), keys.size() + 1).words("general.architecture", family);
  for (const auto& [key, value] : keys) image.number(family + "." + key, value);
  std::uint64_t offset = 0;
  for (const auto& [name, extents] : tensors) {
    image.tensor(name, extents, 0, offset);
    std::uint64_t count = 1;
    for (const auto extent : extents) count *= extent;
    offset += (4 * count + 31) / 32 * 32;
  }
  return image.data(offset);
}

ModelDescription described(const Image& image) {
  const ModelFolder folder;
  folder.write("m.gguf", image.bytes());
  return ModelDescription::read(folder.file("m.gguf"));
}

}  // namespace

TEST_CASE("keys, tensors and places are read") {
  Image image;
  image.start(3, 6, 2)
      .words("general.architecture", "llama")
      .number("llama.block_count", 7)
      .text("list")
      .add(kList)
      .add(std::uint32_t{5})
      .add(std::uint64_t{2})
      .add(std::int32_t{-1})
      .add(std::int32_t{9})
      .text("tokens")
      .add(kList)
      .add(kText)
      .add(std::uint64_t{2})
      .text("a")
      .text("")
      .text("flag")
      .add(std::uint32_t{7})
      .add(std::uint8_t{1})
      .text("float")
      .add(std::uint32_t{6})
      .add(0.5F)
      .tensor("b", {256, 3}, 12, 64)
      .tensor("a", {4, 2, 2}, 0, 0)
      .tensor("empty", {0, 5}, 0, 64)
      .data(64 + 3 * 144);
  const auto header = image.parse();
  CHECK(header.version == 2);
  CHECK(header.text("general.architecture") == "llama");
  CHECK(header.number("llama.block_count") == 7);
  CHECK_FALSE(header.number("none"));
  CHECK(header.numbers("llama.block_count", 2) == std::vector<std::uint64_t>{7, 7});
  CHECK(std::get<GgufList>(header.metadata.at("list")).numbers == std::vector<std::int64_t>{-1, 9});
  CHECK(std::get<GgufList>(header.metadata.at("tokens")).count == 2);
  CHECK(std::get<bool>(header.metadata.at("flag")));
  CHECK(std::get<double>(header.metadata.at("float")) == 0.5);
  CHECK(has(error_of(Errc::parse, [&] { (void)header.numbers("list", 2); }), "negative"));
  CHECK(has(error_of(Errc::parse, [&] { (void)header.numbers("list", 3); }), "is a list of 2"));
  CHECK(has(error_of(Errc::parse, [&] { (void)header.number("flag"); }), "is not a whole number"));
  CHECK(has(error_of(Errc::parse, [&] { (void)header.text("flag"); }), "is not a text"));
  // By place, extents as in C.
  REQUIRE(header.entries.size() == 3);
  CHECK((header.entries[0].tensor == TensorSpec{"a", DType::f32, {2, 2, 4}}));
  CHECK((header.entries[1].tensor == TensorSpec{"empty", DType::f32, {5, 0}}));
  CHECK((header.entries[2].tensor == TensorSpec{"b", DType::q4_k, {3, 256}}));
  CHECK(header.entries[2].offset_bytes == 64);
  CHECK(header.data_offset_bytes % 32 == 0);
  CHECK(header.data_offset_bytes + 64 + 3 * 144 == image.bytes().size());
}

TEST_CASE("every cut of a good file is refused") {
  Image image;
  image.start(1, 2)
      .words("general.architecture", "llama")
      .number("x", 1)
      .tensor("a", {4}, 0, 0)
      .data(16);
  CHECK_NOTHROW((void)image.parse());
  for (std::size_t size = 0; size < image.bytes().size(); ++size) {
    const auto cut = image.bytes().substr(0, size);
    CAPTURE(size);
    CHECK(error_of(Errc::parse, [&] {
            (void)GgufHeader::parse(std::as_bytes(std::span(cut)), "input");
          }).starts_with("input:"));
  }
}

TEST_CASE("a file that lies is refused, and the lie is named") {
  const auto one = [](auto... extents) {
    return Image().start(1, 0).tensor("w", {extents...}, 0, 0).data(64);
  };
  using U = std::uint64_t;
  CHECK(has(Image().add('G').add('G').add('M').add('L').refusal(), "does not start with 'GGUF'"));
  CHECK(has(Image().start(0, 0, 1).refusal(), "is version 1"));
  CHECK(has(Image().start(0, 0, 4).refusal(), "is version 4"));
  CHECK(has(Image().start(0, 0, 0x03000000).refusal(), "big-endian"));
  // Counts that the file cannot hold, and counts times sizes that leave 64 bits.
  CHECK(has(Image().start(~U{0}, 0).data(999).refusal(), "are more than"));
  CHECK(has(Image().start(0, ~U{0}).data(999).refusal(), "are more than"));
  CHECK(has(Image().start(~U{0} / 24 + 2, 1).data(999).refusal(), "are more than"));
  CHECK(has(Image().start(0, 1).text("k").add(kList).add(kU32).add(U{1} << 62).data(99).refusal(),
            "counts 4611686018427387904 values"));
  CHECK(has(Image().start(0, 1).text("k").add(kList).add(kText).add(~U{0}).data(99).refusal(),
            "cut short"));
  CHECK(has(Image().start(0, 1).text("k").add(kText).add(~U{0}).data(99).refusal(), "cut short"));
  CHECK(has(Image().start(0, 1).add(~U{0}).data(99).refusal(), "1 to 1024"));
  CHECK(has(Image().start(0, 1).add(U{0}).data(99).refusal(), "has 0 bytes"));
  CHECK(has(Image().start(0, 1).text("k").add(std::uint32_t{13}).data(99).refusal(),
            "unknown type 13"));
  CHECK(has(
      Image().start(0, 1).text("k").add(kList).add(std::uint32_t{77}).add(U{0}).data(9).refusal(),
      "unknown type 77"));
  CHECK(has(
      Image().start(0, 1).text("k").add(std::uint32_t{7}).add(std::uint8_t{2}).data(9).refusal(),
      "true or false"));
  auto nested = Image().start(0, 1).text("k").add(kList);
  for (int i = 0; i < 100; ++i) nested.add(kList).add(U{1});
  CHECK(has(nested.refusal(), "too deep"));
  CHECK(has(Image().start(0, 2).number("k", 1).number("k", 2).refusal(), "key 'k' is there twice"));
  CHECK(
      has(Image().start(0, 1).number(std::string_view("a\0b", 3), 1).refusal(), "not plain UTF-8"));
  CHECK(has(Image().start(0, 1).number("\xff", 1).refusal(), "not plain UTF-8"));
  CHECK(has(Image().start(0, 1).words("k", "\xc3\x28").refusal(), "is not UTF-8"));
  for (const std::uint32_t bad : {0U, 3U, 48U, 0xFFFFFFFFU})
    CHECK(has(Image().start(0, 1).number("general.alignment", bad).refusal(),
              "must be a power of two"));
  CHECK(
      has(Image().start(0, 1).words("general.alignment", "32").refusal(), "is not a whole number"));
  // Tensors.
  CHECK_NOTHROW((void)one(U{16}).parse());
  CHECK(has(one(U{17}).refusal(), "cut short"));
  CHECK(has(one(U{1} << 32, U{1} << 32).refusal(), "does not fit 64 bits"));
  CHECK(has(one(U{1} << 62).refusal(), "does not fit 64 bits"));
  CHECK(has(one(U{1}, U{1}, U{1}, U{1}, U{1}).refusal(), "has 5 extents"));
  CHECK(has(Image().start(1, 0).tensor("w", {255}, 12, 0).data(999).refusal(), "blocks of 256"));
  for (const std::uint32_t removed : {4U, 5U, 31U, 33U, 36U, 43U, 0xFFFFFFFFU})
    CHECK(has(Image().start(1, 0).tensor("w", {256}, removed, 0).data(999).refusal(),
              "unknown or was removed"));
  CHECK(has(Image().start(1, 0).tensor("w", {4}, 0, 16).data(999).refusal(), "no multiple of 32"));
  CHECK(has(Image().start(1, 0).tensor("w", {4}, 0, ~U{0} - 31).data(999).refusal(), "cut short"));
  CHECK(has(Image().start(2, 0).tensor("w", {4}, 0, 0).tensor("w", {4}, 0, 32).data(99).refusal(),
            "tensor 'w' is there twice"));
  CHECK(has(Image().start(2, 0).tensor("a", {16}, 0, 0).tensor("b", {4}, 0, 32).data(99).refusal(),
            "within the tensor before it"));
  CHECK(has(Image().start(2, 0).tensor("a", {4}, 0, 0).tensor("b", {4}, 0, 0).data(99).refusal(),
            "within the tensor before it"));
}

TEST_CASE("a text or list that is longer than is kept is passed over") {
  Image image;
  image.start(0, 3).words("long", std::string(kMaxGgufText + 1, 'x'));
  image.text("many").add(kList).add(kU32).add(std::uint64_t{kMaxGgufNumbers + 1});
  for (std::size_t i = 0; i <= kMaxGgufNumbers; ++i) image.add(std::uint32_t{1});
  image.number("last", 3);
  const auto header = image.parse();
  CHECK(header.text("long") == "");
  CHECK(std::get<GgufList>(header.metadata.at("many")).count == kMaxGgufNumbers + 1);
  CHECK(std::get<GgufList>(header.metadata.at("many")).numbers.empty());
  CHECK(header.number("last") == 3);
}

TEST_CASE("many lists of small numbers take little more than they do in the file") {
  constexpr std::uint32_t kU8 = 0;
  constexpr std::uint64_t kLists = 1000;
  Image image;
  image.start(0, kLists);
  for (std::uint64_t i = 0; i < kLists; ++i) {
    image.text("k" + std::to_string(i)).add(kList).add(kU8).add(std::uint64_t{4096});
    for (int n = 0; n < 4096; ++n) image.add(std::uint8_t{7});
  }
  const auto header = image.parse();
  CHECK(header.metadata.size() == kLists);
  std::size_t kept = 0;
  for (const auto& [key, value] : header.metadata) {
    CHECK(std::get<GgufList>(value).count == 4096);
    kept += std::get<GgufList>(value).numbers.capacity() * sizeof(std::int64_t);
  }
  CHECK(kept == kMaxGgufNumbersInAll * sizeof(std::int64_t));
  // The first ones are kept, as a model's own are.
  CHECK(header.numbers("k0", 4096)->front() == 7);

  Image keys;
  keys.start(0, kMaxGgufKeys + 1);
  for (std::size_t i = 0; i <= kMaxGgufKeys; ++i) keys.number("k" + std::to_string(i), 1);
  CHECK(has(keys.refusal(), "at most 65536"));
}

TEST_CASE("a hole of a terabyte that calls itself a header ends soon and takes no memory") {
  const ModelFolder folder;
  folder.write(
      "m.gguf",
      Image().start(0, 1).text("k").add(kList).add(kText).add(std::uint64_t{1} << 36).bytes());
  std::filesystem::resize_file(folder.file("m.gguf"), std::uint64_t{1} << 40);
  struct rusage before {};
  struct rusage after {};
  ::getrusage(RUSAGE_SELF, &before);
  CHECK(has(error_of(Errc::parse, [&] { (void)GgufHeader::read(folder.file("m.gguf")); }),
            "a header of more than"));
  ::getrusage(RUSAGE_SELF, &after);
  CHECK(after.ru_maxrss - before.ru_maxrss < 16 << 10);  // In KiB.
}

TEST_CASE("architectures follow from the metadata") {
  const auto block = [](const std::string& i) {
    return std::vector<std::pair<std::string, std::vector<std::uint64_t>>>{
        {"blk." + i + ".attn_q.weight", {64, 64}}, {"blk." + i + ".attn_norm.weight", {64}}};
  };
  std::vector<std::pair<std::string, std::vector<std::uint64_t>>> tensors{
      {"token_embd.weight", {64, 100}}, {"output_norm.weight", {64}}};
  for (const auto* i : {"0", "1", "2"})
    for (const auto& tensor : block(i)) tensors.push_back(tensor);
  tensors.push_back({"blk.2.strange.weight", {64}});
  const std::vector<std::pair<std::string, std::uint32_t>> keys{{"block_count", 3},
                                                                {"embedding_length", 64},
                                                                {"feed_forward_length", 128},
                                                                {"context_length", 512},
                                                                {"attention.head_count", 8},
                                                                {"attention.head_count_kv", 2},
                                                                {"attention.sliding_window", 16}};
  const auto gemma = described(small_model("gemma2", keys, tensors));
  REQUIRE(gemma.architecture);
  CHECK(gemma.architecture->tied_embeddings);
  CHECK(gemma.architecture->vocabulary == 100);
  CHECK(gemma.architecture->layers[0].attention.window == 16);
  CHECK(gemma.architecture->layers[1].attention.window == 0);
  CHECK(gemma.architecture->layers[2].attention.key_dim == 8);
  CHECK(gemma.layers.size() == 5);
  CHECK(gemma.layers[3].name == "blk.2");
  CHECK(gemma.layers[3].block == 2);
  CHECK(gemma.parameters() == 64 * 100 + 64 + 3 * (64 * 64 + 64) + 64);
  CHECK_FALSE(gemma.layers[3].tensors.back().is_known);
  CHECK(has_note(gemma,
                 "1 tensors have names that gemma2 does not use, such as 'blk.2.strange.weight'"));
  // A tied head multiplies by the embedding; all matrices go through every token.
  CHECK(layer_costs(gemma, gemma.layers.back(), 0).matrix_flops_per_token == 2.0 * 6400);
  CHECK(layer_costs(gemma, gemma.layers[1], 100).attention_flops_per_token == 2.0 * 16 * 8 * 16);
  CHECK(layer_costs(gemma, gemma.layers[2], 100).attention_flops_per_token == 2.0 * 100 * 8 * 16);
  const auto windows = [&](const std::string& family, std::optional<std::uint32_t> pattern) {
    auto all = keys;
    if (pattern) all.emplace_back("attention.sliding_window_pattern", *pattern);
    const auto model = described(small_model(family, all, tensors));
    std::string text;
    for (const auto& layer : model.architecture->layers)
      text += layer.attention.window > 0 ? 'x' : '.';
    return text;
  };
  CHECK(windows("phi3", {}) == "...");
  CHECK(windows("gpt-oss", {}) == "x.x");
  CHECK(windows("another", 3) == "xx.");
  CHECK(windows("another", 0) == "xxx");
  auto experts = keys;
  for (const auto& key :
       std::vector<std::pair<std::string, std::uint32_t>>{{"expert_count", 8},
                                                          {"expert_used_count", 2},
                                                          {"expert_feed_forward_length", 32},
                                                          {"expert_shared_count", 2},
                                                          {"leading_dense_block_count", 1}})
    experts.push_back(key);
  tensors.push_back({"blk.1.ffn_up_exps.weight", {64, 32, 8}});
  tensors.push_back({"blk.1.ffn_up_shexp.weight", {64, 64}});
  tensors.push_back({"output.weight", {64, 100}});
  const auto moe = described(small_model("qwen3moe", experts, tensors));
  REQUIRE(moe.architecture);
  CHECK_FALSE(moe.architecture->tied_embeddings);
  CHECK(moe.architecture->layers[0].feed_forward.experts == 0);
  CHECK(moe.architecture->layers[1].feed_forward.shared_width == 64);
  // Two of eight experts: a quarter of their matrix.
  CHECK(layer_costs(moe, moe.layers[2], 0).matrix_flops_per_token ==
        2.0 * (64 * 64 + 64 * 64 + 64 * 32 * 8 / 4));
  CHECK(moe.active_parameters() == static_cast<double>(moe.parameters()) - 64 * 32 * 8 * 0.75);
  // What is no transformer is placed by its tensors.
  const auto other = described(small_model("clip", {}, tensors));
  CHECK_FALSE(other.architecture);
  CHECK(other.layers.size() == 5);
  CHECK(has_note(other, "do not describe a transformer"));
  CHECK(has(error_of(Errc::parse,
                     [&] {
                       (void)described(small_model(
                           "llama", {{"block_count", 5000}, {"embedding_length", 1}}, {}));
                     }),
            "at most 4096"));
}

TEST_CASE("a model in parts is one, whichever part is named") {
  const auto part = [](std::uint32_t number, std::uint32_t count, std::uint32_t total,
                       const std::string& tensor) {
    Image image;
    image.start(1, 3)
        .number("split.no", number)
        .number("split.count", count)
        .number("split.tensors.count", total);
    return image.tensor(tensor, {4}, 0, 0).data(16).bytes();
  };
  const ModelFolder folder;
  folder.write("m-00001-of-00002.gguf", part(0, 2, 2, "token_embd.weight"));
  CHECK(has(error_of(Errc::not_found,
                     [&] { (void)ModelDescription::read(folder.file("m-00001-of-00002.gguf")); }),
            "m-00002-of-00002.gguf: no such file, and it is part 2 of 2"));
  folder.write("m-00002-of-00002.gguf", part(1, 2, 2, "blk.0.w"));
  for (const auto* name : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    CHECK(ModelDescription::read(folder.file(name)).layers.size() == 2);
    CHECK(ModelDescription::read(folder.file(name)).name == "m");
  }
  CHECK(ModelDescription::read(folder.path()).layers.size() == 2);
  folder.write("m-00002-of-00002.gguf", part(1, 2, 2, "token_embd.weight"));
  CHECK(has(error_of(Errc::parse, [&] { (void)ModelDescription::read(folder.path()); }), "is in "));
  folder.write("m-00002-of-00002.gguf", part(0, 2, 2, "blk.0.w"));
  CHECK(has(error_of(Errc::parse, [&] { (void)ModelDescription::read(folder.path()); }),
            "is part 1 of 2 by its metadata and 2 of 2 by its name"));
  folder.write("m-00002-of-00002.gguf", part(1, 2, 3, "blk.0.w"));
  folder.write("m-00001-of-00002.gguf", part(0, 2, 3, "token_embd.weight"));
  CHECK(has(error_of(Errc::parse, [&] { (void)ModelDescription::read(folder.path()); }),
            "the metadata count 3"));
  folder.write("other.gguf", part(0, 1, 1, "x"));
  CHECK(has(error_of(Errc::invalid_argument, [&] { (void)ModelDescription::read(folder.path()); }),
            "name one"));
}
