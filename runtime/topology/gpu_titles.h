// What a GPU's name, as the driver and CUDA print it, says of the chip.
//
// Errors:  nullptr for a name that is not known; never a guess.
// Threads: constants.
// Source:  the vendor's list of CUDA GPUs and compute capabilities.
#pragma once

#include <cstdint>
#include <string_view>

#include "causeway/topology_graph.h"

namespace causeway {

struct GpuTitle {
  std::string_view words;  // As a whole in the title: "RTX 3090".
  std::string_view model;  // Catalogue name; empty where the words fit cards of several kinds.
  std::uint32_t sm;
};

// Case does not count. A relative of a catalogue model (RTX 4090 D, A100 40GB, H100 NVL) has other
// memory or rates and is not taken for it.
[[nodiscard]] const GpuTitle* find_gpu_title(std::string_view title) noexcept;

// "NVIDIA GeForce RTX 5090" is "rtx-5090"; empty for a card that is not in the catalogue.
[[nodiscard]] std::string_view gpu_model_of(std::string_view title) noexcept;

// Sets title, and where they follow from it and are not set, model and sm.
void set_gpu_title(Component& gpu, std::string_view title);

}  // namespace causeway
