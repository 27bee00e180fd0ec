/* SPDX-License-Identifier: MIT */
/*
 * What a branch shows at an epoch: the rule that gives keys their meaning for readers.
 *
 * Invariants:
 *  1 A cell is resolved in one go, without suspension, from the newest layer down: active overlay,
 *    frozen overlay, HEAD, HISTORY, then the parent. If a node is missing it is loaded and the cell
 * is started again from the overlays (I10): a checkpoint may have moved things meanwhile. 2 What
 * view_hole calls a hole was one at some moment after it was called.
 *
 * Readers, writers of parts of blocks, diff and extents call this.
 */
#include "snapshot/store_priv.h"

static uint32_t missing(const struct cell_view *v)
{
    return v->want & ~v->known;
}

/* Adds a run of the tree. Only what a tree names can have been moved by the cleaner: an overlay's
 * address is always newer than any move from there. */
static void add_stored(struct snap_store *s, struct cell_view *v, uint64_t cell,
                       const struct vd_run *run)
{
    uint32_t before = v->known;

    cell_view_add(v, cell, run);
    if (run->type != VD_RUN_DATA)
        return;
    for (uint32_t m = v->known & ~before; m; m &= m - 1) {
        unsigned i = (unsigned)__builtin_ctz(m);
        v->b[i].addr = pool_moved(s->pool, v->b[i].addr);
    }
}

/* What the branch itself holds at `epoch` of the blocks still missing. */
static int branch_cell(struct snap_store *s, const struct branch *b, uint64_t epoch, uint64_t cell,
                       struct cell_view *v, struct forest_need *need)
{
    const struct overlay *frozen = pool_frozen(s->pool);
    struct forest *f = pool_forest(s->pool);

    overlay_view(pool_active(s->pool), b->id, cell, epoch, v);
    if (frozen && missing(v))
        overlay_view(frozen, b->id, cell, epoch, v);
    uint32_t m = missing(v);
    if (!m)
        return 0;
    unsigned first = (unsigned)__builtin_ctz(m), last = 31 - (unsigned)__builtin_clz(m);
    uint64_t lba = cell * VD_CELL_BLOCKS + first;
    int n = tree_head_find(f, b->id, lba, last - first + 1, s->runs, VD_CELL_BLOCKS, need);
    if (n < 0)
        return n;
    for (int i = 0; i < n; i++)
        if (s->runs[i].born <= epoch)
            add_stored(s, v, cell, &s->runs[i]);
    if (epoch >= EPOCH_LIVE || !missing(v))
        return 0;
    n = tree_history_find(f, b->id, lba, last - first + 1, epoch, s->runs, VD_CELL_BLOCKS, need);
    if (n < 0)
        return n;
    for (int i = 0; i < n; i++)
        add_stored(s, v, cell, &s->runs[i]);
    return 0;
}

/* Blocks of the cell at or above `lba` that are missing are zero. */
static void fill_zero(struct cell_view *v, uint64_t cell, uint64_t lba)
{
    for (uint32_t m = missing(v); m; m &= m - 1) {
        unsigned i = (unsigned)__builtin_ctz(m);
        if (cell * VD_CELL_BLOCKS + i < lba)
            continue;
        v->b[i].type = VD_RUN_ZERO;
        v->b[i].born = 0;
        v->known |= UINT32_C(1) << i;
    }
}

uint32_t view_replaced(const struct snap_store *s, const struct branch *b, const struct vd_run *run)
{
    struct cell_view v;
    uint64_t cell = run->lba / VD_CELL_BLOCKS;

    if (run->died != VD_EPOCH_MAX)
        return 0;
    v.want = (uint32_t)(((UINT64_C(1) << run->blocks) - 1) << run->lba % VD_CELL_BLOCKS);
    v.known = 0;
    uint64_t epoch = branch_retained_from(b, run->born);
#ifdef VD_PLANT_REPLACED_FORGETS_SNAPSHOTS
    epoch = EPOCH_LIVE;
#endif
    overlay_view(pool_active(s->pool), b->id, cell, epoch, &v);
    if (pool_frozen(s->pool))
        overlay_view(pool_frozen(s->pool), b->id, cell, epoch, &v);
    return v.known;
}

int view_cell(struct snap_store *s, struct view view, uint64_t cell, struct cell_view *v,
              struct forest_need *need)
{
    const struct branch *b = view.branch;
    uint64_t epoch = view.epoch;

    while (missing(v)) {
        int r = branch_cell(s, b, epoch, cell, v, need);
        if (r < 0)
            return r;
        uint64_t origin = 0, end;
        b = branch_below(b, cell * VD_CELL_BLOCKS, &origin, &end);
        if (!b) {
            fill_zero(v, cell, 0);
            break;
        }
        fill_zero(v, cell, end);
        epoch = VD_MIN(epoch, origin);
    }
    return 0;
}

int view_cell_load(struct snap_store *s, struct view_ref ref, uint64_t cell, struct cell_view *v)
{
    struct forest_need need;
    int r;

    while ((r = view_cell(s, view_of(ref), cell, v, &need)) == -EAGAIN) {
        r = forest_load(pool_forest(s->pool), &need);
        if (r < 0 && r != -EAGAIN)
            return r;
        v->known = 0;
    }
    return r;
}

