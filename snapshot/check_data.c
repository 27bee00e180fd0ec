/* SPDX-License-Identifier: MIT */
/*
 * The parts of a check that look beyond the map's own keys: does CHANGED mark every version's chunk
 * between the retained epochs it was born between, and do stored blocks match their checksums. Part
 * of check.c's pass; suspends.
 */
#include "core/base/text.h"
#include "snapshot/check_priv.h"

#include <stdlib.h>

/* The recorded epoch that ends the interval `epoch` lies in. */
static uint64_t interval_end(const struct branch *b, uint64_t epoch)
{
    unsigned lo = 0, n = b->nret;
    while (n > 0) {
        unsigned half = n / 2;
        if (b->ret[lo + half].epoch < epoch) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    while (lo < b->nret && !b->ret[lo].recorded)
        lo++;
    return lo < b->nret ? b->ret[lo].epoch : VD_EPOCH_MAX;
}

int check_marks_load(struct check *k)
{
    int r = 0;

    tree_cursor_init(&k->cursor, pool_forest(k->s->pool), TREE_CHANGED, &(struct tree_key){{0}});
    while (r == 0 && (r = tree_cursor_next(&k->cursor, &k->entry)) == 0) {
        const uint64_t *w = k->entry.key.w;
        const struct branch *b = catalog_branch(&k->s->cat, w[0]);
        le64_t od;
        if (!b || k->entry.len != sizeof(od)) {
            check_finding(k, "change index: key %" PRIu64 " %" PRIu64 " %" PRIu64 " makes no sense",
                          w[0], w[1], w[2]);
            continue;
        }
        memcpy(&od, k->entry.val, sizeof(od));
        uint64_t key[3] = {w[0], interval_end(b, w[1]), w[2]};
        struct map3_entry *e = map3_make(&k->marks, key);
        if (!e)
            return -ENOMEM;
        e->val |= vd_get64(od);
    }
    return r == -ENOENT ? 0 : r;
}

int check_marked(struct check *k, const struct vd_run *run)
{
    const struct branch *b = k->branch;
    uint64_t epoch = run->born, first = run->lba / VD_CHANGE_BLOCKS;

    if (!branch_needed(b))
        return 0;
    if (b->into) { /* its marks have gone ahead */
        if (epoch > b->into->origin)
            return 0;
        b = b->into;
    }
    uint64_t end = interval_end(b, epoch);
    if (end == VD_EPOCH_MAX && b->tip_state != CATALOG_TIP_LIVE)
        return 0;
    /* Of long runs of ZERO the ends: what lay under the middle may have been nothing. */
    if (run->type == VD_RUN_ZERO && run->blocks > VD_CHANGE_BLOCKS)
        return 0;
    for (uint64_t chunk = first; chunk <= (vd_run_end(run) - 1) / VD_CHANGE_BLOCKS; chunk++) {
        uint64_t key[3] = {b->id, end, chunk / 64};
        const struct map3_entry *e = map3_find(&k->marks, key);
        if (!e || !(e->val >> chunk % 64 & 1))
            check_finding(k,
                          "branch %" PRIu64 ", block %" PRIu64
                          ": the change index misses the version born %" PRIu64,
                          k->branch_id, run->lba, run->born);
    }
    return 0;
}

/* ---- stored bytes ---- */

/* Runs are read many at a time: what was written one by one lies one by one. */
#define BATCH_RUNS 32

struct data_item {
    uint64_t branch;
    int first, pieces; /* of the batch's */
    struct vd_run run;
};
struct data_batch {
    uint8_t *buf;  /* a cell for each run */
    bool in_trees; /* the runs' addresses are those that trees name */
    int items;
    struct data_item item[BATCH_RUNS];
    struct pool_piece piece[BATCH_RUNS * VD_CELL_BLOCKS];
};

void check_data_done(struct check *k)
{
    if (k->batch)
        free(k->batch->buf);
    free(k->batch);
}

static struct data_batch *batch_of(struct check *k)
{
    if (k->batch)
        return k->batch;
    k->batch = calloc(1, sizeof(*k->batch));
    if (k->batch)
        k->batch->buf = vd_alloc_aligned((size_t)BATCH_RUNS * VD_CELL_BLOCKS * VD_BLOCK);
    if (k->batch && k->batch->buf)
        return k->batch;
    check_data_done(k);
    k->batch = NULL;
    return NULL;
}

/* Where the item's blocks are now; returns the number of pieces. */
static int item_resolve(struct check *k, const struct data_item *d, struct pool_piece *piece,
                        uint8_t *buf)
{
    const struct vd_run *run = &d->run;
    const struct branch *b = catalog_branch(&k->s->cat, d->branch);
    /* The cleaner may have given away what nothing shows any more. */
    bool head = k->batch->in_trees && b && run->died == VD_EPOCH_MAX;
    uint32_t replaced = head ? view_replaced(k->s, b, run) : 0;
    int n = 0;
    for (uint64_t i = 0; i < run->blocks; i++) {
        struct vd_addr at = vd_addr_plus(run->addr, i);
        if (replaced >> (run->lba + i) % VD_CELL_BLOCKS & 1)
            continue;
        if (k->batch->in_trees) /* what an overlay says has not been moved */
            at = pool_moved(k->s->pool, at);
        struct pool_piece *p = n ? &piece[n - 1] : NULL;
        if (p && p->csum + p->blocks == &run->csum[i] &&
            vd_addr_equal(vd_addr_plus(p->addr, p->blocks), at))
            p->blocks++;
        else
            piece[n++] = (struct pool_piece){
                .addr = at, .blocks = 1, .csum = &run->csum[i], .buf = buf + i * VD_BLOCK};
    }
    return n;
}

/* -EAGAIN: what was under way has got another place. VD_YIELDS */
static int batch_read(struct check *k, struct data_batch *b)
{
    int n = 0;
    for (int i = 0; i < b->items; i++) {
        struct data_item *d = &b->item[i];
        d->first = n;
        d->pieces = item_resolve(k, d, &b->piece[n], b->buf + i * VD_CELL_BLOCKS * VD_BLOCK);
        n += d->pieces;
    }
    return n ? pool_read(k->s->pool, b->piece, n) : 0;
}

static int item_report(struct check *k, const struct data_item *d, const struct pool_piece *p)
{
    k->report->blocks_checked += p->blocks;
    if (p->res < 0 && p->res != -ENOMEM)
        check_finding(
            k, "branch %" PRIu64 ", blocks %" PRIu64 " to %" PRIu64 " (segment %u, sector %u): %s",
            d->branch, d->run.lba, vd_run_end(&d->run) - 1, p->addr.seg, p->addr.sector,
            p->res == -EBADMSG ? "bad checksum" : strerror(-p->res));
    return p->res == -ENOMEM ? -ENOMEM : 0;
}

int check_data_flush(struct check *k)
{
    struct data_batch *b = k->batch;
    int r = 0;
    if (!b || !b->items)
        return 0;
    do
        r = batch_read(k, b);
    while (r == -EAGAIN && b->in_trees);
    r = r == -EAGAIN ? r : 0; /* each piece says for itself what was wrong with it */
    for (int i = 0; r == 0 && i < b->items; i++)
        for (int n = 0; r == 0 && n < b->item[i].pieces; n++)
            r = item_report(k, &b->item[i], &b->piece[b->item[i].first + n]);
    b->items = 0;
    return r;
}

/* For the next flush, which has room for it. */
static int batch_add(struct check *k, const struct vd_run *run, bool in_trees)
{
    struct data_batch *b = batch_of(k);
    if (!b)
        return -ENOMEM;
    assert(run->type == VD_RUN_DATA && run->blocks <= VD_CELL_BLOCKS);
    struct data_item *d = &b->item[b->items++];
    b->in_trees = in_trees;
    d->branch = k->branch_id;
    vd_run_copy(&d->run, run);
    return 0;
}

int check_data(struct check *k, const struct vd_run *run)
{
    int r = batch_add(k, run, true);
    return r == 0 && k->batch->items == BATCH_RUNS ? check_data_flush(k) : r;
}

/* The DATA versions of an overlay at or after (branch, lba), a bounded number: then the position is
 * given up, for the overlay may grow while they are read. */
static int overlay_batch(const struct overlay *ov, uint64_t *branch, uint64_t *lba,
                         struct vd_run *runs, uint64_t *owner, int *n)
{
    struct overlay_span span;
    struct overlay_pos *pos = overlay_seek(ov, *branch, *lba);
    bool more;

    *n = 0;
    if (!pos)
        return -ENOMEM;
    while ((more = overlay_next(pos, &span))) {
        if (*n && *n + (int)span.count > BATCH_RUNS)
            break;
        for (unsigned i = 0; i < span.count && *n < BATCH_RUNS; i++) {
            if (span.versions[i].type != VD_RUN_DATA)
                continue;
            owner[*n] = span.branch;
            runs[(*n)++] = span.versions[i];
        }
        *branch = span.branch;
        *lba = span.lba + span.blocks;
    }
    overlay_pos_free(pos);
    return more || *n;
}

static int check_overlay(struct check *k, const struct overlay *ov)
{
    uint64_t branch = 0, lba = 0, owner[BATCH_RUNS];
    struct vd_run *runs = malloc(BATCH_RUNS * sizeof(*runs));
    int n, r = runs ? 0 : -ENOMEM;

    while (r == 0) {
        uint64_t from_branch = branch, from = lba;
        r = overlay_batch(ov, &branch, &lba, runs, owner, &n);
        if (r <= 0)
            break;
        r = 0;
        for (int i = 0; r == 0 && i < n; i++) {
            k->branch_id = owner[i];
            r = batch_add(k, &runs[i], false);
        }
        if (r == 0)
            r = check_data_flush(k);
        if (r == -EAGAIN) { /* the overlay knows where it is now */
            branch = from_branch;
            lba = from;
            r = 0;
        }
    }
    free(runs);
    return r;
}

int check_overlays(struct check *k)
{
    int r = check_overlay(k, pool_active(k->s->pool));
    if (r == 0 && pool_frozen(k->s->pool))
        r = check_overlay(k, pool_frozen(k->s->pool));
    return r;
}
