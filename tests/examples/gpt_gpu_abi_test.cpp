// Goal:   train_gpt's own declarations of the driver's and of cuBLAS's functions are theirs.
// Method: signatures against cuda.h and cublas_v2.h, where the build finds them; else the test says
//         that it skipped.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <type_traits>

#include "gpu_cublas.h"
#include "gpu_driver.h"

namespace {

// A parameter as it is passed: by size, whether it is a pointer, and its sign is the caller's.
template <typename T>
using Passed =
    std::conditional_t<std::is_pointer_v<T>, void*,
                       std::conditional_t<sizeof(T) == 8, std::uint64_t,
                                          std::conditional_t<sizeof(T) == 4, std::uint32_t, T>>>;
template <typename T>
struct Call;
template <typename Return, typename... Parameters>
struct Call<Return (*)(Parameters...)> {
  using Type = Passed<Return> (*)(Passed<Parameters>...);
};

}  // namespace

// Before the headers, whose macros rename the functions.
namespace own {
using namespace train_gpt;
#define TRAIN_GPT_OWN(name, suffix, parameters) using Own_##name = int(*) parameters;
TRAIN_GPT_DRIVER(TRAIN_GPT_OWN)
TRAIN_GPT_CUBLAS(TRAIN_GPT_OWN)
#undef TRAIN_GPT_OWN
}  // namespace own

#define TRAIN_GPT_SAME(name, suffix, parameters) \
  static_assert(std::is_same_v<Call<own::Own_##name>::Type, Call<decltype(&::name)>::Type>);

#if __has_include(<cublas_v2.h>)
#include <cublas_v2.h>
TRAIN_GPT_CUBLAS(TRAIN_GPT_SAME)
static_assert(CUBLAS_OP_N == 0 && CUBLAS_OP_T == 1);
TEST_CASE("cuBLAS is declared as it is") { CHECK(CUBLAS_VER_MAJOR >= 11); }
#else
TEST_CASE("cuBLAS is declared as it is") {
  MESSAGE("skipped: no cublas_v2.h where this was built");
}
#endif

#if __has_include(<cuda.h>)
#include <cuda.h>
TRAIN_GPT_DRIVER(TRAIN_GPT_SAME)
TEST_CASE("the driver is declared as it is") { CHECK(CUDA_VERSION >= 11040); }
#else
TEST_CASE("the driver is declared as it is") { MESSAGE("skipped: no cuda.h where this was built"); }
#endif
