/* SPDX-License-Identifier: MIT */
/*
 * The arithmetic of latency histograms. Called once per request, so adding is a few instructions.
 * Never yields.
 */
#include "core/block/histogram.h"

#define SUB 3 /* log2 of the buckets per power of two */

static unsigned bucket_of(uint64_t ns)
{
    if (ns < UINT64_C(1) << VD_HISTOGRAM_LOW)
        return 0;
    if (ns >= UINT64_C(1) << VD_HISTOGRAM_HIGH)
        return VD_HISTOGRAM_BUCKETS - 1;
    unsigned exponent = 63u - (unsigned)__builtin_clzll(ns);
    unsigned sub = (unsigned)(ns >> (exponent - SUB)) & ((1u << SUB) - 1);
    return 1 + ((exponent - VD_HISTOGRAM_LOW) << SUB) + sub;
}

void vd_histogram_add(struct vd_histogram *h, uint64_t ns)
{
    h->n[bucket_of(ns)]++;
    h->sum_ns += ns;
}

/* Where the bucket begins, for all but the first. */
static uint64_t start_ns(unsigned bucket)
{
    unsigned exponent = VD_HISTOGRAM_LOW + ((bucket - 1) >> SUB);
    uint64_t sub = (bucket - 1) & ((1u << SUB) - 1);
    return ((UINT64_C(1) << SUB) + sub) << (exponent - SUB);
}

uint64_t vd_histogram_end_ns(unsigned bucket)
{
    return bucket >= VD_HISTOGRAM_BUCKETS - 1 ? UINT64_MAX : start_ns(bucket + 1);
}

uint64_t vd_histogram_count(const struct vd_histogram *h)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < VD_HISTOGRAM_BUCKETS; i++)
        n += h->n[i];
    return n;
}

uint64_t vd_histogram_below(const struct vd_histogram *h, unsigned exponent)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < VD_HISTOGRAM_BUCKETS; i++)
        if (vd_histogram_end_ns(i) <= UINT64_C(1) << exponent)
            n += h->n[i];
    return n;
}

uint64_t vd_histogram_quantile_ns(const struct vd_histogram *h, double q)
{
    uint64_t count = vd_histogram_count(h), seen = 0;
    if (count == 0)
        return 0;
    uint64_t want = (uint64_t)(q * (double)count);
    want = VD_MIN(VD_MAX(want, 1), count);
    for (unsigned i = 0; i < VD_HISTOGRAM_BUCKETS; i++) {
        seen += h->n[i];
        if (seen < want)
            continue;
        uint64_t start = i == 0 ? 0 : start_ns(i), end = vd_histogram_end_ns(i);
        return end == UINT64_MAX ? start : start + (end - start) / 2;
    }
    return 0;
}
