/* SPDX-License-Identifier: MIT */
/*
 * What a store holds, read through its doors only, and whether that may be: the check's findings,
 * the oracle's verdict on every sector of every volume and snapshot, extents and diffs against what
 * was read. Suspends.
 */
#include "tests/crash/world.h"

#include "core/base/hash.h"
#include "core/base/text.h"
#include "tests/crash/world_priv.h"

#include <stdio.h>
#include <stdlib.h>

#define CHUNK_SECTORS 2048u
#define HOLE_SECTORS 64u
#define ENTRIES 64u

/* ---- listing ---- */

struct listed {
    char volume[VD_NAME_MAX + 1], snapshot[VD_NAME_MAX + 1];
    uint64_t sectors;
    bool automatic;
    struct oracle_content *content;
};
struct listing {
    struct listed v[ENTRIES];
    unsigned n;
};

static struct listed *listing_add(struct listing *l)
{
    return l->n < ENTRIES ? &l->v[l->n++] : NULL;
}

static int list_volume(void *arg, const struct vd_volume_info *info)
{
    struct listed *e = listing_add(arg);
    if (!e)
        return -ENOMEM;
    memcpy(e->volume, info->name, sizeof(e->volume));
    e->sectors = info->size / ORACLE_SECTOR;
    return 0;
}

static int list_snapshot(void *arg, const struct vd_snapshot_info *info)
{
    struct listed *e = listing_add(arg);
    if (!e)
        return -ENOMEM;
    memcpy(e->volume, info->volume, sizeof(e->volume));
    memcpy(e->snapshot, info->name, sizeof(e->snapshot));
    e->sectors = info->size / ORACLE_SECTOR;
    e->automatic = info->automatic;
    return 0;
}

/* ---- reading ---- */

struct reader {
    struct world *w;
    struct vd_disk *disk;
    struct listed *e;
    uint8_t *buf;
};

static void garbage(struct reader *r, uint64_t sector, const uint8_t *bytes)
{
    uint64_t word[2];
    memcpy(word, bytes, sizeof(word));
    world_fail(r->w,
               "%s@%s sector %" PRIu64 " holds bytes that were never written there: %016" PRIx64
               " %016" PRIx64,
               r->e->volume, r->e->snapshot, sector, word[0], word[1]);
}

static int read_piece(struct reader *r, uint64_t sector, uint64_t sectors)
{
    int res = vd_disk_read(r->disk, sector * ORACLE_SECTOR, r->buf, sectors * ORACLE_SECTOR);
    if (res < 0)
        return res;
    for (uint64_t i = 0; i < sectors; i++) {
        uint32_t v = oracle_parse(sector + i, r->buf + i * ORACLE_SECTOR);
        if (v == ORACLE_GARBAGE)
            garbage(r, sector + i, r->buf + i * ORACLE_SECTOR);
        oracle_content_set(r->e->content, sector + i, v);
    }
    return 0;
}

/* What cannot be read is tried block by block. */
static void read_range(struct reader *r, uint64_t sector, uint64_t sectors)
{
    int res = read_piece(r, sector, sectors);
    if (res == 0)
        return;
    if (!r->w->faulty) {
        world_fail(r->w, "%s@%s: reading %" PRIu64 " sectors at %" PRIu64 ": %d (%s)", r->e->volume,
                   r->e->snapshot, sectors, sector, res, strerror(-res));
        return;
    }
    for (uint64_t s = sector; s < sector + sectors; s += 8) {
        uint64_t n = VD_MIN(UINT64_C(8), sector + sectors - s);
        if (read_piece(r, s, n) < 0)
            for (uint64_t i = 0; i < n; i++)
                oracle_content_set(r->e->content, s + i, ORACLE_UNREADABLE);
    }
}

/* Reads all that the extents do not say is zero; and some of that, which must be. */
static void read_all(struct reader *r)
{
    uint64_t size = r->e->sectors * ORACLE_SECTOR;
    for (uint64_t off = 0; off < size && !world_failed(r->w);) {
        struct vd_extent x[32];
        int n = VD_ARRAY_SIZE(x);
        int res = vd_disk_extents(r->disk, off, size - off, x, &n);
        if (res < 0 && r->w->faulty) { /* read it all, then */
            x[0] = (struct vd_extent){.off = off, .len = VD_MIN(size - off, VD_MIB(8))};
            n = 1;
        } else if (res < 0 || n == 0) {
            world_fail(r->w, "%s@%s: extents at %" PRIu64 ": %d", r->e->volume, r->e->snapshot, off,
                       res);
            return;
        }
        for (int i = 0; i < n; i++) {
            bool zero = x[i].flags & VD_EXTENT_ZERO;
            if (x[i].off != off || x[i].len == 0) {
                world_fail(r->w, "%s: extents leave a gap at %" PRIu64, r->e->volume, off);
                return;
            }
            uint64_t s = off / ORACLE_SECTOR, end = (off + x[i].len) / ORACLE_SECTOR;
            off += x[i].len;
            /* Of long holes the ends will do. */
            uint64_t skip_from = end - s > 4 * HOLE_SECTORS ? s + HOLE_SECTORS : end;
            for (uint64_t len; s < end; s += len) {
                if (zero && s == skip_from)
                    s = end - HOLE_SECTORS;
                len =
                    VD_MIN((zero && s < skip_from ? skip_from : end) - s, (uint64_t)CHUNK_SECTORS);
                read_range(r, s, len);
                if (zero && len && !vd_is_zero(r->buf, len * ORACLE_SECTOR) && !r->w->faulty)
                    world_fail(r->w, "%s@%s: the extent at %" PRIu64 " is not zero", r->e->volume,
                               r->e->snapshot, s);
            }
        }
    }
}

