/* SPDX-License-Identifier: MIT */
/*
 * A pool by itself on a simulated device, and what should be in it: branch 1 of the mini client, a
 * version per block. For tests of the pool. All suspend but rig_fill.
 */
#ifndef TESTS_POOL_RIG_H
#define TESTS_POOL_RIG_H

#include "core/io/simdev.h"
#include "pool/pool_priv.h"
#include "tests/pool/mini_client.h"

struct rig {
    struct vd_simdisk *disk;
    struct mini mini;
    uint64_t seed;
    uint32_t *version; /* per block of branch 1, 0 = zero */
    uint64_t blocks;
    void *buf;
};

/* What version `version` of a block holds. */
void rig_fill(void *buf, uint64_t lba, uint32_t version);
int rig_open(struct rig *r, unsigned flags);
/* A new pool of `capacity` bytes, or one that grows; open. */
void rig_make(struct rig *r, uint64_t blocks, uint64_t capacity);
void rig_close(struct rig *r);
/* Closes the pool, and forgets it and its device. */
void rig_done(struct rig *r);
/* Closed and opened again. */
void rig_reopen(struct rig *r, unsigned flags);
/* The process dies, or the machine; opened again. */
void rig_crash(struct rig *r, enum vd_crash how, uint64_t seed);
/* The next version of these blocks, as one write that must not fail. */
#define RIG_WRITE_MAX 256
void rig_write(struct rig *r, uint64_t lba, uint64_t blocks, unsigned flags);
/* Every block is what it should be. */
void rig_compare(struct rig *r);
/* Writes and zeroes of up to `most` blocks, some with FUA, some flushed. */
void rig_write_some(struct rig *r, unsigned count, unsigned most);
void rig_check(struct rig *r);
/* Runs fn on a simulated loop with some seeds. */
void rig_run(int (*fn)(void *rig));

#endif
