/* SPDX-License-Identifier: MIT */
/*
 * Refilling: small writes of a pool that is short of space go into dead blocks, these are nobody
 * else's, and what lies there can be found by the cleaner, after a crash too.
 */
#include "core/base/log.h"
#include "core/base/text.h"
#include "pool/map_priv.h"
#include "tests/pool/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define BLOCKS 8192 /* 32 MiB in a pool of 64 */
#define CAPACITY VD_MIB(64)

/* A full volume, written at random until `blocks` of it have been refilled. */
static void refill(struct rig *r, uint64_t blocks)
{
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    uint64_t until = r->mini.pool->stats.refilled + blocks;
    for (uint64_t lba = 0; lba < r->blocks && r->version[lba] == 0; lba++)
        rig_write(r, lba, 1, 0);
    for (unsigned i = 0; r->mini.pool->stats.refilled < until; i++) {
        assert_true(i < 100 * BLOCKS);
        rig_write(r, vd_rng_below(rng, r->blocks), 1, 0);
    }
}

static int refills(void *arg)
{
    struct rig *r = arg;
    rig_make(r, BLOCKS, CAPACITY);
    refill(r, 2 * BLOCKS);
    rig_compare(r);
    rig_check(r);
    /* Little is moved, though headers take as much as the writes, one by one. */
    uint64_t guest = r->mini.pool->stats.guest_blocks;
    refill(r, BLOCKS);
    uint64_t moved = r->mini.pool->stats.written[VD_STREAM_CLEAN];
    guest = r->mini.pool->stats.guest_blocks - guest;
    refill(r, BLOCKS);
    moved = r->mini.pool->stats.written[VD_STREAM_CLEAN] - moved;
    assert_true(moved < guest);
    rig_compare(r);
    rig_reopen(r, 0);
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

static void write_random(struct rig *r, uint64_t blocks)
{
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    for (uint64_t i = 0; i < blocks; i++)
        rig_write(r, vd_rng_below(rng, r->blocks), 1, 0);
}

static void maps_forget(struct vd_pool *p)
{
    for (uint32_t i = 0; i < p->segs.count; i++)
        map_drop(p, i);
    refill_count(p);
}

/* What has no maps is looked through before there is no room. */
static int learns_when_opened(void *arg)
{
    struct rig *r = arg;
    rig_make(r, BLOCKS, CAPACITY);
    refill(r, 2 * BLOCKS);
    rig_reopen(r, 0);
    maps_forget(r->mini.pool);
    write_random(r, BLOCKS);
    const struct vd_pool *p = r->mini.pool;
    assert_true(p->refill.learned > 0);
    assert_true(p->stats.refilled > p->stats.guest_blocks / 8 * 7);
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

/* Segments of data that hold something and cannot be emptied. */
static unsigned stuck(const struct vd_pool *p)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < p->segs.count; i++)
        n += p->segs.v[i].stuck;
    return n;
}

#define SEGS_MAX 128
#define OPENED 6 /* segments, by opening the pool */
#define SEG_WORDS (VD_MIB(1) / VD_BLOCK / 64)

static unsigned maps(const struct vd_pool *p)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < p->segs.count; i++)
        n += p->segs.v[i].map != NULL;
    return n;
}

/* What the maps say the trees name is what looking through the segments tells. */
static void compare_with_learned(struct vd_pool *p)
{
    static uint64_t named[SEGS_MAX][SEG_WORDS];
    bool had[SEGS_MAX] = {false};
    unsigned compared = 0;
    assert_true(p->segs.count <= SEGS_MAX && p->seg_blocks == SEG_WORDS * 64);
    for (uint32_t i = 0; i < p->segs.count; i++) {
        had[i] = p->segs.v[i].map;
        if (had[i])
            memcpy(named[i], p->segs.v[i].map->named, sizeof(named[i]));
    }
    maps_forget(p);
    while (cleaner_learn(p) > 0)
        ;
    for (uint32_t i = 0; i < p->segs.count; i++)
        if (had[i] && p->segs.v[i].map) {
            assert_memory_equal(named[i], p->segs.v[i].map->named, sizeof(named[i]));
            compared++;
        }
    assert_true(compared > 10);
}

