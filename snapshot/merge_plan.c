/* SPDX-License-Identifier: MIT */
/*
 * What a merge has to do besides the overlay: which chunks purges visit, and the rule by which a
 * version lives or goes.
 *
 * An epoch X that is no longer kept leaves behind versions that only it needed. With P and N the
 * kept epochs before and after it when its purge begins, those were born in (P, X] and died in (X,
 * N]; so CHANGED marks their chunks for an epoch in either range, and the one with fewer chunks is
 * visited. Only when the branch has neither N nor a live end may versions of HEAD be among them;
 * these never died, so (P, X] it is. When a branch loses its live end, versions of HEAD born after
 * the last kept epoch go. What is written meanwhile needs no visit: merges judge by the kept epochs
 * only.
 */
#include "snapshot/merge_priv.h"

#include <stdlib.h>

unsigned epochs_ceil(const uint64_t *v, unsigned n, uint64_t epoch)
{
    unsigned lo = 0;
    while (n > 0) {
        unsigned half = n / 2;
        if (v[lo + half] < epoch) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return lo;
}

bool version_needed(const struct mbranch *b, uint64_t born, uint64_t died)
{
    if (!b->needed)
        return false;
    if (b->into) { /* by the child's origin, or by a name that has gone ahead to the child */
        uint64_t origin = b->into->origin;
        unsigned i = epochs_ceil(b->into->keep, b->into->nkeep, born);
        return born <= origin && (died > origin || (i < b->into->nkeep && b->into->keep[i] < died));
    }
    if (died == VD_EPOCH_MAX)
        return b->tip || (b->nkeep && b->keep[b->nkeep - 1] >= born);
    unsigned i = epochs_ceil(b->keep, b->nkeep, born);
    return i < b->nkeep && b->keep[i] < died;
}

uint64_t explicit_limit(const struct mbranch *b, uint64_t lba)
{
#ifdef VD_PLANT_ZERO_AS_ABSENT
    return 0;
#endif
    if (!b->up)
        return 0;
    if (b->absorbing && lba < b->out_fold_cursor)
        return b->up->up ? VD_MIN(b->limit, b->up->limit) : 0;
    return b->limit;
}

/* ---- purges ---- */

/* Chunks that CHANGED marks for (branch, epochs in (lo, hi]), as group -> bits. */
static int gather(struct merge *mg, uint64_t branch, uint64_t lo, uint64_t hi, struct map3 *groups)
{
    struct tree_key from = {{branch, lo + 1}};
    struct tree_entry *e = &mg->entry;

    tree_cursor_init(&mg->cursor, mg->m->forest, TREE_CHANGED, &from);
    for (;;) {
        int r = tree_cursor_next(&mg->cursor, e);
        if (r == -ENOENT || (r == 0 && (e->key.w[0] != branch || e->key.w[1] > hi)))
            return 0;
        if (r == 0 && e->len != sizeof(le64_t))
            r = -EUCLEAN;
        if (r < 0)
            return r;
        uint64_t key[3] = {e->key.w[2]};
        struct map3_entry *g = map3_make(groups, key);
        if (!g)
            return -ENOMEM;
        le64_t bits;
        memcpy(&bits, e->val, sizeof(bits));
        g->val |= vd_get64(bits);
    }
}

static uint64_t groups_chunks(const struct map3 *groups)
{
    uint64_t n = 0;
    for (size_t i = 0; i < groups->room; i++)
        if (groups->slot[i].used)
            n += (unsigned)__builtin_popcountll(groups->slot[i].val);
    return n;
}

static int visit_add(struct mbranch *b, uint64_t chunk, bool head)
{
    if (b->nvisit == b->visit_room) {
        size_t room = b->visit_room ? b->visit_room * 2 : 16;
        struct chunk_visit *v = realloc(b->visit, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        b->visit = v;
        b->visit_room = room;
    }
    b->visit[b->nvisit++] = (struct chunk_visit){chunk, head};
    return 0;
}

/* Takes chunks from *cursor on, at most *budget; *cursor moves behind them. Returns 1 when that
 * were all, 0 when some are left. */
static int visits_take(struct merge *mg, struct mbranch *b, const struct map3 *groups, bool head,
                       uint64_t *cursor, uint64_t *budget)
{
    struct map3_entry **v;
    int r = map3_sorted(groups, &v);
    if (r < 0)
        return r;
    uint64_t left = 0;
    for (size_t i = 0; r == 0 && i < groups->count; i++) {
        for (uint64_t bits = v[i]->val; r == 0 && bits; bits &= bits - 1) {
            uint64_t chunk = v[i]->key[0] * 64 + (unsigned)__builtin_ctzll(bits);
            if (chunk < *cursor)
                continue;
            if (!*budget) {
                left++;
                continue;
            }
            (*budget)--;
            *cursor = chunk + 1;
            r = visit_add(b, chunk, head);
        }
    }
    free(v);
    mg->ms->out_chunks_left += left;
    return r < 0 ? r : left == 0;
}

/* The last of the forgotten epochs from the k-th on that lie before `next`. */
static uint64_t forgotten_end(const struct mbranch *b, unsigned k, uint64_t next)
{
    uint64_t end = b->ep[k].in.epoch;
    for (; k < b->nep && b->ep[k].in.epoch < next; k++)
        if (b->ep[k].in.recorded && !b->ep[k].in.kept)
            end = b->ep[k].in.epoch;
    return end;
}

/* Chooses where to look for what only this epoch needed, and those that are forgotten between the
 * same two that are kept: where it was born, or where it died. *groups gets that range's chunks. */
static int purge_begin(struct merge *mg, struct mbranch *b, unsigned k, struct map3 *groups)
{
    struct mepoch *e = &b->ep[k];
    unsigned i = epochs_ceil(b->keep, b->nkeep, e->in.epoch);
    uint64_t prev = i ? b->keep[i - 1] : 0;
    bool last = i == b->nkeep;
    struct map3 after = {0};

    e->out.purging = true;
    e->out.cursor = 0;
    e->out.lo = prev;
    e->out.hi = forgotten_end(b, k, last ? VD_EPOCH_MAX : b->keep[i]);
    e->out.head = last && !b->tip;
    int r = gather(mg, b->id, e->out.lo, e->out.hi, groups);
    if (r < 0 || e->out.head)
        return r;
    uint64_t next = last ? VD_EPOCH_MAX : b->keep[i];
    r = gather(mg, b->id, e->in.epoch, next, &after);
    if (r == 0 && groups_chunks(&after) < groups_chunks(groups)) {
        struct map3 swap = *groups;
        *groups = after;
        after = swap;
        e->out.lo = e->in.epoch;
        e->out.hi = next;
    }
    map3_done(&after);
    return r;
}

/* Does the purge of `e` look where that of `o`, planned a moment ago, does? Of many snapshots that
 * are deleted at once nearly all do: one look is enough for all of them. */
static bool same_purge(const struct mbranch *b, const struct mepoch *e, const struct mepoch *o)
{
    if (e->in.purging != o->in.purging)
        return false;
    if (!e->in.purging)
        return epochs_ceil(b->keep, b->nkeep, e->in.epoch) ==
               epochs_ceil(b->keep, b->nkeep, o->in.epoch);
    return e->in.lo == o->in.lo && e->in.hi == o->in.hi && e->in.cursor == o->in.cursor &&
           e->in.head == o->in.head;
}

static int purge_plan(struct merge *mg, struct mbranch *b, unsigned k, uint64_t *budget)
{
    struct mepoch *e = &b->ep[k];
    struct map3 groups = {0};
    int r;

    if (e->in.purging)
        r = gather(mg, b->id, e->in.lo, e->in.hi, &groups);
    else
        r = purge_begin(mg, b, k, &groups);
    if (r == 0)
        r = visits_take(mg, b, &groups, e->out.head, &e->out.cursor, budget);
    map3_done(&groups);
    e->done = r == 1;
    return r < 0 ? r : 0;
}

static int purges_plan(struct merge *mg, struct mbranch *b, uint64_t *budget)
{
    const struct mepoch *before = NULL;
    int r = 0;
    for (unsigned k = 0; r == 0 && k < b->nep; k++) {
        struct mepoch *e = &b->ep[k];
        if (!e->in.recorded || e->in.kept)
            continue;
        if (before && same_purge(b, e, before)) {
            e->out.purging = true;
            e->out.lo = before->out.lo;
            e->out.hi = before->out.hi;
            e->out.head = before->out.head;
            e->out.cursor = before->out.cursor;
            e->done = before->done;
        } else {
            r = purge_plan(mg, b, k, budget);
        }
        before = e;
    }
    return r;
}

static int tip_plan(struct merge *mg, struct mbranch *b, uint64_t *budget)
{
    struct map3 groups = {0};

    if (b->tip_state == CATALOG_TIP_LIVE) {
        b->out_tip_state = CATALOG_TIP_PURGING;
        b->out_tip_floor = b->nkeep ? b->keep[b->nkeep - 1] : 0;
        b->out_tip_cursor = 0;
    }
    int r = gather(mg, b->id, b->out_tip_floor, VD_EPOCH_MAX, &groups);
    if (r == 0)
        r = visits_take(mg, b, &groups, true, &b->out_tip_cursor, budget);
    map3_done(&groups);
    if (r == 1)
        b->out_tip_state = CATALOG_TIP_DEAD;
    return r < 0 ? r : 0;
}

/* A purge that still needs the marks up to another purged epoch keeps that from being forgotten. */
static void purges_wait(struct mbranch *b)
{
    for (unsigned i = 0; i < b->nep; i++) {
        const struct mepoch *e = &b->ep[i];
        if (e->done || !e->out.purging || e->out.hi == e->in.epoch)
            continue;
        unsigned at = epochs_ceil(b->ru, b->nru, e->out.hi);
        if (at < b->nru && b->ru[at] == e->out.hi)
            b->ep[at].done = false;
    }
}

static int visit_cmp(const void *a, const void *b)
{
    const struct chunk_visit *x = a, *y = b;
    return x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

static void visits_sort(struct mbranch *b)
{
    if (b->nvisit < 2)
        return;
    qsort(b->visit, b->nvisit, sizeof(b->visit[0]), visit_cmp);
    size_t n = 0;
    for (size_t i = 1; i < b->nvisit; i++) {
        if (b->visit[i].chunk == b->visit[n].chunk)
            b->visit[n].head = b->visit[n].head || b->visit[i].head;
        else
            b->visit[++n] = b->visit[i];
    }
    b->nvisit = n + 1;
}

static void out_reset(struct mbranch *b)
{
    b->out_tip_state = b->tip_state;
    b->out_tip_floor = b->tip_floor;
    b->out_tip_cursor = b->tip_cursor;
    b->out_fold_cursor = b->fold_cursor;
    b->out_sweep = b->sweep_cursor;
    b->fold_done = b->removed = b->swept = false;
    b->out_kids = b->kids;
    b->nvisit = b->nextra = 0;
    b->fold.count = b->fold.csums = 0;
    for (unsigned i = 0; i < b->nep; i++) {
        b->ep[i].out = b->ep[i].in;
        b->ep[i].done = false;
    }
}

int plan_purges(struct merge *mg)
{
    uint64_t budget = mg->m->budget;
    int r = 0;

    mg->ms->out_chunks_left = 0;
    for (size_t i = 0; i < mg->ms->nbranch; i++)
        out_reset(&mg->ms->branch[i]);
    for (size_t i = 0; r == 0 && i < mg->ms->nbranch; i++) {
        struct mbranch *b = &mg->ms->branch[i];
        if (!b->needed || b->into) {
            b->out_tip_state = CATALOG_TIP_DEAD; /* the whole branch is gone through anyway */
            continue;
        }
        if (!b->tip && b->tip_state != CATALOG_TIP_DEAD)
            r = tip_plan(mg, b, &budget);
        if (r == 0)
            r = purges_plan(mg, b, &budget);
        purges_wait(b);
        visits_sort(b);
    }
    /* What purges leave over of the budget, but at least a quarter, is for folds and whole
     * branches. */
    budget = VD_MAX(budget, mg->m->budget / 4);
    mg->work = 0;
    mg->work_max = budget * 64;
    return r;
}

/* ---- relocations under older names ---- */

static int extra_add(struct mbranch *b, uint64_t cell)
{
    if (b->nextra == b->extra_room) {
        size_t room = b->extra_room ? b->extra_room * 2 : 16;
        uint64_t *v = realloc(b->extra, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        b->extra = v;
        b->extra_room = room;
    }
    b->extra[b->nextra++] = cell;
    return 0;
}

/* Cells with relocations filed under `id`, where the versions are no longer that branch's own. Not
 * one may be left out: the place that a run was moved from is soon in use for something else. */
static int relocations_of(struct merge *mg, uint64_t id)
{
    struct branch *now = catalog_resolve(&mg->s->cat, id);
    struct mbranch *b = now ? mstate_find(mg->ms, now->id) : NULL;
    struct overlay_span span;
    int r = 0;

    if (!b || (b->id == id && !b->into))
        return 0;
    struct overlay_pos *pos = overlay_seek(mg->m->frozen, id, 0);
    if (!pos)
        return -ENOMEM;
    while (r == 0 && overlay_next(pos, &span) && span.branch == id) {
        if (!span.relocations)
            continue;
        uint64_t cell = span.lba / VD_CELL_BLOCKS;
        if (b->id != id)
            r = extra_add(b, cell);
        if (r == 0 && b->into && span.lba < b->into->fold_cursor)
            r = extra_add(b->into, cell);
    }
    if (r == 0)
        r = overlay_pos_error(pos);
    overlay_pos_free(pos);
    return r;
}

static int cell_cmp(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int plan_relocations(struct merge *mg)
{
    int r = 0;

    vd_list_each (it, &mg->s->cat.aliases)
        if (r == 0)
            r = relocations_of(mg, vd_container_of(it, struct alias, all)->id);
    for (size_t i = 0; r == 0 && i < mg->ms->nbranch; i++)
        if (mg->ms->branch[i].into)
            r = relocations_of(mg, mg->ms->branch[i].id);
    for (size_t i = 0; r == 0 && i < mg->ms->nbranch; i++) {
        struct mbranch *b = &mg->ms->branch[i];
        if (b->nextra > 1)
            qsort(b->extra, b->nextra, sizeof(b->extra[0]), cell_cmp);
    }
    return r;
}
