// What training computes between the products of the layers of a BERT, forwards and backwards, on an unpadded batch.
// native.py calls it, scripts/compile_kernels.py compiles it.
//
// Freestanding C for clang. Sums over rows are added chunk by chunk, so that no result depends on the number of threads.
// Dropout keeps what a hash of its place and of two keys says: no mask is stored.

#include "adamw.h"

enum activation { NONE, GELU, GELU_TANH, RELU };  // as ACTIVATIONS in handler/engine/native_encoder.py
enum { CHUNKS = 8, BLOCK = 4 };  // parts of the rows that threads take; rows of a product that are computed at once

typedef struct {
  uint32_t keys[2];
  uint32_t dropped;  // a hash below it drops; 0: nothing is dropped
  float scale;       // of what is kept: 1 / (1 - probability)
} Dropout;

typedef struct {  // OpenMP's, of the library that PyTorch has loaded: the same fields as OpenMP in handler/engine/kernels.py
  void (*parallel)(void (*)(void *), void *, unsigned threads, unsigned flags);
} OpenMP;

// The factors of sixteen places in a row: 0, or `scale`.
INLINE vec kept(const Dropout *dropout, uint32_t at) {
  const uints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  uints x = (lane + at) ^ dropout->keys[0];
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  x = (x ^ (x >> 16)) + dropout->keys[1];
  x = (x ^ (x >> 17)) * 0xed5ad4bbu;
  x ^= x >> 14;
  return (vec)((ints)(x >= dropout->dropped) & (ints)(vec)dropout->scale);
}

INLINE vec drop(vec x, const Dropout *dropout, int64_t at) {
  return dropout->dropped ? x * kept(dropout, (uint32_t)at) : x;
}

static void run(void (*worker)(void *), void *args, const OpenMP *omp, int64_t threads) {
  if (threads > 1) omp->parallel(worker, args, (unsigned)threads, 0);
  else worker(args);
}

#define TAKE(next, count, index) (index = __atomic_fetch_add(&(next), 1, __ATOMIC_RELAXED)) < (count)
#define FOR_ROWS_OF_CHUNKS(args)                                                 \
  for (int64_t chunk; TAKE((args)->next, CHUNKS, chunk);)                        \
    for (int64_t row = (args)->rows * chunk / CHUNKS, end = (args)->rows * (chunk + 1) / CHUNKS; row < end; row++)
#define ADD(sums, chunk, at, x) (*(vec *)((sums) + (chunk) * args->width + (at)) += (x))

// --- products -------------------------------------------------------------------------------------------------------

// Make this process ready to compute; 0: it is.
EXPORT int64_t prepare(void) { return request_tiles(); }
EXPORT int64_t has_tiles(void) { return HAS_TILES; }
EXPORT void pack(Packing *args, const OpenMP *omp, int64_t threads) { args->next = 0, run(pack_worker, args, omp, threads); }
EXPORT void product(Product *args, const OpenMP *omp, int64_t threads) {
  args->next = 0, run(product_worker, args, omp, threads);
}

// --- optimizer ------------------------------------------------------------------------------------------------------

EXPORT void squares(AdamW *args, const OpenMP *omp, int64_t threads) { args->next = 0, run(squares_worker, args, omp, threads); }
EXPORT void adamw(AdamW *args, const OpenMP *omp, int64_t threads) { args->next = 0, run(adamw_worker, args, omp, threads); }

// --- dropout, residual and layer norm -------------------------------------------------------------------------------

typedef struct {  // the same fields as _Norm in native.py; rows are (rows, width), width a multiple of LANES
  const void *x;                      // output of a linear layer without its bias
  const float *linear_bias;           // (width,)
  const float *residual;
  const float *weight, *bias;         // (width,)
  float *summed;                      // dropout(x + linear_bias) + residual
  float *statistics;                  // (rows, 2): mean and inverse standard deviation of `summed`
  float *output;                      // layer_norm(summed)
  void *rounded;                      // the same in bf16; 0: none
  const float *gradient;              // of output
  const void *further;                // gradient of output to add; 0: none
  float *to_residual;                 // gradient of residual
  void *to_x;                         // gradient of x
  float *to_weight, *to_bias, *to_linear_bias;  // (CHUNKS, width), zeros
  int64_t rows, width, dtype;
  Dropout dropout;
  float eps;
  int64_t next;
} Norm;

