// What PyTorch has no fast operator for on a CPU: attention within the sequences of a packed row, and a layer norm that
// leaves its result both as real numbers and as the integers that the next product reads.
//
// Freestanding C for clang, sixteen numbers at a time: no library, no header of PyTorch. scripts/compile_kernels.py compiles
// it, kernels.py calls it. One thread computes a head of a sequence from beginning to end in an order of its own:
// the result depends on that sequence alone, to the last bit.

#include <stdint.h>

typedef float vec __attribute__((ext_vector_type(16), aligned(4)));
typedef int32_t ints __attribute__((ext_vector_type(16), aligned(4)));
typedef uint32_t uints __attribute__((ext_vector_type(16), aligned(4)));
typedef uint16_t halves __attribute__((ext_vector_type(16), aligned(2)));
typedef uint8_t bytes __attribute__((ext_vector_type(16), aligned(1)));

typedef void parallel(void (*)(void *), void *, unsigned threads, unsigned flags);  // GOMP_parallel, of OpenMP

enum { LANES = 16, ROWS = 4 };  // of a vector; queries that are computed at once
enum kind { FP32, BF16, U8 };

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

// --- sixteen numbers -----------------------------------------------------------------------------------------------

INLINE int64_t up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

INLINE vec keep(vec x, int64_t n, float other) {  // the first n lanes
  const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const ints inside = lane < (ints)(int32_t)n;
  return (vec)(((ints)x & inside) | ((ints)(vec)other & ~inside));
}

INLINE float widened(uint16_t x) {
  union { uint32_t bits; float real; } its = {(uint32_t)x << 16};
  return its.real;
}

INLINE vec load(const void *from, int64_t at, enum kind kind, int64_t n) {  // n numbers, or all lanes; then zeros
  const float *reals = (const float *)from + at;
  const uint16_t *shorts = (const uint16_t *)from + at;
  if (n >= LANES) return kind == FP32 ? *(const vec *)reals : (vec)(__builtin_convertvector(*(const halves *)shorts, ints) << 16);
  vec x = 0;
  for (int64_t i = 0; i < n; i++) x[i] = kind == FP32 ? reals[i] : widened(shorts[i]);
  return x;
}

INLINE halves narrowed(vec x) {  // to bf16, to the nearest, to the even one of two
  ints bits = (ints)x;
  bits += 0x7fff + ((bits >> 16) & 1);
  return __builtin_convertvector(bits >> 16, halves);
}

INLINE bytes integers(vec x) {  // of 0..255; what is behind the point is cut off
  x = __builtin_elementwise_min(__builtin_elementwise_max(x, (vec)0), (vec)255);
  return __builtin_convertvector(__builtin_convertvector(x, ints), bytes);
}

#define STORE(type, lanes, value)                                            \
  {                                                                          \
    type *to_ = (type *)to + at;                                             \
    lanes its = value;                                                       \
    if (n >= LANES) *(lanes *)to_ = its;                                     \
    else for (int64_t i = 0; i < n; i++) to_[i] = its[i];                    \
  }

INLINE void store(void *to, int64_t at, vec x, enum kind kind, int64_t n) {  // n numbers, or all lanes
  if (kind == FP32) STORE(float, vec, x)
  else if (kind == BF16) STORE(uint16_t, halves, narrowed(x))
  else STORE(uint8_t, bytes, integers(x))
}

