// All layers of a BERT, or of a family like it, over a packed row, in one call.
//
// A layer ends each half with a norm, or, with `pre_norm`, its halves begin with one: then what linear layers read is
// another thing than the residual in FP32, too.
//
// A thread takes whole sequences, a chunk at a time, through all layers: it waits for no other thread. Where a few long
// sequences are most of a batch, the threads divide its rows instead, and wait for each other once a layer, between keys
// and values, which attention reads of all rows, and the rest, which each row computes alone. A pass of few tokens is
// computed by all threads together: reading the weights takes most of its time, and each of them reads a part.

#pragma once

#include "attention.h"
#include "norm.h"
#include "product.h"
#include "rotary.h"

enum {
  MAX_CHUNK = 256,  // tokens of a chunk, unless one sequence has more: weights are read once for each chunk
  MIN_CHUNK = 64,   // below, weights are read too often
  CHUNKS_PER_THREAD = 2,
  SHARED_ROWS = 16,  // for each thread, up to which they compute one sequence together instead of dividing its rows
  LAYER_STEPS = 13,  // of a layer at most, and one for each sequence
  TILE = HAS_TILES ? 256 : 128,  // rows between two linear layers: their activations stay in the second-level cache
};

typedef struct {  // the same fields as _Layer in native_encoder.py
  Linear query;   // of the last layer alone, whose `qkv` is keys and values
  Linear qkv, attention_output, intermediate, output;
  Linear gate;    // whose activation `intermediate` is multiplied by; no panels: there is none
  Norm attention_norm, output_norm;  // no weight: there is no such norm
  const float *cos, *sin;            // (positions, head width / 2); 0: positions do not rotate queries and keys
  int64_t window;                    // see Heads
  const float *bias;                 // see Heads: of the first head
  int64_t bias_stride;               // from head to head
  float context_zero_point, intermediate_inv_scale, intermediate_zero_point;
} Layer;

typedef struct {  // the same fields as OpenMP in kernels.py
  void (*parallel)(void (*)(void *), void *, unsigned threads, unsigned flags);
  void (*barrier)(void);
  int (*thread)(void);
  int (*threads)(void);
} OpenMP;

typedef struct {  // the same fields as _Encoder in native_encoder.py
  const Layer *layers;
  int64_t n_layers, width, intermediate_width, n_heads;
  int64_t pre_norm;
  int64_t dtype, kv_dtype, activation;  // dtype: of what linear layers read; kv_dtype: of queries, keys and values
  const float *multiplier;              // (width,) of embeddings that linear layers read quantized, with zero_point
  float zero_point, attention_scale;
  // One pass:
  int64_t n_sequences, n_read, max_seqlen;
  const float *states;            // (tokens, width)
  float *output;                  // (n_read, width)
  const int32_t *cu_seqlens;      // (n_sequences + 1,)
  const int32_t *key_lens;        // (n_sequences,) tokens that are attended to, from the first on; 0: all
  const int64_t *read_positions;  // (n_read,) sequence by sequence; 0: all tokens
  const int64_t *position_ids;    // (tokens,) in their sequences, where they rotate
  char *scratch;
} Encoder;

typedef struct {  // what all threads of a pass read
  const Encoder *args;
  const OpenMP *omp;
  enum dtype dtype;  // of what linear layers read, in memory
  int64_t residual_stride, input_stride, query_stride;  // elements from row to row, see row_stride
  int64_t qkv_stride, intermediate_stride;
  float *residual;  // (tokens, residual_stride)
  char *input;      // (tokens, input_stride) as linear layers read it; in FP32 the residual itself, unless `pre_norm`
  char *qkv[2];     // (tokens, qkv_stride), of even and of odd layers
  int32_t *read_ends, *chunk_ends;                        // positions read, and sequences, up to the end of each
  Step *steps;                                            // of a pass that the threads compute together
  char *own;                                              // memory of the first thread
  int64_t own_size, n_chunks, next;
  int divides_rows, is_shared;  // is_shared: the threads compute together
} Pass;

