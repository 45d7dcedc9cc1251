// A layer norm, or one by the root of the mean square (RMSNorm), that writes its result twice in one pass: in fp32 for the
// residual, and as the next linear layer reads it.

#pragma once

#include "vectors.h"

typedef struct {  // the same fields as Norm in kernels.py
  const float *weight, *bias;  // (width,)
  const float *multiplier;     // (width,): what the next linear layer reads in U8 or U16 is y * multiplier + zero_point
  float eps, zero_point;
  int64_t is_rms;  // no mean is subtracted
} Norm;

// One row. `output` or `next` may be 0; in BF16 `next` is y rounded.
static void layer_norm(const Norm *norm, int64_t width, const float *x, float *output, void *next, enum dtype dtype) {
  vec sum = 0, squares = 0;
  for (int64_t d = 0; d < width && !norm->is_rms; d += LANES) sum += load(x + d, 0, FP32, width - d);
  const float mean = hsum(sum) / (float)width;
  for (int64_t d = 0; d < width; d += LANES) {
    const vec centered = mask_tail(load(x + d, 0, FP32, width - d) - mean, width - d, 0);
    squares += centered * centered;
  }
  const float inv_std = 1 / __builtin_sqrtf(hsum(squares) / (float)width + norm->eps);
  for (int64_t d = 0; d < width; d += LANES) {
    const int64_t n = width - d;
    vec y = (load(x + d, 0, FP32, n) - mean) * inv_std;
    y = y * load(norm->weight, d, FP32, n) + load(norm->bias, d, FP32, n);
    if (output) store(output, d, y, FP32, n);
    if (next && dtype == FP32) store(next, d, y, FP32, n);
    if (next && dtype == BF16) store(next, d, y, BF16, n);
    if (!next || !is_quantized(dtype)) continue;
    y = y * load(norm->multiplier, d, FP32, n) + norm->zero_point;
    if (dtype == U8) store(next, d, y, U8, n);
    else store(next, d, y, U16, n);
  }
}
