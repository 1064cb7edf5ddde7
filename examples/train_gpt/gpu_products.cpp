#include "gpu_products.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <limits>
#include <string_view>
#include <vector>

#include "causeway/error.h"
#include "gpu_cublas.h"

namespace train_gpt {

namespace {

using causeway::Errc;
using causeway::Error;

class TiledProducts final : public GpuProducts {
 public:
  explicit TiledProducts(const GpuKernels& kernels) : kernels_(kernels) {}
  [[nodiscard]] std::string describe() const override { return "own products"; }
  void multiply(const gpu::Product& product) override {
    const auto tiles = [](std::size_t extent) { return (extent + gpu::kTile - 1) / gpu::kTile; };
    kernels_.launch<&gpu::multiply>(tiles(product.m) * tiles(product.n),
                                    product.outer * product.inner, product);
  }

 private:
  const GpuKernels& kernels_;
};

constexpr int kPlain = 0;
constexpr int kTransposed = 1;

struct Functions {
#define TRAIN_GPT_MEMBER(name, suffix, parameters) int(*name) parameters = nullptr;
  TRAIN_GPT_CUBLAS(TRAIN_GPT_MEMBER)
#undef TRAIN_GPT_MEMBER
};

const char* name_of(int status) noexcept {
  switch (status) {
    case 1:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case 8:
      return "CUBLAS_STATUS_ARCH_MISMATCH";
    case 13:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case 15:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "an unknown status";
  }
}

class CublasProducts final : public GpuProducts {
 public:
  CublasProducts(const GpuDevice& device, const std::string& file) : device_(device), file_(file) {
    open();
    (void)device.use();  // The handle is of the current context.
    check(f_.cublasCreate(&handle_), "cublasCreate");
    try {
      check(f_.cublasSetStream(handle_, device.stream()), "cublasSetStream");
    } catch (...) {
      (void)f_.cublasDestroy(handle_);
      throw;
    }
  }
  ~CublasProducts() override {
    try {
      (void)device_.use();
      (void)f_.cublasDestroy(handle_);
    } catch (const Error&) {
    }
  }
  CublasProducts(const CublasProducts&) = delete;
  CublasProducts& operator=(const CublasProducts&) = delete;

  [[nodiscard]] std::string describe() const override { return "cuBLAS (" + file_ + ")"; }

  // A row-major matrix is its transpose by columns, and c^T = b^T a^T: so b comes first, and each
  // is to be transposed just where it was.
  void multiply(const gpu::Product& product) override {
    if (product.m == 0 || product.n == 0) return;
    const auto& [m, n, k, alpha, beta, a, b, c, outer, inner] = product;
    const int sizes[] = {to_int(n), to_int(m), to_int(k)};
    const auto operation = [](const auto& matrix) {
      return matrix.is_transposed ? kTransposed : kPlain;
    };
    (void)device_.use();
    for (std::size_t i = 0; i < outer; ++i)
      check(f_.cublasSgemmStridedBatched(handle_, operation(b), operation(a), sizes[0], sizes[1],
                                         sizes[2], &alpha, b.data + i * b.outer, to_int(b.stride),
                                         static_cast<long long>(b.inner), a.data + i * a.outer,
                                         to_int(a.stride), static_cast<long long>(a.inner), &beta,
                                         c.data + i * c.outer, to_int(c.stride),
                                         static_cast<long long>(c.inner), to_int(inner)),
            "cublasSgemmStridedBatched");
  }

 private:
  // What does not start stays open: a library with threads of its own is not closed.
  void open() {
    void* opened = ::dlopen(file_.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) {
      const char* text = ::dlerror();
      throw Error(Errc::unsupported, text != nullptr ? text : file_);
    }
    const auto find = [&](const char* symbol, auto& into) {
      void* at = ::dlsym(opened, symbol);
      if (at == nullptr)
        throw Error(Errc::unsupported, fmt::format("{} has no function {}", file_, symbol));
      into = reinterpret_cast<std::remove_reference_t<decltype(into)>>(at);
    };
#define TRAIN_GPT_FIND(name, suffix, parameters) find(#name #suffix, f_.name);
    TRAIN_GPT_CUBLAS(TRAIN_GPT_FIND)
#undef TRAIN_GPT_FIND
  }

  void check(int status, const char* call) const {
    if (status == 0) return;
    throw Error(handle_ == nullptr ? Errc::unsupported : Errc::device_failed,
                fmt::format("{}: {} of {} failed: {} ({}); TRAIN_GPT_CUBLAS=off does without",
                            device_.name(), call, file_, name_of(status), status));
  }

  [[nodiscard]] int to_int(std::size_t value) const {
    if (value <= static_cast<std::size_t>(std::numeric_limits<int>::max()))
      return static_cast<int>(value);
    throw Error(Errc::invalid_argument,
                fmt::format("{}: a matrix of {} rows or columns is more than cuBLAS takes; give a "
                            "smaller --micro-batch",
                            device_.name(), value));
  }

  const GpuDevice& device_;
  const std::string file_;
  Functions f_;
  CublasHandle handle_ = nullptr;
};

}  // namespace

std::unique_ptr<GpuProducts> tiled_products(const GpuDevice&, const GpuKernels& kernels) {
  return std::make_unique<TiledProducts>(kernels);
}

std::unique_ptr<GpuProducts> cublas_products(const GpuDevice& device,
                                             const std::vector<std::string>& libraries) {
  std::string reasons;
  for (const auto& library : libraries) {
    try {
      return std::make_unique<CublasProducts>(device, library);
    } catch (const Error& error) {
      if (error.code() != Errc::unsupported) throw;
      reasons += (reasons.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  throw Error(Errc::unsupported, "no cuBLAS: " + reasons);
}

std::unique_ptr<GpuProducts> choose_products(const GpuDevice& device, const GpuKernels& kernels) {
  const char* named = std::getenv("TRAIN_GPT_CUBLAS");
  const std::string_view choice = named != nullptr ? named : "";
  if (choice == "off" || (choice.empty() && device.is_emulated()))
    return tiled_products(device, kernels);
  if (!choice.empty()) return cublas_products(device, {std::string(choice)});
  try {
    return cublas_products(device);
  } catch (const Error& error) {
    if (error.code() != Errc::unsupported) throw;
    return tiled_products(device, kernels);
  }
}

}  // namespace train_gpt