typedef struct {  // memory of one thread; rows: TILE
  float *residual, *sums, *factors, *attention;  // (rows, residual_stride), (rows, PANEL) twice, see attention_scratch
  char *input, *context, *query, *intermediate, *tiles;  // tiles: see Product
  Team *team;  // 0: this thread computes alone
} Own;

typedef struct {  // rows that a thread computes: [begin, end), which begin in `sequence`, and of those read
  int64_t sequence, begin, end, read_begin, read_end;
} Rows;

// --- memory ---------------------------------------------------------------------------------------------------------

INLINE char *take(char **memory, int64_t bytes) {
  char *taken = *memory;
  *memory += (bytes + 63) / 64 * 64;
  return taken;
}

// Elements from row to row: whole panels, and an odd number of cache lines.
INLINE int64_t row_stride(int64_t width, enum dtype dtype) {
  const int64_t size = size_of(dtype), panels = (width + PANEL - 1) / PANEL * PANEL;
  return odd_lines((panels * size + 3) / 4) * 4 / size;
}

static Own own_memory(const Pass *pass, char *memory, int64_t *size) {
  const Encoder *args = pass->args;
  char *at = memory;
  Own own = {.team = 0};
  own.residual = (float *)take(&at, TILE * pass->residual_stride * 4);
  own.sums = (float *)take(&at, TILE * PANEL * 4);
  own.factors = (float *)take(&at, TILE * PANEL * 4);
  own.attention = (float *)take(&at, attention_scratch(args->width / args->n_heads, args->max_seqlen) * 4);
  own.input = take(&at, TILE * pass->input_stride * size_of(pass->dtype));
  own.context = take(&at, TILE * pass->input_stride * size_of(pass->dtype));
  own.query = take(&at, TILE * pass->query_stride * size_of(args->kv_dtype));
  own.intermediate = take(&at, TILE * pass->intermediate_stride * size_of(pass->dtype));
  own.tiles = take(&at, HAS_TILES ? (TILE + TILE_ROWS) * max_of(pass->input_stride, pass->intermediate_stride) * size_of(pass->dtype) : 0);
  *size = at - memory;
  return own;
}

// Lays out the memory of a pass from `scratch` on; returns the bytes that `threads` need.
static int64_t lay_out(Pass *pass, const Encoder *args, int64_t tokens, int64_t threads) {
  char *at = args->scratch;
  pass->args = args;
  pass->dtype = args->dtype == U8 ? QUANTIZED : (enum dtype)args->dtype;
  pass->residual_stride = row_stride(args->width, FP32);
  pass->input_stride = row_stride(args->width, pass->dtype);
  pass->query_stride = row_stride(args->width, args->kv_dtype);
  pass->qkv_stride = row_stride(3 * args->width, args->kv_dtype);
  pass->intermediate_stride = row_stride(args->intermediate_width, pass->dtype);
  pass->residual = (float *)take(&at, tokens * pass->residual_stride * 4);
  pass->input = (char *)pass->residual;
  if (pass->dtype != FP32 || args->pre_norm) pass->input = take(&at, tokens * pass->input_stride * size_of(pass->dtype));
  for (int i = 0; i < 2; i++) pass->qkv[i] = take(&at, tokens * pass->qkv_stride * size_of(args->kv_dtype));
  pass->read_ends = (int32_t *)take(&at, args->n_sequences * 4);
  pass->chunk_ends = (int32_t *)take(&at, args->n_sequences * 4);
  pass->steps = (Step *)take(&at, args->n_layers * (LAYER_STEPS + args->n_sequences) * (int64_t)sizeof(Step));
  pass->own = at;
  own_memory(pass, at, &pass->own_size);
  return at - args->scratch + threads * pass->own_size;
}

// --- one layer --------------------------------------------------------------------------------------------------------

INLINE Product product_of(const Pass *pass, const Own *own, const Linear *linear, const void *input, int64_t rows) {
  const enum dtype dtype = pass->dtype;
  return (Product){
      .linear = linear,
      .input = input,
      .rows = rows,
      .input_stride = pass->input_stride,
      .dtype = dtype,
      .panel_step = PANEL,
      .is_coarse = dtype != FP32,
      .sums = own->sums,
      .factors = own->factors,
      .tiles = own->tiles,
      .team = own->team,
  };
}

