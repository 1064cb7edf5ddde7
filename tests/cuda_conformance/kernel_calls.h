// The calls that load and launch kernels, which the backend itself does not make; for programs that
// have opened the driver otherwise.
//
// Errors:  load() throws where the driver lacks one.
// Threads: any.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "tests/cuda_emulator/api.h"

namespace causeway::conformance {

struct KernelCalls {
  bool is_software = false;
  cuda::Result (*cuModuleLoadData)(cuda::Module* module, const void* image) = nullptr;
  cuda::Result (*cuModuleUnload)(cuda::Module module) = nullptr;
  cuda::Result (*cuModuleGetFunction)(cuda::Function* function, cuda::Module module,
                                      const char* name) = nullptr;
  cuda::Result (*cuLaunchKernel)(cuda::Function function, unsigned grid_x, unsigned grid_y,
                                 unsigned grid_z, unsigned block_x, unsigned block_y,
                                 unsigned block_z, unsigned shared_bytes, cuda::Stream stream,
                                 void** parameters, void** extra) = nullptr;

  void load() {
    const char* named = std::getenv("CAUSEWAY_CUDA_LIBRARY");
    const std::string file = named != nullptr && *named != '\0' ? named : "libcuda.so.1";
    void* const library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(::dlerror());
    is_software = ::dlsym(library, "causeway_cuda_fail") != nullptr;
    const auto find = [library](const char* name, auto& into) {
      void* const at = ::dlsym(library, name);
      if (at == nullptr) throw std::runtime_error(std::string("the driver has no ") + name);
      into = reinterpret_cast<std::remove_reference_t<decltype(into)>>(at);
    };
    find("cuModuleLoadData", cuModuleLoadData);
    find("cuModuleUnload", cuModuleUnload);
    find("cuModuleGetFunction", cuModuleGetFunction);
    find("cuLaunchKernel", cuLaunchKernel);
  }
};

}  // namespace causeway::conformance
