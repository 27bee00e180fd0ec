/* SPDX-License-Identifier: MIT */
/*
 * How long requests took: counts in buckets that are eight to each power of two, from 1 us to a
 * minute, so a quantile is right to an eighth. Counts only grow; what happened between two looks is
 * the difference of two copies.
 */
#ifndef VD_BLOCK_HISTOGRAM_H
#define VD_BLOCK_HISTOGRAM_H

#include "core/base/base.h"

#define VD_HISTOGRAM_LOW 10  /* below 2^10 ns there is one bucket */
#define VD_HISTOGRAM_HIGH 36 /* and one from 2^36 ns on */
#define VD_HISTOGRAM_BUCKETS (2 + (VD_HISTOGRAM_HIGH - VD_HISTOGRAM_LOW) * 8)

struct vd_histogram {
    uint64_t sum_ns;
    uint64_t n[VD_HISTOGRAM_BUCKETS];
};

void vd_histogram_add(struct vd_histogram *h, uint64_t ns);
/* What is in the bucket is shorter than this; UINT64_MAX for the last. */
uint64_t vd_histogram_end_ns(unsigned bucket);
uint64_t vd_histogram_count(const struct vd_histogram *h);
/* Those shorter than 2^exponent ns, exactly. */
uint64_t vd_histogram_below(const struct vd_histogram *h, unsigned exponent);
/* The time that the part `q` (0..1) of all did not exceed, as the middle of a bucket; 0 when there
 * are none. */
uint64_t vd_histogram_quantile_ns(const struct vd_histogram *h, double q);

#endif