// Queries, keys and values, or some of them.
static void project(const Pass *pass, const Own *own, const Linear *linear, const void *input, int64_t rows,
                    void *output, int64_t stride) {
  Product args = product_of(pass, own, linear, input, rows);
  args.output = output, args.output_stride = stride, args.output_dtype = pass->args->kv_dtype;
  product(&args);
}

static void add_product(const Pass *pass, const Own *own, const Linear *linear, const void *input,
                        int64_t input_stride, int64_t rows, float *residual) {
  Product args = product_of(pass, own, linear, input, rows);
  args.input_stride = input_stride, args.combine = ADD;
  args.output = residual, args.output_stride = pass->residual_stride, args.output_dtype = FP32;
  product(&args);
}

// Whether linear layers read the residual itself.
INLINE int reads_residual(const Pass *pass) { return pass->input == (char *)pass->residual; }

// x normalized, into `output` in FP32 (0: nowhere) and into `next` as linear layers read it.
static void normalize(const Pass *pass, const Own *own, const Norm *norm, const float *x, int64_t rows, float *output,
                      int64_t output_stride, char *next) {
  const enum dtype dtype = pass->dtype;
  EACH_ROW(row, rows, own->team) {
    void *to = next && !reads_residual(pass) ? element(next, row * pass->input_stride, dtype) : 0;
    layer_norm(norm, pass->args->width, x + row * pass->residual_stride, output ? output + row * output_stride : 0, to, dtype);
  }
}

// The embeddings as linear layers read them.
static void convert_embeddings(const Pass *pass, const Own *own, const float *embeddings, int64_t rows, char *input) {
  const Encoder *args = pass->args;
  EACH_ROW(row, rows, own->team)
    for (int64_t d = 0; d < args->width; d += LANES) {
      const int64_t at = row * pass->input_stride + d, n = args->width - d;
      const vec x = load(embeddings, row * pass->residual_stride + d, FP32, n);
      if (is_quantized(pass->dtype)) store(input, at, x * load(args->multiplier, d, FP32, n) + args->zero_point, QUANTIZED, n);
      else store(input, at, x, pass->dtype, n);
    }
}

// What the linear layers of a layer read first, with `pre_norm`: the norm of the residual, or, only of the first layer, the
// embeddings.
static void enter_layer(const Pass *pass, const Own *own, const Layer *layer, const float *residual, int64_t rows,
                        char *input) {
  if (layer->attention_norm.weight) normalize(pass, own, &layer->attention_norm, residual, rows, 0, 0, input);
  else convert_embeddings(pass, own, residual, rows, input);
}

static void feed_forward(const Pass *pass, const Own *own, const Layer *layer, int64_t rows, char *input, float *residual) {
  Product up = product_of(pass, own, &layer->intermediate, input, rows);
  up.gate = layer->gate.panels ? &layer->gate : 0;
  up.activation = pass->args->activation;
  up.output = own->intermediate, up.output_stride = pass->intermediate_stride, up.output_dtype = pass->dtype;
  up.inv_scale = layer->intermediate_inv_scale, up.zero_point = layer->intermediate_zero_point;
  product(&up);
  add_product(pass, own, &layer->output, own->intermediate, pass->intermediate_stride, rows, residual);
}

// All that follows attention, for rows that stay in the cache; `input` is overwritten. The next layer is 0 after the last
// one, whose states go to `output` (rows, output_stride).
static void finish_layer(const Pass *pass, const Own *own, const Layer *layer, const Layer *next, int64_t rows,
                         float *residual, char *input, float *output, int64_t output_stride) {
  add_product(pass, own, &layer->attention_output, own->context, pass->input_stride, rows, residual);
  if (!pass->args->pre_norm) {
    normalize(pass, own, &layer->attention_norm, residual, rows, residual, pass->residual_stride, input);
    feed_forward(pass, own, layer, rows, input, residual);
    normalize(pass, own, &layer->output_norm, residual, rows, output, output_stride, next ? input : 0);
    return;
  }
  normalize(pass, own, &layer->output_norm, residual, rows, 0, 0, input);
  feed_forward(pass, own, layer, rows, input, residual);
  if (next) {
    enter_layer(pass, own, next, residual, rows, input);
    return;
  }
  EACH_ROW(row, rows, own->team)
    for (int64_t d = 0; d < pass->args->width; d += LANES) {
      const int64_t n = pass->args->width - d;
      store(output, row * output_stride + d, load(residual, row * pass->residual_stride + d, FP32, n), FP32, n);
    }
}