INLINE void norm_row(const Norm *args, int64_t row, enum dtype dtype) {
  const int64_t width = args->width, start = row * width;
  vec sum = 0, squares = 0;
  for (int64_t d = 0; d < width; d += LANES) {
    vec x = load(args->x, start + d, dtype, LANES) + *(const vec *)(args->linear_bias + d);
    x = drop(x, &args->dropout, start + d) + *(const vec *)(args->residual + start + d);
    *(vec *)(args->summed + start + d) = x;
    sum += x;
  }
  const float mean = hsum(sum) / (float)width;
  for (int64_t d = 0; d < width; d += LANES) {
    const vec centered = *(const vec *)(args->summed + start + d) - mean;
    squares += centered * centered;
  }
  const float inv_std = 1 / __builtin_sqrtf(hsum(squares) / (float)width + args->eps);
  args->statistics[2 * row] = mean, args->statistics[2 * row + 1] = inv_std;
  for (int64_t d = 0; d < width; d += LANES) {
    const vec normal = (*(const vec *)(args->summed + start + d) - mean) * inv_std;
    const vec y = normal * *(const vec *)(args->weight + d) + *(const vec *)(args->bias + d);
    *(vec *)(args->output + start + d) = y;
    if (args->rounded) store(args->rounded, start + d, y, BF16, LANES);
  }
}

INLINE void norm_backward_row(const Norm *args, int64_t chunk, int64_t row, enum dtype dtype) {
  const int64_t width = args->width, start = row * width;
  const float mean = args->statistics[2 * row], inv_std = args->statistics[2 * row + 1];
  vec sum = 0, products = 0;
  for (int64_t d = 0; d < width; d += LANES) {
    vec gradient = *(const vec *)(args->gradient + start + d);
    if (args->further) gradient += load(args->further, start + d, dtype, LANES);
    const vec normal = (*(const vec *)(args->summed + start + d) - mean) * inv_std;
    ADD(args->to_weight, chunk, d, gradient * normal);
    ADD(args->to_bias, chunk, d, gradient);
    gradient *= *(const vec *)(args->weight + d);
    *(vec *)(args->to_residual + start + d) = gradient;
    sum += gradient;
    products += gradient * normal;
  }
  const float mean_gradient = hsum(sum) / (float)width, mean_product = hsum(products) / (float)width;
  for (int64_t d = 0; d < width; d += LANES) {
    const vec normal = (*(const vec *)(args->summed + start + d) - mean) * inv_std;
    const vec gradient = (*(vec *)(args->to_residual + start + d) - mean_gradient - normal * mean_product) * inv_std;
    *(vec *)(args->to_residual + start + d) = gradient;
    const vec to_x = drop(gradient, &args->dropout, start + d);
    ADD(args->to_linear_bias, chunk, d, to_x);
    store(args->to_x, start + d, to_x, dtype, LANES);
  }
}

static void norm_worker(void *arg) {
  Norm *args = arg;
  if (args->dtype == BF16) FOR_ROWS_OF_CHUNKS(args) norm_row(args, row, BF16);
  else FOR_ROWS_OF_CHUNKS(args) norm_row(args, row, FP32);
}

static void norm_backward_worker(void *arg) {
  Norm *args = arg;
  if (args->dtype == BF16) FOR_ROWS_OF_CHUNKS(args) norm_backward_row(args, chunk, row, BF16);
  else FOR_ROWS_OF_CHUNKS(args) norm_backward_row(args, chunk, row, FP32);
}

EXPORT void norm(Norm *args, const OpenMP *omp, int64_t threads) { args->next = 0, run(norm_worker, args, omp, threads); }
EXPORT void norm_backward(Norm *args, const OpenMP *omp, int64_t threads) {
  args->next = 0, run(norm_backward_worker, args, omp, threads);
}

