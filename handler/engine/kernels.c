// CPU kernels for two operations that PyTorch has no fast operator for: attention within the sequences of a packed row, and
// a layer norm that writes args result both in fp32, for the residual, and quantized to u8, for the next linear layer.
//
// Freestanding C for clang, sixteen lanes at a time: no library, no header of PyTorch. scripts/compile_kernels.py compiles
// it, kernels.py calls it. One thread computes one head of one sequence from beginning to end, in a fixed order: the
// result depends on that sequence alone, to the last bit.

#include <stdint.h>

typedef float vec __attribute__((ext_vector_type(16), aligned(4)));
typedef int32_t ints __attribute__((ext_vector_type(16), aligned(4)));
typedef uint32_t uints __attribute__((ext_vector_type(16), aligned(4)));
typedef uint16_t bf16s __attribute__((ext_vector_type(16), aligned(2)));
typedef uint8_t u8s __attribute__((ext_vector_type(16), aligned(1)));

typedef void parallel(void (*)(void *), void *, unsigned threads, unsigned flags);  // GOMP_parallel, of OpenMP

enum { LANES = 16, ROWS = 4 };  // lanes of a vector; queries computed at once
enum dtype { FP32, BF16, U8 };

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

// --- vectors of 16 lanes --------------------------------------------------------------------------------------------

INLINE int64_t round_up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

INLINE vec mask_tail(vec x, int64_t n, float other) {  // the first n lanes of x, then `other`
  const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const ints inside = lane < (ints)(int32_t)n;
  return (vec)(((ints)x & inside) | ((ints)(vec)other & ~inside));
}

INLINE float bf16_to_float(uint16_t x) {
  union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
  return u.value;
}

// The first n elements, at most all lanes; the other lanes are 0.
INLINE vec load(const void *from, int64_t at, enum dtype dtype, int64_t n) {
  const float *floats = (const float *)from + at;
  const uint16_t *shorts = (const uint16_t *)from + at;
  if (n >= LANES)
    return dtype == FP32 ? *(const vec *)floats : (vec)(__builtin_convertvector(*(const bf16s *)shorts, ints) << 16);
  vec x = 0;
  for (int64_t i = 0; i < n; i++) x[i] = dtype == FP32 ? floats[i] : bf16_to_float(shorts[i]);
  return x;
}

INLINE bf16s float_to_bf16(vec x) {  // rounds to nearest, ties to even
  ints bits = (ints)x;
  bits += 0x7fff + ((bits >> 16) & 1);
  return __builtin_convertvector(bits >> 16, bf16s);
}

INLINE u8s saturate_u8(vec x) {  // clamps to 0..255 and truncates
  x = __builtin_elementwise_min(__builtin_elementwise_max(x, (vec)0), (vec)255);
  return __builtin_convertvector(__builtin_convertvector(x, ints), u8s);
}

#define STORE(type, lanes, value)                                            \
  {                                                                          \
    type *to_ = (type *)to + at;                                             \
    lanes v_ = value;                                                        \
    if (n >= LANES) *(lanes *)to_ = v_;                                      \
    else for (int64_t i = 0; i < n; i++) to_[i] = v_[i];                     \
  }

INLINE void store(void *to, int64_t at, vec x, enum dtype dtype, int64_t n) {  // the first n lanes, at most all
  if (dtype == FP32) STORE(float, vec, x)
  else if (dtype == BF16) STORE(uint16_t, bf16s, float_to_bf16(x))
  else STORE(uint8_t, u8s, saturate_u8(x))
}