// Rotates `n_heads` heads of each of some rows; `tokens` (rows,), or 0: they are neighbours from `first` on.
static void rotate_rows(const Pass *pass, const Own *own, const Layer *layer, char *x, int64_t stride, int64_t n_heads, int64_t rows,
                        const int64_t *tokens, int64_t first) {
  const Encoder *args = pass->args;
  const int64_t half = args->width / args->n_heads / 2;
  if (!layer->cos) return;
  EACH_ROW(row, rows, own->team) {
    const int64_t angle = args->position_ids[tokens ? tokens[row] : first + row] * half;
    rotate_row(element(x, row * stride, args->kv_dtype), args->kv_dtype, n_heads, half, layer->cos + angle, layer->sin + angle);
  }
}

// Attention of rows that lie in one sequence or in several: those up to ends[sequence], from `sequence` on.
// Rows of `query` and `context` are counted from `begin`; `tokens` are those of all rows, or 0: a row is a token.
static void attend_rows(const Pass *pass, const Own *own, const Layer *layer, int64_t parity, const int32_t *ends,
                        const int64_t *tokens, int64_t sequence, int64_t begin, int64_t end, const char *query,
                        int64_t q_stride) {
  const Encoder *args = pass->args;
  const int64_t key_column = layer->query.panels ? 0 : args->width;
  Heads heads = {
      .q_stride = q_stride, .kv_stride = pass->qkv_stride, .output_stride = pass->input_stride,
      .n_heads = args->n_heads, .head_width = args->width / args->n_heads,
      .dtype = args->kv_dtype, .output_dtype = pass->dtype,
      .scale = args->attention_scale, .zero_point = layer->context_zero_point, .window = layer->window,
  };
  configure_tiles(ROWS);
  for (int64_t row = begin; row < end; sequence++) {
    const int64_t stop = min_of(ends[sequence], end);
    if (stop <= row) continue;
    const int64_t start = args->cu_seqlens[sequence], at = start * pass->qkv_stride + key_column;
    heads.length = args->key_lens ? args->key_lens[sequence] : args->cu_seqlens[sequence + 1] - start;
    heads.n_queries = stop - row;
    heads.positions = tokens ? tokens + row : 0;
    heads.offset = tokens ? start : start - row;
    heads.query = element(query, (row - begin) * q_stride, args->kv_dtype);
    heads.key = element(pass->qkv[parity], at, args->kv_dtype);
    heads.value = element(pass->qkv[parity], at + args->width, args->kv_dtype);
    heads.output = element(own->context, (row - begin) * pass->input_stride, pass->dtype);
    EACH(head, args->n_heads, own->team) {
      heads.bias = layer->bias ? layer->bias + head * layer->bias_stride : 0;
      attend(&heads, head, own->attention);
    }
    row = stop;
  }
}

static void copy_row(void *to, const void *from, int64_t width, enum dtype dtype) {  // whole panels
  for (int64_t at = 0; at < width * size_of(dtype); at += 16) *(u8s *)((char *)to + at) = *(const u8s *)((const char *)from + at);
}

