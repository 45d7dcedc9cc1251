// Products of rows with weights that were packed for them (packing.py), and what follows a product: activation or residual.
//
// A block of rows times a panel of columns stays in registers from the first to the last channel. Channels are read in
// groups of 32 bits: one fp32 number, two of bf16 or four of 8 bits, which one instruction multiplies and adds to 32-bit
// sums. The sums of a row are added in the order of the channels, whatever rows are beside it. A processor with a matrix
// unit multiplies all but fp32 with that (tiles.h).
//
// A processor without an instruction for 8 bits (VNNI) reads rows in U16. Four weights in 8 bits become two pairs in 16, and
// an instruction of 1997 multiplies pairs and adds the two products: the same integers, where the one of 2006 for 8 bits
// keeps sums in 16 bits, which overflow.

#pragma once

#include "team.h"
#include "tiles.h"

#ifdef __AVX512F__
enum { BLOCK_VECS = 4 };  // 6 x 4 sums, 4 weights and a broadcast fill 32 registers
#else
enum { BLOCK_VECS = 1 };  // a vector is two of 16 registers
#endif
enum {
  BLOCK_ROWS = 6,
  PANEL = BLOCK_VECS * LANES,
  MAX_GROUPS = 1024,  // that a panel is read of before the next block of rows: they stay in the second-level cache
};

#ifdef __AVX512VNNI__
enum { QUANTIZED = U8 };  // how linear layers in int8 read rows
#else
enum { QUANTIZED = U16 };
#endif

enum activation { NONE, GELU, GELU_TANH, RELU, SILU };

typedef struct {  // the same fields as LinearArguments in native_encoder.py
  const vec *weight;          // (panels, groups up to whole LANES, PANEL) of 32 bits each
  const float *start;         // (panels * PANEL,) that sums start at: the bias; quantized: integers, -zero_point * sum(weight)
  const float *scale, *bias;  // (panels * PANEL,), quantized: y = sum * scale + bias
  int64_t groups, panels;     // groups: of weights
} Linear;

enum combine { REPLACE, ADD, MULTIPLY };  // what was there in FP32: nothing, the output itself, or factors

typedef struct {
  const Linear *linear;
  const Linear *gate;  // 0, or a linear layer whose activation the product is multiplied by
  const void *input;  // (rows, input_stride)
  void *output;       // (rows, output_stride), whole panels are written
  int64_t rows, input_stride, output_stride;  // elements
  enum dtype dtype, output_dtype;
  enum activation activation;
  enum combine combine;
  int is_coarse;                    // whether an activation in FP32 may be computed as for BF16
  int64_t panel_step;               // columns from panel to panel of the output
  float inv_scale, zero_point;      // of a quantized output: y * inv_scale + zero_point
  float *sums;                      // (rows, PANEL) of scratch memory
  float *factors;                   // (rows, PANEL) of scratch memory for a gate
  char *tiles;                      // (rows, input_stride) of scratch memory for tiles.h
  Team *team;                       // with which panels are shared; 0: this thread computes all
} Product;

// --- multiplication -------------------------------------------------------------------------------------------------

#ifdef __AVX512VNNI__
INLINE vec add_products_u8(vec sum, ints x, vec weight) {
  typedef int v16si __attribute__((vector_size(64)));
  return (vec)__builtin_ia32_vpdpbusd512((v16si)sum, (v16si)x, (v16si)weight);
}
#endif
#ifdef __AVX512BF16__
INLINE vec add_products_bf16(vec sum, ints x, vec weight) {
  typedef __bf16 v32bf __attribute__((vector_size(64)));
  typedef float v16sf __attribute__((vector_size(64)));
  return (vec)__builtin_ia32_dpbf16ps_512((v16sf)sum, (v32bf)x, (v32bf)weight);
}
#endif

INLINE vec add_products(vec sum, int32_t x, vec weight, enum dtype dtype) {
#ifdef __AVX512VNNI__
  if (dtype == U8) return add_products_u8(sum, (ints)x, weight);
#endif
#ifdef __AVX512BF16__
  if (dtype == BF16) return add_products_bf16(sum, (ints)x, weight);
#endif
  (void)dtype;
  return sum + (vec)(ints)x * weight;
}

