/* SPDX-License-Identifier: MIT */
/*
 * Random histories: see random.h. A history is a pool and some sessions; in each, a few fibers do
 * what they like to a few volumes until the power goes, the process dies, or the pool is closed;
 * then it is opened again (sometimes that too is cut), judged, and the next session goes on from
 * what was found.
 *
 * A volume's content may be written by several at once; control operations have the volume to
 * themselves, but for snapshots.
 */
#include "tests/crash/random.h"

#include "core/base/log.h"
#include "tests/crash/scenario.h"

#include <stdio.h>
#include <stdlib.h>

#define VOLUMES 5u
#define SNAPSHOTS 4u
#define FIBERS_MAX 4u

struct history {
    struct exhaust *x;
    uint64_t seed;
    uint64_t volume_max; /* sectors */
    bool tight;          /* the pool is smaller than its volumes */
    bool worn;           /* or as small, and its volumes are written again and again */
    bool forcing;        /* somebody wants each write to be durable */
    unsigned ops;        /* done in all sessions */
    unsigned crashes, recoveries_cut;
    struct world w;

    /* of the session */
    unsigned left;      /* operations still to do */
    int users[VOLUMES]; /* > 0: that many share it; -1: somebody has it alone */
    struct vd_waitq turn;
    struct vd_fmutex names; /* held while a snapshot gets its name */
    struct vd_group group;
};

static uint64_t draw(struct history *h, uint64_t bound)
{
    return vd_rng_below(&h->w.rng, bound);
}

/* ---- who may touch a volume ---- */

static void take(struct history *h, unsigned v, bool alone)
{
    while (alone ? h->users[v] != 0 : h->users[v] < 0)
        vd_wait(&h->turn);
    h->users[v] = alone ? -1 : h->users[v] + 1;
}

static void give(struct history *h, unsigned v)
{
    h->users[v] = h->users[v] < 0 ? 0 : h->users[v] - 1;
    vd_wake_all(&h->turn);
}

static const char *const volume_name[VOLUMES] = {"v0", "v1", "v2", "v3", "v4"};

static bool exists(struct history *h, unsigned v, const char *snapshot, uint64_t *ret_sectors)
{
    return oracle_has(h->w.oracle, oracle_live(h->w.oracle), volume_name[v], snapshot, ret_sectors);
}

/* ---- operations on content ---- */

static uint64_t some_length(struct history *h)
{
    if (h->worn && draw(h, 8))
        return 8 * (1 + draw(h, 4));
    switch (draw(h, 8)) {
    case 0:
        return 1 + draw(h, 16); /* parts of blocks */
    case 1:
        return 8 * (64 + draw(h, 256)); /* several records */
    case 2:
        return 8 * (8 + draw(h, 60));
    default:
        return 8 * (1 + draw(h, 8));
    }
}

static void do_content(struct history *h, unsigned v, uint64_t size)
{
    struct world *w = &h->w;
    const char *name = volume_name[v];
    uint64_t most = some_length(h), len = VD_MIN(most, size), at = draw(h, size - len + 1);
    if (draw(h, 4))
        at = VD_ROUND_DOWN(at, UINT64_C(8));
    switch (h->forcing ? 3 + draw(h, 13) : draw(h, 16)) {
    case 0:
        (void)world_zero(w, name, at, len, draw(h, 4) ? 0 : VD_DISK_FUA);
        break;
    case 1:
    case 2:
        (void)world_discard(w, name, at, len);
        break;
    case 3:
        (void)world_flush(w, name);
        break;
    case 4:
        (void)world_write(w, name, at, len, VD_DISK_FUA);
        break;
    case 5:
    case 6:
    case 7:
        (void)world_read(w, name, NULL, at, len);
        break;
    default:
        (void)world_write(w, name, at, len, h->forcing ? VD_DISK_FUA : 0);
    }
}

/* ---- control operations ---- */

static void snapshot_name(struct history *h, char buf[8])
{
    snprintf(buf, 8, "s%u", (unsigned)draw(h, SNAPSHOTS));
}

static void do_snapshot(struct history *h)
{
    unsigned a = (unsigned)draw(h, VOLUMES), b = (unsigned)draw(h, VOLUMES);
    if (a > b) {
        unsigned c = a;
        a = b;
        b = c;
    }
    char s[8], targets[64];
    snapshot_name(h, s);
    vd_fmutex_lock(&h->names);
    take(h, a, false);
    if (b != a)
        take(h, b, false);
    if (exists(h, a, NULL, NULL) && !exists(h, a, s, NULL) && exists(h, b, NULL, NULL) &&
        !exists(h, b, s, NULL)) {
        snprintf(targets, sizeof(targets), "%s@%s", volume_name[a], s);
        if (a != b)
            snprintf(targets + strlen(targets), 16, " %s@%s", volume_name[b], s);
        (void)world_snapshot(&h->w, targets);
    }
    give(h, a);
    if (b != a)
        give(h, b);
    vd_fmutex_unlock(&h->names);
}

