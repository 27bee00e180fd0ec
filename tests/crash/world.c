/* SPDX-License-Identifier: MIT */
/*
 * The world's life and its changes: see world.h. Judging is world_judge.c's.
 *
 * Invariant: the oracle is told of a change before the store is, and of its end as soon as the call
 * returns. Everything but init, done, clone and fail suspends.
 */
#include "tests/crash/world.h"

#include "core/base/log.h"
#include "core/base/text.h"
#include "pool/pool_priv.h"
#include "snapshot/store_priv.h"
#include "tests/crash/world_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define RUN_LIMIT_NS (UINT64_C(500000) * 1000000000)
#define OP_SECTORS 2048u /* the longest write that is one operation */
#define BLOCK_SECTORS (VD_BLOCK / ORACLE_SECTOR)

static void world_rooms(struct world *w)
{
    w->why = calloc(1, WORLD_WHY);
    w->handle = calloc(WORLD_HANDLES, sizeof(*w->handle));
    if (!w->why || !w->handle)
        abort();
}

void world_init(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof(*w));
    w->seed = seed;
    vd_rng_seed(&w->rng, seed);
    w->oracle = oracle_new();
    world_rooms(w);
}

void world_done(struct world *w)
{
    vd_simdisk_free(w->disk);
    if (!w->oracle_borrowed)
        oracle_free(w->oracle);
    free(w->why);
    free(w->handle);
    memset(w, 0, sizeof(*w));
}

void world_clone(const struct world *from, uint64_t seed, struct world *to)
{
    memset(to, 0, sizeof(*to));
    to->seed = seed;
    vd_rng_seed(&to->rng, seed);
    to->disk = vd_simdisk_clone(from->disk, seed);
    to->oracle = from->oracle;
    to->oracle_borrowed = true;
    world_rooms(to);
    to->faulty = from->faulty;
    to->may_fill = from->may_fill;
    to->gave_up = from->gave_up;
    to->told = from->told;
    to->handed_failed = from->handed_failed;
}

void world_fail(struct world *w, const char *fmt, ...)
{
    if (world_failed(w))
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(w->why, WORLD_WHY, fmt, ap);
    va_end(ap);
}

/* ---- opening and closing ---- */

void world_format(struct world *w, const struct world_options *opt)
{
    struct vd_dev *dev;
    struct vd_error err = {0};
    bool no_reserve;
    w->disk = vd_simdisk_new(0, opt->disk_max, w->seed);
    int r = vd_simdev_open(w->disk, 0, &dev);
    if (r < 0) {
        world_fail(w, "the simulated device: %s", strerror(-r));
        return;
    }
    struct vd_format_options fo = {
        .name = "crash", .capacity = opt->capacity, .chunk_size = opt->chunk_size};
    r = vd_pool_format(&dev, 1, &fo, &no_reserve, &err);
    if (r < 0)
        world_fail(w, "format: %s", err.message);
    vd_dev_close(dev);
}

int world_attach(struct world *w, unsigned flags)
{
    struct vd_dev *dev;
    struct vd_error err = {0};
    if (world_failed(w))
        return -ECANCELED;
    if (!w->told)
        w->handed_failed = vd_simdisk_writes_failed(w->disk, true);
    int r = vd_simdev_open(w->disk, flags & VD_ATTACH_RDONLY ? VD_DEV_RDONLY : 0, &dev);
    if (r == 0)
        r = vd_store_attach(&dev, 1, flags, &w->store, &err);
    if (r < 0) {
        w->store = NULL;
        w->error = w->error ? w->error : r;
        if (!w->faulty && !vd_simdisk_is_cut(w->disk))
            world_fail(w, "attach: %d [%s] %s", r, err.id, err.message);
        else if (!err.id[0] && !vd_simdisk_is_cut(w->disk))
            world_fail(w, "attach failed with %d and did not say why", r);
    }
    return r;
}

