// Architectures and cards that published measurements name, from their model cards and data sheets.
#pragma once

#include <optional>
#include <string>

#include "causeway/transformer_shape.h"
#include "runtime/placement/cost/device_rates.h"

namespace causeway::predictions {

// "Llama-3-70B-FP8", "Qwen2.5-7B", "MPT-7B". nullopt: unknown.
[[nodiscard]] std::optional<TransformerShape> known_model(const std::string& name);
// A GPT of the given width and depth, as Megatron-LM's tables have them.
[[nodiscard]] TransformerShape gpt(std::uint32_t hidden, std::uint32_t layers,
                                   std::uint32_t vocabulary);
// "RTX4090", "A100-SXM-80", "H100-96GB(2.4TB/s,500W)". nullopt: unknown.
[[nodiscard]] std::optional<DeviceRates> known_device(const std::string& name);

}  // namespace causeway::predictions
