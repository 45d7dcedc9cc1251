// Attention within each sequence of a packed row: one head of one sequence from beginning to end, in a fixed order, so that
// the result depends on that sequence alone, to the last bit.

#pragma once

#include "tiles.h"

enum { ROWS = HAS_TILES ? 16 : 4 };  // queries computed at once
#ifdef __AVX512F__
enum { VECS = 2 };  // of keys
#else
enum { VECS = 1 };  // a vector is two of 16 registers
#endif

// sum + x * y. With `pairs` each 32-bit lane holds two bf16 numbers, whose products are both added (AVX512_BF16).
#ifdef __AVX512BF16__
typedef __bf16 bf16x32 __attribute__((ext_vector_type(32)));
enum { HAS_PAIRS = 1 };
INLINE vec multiply_add(vec sum, float x, vec y, int pairs) {
  return pairs ? (vec)__builtin_ia32_dpbf16ps_512(sum, (bf16x32)(vec)x, (bf16x32)y) : sum + x * y;
}
#else
enum { HAS_PAIRS = 0 };
INLINE vec multiply_add(vec sum, float x, vec y, int pairs) { return (void)pairs, sum + x * y; }
#endif

// sums (ROWS, vecs * LANES) = x (ROWS, depth) @ y (depth, vecs * LANES)
INLINE void matmul_vecs(int pairs, int vecs, const float *x, int64_t x_stride, const float *y, int64_t y_stride,
                        int64_t depth, vec sums[ROWS][VECS]) {
#pragma unroll
  for (int row = 0; row < ROWS; row++)
    for (int v = 0; v < vecs; v++) sums[row][v] = 0;
  for (int64_t d = 0; d < depth; d++)
    for (int v = 0; v < vecs; v++) {
      const vec column = *(const vec *)(y + d * y_stride + v * LANES);
#pragma unroll
      for (int row = 0; row < ROWS; row++) sums[row][v] = multiply_add(sums[row][v], x[row * x_stride + d], column, pairs);
    }
}

INLINE void matmul(int pairs, int vecs, const float *x, int64_t x_stride, const float *y, int64_t y_stride,
                   int64_t depth, vec sums[ROWS][VECS]) {  // makes `vecs` a compile-time constant
  if (vecs == VECS) matmul_vecs(pairs, VECS, x, x_stride, y, y_stride, depth, sums);
  else matmul_vecs(pairs, 1, x, x_stride, y, y_stride, depth, sums);
}

typedef struct {  // heads of one sequence
  const void *query, *key, *value;  // of the first token of the sequence: (tokens, n_heads * head_width)
  void *output;                     // (queries, n_heads * head_width)
  int64_t q_stride, kv_stride, output_stride;  // elements from token to token; keys and values have the same
  int64_t length, n_queries;                   // tokens that are attended to, and those that are computed
  int64_t n_heads, head_width;
  enum dtype dtype, output_dtype;
  float scale, zero_point;  // scale of the logits in base 2; zero_point is added to the output
  const float *bias;        // on the logits of a head, in base 2, of keys at distance 0; of those after it follow, 0: none
  int64_t window;           // a query attends to the tokens at most so far away; 0: to all
  const int64_t *positions; // (queries,) of the queries plus `offset`; 0: they are neighbours
  int64_t offset;           // with no positions: minus that of the first query
} Heads;

INLINE int64_t position_of(const Heads *args, int64_t query) {
  return (args->positions ? args->positions[query] : query) - args->offset;
}

typedef struct {
  int64_t begin, end;
} Range;

// Keys that some queries [first, first + rows) reach, from a multiple of two vectors on: the sums of a query are then added in
// the same order, whichever queries are computed with it, for the probabilities that it does not reach are exactly 0.
static Range reach(const Heads *args, int64_t first, int64_t rows) {
  if (!args->window) return (Range){0, args->length};
  int64_t least = position_of(args, first), most = position_of(args, first + rows - 1);
  for (int64_t i = first; args->positions && i < first + rows; i++)
    least = min_of(least, position_of(args, i)), most = max_of(most, position_of(args, i));
  return (Range){
      .begin = max_of(0, least - args->window) / (2 * LANES) * (2 * LANES),
      .end = min_of(args->length, most + args->window + 1),
  };
}

