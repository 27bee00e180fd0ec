/* SPDX-License-Identifier: MIT */
/* Seeded random numbers (xoshiro256**), so that a run can be replayed; and system entropy. */
#ifndef VD_BASE_RNG_H
#define VD_BASE_RNG_H

#include "core/base/base.h"

struct vd_rng {
    uint64_t s[4];
};

void vd_rng_seed(struct vd_rng *rng, uint64_t seed);
uint64_t vd_rng_u64(struct vd_rng *rng);
/* Uniform in [0, bound); bound > 0. */
uint64_t vd_rng_below(struct vd_rng *rng, uint64_t bound);
void vd_rng_fill(struct vd_rng *rng, void *buf, size_t len);
/* From getrandom(2); aborts if the kernel has none to give. */
uint64_t vd_entropy_u64(void);

#endif
