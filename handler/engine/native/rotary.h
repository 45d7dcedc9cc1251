// Rotary positions: each pair of channels of a head is rotated by an angle of its position, in place.

#pragma once

#include "vectors.h"

// One row: `x` holds heads of 2 * half channels side by side, cos and sin (half,) the angles of its position.
static void rotate_row(void *x, enum dtype dtype, int64_t n_heads, int64_t half, const float *cos, const float *sin) {
  for (int64_t first = 0; first < 2 * half * n_heads; first += 2 * half)
    for (int64_t d = 0; d < half; d += LANES) {
      const int64_t n = half - d, second = first + half;
      const vec c = load(cos, d, FP32, n), s = load(sin, d, FP32, n);
      const vec a = load(x, first + d, dtype, n), b = load(x, second + d, dtype, n);
      store(x, first + d, a * c - b * s, dtype, n);
      store(x, second + d, b * c + a * s, dtype, n);
    }
}
