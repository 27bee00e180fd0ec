/* SPDX-License-Identifier: MIT */
/* What the pool's tests share: seeds that are printed, and failing allocations. */
#ifndef VD_TESTS_POOL_MODEL_H
#define VD_TESTS_POOL_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/rng.h"

#include <cmocka.h>

/* A fresh seed, or VDISK_TEST_SEED to run one again; printed, so that a failure can be replayed. */
static inline uint64_t test_seed(struct vd_rng *rng, const char *what)
{
    const char *env = getenv("VDISK_TEST_SEED");
    uint64_t seed = env ? strtoull(env, NULL, 0) : vd_entropy_u64() >> 16;
    printf("%s: VDISK_TEST_SEED=%" PRIu64 "\n", what, seed);
    vd_rng_seed(rng, seed);
    return seed;
}

/* Allocation number n from now (1 = the next) fails, once; 0: none. Needs the link arguments that
 * wrap malloc, calloc, realloc and posix_memalign. */
extern unsigned fail_alloc;

#endif