// The last layer: the rows that are read, each with a query of its own.
static void compute_read_rows(const Pass *pass, const Own *own, const Layer *layer, int64_t parity, const Rows *rows) {
  const Encoder *args = pass->args;
  const int64_t width = pass->residual_stride, input_width = pass->input_stride;
  int64_t sequence = rows->sequence;
  for (int64_t begin = rows->read_begin; begin < rows->read_end; begin += TILE) {
    const int64_t end = min_of(begin + TILE, rows->read_end);
    const int64_t *tokens = args->read_positions ? args->read_positions + begin : 0;
    char *input = reads_residual(pass) ? (char *)own->residual : own->input;
    EACH_ROW(i, end - begin, own->team) {
      const int64_t token = tokens ? tokens[i] : begin + i;
      copy_row(own->residual + i * width, pass->residual + token * width, width, FP32);
      if (reads_residual(pass)) continue;
      void *to = element(input, i * input_width, pass->dtype);
      copy_row(to, element(pass->input, token * input_width, pass->dtype), input_width, pass->dtype);
    }
    project(pass, own, &layer->query, input, end - begin, own->query, pass->query_stride);
    rotate_rows(pass, own, layer, own->query, pass->query_stride, args->n_heads, end - begin, tokens, begin);
    while (pass->read_ends[sequence] <= begin) sequence++;
    attend_rows(pass, own, layer, parity, pass->read_ends, args->read_positions, sequence, begin, end, own->query, pass->query_stride);
    finish_layer(pass, own, layer, 0, end - begin, own->residual, input, args->output + begin * args->width, args->width);
  }
}

static void compute_rows(const Pass *pass, const Own *own, const Rows *rows) {
  const Encoder *args = pass->args;
  const int64_t width = pass->residual_stride;
  const int64_t n_rows = rows->end - rows->begin, n_tiles = (n_rows + TILE - 1) / TILE;
  const int64_t tile = n_tiles ? (n_rows + n_tiles - 1) / n_tiles : 0;  // of nearly equal size
  float *embeddings = pass->residual + rows->begin * width;
  EACH_ROW(row, n_rows, own->team) {
    const float *x = args->states + (rows->begin + row) * args->width;
    for (int64_t d = 0; d < args->width; d += LANES) {
      const int64_t n = args->width - d;
      store(embeddings, row * width + d, load(x, d, FP32, n), FP32, n);
    }
  }
  char *first = element(pass->input, rows->begin * pass->input_stride, pass->dtype);
  if (args->pre_norm) enter_layer(pass, own, args->layers, embeddings, n_rows, first);
  else if (!reads_residual(pass)) convert_embeddings(pass, own, embeddings, n_rows, first);
  for (int64_t index = 0; index < args->n_layers; index++) {
    const Layer *layer = args->layers + index;
    const int64_t parity = index % 2;  // others may still read the keys of the layer before
    for (int64_t begin = rows->begin; begin < rows->end; begin += tile) {
      const int64_t n = min_of(tile, rows->end - begin);
      void *input = element(pass->input, begin * pass->input_stride, pass->dtype);
      void *output = element(pass->qkv[parity], begin * pass->qkv_stride, args->kv_dtype);
      project(pass, own, &layer->qkv, input, n, output, pass->qkv_stride);
      rotate_rows(pass, own, layer, output, pass->qkv_stride, (layer->query.panels ? 1 : 2) * args->n_heads, n, 0, begin);
    }
    if (pass->divides_rows) pass->omp->barrier();
    if (layer->query.panels) {
      compute_read_rows(pass, own, layer, parity, rows);
      continue;
    }
    int64_t sequence = rows->sequence;
    for (int64_t begin = rows->begin; begin < rows->end; begin += tile) {
      const int64_t n = min_of(tile, rows->end - begin);
      const char *query = element(pass->qkv[parity], begin * pass->qkv_stride, args->kv_dtype);
      while (args->cu_seqlens[sequence + 1] <= begin) sequence++;
      attend_rows(pass, own, layer, parity, args->cu_seqlens + 1, 0, sequence, begin, begin + n, query, pass->qkv_stride);
      float *residual = pass->residual + begin * width;
      char *input = element(pass->input, begin * pass->input_stride, pass->dtype);
      finish_layer(pass, own, layer, layer + 1, n, residual, input, residual, width);
    }
  }
}

// --- threads ----------------------------------------------------------------------------------------------------------

