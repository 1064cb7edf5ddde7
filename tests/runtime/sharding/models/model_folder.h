// A folder of this test's own with the files of a model in it: config, index, headers of
// safetensors whose data are a hole, so that a terabyte takes no room.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/model_description.h"
#include "causeway/safetensors.h"

class ModelFolder {
 public:
  ModelFolder() {
    auto pattern = (std::filesystem::temp_directory_path() / "causeway-models-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ModelFolder(const ModelFolder&) = delete;
  ModelFolder& operator=(const ModelFolder&) = delete;
  ~ModelFolder() { std::filesystem::remove_all(path_); }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, std::string_view text) const {
    std::ofstream(file(name), std::ios::binary) << text;
  }
  // A header like that of any other writer, made without this project's own.
  void write_sparse(const std::string& name,
                    const std::vector<causeway::TensorSpec>& tensors) const {
    std::string header = "{";
    std::uint64_t offset = 0;
    for (const auto& tensor : tensors) {
      if (header.size() > 1) header += ",";
      header += "\"" + tensor.name + "\":{\"dtype\":\"" + std::string(to_string(tensor.dtype)) +
                "\",\"shape\":[";
      for (std::size_t i = 0; i < tensor.shape.size(); ++i)
        header += (i > 0 ? "," : "") + std::to_string(tensor.shape[i]);
      const auto end = offset + tensor.size_bytes();
      header += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
      offset = end;
    }
    header += "}";
    std::string start(8, '\0');
    for (int i = 0; i < 8; ++i) start[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
    write(name, start + header);
    std::filesystem::resize_file(file(name), 8 + header.size() + offset);
  }

 private:
  std::string path_;
};

// The message of the Error that `call` ends in, after its code was checked.
template <typename Call>
std::string error_of(causeway::Errc code, Call call) {
  try {
    call();
  } catch (const causeway::Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "accepted";
}

inline bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

inline bool has_note(const causeway::ModelDescription& model, std::string_view part) {
  for (const auto& note : model.notes)
    if (has(note, part)) return true;
  return false;
}
