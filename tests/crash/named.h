/* SPDX-License-Identifier: MIT */
/* One case that has a name: cut wherever it writes, crashed in every way, reopened and judged. */
#ifndef CRASH_NAMED_H
#define CRASH_NAMED_H

#include "tests/crash/world.h"

struct named {
    struct world_options opt;
    bool may_fill;                    /* ENOSPC is to be expected */
    void (*prepare)(struct world *w); /* on a new pool, open; it is closed afterwards */
    void (*before)(struct world *w);  /* open again; not cut. NULL = nothing */
    void (*act)(struct world *w);     /* cut at each of its device operations */
    void (*after)(struct world *w);   /* after each recovery: goes on, and is crashed once more */
    unsigned points;                  /* at most about so many cuts; 0 = at every operation */
    unsigned powers;                  /* outcomes tried of each loss of power; 0 = 2 */
};
/* Fails the running test with the point, kind and seed of the crash, and what was wrong. Returns
 * how many states were judged. */
unsigned named_cut_everywhere(const struct named *n);
/* Once through without a crash; then `look` (if any) at the end, before the pool is abandoned; then
 * a death of the process and a judgement. */
void named_once(const struct named *n, uint64_t seed, void (*look)(struct world *w));
/* Does prepare, closes, and hands out the closed world. */
void named_prepare(const struct named *n, uint64_t seed, struct world *ret);
/* A world of its own with a copy of the disk and the oracle of `base`. */
void named_copy(const struct world *base, uint64_t seed, struct world *ret);
/* Crashes a copy of `cut`, reopens it and has it judged; `point` is for the message. */
void named_judge(const struct named *n, const struct world *cut, uint64_t point, enum vd_crash kind,
                 uint64_t seed);
/* Fails the running test, if the world has failed, with that text before its reason. */
void named_check(const struct world *w, const char *fmt, ...) VD_PRINTF(2, 3);

/* Runs fn(w, arg) on a fiber of its own; *g counts it. */
typedef void named_fiber_fn(struct world *w, void *arg);
void named_spawn(struct world *w, struct vd_group *g, named_fiber_fn *fn, void *arg);

#endif
