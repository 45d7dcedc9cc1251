// Products in bf16 by the matrix unit of x86 (AMX), forwards and backwards: c = a @ b, all sizes multiples of SIDE.
//
// The unit reads pairs of numbers that follow each other in the depth of a product. `pack` puts them side by side: weights
// once a step, for both directions, and what a layer has read or returned once for the gradient of its weights.

#pragma once

#include "../../../handler/engine/native/tiles.h"

enum { SIDE = 32, TILE_PAIRS = 256, ROWS_PER_PRODUCT = 256 };  // of a block of four tiles; of a tile; that a thread takes

enum order {
  ALONG_ROWS,     // b (rows, width): pairs are neighbours in a column
  ALONG_COLUMNS,  // the transpose of b: pairs are neighbours in a row
  LEFT,           // the transpose of a: as ALONG_ROWS, each tile transposed
};

typedef struct {  // the same fields as _Packing in native.py
  const void *from;  // (rows, width)
  int32_t *to;       // (blocks, steps, 2 tiles, TILE_PAIRS)
  int64_t rows, width, dtype, order;
  int64_t steps;                    // of SIDE numbers each in the depth of the product
  int64_t first_block, first_step;  // where this part of several begins
  int64_t next;
} Packing;

typedef struct {  // the same fields as _Product in native.py
  const void *a;       // (rows, steps * SIDE), or packed
  const int32_t *b;    // packed
  void *c;             // (rows, blocks * SIDE)
  int64_t rows, blocks, steps, is_packed, dtype;  // whether a is packed; dtype of c
  int64_t next;
} Product;

INLINE bf16s rounded(const void *from, int64_t at, enum dtype dtype) {
  return dtype == BF16 ? *(const bf16s *)((const uint16_t *)from + at) : float_to_bf16(load(from, at, FP32, LANES));
}

INLINE ints pair_in_columns(const void *from, int64_t at, int64_t below, enum dtype dtype) {
  const uints high = __builtin_convertvector(rounded(from, below, dtype), uints) << 16;
  return (ints)(high | __builtin_convertvector(rounded(from, at, dtype), uints));
}

INLINE ints pairs_in_row(const void *from, int64_t at, enum dtype dtype) {
  if (dtype == BF16) return *(const ints *)((const uint16_t *)from + at);
  const bf16s x = rounded(from, at, FP32), y = rounded(from, at + LANES, FP32);
  return (ints)__builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                       22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
}

INLINE void pack_tile(const Packing *args, int64_t column, int64_t depth, int32_t *to, enum dtype dtype, enum order order) {
  vec x[LANES];
#pragma unroll
  for (int i = 0; i < LANES; i++) {
    if (order == ALONG_COLUMNS) x[i] = (vec)pairs_in_row(args->from, (column + i) * args->width + depth, dtype);
    else {
      const int64_t at = (depth + 2 * i) * args->width + column;
      x[i] = (vec)pair_in_columns(args->from, at, at + args->width, dtype);
    }
  }
  if (order != ALONG_ROWS) transpose(x);
#pragma unroll
  for (int i = 0; i < LANES; i++) *(vec *)(to + i * LANES) = x[i];
}

INLINE void pack_blocks(Packing *args, enum dtype dtype, enum order order) {
  const int64_t columns = order == ALONG_COLUMNS ? args->rows : args->width;
  const int64_t depth = order == ALONG_COLUMNS ? args->width : args->rows;
  for (int64_t block; (block = __atomic_fetch_add(&args->next, 1, __ATOMIC_RELAXED)) < columns / SIDE;)
    for (int64_t step = 0; step < depth / SIDE; step++)
      for (int64_t half = 0; half < 2; half++) {
        const int64_t tile = ((args->first_block + block) * args->steps + args->first_step + step) * 2 + half;
        pack_tile(args, block * SIDE + half * LANES, step * SIDE, args->to + tile * TILE_PAIRS, dtype, order);
      }
}

