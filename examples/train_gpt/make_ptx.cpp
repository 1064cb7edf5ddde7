// Makes gpu_kernels.ptx from gpu_kernels.cu, or checks that it was.
//
//   gpt_ptx FOLDER --check
//   gpt_ptx FOLDER /usr/local/cuda-11.8/lib64/libnvrtc.so
//
// The PTX lies beside its source so that a machine with a driver and no CUDA Toolkit can build and
// train. A driver takes no PTX that is newer than itself: so make it with an old NVRTC (11.8 is the
// last that knows compute_70) rather than with the newest.
#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "random.h"

namespace {

// NVRTC's binary interface: its documentation.
using Program = struct ProgramTag*;
struct Nvrtc {
  int (*create)(Program*, const char* source, const char* name, int headers, const char* const*,
                const char* const*);
  int (*compile)(Program, int options, const char* const*);
  int (*log_size)(Program, std::size_t*);
  int (*log)(Program, char*);
  int (*ptx_size)(Program, std::size_t*);
  int (*ptx)(Program, char*);
};

Nvrtc open(const char* file) {
  void* library = ::dlopen(file, RTLD_NOW);
  if (library == nullptr) throw std::runtime_error(::dlerror());
  Nvrtc nvrtc{};
  const auto find = [&](const char* name, auto& into) {
    into = reinterpret_cast<std::remove_reference_t<decltype(into)>>(::dlsym(library, name));
    if (into == nullptr) throw std::runtime_error(fmt::format("{} has no {}", file, name));
  };
  find("nvrtcCreateProgram", nvrtc.create);
  find("nvrtcCompileProgram", nvrtc.compile);
  find("nvrtcGetProgramLogSize", nvrtc.log_size);
  find("nvrtcGetProgramLog", nvrtc.log);
  find("nvrtcGetPTXSize", nvrtc.ptx_size);
  find("nvrtcGetPTX", nvrtc.ptx);
  return nvrtc;
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string first_line(const std::string& folder) {
  std::string sources;
  for (const char* name : {"gpu_block.h", "gpu_kernels.h", "gpu_kernels.cu"})
    sources += read(folder + "/" + name);
  return fmt::format("// Made by make_ptx.cpp from sources {:016x}.\n",
                     train_gpt::hash_of(sources));
}

std::string compile(const Nvrtc& nvrtc, const std::string& folder) {
  const auto path = folder + "/gpu_kernels.cu";
  const auto include = "-I" + folder;
  const char* options[] = {"--gpu-architecture=compute_70", "--std=c++17", include.c_str()};
  Program program = nullptr;
  if (nvrtc.create(&program, read(path).c_str(), path.c_str(), 0, nullptr, nullptr) != 0)
    throw std::runtime_error("nvrtcCreateProgram failed");
  const int result = nvrtc.compile(program, std::size(options), options);
  std::size_t size = 0;
  std::string text;
  const auto take = [&](auto get_size, auto get) {
    if (get_size(program, &size) != 0) throw std::runtime_error("NVRTC has no answer");
    text.resize(size);
    if (get(program, text.data()) != 0) throw std::runtime_error("NVRTC has no answer");
    text.resize(text.find('\0'));
  };
  if (result != 0) {
    take(nvrtc.log_size, nvrtc.log);
    throw std::runtime_error(fmt::format("NVRTC refused ({}):\n{}", result, text));
  }
  take(nvrtc.ptx_size, nvrtc.ptx);
  return text;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    fmt::print(stderr, "usage: gpt_ptx FOLDER --check|LIBNVRTC\n");
    return 2;
  }
  const std::string folder = argv[1];
  const auto path = folder + "/gpu_kernels.ptx";
  const auto stamp = first_line(folder);
  if (argv[2] == std::string("--check")) {
    if (read(path).starts_with(stamp)) return 0;
    fmt::print(stderr, "{} is not of the sources beside it: make it again (make_ptx.cpp)\n", path);
    return 1;
  }
  const auto text = stamp + compile(open(argv[2]), folder);
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "gpt_ptx: {}\n", error.what());
  return 1;
}
