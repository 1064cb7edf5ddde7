// Modules and libraries of host images (image.h), and launches of what is in them.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <thread>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Needs;
using em::require;
using em::run_call;

namespace {

struct Shape {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
};

using Functions = std::vector<std::unique_ptr<FunctionTag>>;

Functions read_image(const void* image, ContextTag* context) {
  require(image != nullptr);
  em::KernelImage own;
  std::memcpy(static_cast<void*>(&own.magic), image, sizeof own.magic);
  require(own.magic == em::kImageMagic, kInvalidImage);
  std::memcpy(static_cast<void*>(&own), image, sizeof own);
  Functions functions;
  for (std::size_t i = 0; i < own.count; ++i) {
    functions.push_back(std::make_unique<FunctionTag>());
    functions.back()->entry = &own.kernels[i];
    functions.back()->context = context;
  }
  return functions;
}

void register_all(const Functions& functions) {
  for (const auto& function : functions) em::world().functions.insert(function.get());
}

void forget_all(const Functions& functions) {
  for (const auto& function : functions) em::world().functions.erase(function.get());
}

FunctionTag* find(const Functions& functions, const char* name) {
  const auto found = std::ranges::find_if(
      functions, [name](const auto& each) { return std::strcmp(each->entry->name, name) == 0; });
  require(found != functions.end(), kNotFound);
  return found->get();
}

const em::KernelEntry& entry_of(Function function) {
  const std::lock_guard lock(em::world().mutex);
  require(em::world().functions.contains(function), kInvalidHandle);
  return *function->entry;
}

// A library's code as a module of the current context, with the world's mutex held.
ModuleTag& module_of(LibraryTag& library) {
  auto* const context = em::current();
  auto& module = library.modules[context];
  if (module) return *module;
  module = std::make_unique<ModuleTag>();
  module->context = context;
  for (const auto& kernel : library.kernels) {
    module->functions.push_back(std::make_unique<FunctionTag>());
    module->functions.back()->entry = kernel->entry;
    module->functions.back()->context = context;
  }
  register_all(module->functions);
  return *module;
}

std::size_t offset_of(const em::KernelEntry& entry, std::size_t index) {
  std::size_t at = 0;
  for (std::size_t i = 0;; ++i) {
    const auto bytes = entry.parameter_sizes[i];
    const auto alignment = std::min<std::size_t>(std::max<std::size_t>(bytes, 1), 8);
    at = (at + alignment - 1) / alignment * alignment;
    if (i == index) return at;
    at += bytes;
  }
}

void get_parameter_info(const em::KernelEntry& entry, std::size_t index, std::size_t* offset,
                        std::size_t* size) {
  require(offset != nullptr && index < entry.parameter_count);
  *offset = offset_of(entry, index);
  if (size != nullptr) *size = entry.parameter_sizes[index];
}

// The values of a launch's parameters, which the caller may change once the call is over.
struct Arguments {
  std::vector<std::vector<unsigned char>> values;
  std::vector<void*> pointers;
};

// `extra`: the parameters as one image, a list of names and values.
const unsigned char* image_of(void** extra, std::size_t& size_bytes) {
  const void* buffer = nullptr;
  for (; *extra != kExtraEnd; extra += 2) {
    require(extra[0] == kExtraBuffer || extra[0] == kExtraSize);
    if (extra[0] == kExtraBuffer)
      buffer = extra[1];
    else
      std::memcpy(&size_bytes, extra[1], sizeof size_bytes);
  }
  require(buffer != nullptr);
  return static_cast<const unsigned char*>(buffer);
}

std::shared_ptr<Arguments> copy_arguments(const em::KernelEntry& entry, void** parameters,
                                          void** extra) {
  require(parameters == nullptr || extra == nullptr);
  auto result = std::make_shared<Arguments>();
  std::size_t image_bytes = 0;
  const auto* const image = extra != nullptr ? image_of(extra, image_bytes) : nullptr;
  for (std::size_t i = 0; i < entry.parameter_count; ++i) {
    const auto size = entry.parameter_sizes[i];
    const unsigned char* from = nullptr;
    if (image != nullptr) {
      require(offset_of(entry, i) + size <= image_bytes);
      from = image + offset_of(entry, i);
    } else {
      require(parameters != nullptr && parameters[i] != nullptr);
      from = static_cast<const unsigned char*>(parameters[i]);
    }
    result->values.emplace_back(from, from + size);
  }
  for (auto& value : result->values) result->pointers.push_back(value.data());
  return result;
}

void run_grid(const em::KernelEntry& entry, em::KernelThread thread, void* const* parameters) {
  auto& [gx, gy, gz] = thread.block_index;
  auto& [x, y, z] = thread.thread_index;
  for (gz = 0; gz < thread.grid[2]; ++gz)
    for (gy = 0; gy < thread.grid[1]; ++gy)
      for (gx = 0; gx < thread.grid[0]; ++gx)
        for (z = 0; z < thread.block[2]; ++z)
          for (y = 0; y < thread.block[1]; ++y)
            for (x = 0; x < thread.block[0]; ++x) entry.body(thread, parameters);
}

int most_blocks(int block_size, std::size_t shared_bytes) {
  require(block_size > 0 && shared_bytes <= static_cast<std::size_t>(em::kMostShared));
  if (block_size > em::kMostThreads) return 0;
  return std::min(em::kBlocksPerProcessor, em::kThreadsPerProcessor / block_size);
}

void check_shape(const Shape& shape, bool is_cooperative) {
  std::uint64_t threads = 1;
  std::uint64_t blocks = 1;
  for (int i = 0; i < 3; ++i) {
    require(shape.grid[i] > 0 && shape.block[i] > 0);
    require(shape.grid[i] <= static_cast<unsigned>(em::kMostGrid[i]));
    require(shape.block[i] <= static_cast<unsigned>(em::kMostBlock[i]));
    threads *= shape.block[i];
    blocks *= shape.grid[i];
  }
  require(threads <= static_cast<unsigned>(em::kMostThreads));
  require(shape.shared_bytes <= static_cast<unsigned>(em::kMostShared));
  if (!is_cooperative) return;
  const auto most = static_cast<std::uint64_t>(most_blocks(static_cast<int>(threads), 0));
  require(blocks <= most * em::kProcessors, kCooperativeLaunchTooLarge);
}

void launch(Function function, const Shape& shape, Stream stream, void** parameters, void** extra,
            bool is_cooperative) {
  const auto* const entry = &entry_of(function);
  check_shape(shape, is_cooperative);
  {
    const std::lock_guard lock(em::world().mutex);
    const auto& context = em::context_of(em::resolve(stream));
    require(function->context == nullptr || function->context == &context, kInvalidHandle);
  }
  em::KernelThread thread{};
  std::ranges::copy(shape.grid, thread.grid);
  std::ranges::copy(shape.block, thread.block);
  const auto arguments = copy_arguments(*entry, parameters, extra);
  (void)em::enqueue(stream, kNodeKernel, [entry, thread, arguments] {
    const auto& times = em::config().kernels_us;
    if (const auto time = times.find(entry->name); time != times.end())
      std::this_thread::sleep_for(std::chrono::microseconds(time->second));
    run_grid(*entry, thread, arguments->pointers.data());
  });
}

}  // namespace

