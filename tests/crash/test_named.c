/* SPDX-License-Identifier: MIT */
/*
 * Situations that lost data in some store before, each as a test of its own; the random simulator
 * may take long to come by them. The name of the test says what it guards.
 *
 *   test_named [PATTERN]
 */
#include "tests/crash/named_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- what the cases share ---- */

static bool side_over; /* what runs beside the case has ended */

void write_blocks(struct world *w, const char *volume, uint64_t block, uint64_t blocks)
{
    (void)world_write(w, volume, BLOCKS(block), BLOCKS(blocks), 0);
}

void three_volumes(struct world *w)
{
    (void)world_create(w, "a", MIB(1));
    (void)world_create(w, "b", MIB(2));
    (void)world_create(w, "big", MIB(32));
    write_blocks(w, "a", 0, 256);
    write_blocks(w, "b", 0, 64);
    write_blocks(w, "big", 0, 64);
    (void)world_snapshot(w, "a@s1 b@s1");
}

/* Life after a recovery: space is used again, and what is there stays. */
void life(struct world *w)
{
    write_blocks(w, "a", 7, 40);
    (void)world_write(w, "b", 3, 9, 0);
    (void)world_flush(w, "b");
    (void)world_checkpoint(w);
    write_blocks(w, "big", 300, 250);
    (void)world_flush(w, "big");
}

static void checkpoint_side(struct world *w, void *arg)
{
    (void)arg;
    (void)world_checkpoint(w);
}

/* Waits for the n-th device operation from now. */
static void wait_ops(struct world *w, uint64_t n, const bool *enough)
{
    uint64_t until = vd_simdisk_ops(w->disk) + n;
    while (vd_simdisk_ops(w->disk) < until && !*enough && !vd_simdisk_is_cut(w->disk))
        vd_fiber_sleep(1000);
}

/* ---- a segment emptied while later records live in it ---- */

static unsigned emptied; /* how much of the log's segment is not needed any more */

static void first_side(struct world *w, void *arg)
{
    write_blocks(w, "b", *(const uint64_t *)arg, 40);
}

/* What lies in the log's segment so far is not needed when the root is made; what is written to the
 * same segment while it is made is. Later all free space is used. */
static void empty_and_go_on(struct world *w)
{
    static const uint64_t at[] = {0, 50, 100, 150, 200, 250};
    struct vd_group g;
    vd_group_init(&g);
    (void)world_disk(w, "b", NULL);
    for (unsigned i = 0; i < emptied; i++)
        write_blocks(w, "a", 0, 16);
    (void)world_zero(w, "a", 0, BLOCKS(16), 0);
    named_spawn(w, &g, checkpoint_side, NULL);
    for (unsigned i = 0; i < VD_ARRAY_SIZE(at); i++)
        named_spawn(w, &g, first_side, (void *)(uintptr_t)&at[i]);
    vd_group_wait(&g);
    for (unsigned i = 0; i < 12; i++)
        write_blocks(w, "big", 256 * i, 256);
    (void)world_read(w, "b", NULL, 0, BLOCKS(290));
}

static void overwritten_segment(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = three_volumes,
                                   .act = empty_and_go_on,
                                   .after = life,
                                   .points = 25};
    (void)state;
    for (emptied = 1; emptied <= 16; emptied++)
        named_once(&n, emptied, NULL);
    for (emptied = 8; emptied <= 14; emptied += 3)
        (void)named_cut_everywhere(&n);
}

/* ---- a read while its blocks are discarded ---- */

static void slow_read_side(struct world *w, void *arg)
{
    (void)arg;
    (void)world_read(w, "big", NULL, MIB(1), BLOCKS(64));
    side_over = true;
}

