/* SPDX-License-Identifier: MIT */
/*
 * The pool by itself, on a simulated device: what is acknowledged is there, after closing, after
 * crashes, after cleaning; a full pool refuses and recovers.
 */
#include "core/base/log.h"
#include "core/base/text.h"
#include "core/io/simdisk.h"
#include "tests/pool/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static int closed_and_reopened(void *arg)
{
    struct rig *r = arg;
    rig_make(r, 2000, 0);
    for (int round = 0; round < 4; round++) {
        rig_write_some(r, 300, 70);
        rig_compare(r);
        if (round % 2)
            assert_int_equal(pool_checkpoint(r->mini.pool), 0);
        rig_compare(r);
        rig_reopen(r, round == 1 ? POOL_RDONLY : 0);
        rig_compare(r);
        rig_check(r);
        if (round == 1) {
            rig_reopen(r, 0);
        }
    }
    rig_done(r);
    return 0;
}

static int killed_and_reopened(void *arg)
{
    struct rig *r = arg;
    rig_make(r, 1500, 0);
    for (int round = 0; round < 20; round++) {
        rig_write_some(r, 120, 40);
        if (round % 7 == 3)
            assert_int_equal(pool_checkpoint(r->mini.pool), 0);
        bool power = round % 2;
        if (power)
            assert_int_equal(pool_flush(r->mini.pool), 0);
        rig_crash(r, power ? VD_CRASH_POWER : VD_CRASH_PROCESS, r->seed + round);
        rig_compare(r);
        rig_check(r);
    }
    rig_done(r);
    return 0;
}

/* Whoever flushes after each write gets forced writes, and no flush of the device after them; what
 * is flushed survives the power. */
static int flushed_after_each_write(void *arg)
{
    struct rig *r = arg;
    rig_make(r, 64, 0);
    uint64_t before = 0;
    for (uint64_t i = 0; i < 40; i++) {
        if (i == 8)
            before = r->mini.pool->dev->stats.flushes;
        rig_write(r, i, 1, 0);
        assert_int_equal(pool_flush(r->mini.pool), 0);
    }
    assert_int_equal(r->mini.pool->dev->stats.flushes, before);
    /* Once the habit is given up, a flush is one again. */
    for (uint64_t i = 40; i < 44; i++)
        rig_write(r, i, 1, 0);
    assert_int_equal(pool_flush(r->mini.pool), 0);
    assert_true(r->mini.pool->dev->stats.flushes > before);
    rig_crash(r, VD_CRASH_POWER, r->seed);
    rig_compare(r);
    rig_done(r);
    return 0;
}

