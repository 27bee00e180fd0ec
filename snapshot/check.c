/* SPDX-License-Identifier: MIT */
/*
 * vd_store_check: everything is counted again, from nothing but the trees, and compared with what
 * is written: live blocks per segment, USAGE, CHANGED, what is kept, who refers to whom; with
 * `data` every stored block is read. Never writes. No checkpoint publishes meanwhile, so the trees
 * stand still.
 *
 * What it holds in memory: one count per segment, USAGE and CHANGED.
 */
#include "snapshot/check_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void check_finding(struct check *k, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    k->report->errors++;
    if (k->fn)
        k->fn(k->arg, text);
}

static void pool_finding(void *arg, const char *text)
{
    check_finding(arg, "%s", text);
}

static bool cancelled(const struct check *k)
{
    return k->cancel && *k->cancel;
}

/* ---- the catalogue ---- */

static int check_catalog(struct check *k)
{
    struct catalog *c = malloc(sizeof(*c));
    int r = c ? 0 : -ENOMEM;

    if (!c)
        return r;
    catalog_init(c);
    tree_cursor_init(&k->cursor, pool_forest(k->s->pool), TREE_CATALOG, &(struct tree_key){{0}});
    while (r == 0 && (r = tree_cursor_next(&k->cursor, &k->entry)) == 0) {
        const uint64_t *w = k->entry.key.w;
        r = catalog_apply(c, w, k->entry.val, k->entry.len);
        if (r == -EUCLEAN) {
            check_finding(k, "catalogue: key %" PRIu64 " %" PRIu64 " %" PRIu64 " makes no sense",
                          w[0], w[1], w[2]);
            r = 0;
        }
    }
    r = r == -ENOENT ? 0 : r;
    if (r == 0 && catalog_verify(c) < 0)
        check_finding(k, "catalogue: it contradicts itself");
    catalog_done(c);
    free(c);
    return r;
}

/* ---- one branch's rules ---- */

/* The epochs that USAGE is reckoned with. */
static int branch_begin(struct check *k, uint64_t id)
{
    if (k->branch_id == id)
        return 0;
    struct branch *b = catalog_branch(&k->s->cat, id);
    k->branch_id = id;
    k->branch = b;
    k->nru = 0;
    if (!b) {
        check_finding(k, "branch %" PRIu64 " holds versions but is not in the catalogue", id);
        return 0;
    }
    uint64_t *ru = realloc(k->ru, (b->nret + 1) * sizeof(*ru));
    if (!ru)
        return -ENOMEM;
    k->ru = ru;
    for (unsigned i = 0; i < b->nret; i++)
        if (b->ret[i].recorded)
            ru[k->nru++] = b->ret[i].epoch;
    return 0;
}

