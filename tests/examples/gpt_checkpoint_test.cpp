// Goal:   a run that goes on from a checkpoint, with other stages, is the run that never stopped;
//         and a checkpoint that is not whole is refused with the reason.
// Method: jobs of threads (fake_link.h) over a folder of their own.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "checkpoint.h"
#include "fake_link.h"

using namespace train_gpt;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kSeed = 21;

GptConfig test_config() { return {3, 8, 2, 8, 1, 3}; }

class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "gpt_checkpoint_XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

Corpus test_corpus() {
  std::string text;
  for (int i = 0; i < 20; ++i) text += "a stitch in time saves nine; ";
  return Corpus::from_text(text, "stitch", test_config());
}

// Steps [first, end) of a run; starts from `resume` if given and saves at the end if `save` is.
std::vector<double> train(const FakeJob& job, std::uint64_t first, std::uint64_t end,
                          const fs::path& resume, const fs::path& save) {
  std::vector<double> losses;
  const auto corpus = test_corpus();
  job.run([&](FakeJob::Process& process) {
    if (resume.empty()) {
      process.pipeline.initialize(kSeed);
    } else {
      const auto checkpoint = Checkpoint::open(resume);
      REQUIRE(checkpoint.info().step == first);
      REQUIRE(checkpoint.info().config == job.config);
      for (const auto& tensor : process.pipeline.tensors()) checkpoint.load(tensor);
    }
    for (auto step = first; step < end; ++step) {
      const auto loss = process.pipeline.step(corpus, kSeed, step, {}).loss;
      if (process.rank == 0) losses.push_back(loss);
    }
    if (!save.empty())
      save_checkpoint(process.link, save, {job.config, kSeed, end, 0.002}, process.own,
                      job.stages.size(), process.pipeline.tensors(), process.part);
  });
  return losses;
}

void save_two_stages(const fs::path& root) { train(make_job(test_config(), 2, 2), 0, 1, {}, root); }

void check_refused(const fs::path& path, const std::string& text) {
  CHECK_THROWS_WITH_AS(
      {
        const auto checkpoint = Checkpoint::open(path);
        const auto job = make_job(test_config(), 1, 1);
        job.run([&](FakeJob::Process& process) {
          for (const auto& tensor : process.pipeline.tensors()) checkpoint.load(tensor);
        });
      },
      doctest::Contains(text.c_str()), causeway::Error);
}

}  // namespace

TEST_CASE("a run goes on from a checkpoint with other stages as if it had not stopped") {
  const Folder folder;
  const auto whole = train(make_job(test_config(), 1, 1), 0, 6, {}, {});
  auto parts = train(make_job(test_config(), 3, 3), 0, 3, {}, folder.path());
  for (const auto loss : train(make_job(test_config(), 2, 1), 3, 5, folder.path(), folder.path()))
    parts.push_back(loss);
  for (const auto loss : train(make_job(test_config(), 5, 4), 5, 6, folder.path() / "step-5", {}))
    parts.push_back(loss);
  CHECK(parts == whole);
  CHECK(fs::read_symlink(folder.path() / "latest") == "step-5");
  CHECK(fs::exists(folder.path() / "step-3" / "stage-02-of-03.safetensors"));
}

TEST_CASE("a run goes on with other stages, replicas and shards") {
  auto config = test_config();
  config.micro_batches = 4;
  const auto whole = train(make_job(config, 1, 1), 0, 6, {}, {});
  const auto close = [&](const std::vector<double>& losses) {
    REQUIRE(losses.size() == whole.size());
    for (std::size_t i = 0; i < whole.size(); ++i)
      CHECK(losses[i] == doctest::Approx(whole[i]).epsilon(1e-5));
  };
  const std::vector<FakeJob> jobs{make_job(config, 2, 2, {2, 2}), make_job(config, 1, 1),
                                  make_job(config, 3, 3, {1, 2}), make_job(config, 2, 1, {4, 1})};
  for (const auto& first : jobs)
    for (const auto& second : jobs) {
      const Folder folder;
      auto losses = train(first, 0, 3, {}, folder.path());
      for (const auto loss : train(second, 3, 6, folder.path(), {})) losses.push_back(loss);
      close(losses);
      const auto files = fs::directory_iterator(folder.path() / "step-3");
      CHECK(std::distance(begin(files), end(files)) == std::ssize(first.stages));
    }
}

