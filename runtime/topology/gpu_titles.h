// From what a driver calls a GPU to its name in the catalogue.
//
// Errors:  empty for a card that is not in the catalogue. A relative of one that is (RTX 4090 D,
//          A100 40GB, H100 NVL) has other memory or rates and is not taken for it.
// Threads: constants.
#pragma once

#include <string_view>

namespace causeway {

// "NVIDIA GeForce RTX 5090" is "rtx-5090". Case does not count.
[[nodiscard]] std::string_view gpu_model_of(std::string_view title) noexcept;

}  // namespace causeway
