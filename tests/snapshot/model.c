/* SPDX-License-Identifier: MIT */
/* The model of model.h, and comparing a store with it. Aborts without memory. */
#include "tests/snapshot/model.h"

#include "core/base/rng.h"
#include "core/base/text.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- views ---- */

static void view_init(struct mview *v, uint64_t size)
{
    v->size = size;
    v->blocks = VD_DIV_UP(size, VD_BLOCK);
    v->sector = calloc(v->blocks * BLOCK_SECTORS + 1, sizeof(*v->sector));
    v->block = calloc(v->blocks + 1, sizeof(*v->block));
}

static void view_done(struct mview *v)
{
    free(v->sector);
    free(v->block);
}

static void view_copy(const struct mview *from, struct mview *to)
{
    view_init(to, from->size);
    memcpy(to->sector, from->sector, to->blocks * BLOCK_SECTORS * sizeof(*to->sector));
    memcpy(to->block, from->block, to->blocks * sizeof(*to->block));
}

static bool block_zero(const struct mview *v, uint64_t lba)
{
    if (lba >= v->blocks)
        return true;
    for (unsigned i = 0; i < BLOCK_SECTORS; i++)
        if (v->sector[lba * BLOCK_SECTORS + i])
            return false;
    return true;
}

void model_write(struct model *m, struct mview *v, uint64_t off, uint64_t len, uint32_t stamp)
{
    for (uint64_t s = off / VD_SECTOR; s < (off + len) / VD_SECTOR; s++)
        v->sector[s] = stamp;
    m->stamp = VD_MAX(m->stamp, stamp);
    uint32_t id = ++m->stamp;
    for (uint64_t b = off / VD_BLOCK; b < VD_DIV_UP(off + len, VD_BLOCK); b++)
        v->block[b] = id;
}

static void sectors_zero(struct model *m, struct mview *v, uint64_t off, uint64_t len)
{
    if (len)
        model_write(m, v, off, len, 0);
}

static void blocks_zero(struct mview *v, uint64_t first, uint64_t last)
{
    for (uint64_t b = first; b < last; b++) {
        v->block[b] = 0;
        memset(&v->sector[b * BLOCK_SECTORS], 0, BLOCK_SECTORS * sizeof(*v->sector));
    }
}

void model_zero(struct model *m, struct mview *v, uint64_t off, uint64_t len)
{
    uint64_t end = off + len, first = VD_DIV_UP(off, VD_BLOCK), last = end / VD_BLOCK;
    if (end == v->size)
        last = v->blocks;
    if (first > last) {
        sectors_zero(m, v, off, len);
        return;
    }
    if (off % VD_BLOCK)
        sectors_zero(m, v, off, first * VD_BLOCK - off);
    blocks_zero(v, first, last);
    if (last * VD_BLOCK < end)
        sectors_zero(m, v, last * VD_BLOCK, end - last * VD_BLOCK);
}

void model_discard(struct mview *v, uint64_t off, uint64_t len)
{
    uint64_t end = off + len, last = end == v->size ? v->blocks : end / VD_BLOCK;
    blocks_zero(v, VD_DIV_UP(off, VD_BLOCK), last);
}

void model_resize(struct model *m, struct mview *v, uint64_t size)
{
    struct mview n;
    if (size > v->size && v->size % VD_BLOCK)
        sectors_zero(m, v, v->size, VD_BLOCK - v->size % VD_BLOCK);
    view_init(&n, size);
    uint64_t blocks = VD_MIN(n.blocks, v->blocks);
    memcpy(n.sector, v->sector, blocks * BLOCK_SECTORS * sizeof(*n.sector));
    memcpy(n.block, v->block, blocks * sizeof(*n.block));
    view_done(v);
    *v = n;
}

/* ---- volumes and snapshots ---- */

void model_free(struct model *m)
{
    while (m->nvol)
        model_delete(m, m->vol[0].name);
    free(m->vol);
    m->vol = NULL;
}

