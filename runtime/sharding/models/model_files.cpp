#include "runtime/sharding/models/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "causeway/gguf.h"
#include "runtime/sharding/byte_source.h"
#include "runtime/sharding/models/gguf_architecture.h"
#include "runtime/sharding/safetensors_header.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxJsonBytes = std::uint64_t{32} << 20;
constexpr std::size_t kPartDigits = 5;
constexpr const char* kIndexEnd = ".safetensors.index.json";

std::string read_json(const std::string& path) {
  auto source = ByteSource::open(path);
  if (source.left() > kMaxJsonBytes)
    throw Error(Errc::parse, fmt::format("{}: {} bytes; at most {} are read", path, source.left(),
                                         kMaxJsonBytes));
  std::string text(source.left(), '\0');
  source.read(std::as_writable_bytes(std::span(text)));
  return text;
}

bool exists(const std::string& path) {
  std::error_code ec;
  return fs::exists(path, ec);
}

std::vector<SafetensorsFile::Entry> read_header(const std::string& path) {
  auto source = ByteSource::open(path);
  const auto file_bytes = source.left();
  std::vector<std::byte> start(std::min(kSafetensorsLengthBytes, file_bytes));
  source.read(start);
  std::string header(read_safetensors_length(start, file_bytes, path), '\0');
  source.read(std::as_writable_bytes(std::span(header)));
  return read_safetensors_header(header, source.left(), path, nullptr);
}

std::vector<std::string> files_in(const std::string& folder, std::string_view end) {
  std::error_code ec;
  std::vector<std::string> files;
  for (fs::directory_iterator at(folder, ec), last; !ec && at != last; at.increment(ec))
    if (at->path().filename().string().ends_with(end)) files.push_back(at->path().string());
  if (ec) throw system_error(folder + ": cannot be listed", ec.value());
  std::ranges::sort(files);
  return files;
}

// Tensors of several files, of which each has its own.
class Gatherer {
 public:
  explicit Gatherer(ModelFiles& model) : model_(model) {}

  void add(const std::string& file, std::vector<SafetensorsFile::Entry> entries) {
    for (auto& [tensor, offset] : entries) add(file, std::move(tensor));
  }
  void add(const std::string& file, TensorSpec tensor) {
    if (!is_plain_name(tensor.name))
      throw Error(Errc::parse, fmt::format("{}: tensor '{}' has an empty or long name, or control "
                                           "characters in it; rename it",
                                           file, printable(tensor.name, 200)));
    const auto [at, fresh] = owners_.emplace(tensor.name, file);
    if (!fresh)
      throw Error(Errc::parse, fmt::format("{}: tensor '{}' is in {} too; keep one", file,
                                           printable(tensor.name, 200), at->second));
    model_.tensors.push_back(std::move(tensor));
  }
  [[nodiscard]] bool has(const std::string& name) const { return owners_.contains(name); }

 private:
  ModelFiles& model_;
  std::map<std::string, std::string> owners_;
};

void read_indexed(const std::string& index_path, ModelFiles& model) {
  const auto folder = fs::path(index_path).parent_path();
  const auto index = read_safetensors_index(read_json(index_path), index_path);
  model.total_bytes = index.total_bytes;
  std::set<std::string> files;
  for (const auto& [tensor, file] : index.files_of) files.insert(file);
  std::set<std::string> missing;
  std::set<std::string> named;
  Gatherer gatherer(model);
  for (const auto& file : files) {
    const auto path = (folder / file).string();
    if (exists(path))
      gatherer.add(path, read_header(path));
    else
      missing.insert(file);
  }
  for (const auto& [tensor, file] : index.files_of) {
    named.insert(tensor);
    if (missing.contains(file))
      model.only_named.push_back(tensor);
    else if (!gatherer.has(tensor))
      throw Error(Errc::parse,
                  fmt::format("{}: tensor '{}' is not in {}, which the index names for it; "
                              "the files do not belong together",
                              index_path, printable(tensor, 200), file));
  }
  const auto strangers = std::ranges::count_if(
      model.tensors, [&](const TensorSpec& tensor) { return !named.contains(tensor.name); });
  if (strangers > 0)
    model.notes.push_back(
        fmt::format("{} tensors are in the files and not in the index.", strangers));
  if (!missing.empty())
    model.notes.push_back(
        fmt::format("{} of {} files are not there (such as {}): the sizes of their {} tensors "
                    "follow from config.json.",
                    missing.size(), files.size(), *missing.begin(), model.only_named.size()));
  model.origin += fmt::format(" + index + {} safetensors file{}", files.size() - missing.size(),
                              files.size() - missing.size() == 1 ? "" : "s");
}

