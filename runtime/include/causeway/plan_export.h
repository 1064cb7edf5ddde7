// A plan in the words of other engines, so that they run what was planned here.
//
// Shape:   the plan's layers are the model's, one to one. The engines start on one node each
//          (accelerate, llama.cpp) or order their own ranks (vLLM).
// Errors:  invalid_argument saying what the engine cannot express: stages on several nodes, host
//          memory, a stage without a block.
// Threads: pure functions.
// Source:  accelerate's device_map (module name to device); llama.cpp's --device, --tensor-split,
//          --n-gpu-layers and --override-tensor; vLLM's VLLM_PP_LAYER_PARTITION.
#pragma once

#include <string>

#include "causeway/model_description.h"
#include "causeway/plan.h"

namespace causeway {

// JSON: {"model.embed_tokens": 0, "model.layers.0": 0, ..., "lm_head": 1}; host memory is "cpu". A
// head that is tied to the embedding goes where that is: the two are one tensor there.
[[nodiscard]] std::string to_device_map(const Plan& plan, const ModelDescription& model);

// "--device CUDA1,CUDA0 --split-mode layer --tensor-split 20,13 --n-gpu-layers 33": devices in the
// order of the stages, each with its blocks, the head as one more; blocks of a host stage by
// --override-tensor. llama.cpp itself keeps the token embedding in host memory.
[[nodiscard]] std::string to_llama_cpp(const Plan& plan, const ModelDescription& model);

// For engines whose stages hold a block at least, and the embedding and the head beside one: a
// chain where these are parts of the first and the last block's layer, so that every plan of it can
// be expressed. with_ends() gives a plan of it the model's own layers back. Errors: a model without
// blocks.
[[nodiscard]] ModelSpec join_ends(const ModelSpec& chain, const ModelDescription& model);
[[nodiscard]] Plan with_ends(Plan plan, const ModelDescription& model);

// "VLLM_PP_LAYER_PARTITION=20,12 vllm serve MODEL --pipeline-parallel-size 2", with
// CUDA_VISIBLE_DEVICES in the order of the stages where all are on one node.
[[nodiscard]] std::string to_vllm(const Plan& plan, const ModelDescription& model);

}  // namespace causeway
