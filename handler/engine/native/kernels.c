// CPU kernels: what a model computes on a packed row. kernels.py loads them, scripts/compile_kernels.py compiles them.
//
// Freestanding C for clang, sixteen lanes at a time: no library, no header of PyTorch. What is computed of a sequence
// depends on that sequence alone, to the last bit: in a fixed order, whichever thread computes it.

#include "encoder.h"

// --- the encoder ----------------------------------------------------------------------------------------------------

EXPORT int64_t panel_width(void) { return PANEL; }

// Whether weights in int8 are multiplied as pairs in 16 bits, for which packing.py has another order.
EXPORT int64_t multiplies_pairs(void) { return QUANTIZED == U16; }

// Make this process ready to compute; 0: it is.
EXPORT int64_t prepare(void) { return request_tiles(); }

// Bytes of scratch memory of a pass.
EXPORT int64_t encoder_scratch(const Encoder *args, int64_t threads) {
  Pass pass;
  return lay_out(&pass, args, tokens_of(args), threads);
}

EXPORT void encode(const Encoder *args, const OpenMP *omp, int64_t threads) {
  Pass pass;
  lay_out(&pass, args, tokens_of(args), threads);
  plan(&pass, threads);
  pass.omp = threads > 1 ? omp : 0;
  if (threads > 1) omp->parallel(compute_worker, &pass, (unsigned)threads, 0);
  else compute_worker(&pass);
}

// --- attention alone ------------------------------------------------------------------------------------------------

typedef struct {  // the same fields as _Attention in kernel_operators.py
  const void *query, *key, *value;  // (tokens, n_heads * head_width), or for `one_query` a query of each sequence
  void *output;                     // shape of query
  const int32_t *cu_seqlens;        // (n_sequences + 1,) tokens
  const int32_t *key_lens;          // (n_sequences,) tokens that are attended to, from the first on; 0: all
  float *scratch;                   // (threads, scratch_size)
  int64_t q_stride, kv_stride, output_stride;  // elements from token to token; keys and values have the same
  int64_t n_sequences, n_heads, head_width;
  int64_t one_query;  // whether there is one query for each sequence
  int64_t scratch_size;
  int64_t dtype, output_dtype;
  float scale, zero_point;  // scale of the logits in base 2; zero_point is added to the output
  int64_t next, thread;     // counters shared by the threads
} Attention;

static void attend_worker(void *arg) {
  Attention *args = arg;
  float *scratch = args->scratch + __atomic_fetch_add(&args->thread, 1, __ATOMIC_RELAXED) * args->scratch_size;
  const int64_t tasks = args->n_sequences * args->n_heads;
  configure_tiles(ROWS);
  for (int64_t task; (task = __atomic_fetch_add(&args->next, 1, __ATOMIC_RELAXED)) < tasks;) {
    const int64_t sequence = task / args->n_heads, head = task % args->n_heads;
    const int64_t start = args->cu_seqlens[sequence], length = args->cu_seqlens[sequence + 1] - start;
    const int64_t first_query = args->one_query ? sequence : start;
    const Heads heads = {
        .query = element(args->query, first_query * args->q_stride, args->dtype),
        .key = element(args->key, start * args->kv_stride, args->dtype),
        .value = element(args->value, start * args->kv_stride, args->dtype),
        .output = element(args->output, first_query * args->output_stride, args->output_dtype),
        .q_stride = args->q_stride,
        .kv_stride = args->kv_stride,
        .output_stride = args->output_stride,
        .length = args->key_lens ? args->key_lens[sequence] : length,
        .n_queries = args->one_query ? 1 : length,
        .n_heads = args->n_heads,
        .head_width = args->head_width,
        .dtype = args->dtype,
        .output_dtype = args->output_dtype,
        .scale = args->scale,
        .zero_point = args->zero_point,
    };
    attend(&heads, head, scratch);
  }
  release_tiles();
}

// Numbers of scratch memory that each thread needs.
EXPORT int64_t attend_packed_scratch(int64_t head_width, int64_t max_seqlen) { return attention_scratch(head_width, max_seqlen); }

EXPORT void attend_packed(Attention *args, const OpenMP *omp, int64_t threads) {
  args->next = args->thread = 0;
  if (threads > 1) omp->parallel(attend_worker, args, (unsigned)threads, 0);
  else attend_worker(args);
}

// --- layer norm alone -----------------------------------------------------------------------------------------------

typedef struct {  // the same fields as LayerNormArguments in kernels.py
  Norm norm;
  const float *x;      // (rows, width)
  float *output;       // (rows, width)
  uint8_t *quantized;  // (rows, width); 0: nothing reads integers
  int64_t rows, width;
  int64_t next;  // counter shared by the threads
} LayerNorm;

enum {  // rows that a thread takes at a time
  ROWS_PER_TASK = 16,
  LINEAR_ROWS = 48,  // of a linear layer, whose weights are read once for them
};