void read_gguf(const std::string& path, ModelFiles& model) {
  model.is_gguf = true;
  Gatherer gatherer(model);
  const auto files = gguf_files(path);
  std::optional<GgufHeader> whole;  // All parts as one; the first has the metadata.
  for (std::size_t i = 0; i < files.size(); ++i) {
    auto header = GgufHeader::read(files[i]);
    const auto count = header.number("split.count").value_or(1);
    const auto number = header.number("split.no").value_or(0);
    if (files.size() > 1 && (count != files.size() || number != i))
      throw Error(Errc::parse,
                  fmt::format("{}: is part {} of {} by its metadata and {} of {} by its name",
                              files[i], number + 1, count, i + 1, files.size()));
    for (const auto& [tensor, offset] : header.entries) gatherer.add(files[i], tensor);
    if (i == 0)
      whole = std::move(header);
    else
      whole->entries.insert(whole->entries.end(), header.entries.begin(), header.entries.end());
  }
  const auto total = whole->number("split.tensors.count");
  if (files.size() > 1 && total && *total != model.tensors.size())
    throw Error(Errc::parse, fmt::format("{}: {} tensors in {} parts; the metadata count {}",
                                         files[0], model.tensors.size(), files.size(), *total));
  if (files.size() == 1 && whole->number("split.count").value_or(1) > 1)
    model.notes.push_back(
        fmt::format("{} is one part of {}; the others are not looked for under another name.", path,
                    *whole->number("split.count")));
  if (const auto name = whole->text("general.name"); name && !name->empty())
    model.name = printable(*name, 200);
  else if (const auto at = model.name.rfind("-of-"); files.size() > 1 && at != std::string::npos)
    model.name.resize(at - std::min(at, kPartDigits + 1));  // Without "-00001-of-00003".
  model.architecture = gguf_architecture(*whole, model.notes);
  model.origin = files.size() == 1 ? "GGUF" : fmt::format("GGUF in {} files", files.size());
}

void read_folder(const std::string& folder, ModelFiles& model) {
  if (const auto config = (fs::path(folder) / "config.json").string(); exists(config)) {
    model.config = read_config(read_json(config), config);
    model.architecture = model.config.architecture;
    model.notes.insert(model.notes.end(), model.config.notes.begin(), model.config.notes.end());
    model.origin = "config.json";
  }
}

void read_weights(const std::string& folder, ModelFiles& model) {
  auto indices = files_in(folder, kIndexEnd);
  const auto usual = (fs::path(folder) / ("model" + std::string(kIndexEnd))).string();
  if (std::ranges::find(indices, usual) != indices.end()) indices = {usual};
  if (indices.size() == 1) return read_indexed(indices.front(), model);
  const auto files = files_in(folder, ".safetensors");
  if (!files.empty()) {
    Gatherer gatherer(model);
    for (const auto& file : files) gatherer.add(file, read_header(file));
    model.origin += fmt::format("{}{} safetensors file{}", model.origin.empty() ? "" : " + ",
                                files.size(), files.size() == 1 ? "" : "s");
    return;
  }
  const auto ggufs = files_in(folder, ".gguf");
  if (!ggufs.empty()) {
    const auto parts = gguf_files(ggufs.front());
    if (parts.size() != ggufs.size())
      throw Error(Errc::invalid_argument,
                  fmt::format("{}: holds {} GGUF files; name one", folder, ggufs.size()));
    return read_gguf(ggufs.front(), model);
  }
  if (!model.architecture)
    throw Error(Errc::not_found,
                folder +
                    ": holds no .safetensors file, no .gguf file and no config.json that tells the "
                    "sizes; name a folder that does");
  model.notes.emplace_back("No weights are there: tensors and sizes follow from config.json.");
}

}  // namespace

ModelFiles read_model_files(const std::string& path) {
  ModelFiles model;
  auto named = fs::path(path).lexically_normal();
  std::error_code ec;
  const bool is_folder = fs::is_directory(path, ec);
  const auto folder = is_folder                 ? path
                      : named.has_parent_path() ? named.parent_path().string()
                                                : ".";
  const bool is_json = !is_folder && path.ends_with(".json");
  if (is_json) named = fs::absolute(named, ec).parent_path();
  if (!named.has_filename()) named = named.parent_path();
  if (is_folder && (named.filename() == "." || named.filename() == ".."))
    named = fs::canonical(path, ec);
  model.name = is_folder || is_json ? named.filename().string() : named.stem().string();
  model.name = printable(model.name, 200);
  if (model.name.empty()) model.name = "model";
  if (!is_folder && path.ends_with(".gguf")) {
    read_gguf(path, model);
    return model;
  }
  if (!is_folder && !exists(path)) throw Error(Errc::not_found, path + ": no such file or folder");
  if (!is_folder && !is_json && !path.ends_with(".safetensors"))
    throw Error(
        Errc::invalid_argument,
        path + ": is no folder and no .safetensors, .gguf or .json file; name one of these");
  read_folder(folder, model);
  if (is_folder) {
    read_weights(folder, model);
  } else if (path.ends_with(kIndexEnd)) {
    read_indexed(path, model);
  } else if (is_json) {
    if (fs::path(path).filename() != "config.json" || !model.architecture)
      throw Error(Errc::invalid_argument,
                  path + ": is neither a config.json nor an index of safetensors files");
    model.notes.emplace_back("Only config.json was read: tensors and sizes follow from it.");
  } else {
    Gatherer gatherer(model);
    gatherer.add(path, read_header(path));
    model.origin += model.origin.empty() ? "1 safetensors file" : " + 1 safetensors file";
  }
  return model;
}

}  // namespace causeway