/* What a session knew that ended well, the next one knows; for any other it is not meant. */
static int knows_when_opened(void *arg)
{
    struct rig *r = arg;
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    rig_make(r, BLOCKS, CAPACITY);
    refill(r, 2 * BLOCKS);
    for (unsigned round = 0; round < 6; round++) {
        rig_reopen(r, 0);
        assert_true(maps(r->mini.pool) > 20);
        if (round % 3 == 2)
            compare_with_learned(r->mini.pool);
        write_random(r, BLOCKS / 2 + vd_rng_below(rng, BLOCKS));
        const struct vd_pool *p = r->mini.pool;
        assert_true(round % 3 == 2 || p->refill.learned == 0);
        assert_true(p->stats.refilled > p->stats.guest_blocks / 2);
        rig_check(r);
        if (round % 2 == 0)
            continue;
        assert_int_equal(pool_flush(r->mini.pool), 0);
        rig_crash(r, round % 3 ? VD_CRASH_PROCESS : VD_CRASH_POWER, r->seed + round);
        assert_true(maps(r->mini.pool) <= OPENED);
        write_random(r, BLOCKS);
    }
    rig_compare(r);
    assert_int_equal(pool_checkpoint(r->mini.pool), 0);
    for (int batch = 0; batch < 40 && cleaner_batch(r->mini.pool, true) > 0; batch++)
        ;
    assert_int_equal(stuck(r->mini.pool), 0);
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

/* Where the newest stored maps begin: behind one of the four tables. */
static uint64_t maps_place(struct rig *r, const struct vd_root *root, struct od_segmaps *head)
{
    uint64_t newest = 0, ret = 0;
    for (int i = 0; i < 4; i += 2) {
        uint64_t at = root->table_off[i] + table_size(root->table_entries, root->table_entry_size);
        struct od_segmaps d;
        vd_simdisk_peek(r->disk, at, &d, sizeof(d));
        if (vd_get64(d.magic) == OD_MAGIC_SEGMAPS && vd_get64(d.root_counter) > newest) {
            newest = vd_get64(d.root_counter);
            ret = at;
            *head = d;
        }
    }
    assert_true(ret > 0);
    return ret;
}

/* Stored maps that are damaged are as if there were none. */
static int damaged_maps(void *arg)
{
    struct rig *r = arg;
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    rig_make(r, BLOCKS, CAPACITY);
    refill(r, 2 * BLOCKS);
    for (unsigned round = 0; round < 8; round++) {
        struct vd_root root = r->mini.pool->root;
        struct od_segmaps head = {0};
        rig_close(r);
        uint64_t at = maps_place(r, &root, &head);
        uint64_t byte = round == 0   ? offsetof(struct od_segmaps, len) + 3
                        : round == 1 ? offsetof(struct od_segmaps, incarnation)
                                     : vd_rng_below(rng, vd_get32(head.len));
        vd_simdisk_rot(r->disk, at + byte, (unsigned)vd_rng_below(rng, 8));
        assert_int_equal(rig_open(r, 0), 0);
        assert_true(maps(r->mini.pool) <= OPENED);
        write_random(r, 200);
    }
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

/* Whatever happened to the process, the cleaner finds all that is live: nothing is stuck. */
static int moved_after_crashes(void *arg)
{
    struct rig *r = arg;
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    rig_make(r, BLOCKS, CAPACITY);
    for (unsigned round = 0; round < 6; round++) {
        refill(r, 200 + vd_rng_below(rng, 2 * BLOCKS));
        if (round % 3 == 1)
            assert_int_equal(pool_flush(r->mini.pool), 0);
        rig_crash(r, round % 3 == 1 ? VD_CRASH_POWER : VD_CRASH_PROCESS, r->seed);
        assert_int_equal(pool_checkpoint(r->mini.pool), 0);
        for (int batch = 0; batch < 40 && cleaner_batch(r->mini.pool, true) > 0; batch++)
            ;
        assert_int_equal(stuck(r->mini.pool), 0);
        rig_compare(r);
        rig_check(r);
    }
    rig_done(r);
    return 0;
}

static void pin_all(struct vd_pool *p, int by)
{
    for (uint32_t i = 0; i < p->segs.count; i++)
        p->segs.v[i].pins += (uint32_t)by;
}

/* Somebody may still be reading what lay in a block that has died. */
static int readers_hold_blocks(void *arg)
{
    struct rig *r = arg;
    rig_make(r, BLOCKS, CAPACITY);
    /* What was made ready before is nobody's any more, then nothing can be made ready. */
    do {
        refill(r, 100);
        assert_int_equal(pool_checkpoint(r->mini.pool), 0);
    } while (space_available(r->mini.pool) < 200);
    pin_all(r->mini.pool, 1);
    uint64_t before = r->mini.pool->stats.refilled;
    for (uint64_t lba = 0; lba < 50; lba++)
        rig_write(r, lba, 1, 0);
    assert_int_equal(r->mini.pool->stats.refilled, before);
    pin_all(r->mini.pool, -1);
    refill(r, 100);
    rig_compare(r);
    rig_done(r);
    return 0;
}

/* A bad sector among the dead blocks costs nothing: the blocks go to the log instead. */
static int places_that_fail(void *arg)
{
    struct rig *r = arg;
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    rig_make(r, BLOCKS, CAPACITY);
    refill(r, 100);
    for (unsigned i = 0; i < 12; i++) {
        vd_simdisk_fault(r->disk, VD_FAULT_WRITE_EIO, 1 + vd_rng_below(rng, 2), false);
        rig_write(r, vd_rng_below(rng, r->blocks), 1, 0);
        vd_simdisk_clear_faults(r->disk);
        refill(r, 20);
        assert_false(pool_read_only(r->mini.pool));
    }
    rig_compare(r);
    rig_crash(r, VD_CRASH_PROCESS, r->seed);
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

/* Writes at random, each durable, until `blocks` of them have got a second place. */
static void write_forced(struct rig *r, uint64_t blocks)
{
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    uint64_t until = r->mini.pool->stats.homed + blocks;
    for (unsigned i = 0; r->mini.pool->stats.homed < until; i++) {
        assert_true(i < 100 * BLOCKS);
        rig_write(r, vd_rng_below(rng, r->blocks), 1, POOL_OP_FUA);
    }
}

/* A forced write is in the log as a whole, where it survives everything, and in a dead place. When
 * a root covers it the log's segments are free: nothing has to be moved. */
static int forced_writes_stay(void *arg)
{
    struct rig *r = arg;
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    rig_make(r, BLOCKS, CAPACITY);
    refill(r, BLOCKS);
    write_forced(r, BLOCKS);
    uint64_t guest = r->mini.pool->stats.guest_blocks;
    uint64_t moved = r->mini.pool->stats.written[VD_STREAM_CLEAN];
    write_forced(r, BLOCKS);
    guest = r->mini.pool->stats.guest_blocks - guest;
    moved = r->mini.pool->stats.written[VD_STREAM_CLEAN] - moved;
    assert_true(moved < guest / 2);
    rig_compare(r);
    rig_check(r);
    for (unsigned round = 0; round < 8; round++) {
        refill(r, 200);
        write_forced(r, 1 + vd_rng_below(rng, 300));
        rig_crash(r, round % 2 ? VD_CRASH_PROCESS : VD_CRASH_POWER_DROP, r->seed + round);
        rig_compare(r);
        assert_int_equal(pool_checkpoint(r->mini.pool), 0);
        for (int batch = 0; batch < 20 && cleaner_batch(r->mini.pool, true) > 0; batch++)
            ;
        assert_int_equal(stuck(r->mini.pool), 0);
        rig_compare(r);
        rig_check(r);
    }
    rig_done(r);
    return 0;
}

/* The second place, or the log, cannot be written. */
static int forced_writes_that_fail(void *arg)
{
    struct rig *r = arg;
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    rig_make(r, BLOCKS, CAPACITY);
    refill(r, BLOCKS);
    for (unsigned i = 0; i < 12; i++) {
        write_forced(r, 20);
        vd_simdisk_fault(r->disk, VD_FAULT_WRITE_EIO, 1 + vd_rng_below(rng, 2), false);
        rig_write(r, vd_rng_below(rng, r->blocks), 1, POOL_OP_FUA);
        vd_simdisk_clear_faults(r->disk);
        assert_false(pool_read_only(r->mini.pool));
    }
    rig_compare(r);
    rig_crash(r, VD_CRASH_POWER_DROP, r->seed);
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

struct writer {
    struct rig *rig;
    struct vd_group *group;
    uint64_t from, count, blocks; /* its own part of the volume, and how much it writes at once */
    bool stop;
};

static void write_on(void *arg)
{
    struct writer *w = arg;
    struct rig *r = w->rig;
    struct vd_rng *rng = vd_loop_rng(vd_loop_current());
    uint8_t *buf = vd_alloc_aligned(w->blocks * VD_BLOCK);
    while (!w->stop) {
        uint64_t lba = w->from + vd_rng_below(rng, w->count - w->blocks + 1);
        for (uint64_t b = 0; b < w->blocks; b++)
            rig_fill(buf + b * VD_BLOCK, lba + b, r->version[lba + b] + 1);
        int res = mini_write(&r->mini, 1, lba, w->blocks, buf, 0);
        assert_int_equal(res, 0);
        for (uint64_t b = 0; b < w->blocks; b++)
            r->version[lba + b]++;
    }
    free(buf);
    vd_group_done(w->group);
}

/* One write fails while records of all sizes are under way: more than a segment holds when all of
 * them are written again with their blocks in the payload. */
static int one_failure_among_many(void *arg)
{
    struct rig *r = arg;
    enum { WRITERS = 34 };
    static struct writer w[WRITERS];
    struct vd_group group;
    rig_make(r, BLOCKS, 0); /* each failure costs the log segments until the next root */
    refill(r, 2000);
    vd_group_init(&group);
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){r, &group, i * 240, 240, i < 2 ? 150 : 4, false};
        vd_group_add(&group);
        assert_int_equal(vd_fiber_spawn(vd_loop_current(), "writer", write_on, &w[i]), 0);
    }
    for (unsigned i = 0; i < 24; i++) {
        uint64_t until = r->mini.pool->stats.refilled + 300;
        /* A root that cannot be written would be another matter. */
        while (r->mini.pool->stats.refilled < until || r->mini.pool->ckpt.running)
            vd_fiber_yield();
        vd_simdisk_fault(r->disk, VD_FAULT_WRITE_EIO, 1 + i % 3, false);
        while (!vd_simdisk_fault_hit(r->disk) && !r->mini.pool->ckpt.running)
            vd_fiber_yield();
        vd_simdisk_clear_faults(r->disk);
        assert_int_equal(pool_checkpoint(r->mini.pool), 0);
        assert_false(pool_read_only(r->mini.pool));
    }
    for (unsigned i = 0; i < WRITERS; i++)
        w[i].stop = true;
    vd_group_wait(&group);
    rig_compare(r);
    rig_crash(r, VD_CRASH_PROCESS, r->seed);
    rig_compare(r);
    rig_check(r);
    rig_done(r);
    return 0;
}

static void small_writes_go_into_dead_blocks_where_space_is_short(void **state)
{
    rig_run(refills);
}

static void an_opened_pool_learns_what_is_dead(void **state)
{
    (void)state;
    rig_run(learns_when_opened);
}

static void an_opened_pool_knows_what_the_closed_one_knew(void **state)
{
    (void)state;
    rig_run(knows_when_opened);
}

static void damaged_maps_are_not_believed(void **state)
{
    (void)state;
    rig_run(damaged_maps);
}

static void what_was_refilled_is_found_after_crashes(void **state)
{
    rig_run(moved_after_crashes);
}

static void a_block_that_is_being_read_is_not_refilled(void **state)
{
    rig_run(readers_hold_blocks);
}

static void a_dead_block_that_cannot_be_written_costs_nothing(void **state)
{
    rig_run(places_that_fail);
}

static void forced_writes_have_a_second_place_and_survive(void **state)
{
    (void)state;
    rig_run(forced_writes_stay);
}

static void where_a_forced_write_fails_the_other_place_serves(void **state)
{
    (void)state;
    rig_run(forced_writes_that_fail);
}

static void one_failed_write_among_many_costs_nothing(void **state)
{
    rig_run(one_failure_among_many);
}

static void log_line(void *arg, enum vd_log_level level, const char *message)
{
    fprintf(stderr, "  log: %s\n", message);
}

int main(int argc, char **argv)
{
    vd_log_set_sink(log_line, NULL, VD_LOG_WARNING);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_writes_go_into_dead_blocks_where_space_is_short),
        cmocka_unit_test(an_opened_pool_learns_what_is_dead),
        cmocka_unit_test(an_opened_pool_knows_what_the_closed_one_knew),
        cmocka_unit_test(damaged_maps_are_not_believed),
        cmocka_unit_test(what_was_refilled_is_found_after_crashes),
        cmocka_unit_test(a_block_that_is_being_read_is_not_refilled),
        cmocka_unit_test(a_dead_block_that_cannot_be_written_costs_nothing),
        cmocka_unit_test(forced_writes_have_a_second_place_and_survive),
        cmocka_unit_test(where_a_forced_write_fails_the_other_place_serves),
        cmocka_unit_test(one_failed_write_among_many_costs_nothing),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