static void discard_under_read(struct world *w)
{
    struct vd_group g;
    vd_group_init(&g);
    (void)world_write(w, "big", 0, MIB(4), 0);
    (void)world_checkpoint(w);
    (void)world_read(w, "big", NULL, MIB(1), BLOCKS(64)); /* now its nodes are in memory */
    side_over = false;
    vd_simdisk_fault(w->disk, VD_FAULT_SLOW, 1, false);
    named_spawn(w, &g, slow_read_side, NULL);
    vd_fiber_sleep(1000);
    (void)world_discard(w, "big", 0, MIB(4));
    for (unsigned i = 0; i < 3; i++) {
        (void)world_checkpoint(w);
        (void)world_clean(w);
        (void)world_write(w, "big", MIB(6 + 5 * i), MIB(5), 0);
    }
    if (side_over && !world_failed(w) && !vd_simdisk_is_cut(w->disk))
        world_fail(w, "the read was over too early: this tests nothing");
    vd_group_wait(&g);
}

static void discard_and_read(void **state)
{
    static const struct named n = {
        .opt = OPT_96, .prepare = three_volumes, .act = discard_under_read, .after = life};
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++)
        named_once(&n, seed, NULL);
}

/* ---- a bulk write and a snapshot ---- */

#define BULK_MIB 9
static uint64_t straddle_at; /* the snapshot is taken after so many device operations */
static unsigned straddled;   /* how often it lay in the middle */

static void bulk_side(struct world *w, void *arg)
{
    (void)arg;
    (void)world_write(w, "big", 0, MIB(BULK_MIB), 0);
    side_over = true;
}

static void bulk_and_snapshot(struct world *w)
{
    struct vd_group g;
    vd_group_init(&g);
    (void)world_disk(w, "big", NULL);
    side_over = false;
    named_spawn(w, &g, bulk_side, NULL);
    wait_ops(w, straddle_at, &side_over);
    (void)world_snapshot(w, "big@mid");
    vd_group_wait(&g);
}

static void bulk_before(struct world *w)
{
    (void)world_write(w, "big", 0, MIB(BULK_MIB), 0);
    (void)world_flush(w, "big");
}

static uint32_t version_at(struct world *w, const char *snapshot, uint64_t sector)
{
    uint8_t buf[ORACLE_SECTOR];
    struct vd_disk *d = world_disk(w, "big", snapshot);
    if (!d || vd_disk_read(d, sector * ORACLE_SECTOR, buf, sizeof(buf)) < 0)
        return ORACLE_GARBAGE;
    return oracle_parse(sector, buf);
}

static void bulk_look(struct world *w)
{
    uint64_t last = MIB(BULK_MIB) - 1;
    straddled += version_at(w, "mid", 0) == version_at(w, NULL, 0) &&
                 version_at(w, "mid", last) != version_at(w, NULL, last);
}

static void after_bulk(struct world *w)
{
    (void)world_write(w, "big", MIB(2), MIB(4), 0);
    (void)world_checkpoint(w);
    (void)world_write(w, "big", MIB(4), MIB(1), 0);
}

static void bulk_straddles(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = three_volumes,
                                   .before = bulk_before,
                                   .act = bulk_and_snapshot,
                                   .after = after_bulk,
                                   .points = 30,
                                   .powers = 1};
    (void)state;
    straddled = 0;
    for (straddle_at = 1; straddle_at <= 16; straddle_at += 3)
        named_once(&n, straddle_at, bulk_look);
    assert_true(straddled >= 2);
    straddle_at = 5;
    (void)named_cut_everywhere(&n);
}

/* ---- the cleaner ---- */

/* Closed segments of the log, about half of whose blocks are overwritten, in a root. */
void half_garbage(struct world *w)
{
    three_volumes(w);
    for (int i = 0; i < 3; i++)
        write_blocks(w, "a", 0, 256);
    (void)world_snapshot(w, "a@keep");
    for (uint64_t b = 0; b < 256; b += 4)
        write_blocks(w, "a", b, 2);
    for (uint64_t b = 0; b < 512; b += 64)
        write_blocks(w, "b", b, 40);
    (void)world_checkpoint(w);
}

static void half_garbage_before(struct world *w)
{
    write_blocks(w, "a", 0, 64);
    write_blocks(w, "b", 500, 3);
}

static void clean_side(struct world *w, void *arg)
{
    (void)arg;
    (void)world_clean(w);
    side_over = true;
}