/* On one volume that nobody else touches. */
static void do_control(struct history *h, unsigned v)
{
    struct world *w = &h->w;
    uint64_t size = 0;
    char s[8], target[32];
    bool live = exists(h, v, NULL, &size);
    snapshot_name(h, s);
    bool snap = exists(h, v, s, NULL);
    snprintf(target, sizeof(target), "%s@%s", volume_name[v], s);
    if (!live) {
        (void)world_create(w, volume_name[v], 64 + draw(h, h->volume_max - 64));
        return;
    }
    switch (draw(h, 10)) {
    case 0:
        (void)world_delete(w, volume_name[v]);
        break;
    case 1:
        (void)world_resize(w, volume_name[v], 64 + draw(h, h->volume_max - 64));
        break;
    case 2:
    case 3:
        if (snap)
            (void)world_rollback(w, target, draw(h, 2));
        break;
    case 4:
        if (snap && !exists(h, v, "kept", NULL))
            (void)world_snapshot_rename(w, target, "kept");
        break;
    default:
        if (snap)
            (void)world_snapshot_delete(w, target);
    }
}

/* Makes `to`, which does not exist, from `from`. */
static void do_copy(struct history *h, unsigned from, unsigned to)
{
    char s[8], target[32];
    snapshot_name(h, s);
    if (exists(h, to, NULL, NULL) || !exists(h, from, NULL, NULL))
        return;
    snprintf(target, sizeof(target), "%s%s%s", volume_name[from],
             exists(h, from, s, NULL) ? "@" : "", exists(h, from, s, NULL) ? s : "");
    if (draw(h, 4) == 0)
        (void)world_rename(&h->w, volume_name[from], volume_name[to]);
    else
        (void)world_clone_volume(&h->w, target, volume_name[to]);
}

static void do_background(struct history *h)
{
    switch (draw(h, 4)) {
    case 0:
        (void)world_clean(&h->w);
        break;
    case 1:
        (void)world_settle(&h->w);
        break;
    case 2:
        vd_fiber_sleep(UINT64_C(3000000000));
        break;
    default:
        (void)world_checkpoint(&h->w);
    }
}

static void do_something(struct history *h)
{
    unsigned v = (unsigned)draw(h, VOLUMES), u = (unsigned)draw(h, VOLUMES);
    uint64_t size;
    switch (draw(h, 24)) {
    case 0:
        do_snapshot(h);
        break;
    case 1:
    case 2:
        take(h, v, true);
        do_control(h, v);
        give(h, v);
        break;
    case 3:
        if (u == v)
            break;
        take(h, VD_MIN(u, v), true);
        take(h, VD_MAX(u, v), true);
        do_copy(h, v, u);
        give(h, u);
        give(h, v);
        break;
    case 4:
        do_background(h);
        break;
    default:
        take(h, v, false);
        if (exists(h, v, NULL, &size))
            do_content(h, v, size);
        give(h, v);
    }
}

static bool going(const struct history *h)
{
    return h->left > 0 && !world_failed(&h->w) && !h->w.stopped && !vd_simdisk_is_cut(h->w.disk);
}

static void worker(void *arg)
{
    struct history *h = arg;
    while (going(h)) {
        h->left--;
        h->ops++;
        do_something(h);
    }
    vd_group_done(&h->group);
}

/* ---- sessions ---- */

static void arm(struct history *h)
{
    static const enum vd_fault faults[] = {VD_FAULT_READ_EIO,  VD_FAULT_WRITE_EIO,
                                           VD_FAULT_FLUSH_EIO, VD_FAULT_ENOSPC,
                                           VD_FAULT_READ_FLIP, VD_FAULT_SLOW};
    h->w.faulty = false;
    if (draw(h, 4))
        vd_simdisk_cut_after(h->w.disk, (int64_t)(1 + draw(h, 1 + draw(h, h->worn ? 3000 : 400))));
    if (draw(h, 4) == 0) {
        enum vd_fault fault = faults[draw(h, VD_ARRAY_SIZE(faults))];
        h->w.faulty = true;
        vd_simdisk_fault(h->w.disk, fault, 1 + draw(h, 60), draw(h, 3) == 0);
    }
}