static struct world_handle *handle_find(struct world *w, const char *volume, const char *snapshot)
{
    for (unsigned i = 0; i < WORLD_HANDLES; i++) {
        struct world_handle *h = &w->handle[i];
        if (h->disk && strcmp(h->volume, volume) == 0 && strcmp(h->snapshot, snapshot) == 0)
            return h;
    }
    return NULL;
}

struct vd_disk *world_disk(struct world *w, const char *volume, const char *snapshot)
{
    snapshot = snapshot ? snapshot : "";
    struct world_handle *h = handle_find(w, volume, snapshot);
    if (h)
        return h->disk;
    struct vd_error err = {0};
    struct vd_disk *disk;
    if (!w->store)
        return NULL;
    int r = vd_store_open(w->store, (struct vd_target){volume, snapshot[0] ? snapshot : NULL},
                          false, &disk, &err);
    if (r < 0) {
        if (!w->faulty && !w->stopped && !vd_simdisk_is_cut(w->disk))
            world_fail(w, "open %s@%s: %s", volume, snapshot, err.message);
        return NULL;
    }
    h = handle_find(w, volume, snapshot);
    if (h) { /* another fiber was quicker */
        vd_disk_unref(disk);
        return h->disk;
    }
    for (h = w->handle; h->disk; h++)
        assert(h + 1 < w->handle + WORLD_HANDLES);
    h->disk = disk;
    snprintf(h->volume, sizeof(h->volume), "%s", volume);
    snprintf(h->snapshot, sizeof(h->snapshot), "%s", snapshot);
    return disk;
}

void world_close_handles(struct world *w, const char *volume)
{
    for (unsigned i = 0; i < WORLD_HANDLES; i++) {
        struct world_handle *h = &w->handle[i];
        if (h->disk && (!volume || strcmp(h->volume, volume) == 0)) {
            struct vd_disk *d = h->disk;
            h->disk = NULL;
            vd_disk_unref(d);
        }
    }
}

static void look_whether_gave_up(struct world *w, bool failed)
{
    struct vd_pool *p = world_pool(w);
    failed = failed || (p && pool_read_only(p));
    if (failed && vd_simdisk_writes_failed(w->disk, false) > 1)
        w->gave_up = true;
    w->told = p && p->log.told;
}

void world_detach(struct world *w)
{
    struct vd_error err = {0};
    if (!w->store)
        return;
    world_close_handles(w, NULL);
    uint64_t when = oracle_now(w->oracle);
    int r = vd_store_detach(w->store, &err);
    w->store = NULL;
    if (r == 0)
        oracle_flushed(w->oracle, when);
    else if (!w->faulty && !vd_simdisk_is_cut(w->disk))
        world_fail(w, "detach: %d %s", r, err.message);
    if (r < 0 && !w->error)
        w->error = r;
    look_whether_gave_up(w, r < 0); /* it is gone: only what it said counts */
}

void world_abandon(struct world *w)
{
    if (!w->store)
        return;
    look_whether_gave_up(w, false);
    world_close_handles(w, NULL);
    vd_store_abandon(w->store);
    w->store = NULL;
}

void world_crash(struct world *w, enum vd_crash kind)
{
    world_abandon(w);
    vd_log(VD_LOG_DEBUG, "---- crash of kind %d after %" PRIu64 " device operations%s", kind,
           vd_simdisk_ops(w->disk), vd_simdisk_is_cut(w->disk) ? ", cut" : "");
    vd_simdisk_crash(w->disk, kind, vd_rng_u64(&w->rng));
    w->stopped = false;
}

/* ---- changes of content ---- */

/* The end of a change, from what the store returned. */
static void change_end(struct world *w, struct oracle_op *op, int r, bool durable)
{
    if (r == 0) {
        oracle_end(w->oracle, op, ORACLE_DONE, durable);
        return;
    }
    if (r == -ENOSPC && (w->may_fill || w->faulty)) {
        w->refused_space = true;
        oracle_end(w->oracle, op, ORACLE_REFUSED, false);
        return;
    }
    oracle_end(w->oracle, op, ORACLE_OPEN, false);
    w->stopped = true;
    w->error = w->error ? w->error : r;
    if (!w->faulty && !vd_simdisk_is_cut(w->disk))
        world_fail(w, "a change failed: %d (%s)", r, strerror(-r));
}

