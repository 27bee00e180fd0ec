/* SPDX-License-Identifier: MIT */
/*
 * The real pool on a simulated disk behind the interface of fakepool.h, so that the same random
 * histories run over log, segments and cleaner. Abandoning a store here is a death of the process:
 * everything acknowledged is still there afterwards.
 */
#include "tests/snapshot/fakepool.h"

#include "core/io/simdev.h"

#include <stdio.h>
#include <stdlib.h>

#define SIZE_MOST VD_MIB(192)

struct medium {
    struct vd_simdisk *disk;
    bool formatted;
    uint64_t seed;
};

struct medium *medium_new(void)
{
    struct medium *m = calloc(1, sizeof(*m));
    m->seed = vd_rng_u64(vd_loop_rng(vd_loop_current()));
    m->disk = vd_simdisk_new(0, SIZE_MOST, m->seed);
    return m;
}

void medium_free(struct medium *m)
{
    vd_simdisk_free(m->disk);
    free(m);
}

struct vd_dev *medium_dev(struct medium *m)
{
    struct vd_format_options opt = {.capacity = SIZE_MOST, .chunk_size = 1 << 20};
    struct vd_error err = {0};
    struct vd_dev *dev;

    vd_simdisk_crash(m->disk, VD_CRASH_PROCESS, ++m->seed);
    int r = vd_simdev_open(m->disk, 0, &dev);
    if (r == 0 && !m->formatted) {
        r = vd_pool_format(&dev, 1, &opt, NULL, &err);
        m->formatted = true;
    }
    if (r < 0) {
        fprintf(stderr, "medium: %s (%d)\n", err.message, r);
        abort();
    }
    return dev;
}

void medium_fail_nodes(struct medium *m, unsigned n, unsigned times)
{
}

void medium_give_up(struct medium *m, bool give_up)
{
}

void medium_budget(struct medium *m, unsigned budget)
{
}

void medium_fail_commits(struct medium *m, int err)
{
}

int fake_checkpoint(struct vd_pool *p)
{
    return pool_checkpoint(p);
}

int fake_clean(struct vd_pool *p, struct vd_rng *rng)
{
    /* The cleaner has its own fiber; settling makes it do what pays now. */
    return vd_rng_below(rng, 4) ? 0 : pool_settle(p, NULL);
}

uint64_t fake_live(const struct vd_pool *p)
{
    struct pool_info info;
    pool_info(p, &info);
    return info.live_blocks;
}

uint64_t fake_entries(const struct vd_pool *p, enum tree_id t)
{
    return forest_root(pool_forest((struct vd_pool *)(uintptr_t)p), t)->entries;
}

unsigned fake_checkpoints(const struct vd_pool *p)
{
    struct pool_info info;
    pool_info(p, &info);
    return (unsigned)info.checkpoints;
}