TEST_CASE("saving a step again replaces it, and what a dead run left is taken away") {
  const Folder folder;
  save_two_stages(folder.path());
  fs::create_directories(folder.path() / "step-1.tmp");
  std::ofstream(folder.path() / "step-1.tmp" / "stage-07-of-09.safetensors") << "rubbish";
  train(make_job(test_config(), 3, 3), 0, 1, {}, folder.path());
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path() / "step-1"))
    names.push_back(entry.path().filename().string());
  CHECK(names.size() == 3);
  CHECK_FALSE(fs::exists(folder.path() / "step-1.tmp"));
  CHECK_FALSE(fs::exists(folder.path() / "step-1.old"));
  CHECK(Checkpoint::open(folder.path()).info().step == 1);
}

TEST_CASE("what a checkpoint remembers is read back") {
  const Folder folder;
  save_two_stages(folder.path());
  const CheckpointInfo expected{test_config(), kSeed, 1, 0.002};
  CHECK(Checkpoint::open(folder.path()).info() == expected);
}

TEST_CASE("no checkpoint, no folder") {
  const Folder folder;
  check_refused(folder.path(), "no checkpoint in");
  check_refused(folder.path() / "missing", "no checkpoint in");
  fs::create_directory_symlink("step-9", folder.path() / "latest");
  check_refused(folder.path(), "step-9");
}

TEST_CASE("a missing file is noticed") {
  const Folder folder;
  save_two_stages(folder.path());
  fs::remove(folder.path() / "step-1" / "stage-00-of-02.safetensors");
  check_refused(folder.path(), "a file is missing or foreign");
}

TEST_CASE("a file of another step is noticed") {
  const Folder folder;
  save_two_stages(folder.path());
  train(make_job(test_config(), 2, 2), 0, 2, {}, folder.path());
  fs::copy_file(folder.path() / "step-1" / "stage-01-of-02.safetensors",
                folder.path() / "step-2" / "stage-01-of-02.safetensors",
                fs::copy_options::overwrite_existing);
  check_refused(folder.path(), "a file is missing or foreign");
}

TEST_CASE("the same stage twice is noticed") {
  const Folder folder;
  save_two_stages(folder.path());
  fs::copy_file(folder.path() / "step-1" / "stage-00-of-02.safetensors",
                folder.path() / "step-1" / "stage-01-of-02.safetensors",
                fs::copy_options::overwrite_existing);
  check_refused(folder.path(), "is in another file of the folder too");
}

TEST_CASE("a truncated file is named") {
  const Folder folder;
  save_two_stages(folder.path());
  const auto path = folder.path() / "step-1" / "stage-01-of-02.safetensors";
  const auto size = fs::file_size(path);
  for (const auto rest :
       {size - 1, size / 2, std::uintmax_t{100}, std::uintmax_t{4}, std::uintmax_t{0}}) {
    INFO("rest=", rest);
    fs::resize_file(path, rest);
    check_refused(folder.path(), "stage-01-of-02.safetensors");
  }
}

TEST_CASE("a file that is no checkpoint of ours is named") {
  const Folder folder;
  const std::vector<float> values(4);
  causeway::write_safetensors(
      (folder.path() / "foreign.safetensors").string(),
      std::vector<causeway::TensorData>{
          {{"w", causeway::DType::f32, {4}}, std::as_bytes(std::span(values))}});
  check_refused(folder.path(), "metadata 'format' is ''");
}

TEST_CASE("a tensor of another shape, or none, is named") {
  const Folder folder;
  save_two_stages(folder.path());
  const auto checkpoint = Checkpoint::open(folder.path());
  std::vector<float> values(64);
  OwnTensor tensor{{"layers.0.norm1.bias", causeway::DType::f32, {4}},
                   {1, 4, 4, 0},
                   0,
                   0,
                   &processor<float>(),
                   values,
                   values,
                   values,
                   values};
  CHECK_THROWS_WITH_AS(checkpoint.load(tensor),
                       doctest::Contains("'layers.0.norm1.bias' is F32 [8], the model has F32 [4]"),
                       causeway::Error);
  tensor.spec.name = "layers.9.norm1.bias";
  CHECK_THROWS_WITH_AS(checkpoint.load(tensor), doctest::Contains("is in none of the 2 files"),
                       causeway::Error);
}

TEST_CASE("processes that do not share the folder are told so, and nothing is published") {
  const Folder folder;
  CHECK_THROWS_WITH_AS(make_job(test_config(), 2, 2).run([&](FakeJob::Process& process) {
    const auto root = folder.path() / std::to_string(process.rank);
    fs::create_directories(root / "step-1.tmp");
    process.pipeline.initialize(kSeed);
    save_checkpoint(process.link, root, {test_config(), kSeed, 1, 0.002}, process.own, 2,
                    process.pipeline.tensors());
  }),
                       doctest::Contains("give --checkpoint a folder that all nodes share"),
                       causeway::Error);
  CHECK_FALSE(fs::exists(folder.path() / "0" / "step-1"));
  CHECK_FALSE(fs::exists(folder.path() / "0" / "latest"));
}