/* ---- holes ---- */

/* How far from `lba` the overlay holds nothing of the branch at `epoch`, or only ZERO: *zero. */
static int overlay_gap(const struct overlay *ov, uint64_t branch, uint64_t epoch, uint64_t lba,
                       uint64_t *end, bool *zero)
{
    struct overlay_span span;
    struct overlay_pos *pos = overlay_seek(ov, branch, lba);
    uint64_t start = lba;

    *zero = false;
    if (!pos)
        return -ENOMEM;
    while (lba < *end && overlay_next(pos, &span) && span.branch == branch) {
        if (span.lba >= *end)
            break;
        bool visible = false, plain = true;
        for (unsigned i = 0; i < span.count; i++) {
            visible = visible || span.versions[i].born <= epoch;
            plain = plain && span.versions[i].type == VD_RUN_ZERO &&
                    span.versions[i].blocks == span.blocks;
        }
        if (visible) {
            *zero = plain && span.lba <= start;
            *end = *zero ? VD_MIN(*end, span.lba + span.blocks) : VD_MAX(start, span.lba);
            break;
        }
        /* Nothing that can be seen here: look on behind it. */
        lba = span.lba + span.blocks;
    }
    int r = overlay_pos_error(pos);
    overlay_pos_free(pos);
    return r;
}

static int head_gap(struct snap_store *s, uint64_t branch, uint64_t epoch, uint64_t lba,
                    uint64_t *end, bool *zero)
{
    struct tree_cursor c;
    struct tree_entry e;
    struct tree_key from = {{branch, lba}};

    *zero = false;
    tree_cursor_init(&c, pool_forest(s->pool), TREE_HEAD, &from);
    for (;;) {
        int r = tree_cursor_next(&c, &e);
        if (r == -ENOENT || (r == 0 && e.key.w[0] != branch))
            return 0;
        if (r < 0)
            return r;
        if (e.run.born > epoch) /* HISTORY will say whether anything older is here */
            continue;
        uint64_t run_end = VD_ROUND_DOWN(vd_run_end(&e.run), (uint64_t)VD_CELL_BLOCKS);
        *zero = e.run.type == VD_RUN_ZERO && e.run.lba <= lba && run_end > lba;
        uint64_t to = *zero ? run_end : VD_ROUND_DOWN(e.run.lba, (uint64_t)VD_CELL_BLOCKS);
        *end = VD_MIN(*end, VD_MAX(to, lba));
        return 0;
    }
}

static int history_gap(struct snap_store *s, uint64_t branch, uint64_t lba, uint64_t *end)
{
    struct tree_cursor c;
    struct tree_entry e;
    struct tree_key from = {{branch, lba / VD_CELL_BLOCKS}};

    tree_cursor_init(&c, pool_forest(s->pool), TREE_HISTORY, &from);
    int r = tree_cursor_next(&c, &e);
    if (r == -ENOENT || (r == 0 && e.key.w[0] != branch))
        return 0;
    if (r == 0)
        *end = VD_MIN(*end, e.key.w[1] * VD_CELL_BLOCKS);
    return r;
}

/* Narrows *end to where the branch may show something of its own; *zero: up to there it shows ZERO,
 * so nothing below matters. */
static int branch_gap(struct snap_store *s, uint64_t branch, uint64_t epoch, uint64_t lba,
                      uint64_t *end, bool *zero)
{
    const struct overlay *frozen = pool_frozen(s->pool);

    int r = overlay_gap(pool_active(s->pool), branch, epoch, lba, end, zero);
    if (r == 0 && frozen && !*zero && *end > lba)
        r = overlay_gap(frozen, branch, epoch, lba, end, zero);
    if (r == 0 && !*zero && *end > lba)
        r = head_gap(s, branch, epoch, lba, end, zero);
    if (r == 0 && !*zero && *end > lba && epoch < EPOCH_LIVE)
        r = history_gap(s, branch, lba, end);
    return r;
}

int view_hole(struct snap_store *s, struct view_ref ref, uint64_t lba, uint64_t end, uint64_t *ret)
{
    struct forest *f = pool_forest(s->pool);

    for (;;) {
        /* A new root may have moved things between the layers: then start again. */
        uint64_t version = forest_version(f), to = end;
        struct view view = view_of(ref);
        uint64_t id = view.branch->id, epoch = view.epoch;
        int r = 0;
        while (to > lba) {
            bool zero;
            r = branch_gap(s, id, epoch, lba, &to, &zero);
            if (r < 0 || zero || forest_version(f) != version)
                break;
            uint64_t origin = 0, until;
            const struct branch *b = catalog_branch(&s->cat, id);
            b = branch_below(b, lba, &origin, &until);
            if (until <= UINT64_MAX - VD_CELL_BLOCKS)
                until = VD_ROUND_UP(until, VD_CELL_BLOCKS);
            to = VD_MIN(to, until);
            if (!b)
                break;
            id = b->id;
            epoch = VD_MIN(epoch, origin);
        }
        if (forest_version(f) != version)
            continue;
        *ret = to > lba ? to - lba : 0;
        return r;
    }
}