// Those of the keys j, ... that a position reaches; the other lanes are 0.
INLINE ints is_reached(const Heads *args, int64_t position, int64_t j) {
  const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const ints key = lane + (int32_t)j;
  return (key >= (int32_t)max_of(0, position - args->window)) & (key < (int32_t)min_of(args->length, position + args->window + 1));
}

// A logit of the attention with its bias, or one that no exponential reaches.
INLINE vec mask_keys(const Heads *args, vec x, int64_t position, int64_t j) {
  if (args->bias) x += *(const vec *)(args->bias + j - position);
  if (!args->window) return mask_tail(x, args->length - j, -1e30f);
  const ints reached = is_reached(args, position, j);
  return (vec)(((ints)x & reached) | ((ints)(vec)-1e30f & ~reached));
}

INLINE vec zero_masked(const Heads *args, vec x, int64_t position, int64_t j) {
  return args->window ? (vec)((ints)x & is_reached(args, position, j)) : x;
}

// Numbers of scratch memory that a thread needs.
INLINE int64_t attention_scratch(int64_t head_width, int64_t max_seqlen) {
  const int64_t width = odd_lines(head_width), length = odd_lines(max_seqlen);
  return 2 * width * length + ROWS * (width + length);
}

typedef struct {  // scratch memory of one head
  float *k_transposed;  // (depth, length_stride)
  float *values;        // (tokens, width_stride)
  float *q_rows;        // (ROWS, width_stride)
  float *probs;         // (ROWS, length_stride)
  int64_t depth, tokens, width_stride, length_stride;
} HeadMemory;

// Lays out the memory, and copies keys and values into it. With `pairs`, each 32-bit element holds two bf16 numbers:
// neighbours along head_width of queries and keys, or the values of two neighbouring tokens.
INLINE HeadMemory copy_keys_and_values(int pairs, const Heads *args, int64_t head, float *scratch) {
  const int64_t length = args->length, head_width = args->head_width, head_offset = head * head_width, pack = 1 + pairs;
  const int64_t width_stride = odd_lines(head_width), length_stride = odd_lines(length);
  const int64_t depth = head_width / pack, tokens = (length + pairs) / pack;
  const HeadMemory memory = {
      .k_transposed = scratch,
      .values = scratch + width_stride * length_stride,
      .q_rows = scratch + 2 * width_stride * length_stride,
      .probs = scratch + 2 * width_stride * length_stride + ROWS * width_stride,
      .depth = depth, .tokens = tokens, .width_stride = width_stride, .length_stride = length_stride,
  };
  const enum dtype dtype = pairs ? FP32 : args->dtype;  // a pair is moved like one fp32 number
  for (int64_t j = 0; j < length; j += LANES)
    for (int64_t d = 0; d < depth; d += LANES) {
      vec x[LANES];
      for (int i = 0; i < LANES; i++) {
        const int64_t at = ((j + i) * args->kv_stride + head_offset) / pack + d;
        x[i] = j + i < length ? load(args->key, at, dtype, depth - d) : (vec)0;
      }
      transpose(x);
      for (int i = 0; i < LANES; i++) *(vec *)(memory.k_transposed + (d + i) * length_stride + j) = x[i];
    }
  for (int64_t j = 0; j < tokens; j++)
    for (int64_t d = 0; d < head_width; d += LANES) {
      const int64_t at = j * pack * args->kv_stride + head_offset + d;
      vec x = load(args->value, at, args->dtype, head_width - d);
      if (pairs) {
        const int64_t n = j * 2 + 1 < length ? head_width - d : 0;
        x = (vec)((ints)load(args->value, n > 0 ? at + args->kv_stride : at, BF16, n) | (ints)((uints)x >> 16));
      }
      *(vec *)(memory.values + j * width_stride + d) = x;
    }
  return memory;
}

