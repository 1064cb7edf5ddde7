#include "checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <deque>
#include <functional>

namespace train_gpt {

namespace {

namespace fs = std::filesystem;
using causeway::Errc;
using causeway::Error;
using Metadata = std::map<std::string, std::string>;

constexpr const char* kFormat = "train_gpt 1";
constexpr const char* kMomentSuffix = ".adam_m";
constexpr const char* kSecondMomentSuffix = ".adam_v";

fs::path stage_file(const fs::path& folder, std::size_t stage, std::size_t stages) {
  return folder / fmt::format("stage-{:02}-of-{:02}.safetensors", stage, stages);
}

// Turns the exceptions of std::filesystem into ours.
void on_disk(const std::string& what, const std::function<void()>& action) {
  try {
    action();
  } catch (const fs::filesystem_error& error) {
    throw Error(Errc::io, fmt::format("{}: {}", what, error.code().message()));
  }
}

// Makes renames in `folder` last over a power cut.
void sync_folder(const fs::path& folder) {
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) throw causeway::system_error("cannot open " + folder.string(), errno);
  const int result = ::fsync(file);
  const int reason = errno;
  ::close(file);
  if (result != 0) throw causeway::system_error("cannot sync " + folder.string(), reason);
}

Metadata to_metadata(const CheckpointInfo& info, std::size_t stages) {
  return {{"format", kFormat},
          {"step", std::to_string(info.step)},
          {"seed", std::to_string(info.seed)},
          {"learning_rate", fmt::format("{}", info.learning_rate)},
          {"layers", std::to_string(info.config.blocks)},
          {"width", std::to_string(info.config.width)},
          {"heads", std::to_string(info.config.heads)},
          {"context", std::to_string(info.config.context)},
          {"micro_batch", std::to_string(info.config.micro_batch)},
          {"micro_batches", std::to_string(info.config.micro_batches)},
          {"stages", std::to_string(stages)}};
}

template <typename T>
T number(const Metadata& metadata, const std::string& key, const std::string& file) {
  const auto entry = metadata.find(key);
  if (entry == metadata.end())
    throw Error(Errc::parse, fmt::format("{}: metadata has no '{}'; it is no checkpoint of "
                                         "train_gpt",
                                         file, key));
  T value{};
  const auto& text = entry->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size())
    throw Error(Errc::parse,
                fmt::format("{}: metadata '{}' is '{}', not a number", file, key, text));
  return value;
}

CheckpointInfo from_metadata(const Metadata& metadata, const std::string& file) {
  const auto format = metadata.find("format");
  if (format == metadata.end() || format->second != kFormat)
    throw Error(Errc::parse, fmt::format("{}: metadata 'format' is '{}', not '{}'", file,
                                         format == metadata.end() ? "" : format->second, kFormat));
  CheckpointInfo info;
  info.step = number<std::uint64_t>(metadata, "step", file);
  info.seed = number<std::uint64_t>(metadata, "seed", file);
  info.learning_rate = number<double>(metadata, "learning_rate", file);
  info.config.blocks = number<std::uint32_t>(metadata, "layers", file);
  info.config.width = number<std::uint32_t>(metadata, "width", file);
  info.config.heads = number<std::uint32_t>(metadata, "heads", file);
  info.config.context = number<std::uint32_t>(metadata, "context", file);
  info.config.micro_batch = number<std::uint32_t>(metadata, "micro_batch", file);
  info.config.micro_batches = number<std::uint32_t>(metadata, "micro_batches", file);
  try {
    info.config.validate();
  } catch (const Error& error) {
    throw Error(Errc::parse, fmt::format("{}: metadata: {}", file, error.what()));
  }
  return info;
}

// The whole of what each shard has a part of, in host memory. All shards call it.
std::span<const float> gather(Link& link, const OwnTensor& tensor, std::span<float> values,
                              std::deque<std::vector<float>>& memory) {
  const auto view = tensor.compute->view(values);
  const auto part = view.host();
  const auto& cut = tensor.cut;
  if (part.data() == values.data() && cut.is_whole()) return part;
  auto& whole = memory.emplace_back(cut.whole_size(), 0.0F);
  cut.put(part, whole);
  if (!cut.is_whole()) link.sum_of_shards(whole);
  return whole;
}

void write_stage(Link& link, const fs::path& path, const CheckpointInfo& info, int stage,
                 std::size_t stages, std::span<const OwnTensor> tensors, const Part& part) {
  std::deque<std::vector<float>> memory;
  std::vector<causeway::TensorData> parts;
  for (const auto& tensor : tensors) {
    if (tensor.stage != stage) continue;
    const auto add = [&](const char* suffix, std::span<float> values) {
      const auto whole = gather(link, tensor, values, memory);
      if (part.shard > 0) return memory.clear();
      parts.push_back({tensor.spec, std::as_bytes(whole)});
      parts.back().tensor.name += suffix;
    };
    add("", tensor.weights);
    add(kMomentSuffix, tensor.m);
    add(kSecondMomentSuffix, tensor.v);
  }
  if (part.shard == 0) causeway::write_safetensors(path.string(), parts, to_metadata(info, stages));
}

