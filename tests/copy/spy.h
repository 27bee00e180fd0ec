/* SPDX-License-Identifier: MIT */
/*
 * A disk in memory that watches its user: it counts, yields at random, fails on demand, and says of
 * each 64 KiB whether it is a hole, as it is told.
 */
#ifndef VD_TESTS_COPY_SPY_H
#define VD_TESTS_COPY_SPY_H

#include "core/base/rng.h"
#include "core/block/disk.h"

#define SPY_UNIT VD_KIB(64)
#define SPY_UNITS 512

struct spy {
    struct vd_disk disk; /* first */
    struct vd_rng rng;
    uint8_t *data;
    uint64_t size, size_max;
    bool hole[SPY_UNITS]; /* what extents() answers; data there must be zero */
    bool no_extents;      /* extents() is -EOPNOTSUPP */
    /* From which offset on each operation fails, and with what. */
    uint64_t fail_read_off, fail_write_off, fail_zero_off;
    int fail_read, fail_write, fail_zero, fail_flush, fail_resize, fail_extents;
    /* Counters. */
    unsigned reads, writes, zeroes, flushes, resizes, in_flight, in_flight_max;
    uint64_t written_bytes, read_bytes;
    bool dirty; /* written since the last flush */
};

/* All zero, no holes. Grows up to size_max. */
struct spy *spy_new(uint64_t size, uint64_t size_max, uint64_t seed);
/* Random content: holes, data, zeroes within data down to single sectors. */
void spy_scatter(struct spy *s);
/* Every byte non-zero, no holes. */
void spy_fill(struct spy *s);

#endif