INLINE void copy_queries(int pairs, const Heads *args, int64_t head, const HeadMemory *memory, int64_t first, int64_t rows) {
  const enum dtype dtype = pairs ? FP32 : args->dtype;
  for (int64_t row = 0; row < ROWS; row++)  // missing rows repeat the first
    for (int64_t d = 0; d < memory->depth; d += LANES) {
      const int64_t at = ((first + (row < rows ? row : 0)) * args->q_stride + head * args->head_width) / (1 + pairs) + d;
      *(vec *)(memory->q_rows + row * memory->width_stride + d) = load(args->query, at, dtype, memory->depth - d);
    }
}

#if HAS_TILES
// sums (16, width) = x (16, 16 * steps) @ y (16 * steps, width) of pairs, and strides in numbers of 32 bits
INLINE void multiply_pairs(const float *x, int64_t x_stride, const float *y, int64_t y_stride, int64_t steps, float *sums,
                           int64_t sums_stride, int64_t width) {
  for (int64_t column = 0; column < width; column += LANES) {
    __builtin_ia32_tilezero(0);
    for (int64_t step = 0; step < steps; step++) {
      __builtin_ia32_tileloadd64(4, x + step * LANES, (uint64_t)x_stride * 4);
      __builtin_ia32_tileloadd64(5, y + step * LANES * y_stride + column, (uint64_t)y_stride * 4);
      __builtin_ia32_tdpbf16ps(0, 4, 5);
    }
    __builtin_ia32_tilestored64(0, sums + column, (uint64_t)sums_stride * 4);
  }
}

// The same as attend_head with pairs, by tiles of 16 queries.
static void attend_head_by_tiles(const Heads *args, int64_t head, float *scratch) {
  const HeadMemory memory = copy_keys_and_values(1, args, head, scratch);
  const int64_t length_stride = memory.length_stride, width_stride = memory.width_stride;
  const int64_t value_steps = (memory.tokens + LANES - 1) / LANES;
  for (int64_t at = memory.tokens * width_stride; at < value_steps * LANES * width_stride; at += LANES)
    *(vec *)(memory.values + at) = 0;
  for (int64_t i = 0; i < args->n_queries; i += ROWS) {
    const int64_t rows = min_of(args->n_queries - i, ROWS);
    copy_queries(1, args, head, &memory, i, rows);
    const Range keys = reach(args, i, rows);
    const int64_t begin = keys.begin, end = round_up(keys.end), steps = (end - begin + 2 * LANES - 1) / (2 * LANES);
    multiply_pairs(memory.q_rows, width_stride, memory.k_transposed + begin, length_stride, (memory.depth + LANES - 1) / LANES,
                   memory.probs + begin, length_stride, end - begin);
    float inv_sums[ROWS];
    for (int64_t row = 0; row < rows; row++) {
      float *prob = memory.probs + row * length_stride;
      const int64_t position = position_of(args, i + row);
      vec max = -1e30f, sum = 0;
      for (int64_t j = begin; j < end; j += LANES) {
        const vec x = mask_keys(args, *(vec *)(prob + j) * args->scale, position, j);
        max = __builtin_elementwise_max(max, x);
        *(vec *)(prob + j) = x;
      }
      const float row_max = hmax(max);
      for (int64_t j = begin; j < end; j += LANES) {
        const vec x = zero_masked(args, exp2_coarse(*(vec *)(prob + j) - row_max), position, j);
        store(prob, j, x, BF16, LANES);  // overwrites only what has been read
        sum += x;
      }
      if (end % (2 * LANES)) *(bf16s *)((uint16_t *)prob + end) = 0;
      inv_sums[row] = 1 / hsum(sum);
    }
    multiply_pairs(memory.probs + begin / 2, length_stride, memory.values + begin / 2 * width_stride, width_stride, steps,
                   memory.q_rows, width_stride, round_up(args->head_width));
    for (int64_t row = 0; row < rows; row++)
      for (int64_t d = 0; d < args->head_width; d += LANES) {
        const int64_t at = (i + row) * args->output_stride + head * args->head_width + d;
        const vec x = *(vec *)(memory.q_rows + row * width_stride + d) * inv_sums[row] + args->zero_point;
        store(args->output, at, x, args->output_dtype, args->head_width - d);
      }
  }
}
#endif

