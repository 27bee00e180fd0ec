/* SPDX-License-Identifier: MIT */
/*
 * What differs between two views. CHANGED and the overlays say where anything may differ: in a
 * branch that both views come from, what was written between the two epochs; in every branch that
 * only one comes from, all of it. There, and only there, the views are compared, block by block, by
 * where the blocks lie.
 *
 * Invariant: the places to look at are gathered under one set of roots, overlays included, so
 * nothing that a checkpoint moves in between is missed. Suspends.
 */
#include "snapshot/store_priv.h"

#include <stdlib.h>

#define CELL ((uint64_t)VD_CELL_BLOCKS)

static struct snap_store *store_of(struct vd_store *st)
{
    return vd_container_of(st, struct snap_store, store);
}

struct range {
    uint64_t lba, end;
};
struct ranges {
    struct range *v;
    size_t n, room;
    struct range window; /* nothing outside is asked for */
};

static int ranges_add(struct ranges *rs, uint64_t lba, uint64_t end)
{
    lba = VD_MAX(lba, rs->window.lba);
    end = VD_MIN(end, rs->window.end);
    if (lba >= end)
        return 0;
    if (rs->n && rs->v[rs->n - 1].end == lba) {
        rs->v[rs->n - 1].end = end;
        return 0;
    }
    if (rs->n == rs->room) {
        size_t room = rs->room ? rs->room * 2 : 64;
        struct range *v = realloc(rs->v, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        rs->v = v;
        rs->room = room;
    }
    rs->v[rs->n++] = (struct range){lba, end};
    return 0;
}

static int range_cmp(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->lba < y->lba ? -1 : x->lba > y->lba;
}

static void ranges_sort(struct ranges *rs)
{
    if (rs->n < 2)
        return;
    qsort(rs->v, rs->n, sizeof(rs->v[0]), range_cmp);
    size_t n = 0;
    for (size_t i = 1; i < rs->n; i++) {
        if (rs->v[i].lba <= rs->v[n].end)
            rs->v[n].end = VD_MAX(rs->v[n].end, rs->v[i].end);
        else
            rs->v[++n] = rs->v[i];
    }
    rs->n = n + 1;
}

/* ---- where to look ---- */

static int overlay_ranges(const struct overlay *ov, uint64_t branch, uint64_t lo, uint64_t hi,
                          struct ranges *rs)
{
    struct overlay_span span;
    struct overlay_pos *pos = ov ? overlay_seek(ov, branch, 0) : NULL;
    int r = 0;

    if (!pos)
        return ov ? -ENOMEM : 0;
    while (r == 0 && overlay_next(pos, &span) && span.branch == branch) {
        bool hit = false;
        for (unsigned i = 0; i < span.count; i++)
            hit = hit || (span.versions[i].born > lo && span.versions[i].born <= hi);
        if (hit)
            r = ranges_add(rs, span.lba, span.lba + span.blocks);
    }
    if (r == 0)
        r = overlay_pos_error(pos);
    overlay_pos_free(pos);
    return r;
}

static int bits_ranges(uint64_t group, uint64_t bits, struct ranges *rs)
{
    int r = 0;
    for (; r == 0 && bits; bits &= bits - 1) {
        uint64_t chunk = group * 64 + (unsigned)__builtin_ctzll(bits);
        r = ranges_add(rs, chunk * VD_CHANGE_BLOCKS, (chunk + 1) * VD_CHANGE_BLOCKS);
    }
    return r;
}

/* What CHANGED says of (branch, epochs in (lo, hi]). VD_YIELDS */
static int tree_ranges(struct snap_store *s, uint64_t branch, uint64_t lo, uint64_t hi,
                       struct ranges *rs)
{
    struct tree_cursor *c = malloc(sizeof(*c));
    struct tree_entry *e = malloc(sizeof(*e));
    int r = c && e ? 0 : -ENOMEM;

    if (r == 0)
        tree_cursor_init(c, pool_forest(s->pool), TREE_CHANGED,
                         &(struct tree_key){{branch, lo + 1}});
    while (r == 0 && (r = tree_cursor_next(c, e)) == 0 && e->key.w[0] == branch &&
           e->key.w[1] <= hi) {
        le64_t bits;
        if (e->len != sizeof(bits)) {
            r = -EUCLEAN;
            break;
        }
        memcpy(&bits, e->val, sizeof(bits));
        r = bits_ranges(e->key.w[2], vd_get64(bits), rs);
    }
    free(c);
    free(e);
    return r == -ENOENT ? 0 : r;
}

/* A branch that a view comes from, and the epochs of it that matter: (lo, hi]. */
struct step {
    uint64_t branch, lo, hi;
    bool absorbing; /* what it shows is in part still the next one's */
};
struct steps {
    struct step *v;
    size_t n;
};

static int steps_of(struct view view, struct steps *ret)
{
    size_t n = 0;
    for (const struct branch *b = view.branch; b; b = b->parent)
        n++;
    ret->v = calloc(n ? n : 1, sizeof(*ret->v));
    if (!ret->v)
        return -ENOMEM;
    for (const struct branch *b = view.branch; b; b = b->parent) {
        ret->v[ret->n++] = (struct step){b->id, 0, view.epoch, b->absorbing};
        view.epoch = VD_MIN(view.epoch, b->origin);
    }
    return 0;
}

/* Cuts both off where they meet: there only the epochs between count, below nothing does. */
static void steps_meet(struct steps *a, struct steps *b)
{
    for (size_t i = 0; i < a->n; i++) {
        for (size_t k = 0; k < b->n; k++) {
            if (a->v[i].branch != b->v[k].branch)
                continue;
            a->n = i;
            b->n = k;
            struct step *p;
            do {
                uint64_t x = a->v[a->n].hi, y = b->v[k++].hi;
                p = &a->v[a->n++];
                p->lo = VD_MIN(x, y);
                p->hi = VD_MAX(x, y);
            } while (p->absorbing);
            return;
        }
    }
}

struct diff {
    struct snap_store *s;
    struct view_ref from, to;
    bool nothing; /* from: nothing at all */
    struct ranges ranges;
    uint64_t blocks; /* of `to` */
    uint64_t size;
    uint64_t part;  /* the block that `to` holds more of than `from`; UINT64_MAX: none */
    uint64_t cells; /* looked at */
    vd_diff_fn *fn;
    void *arg;
    struct vd_extent pending;
    struct cell_view a, b;
};

static int steps_ranges(struct diff *d, const struct steps *st, bool tree)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < st->n; i++) {
        const struct step *p = &st->v[i];
        if (tree)
            r = tree_ranges(d->s, p->branch, p->lo, p->hi, &d->ranges);
        if (r == 0 && !tree)
            r = overlay_ranges(pool_active(d->s->pool), p->branch, p->lo, p->hi, &d->ranges);
        if (r == 0 && !tree)
            r = overlay_ranges(pool_frozen(d->s->pool), p->branch, p->lo, p->hi, &d->ranges);
    }
    return r;
}