INLINE int64_t tokens_of(const Encoder *args) { return args->cu_seqlens[args->n_sequences]; }

// Rows of a number of threads: the first sequences that have any of them are looked for from the beginning.
static void compute_share(Pass *pass, const Own *own, int64_t thread, int64_t threads) {
  const Encoder *args = pass->args;
  const int64_t tokens = tokens_of(args);
  const Rows rows = {
      .begin = tokens * thread / threads,
      .end = tokens * (thread + 1) / threads,
      .read_begin = args->n_read * thread / threads,
      .read_end = args->n_read * (thread + 1) / threads,
  };
  compute_rows(pass, own, &rows);
}

// All rows, with the other threads: in the memory of the first of them, but for what each computes its parts in.
static void compute_together(Pass *pass, const Own *own) {
  const Encoder *args = pass->args;
  int64_t size;
  Team team = {pass->steps};
  Own shared = own_memory(pass, pass->own, &size);
  shared.sums = own->sums, shared.factors = own->factors, shared.attention = own->attention, shared.tiles = own->tiles;
  shared.team = &team;
  const Rows rows = {.end = tokens_of(args), .read_end = args->n_read};
  compute_rows(pass, &shared, &rows);
}

static void compute_chunks(Pass *pass, const Own *own) {
  const Encoder *args = pass->args;
  for (int64_t chunk; (chunk = __atomic_fetch_add(&pass->next, 1, __ATOMIC_RELAXED)) < pass->n_chunks;) {
    const int64_t first = chunk ? pass->chunk_ends[chunk - 1] : 0, end = pass->chunk_ends[chunk];
    const Rows rows = {
        .sequence = first,
        .begin = args->cu_seqlens[first],
        .end = args->cu_seqlens[end],
        .read_begin = first ? pass->read_ends[first - 1] : 0,
        .read_end = pass->read_ends[end - 1],
    };
    compute_rows(pass, own, &rows);
  }
}

static void compute_worker(void *arg) {
  Pass *pass = arg;
  const int64_t thread = pass->omp ? pass->omp->thread() : 0, threads = pass->omp ? pass->omp->threads() : 1;
  int64_t size;
  const Own own = own_memory(pass, pass->own + thread * pass->own_size, &size);
  if (pass->is_shared) compute_together(pass, &own);
  else if (pass->divides_rows) compute_share(pass, &own, thread, threads);
  else compute_chunks(pass, &own);
  release_tiles();
}

static void plan(Pass *pass, int64_t threads) {
  const Encoder *args = pass->args;
  const int64_t tokens = tokens_of(args);
  int64_t read = 0;
  for (int64_t i = 0; i < args->n_sequences; i++) {
    const int64_t end = args->cu_seqlens[i + 1];
    if (!args->read_positions) read = end;
    while (args->read_positions && read < args->n_read && args->read_positions[read] < end) read++;
    pass->read_ends[i] = (int32_t)read;
  }
  const int64_t chunk = max_of(MIN_CHUNK, min_of(MAX_CHUNK, tokens / (threads * CHUNKS_PER_THREAD)));
  int64_t first = 0, largest = 0;
  pass->n_chunks = pass->next = 0;
  for (int64_t i = 1; i <= args->n_sequences; i++) {
    if (i < args->n_sequences && args->cu_seqlens[i + 1] - args->cu_seqlens[first] <= chunk) continue;
    largest = max_of(largest, args->cu_seqlens[i] - args->cu_seqlens[first]);
    pass->chunk_ends[pass->n_chunks++] = (int32_t)i;
    first = i;
  }
  const int64_t share = threads > 1 ? (tokens + tokens / 4) / threads : tokens;  // of a thread that has little more to do
  pass->divides_rows = args->max_seqlen > share && tokens > threads * SHARED_ROWS;
  pass->is_shared = largest > share && !pass->divides_rows && tokens <= TILE;
  const int64_t n_steps = pass->is_shared ? args->n_layers * (LAYER_STEPS + args->n_sequences) : 0;
  for (int64_t i = 0; i < n_steps; i++) pass->steps[i] = (Step){0};
}