static void clean_and_snapshot(struct world *w)
{
    struct vd_group g;
    vd_group_init(&g);
    (void)world_disk(w, "a", NULL);
    side_over = false;
    named_spawn(w, &g, clean_side, NULL);
    wait_ops(w, straddle_at, &side_over);
    write_blocks(w, "a", 10, 6);
    bool began = !side_over;
    (void)world_snapshot(w, "a@mid b@mid");
    straddled += began && !side_over;
    write_blocks(w, "a", 12, 20);
    vd_group_wait(&g);
    write_blocks(w, "a", 100, 9);
    (void)world_read(w, "a", "mid", 0, MIB(1));
    (void)world_read(w, "a", "keep", 0, MIB(1));
}

static void after_clean(struct world *w)
{
    (void)world_clean(w);
    write_blocks(w, "a", 60, 90);
    life(w);
    (void)world_clean(w);
}

static void relocations_straddle(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = half_garbage,
                                   .before = half_garbage_before,
                                   .act = clean_and_snapshot,
                                   .after = after_clean};
    (void)state;
    straddled = 0;
    for (straddle_at = 0; straddle_at < 8; straddle_at++)
        named_once(&n, straddle_at + 1, NULL);
    assert_true(straddled >= 2);
    for (straddle_at = 0; straddle_at < 4; straddle_at++)
        (void)named_cut_everywhere(&n);
}

/* Blocks that the cleaner moved are overwritten while it moves them. */
static void clean_and_overwrite(struct world *w)
{
    struct vd_group g;
    vd_group_init(&g);
    (void)world_disk(w, "a", NULL);
    (void)world_disk(w, "b", NULL);
    side_over = false;
    named_spawn(w, &g, clean_side, NULL);
    for (uint64_t b = 0; b < 512 && !side_over; b += 16) {
        write_blocks(w, "a", b % 256, 5);
        (void)world_discard(w, "b", BLOCKS(b), BLOCKS(5));
        write_blocks(w, "b", b + 6, 3);
    }
    vd_group_wait(&g);
    (void)world_read(w, "a", NULL, 0, MIB(1));
    (void)world_read(w, "b", NULL, 0, MIB(2));
    (void)world_checkpoint(w);
    (void)world_read(w, "a", NULL, 0, MIB(1));
    (void)world_read(w, "b", NULL, 0, MIB(2));
}

static void relocations_and_writes(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = half_garbage,
                                   .before = half_garbage_before,
                                   .act = clean_and_overwrite,
                                   .after = after_clean,
                                   .points = 60};
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++)
        named_once(&n, seed, NULL);
    (void)named_cut_everywhere(&n);
}

void clean_only(struct world *w)
{
    (void)world_clean(w);
    write_blocks(w, "a", 30, 8);
    (void)world_clean(w);
}

/* So little to move that one record says it: that this survives a loss of power, and the moved
 * blocks do not, is likely then. */
static void little_garbage(struct world *w)
{
    three_volumes(w);
    (void)world_snapshot_delete(w, "a@s1 b@s1");
    for (int i = 0; i < 3; i++)
        write_blocks(w, "a", 0, 256);
    write_blocks(w, "a", 0, 100);
    write_blocks(w, "a", 130, 90);
    (void)world_checkpoint(w);
}

static void little_before(struct world *w)
{
    write_blocks(w, "b", 500, 3);
    (void)world_flush(w, "b");
}

static void moved_data_is_durable(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = little_garbage,
                                   .before = little_before,
                                   .act = clean_only,
                                   .after = after_clean,
                                   .powers = 40};
    (void)state;
    (void)named_cut_everywhere(&n);
}

/* ---- a merge killed before its root ---- */

static void much_changed(struct world *w)
{
    for (uint64_t b = 0; b < 256; b += 24)
        write_blocks(w, "a", b, 9);
    (void)world_snapshot(w, "a@s5");
    (void)world_clone_volume(w, "a@s1", "c");
    write_blocks(w, "c", 30, 60);
    (void)world_snapshot_delete(w, "b@s1");
    (void)world_zero(w, "b", BLOCKS(20), BLOCKS(33), 0);
}

static void merge(struct world *w)
{
    (void)world_checkpoint(w);
}

