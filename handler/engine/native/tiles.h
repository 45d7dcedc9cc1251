// Products by the matrix unit of x86 (AMX): a tile holds 16 rows of 64 bytes, and one instruction multiplies two of them.
//
// A tile of weights is what a panel holds anyway: 16 groups of 16 columns. A tile of rows holds 16 groups of up to 16 rows.
// Tiles 0 to 3 are sums, 4 rows, 5 and 6 weights. Each row is computed as if it were alone.

#pragma once

#include "vectors.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

enum {
  TILE_ROWS = 16,
  TILE_BYTES = 64,
  COLUMNS = 64,  // of a panel
};

#if HAS_TILES
typedef struct {  // see LDTILECFG in Intel's manual
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} TileConfig;

typedef struct {
  const char *x;        // tiles of rows: (tiles, steps, rows, TILE_BYTES)
  const float *weight;  // (steps * TILE_ROWS, COLUMNS)
  const float *start;   // (COLUMNS,)
  float *sums;          // (tiles, rows, COLUMNS)
  int64_t steps, rows;  // steps: of TILE_ROWS groups each; rows: of a tile
  const float *next;    // weights that are fetched meanwhile into the second-level cache,
  int64_t lines;        // so many cache lines in each step
} TiledBlock;

// Asks Linux for the right to use tiles, for all threads of this process; 0: granted.
INLINE int64_t request_tiles(void) {
  int64_t result = 158;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
  __asm__ volatile("syscall" : "+a"(result) : "D"(0x1023), "S"(18) : "rcx", "r11", "memory");
  return result;
}

INLINE void configure_tiles(int64_t tile_rows) {
  TileConfig config = {.palette = 1};
  for (int i = 0; i < 7; i++) config.row_bytes[i] = TILE_BYTES, config.rows[i] = i < 5 ? (uint8_t)tile_rows : TILE_ROWS;
  __builtin_ia32_tile_loadconfig(&config);
}

INLINE void release_tiles(void) { __builtin_ia32_tilerelease(); }

#define MULTIPLY(sums, weights)                                      \
  {                                                                  \
    if (dtype == U8) __builtin_ia32_tdpbusd(sums, 4, weights);       \
    else __builtin_ia32_tdpbf16ps(sums, 4, weights);                 \
  }
#define LOAD_SUMS(tile, column) __builtin_ia32_tileloadd64(tile, args->start + (column), 0)  // the same row again and again
#define LOAD_ROWS(tile, step) \
  __builtin_ia32_tileloadd64(4, args->x + ((tile) * args->steps + (step)) * args->rows * TILE_BYTES, TILE_BYTES)
#define LOAD_WEIGHTS(tile, step, column) \
  __builtin_ia32_tileloadd64(tile, args->weight + (step) * TILE_ROWS * COLUMNS + (column), COLUMNS * 4)
#define STORE_SUMS(tile, of, column) \
  __builtin_ia32_tilestored64(tile, args->sums + (of) * args->rows * COLUMNS + (column), COLUMNS * 4)

// Fetch some of the weights that are multiplied next into the second-level cache.
INLINE void fetch(const float *weights, int64_t lines) {
  for (int64_t line = 0; line < lines; line++) __builtin_prefetch(weights + line * 16, 0, 2);
}

// One tile of rows and all columns.
INLINE void multiply_one_tile(enum dtype dtype, const TiledBlock *args) {
  const float *next = args->next;
  LOAD_SUMS(0, 0);
  LOAD_SUMS(1, 16);
  LOAD_SUMS(2, 32);
  LOAD_SUMS(3, 48);
  for (int64_t step = 0; step < args->steps; step++, next += args->lines * LANES) {
    fetch(next, args->lines);
    LOAD_ROWS(0, step);
    LOAD_WEIGHTS(5, step, 0);
    MULTIPLY(0, 5)
    LOAD_WEIGHTS(6, step, 16);
    MULTIPLY(1, 6)
    LOAD_WEIGHTS(5, step, 32);
    MULTIPLY(2, 5)
    LOAD_WEIGHTS(6, step, 48);
    MULTIPLY(3, 6)
  }
  STORE_SUMS(0, 0, 0);
  STORE_SUMS(1, 0, 16);
  STORE_SUMS(2, 0, 32);
  STORE_SUMS(3, 0, 48);
}

// Two tiles of rows and 32 columns: each weight that is loaded is multiplied twice.
INLINE void multiply_half(enum dtype dtype, const TiledBlock *args, int64_t column, const float *next) {
  LOAD_SUMS(0, column);
  LOAD_SUMS(1, column + 16);
  LOAD_SUMS(2, column);
  LOAD_SUMS(3, column + 16);
  for (int64_t step = 0; step < args->steps; step++, next += args->lines * LANES) {
    fetch(next, args->lines);
    LOAD_WEIGHTS(5, step, column);
    LOAD_WEIGHTS(6, step, column + 16);
    LOAD_ROWS(0, step);
    MULTIPLY(0, 5)
    MULTIPLY(1, 6)
    LOAD_ROWS(1, step);
    MULTIPLY(2, 5)
    MULTIPLY(3, 6)
  }
  STORE_SUMS(0, 0, column);
  STORE_SUMS(1, 0, column + 16);
  STORE_SUMS(2, 1, column);
  STORE_SUMS(3, 1, column + 16);
}

INLINE void multiply_two_tiles(enum dtype dtype, const TiledBlock *args) {
  multiply_half(dtype, args, 0, args->next);
  multiply_half(dtype, args, 32, args->next + args->steps * args->lines * LANES);
}
#else
INLINE int64_t request_tiles(void) { return 0; }
INLINE void configure_tiles(int64_t tile_rows) { (void)tile_rows; }
INLINE void release_tiles(void) {}
#endif