static void pack_worker(void *arg) {
  Packing *args = arg;
  if (args->order == LEFT) pack_blocks(args, BF16, LEFT);  // only of what layers read and return
  else if (args->order == ALONG_COLUMNS) pack_blocks(args, FP32, ALONG_COLUMNS);  // only of weights
  else if (args->dtype == BF16) pack_blocks(args, BF16, ALONG_ROWS);
  else pack_blocks(args, FP32, ALONG_ROWS);
}

#if HAS_TILES
INLINE void multiply_block(const Product *args, int64_t row, int64_t block) {
  const int64_t steps = args->steps, stride = args->is_packed ? TILE_BYTES : steps * SIDE * 2;
  const int64_t next_a = args->is_packed ? 2 * TILE_PAIRS * 4 : TILE_BYTES, half_a = args->is_packed ? TILE_PAIRS * 4 : LANES * stride;
  const char *a = (const char *)args->a + (args->is_packed ? row / SIDE * steps * next_a : row * stride);
  const int32_t *b = args->b + block * steps * 2 * TILE_PAIRS;
  __builtin_ia32_tilezero(0);
  __builtin_ia32_tilezero(1);
  __builtin_ia32_tilezero(2);
  __builtin_ia32_tilezero(3);
  for (int64_t step = 0; step < steps; step++, a += next_a, b += 2 * TILE_PAIRS) {
    __builtin_ia32_tileloadd64(4, a, (uint64_t)stride);
    __builtin_ia32_tileloadd64(6, b, TILE_BYTES);
    __builtin_ia32_tdpbf16ps(0, 4, 6);
    __builtin_ia32_tileloadd64(7, b + TILE_PAIRS, TILE_BYTES);
    __builtin_ia32_tdpbf16ps(1, 4, 7);
    __builtin_ia32_tileloadd64(5, a + half_a, (uint64_t)stride);
    __builtin_ia32_tdpbf16ps(2, 5, 6);
    __builtin_ia32_tdpbf16ps(3, 5, 7);
  }
  const int64_t width = args->blocks * SIDE, at = row * width + block * SIDE;
  float sums[SIDE * SIDE];
  float *to = args->dtype == FP32 ? (float *)args->c + at : sums;
  const int64_t to_row = args->dtype == FP32 ? width : SIDE;
  __builtin_ia32_tilestored64(0, to, (uint64_t)to_row * 4);
  __builtin_ia32_tilestored64(1, to + LANES, (uint64_t)to_row * 4);
  __builtin_ia32_tilestored64(2, to + LANES * to_row, (uint64_t)to_row * 4);
  __builtin_ia32_tilestored64(3, to + LANES * to_row + LANES, (uint64_t)to_row * 4);
  if (args->dtype == FP32) return;
  for (int64_t i = 0; i < SIDE; i++)
    for (int64_t j = 0; j < SIDE; j += LANES) store(args->c, at + i * width + j, *(const vec *)(sums + i * SIDE + j), BF16, LANES);
}

static void product_worker(void *arg) {
  Product *args = arg;
  TileConfig config = {.palette = 1};
  for (int i = 0; i < 8; i++) config.row_bytes[i] = TILE_BYTES, config.rows[i] = TILE_ROWS;
  __builtin_ia32_tile_loadconfig(&config);
  const int64_t parts = (args->rows + ROWS_PER_PRODUCT - 1) / ROWS_PER_PRODUCT;
  for (int64_t task; (task = __atomic_fetch_add(&args->next, 1, __ATOMIC_RELAXED)) < parts * args->blocks;) {
    const int64_t first = task % parts * ROWS_PER_PRODUCT, end = min_of(first + ROWS_PER_PRODUCT, args->rows);
    for (int64_t row = first; row < end; row += SIDE) multiply_block(args, row, task / parts);
  }
  release_tiles();
}
#else
static void product_worker(void *arg) { (void)arg; }
#endif