// --- bias and activation --------------------------------------------------------------------------------------------

typedef struct {  // the same fields as _Activation in native.py; rows are (rows, width), width a multiple of LANES
  const void *x;          // output of a linear layer without its bias
  const float *bias;      // (width,)
  void *output;           // activation(x + bias)
  const void *gradient;   // of output
  void *to_x;             // gradient of x
  float *to_bias;         // (CHUNKS, width), zeros
  int64_t rows, width, dtype, activation;
  int64_t next;
} Activation;

// The activation of x, or its derivative.
INLINE vec activate(vec x, enum activation activation, int derivative) {
  if (activation == RELU) return (vec)((x > 0) & (ints)(derivative ? (vec)1.0f : x));
  if (activation == GELU_TANH) {  // x * sigmoid(2 u), u = sqrt(2 / pi) * (x + 0.044715 x^3)
    const vec u = x * (x * x * 0.0356774081f + 0.7978845608f);
    const vec small = exp2_vec(__builtin_elementwise_abs(u) * -2.88539008f), above = 1 / (small + 1);
    const vec sigmoid = (vec)((u < 0) & (ints)(small * above)) + (vec)((u >= 0) & (ints)above);
    if (!derivative) return x * sigmoid;
    return sigmoid + x * small * above * above * 2 * (x * x * 0.1070322243f + 0.7978845608f);
  }
  // x * (1 + erf(x / sqrt(2))) / 2, with an erf of absolute error 1.5e-7: Abramowitz and Stegun, 7.1.26.
  const vec z = __builtin_elementwise_abs(x) * 0.70710678f, t = 1 / (z * 0.3275911f + 1);
  vec y = t * 1.061405429f - 1.453152027f;
  y = y * t + 1.421413741f;
  y = y * t - 0.284496736f;
  y = y * t + 0.254829592f;
  const vec bell = exp2_vec(z * z * -1.44269504f), tail = y * t * bell * 0.5f;
  const vec below = (vec)((x < 0) & (ints)tail) + (vec)((x >= 0) & (ints)(1 - tail));
  return derivative ? below + x * bell * 0.3989422804f : x * below;
}

INLINE void activation_row(const Activation *args, int64_t row, enum dtype dtype, enum activation activation) {
  for (int64_t d = 0, at = row * args->width; d < args->width; d += LANES, at += LANES)
    store(args->output, at, activate(load(args->x, at, dtype, LANES) + *(const vec *)(args->bias + d), activation, 0), dtype,
          LANES);
}

INLINE void activation_backward_row(const Activation *args, int64_t chunk, int64_t row, enum dtype dtype,
                                    enum activation activation) {
  for (int64_t d = 0, at = row * args->width; d < args->width; d += LANES, at += LANES) {
    const vec slope = activate(load(args->x, at, dtype, LANES) + *(const vec *)(args->bias + d), activation, 1);
    const vec to_x = load(args->gradient, at, dtype, LANES) * slope;
    ADD(args->to_bias, chunk, d, to_x);
    store(args->to_x, at, to_x, dtype, LANES);
  }
}

#define BY_ACTIVATION(row, ...)                                                                                   \
  switch (args->activation) {                                                                                     \
    case GELU: if (args->dtype == BF16) FOR_ROWS_OF_CHUNKS(args) row(__VA_ARGS__, BF16, GELU);                    \
               else FOR_ROWS_OF_CHUNKS(args) row(__VA_ARGS__, FP32, GELU);                                        \
               break;                                                                                             \
    case RELU: FOR_ROWS_OF_CHUNKS(args) row(__VA_ARGS__, args->dtype, RELU); break;                               \
    default: FOR_ROWS_OF_CHUNKS(args) row(__VA_ARGS__, args->dtype, GELU_TANH);                                   \
  }

static void activation_worker(void *arg) {
  Activation *args = arg;
  BY_ACTIVATION(activation_row, args, row)
}