static void session(struct history *h)
{
    h->forcing = h->worn && draw(h, 3) == 0;
    unsigned fibers = h->forcing ? 1 : 1 + (unsigned)draw(h, FIBERS_MAX);
    h->left = (30 + (unsigned)draw(h, 80)) * (h->worn ? 6 : 1);
    memset(h->users, 0, sizeof(h->users));
    vd_waitq_init(&h->turn);
    vd_group_init(&h->group);
    vd_fmutex_init(&h->names);
    for (unsigned i = 0; i < VOLUMES; i++) /* handles are opened one at a time */
        if (exists(h, i, NULL, NULL))
            (void)world_disk(&h->w, volume_name[i], NULL);
    arm(h);
    vd_log(VD_LOG_DEBUG, "---- session of %u operations by %u fibers%s", h->left, fibers,
           h->w.faulty ? ", with a fault" : "");
    for (unsigned i = 0; i < fibers; i++) {
        vd_group_add(&h->group);
        if (vd_fiber_spawn(vd_loop_current(), "history", worker, h) < 0)
            abort();
    }
    vd_group_wait(&h->group);
    if (draw(h, 4) == 0)
        world_detach(&h->w);
    h->w.may_fill = h->tight || h->worn;
}

/* Opens the pool again after a crash; the opening may be cut as well. */
static void recover(struct history *h, enum vd_crash kind)
{
    static const enum vd_crash kinds[] = {VD_CRASH_PROCESS, VD_CRASH_POWER, VD_CRASH_POWER_DROP,
                                          VD_CRASH_POWER_KEEP};
    struct world *w = &h->w;
    enum oracle_floor floor = kind == VD_CRASH_PROCESS ? ORACLE_ACKNOWLEDGED : ORACLE_DURABLE;
    bool must_cut = h->recoveries_cut == 0 && h->crashes >= 2;
    while (must_cut || draw(h, 3) == 0) {
        must_cut = false;
        vd_simdisk_cut_after(w->disk, (int64_t)(1 + draw(h, 8)));
        int r = world_attach(w, 0);
        bool cut = vd_simdisk_is_cut(w->disk);
        if (world_failed(w))
            return;
        kind = kinds[draw(h, VD_ARRAY_SIZE(kinds))];
        if (kind != VD_CRASH_PROCESS)
            floor = ORACLE_DURABLE;
        world_crash(w, kind);
        h->recoveries_cut += cut;
        if (r == 0 && !cut)
            break;
    }
    w->error = 0;
    (void)world_reopen(w, 0, floor);
}

static void history_body(struct world *w, void *arg)
{
    struct history *h = arg;
    static const enum vd_crash kinds[] = {VD_CRASH_PROCESS,    VD_CRASH_PROCESS,
                                          VD_CRASH_POWER,      VD_CRASH_POWER,
                                          VD_CRASH_POWER_DROP, VD_CRASH_POWER_KEEP};
    char what[64];
    unsigned sort = (unsigned)draw(h, 4);
    h->tight = sort == 0;
    h->worn = sort == 1;
    h->volume_max = h->tight ? 16384 : h->worn ? 4096 : 2048 + draw(h, 4096);
    w->may_fill = h->tight || h->worn;
    bool small = w->may_fill, capacity = small && draw(h, 2);
    world_format(w, &(struct world_options){.disk_max = small ? VD_MIB(32) : VD_MIB(192),
                                            .capacity = capacity ? VD_MIB(26) : 0,
                                            .chunk_size = (uint32_t)VD_MIB(1)});
    (void)world_attach(w, 0);
    for (unsigned i = 0; i < 2; i++)
        (void)world_create(w, volume_name[i], 64 + draw(h, h->volume_max - 64));
    unsigned sessions = draw(h, 16) ? 3 + (unsigned)draw(h, 3) : 60; /* some pools grow old */
    for (unsigned i = 0; i < sessions || h->ops < 100 || h->crashes < 2 || !h->recoveries_cut;
         i++) {
        session(h);
        if (world_failed(w))
            break;
        enum vd_crash kind = kinds[draw(h, VD_ARRAY_SIZE(kinds))];
        world_crash(w, kind);
        w->faulty = false;
        h->crashes++;
        recover(h, kind);
        if (world_failed(w))
            break;
        report_count(h->x->report, REPORT_ROWS, COL_PROCESS, OUT_WHOLE);
        snprintf(what, sizeof(what), "--history %" PRIu64, h->seed);
        h->x->at(h->x->arg, what);
    }
    if (!world_failed(w))
        world_detach(w);
}

void random_history(struct exhaust *x, uint64_t seed)
{
    struct history h = {.x = x, .seed = seed};
    char what[64];
    snprintf(what, sizeof(what), "--history %" PRIu64, seed);
    x->at(x->arg, what);
    world_init(&h.w, seed);
    world_run(&h.w, seed, history_body, &h);
    x->report->histories++;
    if (world_failed(&h.w)) {
        x->report->failures++;
        x->failed(x->arg, what, h.w.why);
    }
    world_done(&h.w);
}