static int fixed_working_set_converges(void *arg)
{
    struct rig *r = arg;
    rig_make(r, 4096, 0); /* 16 MiB rewritten 30 times over */
    for (int round = 0; round < 30; round++)
        rig_write_some(r, 1000, 8);
    rig_compare(r);
    struct pool_info info;
    assert_int_equal(pool_settle(r->mini.pool, NULL), 0);
    pool_info(r->mini.pool, &info);
    uint64_t used = info.segments - info.free_segments;
    if (used > 16 * 5 / 4 + 64)
        fprintf(stderr, "%" PRIu64 " segments in use\n", used);
    assert_true(used <= 16 * 5 / 4 + 64);
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

/* What is trimmed is given back soon, though the log has hardly grown. */
static int trims_give_space_back(void *arg)
{
    struct rig *r = arg;
    struct pool_info full, empty;
    rig_make(r, 16384, 0);
    for (uint64_t lba = 0; lba < r->blocks; lba += 64)
        rig_write(r, lba, 64, 0);
    pool_info(r->mini.pool, &full);
    for (uint64_t lba = 0; lba < r->blocks; lba += 1024)
        assert_int_equal(mini_zero(&r->mini, 1, lba, 1024), 0);
    memset(r->version, 0, r->blocks * sizeof(r->version[0]));
    vd_fiber_sleep(UINT64_C(10000000000));
    pool_info(r->mini.pool, &empty);
    uint64_t used = empty.segments - empty.free_segments;
    assert_true(full.segments - full.free_segments >= 64);
    assert_true(used <= 16);
    rig_compare(r);
    rig_done(r);
    return 0;
}

/* Four fifths full, each block a run of its own, and opened again: small writes go on for ever.
 * What is dead in the segments of the session before has to be found, and roots that change a few
 * nodes each must not fill the pool with old ones. */
static int goes_on_when_reopened(void *arg)
{
    struct rig *r = arg;
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    rig_make(r, VD_MIB(64) / VD_BLOCK, VD_MIB(88));
    for (uint64_t i = 0; i < r->blocks; i++)
        rig_write(r, i * 4099 % r->blocks, 1, 0);
    rig_reopen(r, 0);
    for (uint64_t i = 0; i < 3 * r->blocks; i++)
        rig_write(r, vd_rng_below(rng, r->blocks), 1, 0);
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

/* What was given back to the host after the last root is not taken for there when that root's table
 * is read again: the reserve would be on paper only. */
static int host_space_is_what_it_is(void *arg)
{
    struct rig *r = arg;
    rig_make(r, 16384, 0);
    for (uint64_t lba = 0; lba < r->blocks; lba += 64)
        rig_write(r, lba, 64, 0);
    assert_int_equal(mini_zero(&r->mini, 1, 0, (uint32_t)r->blocks), 0);
    memset(r->version, 0, r->blocks * sizeof(r->version[0]));
    assert_int_equal(pool_checkpoint(r->mini.pool), 0);
    rig_reopen(r, 0);
    const struct vd_pool *p = r->mini.pool;
    unsigned backed = 0;
    for (uint32_t i = 0; i < p->segs.count; i++) {
        if (p->segs.v[i].state != VD_SEG_FREE || !p->segs.v[i].backed)
            continue;
        assert_true(simdisk_has(r->disk, seg_off(p, i), p->chunk_size));
        backed++;
    }
    assert_int_equal(backed, p->segs.free_backed);
    assert_true(backed > 0);
    rig_compare(r);
    rig_done(r);
    return 0;
}

struct overwriter {
    struct rig *r;
    struct vd_group *group;
    uint8_t *buf;
    uint64_t from, count; /* blocks of its own */
    unsigned writes;
};

/* Nine of ten writes go to a tenth of its blocks, after a first half that goes anywhere. */
static void overwrite(void *arg)
{
    struct overwriter *o = arg;
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    for (unsigned i = 0; i < o->writes; i++) {
        bool hot = i > o->writes / 2 && vd_rng_below(rng, 10);
        uint64_t lba = o->from + vd_rng_below(rng, hot ? o->count / 10 : o->count);
        rig_fill(o->buf, lba, o->r->version[lba] + 1);
        assert_int_equal(mini_write(&o->r->mini, 1, lba, 1, o->buf, 0), 0);
        o->r->version[lba]++;
    }
    vd_group_done(o->group);
}

/* A volume that is all there is in the pool can be overwritten for ever, by many at once. */
static int full_volume_is_overwritten(void *arg)
{
    struct rig *r = arg;
    enum { WRITERS = 24 };
    struct overwriter o[WRITERS];
    struct vd_group group;
    rig_make(r, 12288, VD_MIB(48 + 24));
    for (uint64_t lba = 0; lba < r->blocks; lba++)
        rig_write(r, lba, 1, 0);
    vd_group_init(&group);
    for (unsigned i = 0; i < WRITERS; i++) {
        uint64_t part = r->blocks / WRITERS;
        o[i] = (struct overwriter){r, &group, vd_alloc_aligned(VD_BLOCK), i * part, part, 2500};
        vd_group_add(&group);
        assert_int_equal(vd_fiber_spawn(vd_loop_current(), "overwriter", overwrite, &o[i]), 0);
    }
    vd_group_wait(&group);
    rig_compare(r);
    rig_check(r);
    for (unsigned i = 0; i < WRITERS; i++)
        free(o[i].buf);
    rig_done(r);
    return 0;
}

static int full_pool_refuses_and_recovers(void *arg)
{
    struct rig *r = arg;
    rig_make(r, 16384, VD_MIB(48)); /* 64 MiB of volume in 48 MiB of pool */
    uint64_t lba = 0;
    int res = 0;
    for (; lba + 16 <= r->blocks; lba += 16) {
        for (uint64_t b = 0; b < 16; b++)
            rig_fill((uint8_t *)r->buf + b * VD_BLOCK, lba + b, 1);
        res = mini_write(&r->mini, 1, lba, 16, r->buf, 0);
        if (res < 0)
            break;
        for (uint64_t b = 0; b < 16; b++)
            r->version[lba + b] = 1;
    }
    assert_int_equal(res, -ENOSPC);
    assert_true(lba > 16384 / 4);
    rig_compare(r);
    rig_crash(r, VD_CRASH_PROCESS, r->seed);
    rig_compare(r);
    for (uint64_t i = 0; i < lba / 2; i += 64) {
        assert_int_equal(mini_zero(&r->mini, 1, i, 64), 0);
        memset(&r->version[i], 0, 64 * sizeof(r->version[0]));
    }
    rig_compare(r);
    /* Rewriting in place goes on for ever in a nearly full pool. */
    uint64_t all = r->blocks;
    r->blocks = lba * 15 / 16;
    for (int round = 0; round < 4; round++)
        rig_write_some(r, 200, 16);
    r->blocks = all;
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

static void what_was_written_is_there_after_close_and_open(void **state)
{
    rig_run(closed_and_reopened);
}

static void what_was_acknowledged_is_there_after_kill_and_crash(void **state)
{
    rig_run(killed_and_reopened);
}

static void a_flush_after_each_write_becomes_a_forced_write(void **state)
{
    rig_run(flushed_after_each_write);
}

static void rewriting_a_working_set_does_not_grow_the_file(void **state)
{
    rig_run(fixed_working_set_converges);
}

static void space_given_back_is_not_counted_on_after_reopening(void **state)
{
    rig_run(host_space_is_what_it_is);
}

static void a_full_pool_goes_on_when_it_was_opened_again(void **state)
{
    rig_run(goes_on_when_reopened);
}

static void trimmed_space_is_given_back_without_being_asked(void **state)
{
    rig_run(trims_give_space_back);
}

static void a_full_volume_can_be_overwritten_for_ever(void **state)
{
    rig_run(full_volume_is_overwritten);
}

static void a_full_pool_refuses_writes_and_nothing_else(void **state)
{
    rig_run(full_pool_refuses_and_recovers);
}

static void log_line(void *arg, enum vd_log_level level, const char *message)
{
    fprintf(stderr, "  log: %s\n", message);
}

int main(void)
{
    vd_log_set_sink(log_line, NULL, VD_LOG_WARNING);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_there_after_close_and_open),
        cmocka_unit_test(what_was_acknowledged_is_there_after_kill_and_crash),
        cmocka_unit_test(a_flush_after_each_write_becomes_a_forced_write),
        cmocka_unit_test(rewriting_a_working_set_does_not_grow_the_file),
        cmocka_unit_test(trimmed_space_is_given_back_without_being_asked),
        cmocka_unit_test(a_full_pool_goes_on_when_it_was_opened_again),
        cmocka_unit_test(space_given_back_is_not_counted_on_after_reopening),
        cmocka_unit_test(a_full_volume_can_be_overwritten_for_ever),
        cmocka_unit_test(a_full_pool_refuses_writes_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
