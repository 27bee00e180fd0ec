/* SPDX-License-Identifier: MIT */
/*
 * The overlay: applying entries, and what it counts. See overlay_priv.h for the structure and its
 * invariants. Pure; called on the pool's loop by the log (live and at replay) and by snapshot/.
 */
#include "pool/overlay_priv.h"

#include <stdlib.h>

/* ---- branches ---- */

struct overlay *overlay_new(void)
{
    return calloc(1, sizeof(struct overlay));
}

void overlay_free(struct overlay *ov)
{
    if (!ov)
        return;
    for (size_t i = 0; i < ov->branches; i++)
        free(ov->branch[i]);
    free(ov->branch);
    moved_done(&ov->moved);
    arena_done(&ov->arena);
    free(ov);
}

size_t branch_ceil(const struct overlay *ov, uint64_t id)
{
    size_t lo = 0, n = ov->branches;
    while (n > 0) {
        size_t half = n / 2;
        if (ov->branch[lo + half]->id < id) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return lo;
}

struct ov_branch *branch_find(const struct overlay *ov, uint64_t id)
{
    size_t i = branch_ceil(ov, id);
    return i < ov->branches && ov->branch[i]->id == id ? ov->branch[i] : NULL;
}

struct ov_branch *branch_make(struct overlay *ov, uint64_t id)
{
    size_t i = branch_ceil(ov, id);
    if (i < ov->branches && ov->branch[i]->id == id)
        return ov->branch[i];
    if (ov->branches == ov->branch_room) {
        size_t room = VD_MAX(ov->branch_room * 2, (size_t)8);
        struct ov_branch **v = realloc(ov->branch, room * sizeof(struct ov_branch *));
        if (!v)
            return NULL;
        ov->branch = v;
        ov->branch_room = room;
    }
    struct ov_branch *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->id = id;
    memmove(ov->branch + i + 1, ov->branch + i, (ov->branches - i) * sizeof(struct ov_branch *));
    ov->branch[i] = b;
    ov->branches++;
    return b;
}

/* ---- records ---- */

/* What one epoch says about a cell: runs in order, checksums by block of the cell. */
struct group {
    unsigned n, data_blocks;
    struct part {
        struct vd_addr addr;
        uint8_t off, blocks, type;
    } v[VD_CELL_BLOCKS];
};

static void group_add(struct group *g, const struct part *v, unsigned off, unsigned end)
{
    struct part *last = g->n ? &g->v[g->n - 1] : NULL;
    if (last && last->type == VD_RUN_ZERO && v->type == VD_RUN_ZERO &&
        last->off + last->blocks == off) {
        last->blocks = (uint8_t)(end - last->off);
        return;
    }
    struct part *to = &g->v[g->n++];
    *to = *v;
    to->off = (uint8_t)off;
    to->blocks = (uint8_t)(end - off);
    if (v->type == VD_RUN_DATA) {
        to->addr = vd_addr_plus(v->addr, off - v->off);
        g->data_blocks += end - off;
    }
}

static uint32_t group_bytes(const struct group *g)
{
    return (uint32_t)(g->n * sizeof(struct ov_ver) + 8 * g->data_blocks);
}

/* Reads the versions of `epoch` off the end of r (may be NULL); returns where they begin. */
static uint32_t group_load(const struct ov_rec *r, uint64_t epoch, struct group *g, uint64_t *csum)
{
    uint32_t end = r ? r->used : 0, start = end;

    g->n = 0;
    g->data_blocks = 0;
    while (end > 0) {
        const struct ov_ver *v = rec_prev(r, &end);
        if (v->born != epoch)
            break;
        struct part one = {v->addr, v->off, v->blocks, v->type};
        group_add(g, &one, v->off, v->off + v->blocks);
        memcpy(&csum[v->off], ver_csum(v), 8 * ver_csums(v));
        start = end;
    }
    for (unsigned i = 0; i < g->n / 2; i++) { /* they came newest first */
        struct part tmp = g->v[i];
        g->v[i] = g->v[g->n - 1 - i];
        g->v[g->n - 1 - i] = tmp;
    }
    return start;
}

static void group_store(const struct group *g, uint64_t born, const uint64_t *csum,
                        struct ov_rec *r, uint32_t start)
{
    uint8_t *p = r->data + start;
    for (unsigned i = 0; i < g->n; i++) {
        const struct part *one = &g->v[i];
        struct ov_ver v = {
            .born = born,
            .addr = one->addr,
            .off = one->off,
            .blocks = one->blocks,
            .type = one->type,
        };
        memcpy(p, &csum[v.off], 8 * ver_csums(&v));
        p += 8 * ver_csums(&v);
        memcpy(p, &v, sizeof(v));
        p += sizeof(v);
    }
    r->used = (uint32_t)(p - r->data);
}

/* *old without [off, end), with `add` (if not NULL) in its place. */
static void group_cut(const struct group *old, unsigned off, unsigned end, const struct part *add,
                      struct group *g)
{
    bool added = !add;

    g->n = 0;
    g->data_blocks = 0;
    for (unsigned i = 0; i < old->n; i++) {
        const struct part *v = &old->v[i];
        unsigned v_end = v->off + v->blocks;
        if (v->off < off)
            group_add(g, v, v->off, VD_MIN(v_end, off));
        if (!added && v_end > off) {
            group_add(g, add, off, end);
            added = true;
        }
        if (v_end > end)
            group_add(g, v, VD_MAX(v->off, end), v_end);
    }
    if (!added)
        group_add(g, add, off, end);
}

/* A record at *slot with room for `bytes`; what it holds is kept. */
static struct ov_rec *rec_room(struct overlay *ov, void **slot, uint32_t bytes, unsigned level)
{
    struct ov_rec *old = *slot;
    if (ov->largest[level] < bytes)
        ov->largest[level] = bytes;
    if (old && old->room >= bytes)
        return old;
    size_t size = sizeof(struct ov_rec) + bytes;
    struct ov_rec *r = arena_alloc(&ov->arena, &size);
    if (!r)
        return NULL;
    r->used = old ? old->used : 0;
    r->room = (uint32_t)(size - sizeof(*r));
    if (old) {
        memcpy(r->data, old->data, old->used);
        arena_free(&ov->arena, old, sizeof(*old) + old->room);
    }
    *slot = r;
    return r;
}

static void rec_free(struct overlay *ov, struct ov_rec *r)
{
    if (r)
        arena_free(&ov->arena, r, sizeof(*r) + r->room);
}

/* The slot of a record with room for `extra` more bytes. */
static void **rec_reserve(struct overlay *ov, struct ov_branch *b, unsigned level, uint64_t key,
                          uint64_t epoch, uint32_t extra)
{
    void **slot = index_insert(&b->level[level], &ov->arena, key, epoch);
    if (!slot)
        return NULL;
    struct ov_rec *r = *slot;
    if (rec_room(ov, slot, (r ? r->used : 0) + extra, level))
        return slot;
    if (!r)
        index_remove(&b->level[level], &ov->arena, key);
    return NULL;
}

static void rec_drop_empty(struct overlay *ov, struct ov_branch *b, unsigned level, uint64_t key)
{
    struct ov_rec *r = index_find(&b->level[level], key);
    if (!r || r->used)
        return;
    index_remove(&b->level[level], &ov->arena, key);
    rec_free(ov, r);
}

/* ---- applying inside a cell ---- */

/* Puts `add` (NULL: nothing) where epoch `born` had something of [off, end) of the cell. */
static int cell_apply(struct overlay *ov, struct ov_branch *b, uint64_t cell, uint64_t born,
                      unsigned off, unsigned end, const struct part *add, const uint64_t *add_csum)
{
    struct group old, now;
    uint64_t csum[VD_CELL_BLOCKS];
    void **slot = index_insert(&b->level[0], &ov->arena, cell, born);
    if (!slot)
        return -ENOMEM;
    struct ov_rec *r = *slot;
    uint32_t start = group_load(r, born, &old, csum);
    group_cut(&old, off, end, add, &now);
    if (add && add->type == VD_RUN_DATA)
        memcpy(&csum[off], add_csum, 8 * (end - off));
    uint32_t bytes = start + group_bytes(&now);
    if (bytes) {
        r = rec_room(ov, slot, bytes, 0);
        if (!r) {
            if (!*slot)
                index_remove(&b->level[0], &ov->arena, cell);
            return -ENOMEM;
        }
        group_store(&now, born, csum, r, start);
    } else {
        rec_free(ov, r);
        index_remove(&b->level[0], &ov->arena, cell);
    }
    ov->versions += now.n - (size_t)old.n;
    ov->data_blocks += (uint64_t)now.data_blocks - old.data_blocks;
    return 0;
}

/* ---- applying ZERO ranges ---- */

/* One piece of a ZERO range: part of a cell, a cell (level 0), or 32^level cells. */
struct piece {
    unsigned level;
    uint64_t key;
    unsigned off, end; /* level 0 */
    uint64_t lba, blocks;
};

static void piece_at(uint64_t lba, uint64_t end, struct piece *p)
{
    uint64_t cell = lba / VD_CELL_BLOCKS;
    p->lba = lba;
    p->level = 0;
    p->key = cell;
    p->off = (unsigned)(lba % VD_CELL_BLOCKS);
    p->end = (unsigned)VD_MIN(end - cell * VD_CELL_BLOCKS, (uint64_t)VD_CELL_BLOCKS);
    p->blocks = p->end - p->off;
    if (p->blocks < VD_CELL_BLOCKS)
        return;
    uint64_t cells = (end - lba) / VD_CELL_BLOCKS, span = 1;
    while (p->level + 1 < OV_LEVELS && cell % (span * 32) == 0 && cells >= span * 32) {
        span *= 32;
        p->level++;
    }
    p->key = cell >> (5 * p->level);
    p->blocks = span * VD_CELL_BLOCKS;
}

static uint64_t rec_newest(const struct ov_rec *r, bool *any)
{
    uint32_t end = r ? r->used : 0;
    *any = end > 0;
    return end ? rec_prev(r, &end)->born : 0;
}

/* Is the piece inside a coarser one of the same epoch? Then it is enough to remove finer things. */
static bool piece_covered(const struct ov_branch *b, const struct piece *p, uint64_t born)
{
    bool any;
    for (unsigned k = p->level + 1; k < OV_LEVELS; k++)
        if (b->level[k].root &&
            rec_newest(index_find(&b->level[k], p->key >> (5 * (k - p->level))), &any) == born &&
            any)
            return true;
    return false;
}

struct dropping {
    struct overlay *ov;
    uint64_t born;
};

static bool rec_drop_epoch(void *arg, void *val)
{
    struct dropping *d = arg;
    struct ov_rec *r = val;
    uint32_t end = r->used;

    while (end > 0) {
        const struct ov_ver *v = rec_prev(r, &end);
        if (v->born != d->born)
            break;
        r->used = end;
        d->ov->versions--;
        d->ov->data_blocks -= ver_csums(v);
    }
    if (r->used)
        return false;
    rec_free(d->ov, r);
    return true;
}

/* Cannot fail: piece_reserve went before. */
static void piece_apply(struct overlay *ov, struct ov_branch *b, const struct piece *p,
                        uint64_t born)
{
    struct ov_ver zero = {.born = born, .type = VD_RUN_ZERO};
    bool covered = piece_covered(b, p, born), any;

    if (p->level == 0) {
        struct part part = {.off = (uint8_t)p->off, .type = VD_RUN_ZERO};
        int r = cell_apply(ov, b, p->key, born, p->off, p->end, covered ? NULL : &part, NULL);
        assert(r == 0);
        (void)r;
        return;
    }
    struct dropping d = {.ov = ov, .born = born};
    for (unsigned k = 0; k < p->level; k++) {
        unsigned shift = 5 * (p->level - k);
        index_drop(&b->level[k], &ov->arena, p->key << shift, ((p->key + 1) << shift) - 1, born,
                   rec_drop_epoch, &d);
    }
    struct ov_rec *r = index_find(&b->level[p->level], p->key);
    if (!covered && (rec_newest(r, &any) != born || !any)) {
        memcpy(r->data + r->used, &zero, sizeof(zero));
        r->used += (uint32_t)sizeof(zero);
        ov->versions++;
    }
    rec_drop_empty(ov, b, p->level, p->key);
}

static int zero_apply(struct overlay *ov, struct ov_branch *b, const struct vd_run *run)
{
    uint64_t end = vd_run_end(run), at;
    struct piece p;
    int r = 0;

    /* At most one version more than before, and one that is split in two. */
    for (at = run->lba; at < end && r == 0; at += p.blocks) {
        piece_at(at, end, &p);
        if (!rec_reserve(ov, b, p.level, p.key, run->born, 2 * sizeof(struct ov_ver)))
            r = -ENOMEM;
    }
    uint64_t reserved = at;
    for (at = run->lba; at < reserved; at += p.blocks) {
        piece_at(at, end, &p);
        if (r == 0)
            piece_apply(ov, b, &p, run->born);
        else
            rec_drop_empty(ov, b, p.level, p.key);
    }
    return r;
}

int overlay_apply(struct overlay *ov, uint64_t branch, const struct vd_run *run)
{
    uint64_t off = run->lba % VD_CELL_BLOCKS;

    if (!run->blocks || run->lba >= OV_LBA_MAX || run->blocks > OV_LBA_MAX - run->lba)
        return -EINVAL;
    if (run->type != VD_RUN_ZERO &&
        (run->type != VD_RUN_DATA || off + run->blocks > VD_CELL_BLOCKS))
        return -EINVAL;
    struct ov_branch *b = branch_make(ov, branch);
    if (!b)
        return -ENOMEM;
    if (run->born < b->newest)
        return -EINVAL;
    int r;
    if (run->type == VD_RUN_ZERO) {
        r = zero_apply(ov, b, run);
    } else {
        struct part v = {run->addr, (uint8_t)off, (uint8_t)run->blocks, VD_RUN_DATA};
        r = cell_apply(ov, b, run->lba / VD_CELL_BLOCKS, run->born, (unsigned)off,
                       (unsigned)(off + run->blocks), &v, run->csum);
    }
    if (r == 0)
        b->newest = run->born;
    return r;
}

/* ---- counts ---- */

size_t overlay_entries(const struct overlay *ov)
{
    return ov->versions + ov->moved.count;
}

size_t overlay_relocations(const struct overlay *ov)
{
    return ov->moved.count;
}

size_t overlay_memory(const struct overlay *ov)
{
    return sizeof(*ov) + ov->arena.bytes + ov->moved.bytes +
           ov->branch_room * sizeof(struct ov_branch *) + ov->branches * sizeof(struct ov_branch);
}

uint64_t overlay_data_blocks(const struct overlay *ov)
{
    return ov->data_blocks;
}

bool overlay_empty(const struct overlay *ov)
{
    return overlay_entries(ov) == 0;
}