static int diff_gather(struct diff *d)
{
    struct forest *f = pool_forest(d->s->pool);
    uint64_t version;
    int r;

    do {
        struct steps a = {0}, b = {0};
        version = forest_version(f);
        d->ranges.n = 0;
        r = steps_of(view_of(d->to), &a);
        if (r == 0 && !d->nothing)
            r = steps_of(view_of(d->from), &b);
        if (r == 0)
            steps_meet(&a, &b);
        for (int tree = 0; r == 0 && tree < 2; tree++) {
            r = steps_ranges(d, &a, tree);
            if (r == 0)
                r = steps_ranges(d, &b, tree);
        }
        free(a.v);
        free(b.v);
    } while (r == 0 && forest_version(f) != version);
    ranges_sort(&d->ranges);
    return r;
}

/* ---- comparing ---- */

static int pending_flush(struct diff *d)
{
    struct vd_extent e = d->pending;
    d->pending.len = 0;
    return e.len ? d->fn(d->arg, &e) : 0;
}

static int block_differs(struct diff *d, uint64_t lba, unsigned flags)
{
    uint64_t off = lba * VD_BLOCK, end = VD_MIN(d->size, off + VD_BLOCK);
    struct vd_extent *p = &d->pending;

    if (p->len && p->off + p->len == off && p->flags == flags) {
        p->len += end - off;
        return 0;
    }
    int r = pending_flush(d);
    *p = (struct vd_extent){.off = off, .len = end - off, .flags = flags};
    return r;
}

/* Both views of a cell at one moment. VD_YIELDS */
static int cells_load(struct diff *d, uint64_t cell)
{
    struct forest_need need;
    for (;;) {
        d->a = d->b = (struct cell_view){.want = UINT32_MAX};
        int r = view_cell(d->s, view_of(d->to), cell, &d->b, &need);
        if (r == 0 && !d->nothing)
            r = view_cell(d->s, view_of(d->from), cell, &d->a, &need);
        if (r != -EAGAIN)
            return r;
        r = forest_load(pool_forest(d->s->pool), &need);
        if (r < 0 && r != -EAGAIN)
            return r;
    }
}

