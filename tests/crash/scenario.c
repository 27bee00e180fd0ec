/* SPDX-License-Identifier: MIT */
/*
 * The operations of the exhaustive simulator, and the pool that they start from. Everything
 * suspends.
 */
#include "tests/crash/scenario.h"

#include <stdio.h>
#include <stdlib.h>

#define KIB(n) ((uint64_t)(n)*1024 / ORACLE_SECTOR)
#define MIB(n) KIB((uint64_t)(n)*1024)

/* Volume sizes in sectors. b ends inside a block. */
#define A_SIZE MIB(1)
#define B_SIZE (KIB(384) + 3)
#define BIG_SIZE MIB(256)

static uint64_t draw(struct world *w, uint64_t bound)
{
    return vd_rng_below(&w->rng, bound);
}

/* `count` writes of up to `most` blocks at whole blocks. */
static void scribble(struct world *w, const char *volume, uint64_t size, unsigned count,
                     uint64_t most)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t n = (1 + draw(w, most)) * 8, at = draw(w, size / 8) * 8;
        (void)world_write(w, volume, at, VD_MIN(n, size - at), 0);
    }
}

static void base_body(struct world *w, void *arg)
{
    const struct scenario *s = arg;
    bool tight = s->flags & SCENARIO_TIGHT;
    world_format(w, &(struct world_options){.disk_max = VD_MIB(96),
                                            .capacity = tight ? VD_MIB(26) : 0,
                                            .chunk_size = (uint32_t)VD_MIB(1)});
    (void)world_attach(w, 0);
    (void)world_create(w, "a", A_SIZE);
    (void)world_create(w, "b", B_SIZE);
    (void)world_create(w, "big", BIG_SIZE);
    scribble(w, "a", A_SIZE, 12, 20);
    scribble(w, "b", B_SIZE, 6, 12);
    (void)world_write(w, "b", B_SIZE - 5, 5, 0);
    (void)world_snapshot(w, "a@s1");
    scribble(w, "a", A_SIZE, 6, 16);
    (void)world_zero(w, "a", 40, 100, 0);
    (void)world_clone_volume(w, "a@s1", "c");
    scribble(w, "c", A_SIZE, 4, 8);
    (void)world_discard(w, "c", 64, 256);
    (void)world_snapshot(w, "a@s2 b@s2");
    if (draw(w, 2))
        (void)world_checkpoint(w);
    scribble(w, "a", A_SIZE, 4, 8);
    for (int i = 0; i < 4; i++)
        (void)world_write(w, "big", draw(w, BIG_SIZE / 8) * 8, 8, 0);
    world_detach(w);
}

void scenario_base(const struct scenario *s, struct world *w, uint64_t seed)
{
    world_init(w, seed);
    world_run(w, seed, base_body, (void *)(uintptr_t)s);
}

/* ---- writes ---- */

/* Something acknowledged and not flushed, so that a loss of power has a choice. */
static void dirty(struct world *w)
{
    scribble(w, "a", A_SIZE, 2, 4);
    (void)world_flush(w, "a");
    scribble(w, "b", B_SIZE, 2, 3);
}

static void write_4k(struct world *w)
{
    (void)world_write(w, "a", draw(w, A_SIZE / 8) * 8, 8, 0);
}

static void write_part(struct world *w)
{
    (void)world_write(w, "a", draw(w, A_SIZE), 1, 0);
    uint64_t at = draw(w, A_SIZE - 30);
    (void)world_write(w, "c", at, 1 + draw(w, 29), 0);
}

static void write_large(struct world *w)
{
    (void)world_write(w, "a", 0, A_SIZE, 0);
}

static void write_fua(struct world *w)
{
    (void)world_write(w, "a", draw(w, A_SIZE / 8) * 8, 8, VD_DISK_FUA);
    (void)world_write(w, "b", draw(w, B_SIZE - 8), 8, VD_DISK_FUA);
}

static void flush(struct world *w)
{
    scribble(w, "a", A_SIZE, 1, 3);
    (void)world_flush(w, "a");
}

static void zero(struct world *w)
{
    uint64_t at = draw(w, A_SIZE / 2);
    (void)world_zero(w, "c", at, 1 + draw(w, A_SIZE / 2 - 1), 0);
    (void)world_zero(w, "big", 3, BIG_SIZE - 7, 0);
}