void model_copy(const struct model *from, struct model *to)
{
    *to = (struct model){.nvol = from->nvol, .stamp = from->stamp};
    to->vol = calloc((size_t)from->nvol + 1, sizeof(*to->vol));
    for (int i = 0; i < from->nvol; i++) {
        const struct mvol *a = &from->vol[i];
        struct mvol *b = &to->vol[i];
        *b = *a;
        view_copy(&a->live, &b->live);
        b->snap = calloc((size_t)a->nsnap + 1, sizeof(*b->snap));
        for (int k = 0; k < a->nsnap; k++) {
            b->snap[k] = a->snap[k];
            view_copy(&a->snap[k].view, &b->snap[k].view);
        }
    }
}

struct mvol *model_volume(struct model *m, const char *name)
{
    for (int i = 0; i < m->nvol; i++)
        if (strcmp(m->vol[i].name, name) == 0)
            return &m->vol[i];
    return NULL;
}

struct msnap *model_snapshot(struct mvol *v, const char *name)
{
    for (int i = 0; i < v->nsnap; i++)
        if (strcmp(v->snap[i].name, name) == 0)
            return &v->snap[i];
    return NULL;
}

struct mview *model_view(struct model *m, struct vd_target t)
{
    struct mvol *v = model_volume(m, t.volume);
    struct msnap *s = v && t.snapshot ? model_snapshot(v, t.snapshot) : NULL;
    if (t.snapshot)
        return s ? &s->view : NULL;
    return v ? &v->live : NULL;
}

static struct mvol *volume_add(struct model *m, const char *name)
{
    m->vol = realloc(m->vol, ((size_t)m->nvol + 1) * sizeof(*m->vol));
    struct mvol *v = &m->vol[m->nvol++];
    *v = (struct mvol){0};
    snprintf(v->name, sizeof(v->name), "%s", name);
    return v;
}

struct mvol *model_create(struct model *m, const char *name, uint64_t size)
{
    struct mvol *v = volume_add(m, name);
    view_init(&v->live, size);
    return v;
}

void model_delete(struct model *m, const char *name)
{
    struct mvol *v = model_volume(m, name);
    view_done(&v->live);
    for (int i = 0; i < v->nsnap; i++)
        view_done(&v->snap[i].view);
    free(v->snap);
    *v = m->vol[--m->nvol];
}

void model_snap(struct mvol *v, const char *name)
{
    v->snap = realloc(v->snap, ((size_t)v->nsnap + 1) * sizeof(*v->snap));
    struct msnap *s = &v->snap[v->nsnap++];
    *s = (struct msnap){0};
    snprintf(s->name, sizeof(s->name), "%s", name);
    view_copy(&v->live, &s->view);
}

void model_snap_delete(struct mvol *v, const char *name)
{
    struct msnap *s = model_snapshot(v, name);
    view_done(&s->view);
    *s = v->snap[--v->nsnap];
}

void model_clone(struct model *m, struct vd_target t, const char *name)
{
    struct mview copy;
    view_copy(model_view(m, t), &copy);
    volume_add(m, name)->live = copy;
}

void model_rollback(struct model *m, struct vd_target t, const char *kept)
{
    struct mvol *v = model_volume(m, t.volume);
    if (kept)
        model_snap(v, kept);
    view_done(&v->live);
    view_copy(&model_snapshot(v, t.snapshot)->view, &v->live);
}

/* ---- bytes ---- */

void model_fill(uint32_t stamp, uint64_t sector, void *buf, uint64_t sectors)
{
    uint64_t *p = buf;
    for (uint64_t s = 0; s < sectors; s++)
        for (unsigned i = 0; i < VD_SECTOR / 8; i++)
            *p++ = stamp ? (sector + s) << 40 ^ (uint64_t)stamp << 8 ^ i : 0;
}

static const char *target_text(struct vd_target t, char *buf, size_t len)
{
    snprintf(buf, len, "%s%s%s", t.volume, t.snapshot ? "@" : "", t.snapshot ? t.snapshot : "");
    return buf;
}

