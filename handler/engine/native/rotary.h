// Rotary positions: each pair of channels of a head is rotated by an angle of its position, in place.

#pragma once

#include "vectors.h"

typedef struct {  // the same fields as _Rotation in kernels.py
  void *x;                  // (rows, stride): heads side by side from the first column on
  const float *cos, *sin;   // (rows, half)
  int64_t stride, rows, n_heads, half;  // half: of the width of a head
  int64_t dtype;
  int64_t next;  // counter shared by the threads
} Rotation;

static void rotate_row(const Rotation *args, int64_t row) {
  const int64_t half = args->half;
  for (int64_t head = 0; head < args->n_heads; head++) {
    const int64_t first = row * args->stride + 2 * head * half, second = first + half;
    for (int64_t d = 0; d < half; d += LANES) {
      const int64_t n = half - d;
      const vec cos = load(args->cos, row * half + d, FP32, n), sin = load(args->sin, row * half + d, FP32, n);
      const vec x = load(args->x, first + d, args->dtype, n), y = load(args->x, second + d, args->dtype, n);
      store(args->x, first + d, x * cos - y * sin, args->dtype, n);
      store(args->x, second + d, y * cos + x * sin, args->dtype, n);
    }
  }
}