INLINE void attend_head(int pairs, const Heads *args, int64_t head, float *scratch) {
  const HeadMemory memory = copy_keys_and_values(pairs, args, head, scratch);
  const int64_t n_queries = args->n_queries, head_width = args->head_width;
  const int64_t width_stride = memory.width_stride, length_stride = memory.length_stride, head_offset = head * head_width;
  float *probs = memory.probs;

  for (int64_t i = 0; i < n_queries; i += ROWS) {
    const int64_t rows = min_of(n_queries - i, ROWS);
    copy_queries(pairs, args, head, &memory, i, rows);
    const Range keys = reach(args, i, rows);
    const int64_t begin = keys.begin, end = round_up(keys.end), pack = 1 + pairs;
    vec sums[ROWS][VECS], row_max[ROWS];
    for (int row = 0; row < ROWS; row++) row_max[row] = -1e30f;
    for (int64_t j = begin; j < end; j += VECS * LANES) {
      const int vecs = j + LANES < end ? VECS : 1;
      matmul(pairs, vecs, memory.q_rows, width_stride, memory.k_transposed + j, length_stride, memory.depth, sums);
#pragma unroll
      for (int row = 0; row < ROWS; row++)
        for (int v = 0; v < vecs; v++) {
          const int64_t position = position_of(args, i + min_of(row, rows - 1));
          const vec x = mask_keys(args, sums[row][v] * args->scale, position, j + v * LANES);
          row_max[row] = __builtin_elementwise_max(row_max[row], x);
          *(vec *)(probs + row * length_stride + j + v * LANES) = x;
        }
    }

    float inv_sum[ROWS];
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      const float max = hmax(row_max[row]);
      float *prob = probs + row * length_stride;
      const int64_t position = position_of(args, i + min_of(row, rows - 1));
      vec sum = 0;
      for (int64_t j = begin; j < end; j += LANES) {
        const vec x = zero_masked(args, exp2_vec(*(vec *)(prob + j) - max), position, j);
        store(prob, j, x, pairs ? BF16 : FP32, LANES);  // bf16 overwrites only what has been read
        sum += x;
      }
      inv_sum[row] = 1 / hsum(sum);
    }

    const int64_t n_values = (keys.end - begin + pairs) / pack;
    for (int64_t d = 0; d < head_width; d += VECS * LANES) {
      const int vecs = d + LANES < head_width ? VECS : 1;
      const float *values = memory.values + begin / pack * width_stride + d;
      matmul(pairs, vecs, probs + begin / pack, length_stride, values, width_stride, n_values, sums);
      for (int64_t row = 0; row < rows; row++)
        for (int64_t v = 0; v < vecs; v++) {
          const int64_t at = (i + row) * args->output_stride + head_offset + d + v * LANES;
          const vec x = sums[row][v] * inv_sum[row] + args->zero_point;
          store(args->output, at, x, args->output_dtype, head_width - d - v * LANES);
        }
    }
  }
}

// The keys that any of the queries reaches, as if there were no others.
INLINE Heads narrow(const Heads *all) {
  Heads args = *all;
  if (args.length <= args.window + 1) args.window = 0;
  if (!args.window) return args;
  const Range keys = reach(all, 0, all->n_queries);
  args.key = element(args.key, keys.begin * args.kv_stride, args.dtype);
  args.value = element(args.value, keys.begin * args.kv_stride, args.dtype);
  args.length = keys.end - keys.begin;
  args.offset += keys.begin;
  return args;
}

// One head; by tiles only after configure_tiles(16).
static void attend(const Heads *all, int64_t head, float *scratch) {
  const Heads args = narrow(all);
#if HAS_TILES
  if (args.dtype == BF16 && args.head_width % 2 == 0) {
    attend_head_by_tiles(&args, head, scratch);
    return;
  }
#endif
  if (HAS_PAIRS && args.dtype == BF16 && args.head_width % 2 == 0) attend_head(1, &args, head, scratch);
  else attend_head(0, &args, head, scratch);
}