static void activation_backward_worker(void *arg) {
  Activation *args = arg;
  BY_ACTIVATION(activation_backward_row, args, chunk, row)
}

EXPORT void activation(Activation *args, const OpenMP *omp, int64_t threads) {
  args->next = 0, run(activation_worker, args, omp, threads);
}
EXPORT void activation_backward(Activation *args, const OpenMP *omp, int64_t threads) {
  args->next = 0, run(activation_backward_worker, args, omp, threads);
}

// --- attention ------------------------------------------------------------------------------------------------------

typedef struct {  // the same fields as _Attention in native.py; head_width is a multiple of LANES
  const void *qkv;            // (tokens, 3 * n_heads * head_width) without biases
  const float *bias;          // (3 * n_heads * head_width,)
  void *context;              // (tokens, n_heads * head_width); with one_query (n_sequences, ...)
  const void *gradient;       // of context
  void *to_qkv;               // gradient of qkv
  const int32_t *cu_seqlens;  // (n_sequences + 1,) tokens
  float *scratch;             // (threads, scratch_size)
  int64_t n_sequences, n_heads, head_width, max_seqlen, scratch_size, dtype;
  int64_t one_query;          // whether only the first token of each sequence attends to the others
  Dropout dropout;            // of probabilities
  float scale;                // of logits
  int64_t next, thread;
} Attention;

// c (rows, columns) = a @ b; a is (rows, depth) with any strides, b (depth, columns). Whole blocks of c are written.
INLINE void multiply_columns(int vecs, int64_t depth, const float *a, int64_t a_row, int64_t a_column, const float *b,
                             int64_t b_row, float *c, int64_t c_row) {
  vec sums[BLOCK][2];
#pragma unroll
  for (int i = 0; i < BLOCK; i++) sums[i][0] = sums[i][1] = 0;
  for (int64_t d = 0; d < depth; d++)
#pragma unroll
    for (int v = 0; v < vecs; v++) {
      const vec y = *(const vec *)(b + d * b_row + v * LANES);
#pragma unroll
      for (int i = 0; i < BLOCK; i++) sums[i][v] += a[i * a_row + d * a_column] * y;
    }
#pragma unroll
  for (int i = 0; i < BLOCK; i++)
    for (int v = 0; v < vecs; v++) *(vec *)(c + i * c_row + v * LANES) = sums[i][v];
}

static void multiply(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t a_row, int64_t a_column,
                     const float *b, int64_t b_row, float *c, int64_t c_row) {
  for (int64_t i = 0; i < rows; i += BLOCK)
    for (int64_t j = 0; j < columns; j += 2 * LANES) {
      if (j + LANES < columns)
        multiply_columns(2, depth, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row);
      else multiply_columns(1, depth, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row);
    }
}

typedef struct {  // one head of one sequence in scratch memory: (padded, width) or, transposed, (width, padded)
  float *query, *key, *value, *key_transposed, *value_transposed, *gradient;
  float *probs, *dropped;  // (padded, padded): probabilities, and those that dropout keeps
  int64_t length, padded, width;
  int64_t queries, at;     // how many tokens attend, and the row of the first one in `context`
} Head;

EXPORT int64_t attention_scratch(int64_t head_width, int64_t max_seqlen) {
  const int64_t padded = round_up(max_seqlen);
  return 6 * padded * head_width + 2 * padded * padded;
}

INLINE Head lay_out(const Attention *args, float *scratch, int64_t sequence) {
  const int64_t start = args->cu_seqlens[sequence], length = args->cu_seqlens[sequence + 1] - start;
  const int64_t padded = round_up(length), size = padded * args->head_width;
  return (Head){scratch, scratch + size, scratch + 2 * size, scratch + 3 * size, scratch + 4 * size, scratch + 5 * size,
                scratch + 6 * size, scratch + 6 * size + padded * padded, length, padded, args->head_width,
                args->one_query ? 1 : length, args->one_query ? sequence : start};
}

