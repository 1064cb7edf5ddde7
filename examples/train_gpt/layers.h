// The three kinds of layers: embedding, transformer block, head with loss.
//
// Shape:   a layer maps [batch * length, width] to the same; tensors come as pointers in the order
//          of the enums in config.h. Backward gets the layer's input and computes the rest again.
//          Of a block cut into shards each has its rows and columns of the matrices, and x, y and d
//          whole; sums over the shards end its halves, two in block_forward, three in backward.
//          All pointers are of the memory of the Workspace's Compute; tokens are in host memory.
// Errors:  as Compute; sizes are the caller's promise.
// Cost:    block_backward is three times block_forward: once again forward, twice for gradients.
// Threads: pure but for the Workspace, which belongs to one call at a time.
// Source:  keeping inputs only: Chen et al., "Training deep nets with sublinear memory cost", 2016.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "cpu_compute.h"

namespace train_gpt {

struct Dims {
  std::size_t batch;
  std::size_t length;
  std::size_t width;
  std::size_t heads;
  std::size_t shards = 1;  // A block's heads and inner columns are cut into so many parts.
  [[nodiscard]] std::size_t rows() const noexcept { return batch * length; }
  [[nodiscard]] std::size_t own_width() const noexcept { return width / shards; }  // Of the heads.
  [[nodiscard]] AttentionShape attention() const noexcept {
    return {batch, length, heads / shards, width / heads};
  }
};

// The part of a block that a process has, of Dims::shards.
template <typename T>
struct Shard {
  std::size_t index = 0;
  // Adds up over all shards, in place, in host memory; all get the same bits. Not called if there
  // is one.
  std::function<void(std::span<T>)> sum{};
};

// Who computes, and temporaries of one layer call in its memory: as large as the largest Dims that
// it is used with.
template <typename T>
class Workspace {
 public:
  explicit Workspace(const Dims& largest, Compute<T>& compute = processor<T>());
  Workspace(Workspace&&) noexcept = default;
  Workspace& operator=(Workspace&&) noexcept = default;
  [[nodiscard]] Compute<T>& compute() const noexcept { return *compute_; }

  T* norm1;    // [rows, width]; the head keeps its norm here
  T* qkv;      // [rows, 3 own_width]
  T* weights;  // [batch, own heads, length, length]
  T* mixed;    // [rows, own_width]
  T* middle;   // [rows, width]: the input of the block's second half
  T* norm2;    // [rows, width]
  T* up;       // [rows, 4 own_width]
  T* gate;     // [rows, 4 own_width]
  T* active;   // [rows, 4 own_width]
  T* stats;    // [4, rows]: mean and scale of both norms
  T* d_wide;   // [rows, 4 own_width]
  T* d_row;    // [rows, width]
  T* scratch;  // As attention_backward() wants.
  T* logits;   // [rows, 256]

 private:
  Compute<T>* compute_;
  Buffer<T> memory_;
};

template <typename T>
using Weights = std::span<const T* const>;
template <typename T>
using Gradients = std::span<T* const>;
using Tokens = std::span<const unsigned char>;  // batch * length of them

template <typename T>
void embed_forward(const Dims& dims, Weights<T> weights, Tokens tokens, T* y, Workspace<T>& work);
template <typename T>
void embed_backward(const Dims& dims, Gradients<T> gradients, Tokens tokens, const T* dy,
                    Workspace<T>& work);

template <typename T>
void block_forward(const Dims& dims, Weights<T> weights, const T* x, T* y, Workspace<T>& work,
                   const Shard<T>& shard = {});
// d is the gradient of the output and becomes that of the input.
template <typename T>
void block_backward(const Dims& dims, Weights<T> weights, Gradients<T> gradients, const T* x, T* d,
                    Workspace<T>& work, const Shard<T>& shard = {});

// The mean loss over the tokens.
template <typename T>
double head_loss(const Dims& dims, Weights<T> weights, const T* x, Tokens targets,
                 Workspace<T>& work);
// The same, and the gradients of scale * loss; d gets that of the input.
template <typename T>
double head_backward(const Dims& dims, Weights<T> weights, Gradients<T> gradients, const T* x,
                     Tokens targets, double scale, T* d, Workspace<T>& work);
// The logits of every position, in work.logits.
template <typename T>
void head_logits(const Dims& dims, Weights<T> weights, const T* x, Workspace<T>& work);

}  // namespace train_gpt