static void discard(struct world *w)
{
    (void)world_discard(w, "c", draw(w, 64) * 8, 8 * (1 + draw(w, 64)));
    (void)world_discard(w, "b", KIB(64), B_SIZE - KIB(64));
}

/* Several writers and a snapshot of what they write. */
struct writer {
    struct world *w;
    const char *volume;
    unsigned count;
    struct vd_group *group;
};

static void writer_main(void *arg)
{
    struct writer *wr = arg;
    scribble(wr->w, wr->volume, B_SIZE - 3, wr->count, 6);
    vd_group_done(wr->group);
}

/* They go on until the group is done with. Opened before, so that they begin together. */
static void writers_start(struct writer *wr, unsigned n, struct vd_group *g)
{
    vd_group_init(g);
    for (unsigned i = 0; i < n; i++)
        (void)world_disk(wr[i].w, wr[i].volume, NULL);
    for (unsigned i = 0; i < n; i++) {
        wr[i].group = g;
        vd_group_add(g);
        if (vd_fiber_spawn(vd_loop_current(), "writer", writer_main, &wr[i]) < 0)
            abort();
    }
}

static void at_once(struct world *w)
{
    struct vd_group g;
    struct writer wr[] = {{w, "a", 3}, {w, "a", 2}, {w, "b", 3}, {w, "c", 2}};
    writers_start(wr, VD_ARRAY_SIZE(wr), &g);
    (void)world_snapshot(w, "a@s5 b@s5");
    vd_group_wait(&g);
}

/* ---- control ---- */

static void snapshot(struct world *w)
{
    (void)world_snapshot(w, "a@s3");
}

static void snapshot_several(struct world *w)
{
    (void)world_snapshot(w, "a@s3 b@s3 c@s3 big@s3");
}

static void snapshot_delete(struct world *w)
{
    (void)world_snapshot_delete(w, "a@s2 b@s2");
}

static void snapshot_rename(struct world *w)
{
    (void)world_snapshot_rename(w, "a@s2", "again");
}

static void rollback(struct world *w)
{
    (void)world_rollback(w, "a@s1", false);
}

static void rollback_discard(struct world *w)
{
    (void)world_rollback(w, "a@s2", true);
}

static void clone_snapshot(struct world *w)
{
    (void)world_clone_volume(w, "a@s2", "d");
    (void)world_write(w, "d", 80, 8, 0);
}

static void clone_live(struct world *w)
{
    (void)world_clone_volume(w, "b", "d");
    (void)world_discard(w, "d", 0, 80);
}

static void create(struct world *w)
{
    (void)world_create(w, "new", KIB(100) + 1);
    (void)world_write(w, "new", KIB(100) - 7, 8, 0);
}

static void delete (struct world *w)
{
    (void)world_delete(w, "a");
}

static void rename_volume(struct world *w)
{
    (void)world_rename(w, "a", "z");
}

static void grow(struct world *w)
{
    (void)world_resize(w, "b", B_SIZE + KIB(200));
    (void)world_write(w, "b", B_SIZE - 1, 9, 0);
}

static void shrink(struct world *w)
{
    (void)world_resize(w, "b", B_SIZE / 2 + 1);
    (void)world_resize(w, "b", B_SIZE);
    (void)world_resize(w, "c", KIB(64));
}

/* ---- the pool's own work ---- */

static void checkpoint(struct world *w)
{
    (void)world_checkpoint(w);
}

static void more_changes(struct world *w)
{
    scribble(w, "a", A_SIZE, 6, 12);
    scribble(w, "c", A_SIZE, 3, 12);
    (void)world_zero(w, "b", 0, KIB(40), 0);
    (void)world_snapshot(w, "c@s9");
    scribble(w, "c", A_SIZE, 3, 12);
}

/* Closed log segments, half of whose blocks are overwritten. */
static void half_garbage(struct world *w)
{
    for (int i = 0; i < 3; i++)
        (void)world_write(w, "a", 0, A_SIZE, 0);
    (void)world_snapshot(w, "a@keep");
    for (uint64_t s = 0; s < A_SIZE; s += 32)
        (void)world_write(w, "a", s, 16, 0);
    (void)world_checkpoint(w);
    (void)world_write(w, "a", 0, KIB(256), 0);
    scribble(w, "b", B_SIZE, 3, 3);
}