/* Block `lba`, which is the i-th of the cell loaded. */
static bool blocks_same(const struct diff *d, uint64_t lba, unsigned i)
{
    bool a_zero = d->nothing || d->a.b[i].type == VD_RUN_ZERO;
    bool b_zero = d->b.b[i].type == VD_RUN_ZERO;
    if (a_zero || b_zero)
        return a_zero && b_zero;
    if (lba == d->part)
        return false; /* one block, cut off at different places */
    return vd_addr_equal(d->a.b[i].addr, d->b.b[i].addr); /* of one moment: see cells_load */
}

/* One cell, from lba on. *zero: neither view has anything in it. */
static int cell_compare(struct diff *d, uint64_t lba, uint64_t end, bool *zero)
{
    uint32_t differ = 0;
    uint64_t first = VD_ROUND_DOWN(lba, CELL);
    int r = cells_load(d, lba / CELL);

    if (r < 0)
        return r;
    *zero = true;
    for (unsigned i = 0; i < VD_CELL_BLOCKS; i++) {
        bool same = blocks_same(d, first + i, i);
        differ |= (uint32_t)!same << i;
        *zero = *zero && same && d->b.b[i].type == VD_RUN_ZERO;
    }
    for (; r == 0 && lba < end; lba++)
        if (differ >> (lba - first) & 1)
            r = block_differs(d, lba, d->b.b[lba - first].type == VD_RUN_ZERO ? VD_EXTENT_ZERO : 0);
    return r;
}

static int range_compare(struct diff *d, uint64_t lba, uint64_t end)
{
    int r = 0;
    while (r == 0 && lba < end) {
        uint64_t cell_end = VD_MIN(end, VD_ROUND_DOWN(lba, CELL) + CELL);
        bool zero;
        if (++d->cells % 64 == 0)
            vd_fiber_yield(); /* nodes in memory: let the others have their turn */
        r = cell_compare(d, lba, cell_end, &zero);
        lba = cell_end;
        if (r < 0 || !zero || lba >= end)
            continue;
        uint64_t a = end - lba, b = 0;
        r = view_hole(d->s, d->to, lba, end, &b);
        if (r == 0 && b && !d->nothing)
            r = view_hole(d->s, d->from, lba, end, &a);
        lba += VD_MIN(a, b);
    }
    return r;
}

static int diff_run(struct diff *d)
{
    int r = diff_gather(d);
    d->size = view_of(d->to).size;
    d->blocks = VD_DIV_UP(d->size, VD_BLOCK);
    uint64_t from = d->nothing ? 0 : view_of(d->from).size;
    d->part = from % VD_BLOCK && from < d->size ? from / VD_BLOCK : UINT64_MAX;
    if (r == 0 && d->part != UINT64_MAX)
        r = ranges_add(&d->ranges, d->part, d->part + 1);
    ranges_sort(&d->ranges);
    for (size_t i = 0; r == 0 && i < d->ranges.n; i++)
        r = range_compare(d, d->ranges.v[i].lba, VD_MIN(d->ranges.v[i].end, d->blocks));
    return r == 0 ? pending_flush(d) : r;
}

int op_diff(struct vd_store *st, struct vd_target from, struct vd_target to, uint64_t off,
            uint64_t len, vd_diff_fn *fn, void *arg, struct vd_error *err)
{
    struct snap_store *s = store_of(st);
    struct vd_disk *a = NULL, *b = NULL; /* so that neither is deleted meanwhile */
    struct diff *d = calloc(1, sizeof(*d));

    if (!d)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    d->s = s;
    d->fn = fn;
    d->arg = arg;
    d->nothing = !from.volume;
    d->ranges.window = (struct range){off / VD_BLOCK, VD_DIV_UP(off + len, VD_BLOCK)};
    vd_fmutex_lock(&s->control);
    int r = find_view(s, to, &d->to, err);
    if (r == 0 && !d->nothing)
        r = find_view(s, from, &d->from, err);
    if (r == 0)
        r = disk_open(s, d->to, true, &b);
    if (r == 0 && !d->nothing)
        r = disk_open(s, d->from, true, &a);
    vd_fmutex_unlock(&s->control);
    if (r == 0) {
        r = diff_run(d);
        if (r < 0)
            vd_fail(err, r, "diff-failed", "comparing failed: %s", strerror(-r));
    }
    vd_disk_unref(a);
    vd_disk_unref(b);
    free(d->ranges.v);
    free(d);
    return r;
}