typedef struct {
  const int32_t *x;  // (rows, stride) of 32 bits
  const vec *weight;
  const float *start;  // (rows, start_stride)
  float *sums;         // (rows, PANEL)
  int64_t stride, start_stride, groups;
} Block;

#ifndef __AVX512VNNI__
#ifdef __AVX512BW__
typedef int32_t pairs __attribute__((ext_vector_type(16), aligned(4)));
typedef short halves __attribute__((vector_size(64)));
INLINE pairs multiply_pairs_of(pairs x, pairs y) { return (pairs)__builtin_ia32_pmaddwd512((halves)x, (halves)y); }
#else
typedef int32_t pairs __attribute__((ext_vector_type(8), aligned(4)));
typedef short halves __attribute__((vector_size(32)));
INLINE pairs multiply_pairs_of(pairs x, pairs y) { return (pairs)__builtin_ia32_pmaddwd256((halves)x, (halves)y); }
#endif
enum { BLOCK_PAIRS = PANEL * 4 / sizeof(pairs) };

// As multiply_rows, of rows in U16 and weights in 8 bits.
INLINE void multiply_rows_by_pairs(int rows, const Block *block) {
  pairs sums[BLOCK_ROWS][BLOCK_PAIRS];
#pragma unroll
  for (int row = 0; row < rows; row++)
#pragma unroll
    for (int i = 0; i < BLOCK_PAIRS; i++) sums[row][i] = ((const pairs *)(block->start + row * block->start_stride))[i];
  const int32_t *x = block->x;
  const pairs *weight = (const pairs *)block->weight;
  const int64_t stride = block->stride, groups = block->groups;
  for (int64_t group = 0; group < groups; group++, weight += BLOCK_PAIRS)
#pragma unroll
    for (int part = 0; part < 2; part++, x++) {
      pairs columns[BLOCK_PAIRS];  // the first or the second pair of weights of each group (packing.py)
#pragma unroll
      for (int i = 0; i < BLOCK_PAIRS; i++) columns[i] = (pairs)(part ? (halves)weight[i] >> 8 : (halves)weight[i] << 8 >> 8);
#pragma unroll
      for (int row = 0; row < rows; row++) {
        const pairs both = x[row * stride];
#pragma unroll
        for (int i = 0; i < BLOCK_PAIRS; i++) {
          sums[row][i] += multiply_pairs_of(both, columns[i]);
          __asm__("" : "+v"(sums[row][i]));  // in this order: both parts at once need more registers than there are
        }
      }
    }
#pragma unroll
  for (int row = 0; row < rows; row++)
#pragma unroll
    for (int i = 0; i < BLOCK_PAIRS; i++) ((pairs *)(block->sums + row * PANEL))[i] = sums[row][i];
}
#endif

INLINE void multiply_rows(int rows, enum dtype dtype, const Block *block) {
#ifndef __AVX512VNNI__
  if (dtype == U16) {
    multiply_rows_by_pairs(rows, block);
    return;
  }
#endif
  vec sums[BLOCK_ROWS][BLOCK_VECS];
#pragma unroll
  for (int row = 0; row < rows; row++) {
    const float *start = block->start + row * block->start_stride;
#pragma unroll
    for (int v = 0; v < BLOCK_VECS; v++) sums[row][v] = *(const vec *)(start + v * LANES);
  }
  const int32_t *x = block->x;
  const vec *weight = block->weight;
  const int64_t stride = block->stride, groups = block->groups;
  for (int64_t group = 0; group < groups; group++, x++, weight += BLOCK_VECS) {
    vec columns[BLOCK_VECS];
#pragma unroll
    for (int v = 0; v < BLOCK_VECS; v++) columns[v] = weight[v];
#pragma unroll
    for (int row = 0; row < rows; row++)
#pragma unroll
      for (int v = 0; v < BLOCK_VECS; v++) sums[row][v] = add_products(sums[row][v], x[row * stride], columns[v], dtype);
  }
#pragma unroll
  for (int row = 0; row < rows; row++)
#pragma unroll
    for (int v = 0; v < BLOCK_VECS; v++) *(vec *)(block->sums + row * PANEL + v * LANES) = sums[row][v];
}