/* The next merges are killed as well, each somewhere. */
static void killed_again(struct world *w)
{
    static const enum vd_crash kinds[] = {VD_CRASH_PROCESS, VD_CRASH_POWER, VD_CRASH_POWER_DROP};
    for (int i = 0; i < 3 && !world_failed(w); i++) {
        write_blocks(w, "a", vd_rng_below(&w->rng, 200), 20);
        (void)world_snapshot(w, i ? "a@x1" : "a@x0");
        vd_simdisk_cut_after(w->disk, 1 + (int64_t)vd_rng_below(&w->rng, 12));
        (void)world_checkpoint(w);
        enum vd_crash kind = kinds[vd_rng_below(&w->rng, VD_ARRAY_SIZE(kinds))];
        world_crash(w, kind);
        (void)world_reopen(w, 0, kind == VD_CRASH_PROCESS ? ORACLE_ACKNOWLEDGED : ORACLE_DURABLE);
        if (i == 1)
            (void)world_snapshot_delete(w, "a@x1");
    }
    life(w);
}

static void merge_killed(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = three_volumes,
                                   .before = much_changed,
                                   .act = merge,
                                   .after = killed_again,
                                   .powers = 4};
    (void)state;
    (void)named_cut_everywhere(&n);
}

/* ---- a full pool, killed again and again ---- */

#define ROUNDS 10

static void fill_up(struct world *w)
{
    char target[16];
    (void)world_create(w, "a", MIB(48));
    (void)world_create(w, "b", MIB(2));
    write_blocks(w, "b", 0, 100);
    for (int i = 0; i < ROUNDS + 4; i++) {
        write_blocks(w, "a", 50 * (uint64_t)i, 100);
        snprintf(target, sizeof(target), "a@s%d", i);
        (void)world_snapshot(w, target);
    }
    w->refused_space = false;
    for (uint64_t at = 1000; at < 12000 && !w->refused_space; at += 64)
        write_blocks(w, "a", at, 64);
    if (!w->refused_space)
        world_fail(w, "the pool is not full");
}

static void rounds_body(struct world *w, void *arg)
{
    enum vd_crash kind = *(const enum vd_crash *)arg;
    enum oracle_floor floor = kind == VD_CRASH_PROCESS ? ORACLE_ACKNOWLEDGED : ORACLE_DURABLE;
    char target[16];
    (void)world_attach(w, 0);
    /* Nobody asks for a checkpoint. An opening may make one, where space is short. */
    for (int i = 0; i < ROUNDS && !world_failed(w); i++) {
        snprintf(target, sizeof(target), "a@s%d", i);
        if (world_snapshot_delete(w, target) < 0)
            world_fail(w, "round %d: nothing can be deleted", i);
        (void)world_read(w, "a", "s12", 0, BLOCKS(600));
        (void)world_read(w, "b", NULL, 0, MIB(2));
        world_crash(w, kind);
        (void)world_reopen(w, 0, floor);
        w->may_fill = true;
    }
    (void)world_snapshot_delete(w, "a@s10 a@s11 a@s12 a@s13");
    (void)world_discard(w, "a", BLOCKS(1000), BLOCKS(11000));
    int r = world_settle(w);
    if (r < 0 && !world_failed(w))
        world_fail(w, "settle: %d", r);
    w->may_fill = false;
    write_blocks(w, "b", 200, 200);
    write_blocks(w, "a", 5000, 250);
    (void)world_flush(w, "a");
    world_crash(w, VD_CRASH_POWER);
    (void)world_reopen(w, 0, ORACLE_DURABLE);
    world_detach(w);
}

static void full_pool_rounds(void **state)
{
    static const struct named n = {
        .opt = {.disk_max = VD_MIB(40), .capacity = VD_MIB(32), .chunk_size = (uint32_t)VD_MIB(1)},
        .may_fill = true,
        .prepare = fill_up};
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct world base;
        named_prepare(&n, seed, &base);
        for (enum vd_crash kind = VD_CRASH_PROCESS; kind <= VD_CRASH_POWER_KEEP; kind++) {
            struct world w;
            named_copy(&base, seed, &w);
            w.may_fill = true;
            world_run(&w, seed, rounds_body, &kind);
            named_check(&w, "kind %d, seed %" PRIu64, kind, seed);
            world_done(&w);
        }
        world_done(&base);
    }
}