// `folder` takes the place of `target`, and DIR/latest points to it.
void publish(const fs::path& root, const fs::path& folder, const fs::path& target) {
  const auto old = fs::path(target.string() + ".old");
  fs::remove_all(old);
  if (fs::exists(target)) fs::rename(target, old);
  fs::rename(folder, target);
  fs::remove_all(old);
  const auto link = root / "latest.tmp";
  fs::remove(link);
  fs::create_directory_symlink(target.filename(), link);
  fs::rename(link, root / "latest");
  sync_folder(root);
}

}  // namespace

void save_checkpoint(Link& link, const fs::path& root, const CheckpointInfo& info,
                     const std::vector<int>& own_stages, std::size_t stages,
                     std::span<const OwnTensor> tensors, const Part& part) {
  const auto target = root / fmt::format("step-{}", info.step);
  const auto folder = fs::path(target.string() + ".tmp");
  const auto what = fmt::format("cannot write the checkpoint '{}'", target.string());
  on_disk(what, [&] {
    if (link.rank() != 0) return;
    fs::remove_all(folder);  // What a run that died has left.
    fs::create_directories(folder);
  });
  link.barrier();
  if (part.replica == 0)
    for (const int stage : own_stages)
      write_stage(link, stage_file(folder, static_cast<std::size_t>(stage), stages), info, stage,
                  stages, tensors, part);
  link.barrier();
  on_disk(what, [&] {
    if (link.rank() != 0) return;
    for (std::size_t stage = 0; stage < stages; ++stage)
      if (const auto path = stage_file(folder, stage, stages); !fs::exists(path))
        throw Error(Errc::io, fmt::format("{}: '{}' did not arrive; give --checkpoint a folder "
                                          "that all nodes share",
                                          what, path.string()));
    sync_folder(folder);
    publish(root, folder, target);
  });
  link.barrier();
}

Checkpoint Checkpoint::open(const fs::path& path) {
  Checkpoint checkpoint;
  std::vector<fs::path> paths;
  on_disk(fmt::format("cannot read the checkpoint '{}'", path.string()), [&] {
    checkpoint.folder_ =
        fs::is_symlink(path / "latest") ? path / fs::read_symlink(path / "latest") : path;
    if (fs::is_directory(checkpoint.folder_))
      for (const auto& entry : fs::directory_iterator(checkpoint.folder_))
        if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  });
  if (paths.empty())
    throw Error(Errc::not_found, fmt::format("no checkpoint in '{}'; give the folder of "
                                             "--checkpoint or one of its step folders",
                                             checkpoint.folder_.string()));
  std::ranges::sort(paths);
  std::size_t stages = 0;
  for (const auto& file_path : paths) {
    const auto name = file_path.string();
    auto file = causeway::SafetensorsFile::open(name);
    const auto info = from_metadata(file.metadata(), name);
    stages = number<std::size_t>(file.metadata(), "stages", name);
    if (checkpoint.files_.empty()) checkpoint.info_ = info;
    if (info != checkpoint.info_ || stages != paths.size())
      throw Error(Errc::parse,
                  fmt::format("{}: belongs to a checkpoint of {} files at step {}, "
                              "the folder has {} files and starts with step {}; a "
                              "file is missing or foreign",
                              name, stages, info.step, paths.size(), checkpoint.info_.step));
    for (const auto& entry : file.entries())
      if (!checkpoint.file_of_tensor_.emplace(entry.tensor.name, checkpoint.files_.size()).second)
        throw Error(Errc::parse, fmt::format("{}: tensor '{}' is in another file of the folder too",
                                             name, entry.tensor.name));
    checkpoint.files_.emplace_back(name, std::move(file));
  }
  return checkpoint;
}

void Checkpoint::load_part(const std::string& name, const causeway::TensorSpec& like,
                           const Cut& cut, std::span<float> target) const {
  const auto entry = file_of_tensor_.find(name);
  if (entry == file_of_tensor_.end())
    throw Error(Errc::parse, fmt::format("{}: tensor '{}' is in none of the {} files; the "
                                         "checkpoint is incomplete",
                                         folder_.string(), name, files_.size()));
  const auto& [path, file] = files_[entry->second];
  const auto& found = file.tensor(name);
  if (found.dtype != like.dtype || found.shape != like.shape)
    throw Error(Errc::parse, fmt::format("{}: tensor '{}' is {} [{}], the model has {} [{}]", path,
                                         name, to_string(found.dtype), fmt::join(found.shape, ", "),
                                         to_string(like.dtype), fmt::join(like.shape, ", ")));
  const auto bytes = file.data(name);
  if (cut.is_whole()) {
    std::memcpy(target.data(), bytes.data(), target.size_bytes());
    return;
  }
  std::vector<float> whole(cut.whole_size());  // The file's bytes need not be aligned.
  std::memcpy(whole.data(), bytes.data(), bytes.size());
  cut.take(whole, target);
}

void Checkpoint::load(const OwnTensor& tensor) const {
  const auto load = [&](const char* suffix, std::span<float> values) {
    const auto view = tensor.compute->blank(values);
    load_part(tensor.spec.name + suffix, tensor.spec, tensor.cut, view.host());
    view.put();
  };
  load("", tensor.weights);
  load(kMomentSuffix, tensor.m);
  load(kSecondMomentSuffix, tensor.v);
  tensor.compute->clear(tensor.gradients);
}

}  // namespace train_gpt