extern "C" {
namespace causeway::cuda {

Result cuModuleLoadData(Module* module, const void* image) {
  return run_call("cuModuleLoadData", Needs::context, [&] {
    require(module != nullptr);
    auto made = std::make_unique<ModuleTag>();
    made->context = em::current();
    made->functions = read_image(image, made->context);
    const std::lock_guard lock(em::world().mutex);
    register_all(made->functions);
    em::world().modules.insert(made.get());
    *module = made.release();
  });
}

// Options of a compiler say nothing to an image that is compiled.
Result cuModuleLoadDataEx(Module* module, const void* image, unsigned count, int* options,
                          void** values) {
  if (count > 0 && (options == nullptr || values == nullptr)) return kInvalidValue;
  return cuModuleLoadData(module, image);
}

Result cuModuleUnload(Module module) {
  return run_call("cuModuleUnload", Needs::healthy, [&] {
    const std::lock_guard lock(em::world().mutex);
    require(em::world().modules.erase(module) == 1, kInvalidHandle);
    forget_all(module->functions);
    delete module;
  });
}

Result cuModuleGetFunction(Function* function, Module module, const char* name) {
  return run_call("cuModuleGetFunction", Needs::healthy, [&] {
    require(function != nullptr && name != nullptr);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const bool is_library = std::ranges::any_of(w.libraries, [module](const auto* library) {
      return std::ranges::any_of(
          library->modules, [module](const auto& each) { return each.second.get() == module; });
    });
    require(w.modules.contains(module) || is_library, kInvalidHandle);
    *function = find(module->functions, name);
  });
}

Result cuLibraryLoadData(Library* library, const void* code, int*, void**, unsigned, int*, void**,
                         unsigned) {
  return run_call("cuLibraryLoadData", Needs::driver, [&] {
    require(library != nullptr);
    auto made = std::make_unique<LibraryTag>();
    made->kernels = read_image(code, nullptr);
    const std::lock_guard lock(em::world().mutex);
    register_all(made->kernels);
    em::world().libraries.insert(made.get());
    *library = made.release();
  });
}

Result cuLibraryUnload(Library library) {
  return run_call("cuLibraryUnload", Needs::driver, [&] {
    const std::lock_guard lock(em::world().mutex);
    require(em::world().libraries.erase(library) == 1, kInvalidHandle);
    forget_all(library->kernels);
    for (const auto& [context, module] : library->modules) forget_all(module->functions);
    delete library;
  });
}

Result cuLibraryGetKernel(Kernel* kernel, Library library, const char* name) {
  return run_call("cuLibraryGetKernel", Needs::driver, [&] {
    require(kernel != nullptr && name != nullptr);
    const std::lock_guard lock(em::world().mutex);
    require(em::world().libraries.contains(library), kInvalidHandle);
    *kernel = find(library->kernels, name);
  });
}

Result cuLibraryGetModule(Module* module, Library library) {
  return run_call("cuLibraryGetModule", Needs::context, [&] {
    require(module != nullptr);
    const std::lock_guard lock(em::world().mutex);
    require(em::world().libraries.contains(library), kInvalidHandle);
    *module = &module_of(*library);
  });
}

Result cuKernelGetFunction(Function* function, Kernel kernel) {
  return run_call("cuKernelGetFunction", Needs::context, [&] {
    require(function != nullptr);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    for (auto* const library : w.libraries) {
      const auto found = std::ranges::find_if(
          library->kernels, [kernel](const auto& each) { return each.get() == kernel; });
      if (found == library->kernels.end()) continue;
      *function = find(module_of(*library).functions, kernel->entry->name);
      return;
    }
    throw em::Failure{kInvalidHandle};
  });
}

Result cuKernelGetParamInfo(Kernel kernel, std::size_t index, std::size_t* offset,
                            std::size_t* size) {
  return run_call("cuKernelGetParamInfo", Needs::driver,
                  [&] { get_parameter_info(entry_of(kernel), index, offset, size); });
}

Result cuFuncGetParamInfo(Function function, std::size_t index, std::size_t* offset,
                          std::size_t* size) {
  return run_call("cuFuncGetParamInfo", Needs::healthy,
                  [&] { get_parameter_info(entry_of(function), index, offset, size); });
}

Result cuFuncGetAttribute(int* value, int attribute, Function function) {
  return run_call("cuFuncGetAttribute", Needs::healthy, [&] {
    // The most threads; shared, constant and local bytes; registers; versions of both codes; ...
    constexpr auto kValues = std::to_array<int>({em::kMostThreads, 0, 0, 0, 32, 70, 70, 0, 0, 0});
    require(value != nullptr && attribute >= 0);
    (void)entry_of(function);
    const auto index = static_cast<std::size_t>(attribute);
    require(index < kValues.size());
    *value = kValues[index];
  });
}

Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function function, int block_size,
                                                   std::size_t shared_bytes) {
  return run_call("cuOccupancyMaxActiveBlocksPerMultiprocessor", Needs::context, [&] {
    require(blocks != nullptr);
    (void)entry_of(function);
    *blocks = most_blocks(block_size, shared_bytes);
  });
}

Result cuLaunchKernel(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                      unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                      Stream stream, void** parameters, void** extra) {
  return run_call("cuLaunchKernel", Needs::context, [&] {
    const Shape shape{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
    launch(function, shape, stream, parameters, extra, false);
  });
}

// Of the attributes only those that a launch can be refused for have a meaning here.
Result cuLaunchKernelEx(const LaunchConfig* config, Function function, void** parameters,
                        void** extra) {
  return run_call("cuLaunchKernelEx", Needs::context, [&] {
    require(config != nullptr);
    require(config->attribute_count == 0 || config->attributes != nullptr);
    const auto& grid = config->grid;
    const auto& block = config->block;
    bool is_cooperative = false;
    for (unsigned i = 0; i < config->attribute_count; ++i) {
      const auto& attribute = config->attributes[i];
      require(attribute.id >= 0 && attribute.id <= kMostLaunchAttribute);
      if (attribute.id == kLaunchCooperative) is_cooperative = attribute.value.cooperative != 0;
      if (attribute.id != kLaunchCluster) continue;
      for (int axis = 0; axis < 3; ++axis) {
        const auto size = attribute.value.cluster[axis];
        require(size > 0 && grid[axis] % size == 0);
      }
    }
    const Shape shape{
        {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, config->shared_bytes};
    launch(function, shape, config->stream, parameters, extra, is_cooperative);
  });
}

// The threads of a grid run one after the other: they may not wait for each other.
Result cuLaunchCooperativeKernel(Function function, unsigned grid_x, unsigned grid_y,
                                 unsigned grid_z, unsigned block_x, unsigned block_y,
                                 unsigned block_z, unsigned shared_bytes, Stream stream,
                                 void** parameters) {
  return run_call("cuLaunchCooperativeKernel", Needs::context, [&] {
    const Shape shape{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
    launch(function, shape, stream, parameters, nullptr, true);
  });
}

}  // namespace causeway::cuda
}
