/* SPDX-License-Identifier: MIT */
/*
 * The driver of drive.h. One seed replays a run. Checkpoints run on a fiber of their own, so that
 * operations fall between freeze and publish; merges fail now and then; stores are abandoned and
 * opened again at any time but within an operation.
 */
#include "tests/snapshot/drive.h"

#include "core/base/text.h"
#include "snapshot/store_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define VOLUMES_MAX 6
#define SNAPSHOTS_MAX 8 /* per volume */
#define SIZE_MAX_SECTORS 6000

static uint64_t below(struct drive *d, uint64_t n)
{
    return vd_rng_below(&d->rng, n);
}

static void trace(struct drive *d, const char *fmt, ...) VD_PRINTF(2, 3);
static void trace(struct drive *d, const char *fmt, ...)
{
    va_list ap;
    if (!d->trace)
        return;
    fprintf(stderr, "%u: ", d->step);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

struct vd_pool *drive_pool(struct drive *d)
{
    return vd_container_of(d->store, struct snap_store, store)->pool;
}

static int failed(struct drive *d, int r, const struct vd_error *err, const char *what)
{
    if (r < 0)
        snprintf(d->why, sizeof(d->why), "%s: %s (%d)", what, err ? err->message : strerror(-r), r);
    return r;
}

/* ---- opening ---- */

static int attach(struct drive *d)
{
    struct vd_dev *dev = medium_dev(d->medium);
    struct vd_error err = {0};
    return failed(d, vd_store_attach(&dev, 1, 0, &d->store, &err), &err, "attach");
}

int drive_open(struct drive *d, uint64_t seed)
{
    *d = (struct drive){.seed = seed, .trace = getenv("VD_TRACE") != NULL};
    d->paranoid = getenv("VD_PARANOID") != NULL;
    vd_rng_seed(&d->rng, seed);
    vd_waitq_init(&d->checkpointed);
    d->medium = medium_new();
    static const unsigned budgets[] = {1, 4, 16, 256};
    medium_budget(d->medium, budgets[below(d, 4)]);
    return attach(d);
}

static void checkpoint_wait(struct drive *d)
{
    while (d->checkpointing)
        vd_wait(&d->checkpointed);
}

void drive_close(struct drive *d)
{
    checkpoint_wait(d);
    if (d->store)
        vd_store_abandon(d->store);
    medium_free(d->medium);
    model_free(&d->model);
}

/* ---- choosing ---- */

static struct mvol *any_volume(struct drive *d)
{
    return d->model.nvol ? &d->model.vol[below(d, (uint64_t)d->model.nvol)] : NULL;
}

static struct mvol *any_with_snapshots(struct drive *d)
{
    struct mvol *v = any_volume(d);
    for (int i = 0; v && !v->nsnap && i < 4; i++)
        v = any_volume(d);
    return v && v->nsnap ? v : NULL;
}

static struct vd_target any_snapshot(struct drive *d, struct mvol *v)
{
    return (struct vd_target){v->name, v->snap[below(d, (uint64_t)v->nsnap)].name};
}

static struct vd_target any_target(struct drive *d)
{
    struct mvol *v = any_volume(d);
    if (!v)
        return (struct vd_target){0};
    if (v->nsnap && below(d, 2))
        return any_snapshot(d, v);
    return (struct vd_target){v->name, NULL};
}

static uint64_t any_size(struct drive *d)
{
    uint64_t sectors = 1 + below(d, below(d, 3) ? 600 : SIZE_MAX_SECTORS);
    return (below(d, 2) ? VD_ROUND_UP(sectors, BLOCK_SECTORS) : sectors) * VD_SECTOR;
}

/* A piece of the volume; blocks: 0 whole sectors, 1 whole blocks. */
static void any_piece(struct drive *d, const struct mview *v, uint64_t *off, uint64_t *len)
{
    uint64_t unit = below(d, 3) ? VD_BLOCK : VD_SECTOR, units = v->size / unit;
    if (!units) {
        unit = VD_SECTOR;
        units = v->size / unit;
    }
    uint64_t most = below(d, 4) ? 12 : 200;
    uint64_t first = below(d, units), n = 1 + below(d, VD_MIN(units - first, most));
    *off = first * unit;
    *len = n * unit;
}

/* ---- operations ---- */

static int do_create(struct drive *d)
{
    struct vd_error err = {0};
    char name[32];
    if (d->model.nvol >= VOLUMES_MAX)
        return 0;
    snprintf(name, sizeof(name), "v%u", d->names++);
    uint64_t size = any_size(d);
    trace(d, "create %s %" PRIu64, name, size);
    int r = vd_store_volume_create(d->store, name, size, &err);
    if (r == 0)
        model_create(&d->model, name, size);
    return failed(d, r, &err, "create");
}

static int do_delete(struct drive *d)
{
    struct vd_error err = {0};
    struct mvol *v = any_volume(d);
    if (!v || below(d, 4))
        return 0;
    bool held = false;
    for (int i = 0; i < v->nsnap; i++)
        held = held || v->snap[i].held;
    trace(d, "delete %s", v->name);
    bool recursive = below(d, 4);
    int r = vd_store_volume_delete(d->store, v->name, recursive, &err);
    if (v->nsnap && !recursive)
        return r == -ENOTEMPTY ? 0 : failed(d, -EUCLEAN, NULL, "delete with snapshots");
    if (held)
        return r == -EBUSY ? 0 : failed(d, -EUCLEAN, NULL, "delete with a held snapshot");
    if (r == 0)
        model_delete(&d->model, v->name);
    return failed(d, r, &err, "delete");
}

static int disk_of(struct drive *d, const char *volume, struct vd_disk **ret)
{
    struct vd_error err = {0};
    struct vd_target t = {volume, NULL};
    return failed(d, vd_store_open(d->store, t, false, ret, &err), &err, "open");
}

static int do_write(struct drive *d)
{
    struct mvol *v = any_volume(d);
    struct vd_disk *disk;
    uint64_t off, len;
    if (!v)
        return 0;
    any_piece(d, &v->live, &off, &len);
    int r = disk_of(d, v->name, &disk);
    if (r < 0)
        return r;
    uint32_t stamp = below(d, 12) ? d->model.stamp + 1 : 0;
    trace(d, "write %s %" PRIu64 " %" PRIu64 " (block %" PRIu64 ") stamp %u", v->name, off, len,
          off / VD_BLOCK, stamp);
    /* Sometimes through memory that is not aligned. */
    size_t skew = below(d, 2) ? 0 : 8;
    uint8_t *buf = vd_alloc_aligned(VD_ROUND_UP(len + skew, (uint64_t)VD_BLOCK));
    model_fill(stamp, off / VD_SECTOR, buf + skew, len / VD_SECTOR);
    size_t cut = VD_SECTOR * below(d, len / VD_SECTOR + 1);
    struct iovec iov[2] = {{buf + skew, cut}, {buf + skew + cut, len - cut}};
    r = vd_disk_writev(disk, off, iov, 2, 0);
    if (r == 0)
        model_write(&d->model, &v->live, off, len, stamp);
    free(buf);
    vd_disk_unref(disk);
    return failed(d, r, NULL, "write");
}

static int do_zero(struct drive *d)
{
    struct mvol *v = any_volume(d);
    struct vd_disk *disk;
    uint64_t off, len;
    if (!v)
        return 0;
    any_piece(d, &v->live, &off, &len);
    if (!below(d, 3))
        len = (below(d, (v->live.size - off) / VD_SECTOR) + 1) * VD_SECTOR;
    if (!below(d, 8)) {
        off = 0;
        len = v->live.size;
    }
    int r = disk_of(d, v->name, &disk);
    if (r < 0)
        return r;
    bool discard = below(d, 2);
    trace(d, "%s %s %" PRIu64 " %" PRIu64, discard ? "discard" : "zero", v->name, off, len);
    if (discard) {
        r = vd_disk_discard(disk, off, len, 0);
        model_discard(&v->live, off, len);
    } else {
        r = vd_disk_zero(disk, off, len, 0);
        model_zero(&d->model, &v->live, off, len);
    }
    vd_disk_unref(disk);
    return failed(d, r, NULL, "zero");
}

static int do_resize(struct drive *d)
{
    struct vd_error err = {0};
    struct mvol *v = any_volume(d);
    if (!v)
        return 0;
    uint64_t size = any_size(d);
    trace(d, "resize %s from %" PRIu64 " to %" PRIu64, v->name, v->live.size, size);
    int r = vd_store_volume_resize(d->store, v->name, size, true, &err);
    if (r == 0 && size != v->live.size)
        model_resize(&d->model, &v->live, size);
    return failed(d, r, &err, "resize");
}

static int do_snapshot(struct drive *d)
{
    struct vd_error err = {0};
    struct vd_target t[3];
    char name[3][32];
    int n = 0, want = 1 + (int)below(d, 3);
    if (!d->model.nvol)
        return 0;
    for (; n < want; n++) {
        struct mvol *v = any_volume(d);
        if (v->nsnap + n >= SNAPSHOTS_MAX)
            break;
        snprintf(name[n], sizeof(name[n]), "s%u", d->names++);
        t[n] = (struct vd_target){v->name, name[n]};
        trace(d, "snapshot %s@%s", v->name, name[n]);
    }
    if (!n)
        return 0;
    int r = vd_store_snapshot_create(d->store, t, n, &err);
    for (int i = 0; r == 0 && i < n; i++)
        model_snap(model_volume(&d->model, t[i].volume), t[i].snapshot);
    return failed(d, r, &err, "snapshot");
}

static int do_snapshot_delete(struct drive *d)
{
    struct vd_error err = {0};
    struct mvol *v = any_with_snapshots(d);
    struct vd_target t[2];
    if (!v)
        return 0;
    t[0] = any_snapshot(d, v);
    t[1] = any_snapshot(d, v);
    int n = 1 + (int)below(d, 2);
    bool held = false;
    for (int i = 0; i < n; i++)
        held = held || model_snapshot(v, t[i].snapshot)->held;
    char name[2][VD_NAME_MAX + 1];
    for (int i = 0; i < n; i++)
        snprintf(name[i], sizeof(name[i]), "%s", t[i].snapshot);
    trace(d, "delete %s@%s%s%s", v->name, name[0], n > 1 ? " " : "", n > 1 ? name[1] : "");
    int r = vd_store_snapshot_delete(d->store, t, n, &err);
    if (held)
        return r == -EBUSY ? 0 : failed(d, -EUCLEAN, NULL, "delete of a held snapshot");
    for (int i = 0; r == 0 && i < n; i++)
        if (model_snapshot(v, name[i]))
            model_snap_delete(v, name[i]);
    return failed(d, r, &err, "snapshot delete");
}

static int do_hold(struct drive *d)
{
    struct vd_error err = {0};
    struct mvol *v = any_with_snapshots(d);
    if (!v)
        return 0;
    struct vd_target t = any_snapshot(d, v);
    struct msnap *s = model_snapshot(v, t.snapshot);
    if (!s->held && below(d, 4))
        return 0;
    trace(d, "%s %s@%s", s->held ? "release" : "hold", t.volume, t.snapshot);
    int r = vd_store_snapshot_hold(d->store, t, "tag", s->held, &err);
    if (r == 0)
        s->held = !s->held;
    return failed(d, r, &err, "hold");
}

static int do_rename(struct drive *d)
{
    struct vd_error err = {0};
    struct vd_target t = any_target(d);
    char to[32];
    int r;
    if (!t.volume)
        return 0;
    snprintf(to, sizeof(to), "r%u", d->names++);
    struct mvol *v = model_volume(&d->model, t.volume);
    trace(d, "rename %s%s%s to %s", t.volume, t.snapshot ? "@" : "", t.snapshot ? t.snapshot : "",
          to);
    if (t.snapshot)
        r = vd_store_snapshot_rename(d->store, t, to, &err);
    else
        r = vd_store_volume_rename(d->store, t.volume, to, &err);
    char *name = t.snapshot ? model_snapshot(v, t.snapshot)->name : v->name;
    if (r == 0)
        snprintf(name, VD_NAME_MAX + 1, "%s", to);
    return failed(d, r, &err, "rename");
}

static int do_clone(struct drive *d)
{
    struct vd_error err = {0};
    struct vd_target t = any_target(d);
    char name[32];
    if (!t.volume || d->model.nvol >= VOLUMES_MAX)
        return 0;
    snprintf(name, sizeof(name), "c%u", d->names++);
    trace(d, "clone %s%s%s as %s", t.volume, t.snapshot ? "@" : "", t.snapshot ? t.snapshot : "",
          name);
    int r = vd_store_clone(d->store, t, name, &err);
    if (r == 0)
        model_clone(&d->model, t, name);
    return failed(d, r, &err, "clone");
}

static int do_rollback(struct drive *d)
{
    struct vd_error err = {0};
    struct mvol *v = any_with_snapshots(d);
    char kept[VD_NAME_MAX + 1] = "";
    if (!v)
        return 0;
    struct vd_target t = any_snapshot(d, v);
    char name[VD_NAME_MAX + 1];
    snprintf(name, sizeof(name), "%s", t.snapshot);
    t.snapshot = name;
    bool discard = v->nsnap >= SNAPSHOTS_MAX || below(d, 3);
    trace(d, "roll back to %s@%s%s", t.volume, t.snapshot, discard ? ", discard" : "");
    int r = vd_store_rollback(d->store, t, discard, false, kept, &err);
    if (r == 0)
        model_rollback(&d->model, t, discard ? NULL : kept);
    return failed(d, r, &err, "rollback");
}

/* ---- checkpoints, crashes, comparing ---- */

static void checkpointer(void *arg)
{
    struct drive *d = arg;
    int r = fake_checkpoint(drive_pool(d));
    d->checkpoint_res = r < 0 ? r : d->checkpoint_res;
    d->checkpointing = false;
    vd_wake_all(&d->checkpointed);
}

static int do_checkpoint(struct drive *d)
{
    if (d->checkpointing)
        return 0;
    trace(d, "checkpoint");
    if (!below(d, 4))
        medium_fail_nodes(d->medium, 1 + (unsigned)below(d, 6), 1 + (unsigned)below(d, 3));
    d->checkpointing = true;
    int r = vd_fiber_spawn(vd_loop_current(), "checkpoint", checkpointer, d);
    if (r < 0)
        d->checkpointing = false;
    /* Sometimes done before the next operation, sometimes not even begun. */
    if (below(d, 2))
        checkpoint_wait(d);
    return r;
}

static int do_settle(struct drive *d)
{
    checkpoint_wait(d);
    trace(d, "settle");
    int r = vd_store_settle(d->store, NULL);
    if (r == 0 && vd_store_backlog(d->store))
        return failed(d, -EUCLEAN, NULL, "backlog after settling");
    return failed(d, r, NULL, "settle");
}

static int do_reopen(struct drive *d)
{
    struct vd_error err = {0};
    int r = 0;
    checkpoint_wait(d);
    if (below(d, 2)) {
        trace(d, "detach and attach");
        r = vd_store_detach(d->store, &err);
    } else {
        bool half = below(d, 2);
        trace(d, "abandon%s and attach", half ? " in a checkpoint" : "");
        if (half) { /* a merge that never came to its root */
            medium_give_up(d->medium, true);
            medium_fail_nodes(d->medium, 1 + (unsigned)below(d, 8), 1);
            fake_checkpoint(drive_pool(d));
            medium_fail_nodes(d->medium, 0, 0);
            medium_give_up(d->medium, false);
        }
        vd_store_abandon(d->store);
    }
    d->store = NULL;
    return r < 0 ? failed(d, r, &err, "detach") : attach(d);
}

static void finding(void *arg, const char *text)
{
    struct drive *d = arg;
    if (d->why[0])
        return;
    snprintf(d->why, sizeof(d->why), "check: %s", text);
}

int drive_check(struct drive *d)
{
    struct vd_check_report report;
    struct vd_error err = {0};
    d->why[0] = 0;
    int r = vd_store_check(d->store, true, finding, d, NULL, &report, &err);
    return r < 0 && !d->why[0] ? failed(d, r, &err, "check") : r;
}

static int do_check(struct drive *d)
{
    checkpoint_wait(d);
    trace(d, "check");
    return drive_check(d);
}

static int do_verify(struct drive *d)
{
    struct vd_target t = any_target(d), from = any_target(d);
    if (!t.volume)
        return 0;
    trace(d, "compare");
    int r = model_verify_view(&d->model, d->store, t, d->why, sizeof(d->why));
    if (r == 0)
        r = model_verify_extents(&d->model, d->store, t, d->why, sizeof(d->why));
    if (!below(d, 4))
        from.volume = NULL;
    if (r == 0)
        r = model_verify_diff(&d->model, d->store, from, t, d->why, sizeof(d->why));
    return r;
}

static int do_clean(struct drive *d)
{
    trace(d, "clean");
    return failed(d, fake_clean(drive_pool(d), &d->rng), NULL, "clean");
}

static const struct {
    int (*fn)(struct drive *d);
    unsigned weight;
} kinds[] = {
    {do_create, 4},  {do_delete, 3},      {do_write, 60}, {do_zero, 14},
    {do_resize, 4},  {do_snapshot, 12},   {do_hold, 2},   {do_snapshot_delete, 9},
    {do_rename, 2},  {do_clone, 5},       {do_clean, 8},  {do_rollback, 5},
    {do_reopen, 3},  {do_checkpoint, 14}, {do_settle, 2}, {do_check, 3},
    {do_verify, 10},
};

int drive_step(struct drive *d)
{
    unsigned total = 0;
    for (size_t i = 0; i < VD_ARRAY_SIZE(kinds); i++)
        total += kinds[i].weight;
    unsigned pick = (unsigned)below(d, total);
    size_t i = 0;
    for (; pick >= kinds[i].weight; i++)
        pick -= kinds[i].weight;
    d->step++;
    int r = kinds[i].fn(d);
    if (r == 0 && d->paranoid && d->store)
        r = model_verify(&d->model, d->store, d->why, sizeof(d->why));
    if (r == 0 && d->checkpoint_res < 0)
        r = failed(d, d->checkpoint_res, NULL, "checkpoint");
    return r;
}

/* ---- the end ---- */

static int delete_all(struct drive *d)
{
    struct vd_error err = {0};
    int r = 0;
    while (r == 0 && d->model.nvol) {
        struct mvol *v = &d->model.vol[0];
        for (int i = 0; r == 0 && i < v->nsnap; i++) {
            struct vd_target t = {v->name, v->snap[i].name};
            if (v->snap[i].held)
                r = vd_store_snapshot_hold(d->store, t, "tag", true, &err);
        }
        if (r == 0)
            r = vd_store_volume_delete(d->store, v->name, true, &err);
        model_delete(&d->model, v->name);
    }
    return failed(d, r, &err, "deleting everything");
}

static int nothing_left(struct drive *d)
{
    static const char *const names[] = {"HEAD", "HISTORY", "CHANGED", "CATALOG", "USAGE"};
    for (int t = TREE_HEAD; t <= TREE_USAGE; t++) {
        uint64_t n = fake_entries(drive_pool(d), t), most = t == TREE_CATALOG ? 1 : 0;
        if (n <= most)
            continue;
        snprintf(d->why, sizeof(d->why), "%" PRIu64 " entries of %s are left", n, names[t]);
        return -EUCLEAN;
    }
    if (fake_live(drive_pool(d))) {
        snprintf(d->why, sizeof(d->why), "%" PRIu64 " blocks are left", fake_live(drive_pool(d)));
        return -EUCLEAN;
    }
    return 0;
}

int drive_end(struct drive *d)
{
    checkpoint_wait(d);
    medium_budget(d->medium, 256);
    int r = model_verify(&d->model, d->store, d->why, sizeof(d->why));
    if (r == 0)
        r = drive_check(d);
    if (r == 0)
        r = do_settle(d);
    if (r == 0)
        r = model_verify(&d->model, d->store, d->why, sizeof(d->why));
    if (r == 0)
        r = drive_check(d);
    if (r == 0)
        r = delete_all(d);
    if (r == 0)
        r = failed(d, fake_checkpoint(drive_pool(d)), NULL, "checkpoint");
    if (r == 0)
        r = do_settle(d);
    return r == 0 ? nothing_left(d) : r;
}