/* ---- the fold of a rollback ---- */

static void layers(struct world *w)
{
    char target[16];
    (void)world_create(w, "a", MIB(2));
    (void)world_create(w, "b", MIB(2));
    (void)world_create(w, "big", MIB(8));
    for (uint64_t i = 0; i < 5; i++) {
        write_blocks(w, "a", 70 * i, 120);
        (void)world_zero(w, "a", BLOCKS(30 + 90 * i), BLOCKS(20), 0);
        snprintf(target, sizeof(target), "a@s%d", (int)i);
        (void)world_snapshot(w, target);
    }
    (void)world_rollback(w, "a@s3", true);
    write_blocks(w, "a", 100, 50);
    (void)world_snapshot(w, "a@s6");
    write_blocks(w, "a", 300, 40);
}

static void roll_back(struct world *w)
{
    (void)world_rollback(w, "a@s2", true);
    write_blocks(w, "a", 140, 33);
    (void)world_snapshot_delete(w, "a@s4");
    (void)world_snapshot_delete(w, "a@s3");
}

static void settle_side(struct world *w, void *arg)
{
    (void)arg;
    (void)world_settle(w);
    side_over = true;
}

static void read_while_folded(struct world *w)
{
    static const char *const views[] = {NULL, "s0", "s1", "s2", "s6", "s0", "s2", NULL};
    struct vd_group g;
    vd_group_init(&g);
    for (unsigned i = 0; i < VD_ARRAY_SIZE(views); i++)
        if (!views[i] || oracle_has(w->oracle, oracle_live(w->oracle), "a", views[i], NULL))
            (void)world_disk(w, "a", views[i]);
    side_over = false;
    named_spawn(w, &g, settle_side, NULL);
    for (unsigned i = 0; !side_over && !world_failed(w) && !vd_simdisk_is_cut(w->disk); i++) {
        const char *view = views[i % VD_ARRAY_SIZE(views)];
        if (!view || oracle_has(w->oracle, oracle_live(w->oracle), "a", view, NULL))
            (void)world_read(w, "a", view, BLOCKS(i * 37 % 400), BLOCKS(100));
        if (i % 5 == 0)
            write_blocks(w, "a", i * 11 % 500, 2);
        vd_fiber_sleep(2000);
    }
    vd_group_wait(&g);
}

static void after_fold(struct world *w)
{
    read_while_folded(w);
    write_blocks(w, "a", 0, 30);
}

static void fold_is_read(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = layers,
                                   .before = roll_back,
                                   .act = read_while_folded,
                                   .after = after_fold,
                                   .points = 60};
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++)
        named_once(&n, seed, NULL);
    (void)named_cut_everywhere(&n);
}

#define CASE(name, fn)             \
    {                              \
        name, fn, NULL, NULL, NULL \
    }

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE("a segment emptied while later records live in it is not used again",
             overwritten_segment),
        CASE("a discard does not pull the blocks away from a read under way", discard_and_read),
        CASE("a snapshot in the middle of a bulk write holds a prefix of it", bulk_straddles),
        CASE("a snapshot in the middle of cleaning loses nothing", relocations_straddle),
        CASE("a relocation never hides a newer write or discard", relocations_and_writes),
        CASE("moved data is durable before anything names it", moved_data_is_durable),
        CASE("a merge killed before its root has not happened", merge_killed),
        CASE("a failed log write loses nothing of what flies behind it", log_write_fails),
        CASE("a failed flush, a death and a loss of power lose nothing that was shown",
             failed_flush),
        CASE("rot in the middle of the flushed log never cuts it", rot_in_log),
        CASE("a full pool killed ten times can still delete, read, settle and write",
             full_pool_rounds),
        CASE("every snapshot reads the same while a rollback is folded", fold_is_read),
        CASE("a deletion larger than one header happens whole or not at all", large_delete),
        CASE("a write larger than one record happens whole or not at all", large_write),
        CASE("relocations larger than one header happen whole or not at all", large_relocation),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("named crash cases", tests, NULL, NULL);
}
