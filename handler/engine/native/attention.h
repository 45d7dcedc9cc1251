// Attention within each sequence of a packed row: one head of one sequence from beginning to end, in a fixed order, so that
// the result depends on that sequence alone, to the last bit.

#pragma once

#include "vectors.h"

enum { ROWS = 4 };  // queries computed at once

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
                        int64_t depth, vec sums[ROWS][2]) {
#pragma unroll
  for (int row = 0; row < ROWS; row++) sums[row][0] = sums[row][1] = 0;
  for (int64_t d = 0; d < depth; d++)
    for (int v = 0; v < vecs; v++) {
      const vec column = *(const vec *)(y + d * y_stride + v * LANES);
#pragma unroll
      for (int row = 0; row < ROWS; row++) sums[row][v] = multiply_add(sums[row][v], x[row * x_stride + d], column, pairs);
    }
}

INLINE void matmul(int pairs, int vecs, const float *x, int64_t x_stride, const float *y, int64_t y_stride,
                   int64_t depth, vec sums[ROWS][2]) {  // makes `vecs` a compile-time constant
  if (vecs == 2) matmul_vecs(pairs, 2, x, x_stride, y, y_stride, depth, sums);
  else matmul_vecs(pairs, 1, x, x_stride, y, y_stride, depth, sums);
}

typedef struct {  // heads of one sequence
  const void *query, *key, *value;  // of the first token of the sequence: (tokens, n_heads * head_width)
  void *output;                     // (queries, n_heads * head_width)
  int64_t q_stride, kv_stride, output_stride;  // elements from token to token; keys and values have the same
  int64_t length, n_queries;                   // tokens of the sequence, and those that are computed
  int64_t n_heads, head_width;
  enum dtype dtype, output_dtype;
  float scale, zero_point;  // scale of the logits in base 2; zero_point is added to the output
} Heads;

// Numbers of scratch memory that a thread needs.
INLINE int64_t attention_scratch(int64_t head_width, int64_t max_seqlen) {
  const int64_t width = round_up(head_width), length = round_up(max_seqlen);
  return 2 * width * length + ROWS * (width + length);
}

// With `pairs`, each 32-bit element of the scratch holds two bf16 numbers: neighbours along head_width of queries and keys,
// or the values of two neighbouring tokens.
INLINE void attend_head(int pairs, const Heads *args, int64_t head, float *scratch) {
  const int64_t length = args->length, n_queries = args->n_queries;
  const int64_t head_width = args->head_width, head_offset = head * head_width, pack = 1 + pairs;
  const int64_t padded_width = round_up(head_width), padded_length = round_up(length);
  const int64_t depth = head_width / pack, tokens = (length + pairs) / pack;
  float *k_transposed = scratch;                              // (depth, padded_length)
  float *values = k_transposed + padded_width * padded_length;  // (tokens, padded_width)
  float *q_rows = values + padded_length * padded_width;        // (ROWS, padded_width)
  float *probs = q_rows + ROWS * padded_width;                  // (ROWS, padded_length)
  const enum dtype dtype = pairs ? FP32 : args->dtype;  // a pair is moved like one fp32 number

  for (int64_t j = 0; j < padded_length; j += LANES)
    for (int64_t d = 0; d < depth; d += LANES) {
      vec x[LANES];
      for (int i = 0; i < LANES; i++) {
        const int64_t at = ((j + i) * args->kv_stride + head_offset) / pack + d;
        x[i] = j + i < length ? load(args->key, at, dtype, depth - d) : (vec)0;
      }
      transpose(x);
      for (int i = 0; i < LANES; i++) *(vec *)(k_transposed + (d + i) * padded_length + j) = x[i];
    }
  for (int64_t j = 0; j < tokens; j++)
    for (int64_t d = 0; d < head_width; d += LANES) {
      const int64_t at = j * pack * args->kv_stride + head_offset + d;
      vec x = load(args->value, at, args->dtype, head_width - d);
      if (pairs) {
        const int64_t n = j * 2 + 1 < length ? head_width - d : 0;
        x = (vec)((ints)load(args->value, n > 0 ? at + args->kv_stride : at, BF16, n) | (ints)((uints)x >> 16));
      }
      *(vec *)(values + j * padded_width + d) = x;
    }

  for (int64_t i = 0; i < n_queries; i += ROWS) {
    const int64_t rows = n_queries - i < ROWS ? n_queries - i : ROWS;  // missing rows repeat the first
    for (int64_t row = 0; row < ROWS; row++)
      for (int64_t d = 0; d < depth; d += LANES) {
        const int64_t at = ((i + (row < rows ? row : 0)) * args->q_stride + head_offset) / pack + d;
        *(vec *)(q_rows + row * padded_width + d) = load(args->query, at, dtype, depth - d);
      }

    vec sums[ROWS][2], row_max[ROWS];
    for (int row = 0; row < ROWS; row++) row_max[row] = -1e30f;
    for (int64_t j = 0; j < padded_length; j += 2 * LANES) {
      const int vecs = j + LANES < padded_length ? 2 : 1;
      matmul(pairs, vecs, q_rows, padded_width, k_transposed + j, padded_length, depth, sums);
#pragma unroll
      for (int row = 0; row < ROWS; row++)
        for (int v = 0; v < vecs; v++) {
          const vec x = mask_tail(sums[row][v] * args->scale, length - j - v * LANES, -1e30f);
          row_max[row] = __builtin_elementwise_max(row_max[row], x);
          *(vec *)(probs + row * padded_length + j + v * LANES) = x;
        }
    }

    float inv_sum[ROWS];
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      const float max = hmax(row_max[row]);
      float *prob = probs + row * padded_length;
      vec sum = 0;
      for (int64_t j = 0; j < padded_length; j += LANES) {
        const vec x = exp2_vec(*(vec *)(prob + j) - max);
        store(prob, j, x, pairs ? BF16 : FP32, LANES);  // bf16 overwrites only what has been read
        sum += x;
      }
      inv_sum[row] = 1 / hsum(sum);
    }

    for (int64_t d = 0; d < head_width; d += 2 * LANES) {
      const int vecs = d + LANES < padded_width ? 2 : 1;
      matmul(pairs, vecs, probs, padded_length, values + d, padded_width, tokens, sums);
      for (int64_t row = 0; row < rows; row++)
        for (int64_t v = 0; v < vecs; v++) {
          const int64_t at = (i + row) * args->output_stride + head_offset + d + v * LANES;
          const vec x = sums[row][v] * inv_sum[row] + args->zero_point;
          store(args->output, at, x, args->output_dtype, head_width - d - v * LANES);
        }
    }
  }
}

static void attend(const Heads *args, int64_t head, float *scratch) {
  if (HAS_PAIRS && args->dtype == BF16 && args->head_width % 2 == 0) attend_head(1, args, head, scratch);
  else attend_head(0, args, head, scratch);
}
