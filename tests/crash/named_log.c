/* SPDX-License-Identifier: MIT */
/*
 * The named cases about the log: writes and flushes of it that fail, rot in it, operations that
 * take several records of it. test_named.c calls them.
 */
#include "format/od.h"
#include "pool/pool_priv.h"
#include "tests/crash/named_cases.h"
#include "tests/crash/world_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- a failed write of the log, with records in flight behind it ---- */

static unsigned failures_left;

static void log_writer_side(struct world *w, void *arg)
{
    const char *volume = arg;
    for (unsigned i = 0; i < 12 && !w->stopped && !world_failed(w); i++) {
        write_blocks(w, volume, vd_rng_below(&w->rng, 200), 1 + vd_rng_below(&w->rng, 30));
        if (failures_left && vd_simdisk_fault_hit(w->disk)) {
            failures_left--;
            vd_simdisk_fault(w->disk, VD_FAULT_WRITE_EIO, 1 + vd_rng_below(&w->rng, 4), false);
        }
    }
}

struct failing {
    uint64_t nth;
    unsigned times;
    bool hit;
};

static void failing_writes(struct world *w, void *arg)
{
    struct failing *f = arg;
    static char *const volumes[] = {"a", "a", "b", "b", "big", "big"};
    struct vd_group g;
    vd_group_init(&g);
    (void)world_attach(w, 0);
    write_blocks(w, "a", 3, 5);
    for (unsigned i = 0; i < VD_ARRAY_SIZE(volumes); i++)
        (void)world_disk(w, volumes[i], NULL);
    (void)world_flush(w, "a");
    w->faulty = true;
    failures_left = f->times - 1;
    vd_simdisk_fault(w->disk, VD_FAULT_WRITE_EIO, f->nth, false);
    for (unsigned i = 0; i < VD_ARRAY_SIZE(volumes); i++)
        named_spawn(w, &g, log_writer_side, volumes[i]);
    vd_group_wait(&g);
    f->hit = failures_left < f->times - 1 || vd_simdisk_fault_hit(w->disk);
    vd_simdisk_clear_faults(w->disk);
    if (f->times == 1 && w->error)
        world_fail(w, "one failed write of the log made %d (%s) of it", w->error,
                   strerror(-w->error));
    world_abandon(w);
}

static void fail_and_judge(const struct world *base, struct failing *f, uint64_t seed)
{
    static const struct named n = {.after = life};
    static const enum vd_crash kinds[] = {VD_CRASH_PROCESS, VD_CRASH_POWER, VD_CRASH_POWER_DROP,
                                          VD_CRASH_POWER_KEEP};
    struct world w;
    named_copy(base, seed, &w);
    world_run(&w, seed, failing_writes, f);
    named_check(&w, "write %" PRIu64 " fails, %u times, seed %" PRIu64, f->nth, f->times, seed);
    w.faulty = false;
    for (unsigned k = 0; k < VD_ARRAY_SIZE(kinds); k++)
        named_judge(&n, &w, f->nth, kinds[k], seed);
    world_done(&w);
}

void log_write_fails(void **state)
{
    static const struct named n = {.opt = OPT_96, .prepare = three_volumes};
    struct world base;
    unsigned hits = 0;
    (void)state;
    named_prepare(&n, 1, &base);
    for (unsigned times = 1; times <= 6; times++) {
        struct failing f = {.nth = 1, .times = times, .hit = true};
        for (; f.hit && f.nth < 40; f.nth++) {
            fail_and_judge(&base, &f, f.nth + times * 100);
            hits += f.hit;
        }
    }
    assert_true(hits > 60);
    world_done(&base);
}

/* ---- a failed flush, a death, and then a loss of power ---- */

/* The host forgets that it has not written, and shows the bytes from memory for a while. */
static void failed_flush_body(struct world *w, void *arg)
{
    uint64_t nth = *(const uint64_t *)arg;
    (void)world_attach(w, 0);
    for (uint64_t i = 0; i < 3; i++) {
        write_blocks(w, "a", 20 * i, 9);
        (void)world_flush(w, "a");
    }
    w->faulty = true;
    vd_simdisk_fault(w->disk, VD_FAULT_FLUSH_EIO, nth, false);
    for (uint64_t i = 0; i < 4 && !w->stopped; i++) {
        write_blocks(w, "a", 30 * i, 12);
        write_blocks(w, "b", 30 * i, 3);
        (void)world_flush(w, "b");
    }
    if (!vd_simdisk_fault_hit(w->disk))
        world_fail(w, "no flush failed");
    world_crash(w, VD_CRASH_PROCESS);
    w->faulty = false;
    (void)world_reopen(w, 0, ORACLE_ACKNOWLEDGED);
    world_crash(w, VD_CRASH_POWER_DROP);
    (void)world_reopen(w, 0, ORACLE_DURABLE);
    write_blocks(w, "b", 9, 9);
    world_detach(w);
}