#define TURN(x, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
  __builtin_shufflevector(x, x, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
#define HALF(x) TURN(x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define QUARTER(x) TURN(x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define EIGHTH(x) TURN(x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)

INLINE float sum_of(vec x) {
  x += HALF(x);
  x += QUARTER(x);
  x += EIGHTH(x);
  return x[0] + x[1];
}

INLINE float most_of(vec x) {
  x = __builtin_elementwise_max(x, HALF(x));
  x = __builtin_elementwise_max(x, QUARTER(x));
  x = __builtin_elementwise_max(x, EIGHTH(x));
  return x[0] > x[1] ? x[0] : x[1];
}

// 2^x for x <= 0, to 2e-7 of it: whole powers by the exponent's bits, 2^r for |r| <= 1/2 by Taylor's series.
INLINE vec power_of_two(vec x) {
  const float shift = 12582912.0f;  // 1.5 * 2^23: a number added to it is rounded to a whole one
  x = __builtin_elementwise_max(x, (vec)-126.0f);
  vec whole = (x + shift) - shift, r = x - whole;
  vec y = r * 1.5403530e-4f + 1.3333558e-3f;
  y = y * r + 9.6181291e-3f;
  y = y * r + 5.5504109e-2f;
  y = y * r + 2.4022651e-1f;
  y = y * r + 6.9314718e-1f;
  y = y * r + 1.0f;
  return y * (vec)((__builtin_convertvector(whole, ints) + 127) << 23);
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

// What is multiplied and added: one number, or, of bf16 where the processor does it at once, two in the place of one.
#ifdef __AVX512BF16__
typedef __bf16 both __attribute__((ext_vector_type(32)));
enum { PAIRS = 1 };
INLINE vec added(vec sum, float x, vec y, int pairs) {
  return pairs ? (vec)__builtin_ia32_dpbf16ps_512(sum, (both)(vec)x, (both)y) : sum + x * y;
}
#else
enum { PAIRS = 0 };
INLINE vec added(vec sum, float x, vec y, int pairs) { return (void)pairs, sum + x * y; }
#endif

// sums (ROWS, vecs * LANES) = x (ROWS, depth) y (depth, vecs * LANES)
INLINE void multiply(int pairs, int vecs, const float *x, int64_t x_stride, const float *y, int64_t y_stride,
                     int64_t depth, vec sums[ROWS][2]) {
#pragma unroll
  for (int row = 0; row < ROWS; row++) sums[row][0] = sums[row][1] = 0;
  for (int64_t d = 0; d < depth; d++)
    for (int v = 0; v < vecs; v++) {
      const vec its = *(const vec *)(y + d * y_stride + v * LANES);
#pragma unroll
      for (int row = 0; row < ROWS; row++) sums[row][v] = added(sums[row][v], x[row * x_stride + d], its, pairs);
    }
}

INLINE void multiply_some(int pairs, int vecs, const float *x, int64_t x_stride, const float *y, int64_t y_stride,
                          int64_t depth, vec sums[ROWS][2]) {  // so that the compiler knows how many
  if (vecs == 2) multiply(pairs, 2, x, x_stride, y, y_stride, depth, sums);
  else multiply(pairs, 1, x, x_stride, y, y_stride, depth, sums);
}

// --- attention -----------------------------------------------------------------------------------------------------

typedef struct {  // as in kernels.py
  const void *query, *key, *value;              // of all tokens; heads side by side
  void *answer;                                 // like query
  const int32_t *offsets;                       // (sequences + 1,) tokens
  float *scratch;                               // (threads, scratch_size)
  int64_t query_stride, stride, answer_stride;  // numbers from token to token; keys and values have the same
  int64_t sequences, heads, width;              // width of one head
  int64_t alone;                                // whether there is one query for each sequence
  int64_t scratch_size;
  int64_t kind, answer_kind;
  float scale, zero;     // of the exponents of two; added to what is answered
  int64_t next, thread;  // counted up by the threads
} Attention;

// With `pairs`, each place in the scratch holds two numbers in bf16: neighbours of a head's width, or two tokens' values.
INLINE void attend_one(int pairs, const Attention *its, int64_t sequence, int64_t head, float *scratch) {
  const int64_t start = its->offsets[sequence], length = its->offsets[sequence + 1] - start;
  const int64_t width = its->width, wide = up(width), keys = up(length), column = head * width, each = 1 + pairs;
  const int64_t depth = width / each, tokens = (length + pairs) / each;
  float *turned = scratch, *values = turned + wide * keys;  // keys (depth, keys); values (tokens, wide)
  float *queries = values + keys * wide, *shares = queries + ROWS * wide;  // (ROWS, wide); (ROWS, keys)
  const enum kind kind = pairs ? FP32 : its->kind;  // pairs are moved as if they were one number
  const int64_t first = its->alone ? sequence : start, asked = its->alone ? 1 : length;

  for (int64_t j = 0; j < keys; j += LANES)
    for (int64_t d = 0; d < depth; d += LANES) {
      vec x[LANES];
      for (int i = 0; i < LANES; i++)
        x[i] = j + i < length ? load(its->key, ((start + j + i) * its->stride + column) / each + d, kind, depth - d) : (vec)0;
      transpose(x);
      for (int i = 0; i < LANES; i++) *(vec *)(turned + (d + i) * keys + j) = x[i];
    }
  for (int64_t j = 0; j < tokens; j++)
    for (int64_t d = 0; d < width; d += LANES) {
      const int64_t at = (start + j * each) * its->stride + column + d;
      vec x = load(its->value, at, its->kind, width - d);
      if (pairs) {
        const int64_t n = j * 2 + 1 < length ? width - d : 0;
        x = (vec)((ints)load(its->value, n > 0 ? at + its->stride : at, BF16, n) | (ints)((uints)x >> 16));
      }
      *(vec *)(values + j * wide + d) = x;
    }

  for (int64_t i = 0; i < asked; i += ROWS) {
    const int64_t rows = asked - i < ROWS ? asked - i : ROWS;  // the first is computed again in the place of others
    for (int64_t row = 0; row < ROWS; row++)
      for (int64_t d = 0; d < depth; d += LANES) {
        const int64_t at = ((first + i + (row < rows ? row : 0)) * its->query_stride + column) / each + d;
        *(vec *)(queries + row * wide + d) = load(its->query, at, kind, depth - d);
      }

    vec sums[ROWS][2], most[ROWS];
    for (int row = 0; row < ROWS; row++) most[row] = -1e30f;
    for (int64_t j = 0; j < keys; j += 2 * LANES) {
      const int vecs = j + LANES < keys ? 2 : 1;
      multiply_some(pairs, vecs, queries, wide, turned + j, keys, depth, sums);
#pragma unroll
      for (int row = 0; row < ROWS; row++)
        for (int v = 0; v < vecs; v++) {
          const vec x = keep(sums[row][v] * its->scale, length - j - v * LANES, -1e30f);
          most[row] = __builtin_elementwise_max(most[row], x);
          *(vec *)(shares + row * keys + j + v * LANES) = x;
        }
    }

    float parts[ROWS];
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      const float top = most_of(most[row]);
      float *share = shares + row * keys;
      vec sum = 0;
      for (int64_t j = 0; j < keys; j += LANES) {
        const vec x = power_of_two(*(vec *)(share + j) - top);
        store(share, j, x, pairs ? BF16 : FP32, LANES);  // of pairs, behind what is still to be read
        sum += x;
      }
      parts[row] = 1 / sum_of(sum);
    }

    for (int64_t d = 0; d < width; d += 2 * LANES) {
      const int vecs = d + LANES < wide ? 2 : 1;
      multiply_some(pairs, vecs, shares, keys, values + d, wide, tokens, sums);
      for (int64_t row = 0; row < rows; row++)
        for (int64_t v = 0; v < vecs; v++) {
          const int64_t at = (first + i + row) * its->answer_stride + column + d + v * LANES;
          const vec x = sums[row][v] * parts[row] + its->zero;
          store(its->answer, at, x, its->answer_kind, width - d - v * LANES);
        }
    }
  }
}

static void attend_some(void *given) {
  Attention *its = given;
  float *scratch = its->scratch + __atomic_fetch_add(&its->thread, 1, __ATOMIC_RELAXED) * its->scratch_size;
  const int64_t tasks = its->sequences * its->heads;
  for (int64_t task; (task = __atomic_fetch_add(&its->next, 1, __ATOMIC_RELAXED)) < tasks;)
    if (PAIRS && its->kind == BF16 && its->width % 2 == 0) attend_one(1, its, task / its->heads, task % its->heads, scratch);
    else attend_one(0, its, task / its->heads, task % its->heads, scratch);
}

EXPORT void attend(Attention *its, parallel *run, int64_t threads) {
  its->next = its->thread = 0;
  if (threads > 1) run(attend_some, its, (unsigned)threads, 0);
  else attend_some(its);
}

// --- norm ----------------------------------------------------------------------------------------------------------

typedef struct {  // as in kernels.py
  const float *x, *weight, *bias;  // (rows, width), (width,), (width,)
  float *answer;                   // like x
  uint8_t *integers;               // like x: answer * units + zero
  const float *units;              // (width,)
  int64_t rows, width;
  float eps, zero;
  int64_t next;  // counted up by the threads
} Norm;

enum { PIECE = 16 };  // rows that a thread takes at once

static void normalise_one(const Norm *its, int64_t row) {
  const int64_t width = its->width, at = row * width;
  vec sum = 0, squares = 0;
  for (int64_t d = 0; d < width; d += LANES) sum += load(its->x, at + d, FP32, width - d);
  const float mean = sum_of(sum) / (float)width;
  for (int64_t d = 0; d < width; d += LANES) {
    const vec off = keep(load(its->x, at + d, FP32, width - d) - mean, width - d, 0);
    squares += off * off;
  }
  const float share = 1 / __builtin_sqrtf(sum_of(squares) / (float)width + its->eps);
  for (int64_t d = 0; d < width; d += LANES) {
    const int64_t n = width - d;
    vec y = (load(its->x, at + d, FP32, n) - mean) * share;
    y = y * load(its->weight, d, FP32, n) + load(its->bias, d, FP32, n);
    store(its->answer, at + d, y, FP32, n);
    store(its->integers, at + d, y * load(its->units, d, FP32, n) + its->zero, U8, n);
  }
}

static void normalise_some(void *given) {
  Norm *its = given;
  for (int64_t row; (row = __atomic_fetch_add(&its->next, PIECE, __ATOMIC_RELAXED)) < its->rows;)
    for (int64_t end = row + PIECE < its->rows ? row + PIECE : its->rows; row < end; row++) normalise_one(its, row);
}

EXPORT void normalise(Norm *its, parallel *run, int64_t threads) {
  its->next = 0;
  if (threads > 1) run(normalise_some, its, (unsigned)threads, 0);
  else normalise_some(its);
}
