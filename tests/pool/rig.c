/* SPDX-License-Identifier: MIT */
/* A pool on a simulated device and what should be in it (rig.h): makes it, writes to it at random,
 * compares. */
#include "tests/pool/rig.h"

#include "core/base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

void rig_fill(void *buf, uint64_t lba, uint32_t version)
{
    uint64_t *w = buf;
    if (version == 0) {
        memset(buf, 0, VD_BLOCK);
        return;
    }
    for (unsigned i = 0; i < VD_BLOCK / 8; i++)
        w[i] = (lba << 32 | version) * 0x9e3779b97f4a7c15 + i;
}

int rig_open(struct rig *r, unsigned flags)
{
    struct vd_dev *dev;
    struct vd_error err = {0};
    int res = vd_simdev_open(r->disk, 0, &dev);
    if (res == 0)
        res = mini_open(&r->mini, dev, flags, &err);
    if (res < 0)
        fprintf(stderr, "open: %d %s\n", res, err.message);
    return res;
}

void rig_make(struct rig *r, uint64_t blocks, uint64_t capacity)
{
    struct vd_dev *dev;
    struct vd_error err = {0};
    r->blocks = blocks;
    r->version = calloc(blocks, sizeof(*r->version));
    r->buf = vd_alloc_aligned(RIG_WRITE_MAX * VD_BLOCK);
    r->disk = vd_simdisk_new(0, capacity ? capacity : VD_MIB(256), r->seed);
    assert_int_equal(vd_simdev_open(r->disk, 0, &dev), 0);
    struct pool_format_options opt = {
        .name = "t", .chunk_size = (uint32_t)VD_MIB(1), .capacity = capacity};
    assert_int_equal(pool_format(dev, &opt, &err), 0);
    vd_dev_close(dev);
    assert_int_equal(rig_open(r, 0), 0);
}

void rig_close(struct rig *r)
{
    struct vd_error err = {0};
    int res = pool_close(r->mini.pool, &err);
    if (res < 0)
        fprintf(stderr, "close: %d %s\n", res, err.message);
    assert_int_equal(res, 0);
}

void rig_done(struct rig *r)
{
    rig_close(r);
    vd_simdisk_free(r->disk);
    free(r->version);
    free(r->buf);
}

void rig_reopen(struct rig *r, unsigned flags)
{
    rig_close(r);
    assert_int_equal(rig_open(r, flags), 0);
}

void rig_crash(struct rig *r, enum vd_crash how, uint64_t seed)
{
    pool_abandon(r->mini.pool);
    vd_simdisk_crash(r->disk, how, seed);
    assert_int_equal(rig_open(r, 0), 0);
}

void rig_write(struct rig *r, uint64_t lba, uint64_t blocks, unsigned flags)
{
    for (uint64_t b = 0; b < blocks; b++)
        rig_fill((uint8_t *)r->buf + b * VD_BLOCK, lba + b, ++r->version[lba + b]);
    assert_int_equal(mini_write(&r->mini, 1, lba, blocks, r->buf, flags), 0);
}

void rig_compare(struct rig *r)
{
    uint8_t *want = (uint8_t *)r->buf + VD_BLOCK;
    for (uint64_t i = 0; i < r->blocks; i++) {
        int res = mini_read(&r->mini, 1, i, r->buf);
        if (res < 0)
            fprintf(stderr, "seed %" PRIu64 ": block %" PRIu64 ": %d\n", r->seed, i, res);
        assert_int_equal(res, 0);
        rig_fill(want, i, r->version[i]);
        if (memcmp(r->buf, want, VD_BLOCK))
            fprintf(stderr, "seed %" PRIu64 ": block %" PRIu64 " is not version %u\n", r->seed, i,
                    r->version[i]);
        assert_memory_equal(r->buf, want, VD_BLOCK);
    }
}

void rig_write_some(struct rig *r, unsigned count, unsigned most)
{
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    for (unsigned i = 0; i < count; i++) {
        uint64_t n = 1 + vd_rng_below(rng, most);
        uint64_t lba = vd_rng_below(rng, r->blocks - n + 1);
        if (vd_rng_below(rng, 12) == 0) {
            assert_int_equal(mini_zero(&r->mini, 1, lba, n), 0);
            memset(&r->version[lba], 0, n * sizeof(r->version[0]));
            continue;
        }
        rig_write(r, lba, n, i % 5 == 0 ? POOL_OP_FUA : 0);
        if (i % 97 == 0)
            assert_int_equal(pool_flush(r->mini.pool), 0);
    }
}

static void sound(void *arg, const char *line)
{
    fprintf(stderr, "check: %s\n", line);
}

void rig_check(struct rig *r)
{
    uint64_t nodes;
    assert_int_equal(pool_hold_checkpoints(r->mini.pool), 0);
    assert_int_equal(pool_check(r->mini.pool, sound, NULL, &nodes), 0);
    pool_release_checkpoints(r->mini.pool);
}

void rig_run(int (*fn)(void *rig))
{
    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct rig rig = {.seed = seed};
        assert_int_equal(vd_fiber_main(VD_LOOP_SIM, seed, fn, &rig), 0);
    }
}