static void clean(struct world *w)
{
    (void)world_clean(w);
    scribble(w, "a", A_SIZE, 1, 16);
    (void)world_checkpoint(w);
}

static void to_fold(struct world *w)
{
    (void)world_snapshot_delete(w, "a@s2 b@s2");
    (void)world_delete(w, "a"); /* c is the only child of what is left */
    scribble(w, "c", A_SIZE, 2, 8);
}

static void settle(struct world *w)
{
    (void)world_settle(w);
}

static void to_purge(struct world *w)
{
    scribble(w, "a", A_SIZE, 6, 30);
    (void)world_snapshot_delete(w, "a@s2");
    (void)world_delete(w, "c");
}

/* Closed segments whose blocks are half dead since the last root, and no space to spare. */
static void half_dead(struct world *w)
{
    (void)world_delete(w, "c");
    for (int i = 0; i < 2; i++)
        (void)world_write(w, "a", 0, A_SIZE, 0);
    (void)world_write(w, "big", 0, MIB(1), 0);
    (void)world_write(w, "big", MIB(1), MIB(1), 0);
    (void)world_checkpoint(w);
    for (uint64_t s = 0; s < MIB(2); s += 128)
        (void)world_write(w, "big", s, 48, 0);
    (void)world_checkpoint(w);
}

static void refill(struct world *w)
{
    struct vd_group g;
    struct writer wr[] = {{w, "a", 8}, {w, "b", 6}, {w, "big", 8}};
    writers_start(wr, VD_ARRAY_SIZE(wr), &g);
    vd_group_wait(&g);
    (void)world_flush(w, "a");
    (void)world_snapshot(w, "a@s9");
    scribble(w, "a", A_SIZE, 12, 4);
    (void)world_checkpoint(w);
    scribble(w, "b", B_SIZE, 4, 2);
    (void)world_clean(w);
}

/* New segments, one after another. */
static void fill(struct world *w)
{
    for (int i = 0; i < 3; i++)
        (void)world_write(w, "big", MIB(16) + MIB(4) * (uint64_t)i, MIB(4), 0);
}

static void to_replay(struct world *w)
{
    scribble(w, "a", A_SIZE, 4, 30);
    (void)world_snapshot(w, "a@s7");
    (void)world_rollback(w, "a@s1", false);
    scribble(w, "a", A_SIZE, 2, 30);
    (void)world_flush(w, "a");
    scribble(w, "b", B_SIZE, 4, 3);
    world_crash(w, VD_CRASH_PROCESS);
    /* What was open at the crash does not exist: everything was acknowledged. */
}

static void attach(struct world *w)
{
    (void)world_attach(w, 0);
}

static void detach(struct world *w)
{
    world_detach(w);
}

const struct scenario scenarios[] = {
    {"write", 0, dirty, write_4k},
    {"write-part", 0, dirty, write_part},
    {"write-large", 0, dirty, write_large},
    {"write-fua", 0, dirty, write_fua},
    {"flush", 0, dirty, flush},
    {"zero", 0, dirty, zero},
    {"discard", 0, dirty, discard},
    {"at-once", 0, dirty, at_once},
    {"snapshot", 0, dirty, snapshot},
    {"snapshot-several", 0, dirty, snapshot_several},
    {"snapshot-delete", 0, dirty, snapshot_delete},
    {"snapshot-rename", 0, dirty, snapshot_rename},
    {"rollback", 0, dirty, rollback},
    {"rollback-discard", 0, dirty, rollback_discard},
    {"clone", 0, dirty, clone_snapshot},
    {"clone-live", 0, dirty, clone_live},
    {"create", 0, dirty, create},
    {"delete", 0, dirty, delete},
    {"rename", 0, dirty, rename_volume},
    {"grow", 0, dirty, grow},
    {"shrink", 0, dirty, shrink},
    {"checkpoint", 0, more_changes, checkpoint},
    {"clean", 0, half_garbage, clean},
    {"fold", 0, to_fold, settle},
    {"purge", 0, to_purge, settle},
    {"fill", 0, dirty, fill},
    {"refill", SCENARIO_TIGHT, half_dead, refill},
    {"attach", SCENARIO_OPENS, to_replay, attach},
    {"detach", 0, more_changes, detach},
};
const unsigned scenario_count = VD_ARRAY_SIZE(scenarios);