// Copies columns of the first rows of one sequence to fp32, and adds a bias unless it is 0. Rows up to `padded` become 0.
INLINE void copy_rows(const Head *head, int64_t rows, const void *from, int64_t at, int64_t stride, const float *bias,
                      float *to, enum dtype dtype) {
  for (int64_t i = 0; i < head->padded; i++)
    for (int64_t d = 0; d < head->width; d += LANES) {
      vec x = 0;
      if (i < rows) x = load(from, at + i * stride + d, dtype, LANES) + (bias ? *(const vec *)(bias + d) : (vec)0);
      *(vec *)(to + i * head->width + d) = x;
    }
}

INLINE void transpose_rows(const Head *head, const float *from, float *to) {
  for (int64_t i = 0; i < head->padded; i += LANES)
    for (int64_t d = 0; d < head->width; d += LANES) {
      vec x[LANES];
      for (int k = 0; k < LANES; k++) x[k] = *(const vec *)(from + (i + k) * head->width + d);
      transpose(x);
      for (int k = 0; k < LANES; k++) *(vec *)(to + (d + k) * head->padded + i) = x[k];
    }
}

INLINE uint32_t place(const Attention *args, int64_t token, int64_t head) {  // of a row of probabilities, for dropout
  return (uint32_t)((token * args->n_heads + head) * round_up(args->max_seqlen));
}

// Queries, keys, values and the probabilities of one head.
INLINE void attend(const Attention *args, const Head *head, int64_t start, int64_t index, enum dtype dtype) {
  const int64_t width = args->n_heads * args->head_width, column = index * args->head_width, at = start * 3 * width + column;
  copy_rows(head, head->queries, args->qkv, at, 3 * width, args->bias + column, head->query, dtype);
  copy_rows(head, head->length, args->qkv, at + width, 3 * width, args->bias + width + column, head->key, dtype);
  copy_rows(head, head->length, args->qkv, at + 2 * width, 3 * width, args->bias + 2 * width + column, head->value, dtype);
  transpose_rows(head, head->key, head->key_transposed);
  multiply(head->queries, head->padded, head->width, head->query, head->width, 1, head->key_transposed, head->padded,
           head->probs, head->padded);
  const float scale = args->scale * 1.44269504f;
  for (int64_t i = 0; i < head->queries; i++) {
    float *row = head->probs + i * head->padded, *dropped = head->dropped + i * head->padded;
    vec max = -1e30f, sum = 0;
    for (int64_t j = 0; j < head->padded; j += LANES) {
      const vec x = mask_tail(*(const vec *)(row + j) * scale, head->length - j, -1e30f);
      max = __builtin_elementwise_max(max, x);
      *(vec *)(row + j) = x;
    }
    const float row_max = hmax(max);
    for (int64_t j = 0; j < head->padded; j += LANES) {
      const vec x = mask_tail(exp2_vec(*(const vec *)(row + j) - row_max), head->length - j, 0);
      sum += x;
      *(vec *)(row + j) = x;
    }
    const float inv_sum = 1 / hsum(sum);
    const uint32_t first = place(args, start + i, index);
    for (int64_t j = 0; j < head->padded; j += LANES) {
      const vec x = *(const vec *)(row + j) * inv_sum;
      *(vec *)(row + j) = x;
      *(vec *)(dropped + j) = drop(x, &args->dropout, first + j);
    }
  }
}

INLINE void store_rows(const Head *head, int64_t rows, const float *from, void *to, int64_t at, int64_t stride,
                       enum dtype dtype) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < head->width; d += LANES)
      store(to, at + i * stride + d, *(const vec *)(from + i * head->width + d), dtype, LANES);
}

INLINE void attention_head(const Attention *args, const Head *head, int64_t start, int64_t index, enum dtype dtype) {
  const int64_t width = args->n_heads * args->head_width;
  attend(args, head, start, index, dtype);
  multiply(head->queries, head->width, head->length, head->dropped, head->padded, 1, head->value, head->width, head->query,
           head->width);
  store_rows(head, head->queries, head->query, args->context, head->at * width + index * args->head_width, width, dtype);
}