#define SHUFFLE(x, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
  __builtin_shufflevector(x, x, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
#define SWAP_8(x) SHUFFLE(x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define SWAP_4(x) SHUFFLE(x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define SWAP_2(x) SHUFFLE(x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)

INLINE float hsum(vec x) {
  x += SWAP_8(x);
  x += SWAP_4(x);
  x += SWAP_2(x);
  return x[0] + x[1];
}

INLINE float hmax(vec x) {
  x = __builtin_elementwise_max(x, SWAP_8(x));
  x = __builtin_elementwise_max(x, SWAP_4(x));
  x = __builtin_elementwise_max(x, SWAP_2(x));
  return x[0] > x[1] ? x[0] : x[1];
}

// 2^x for x <= 0, relative error 2e-7: the integer part goes into the exponent bits, 2^r for |r| <= 1/2 is a Taylor series.
// Not named exp2, which clang knows as the C library's.
INLINE vec exp2_vec(vec x) {
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds x to an integer
  x = __builtin_elementwise_max(x, (vec)-126.0f);
  vec integer = (x + shift) - shift, r = x - integer;
  vec y = r * 1.5403530e-4f + 1.3333558e-3f;
  y = y * r + 9.6181291e-3f;
  y = y * r + 5.5504109e-2f;
  y = y * r + 2.4022651e-1f;
  y = y * r + 6.9314718e-1f;
  y = y * r + 1.0f;
  return y * (vec)((__builtin_convertvector(integer, ints) + 127) << 23);
}

INLINE void transpose(vec x[LANES]) {  // four perfect shuffles
#pragma unroll
  for (int round = 0; round < 4; round++) {
    vec y[LANES];
#pragma unroll
    for (int i = 0; i < LANES / 2; i++) {
      y[2 * i] = __builtin_shufflevector(x[i], x[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
#pragma unroll
    for (int i = 0; i < LANES; i++) x[i] = y[i];
  }
}

// sum + x * y. With `pairs` pack 32-bit lane holds two bf16 numbers, whose products are both added (AVX512_BF16).
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

// --- attention -----------------------------------------------------------------------------------------------------

typedef struct {  // the same fields as _Attention in kernels.py
  const void *query, *key, *value;           // (tokens, n_heads * head_width), or for `one_query` a query of each sequence
  void *output;                              // shape of query
  const int32_t *cu_seqlens;                 // (n_sequences + 1,) tokens
  float *scratch;                            // (threads, scratch_size)
  int64_t q_stride, kv_stride, output_stride;  // elements from token to token; keys and values have the same
  int64_t n_sequences, n_heads, head_width;
  int64_t one_query;  // whether there is one query for each sequence
  int64_t scratch_size;
  int64_t dtype, output_dtype;
  float scale, zero_point;  // scale of the logits in base 2; zero_point is added to the output
  int64_t next, thread;     // counters shared by the threads
} Attention;

// With `pairs`, each 32-bit element of the scratch holds two bf16 numbers: neighbours along head_width of queries and keys,
// or the values of two neighbouring tokens.
INLINE void attend_head(int pairs, const Attention *args, int64_t sequence, int64_t head, float *scratch) {
  const int64_t start = args->cu_seqlens[sequence], length = args->cu_seqlens[sequence + 1] - start;
  const int64_t head_width = args->head_width, head_offset = head * head_width, pack = 1 + pairs;
  const int64_t padded_width = round_up(head_width), padded_length = round_up(length);
  const int64_t depth = head_width / pack, tokens = (length + pairs) / pack;
  float *k_transposed = scratch;                              // (depth, padded_length)
  float *values = k_transposed + padded_width * padded_length;  // (tokens, padded_width)
  float *q_rows = values + padded_length * padded_width;        // (ROWS, padded_width)
  float *probs = q_rows + ROWS * padded_width;                  // (ROWS, padded_length)
  const enum dtype dtype = pairs ? FP32 : args->dtype;  // a pair is moved like one fp32 number
  const int64_t first_query = args->one_query ? sequence : start, n_queries = args->one_query ? 1 : length;

  for (int64_t j = 0; j < padded_length; j += LANES)
    for (int64_t d = 0; d < depth; d += LANES) {
      vec x[LANES];
      for (int i = 0; i < LANES; i++) {
        const int64_t at = ((start + j + i) * args->kv_stride + head_offset) / pack + d;
        x[i] = j + i < length ? load(args->key, at, dtype, depth - d) : (vec)0;
      }
      transpose(x);
      for (int i = 0; i < LANES; i++) *(vec *)(k_transposed + (d + i) * padded_length + j) = x[i];
    }
  for (int64_t j = 0; j < tokens; j++)
    for (int64_t d = 0; d < head_width; d += LANES) {
      const int64_t at = (start + j * pack) * args->kv_stride + head_offset + d;
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
        const int64_t at = ((first_query + i + (row < rows ? row : 0)) * args->q_stride + head_offset) / pack + d;
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
          const int64_t at = (first_query + i + row) * args->output_stride + head_offset + d + v * LANES;
          const vec x = sums[row][v] * inv_sum[row] + args->zero_point;
          store(args->output, at, x, args->output_dtype, head_width - d - v * LANES);
        }
    }
  }
}

static void attend_worker(void *arg) {
  Attention *args = arg;
  float *scratch = args->scratch + __atomic_fetch_add(&args->thread, 1, __ATOMIC_RELAXED) * args->scratch_size;
  const int64_t tasks = args->n_sequences * args->n_heads;
  for (int64_t task; (task = __atomic_fetch_add(&args->next, 1, __ATOMIC_RELAXED)) < tasks;) {
    const int64_t sequence = task / args->n_heads, head = task % args->n_heads;
    if (HAS_PAIRS && args->dtype == BF16 && args->head_width % 2 == 0) attend_head(1, args, sequence, head, scratch);
    else attend_head(0, args, sequence, head, scratch);
  }
}

EXPORT void attend(Attention *args, parallel *run, int64_t threads) {
  args->next = args->thread = 0;
  if (threads > 1) run(attend_worker, args, (unsigned)threads, 0);
  else attend_worker(args);
}

// --- layer norm ----------------------------------------------------------------------------------------------------

typedef struct {  // the same fields as _LayerNorm in kernels.py
  const float *x, *weight, *bias;  // (rows, width), (width,), (width,)
  float *output;                   // (rows, width)
  uint8_t *quantized;              // (rows, width): output * multiplier + zero_point
  const float *multiplier;         // (width,) requantization multipliers
  int64_t rows, width;
  float eps, zero_point;
  int64_t next;  // counter shared by the threads
} LayerNorm;

enum { ROWS_PER_TASK = 16 };  // rows that a thread takes at a time

static void layer_norm_row(const LayerNorm *args, int64_t row) {
  const int64_t width = args->width, at = row * width;
  vec sum = 0, squares = 0;
  for (int64_t d = 0; d < width; d += LANES) sum += load(args->x, at + d, FP32, width - d);
  const float mean = hsum(sum) / (float)width;
  for (int64_t d = 0; d < width; d += LANES) {
    const vec centered = mask_tail(load(args->x, at + d, FP32, width - d) - mean, width - d, 0);
    squares += centered * centered;
  }
  const float inv_std = 1 / __builtin_sqrtf(hsum(squares) / (float)width + args->eps);
  for (int64_t d = 0; d < width; d += LANES) {
    const int64_t n = width - d;
    vec y = (load(args->x, at + d, FP32, n) - mean) * inv_std;
    y = y * load(args->weight, d, FP32, n) + load(args->bias, d, FP32, n);
    store(args->output, at + d, y, FP32, n);
    store(args->quantized, at + d, y * load(args->multiplier, d, FP32, n) + args->zero_point, U8, n);
  }
}

static void layer_norm_worker(void *arg) {
  LayerNorm *args = arg;
  for (int64_t row; (row = __atomic_fetch_add(&args->next, ROWS_PER_TASK, __ATOMIC_RELAXED)) < args->rows;) {
    const int64_t end = row + ROWS_PER_TASK < args->rows ? row + ROWS_PER_TASK : args->rows;
    for (; row < end; row++) layer_norm_row(args, row);
  }
}

EXPORT void layer_norm_quantize(LayerNorm *args, parallel *run, int64_t threads) {
  args->next = 0;
  if (threads > 1) run(layer_norm_worker, args, (unsigned)threads, 0);
  else layer_norm_worker(args);
}