/* What the first sector that differs says. */
static int differs(const struct mview *v, struct vd_target t, uint64_t off, const uint8_t *got,
                   uint64_t len, char *why, size_t why_len)
{
    uint8_t want[VD_SECTOR];
    char name[300];
    for (uint64_t s = off / VD_SECTOR; s < (off + len) / VD_SECTOR; s++, got += VD_SECTOR) {
        model_fill(v->sector[s], s, want, 1);
        if (memcmp(want, got, VD_SECTOR) == 0)
            continue;
        uint64_t first;
        memcpy(&first, got, sizeof(first));
        snprintf(why, why_len,
                 "%s: sector %" PRIu64 " (block %" PRIu64 ") has stamp %" PRIu64
                 " of sector %" PRIu64 ", should have %u",
                 target_text(t, name, sizeof(name)), s, s / BLOCK_SECTORS, first >> 8 & UINT32_MAX,
                 first >> 40, v->sector[s]);
        return -EUCLEAN;
    }
    return 0;
}

int model_verify_view(struct model *m, struct vd_store *s, struct vd_target t, char *why,
                      size_t len)
{
    const struct mview *v = model_view(m, t);
    struct vd_disk_info info;
    struct vd_error err = {0};
    struct vd_disk *d;
    char name[300];
    int r = vd_store_open(s, t, true, &d, &err);
    if (r < 0) {
        snprintf(why, len, "%s: %s", target_text(t, name, sizeof(name)), err.message);
        return r;
    }
    vd_disk_info(d, &info);
    if (info.size != v->size) {
        snprintf(why, len, "%s: size %" PRIu64 ", should be %" PRIu64,
                 target_text(t, name, sizeof(name)), info.size, v->size);
        r = -EUCLEAN;
    }
    const uint64_t step = 256 * 1024;
    uint8_t *buf = vd_alloc_aligned(step);
    for (uint64_t off = 0; r == 0 && off < v->size; off += step) {
        uint64_t n = VD_MIN(step, v->size - off);
        r = vd_disk_read(d, off, buf, n);
        if (r < 0)
            snprintf(why, len, "%s: reading at %" PRIu64 ": %s", target_text(t, name, sizeof(name)),
                     off, strerror(-r));
        else
            r = differs(v, t, off, buf, n, why, len);
    }
    free(buf);
    vd_disk_unref(d);
    return r;
}

struct counts {
    struct model *m;
    int volumes, snapshots;
    char *why;
    size_t len;
};

static int count_volume(void *arg, const struct vd_volume_info *info)
{
    struct counts *c = arg;
    const struct mvol *v = model_volume(c->m, info->name);
    c->volumes++;
    if (v && info->snapshots == (unsigned)v->nsnap)
        return 0;
    snprintf(c->why, c->len, "volume %s: %s", info->name, v ? "snapshots" : "should not be there");
    return -EUCLEAN;
}

static int count_snapshot(void *arg, const struct vd_snapshot_info *info)
{
    struct counts *c = arg;
    c->snapshots++;
    if (model_view(c->m, (struct vd_target){info->volume, info->name}))
        return 0;
    snprintf(c->why, c->len, "snapshot %s@%s should not be there", info->volume, info->name);
    return -EUCLEAN;
}

int model_verify(struct model *m, struct vd_store *s, char *why, size_t len)
{
    struct counts c = {.m = m, .why = why, .len = len};
    int snapshots = 0, r = vd_store_volumes(s, count_volume, &c);
    if (r == 0)
        r = vd_store_snapshots(s, NULL, count_snapshot, &c);
    for (int i = 0; i < m->nvol; i++)
        snapshots += m->vol[i].nsnap;
    if (r == 0 && (c.volumes != m->nvol || c.snapshots != snapshots)) {
        snprintf(why, len, "%d volumes and %d snapshots, should be %d and %d", c.volumes,
                 c.snapshots, m->nvol, snapshots);
        r = -EUCLEAN;
    }
    for (int i = 0; r == 0 && i < m->nvol; i++) {
        const struct mvol *v = &m->vol[i];
        r = model_verify_view(m, s, (struct vd_target){v->name, NULL}, why, len);
        for (int k = 0; r == 0 && k < v->nsnap; k++)
            r = model_verify_view(m, s, (struct vd_target){v->name, v->snap[k].name}, why, len);
    }
    return r;
}

