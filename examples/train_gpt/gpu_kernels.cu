// The kernels, once for a GPU and once for the software driver: see gpu_block.h for the words.
#include "gpu_kernels.h"

namespace train_gpt::gpu {

namespace {

constexpr float kGeluScale = 1.5957691216057308F;  // 2 sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715F;

constexpr unsigned kDepth = 16;             // Of the tiles of a and b that are in shared memory.
constexpr unsigned kEdge = 4;               // A thread has kEdge x kEdge elements of c, each
constexpr unsigned kApart = kTile / kEdge;  // kApart from the next.
static_assert(kApart * kApart == kThreads);

// One more column: threads that write a tile by columns then meet no bank twice.
struct Tile {
  float at[kDepth][kTile + 1];
};

struct Sums {
  float at[kEdge][kEdge];
};

// The tile of [extent, depth] that begins at (first, from), turned: at[p][i]. Zeros outside.
// Threads side by side read what lies side by side.
GPU_FUNCTION void load(unsigned thread, Tile& tile, const float* data, size_t stride,
                       bool is_depth_contiguous, size_t first, size_t extent, size_t from,
                       size_t depth) {
  for (unsigned number = thread; number < kTile * kDepth; number += kThreads) {
    const unsigned i = is_depth_contiguous ? number / kDepth : number % kTile;
    const unsigned p = is_depth_contiguous ? number % kDepth : number / kTile;
    const size_t row = first + i, column = from + p;
    const size_t at = is_depth_contiguous ? row * stride + column : column * stride + row;
    tile.at[p][i] = row < extent && column < depth ? data[at] : 0.0F;
  }
}

GPU_FUNCTION void add_tiles(unsigned thread, const Tile& a, const Tile& b, Sums& sums) {
  const unsigned row = thread / kApart, column = thread % kApart;
  for (unsigned p = 0; p < kDepth; ++p)
    for (unsigned i = 0; i < kEdge; ++i)
      for (unsigned j = 0; j < kEdge; ++j)
        sums.at[i][j] += a.at[p][row + i * kApart] * b.at[p][column + j * kApart];
}

GPU_FUNCTION void store(unsigned thread, const Product& product, float* c, size_t first_row,
                        size_t first_column, const Sums& sums) {
  for (unsigned i = 0; i < kEdge; ++i) {
    const size_t row = first_row + thread / kApart + i * kApart;
    for (unsigned j = 0; j < kEdge; ++j) {
      const size_t column = first_column + thread % kApart + j * kApart;
      if (row >= product.m || column >= product.n) continue;
      float& to = c[row * product.c.stride + column];
      to = product.alpha * sums.at[i][j] + (product.beta == 0 ? 0.0F : product.beta * to);
    }
  }
}

// into += value(0, column) + value(1, column) + ... for kSumColumns columns: threads of one column
// take every so many-th row, and their sums are added in order.
template <typename Value>
GPU_FUNCTION void add_column_sums(float (&parts)[kThreads], size_t rows, size_t columns,
                                  float* into, Value value) {
  constexpr unsigned kGroups = kThreads / kSumColumns;
  const size_t first = size_t{block_index()} * kSumColumns;
  each_thread([&](unsigned thread) {
    const size_t column = first + thread % kSumColumns;
    float part = 0;
    if (column < columns)
      for (size_t row = thread / kSumColumns; row < rows; row += kGroups)
        part += value(row, column);
    parts[thread] = part;
  });
  first_threads(kSumColumns, [&](unsigned thread) {
    const size_t column = first + thread;
    if (column >= columns) return;
    float total = 0;
    for (unsigned group = 0; group < kGroups; ++group) total += parts[group * kSumColumns + thread];
    into[column] += total;
  });
}

}  // namespace

GPU_KERNEL multiply(Product product) {
  GPU_SHARED Tile a_tile;
  GPU_SHARED Tile b_tile;
  PerThread<Sums> sums;
  const size_t across = (product.n + kTile - 1) / kTile;
  const size_t first_row = block_index() / across * kTile;
  const size_t first_column = block_index() % across * kTile;
  const size_t count = product.outer * product.inner;
  for (size_t number = batch_index(); number < count; number += batches()) {
    const size_t outer = number / product.inner, inner = number % product.inner;
    const float* a = product.a.data + outer * product.a.outer + inner * product.a.inner;
    const float* b = product.b.data + outer * product.b.outer + inner * product.b.inner;
    float* c = product.c.data + outer * product.c.outer + inner * product.c.inner;
    each_thread([&](unsigned thread) { sums[thread] = Sums{}; });
    for (size_t from = 0; from < product.k; from += kDepth) {
      each_thread([&](unsigned thread) {
        load(thread, a_tile, a, product.a.stride, !product.a.is_transposed, first_row, product.m,
             from, product.k);
        load(thread, b_tile, b, product.b.stride, product.b.is_transposed, first_column, product.n,
             from, product.k);
      });
      each_thread([&](unsigned thread) { add_tiles(thread, a_tile, b_tile, sums[thread]); });
    }
    each_thread(
        [&](unsigned thread) { store(thread, product, c, first_row, first_column, sums[thread]); });
  }
}

GPU_KERNEL fill_rows(size_t rows, size_t columns, const float* bias, const float* add_to,
                     float* y) {
  each_index(rows * columns, [&](size_t i) {
    y[i] = (bias == nullptr ? 0.0F : bias[i % columns]) + (add_to == nullptr ? 0.0F : add_to[i]);
  });
}

GPU_KERNEL add_columns(size_t rows, size_t columns, const float* values, float* into) {
  GPU_SHARED float parts[kThreads];
  add_column_sums(parts, rows, columns, into,
                  [&](size_t row, size_t column) { return values[row * columns + column]; });
}

GPU_KERNEL norm_rows(size_t width, const float* x, const float* weight, const float* bias, float* y,
                     float* mean, float* scale) {
  GPU_SHARED float parts[kThreads];
  const float* in = x + size_t{block_index()} * width;
  float* out = y + size_t{block_index()} * width;
  each_thread([&](unsigned thread) {
    float part = 0;
    for (size_t i = thread; i < width; i += kThreads) part += in[i];
    parts[thread] = part;
  });
  const float middle = sum(parts) / static_cast<float>(width);
  each_thread([&](unsigned thread) {
    float part = 0;
    for (size_t i = thread; i < width; i += kThreads) part += (in[i] - middle) * (in[i] - middle);
    parts[thread] = part;
  });
  const float inverse = 1 / sqrt(sum(parts) / static_cast<float>(width) + kNormEpsilon);
  each_thread([&](unsigned thread) {
    for (size_t i = thread; i < width; i += kThreads)
      out[i] = (in[i] - middle) * inverse * weight[i] + bias[i];
  });
  first_threads(1, [&](unsigned) {
    mean[block_index()] = middle;
    scale[block_index()] = inverse;
  });
}

GPU_KERNEL norm_rows_back(size_t width, const float* x, const float* weight, const float* mean,
                          const float* scale, const float* dy, float* dx) {
  GPU_SHARED float sums[kThreads];
  GPU_SHARED float dots[kThreads];
  const size_t first = size_t{block_index()} * width;
  const float middle = mean[block_index()], inverse = scale[block_index()];
  each_thread([&](unsigned thread) {
    float part = 0, dot = 0;
    for (size_t i = thread; i < width; i += kThreads) {
      const float through = dy[first + i] * weight[i];
      part += through;
      dot += through * ((x[first + i] - middle) * inverse);
    }
    sums[thread] = part;
    dots[thread] = dot;
  });
  const float part = sum(sums) / static_cast<float>(width);
  const float dot = sum(dots) / static_cast<float>(width);
  each_thread([&](unsigned thread) {
    for (size_t i = thread; i < width; i += kThreads) {
      const float normal = (x[first + i] - middle) * inverse;
      dx[first + i] += (dy[first + i] * weight[i] - part - normal * dot) * inverse;
    }
  });
}

GPU_KERNEL norm_columns_back(size_t rows, size_t width, const float* x, const float* mean,
                             const float* scale, const float* dy, float* dweight, float* dbias) {
  GPU_SHARED float parts[kThreads];
  add_column_sums(parts, rows, width, dweight, [&](size_t row, size_t column) {
    const size_t i = row * width + column;
    return dy[i] * ((x[i] - mean[row]) * scale[row]);
  });
  add_column_sums(parts, rows, width, dbias,
                  [&](size_t row, size_t column) { return dy[row * width + column]; });
}

GPU_KERNEL gelu(size_t count, const float* x, float* gate, float* y) {
  each_index(count, [&](size_t i) {
    const float inner = kGeluScale * x[i] * (1 + kGeluCubic * x[i] * x[i]);
    gate[i] = 1 / (1 + exp(-inner));
    y[i] = x[i] * gate[i];
  });
}

GPU_KERNEL gelu_back(size_t count, const float* x, const float* gate, float* dy) {
  each_index(count, [&](size_t i) {
    const float slope = kGeluScale * (1 + 3 * kGeluCubic * x[i] * x[i]);
    dy[i] *= gate[i] + x[i] * gate[i] * (1 - gate[i]) * slope;
  });
}

GPU_KERNEL causal_softmax(size_t length, float* scores) {
  GPU_SHARED float parts[kThreads];
  const size_t row = block_index() % length;
  float* values = scores + size_t{block_index()} * length;
  each_thread([&](unsigned thread) {
    float top = values[0];
    for (size_t i = thread; i <= row; i += kThreads) top = values[i] > top ? values[i] : top;
    parts[thread] = top;
  });
  const float top = reduce(parts, [](float a, float b) { return a > b ? a : b; });
  each_thread([&](unsigned thread) {
    float part = 0;
    for (size_t i = thread; i <= row; i += kThreads) {
      values[i] = exp(values[i] - top);
      part += values[i];
    }
    parts[thread] = part;
  });
  const float inverse = 1 / sum(parts);
  each_thread([&](unsigned thread) {
    for (size_t i = thread; i < length; i += kThreads)
      values[i] = i <= row ? values[i] * inverse : 0.0F;
  });
}

GPU_KERNEL causal_softmax_back(size_t length, float scale, const float* weights, float* d) {
  GPU_SHARED float parts[kThreads];
  const size_t row = block_index() % length;
  const size_t first = size_t{block_index()} * length;
  each_thread([&](unsigned thread) {
    float part = 0;
    for (size_t i = thread; i <= row; i += kThreads) part += weights[first + i] * d[first + i];
    parts[thread] = part;
  });
  const float dot = sum(parts);
  each_thread([&](unsigned thread) {
    for (size_t i = thread; i < length; i += kThreads)
      d[first + i] = i <= row ? weights[first + i] * (d[first + i] - dot) * scale : 0.0F;
  });
}

GPU_KERNEL embed_rows(size_t rows, size_t length, size_t width, const unsigned char* tokens,
                      const float* token_table, const float* position_table, float* y) {
  each_index(rows * width, [&](size_t i) {
    const size_t row = i / width, column = i % width;
    y[i] =
        token_table[tokens[row] * width + column] + position_table[row % length * width + column];
  });
}

GPU_KERNEL add_group(size_t width, const unsigned* order, const unsigned* firsts,
                     const unsigned* numbers, const float* from, float* into) {
  const unsigned first = firsts[block_index()], end = firsts[block_index() + 1];
  float* to = into + numbers[block_index()] * width;
  each_thread([&](unsigned thread) {
    for (size_t i = thread; i < width; i += kThreads) {
      float total = 0;
      for (unsigned row = first; row < end; ++row) total += from[order[row] * width + i];
      to[i] += total;
    }
  });
}

GPU_KERNEL cross_entropy_rows(size_t classes, const float* logits, const unsigned char* targets,
                              float factor, float* dlogits, float* losses) {
  GPU_SHARED float parts[kThreads];
  const unsigned row = block_index();
  const float* in = logits + row * classes;
  const unsigned target = targets[row];
  each_thread([&](unsigned thread) {
    float top = in[0];
    for (size_t i = thread; i < classes; i += kThreads) top = in[i] > top ? in[i] : top;
    parts[thread] = top;
  });
  const float top = reduce(parts, [](float a, float b) { return a > b ? a : b; });
  each_thread([&](unsigned thread) {
    float part = 0;
    for (size_t i = thread; i < classes; i += kThreads) part += exp(in[i] - top);
    parts[thread] = part;
  });
  const float total = sum(parts);
  first_threads(1, [&](unsigned) { losses[row] = log(total) - (in[target] - top); });
  if (dlogits == nullptr) return;
  float* d = dlogits + row * classes;
  each_thread([&](unsigned thread) {
    for (size_t i = thread; i < classes; i += kThreads)
      d[i] = (exp(in[i] - top) / total - (i == target ? 1.0F : 0.0F)) * factor;
  });
}

GPU_KERNEL square_sums(size_t count, const float* values, double* partials) {
  GPU_SHARED double parts[kThreads];
  each_thread([&](unsigned thread) {
    const size_t step = size_t{blocks()} * kThreads;
    double part = 0;
    for (size_t i = size_t{block_index()} * kThreads + thread; i < count; i += step)
      part += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    parts[thread] = part;
  });
  const double total = sum(parts);
  first_threads(1, [&](unsigned) { partials[block_index()] = total; });
}

GPU_KERNEL adam(AdamStep step, size_t count, float* weights, float* gradients, float* m, float* v) {
  each_index(count, [&](size_t i) {
    const float gradient = gradients[i] * step.gradient_scale;
    m[i] = step.beta1 * m[i] + (1 - step.beta1) * gradient;
    v[i] = step.beta2 * v[i] + (1 - step.beta2) * gradient * gradient;
    weights[i] =
        step.keep * weights[i] - step.m_rate * m[i] / (sqrt(v[i] * step.v_scale) + step.epsilon);
    gradients[i] = 0;
  });
}

}  // namespace train_gpt::gpu