INLINE void attention_backward_head(const Attention *args, const Head *head, int64_t start, int64_t index,
                                    enum dtype dtype) {
  const int64_t width = args->n_heads * args->head_width, column = index * args->head_width, at = start * 3 * width + column;
  const int64_t length = head->length, padded = head->padded, queries = head->queries;
  attend(args, head, start, index, dtype);
  copy_rows(head, queries, args->gradient, head->at * width + column, width, 0, head->gradient, dtype);
  transpose_rows(head, head->value, head->value_transposed);
  float *result = head->value;  // which is read no more
  multiply(length, head->width, queries, head->dropped, 1, padded, head->gradient, head->width, result, head->width);
  store_rows(head, length, result, args->to_qkv, at + 2 * width, 3 * width, dtype);
  float *gradients = head->dropped;  // of probabilities, then of logits
  multiply(queries, padded, head->width, head->gradient, head->width, 1, head->value_transposed, padded, gradients, padded);
  for (int64_t i = 0; i < queries; i++) {
    float *row = gradients + i * padded;
    const float *probs = head->probs + i * padded;
    const uint32_t first = place(args, start + i, index);
    vec sum = 0;
    for (int64_t j = 0; j < padded; j += LANES) {
      const vec x = drop(*(const vec *)(row + j), &args->dropout, first + j);
      *(vec *)(row + j) = x;
      sum += x * *(const vec *)(probs + j);
    }
    const float mean = hsum(sum);
    for (int64_t j = 0; j < padded; j += LANES)
      *(vec *)(row + j) = (*(const vec *)(row + j) - mean) * *(const vec *)(probs + j) * args->scale;
  }
  multiply(length, head->width, queries, gradients, 1, padded, head->query, head->width, result, head->width);
  store_rows(head, length, result, args->to_qkv, at + width, 3 * width, dtype);
  multiply(queries, head->width, length, gradients, padded, 1, head->key, head->width, result, head->width);
  for (int64_t i = queries * head->width; i < length * head->width; i += LANES) *(vec *)(result + i) = 0;
  store_rows(head, length, result, args->to_qkv, at, 3 * width, dtype);
}

#define FOR_HEADS(function)                                                                                           \
  Attention *args = arg;                                                                                              \
  float *scratch = args->scratch + __atomic_fetch_add(&args->thread, 1, __ATOMIC_RELAXED) * args->scratch_size;       \
  for (int64_t task; TAKE(args->next, args->n_sequences * args->n_heads, task);) {                                    \
    const int64_t sequence = task / args->n_heads, index = task % args->n_heads, start = args->cu_seqlens[sequence];  \
    const Head head = lay_out(args, scratch, sequence);                                                               \
    if (args->dtype == BF16) function(args, &head, start, index, BF16);                                               \
    else function(args, &head, start, index, FP32);                                                                   \
  }

static void attention_worker(void *arg) { FOR_HEADS(attention_head) }
static void attention_backward_worker(void *arg) { FOR_HEADS(attention_backward_head) }

EXPORT void attention(Attention *args, const OpenMP *omp, int64_t threads) {
  args->next = args->thread = 0, run(attention_worker, args, omp, threads);
}
EXPORT void attention_backward(Attention *args, const OpenMP *omp, int64_t threads) {
  args->next = args->thread = 0, run(attention_backward_worker, args, omp, threads);
}

// --- sums of columns ------------------------------------------------------------------------------------------------

typedef struct {  // the same fields as _Columns in native.py
  const void *x;  // (rows, width), width a multiple of LANES
  float *sums;    // (CHUNKS, width), zeros
  int64_t rows, width, dtype;
  int64_t next;
} Columns;

static void columns_worker(void *arg) {
  Columns *args = arg;
  FOR_ROWS_OF_CHUNKS(args)
    for (int64_t d = 0; d < args->width; d += LANES)
      ADD(args->sums, chunk, d, load(args->x, row * args->width + d, args->dtype, LANES));
}

EXPORT void sum_columns(Columns *args, const OpenMP *omp, int64_t threads) {
  args->next = 0, run(columns_worker, args, omp, threads);
}