static void read_entry(struct world *w, struct listed *e, uint8_t *buf)
{
    struct vd_error err = {0};
    struct reader r = {.w = w, .e = e, .buf = buf};
    struct vd_target t = {e->volume, e->snapshot[0] ? e->snapshot : NULL};
    int res = vd_store_open(w->store, t, true, &r.disk, &err);
    if (res < 0) {
        world_fail(w, "open %s@%s: %s", e->volume, e->snapshot, err.message);
        return;
    }
    read_all(&r);
    vd_disk_unref(r.disk);
}

/* ---- diffs ---- */

struct diff_look {
    struct world *w;
    const struct listed *from, *to;
    uint64_t at; /* sectors below are accounted for */
};

/* Nothing that the diff leaves out may differ. */
static void diff_same(struct diff_look *d, uint64_t end)
{
    uint64_t s = oracle_content_differs(d->from->content, d->to->content, d->at, end);
    if (s < end && !world_failed(d->w))
        world_fail(d->w,
                   "diff of %s@%s (%" PRIu64 " sectors) to @%s (%" PRIu64
                   ") leaves out sector %" PRIu64 ", which differs",
                   d->from->volume, d->from->snapshot, d->from->sectors, d->to->snapshot,
                   d->to->sectors, s);
}

static int diff_extent(void *arg, const struct vd_extent *x)
{
    struct diff_look *d = arg;
    diff_same(d, x->off / ORACLE_SECTOR);
    d->at = (x->off + x->len) / ORACLE_SECTOR;
    return 0;
}

static void diff_check(struct world *w, const struct listed *from, const struct listed *to)
{
    struct diff_look d = {w, from, to, 0};
    struct vd_error err = {0};
    struct vd_target a = {from->volume, from->snapshot},
                     b = {to->volume, to->snapshot[0] ? to->snapshot : NULL};
    int r = vd_store_diff(w->store, a, b, diff_extent, &d, &err);
    if (r == 0)
        diff_same(&d, to->sectors);
    else if (!w->faulty)
        world_fail(w, "diff of %s@%s: %s", from->volume, from->snapshot, err.message);
}

/* Each snapshot against the live volume and against the next snapshot. */
static void diffs_check(struct world *w, const struct listing *l)
{
    for (unsigned i = 0; i < l->n && !world_failed(w); i++) {
        if (!l->v[i].snapshot[0])
            continue;
        bool next = false;
        for (unsigned k = 0; k < l->n; k++) {
            if (strcmp(l->v[k].volume, l->v[i].volume) || k == i)
                continue;
            bool live = !l->v[k].snapshot[0];
            if (live || (k > i && !next))
                diff_check(w, &l->v[i], &l->v[k]);
            next |= k > i && !live;
        }
    }
}

/* ---- judging ---- */

static void check_finding(void *arg, const char *finding)
{
    struct world *w = arg;
    if (!w->faulty)
        world_fail(w, "check: %s", finding);
}

static struct oracle_state *found_state(struct world *w)
{
    struct listing *l = calloc(1, sizeof(*l));
    uint8_t *buf = vd_alloc_aligned(CHUNK_SECTORS * ORACLE_SECTOR);
    struct oracle_state *s = oracle_state_new();
    int r = vd_store_volumes(w->store, list_volume, l);
    if (r == 0)
        r = vd_store_snapshots(w->store, NULL, list_snapshot, l);
    if (r < 0)
        world_fail(w, "listing: %d", r);
    for (unsigned i = 0; i < l->n && !world_failed(w); i++) {
        struct listed *e = &l->v[i];
        e->content =
            oracle_state_add(w->oracle, s, e->volume, e->snapshot, e->sectors, e->automatic);
        read_entry(w, e, buf);
    }
    if (!world_failed(w))
        diffs_check(w, l);
    free(buf);
    free(l);
    return s;
}

int world_judge(struct world *w, enum oracle_floor floor)
{
    if (world_failed(w) || !w->store)
        return -ECANCELED;
    struct vd_error err = {0};
    int r = vd_store_check(w->store, true, check_finding, w, NULL, &w->report, &err);
    if (r < 0 && !w->faulty)
        world_fail(w, "check: %d %s", r, err.message);
    struct oracle_state *found = found_state(w);
    if (!world_failed(w)) {
        if (w->gave_up || (w->told && vd_simdisk_writes_failed(w->disk, true) > w->handed_failed))
            floor = VD_MAX(floor, ORACLE_DURABLE);
        (void)oracle_judge(w->oracle, found, floor, &w->verdict, w->why, WORLD_WHY);
        w->gave_up = w->told = false;
    }
    if (!world_failed(w)) {
        struct oracle *next = oracle_fork(w->oracle, found);
        if (!w->oracle_borrowed)
            oracle_free(w->oracle);
        w->oracle = next;
        w->oracle_borrowed = false;
    }
    oracle_state_free(found);
    return world_failed(w) ? -EUCLEAN : 0;
}

int world_reopen(struct world *w, unsigned flags, enum oracle_floor floor)
{
    int r = world_attach(w, flags);
    return r < 0 ? r : world_judge(w, floor);
}
