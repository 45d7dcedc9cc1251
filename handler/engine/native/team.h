// Threads that compute a small pass together, without a barrier between its steps.
//
// A step is cut into parts: panels of a product, heads of a sequence, rows. Each thread claims one part after the other, and
// goes on to the next step when all parts are computed. A thread that the system wakes late joins at the step that the
// others have reached: they have computed its parts meanwhile.

#pragma once

#include "vectors.h"

enum {
  PART_ROWS = 4,     // rows of a part
  MAX_SPINS = 2000,  // after so many looks at a part that another thread computes, that one may need this processor
};

typedef struct {  // both 0 before the step
  int64_t next, done;
} Step;

typedef struct {  // where one thread is
  Step *step;
} Team;

INLINE void yield(void) {
  int64_t number = 24;  // sched_yield
  __asm__ volatile("syscall" : "+a"(number) : : "rcx", "r11", "memory");
}

// The next part of a step of n; n: all are computed, and the next step begins.
INLINE int64_t claim(Team *team, int64_t n) {
  Step *step = team->step;
  const int64_t part = __atomic_fetch_add(&step->next, 1, __ATOMIC_RELAXED);
  if (part < n) return part;
  for (int64_t spins = 0; __atomic_load_n(&step->done, __ATOMIC_ACQUIRE) < n; spins++) {
    if (spins < MAX_SPINS) __builtin_ia32_pause();
    else yield();
  }
  team->step++;
  return n;
}

// The first and the next part of a step, of all (no team: a thread computes alone) or of those that this thread claims.
INLINE int64_t first_part(Team *team, int64_t n) { return team ? claim(team, n) : 0; }

INLINE int64_t next_part(Team *team, int64_t part, int64_t n) {
  if (!team) return part + 1;
  __atomic_fetch_add(&team->step->done, 1, __ATOMIC_RELEASE);
  return claim(team, n);
}

#define EACH(part, n, team) for (int64_t part = first_part(team, n); part < (n); part = next_part(team, part, n))
#define EACH_ROW(row, rows, team)                              \
  EACH(row##_part, ((rows) + PART_ROWS - 1) / PART_ROWS, team) \
    for (int64_t row = row##_part * PART_ROWS; row < min_of((row##_part + 1) * PART_ROWS, rows); row++)