/* How a piece of a write that was refused as a whole has ended: can anything of it be seen? Where
 * zeroes were asked for, can anything else? */
static enum oracle_end write_ended(struct vd_disk *d, const struct oracle_op *op)
{
    uint64_t sector, sectors;
    uint32_t version;
    enum oracle_end how = ORACLE_OPEN;
    if (!oracle_leaves(op, &sector, &sectors, &version))
        return how;
    uint8_t *buf = vd_alloc_aligned(VD_ROUND_UP(sectors * ORACLE_SECTOR, VD_BLOCK));
    if (vd_disk_read(d, sector * ORACLE_SECTOR, buf, sectors * ORACLE_SECTOR) == 0) {
        uint64_t seen = 0;
        for (uint64_t i = 0; i < sectors; i++)
            seen += oracle_parse(sector + i, buf + i * ORACLE_SECTOR) == version;
        how = seen >= (version ? 1 : sectors) ? ORACLE_DONE : ORACLE_REFUSED;
    }
    free(buf);
    return how;
}

/* Of one call that made several operations: when it is refused, some may have happened, and what
 * comes later builds on them. */
static void changes_end(struct world *w, struct vd_disk *d, struct oracle_op *const *op, int n,
                        int r, bool durable)
{
    for (int i = 0; i < n; i++) {
        if (n > 1 && r == -ENOSPC && (w->may_fill || w->faulty)) {
            w->refused_space = true;
            oracle_end(w->oracle, op[i], write_ended(d, op[i]), false);
        } else {
            change_end(w, op[i], r, durable);
        }
    }
}

static struct oracle_op *content_begin(struct world *w, enum oracle_kind kind, const char *volume,
                                       uint64_t sector, uint64_t sectors, bool maybe)
{
    struct oracle_change c = {
        .kind = kind, .targets = 1, .sector = sector, .sectors = sectors, .maybe = maybe};
    snprintf(c.t[0].volume, ORACLE_NAME, "%s", volume);
    vd_log(VD_LOG_DEBUG, "%s %s [%" PRIu64 ", +%" PRIu64 ")",
           kind == ORACLE_ZERO ? "zero" : "write", volume, sector, sectors);
    return oracle_begin(w->oracle, &c);
}

int world_write(struct world *w, const char *volume, uint64_t sector, uint64_t sectors,
                unsigned flags)
{
    struct vd_disk *d = w->stopped ? NULL : world_disk(w, volume, NULL);
    if (!d || world_failed(w))
        return -ECANCELED;
    /* Memory that is not aligned takes another way through the log. */
    size_t skew = vd_rng_below(&w->rng, 3) == 0 ? ORACLE_SECTOR : 0;
    uint8_t *mem = vd_alloc_aligned(VD_ROUND_UP(skew + sectors * ORACLE_SECTOR, VD_BLOCK));
    uint8_t *buf = mem + skew;
    /* Longer ones are several operations, cut at whole blocks. */
    struct oracle_op *op[40];
    int n = 0;
    uint64_t start = VD_ROUND_DOWN(sector, (uint64_t)BLOCK_SECTORS);
    for (uint64_t s = sector; s < sector + sectors && n < (int)VD_ARRAY_SIZE(op); n++) {
        uint64_t end = VD_MIN(sector + sectors, start + (uint64_t)(n + 1) * OP_SECTORS);
        op[n] = content_begin(w, ORACLE_WRITE, volume, s, end - s, false);
        oracle_fill(oracle_version(op[n]), s, buf + (s - sector) * ORACLE_SECTOR, end - s);
        s = end;
    }
    int r = vd_disk_write(d, sector * ORACLE_SECTOR, buf, sectors * ORACLE_SECTOR, flags);
    changes_end(w, d, op, n, r, flags & VD_DISK_FUA);
    free(mem);
    return r;
}

