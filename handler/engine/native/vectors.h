// Vectors of sixteen lanes for clang, for any width of registers: no library, no intrinsics of one processor.

#pragma once

#include <stdint.h>

typedef float vec __attribute__((ext_vector_type(16), aligned(4)));
typedef int32_t ints __attribute__((ext_vector_type(16), aligned(4)));
typedef uint32_t uints __attribute__((ext_vector_type(16), aligned(4)));
typedef uint16_t bf16s __attribute__((ext_vector_type(16), aligned(2)));
typedef uint16_t u16s __attribute__((ext_vector_type(16), aligned(2)));
typedef uint8_t u8s __attribute__((ext_vector_type(16), aligned(1)));

enum { LANES = 16 };  // of a vector
enum dtype { FP32, BF16, U8, U16 };  // U16: the integers of U8, 0..255, in 16 bits

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

INLINE int64_t round_up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// Numbers of 32 bits from row to row: an odd number of cache lines. Rows whose distance is a multiple of a power of two share
// few sets of the first-level cache: six rows of 1,024 numbers are multiplied 2.5 times as fast (AMD EPYC, family 25).
INLINE int64_t odd_lines(int64_t n) { return (round_up(n) / LANES | 1) * LANES; }

INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE int64_t size_of(enum dtype dtype) { return dtype == FP32 ? 4 : dtype == U8 ? 1 : 2; }  // bytes of an element

INLINE int is_quantized(enum dtype dtype) { return dtype == U8 || dtype == U16; }

INLINE void *element(const void *of, int64_t at, enum dtype dtype) { return (char *)of + at * size_of(dtype); }

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

#ifdef __AVX512BF16__
INLINE bf16s float_to_bf16(vec x) {
  typedef __bf16 halves __attribute__((ext_vector_type(16)));
  return (bf16s)__builtin_convertvector(x, halves);
}
#else
INLINE bf16s float_to_bf16(vec x) {  // rounds to nearest, ties to even
  ints bits = (ints)x;
  bits += 0x7fff + ((bits >> 16) & 1);
  return __builtin_convertvector(bits >> 16, bf16s);
}
#endif

INLINE ints saturate(vec x) {  // clamps to 0..255 and truncates
  x = __builtin_elementwise_min(__builtin_elementwise_max(x, (vec)0), (vec)255);
  return __builtin_convertvector(x, ints);
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
  else if (dtype == U16) STORE(uint16_t, u16s, __builtin_convertvector(saturate(x), u16s))
  else STORE(uint8_t, u8s, __builtin_convertvector(saturate(x), u8s))
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

// The same with a relative error of 1e-4, for results in bf16: a minimax polynomial.
INLINE vec exp2_coarse(vec x) {
  const float shift = 12582912.0f;
  x = __builtin_elementwise_max(x, (vec)-125.0f);  // no result below the least normal number, which is slow
  vec integer = (x + shift) - shift, r = x - integer;
  vec y = r * 0.055171668f + 0.24261112f;
  y = y * r + 0.69326099f;
  y = y * r + 0.99992807f;
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