/* ---- extents ---- */

int model_verify_extents(struct model *m, struct vd_store *s, struct vd_target t, char *why,
                         size_t len)
{
    const struct mview *v = model_view(m, t);
    struct vd_disk *d;
    struct vd_error err = {0};
    int r = vd_store_open(s, t, true, &d, &err);
    uint64_t off = 0;
    while (r == 0 && off < v->size) {
        struct vd_extent e[3];
        int n = 3;
        r = vd_disk_extents(d, off, v->size - off, e, &n);
        for (int i = 0; r == 0 && i < n; i++) {
            for (uint64_t b = e[i].off / VD_BLOCK; b * VD_BLOCK < e[i].off + e[i].len; b++) {
                unsigned want = block_zero(v, b) ? VD_EXTENT_HOLE | VD_EXTENT_ZERO : 0;
                if (e[i].flags == want)
                    continue;
                snprintf(why, len, "extents of %s: block %" PRIu64 " has flags %u, should be %u",
                         t.volume, b, e[i].flags, want);
                r = -EUCLEAN;
                break;
            }
            off = e[i].off + e[i].len;
        }
    }
    vd_disk_unref(d);
    return r;
}

/* ---- diff ---- */

struct seen {
    uint8_t *block; /* 1 data, 2 zero */
    uint64_t blocks, size, end;
    bool bad;
};

static int diff_seen(void *arg, const struct vd_extent *e)
{
    struct seen *d = arg;
    d->bad = d->bad || e->off < d->end || !e->len || e->off + e->len > d->size || e->off % VD_BLOCK;
    if (d->bad)
        return 0;
    d->end = e->off + e->len;
    for (uint64_t b = e->off / VD_BLOCK; b * VD_BLOCK < d->end; b++)
        d->block[b] = e->flags & VD_EXTENT_ZERO ? 2 : 1;
    return 0;
}

int model_verify_diff(struct model *m, struct vd_store *s, struct vd_target from,
                      struct vd_target to, char *why, size_t len)
{
    const struct mview *a = from.volume ? model_view(m, from) : NULL, *b = model_view(m, to);
    struct seen seen = {.blocks = b->blocks, .size = b->size, .block = calloc(b->blocks + 1, 1)};
    struct vd_error err = {0};
    char x[300], y[300];
    int r = vd_store_diff(s, from, to, diff_seen, &seen, &err);
    if (r < 0)
        snprintf(why, len, "diff: %s", err.message);
    if (r == 0 && seen.bad) {
        snprintf(why, len, "diff: extents out of order or range");
        r = -EUCLEAN;
    }
    for (uint64_t i = 0; r == 0 && i < b->blocks; i++) {
        bool az = !a || block_zero(a, i), bz = block_zero(b, i);
        bool same = az || bz ? az && bz : a->block[i] == b->block[i];
        if (a && a->size % VD_BLOCK && a->size < b->size && i == a->size / VD_BLOCK)
            same = az && bz; /* cut off at different places */
        int want = same ? 0 : bz ? 2 : 1;
        if (seen.block[i] == want)
            continue;
        snprintf(why, len, "diff from %s to %s: block %" PRIu64 " is %d, should be %d",
                 from.volume ? target_text(from, x, sizeof(x)) : "nothing",
                 target_text(to, y, sizeof(y)), i, seen.block[i], want);
        r = -EUCLEAN;
    }
    free(seen.block);
    return r;
}