/* Zeroing parts of blocks at its ends makes operations of their own. */
static int zero_or_discard(struct world *w, const char *volume, uint64_t sector, uint64_t sectors,
                           unsigned flags, bool discard)
{
    struct vd_disk *d = w->stopped ? NULL : world_disk(w, volume, NULL);
    if (!d || world_failed(w))
        return -ECANCELED;
    uint64_t end = sector + sectors, size = 0;
    (void)oracle_has(w->oracle, oracle_live(w->oracle), volume, NULL, &size);
    uint64_t first = VD_ROUND_UP(sector, (uint64_t)BLOCK_SECTORS);
    uint64_t last = end == size ? end : VD_ROUND_DOWN(end, (uint64_t)BLOCK_SECTORS);
    struct oracle_op *op[3];
    int n = 0;
    bool maybe = discard && (w->may_fill || w->faulty); /* a trim never fails for want of space */
    if (first > last) {
        if (!discard)
            op[n++] = content_begin(w, ORACLE_ZERO, volume, sector, sectors, false);
    } else {
        if (!discard && sector < first)
            op[n++] = content_begin(w, ORACLE_ZERO, volume, sector, first - sector, false);
        if (first < last)
            op[n++] = content_begin(w, ORACLE_ZERO, volume, first, last - first, maybe);
        if (!discard && last < end)
            op[n++] = content_begin(w, ORACLE_ZERO, volume, last, end - last, false);
    }
    uint64_t off = sector * ORACLE_SECTOR, len = sectors * ORACLE_SECTOR;
    int r = discard ? vd_disk_discard(d, off, len, flags) : vd_disk_zero(d, off, len, flags);
    if (discard && r == -ENOSPC)
        world_fail(w, "a discard was refused for want of space");
    changes_end(w, d, op, n, r, flags & VD_DISK_FUA);
    return r;
}

int world_zero(struct world *w, const char *volume, uint64_t sector, uint64_t sectors,
               unsigned flags)
{
    return zero_or_discard(w, volume, sector, sectors, flags, false);
}

int world_discard(struct world *w, const char *volume, uint64_t sector, uint64_t sectors)
{
    return zero_or_discard(w, volume, sector, sectors, 0, true);
}

int world_flush(struct world *w, const char *volume)
{
    struct vd_disk *d = w->stopped ? NULL : world_disk(w, volume, NULL);
    if (!d || world_failed(w))
        return -ECANCELED;
    uint64_t when = oracle_now(w->oracle);
    int r = vd_disk_flush(d);
    if (r == 0) {
        oracle_flushed(w->oracle, when);
        return 0;
    }
    w->stopped = true;
    w->error = w->error ? w->error : r;
    if (!w->faulty && !vd_simdisk_is_cut(w->disk))
        world_fail(w, "a flush failed: %d", r);
    return r;
}

int world_read(struct world *w, const char *volume, const char *snapshot, uint64_t sector,
               uint64_t sectors)
{
    struct vd_disk *d = world_disk(w, volume, snapshot);
    if (!d || world_failed(w))
        return -ECANCELED;
    uint8_t *buf = vd_alloc_aligned(VD_ROUND_UP(sectors * ORACLE_SECTOR, VD_BLOCK));
    char why[1500] = "";
    struct oracle_read *rd = oracle_read_begin(w->oracle, volume, snapshot, sector, sectors);
    int r = vd_disk_read(d, sector * ORACLE_SECTOR, buf, sectors * ORACLE_SECTOR);
    if (r < 0) {
        oracle_read_drop(w->oracle, rd);
        if (!w->faulty && !vd_simdisk_is_cut(w->disk))
            world_fail(w, "a read of %s failed: %d (%s)", volume, r, strerror(-r));
    } else if (oracle_read_end(w->oracle, rd, buf, why, sizeof(why)) < 0) {
        world_fail(w, "%s", why);
    }
    free(buf);
    return r;
}