static unsigned ru_ceil(const struct check *k, uint64_t epoch)
{
    unsigned i = 0;
    unsigned n = k->nru;
    while (n > 0) {
        unsigned half = n / 2;
        if (k->ru[i + half] < epoch) {
            i += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return i;
}

static void check_needed(struct check *k, const struct vd_run *run)
{
    const struct branch *b = k->branch;
    unsigned i = ru_ceil(k, run->born);
    bool live = b->tip_state != CATALOG_TIP_DEAD;

    if (run->died == VD_EPOCH_MAX ? live || i < k->nru : i < k->nru && k->ru[i] < run->died)
        return;
    /* A branch that is folded or not needed is gone through as a whole. */
    if (b->into || !branch_needed(b))
        return;
    check_finding(k,
                  "branch %" PRIu64 ", block %" PRIu64 ": nothing needs the version [%" PRIu64
                  ", %" PRIu64 ")",
                  b->id, run->lba, run->born, run->died);
}

static int usage_count(struct check *k, const struct vd_run *run)
{
    const struct branch *b = k->branch;
    unsigned first = ru_ceil(k, run->born);
    uint64_t key[3] = {b->id, first < k->nru ? k->ru[first] : VD_EPOCH_MAX};

    if (run->died == VD_EPOCH_MAX) {
        bool live = b->tip_state == CATALOG_TIP_LIVE;
        key[2] = live || first == k->nru ? VD_EPOCH_MAX : k->ru[k->nru - 1];
    } else {
        unsigned end = ru_ceil(k, run->died);
        key[2] = end ? k->ru[end - 1] : 0;
    }
    struct map3_entry *e = map3_make(&k->usage, key);
    if (!e)
        return -ENOMEM;
    e->val += run->blocks * VD_BLOCK;
    return 0;
}

/* ---- runs ---- */

static int live_count(struct check *k, const struct vd_run *run)
{
    uint32_t seg = run->addr.seg, live;
    bool used, meta;

    if (pool_segment_live(k->s->pool, seg, &live, &used, &meta) < 0 || !used) {
        check_finding(
            k, "branch %" PRIu64 ", block %" PRIu64 " lies in segment %u, which holds no data",
            k->branch_id, run->lba, seg);
        return 0;
    }
    if (seg >= k->segs) {
        size_t room = VD_MAX(2 * k->segs, (size_t)seg + 64);
        uint64_t *v = realloc(k->live, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        memset(v + k->segs, 0, (room - k->segs) * sizeof(*v));
        k->live = v;
        k->segs = room;
    }
    k->live[seg] += run->blocks;
    return 0;
}

int check_run(struct check *k, uint64_t branch, const struct vd_run *run)
{
    int r = branch_begin(k, branch);
    if (r < 0 || !k->branch)
        return r;
    if (++k->report->runs % 128 == 0)
        vd_fiber_yield();
    if (run->born == 0 || run->born > pool_epoch(k->s->pool) || run->died <= run->born)
        check_finding(k, "branch %" PRIu64 ", block %" PRIu64 ": born %" PRIu64 ", died %" PRIu64,
                      branch, run->lba, run->born, run->died);
    check_needed(k, run);
    r = check_marked(k, run);
    if (r < 0 || run->type != VD_RUN_DATA)
        return r;
    r = usage_count(k, run);
    if (r == 0)
        r = live_count(k, run);
    return r == 0 && k->data ? check_data(k, run) : r;
}

static int check_head(struct check *k)
{
    uint64_t branch = 0, end = 0;
    int r = 0;

    tree_cursor_init(&k->cursor, pool_forest(k->s->pool), TREE_HEAD, &(struct tree_key){{0}});
    while (r == 0 && (r = tree_cursor_next(&k->cursor, &k->entry)) == 0) {
        struct vd_run run = k->entry.run;
        run.died = VD_EPOCH_MAX;
        if (k->entry.key.w[0] == branch && run.lba < end)
            check_finding(k, "branch %" PRIu64 ", block %" PRIu64 ": two newest versions", branch,
                          run.lba);
        branch = k->entry.key.w[0];
        end = vd_run_end(&run);
        r = cancelled(k) ? -ECANCELED : check_run(k, branch, &run);
    }
    return r == -ENOENT ? 0 : r;
}

/* ---- HISTORY: versions of a block do not overlap ---- */

static int by_born(const void *a, const void *b)
{
    const struct cell_run *x = a, *y = b;
    return x->born < y->born ? -1 : x->born > y->born;
}

/* The versions of one cell, HEAD's included, are in k->cell. */
static int cell_end(struct check *k)
{
    uint64_t died[VD_CELL_BLOCKS] = {0};

    if (k->ncell > 1)
        qsort(k->cell, k->ncell, sizeof(k->cell[0]), by_born);
    for (size_t i = 0; i < k->ncell; i++) {
        const struct cell_run *c = &k->cell[i];
        for (uint64_t lba = c->lba; lba < c->end; lba++) {
            uint64_t *d = &died[lba % VD_CELL_BLOCKS];
            if (c->born < *d)
                check_finding(k,
                              "branch %" PRIu64 ", block %" PRIu64 ": the version born %" PRIu64
                              " overlaps one that died %" PRIu64,
                              k->cell_branch, lba, c->born, *d);
            *d = VD_MAX(*d, c->died);
        }
    }
    k->ncell = 0;
    return 0;
}

static int cell_add(struct check *k, const struct vd_run *run, uint64_t died)
{
    if (k->ncell == k->cell_room) {
        size_t room = k->cell_room ? 2 * k->cell_room : 64;
        struct cell_run *v = realloc(k->cell, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        k->cell = v;
        k->cell_room = room;
    }
    k->cell[k->ncell++] = (struct cell_run){run->lba, vd_run_end(run), run->born, died};
    return 0;
}

static int cell_begin(struct check *k, uint64_t branch, uint64_t cell)
{
    struct forest *f = pool_forest(k->s->pool);
    struct forest_need need;
    int n;

    k->cell_branch = branch;
    while ((n = tree_head_find(f, branch, cell * VD_CELL_BLOCKS, VD_CELL_BLOCKS, k->s->runs,
                               VD_CELL_BLOCKS, &need)) == -EAGAIN) {
        int r = forest_load(f, &need);
        if (r < 0 && r != -EAGAIN)
            return r;
    }
    for (int i = 0; i < n; i++) { /* clipped to the cell */
        int r = cell_add(k, &k->s->runs[i], VD_EPOCH_MAX);
        if (r < 0)
            return r;
    }
    return VD_MIN(n, 0);
}

static int check_history(struct check *k)
{
    uint64_t branch = 0, cell = UINT64_MAX;
    int r = 0;

    tree_cursor_init(&k->cursor, pool_forest(k->s->pool), TREE_HISTORY, &(struct tree_key){{0}});
    while (r == 0 && (r = tree_cursor_next(&k->cursor, &k->entry)) == 0) {
        const struct tree_entry *e = &k->entry;
        if (e->key.w[0] != branch || e->key.w[1] != cell) {
            branch = e->key.w[0];
            cell = e->key.w[1];
            r = cell_end(k);
            if (r == 0)
                r = cell_begin(k, branch, cell);
        }
        if (r == 0)
            r = cell_add(k, &e->run, e->run.died);
        if (r == 0)
            r = cancelled(k) ? -ECANCELED : check_run(k, branch, &e->run);
    }
    return r == -ENOENT ? cell_end(k) : r;
}

/* ---- counts ---- */

static int check_usage(struct check *k)
{
    int r = 0;

    tree_cursor_init(&k->cursor, pool_forest(k->s->pool), TREE_USAGE, &(struct tree_key){{0}});
    while (r == 0 && (r = tree_cursor_next(&k->cursor, &k->entry)) == 0) {
        le64_t od = {{0}};
        if (k->entry.len == sizeof(od))
            memcpy(&od, k->entry.val, sizeof(od));
        struct map3_entry *e = map3_make(&k->usage, k->entry.key.w);
        if (!e)
            return -ENOMEM;
        e->val -= vd_get64(od);
    }
    for (size_t i = 0; i < k->usage.room; i++) {
        const struct map3_entry *e = &k->usage.slot[i];
        if (e->used && e->val)
            check_finding(k,
                          "usage of branch %" PRIu64 " [%" PRIu64 ", %" PRIu64 "] is %" PRId64
                          " bytes too low",
                          e->key[0], e->key[1], e->key[2], (int64_t)e->val);
    }
    return r == -ENOENT ? 0 : r;
}

static void check_live(struct check *k)
{
    uint32_t live;
    bool used, meta;

    for (uint32_t seg = 0; pool_segment_live(k->s->pool, seg, &live, &used, &meta) == 0; seg++) {
        uint64_t counted = seg < k->segs ? k->live[seg] : 0;
        if (!meta && live != counted)
            check_finding(k, "segment %u: %u live blocks in the table, %" PRIu64 " counted", seg,
                          live, counted);
    }
}

static int check_all(struct check *k)
{
    uint64_t nodes = 0;
    int r = pool_check(k->s->pool, pool_finding, k, &nodes);
    k->report->nodes = nodes;
    if (r < 0)
        return r;
    r = check_catalog(k);
    if (r == 0)
        r = check_marks_load(k);
    if (r == 0)
        r = check_head(k);
    if (r == 0)
        r = check_history(k);
    if (r == 0)
        r = check_data_flush(k);
    if (r == 0)
        r = check_usage(k);
    if (r == 0)
        check_live(k);
    return r == 0 && k->data ? check_overlays(k) : r;
}

int vd_store_check(struct vd_store *st, bool data, vd_check_fn *fn, void *arg, const bool *cancel,
                   struct vd_check_report *ret, struct vd_error *err)
{
    struct snap_store *s = vd_container_of(st, struct snap_store, store);
    struct check *k = calloc(1, sizeof(*k));

    *ret = (struct vd_check_report){0};
    if (!k)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    k->s = s;
    k->data = data;
    k->fn = fn;
    k->arg = arg;
    k->cancel = cancel;
    k->report = ret;
    int r = pool_hold_checkpoints(s->pool);
    if (r == 0) {
        r = check_all(k);
        pool_release_checkpoints(s->pool);
    }
    map3_done(&k->usage);
    map3_done(&k->marks);
    free(k->live);
    free(k->ru);
    free(k->cell);
    check_data_done(k);
    free(k);
    if (r < 0)
        return vd_fail(err, r, r == -ECANCELED ? "cancelled" : "check-failed",
                       "the check could not be finished: %s", strerror(-r));
    if (ret->errors)
        return vd_fail(err, -EUCLEAN, "damaged", "%" PRIu64 " errors were found", ret->errors);
    return 0;
}