static void layer_norm_worker(void *arg) {
  LayerNorm *args = arg;
  for (int64_t row; (row = __atomic_fetch_add(&args->next, ROWS_PER_TASK, __ATOMIC_RELAXED)) < args->rows;)
    for (const int64_t end = min_of(row + ROWS_PER_TASK, args->rows); row < end; row++) {
      const int64_t at = row * args->width;
      layer_norm(&args->norm, args->width, args->x + at, args->output + at, args->quantized ? args->quantized + at : 0, U8);
    }
}

EXPORT void layer_norm_quantize(LayerNorm *args, const OpenMP *omp, int64_t threads) {
  args->next = 0;
  if (threads > 1) omp->parallel(layer_norm_worker, args, (unsigned)threads, 0);
  else layer_norm_worker(args);
}

// --- embeddings -----------------------------------------------------------------------------------------------------

typedef struct {  // the same fields as _Embeddings in native_layers.py
  const void *words;         // (vocabulary, width) in FP32, or in 8 bits with a scale of each row
  const float *word_scales;  // (vocabulary,); 0: words are in FP32
  const float *types, *positions;  // (kinds, width); 0: there are none
  const int64_t *ids, *type_ids, *position_ids;  // (rows,)
  Norm norm;
  float *output;  // (rows, width)
  int64_t n_words, n_types, n_positions;
  int64_t rows, width;
  int64_t next;       // counter shared by the threads
  int64_t is_beyond;  // whether an id was none of its table, whose row is not computed
} Embeddings;

INLINE vec load_int8(const int8_t *from, int64_t n) {  // the first n elements, at most all lanes
  typedef int8_t int8s __attribute__((ext_vector_type(16), aligned(1)));
  int8s x = 0;
  if (n >= LANES) x = *(const int8s *)from;
  else for (int64_t i = 0; i < n; i++) x[i] = from[i];
  return __builtin_convertvector(x, vec);
}

INLINE int has(int64_t size, int64_t id) { return 0 <= id && id < size; }

static void embed_row(Embeddings *args, int64_t row) {
  const int is_known = has(args->n_words, args->ids[row]) && (!args->types || has(args->n_types, args->type_ids[row])) &&
                       (!args->positions || has(args->n_positions, args->position_ids[row]));
  if (!is_known) {
    __atomic_store_n(&args->is_beyond, 1, __ATOMIC_RELAXED);
    return;
  }
  const int64_t width = args->width, word = args->ids[row] * width;
  float *output = args->output + row * width;
  for (int64_t d = 0; d < width; d += LANES) {
    const int64_t n = width - d;
    vec x;
    if (args->word_scales) x = load_int8((const int8_t *)args->words + word + d, n) * args->word_scales[args->ids[row]];
    else x = load(args->words, word + d, FP32, n);
    if (args->types) x += load(args->types, args->type_ids[row] * width + d, FP32, n);
    if (args->positions) x += load(args->positions, args->position_ids[row] * width + d, FP32, n);
    store(output, d, x, FP32, n);
  }
  layer_norm(&args->norm, width, output, output, 0, FP32);
}

static void embed_worker(void *arg) {
  Embeddings *args = arg;
  for (int64_t row; (row = __atomic_fetch_add(&args->next, ROWS_PER_TASK, __ATOMIC_RELAXED)) < args->rows;)
    for (const int64_t end = min_of(row + ROWS_PER_TASK, args->rows); row < end; row++) embed_row(args, row);
}

EXPORT void embed(Embeddings *args, const OpenMP *omp, int64_t threads) {
  args->next = args->is_beyond = 0;
  if (threads > 1) omp->parallel(embed_worker, args, (unsigned)threads, 0);
  else embed_worker(args);
}

// --- a linear layer alone -------------------------------------------------------------------------------------------

typedef struct {  // the same fields as _Product in native_layers.py
  Linear linear;       // in FP32
  const float *input;  // (rows, width)
  float *output;       // (rows, panels * PANEL)
  int64_t rows, width;
  int64_t activation;
  int64_t next;  // counter shared by the threads
} LinearAlone;

static void multiply_worker(void *arg) {
  LinearAlone *args = arg;
  float sums[LINEAR_ROWS * PANEL];
  const int64_t stride = args->linear.panels * PANEL;
  for (int64_t row; (row = __atomic_fetch_add(&args->next, LINEAR_ROWS, __ATOMIC_RELAXED)) < args->rows;) {
    const Product rows = {
        .linear = &args->linear,
        .input = args->input + row * args->width,
        .output = args->output + row * stride,
        .rows = min_of(LINEAR_ROWS, args->rows - row),
        .input_stride = args->width,
        .output_stride = stride,
        .dtype = FP32,
        .output_dtype = FP32,
        .activation = (enum activation)args->activation,
        .panel_step = PANEL,
        .sums = sums,
    };
    product(&rows);
  }
}

