// AdamW on all parameters at once, in the order of PyTorch's fused one, with clipped gradients.
//
// Parameters are divided into chunks that threads take. A chunk of a linear layer is SIDE rows, which are packed for the
// products while they are in the cache.

#pragma once

#include "products.h"

enum { CHUNK = 16384 };  // numbers of a parameter that is not packed

typedef struct {  // the same fields as _Parameter in optimizer.py
  float *weights, *gradient, *mean, *mean_square;  // exp_avg and exp_avg_sq of PyTorch
  int64_t n, width;                                // all numbers; those of a row, 0: nothing is packed
  int32_t *forward, *backward;                     // packed weights, ALONG_COLUMNS and ALONG_ROWS
  int64_t forward_steps, backward_steps, first;    // first block of `forward` and step of `backward`
  float decay;                                     // 1 - learning rate * weight decay
  float step_size;                                 // learning rate / (1 - beta_1 ^ step)
  float inv_correction;                            // 1 / sqrt(1 - beta_2 ^ step)
  float unused;
} Parameter;

typedef struct {  // the same fields as _AdamW in optimizer.py
  const Parameter *parameters;
  double *sums;  // of the squared gradients of each chunk
  int64_t n_parameters, next;
  float scale;  // of gradients
  float beta_1, beta_2, eps;
} AdamW;

INLINE int64_t chunk_size(const Parameter *parameter) { return parameter->width ? SIDE * parameter->width : CHUNK; }

typedef struct {
  const Parameter *parameter;
  int64_t first, begin, end;  // the chunks before this parameter; numbers of the chunk
} Chunk;

// Moves on to a chunk that is not before the last one; 0: there is none.
INLINE int64_t find_chunk(const AdamW *args, int64_t index, Chunk *chunk) {
  for (; chunk->parameter < args->parameters + args->n_parameters; chunk->parameter++) {
    const int64_t size = chunk_size(chunk->parameter), n = (chunk->parameter->n + size - 1) / size;
    if (index < chunk->first + n) {
      chunk->begin = (index - chunk->first) * size;
      chunk->end = min_of(chunk->begin + size, chunk->parameter->n);
      return 1;
    }
    chunk->first += n;
  }
  return 0;
}

#define FOR_CHUNKS(args)                                                                      \
  Chunk chunk = {args->parameters, 0, 0, 0};                                                  \
  for (int64_t index; index = __atomic_fetch_add(&args->next, 1, __ATOMIC_RELAXED),           \
                      find_chunk(args, index, &chunk);)

static void squares_worker(void *arg) {
  AdamW *args = arg;
  FOR_CHUNKS(args) {
    const float *x = chunk.parameter->gradient;
    vec sums = 0;
    for (int64_t i = chunk.begin; i < chunk.end; i += LANES) {
      const vec y = load(x, i, FP32, min_of(chunk.end - i, LANES));
      sums += y * y;
    }
    args->sums[index] = (double)hsum(sums);
  }
}

INLINE void adamw_vec(const AdamW *args, const Parameter *to, int64_t i, int64_t n) {
  const vec gradient = load(to->gradient, i, FP32, n) * args->scale;
  vec mean = load(to->mean, i, FP32, n), square = load(to->mean_square, i, FP32, n);
  mean += (gradient - mean) * (1 - args->beta_1);
  square = square * args->beta_2 + gradient * gradient * (1 - args->beta_2);
  const vec root = __builtin_elementwise_sqrt(square) * to->inv_correction + args->eps;
  store(to->weights, i, load(to->weights, i, FP32, n) * to->decay - mean / root * to->step_size, FP32, n);
  store(to->mean, i, mean, FP32, n);
  store(to->mean_square, i, square, FP32, n);
}

INLINE void pack_rows(const Parameter *parameter, int64_t row) {
  const int64_t steps = parameter->width / SIDE;
  const Packing args = {.from = parameter->weights, .width = parameter->width};
  for (int64_t i = 0; i < steps; i++)
    for (int64_t half = 0; half < 2; half++) {
      const int64_t forward = ((parameter->first + row / SIDE) * parameter->forward_steps + i) * 2 + half;
      pack_tile(&args, row + half * LANES, i * SIDE, parameter->forward + forward * TILE_PAIRS, FP32, ALONG_COLUMNS);
      const int64_t backward = (i * parameter->backward_steps + parameter->first + row / SIDE) * 2 + half;
      pack_tile(&args, i * SIDE + half * LANES, row, parameter->backward + backward * TILE_PAIRS, FP32, ALONG_ROWS);
    }
}

static void adamw_worker(void *arg) {
  AdamW *args = arg;
  FOR_CHUNKS(args) {
    int64_t i = chunk.begin;
    for (; i + LANES <= chunk.end; i += LANES) adamw_vec(args, chunk.parameter, i, LANES);
    if (i < chunk.end) adamw_vec(args, chunk.parameter, i, chunk.end - i);
    if (chunk.parameter->width) pack_rows(chunk.parameter, chunk.begin / chunk.parameter->width);
  }
}