void failed_flush(void **state)
{
    static const struct named n = {.opt = OPT_96, .prepare = three_volumes};
    struct world base;
    (void)state;
    named_prepare(&n, 1, &base);
    for (uint64_t nth = 1; nth <= 4; nth++)
        for (uint64_t seed = 1; seed <= 10; seed++) {
            struct world w;
            named_copy(&base, seed, &w);
            world_run(&w, seed, failed_flush_body, &nth);
            named_check(&w, "flush %" PRIu64 " fails, seed %" PRIu64, nth, seed);
            world_done(&w);
        }
    world_done(&base);
}

/* ---- rot in the middle of the log ---- */

static void long_log(struct world *w, void *arg)
{
    (void)arg;
    (void)world_attach(w, 0);
    for (uint64_t i = 0; i < 24; i++) {
        write_blocks(w, i % 3 ? "a" : "b", 9 * i, 4 + i % 5);
        if (i % 4 == 0)
            (void)world_flush(w, "a");
        if (i == 12)
            (void)world_snapshot(w, "a@x b@x");
    }
    (void)world_flush(w, "a");
    world_idle(w); /* the last one is known to have been flushed by the seal that follows it */
    world_crash(w, VD_CRASH_PROCESS);
}

/* What was flushed is there, or the pool is refused: never is the log cut there. */
static void look_at_rot(struct world *w, void *arg)
{
    (void)arg;
    w->faulty = true; /* to be refused is right */
    (void)world_reopen(w, 0, ORACLE_DURABLE);
}

void rot_in_log(void **state)
{
    static const struct named n = {.opt = OPT_96, .prepare = three_volumes};
    struct world base, full;
    unsigned headers = 0;
    (void)state;
    named_prepare(&n, 1, &base);
    named_copy(&base, 1, &full);
    world_run(&full, 1, long_log, NULL);
    named_check(&full, "writing the log");
    for (uint64_t at = 0; at < vd_simdisk_size(full.disk); at += VD_BLOCK) {
        uint32_t magic;
        struct world w;
        vd_simdisk_peek(full.disk, at, &magic, sizeof(magic));
        if (magic != OD_MAGIC_RECORD)
            continue;
        headers++;
        world_clone(&full, at, &w);
        vd_simdisk_rot(w.disk, at + vd_rng_below(&w.rng, VD_BLOCK), 3);
        world_run(&w, at, look_at_rot, NULL);
        named_check(&w, "a bit of the header at %" PRIu64 " is wrong", at);
        world_done(&w);
    }
    assert_true(headers >= 25);
    world_done(&full);
    world_done(&base);
}

/* ---- operations larger than one header ---- */

#define MANY 61
static uint64_t records_before;

static void many_snapshots(struct world *w)
{
    char target[80];
    (void)world_create(w, "v", BLOCKS(8));
    (void)world_create(w, "b", MIB(2));
    for (int i = 0; i < MANY; i++) {
        if (i % 10 == 0)
            write_blocks(w, "v", (uint64_t)i / 10, 1);
        snprintf(target, sizeof(target), "v@s%d", i);
        (void)world_snapshot(w, target);
    }
}

static void note_records(struct world *w)
{
    write_blocks(w, "b", 3, 2);
    records_before = world_pool(w)->log.next_seq;
}

static void several_records(struct world *w)
{
    uint64_t n = world_pool(w)->log.next_seq - records_before;
    if (n < 2)
        world_fail(w, "the operation took %" PRIu64 " records: this tests nothing", n);
}

static void delete_many(struct world *w)
{
    (void)world_delete(w, "v");
}

static void write_b(struct world *w)
{
    write_blocks(w, "b", 9, 30);
    (void)world_flush(w, "b");
}

void large_delete(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = many_snapshots,
                                   .before = note_records,
                                   .act = delete_many,
                                   .after = write_b,
                                   .powers = 16};
    (void)state;
    named_once(&n, 1, several_records);
    (void)named_cut_everywhere(&n);
}

static void write_unaligned(struct world *w)
{
    write_blocks(w, "b", 17, 256);
}

void large_write(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = three_volumes,
                                   .before = note_records,
                                   .act = write_unaligned,
                                   .after = write_b,
                                   .powers = 32};
    (void)state;
    named_once(&n, 1, several_records);
    (void)named_cut_everywhere(&n);
}

void large_relocation(void **state)
{
    static const struct named n = {.opt = OPT_96,
                                   .prepare = half_garbage,
                                   .before = note_records,
                                   .act = clean_only,
                                   .after = write_b,
                                   .powers = 8};
    (void)state;
    named_once(&n, 1, several_records);
    (void)named_cut_everywhere(&n);
}
