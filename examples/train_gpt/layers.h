// The three kinds of layers: embedding, transformer block, head with loss.
//
// Shape:   a layer maps [batch * length, width] to the same; tensors come as pointers in the order
//          of the enums in config.h. Backward gets the layer's input and computes the rest again.
// Errors:  none; sizes are the caller's promise.
// Cost:    block_backward is three times block_forward: once again forward, twice for gradients.
// Threads: pure but for the Workspace, which belongs to one call at a time.
// Source:  keeping inputs only: Chen et al., "Training deep nets with sublinear memory cost", 2016.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels.h"

namespace train_gpt {

struct Dims {
  std::size_t batch;
  std::size_t length;
  std::size_t width;
  std::size_t heads;
  [[nodiscard]] std::size_t rows() const noexcept { return batch * length; }
  [[nodiscard]] AttentionShape attention() const noexcept {
    return {batch, length, heads, width / heads};
  }
};

// Temporaries of one layer call; as large as the largest Dims it is used with.
template <typename T>
class Workspace {
 public:
  explicit Workspace(const Dims& largest);
  Workspace(Workspace&&) noexcept = default;
  Workspace& operator=(Workspace&&) noexcept = default;
  [[nodiscard]] std::size_t size_bytes() const noexcept { return memory_.size() * sizeof(T); }

  T* norm1;    // [rows, width]; the head keeps its norm here
  T* qkv;      // [rows, 3 width]
  T* weights;  // [batch, heads, length, length]
  T* mixed;    // [rows, width]
  T* middle;   // [rows, width]: the input of the block's second half
  T* norm2;    // [rows, width]
  T* up;       // [rows, 4 width]
  T* gate;     // [rows, 4 width]
  T* active;   // [rows, 4 width]
  T* stats;    // [4, rows]: mean and scale of both norms
  T* d_wide;   // [rows, 4 width]
  T* d_row;    // [rows, width]
  T* scratch;  // [length, length]
  T* logits;   // [rows, 256]

 private:
  std::vector<T> memory_;
};

template <typename T>
using Weights = std::span<const T* const>;
template <typename T>
using Gradients = std::span<T* const>;
using Tokens = std::span<const unsigned char>;  // batch * length of them

template <typename T>
void embed_forward(const Dims& dims, Weights<T> weights, Tokens tokens, T* y);
template <typename T>
void embed_backward(const Dims& dims, Gradients<T> gradients, Tokens tokens, const T* dy);

template <typename T>
void block_forward(const Dims& dims, Weights<T> weights, const T* x, T* y, Workspace<T>& work);
// d is the gradient of the output and becomes that of the input.
template <typename T>
void block_backward(const Dims& dims, Weights<T> weights, Gradients<T> gradients, const T* x, T* d,
                    Workspace<T>& work);

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