EXPORT void multiply(LinearAlone *args, const OpenMP *omp, int64_t threads) {
  args->next = 0;
  if (threads > 1) omp->parallel(multiply_worker, args, (unsigned)threads, 0);
  else multiply_worker(args);
}

// --- the logits of all words ----------------------------------------------------------------------------------------

// The product of rows and the embeddings of all words, as they lie for `embed`: a panel of them is packed while the one
// before is still in the cache, for all rows at once. The numbers are those of `multiply` with the same weights.
typedef struct {  // the same fields as _Decoder in native_layers.py
  const void *words;         // (n_words, width) in FP32, or in 8 bits with a scale of each row
  const float *word_scales;  // (n_words,); 0: words are in FP32
  const float *bias;         // (panels * PANEL,)
  const float *input;        // (rows, width)
  float *output;             // (rows, panels * PANEL)
  float *scratch;            // (threads, decoder_scratch)
  int64_t rows, width, n_words;
  int64_t next, thread;  // counters shared by the threads
} Decoder;

static void pack_words(const Decoder *args, int64_t first, float *packed) {
  const int64_t size = args->word_scales ? 1 : 4, ahead = 8 * LANES;  // a word is read sixteen numbers at a time, of sixteen words
  for (int64_t v = 0; v < BLOCK_VECS; v++)
    for (int64_t d = 0; d < args->width; d += LANES) {
      vec block[LANES];
      for (int64_t i = 0; i < LANES; i++) {
        const int64_t word = first + v * LANES + i, at = word * args->width + d, n = args->width - d;
        __builtin_prefetch((const char *)args->words + (at + ahead) * size);
        if (word >= args->n_words) block[i] = 0;
        else if (args->word_scales) block[i] = load_int8((const int8_t *)args->words + at, n) * args->word_scales[word];
        else block[i] = load(args->words, at, FP32, n);
      }
      transpose(block);
      for (int64_t i = 0; i < LANES; i++) *(vec *)(packed + (d + i) * PANEL + v * LANES) = block[i];
    }
}

// Numbers of scratch memory that each thread needs: a panel.
EXPORT int64_t decoder_scratch(int64_t width) { return round_up(width) * PANEL; }

static void decode_worker(void *arg) {
  Decoder *args = arg;
  float sums[LINEAR_ROWS * PANEL];
  float *packed = args->scratch + __atomic_fetch_add(&args->thread, 1, __ATOMIC_RELAXED) * decoder_scratch(args->width);
  const int64_t panels = (args->n_words + PANEL - 1) / PANEL, stride = panels * PANEL;
  for (int64_t panel; (panel = __atomic_fetch_add(&args->next, 1, __ATOMIC_RELAXED)) < panels;) {
    pack_words(args, panel * PANEL, packed);
    const Linear linear = {.weight = (const vec *)packed, .start = args->bias + panel * PANEL, .groups = args->width, .panels = 1};
    for (int64_t row = 0; row < args->rows; row += LINEAR_ROWS) {
      const Product rows = {
          .linear = &linear,
          .input = args->input + row * args->width,
          .output = args->output + row * stride + panel * PANEL,
          .rows = min_of(LINEAR_ROWS, args->rows - row),
          .input_stride = args->width,
          .output_stride = stride,
          .dtype = FP32,
          .output_dtype = FP32,
          .panel_step = PANEL,
          .sums = sums,
      };
      product(&rows);
    }
  }
}

EXPORT void decode(Decoder *args, const OpenMP *omp, int64_t threads) {
  args->next = args->thread = 0;
  if (threads > 1) omp->parallel(decode_worker, args, (unsigned)threads, 0);
  else decode_worker(args);
}

// --- rotary positions -----------------------------------------------------------------------------------------------

typedef struct {  // the same fields as _Rotation in kernel_operators.py
  void *x;                  // (rows, stride): heads side by side from the first column on
  const float *cos, *sin;   // (rows, half)
  int64_t stride, rows, n_heads, half;  // half: of the width of a head
  int64_t dtype;
  int64_t next;  // counter shared by the threads
} Rotation;

static void rotate_worker(void *arg) {
  Rotation *args = arg;
  for (int64_t row; (row = __atomic_fetch_add(&args->next, ROWS_PER_TASK, __ATOMIC_RELAXED)) < args->rows;)
    for (const int64_t end = min_of(row + ROWS_PER_TASK, args->rows); row < end; row++) {
      const int64_t angle = row * args->half;
      void *x = element(args->x, row * args->stride, args->dtype);
      rotate_row(x, args->dtype, args->n_heads, args->half, args->cos + angle, args->sin + angle);
    }
}

EXPORT void rotate(Rotation *args, const OpenMP *omp, int64_t threads) {
  args->next = 0;
  if (threads > 1) omp->parallel(rotate_worker, args, (unsigned)threads, 0);
  else rotate_worker(args);
}