/* ---- control operations ---- */

/* "a@s b@s" into c->t, and as the store takes it. */
static void parse_targets(const char *text, struct oracle_change *c, struct vd_target *t)
{
    c->targets = 0;
    while (*text && c->targets < ORACLE_TARGETS) {
        size_t len = strcspn(text, " "), name = strcspn(text, "@ ");
        int k = c->targets++;
        snprintf(c->t[k].volume, ORACLE_NAME, "%.*s", (int)name, text);
        if (name < len)
            snprintf(c->t[k].snapshot, ORACLE_NAME, "%.*s", (int)(len - name - 1), text + name + 1);
        t[k] = (struct vd_target){c->t[k].volume, c->t[k].snapshot[0] ? c->t[k].snapshot : NULL};
        text += len + strspn(text + len, " ");
    }
}

static int control(struct world *w, enum oracle_kind kind, const char *targets, const char *to,
                   uint64_t sectors, bool discard)
{
    if (w->stopped || world_failed(w) || !w->store)
        return -ECANCELED;
    struct oracle_change c = {.kind = kind, .sectors = sectors, .discard = discard};
    struct vd_target t[ORACLE_TARGETS];
    struct vd_error err = {0};
    char kept[VD_NAME_MAX + 1] = "";
    struct vd_store *s = w->store;
    parse_targets(targets, &c, t);
    snprintf(c.to, sizeof(c.to), "%s", to ? to : "");
    struct oracle_op *op = oracle_begin(w->oracle, &c);
    int r = -EINVAL;
    vd_log(VD_LOG_DEBUG, "control %d %s %s %" PRIu64, kind, targets, c.to, sectors);
    switch (kind) {
    case ORACLE_CREATE:
        r = vd_store_volume_create(s, t[0].volume, sectors * ORACLE_SECTOR, &err);
        break;
    case ORACLE_DELETE:
        r = vd_store_volume_delete(s, t[0].volume, true, &err);
        break;
    case ORACLE_RENAME:
        r = vd_store_volume_rename(s, t[0].volume, to, &err);
        break;
    case ORACLE_RESIZE:
        r = vd_store_volume_resize(s, t[0].volume, sectors * ORACLE_SECTOR, true, &err);
        break;
    case ORACLE_SNAPSHOT:
        r = vd_store_snapshot_create(s, t, c.targets, &err);
        break;
    case ORACLE_SNAPSHOT_DELETE:
        r = vd_store_snapshot_delete(s, t, c.targets, &err);
        break;
    case ORACLE_SNAPSHOT_RENAME:
        r = vd_store_snapshot_rename(s, t[0], to, &err);
        break;
    case ORACLE_ROLLBACK:
        r = vd_store_rollback(s, t[0], discard, true, kept, &err);
        if (r == 0 && !discard)
            oracle_kept(w->oracle, op, kept);
        break;
    case ORACLE_CLONE:
        r = vd_store_clone(s, t[0], to, &err);
        break;
    case ORACLE_WRITE:
    case ORACLE_ZERO:
        break;
    }
    if (r < 0 && !err.id[0])
        world_fail(w, "%s: %d without a reason", targets, r);
    if (r == -ENOSPC && (kind == ORACLE_DELETE || kind == ORACLE_SNAPSHOT_DELETE))
        world_fail(w, "a deletion was refused for want of space");
    change_end(w, op, r, true);
    if (world_failed(w) && err.id[0])
        snprintf(w->why + strlen(w->why), WORLD_WHY - strlen(w->why), " [%s] %s", err.id,
                 err.message);
    return r;
}

int world_create(struct world *w, const char *volume, uint64_t sectors)
{
    return control(w, ORACLE_CREATE, volume, NULL, sectors, false);
}

int world_delete(struct world *w, const char *volume)
{
    world_close_handles(w, volume);
    return control(w, ORACLE_DELETE, volume, NULL, 0, false);
}

int world_rename(struct world *w, const char *volume, const char *to)
{
    world_close_handles(w, volume);
    return control(w, ORACLE_RENAME, volume, to, 0, false);
}