#define MULTIPLY_BLOCK(name, dtype)                          \
  static void name(const Block *block, int64_t rows) {       \
    switch (rows) {                                          \
      case 1: multiply_rows(1, dtype, block); break;         \
      case 2: multiply_rows(2, dtype, block); break;         \
      case 3: multiply_rows(3, dtype, block); break;         \
      case 4: multiply_rows(4, dtype, block); break;         \
      case 5: multiply_rows(5, dtype, block); break;         \
      default: multiply_rows(BLOCK_ROWS, dtype, block);      \
    }                                                        \
  }
MULTIPLY_BLOCK(multiply_fp32, FP32)
MULTIPLY_BLOCK(multiply_bf16, BF16)
MULTIPLY_BLOCK(multiply_quantized, QUANTIZED)

// The sums of all rows and one panel.
static void multiply_panel(const Product *args, int64_t panel) {
  const Linear *linear = args->linear;
  const int64_t pack = 4 / size_of(args->dtype), stride = args->input_stride / pack;
  const int64_t n_blocks = (args->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
  for (int64_t group = 0; group < linear->groups; group += MAX_GROUPS)
    for (int64_t i = 0; i < n_blocks; i++) {  // blocks of nearly equal size
      const int64_t row = args->rows * i / n_blocks, end = args->rows * (i + 1) / n_blocks;
      float *sums = args->sums + row * PANEL;
      const Block block = {
          .x = (const int32_t *)args->input + row * stride + group * (args->dtype == U16 ? 2 : 1),
          .weight = linear->weight + (panel * round_up(linear->groups) + group) * BLOCK_VECS,
          .start = group ? sums : linear->start + panel * PANEL,
          .sums = sums,
          .stride = stride,
          .start_stride = group ? PANEL : 0,
          .groups = min_of(linear->groups - group, MAX_GROUPS),
      };
      if (args->dtype == QUANTIZED) multiply_quantized(&block, end - row);
      else if (args->dtype == BF16) multiply_bf16(&block, end - row);
      else multiply_fp32(&block, end - row);
    }
}

// --- what follows a product ----------------------------------------------------------------------------------------

// x * (1 + erf(x / sqrt(2))) / 2, with an erf of absolute error 1.5e-7: Abramowitz and Stegun, 7.1.26.
INLINE vec gelu(vec x) {
  const vec z = __builtin_elementwise_abs(x) * 0.70710678f, t = 1 / (z * 0.3275911f + 1);
  vec y = t * 1.061405429f - 1.453152027f;
  y = y * t + 1.421413741f;
  y = y * t - 0.284496736f;
  y = y * t + 0.254829592f;
  const vec tail = y * t * exp2_vec(z * z * -1.44269504f) * 0.5f;  // (1 - erf(z)) / 2
  const vec below = x * tail;
  return (vec)((x < 0) & (ints)below) + (vec)((x >= 0) & (ints)(x - below));
}

// The same with an absolute error below 1e-4, for results in 8 bits or bf16: a minimax polynomial.
INLINE vec gelu_coarse(vec x) {
  const vec z = __builtin_elementwise_min(__builtin_elementwise_max(x, (vec)-4.2f), (vec)4.2f), t = z * z;
  vec y = t * -9.0175117e-10f + 7.9413248e-8f;
  y = y * t - 3.0379274e-6f;
  y = y * t + 6.6890633e-5f;
  y = y * t - 9.50657e-4f;
  y = y * t + 9.2982271e-3f;
  y = y * t - 6.5528198e-2f;
  y = y * t + 3.9846587e-1f;
  return x * (z * y + 0.5f);
}

INLINE vec gelu_tanh(vec x) {  // x / (1 + exp(-2 u)), u = sqrt(2 / pi) * (x + 0.044715 x^3)
  const vec u = x * (x * x * 0.0356774081f + 0.7978845608f);
  const vec small = exp2_vec(__builtin_elementwise_abs(u) * -2.88539008f), sigmoid = 1 / (small + 1);
  return x * ((vec)((u < 0) & (ints)(small * sigmoid)) + (vec)((u >= 0) & (ints)sigmoid));
}

// x / (1 + exp(-x))
INLINE vec silu(vec x) {
  const vec small = exp2_vec(__builtin_elementwise_abs(x) * -1.44269504f), sigmoid = 1 / (small + 1);
  return x * ((vec)((x < 0) & (ints)(small * sigmoid)) + (vec)((x >= 0) & (ints)sigmoid));
}

// The same with a relative error of 2e-4.
INLINE vec silu_coarse(vec x) {
  const vec y = exp2_coarse(__builtin_elementwise_min(x * -1.44269504f, (vec)126.0f)) + 1;
#ifdef __AVX512F__
  typedef float v16sf __attribute__((vector_size(64)));
  return x * (vec)__builtin_ia32_rcp14ps512_mask((v16sf)y, (v16sf)y, (unsigned short)-1);
#else
  return x / y;
#endif
}

INLINE vec activate(vec x, enum activation activation, int is_coarse) {
  switch (activation) {
    case GELU: return is_coarse ? gelu_coarse(x) : gelu(x);
    case SILU: return is_coarse ? silu_coarse(x) : silu(x);
    case GELU_TANH: return gelu_tanh(x);
    case RELU: return __builtin_elementwise_max(x, (vec)0);
    default: return x;
  }
}

// Rows [row, end), whose sums begin at `sums`.
INLINE void finish_rows(const Product *args, int64_t panel, int64_t row, int64_t end, const float *sums, int is_integer,
                        enum combine combine, enum activation activation, int is_coarse, enum dtype output) {
  const float *scale = args->linear->scale + panel * PANEL, *bias = args->linear->bias + panel * PANEL;
  for (; row < end; row++, sums += PANEL) {
#pragma unroll
    for (int v = 0; v < BLOCK_VECS; v++) {
      const int64_t column = v * LANES, at = row * args->output_stride + panel * args->panel_step + column;
      vec y = *(const vec *)(sums + column);
      if (is_integer) y = __builtin_convertvector((ints)y, vec) * *(const vec *)(scale + column) + *(const vec *)(bias + column);
      if (combine == ADD) y += *(const vec *)((const float *)args->output + at);
      if (combine == MULTIPLY) y *= *(const vec *)(args->factors + row * PANEL + column);
      y = activate(y, activation, is_coarse);
      if (is_quantized(output)) y = y * args->inv_scale + args->zero_point;
      store(args->output, at, y, output, LANES);
    }
  }
}

INLINE void finish_as(int is_integer, const Product *args, int64_t panel, int64_t row, int64_t end, const float *sums) {
  const enum dtype output = args->output_dtype;
  const enum activation activation = args->activation;
  const int is_coarse = args->is_coarse;
#define FINISH(combine, activation, is_coarse, output) \
  finish_rows(args, panel, row, end, sums, is_integer, combine, activation, is_coarse, output)
  if (args->combine == ADD) FINISH(ADD, NONE, 0, FP32);
  else if (args->combine == MULTIPLY && output == BF16) FINISH(MULTIPLY, NONE, 0, BF16);
  else if (args->combine == MULTIPLY && output == QUANTIZED) FINISH(MULTIPLY, NONE, 0, QUANTIZED);
  else if (args->combine == MULTIPLY) FINISH(MULTIPLY, NONE, 0, output);
  else if (activation == NONE && output == FP32) FINISH(REPLACE, NONE, 0, FP32);
  else if (activation == NONE) FINISH(REPLACE, NONE, 0, BF16);
  else if (activation == GELU && output == QUANTIZED) FINISH(REPLACE, GELU, 1, QUANTIZED);
  else if (activation == GELU && output == BF16) FINISH(REPLACE, GELU, 1, BF16);
  else if (activation == GELU && is_coarse && output == FP32) FINISH(REPLACE, GELU, 1, FP32);
  else if (activation == SILU && is_coarse && output == FP32) FINISH(REPLACE, SILU, 1, FP32);
  else FINISH(REPLACE, activation, is_coarse, output);
#undef FINISH
}

static void finish(const Product *args, int64_t panel, int64_t row, int64_t end, const float *sums) {
  if (args->dtype == QUANTIZED) finish_as(1, args, panel, row, end, sums);
  else finish_as(0, args, panel, row, end, sums);
}

// --- by the matrix unit ---------------------------------------------------------------------------------------------

#if HAS_TILES
// Rows are cut into tiles of equal size; the last one begins earlier instead of being smaller.
INLINE int64_t tiles_of(int64_t rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS; }
INLINE int64_t tile_rows_of(int64_t rows) { return (rows + tiles_of(rows) - 1) / tiles_of(rows); }

static void copy_into_tiles(const Product *args) {
  const int64_t rows = args->rows, tile_rows = tile_rows_of(rows), groups = args->linear->groups;
  const int64_t stride = args->input_stride * size_of(args->dtype) / 4;
  ints *to = (ints *)args->tiles;
  for (int64_t tile = 0; tile < tiles_of(rows); tile++) {
    const int32_t *x = (const int32_t *)args->input + min_of(tile * tile_rows, rows - tile_rows) * stride;
    for (int64_t group = 0; group < groups; group += TILE_ROWS)
      for (int64_t row = 0; row < tile_rows; row++) *to++ = (ints)load(x, row * stride + group, FP32, groups - group);
  }
}

// The sums of one panel, and what follows them, two tiles of rows at a time: sums stay in the first-level cache.
static void compute_panel_by_tiles(const Product *args, int64_t panel) {
  const Linear *linear = args->linear;
  const int64_t rows = args->rows, n_tiles = tiles_of(rows), tile_rows = tile_rows_of(rows);
  const int64_t steps = tiles_of(linear->groups), panel_size = steps * TILE_ROWS * PANEL;
  const int64_t n_steps = steps * (n_tiles == 1 ? 1 : (n_tiles + 1) / 2 * 2);
  TiledBlock block = {
      .weight = (const float *)linear->weight + panel * panel_size,
      .start = linear->start + panel * PANEL,
      .sums = args->sums,
      .steps = steps,
      .rows = tile_rows,
      .next = (const float *)linear->weight + (panel + 1) * panel_size,
      .lines = (panel_size / LANES + n_steps - 1) / n_steps,
  };
  for (int64_t tile = 0; tile < n_tiles; tile += 2) {
    block.x = args->tiles + tile * steps * tile_rows * TILE_BYTES;
    const int is_last = tile + 1 == n_tiles;
    if (is_last && args->dtype == U8) multiply_one_tile(U8, &block);
    else if (is_last) multiply_one_tile(BF16, &block);
    else if (args->dtype == U8) multiply_two_tiles(U8, &block);
    else multiply_two_tiles(BF16, &block);
    block.next += 2 * steps * block.lines * LANES;
    for (int64_t i = 0; i < 2 && tile + i < n_tiles; i++) {
      const int64_t row = (tile + i) * tile_rows, skip = max_of(row - (rows - tile_rows), 0);
      finish(args, panel, row, min_of(row + tile_rows, rows), args->sums + (i * tile_rows + skip) * PANEL);
    }
  }
}
#else
INLINE int64_t tile_rows_of(int64_t rows) { return rows; }
static void copy_into_tiles(const Product *args) { (void)args; }
static void compute_panel_by_tiles(const Product *args, int64_t panel) { (void)args, (void)panel; }
#endif

INLINE void compute_panel(const Product *args, int64_t panel, int is_tiled) {
  if (is_tiled) {
    compute_panel_by_tiles(args, panel);
    return;
  }
  multiply_panel(args, panel);
  finish(args, panel, 0, args->rows, args->sums);
}

static void product(const Product *args) {
  const int is_tiled = HAS_TILES && args->dtype != FP32;
  Product gate = *args, up = *args;
  if (args->gate) {  // the activations of a panel stay in the cache until they are multiplied
    gate.linear = args->gate;
    gate.output = args->factors, gate.output_stride = PANEL, gate.panel_step = 0, gate.output_dtype = FP32;
    up.combine = MULTIPLY, up.activation = NONE;
  }
  if (is_tiled) configure_tiles(tile_rows_of(args->rows)), copy_into_tiles(args);
  EACH(panel, args->linear->panels, args->team) {
    if (args->gate) compute_panel(&gate, panel, is_tiled);
    compute_panel(&up, panel, is_tiled);
  }
}