int world_resize(struct world *w, const char *volume, uint64_t sectors)
{
    return control(w, ORACLE_RESIZE, volume, NULL, sectors, false);
}

int world_snapshot(struct world *w, const char *targets)
{
    return control(w, ORACLE_SNAPSHOT, targets, NULL, 0, false);
}

int world_snapshot_delete(struct world *w, const char *targets)
{
    return control(w, ORACLE_SNAPSHOT_DELETE, targets, NULL, 0, false);
}

int world_snapshot_rename(struct world *w, const char *target, const char *to)
{
    return control(w, ORACLE_SNAPSHOT_RENAME, target, to, 0, false);
}

int world_rollback(struct world *w, const char *target, bool discard)
{
    return control(w, ORACLE_ROLLBACK, target, NULL, 0, discard);
}

int world_clone_volume(struct world *w, const char *target, const char *to)
{
    return control(w, ORACLE_CLONE, target, to, 0, false);
}

/* ---- background ---- */

struct vd_pool *world_pool(struct world *w)
{
    return w->store ? vd_container_of(w->store, struct snap_store, store)->pool : NULL;
}

static int background_end(struct world *w, const char *what, int r)
{
    vd_log(VD_LOG_DEBUG, "%s: %d", what, r);
    if (r >= 0 || r == -ENOSPC)
        return r;
    w->error = w->error ? w->error : r;
    if (!w->faulty && !vd_simdisk_is_cut(w->disk))
        world_fail(w, "%s: %d (%s)", what, r, strerror(-r));
    return r;
}

int world_checkpoint(struct world *w)
{
    if (!w->store || world_failed(w))
        return -ECANCELED;
    uint64_t when = oracle_now(w->oracle);
    int r = background_end(w, "checkpoint", pool_checkpoint(world_pool(w)));
    if (r == 0)
        oracle_flushed(w->oracle, when);
    return r;
}

int world_clean(struct world *w)
{
    if (!w->store || world_failed(w))
        return -ECANCELED;
    return background_end(w, "cleaner", cleaner_batch(world_pool(w), true));
}

int world_settle(struct world *w)
{
    if (!w->store || world_failed(w))
        return -ECANCELED;
    return background_end(w, "settle", vd_store_settle(w->store, NULL));
}

void world_idle(struct world *w)
{
    if (w->store && !world_failed(w))
        vd_fiber_sleep(UINT64_C(4000000000));
}

/* ---- running ---- */

struct run {
    struct world *w;
    void (*fn)(struct world *w, void *arg);
    void *arg;
    bool over;
    struct vd_waitq ended;
};

static void run_watch(void *arg)
{
    struct run *run = arg;
    uint64_t until = vd_loop_now_ns(vd_loop_current()) + RUN_LIMIT_NS;
    while (!run->over) {
        uint64_t now = vd_loop_now_ns(vd_loop_current());
        if (now < until) {
            (void)vd_wait_for(&run->ended, until - now);
            continue;
        }
        fprintf(stderr, "crash-sim: %" PRIu64 " virtual seconds have passed: this never ends\n",
                RUN_LIMIT_NS / 1000000000);
        abort();
    }
}

static int run_main(void *arg)
{
    struct run *run = arg;
    vd_waitq_init(&run->ended);
    int r = vd_fiber_spawn(vd_loop_current(), "watch", run_watch, run);
    if (r == 0)
        run->fn(run->w, run->arg);
    if (run->w->store)
        world_abandon(run->w);
    run->over = true;
    vd_wake_all(&run->ended);
    return r;
}

void world_run(struct world *w, uint64_t seed, void (*fn)(struct world *w, void *arg), void *arg)
{
    struct run run = {.w = w, .fn = fn, .arg = arg};
    int r = vd_fiber_main(VD_LOOP_SIM, seed, run_main, &run);
    if (r < 0)
        world_fail(w, "the loop: %d (%s)", r, strerror(-r));
}
