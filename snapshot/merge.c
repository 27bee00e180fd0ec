/* SPDX-License-Identifier: MIT */
/*
 * The merge: goes once through the branches and their cells in key order, wherever the overlay, a
 * purge, a fold or the end of a branch asks for it, and then through the indexes.
 *
 * Invariants:
 *  1 Each position is visited at most once, with everything that concerns it.
 *  2 Long ZERO ranges of overlay, HEAD or a fold are handled as ranges wherever nothing else lies
 * in them; the rest cell by cell. A range is uniform: all of it absent in HEAD, or inside one ZERO
 * run. 3 A fold's source has the lower id: what it gives up is at hand when its child is reached.
 *  4 Nothing in memory but `out` parts of the merge state changes: after a failure all starts
 * again.
 *
 * Called by the pool's checkpoint. Suspends.
 */
#include "snapshot/merge_priv.h"

#include <stdlib.h>

#define NOWHERE UINT64_MAX
#define CELL ((uint64_t)VD_CELL_BLOCKS)

/* Where the merge is in one branch. */
struct sweep {
    struct merge *mg;
    struct mbranch *b;
    uint64_t pos; /* start of a cell */
    size_t fold, extra, visit;
    bool whole; /* every cell: the branch is being folded or is not needed */
    /* Of the present position. */
    bool span_here, extra_here, visit_here, visit_head;
    size_t nfold;
    bool fold_long;
    uint64_t event; /* up to here sources stay as they are */
};

#define PROGRESS_SPANS 16

static int span_next(struct merge *mg)
{
    mg->has_span = overlay_next(mg->pos, &mg->span);
    mg->entries += mg->has_span ? mg->span.count : 0;
    if (++mg->spans % PROGRESS_SPANS == 0 || !mg->has_span)
        pool_merge_progress(mg->m, mg->entries);
    if (mg->ahead)
        ahead_follow(mg->ahead);
    return mg->has_span ? 0 : overlay_pos_error(mg->pos);
}

static bool has_span(const struct sweep *sw)
{
    return sw->mg->has_span && sw->mg->span.branch == sw->b->id;
}

static uint64_t fold_end(const struct fold_run *f)
{
    return f->lba + f->blocks;
}

/* Moves the sources up to sw->pos. */
static int sources_advance(struct sweep *sw)
{
    struct mbranch *b = sw->b;
    /* Of a branch that goes, only the places its runs were moved to or from matter. */
    while (has_span(sw) && (sw->mg->span.lba + sw->mg->span.blocks <= sw->pos ||
                            (!b->needed && !sw->mg->span.relocations))) {
        int r = span_next(sw->mg);
        if (r < 0)
            return r;
    }
    while (sw->fold < b->fold.count && fold_end(&b->fold.run[sw->fold]) <= sw->pos)
        sw->fold++;
    while (sw->extra < b->nextra && b->extra[sw->extra] * CELL < sw->pos)
        sw->extra++;
    while (sw->visit < b->nvisit && (b->visit[sw->visit].chunk + 1) * VD_CHANGE_BLOCKS <= sw->pos)
        sw->visit++;
    return 0;
}

/* Where anything is to be done at or after sw->pos. */
static uint64_t sources_first(const struct sweep *sw)
{
    const struct mbranch *b = sw->b;
    uint64_t at = NOWHERE;

    if (has_span(sw))
        at = VD_MIN(at, sw->mg->span.lba);
    if (sw->fold < b->fold.count)
        at = VD_MIN(at, VD_ROUND_DOWN(b->fold.run[sw->fold].lba, CELL));
    if (sw->extra < b->nextra)
        at = VD_MIN(at, b->extra[sw->extra] * CELL);
    if (sw->visit < b->nvisit)
        at = VD_MIN(at, b->visit[sw->visit].chunk * VD_CHANGE_BLOCKS);
    return at == NOWHERE ? at : VD_MAX(at, sw->pos);
}

static void event_at(struct sweep *sw, uint64_t at)
{
    if (at > sw->pos)
        sw->event = VD_MIN(sw->event, at);
}

/* Which sources are active at sw->pos, and until where that holds. */
static void sources_here(struct sweep *sw)
{
    const struct mbranch *b = sw->b;
    uint64_t cell_end = sw->pos + CELL;

    sw->event = NOWHERE;
    sw->span_here = has_span(sw) && sw->mg->span.lba <= sw->pos;
    if (has_span(sw)) {
        event_at(sw, sw->mg->span.lba);
        event_at(sw, sw->mg->span.lba + sw->mg->span.blocks);
    }
    sw->nfold = 0;
    sw->fold_long = false;
    for (size_t i = sw->fold; i < b->fold.count && b->fold.run[i].lba < cell_end; i++)
        sw->nfold++;
    if (sw->fold < b->fold.count) {
        const struct fold_run *f = &b->fold.run[sw->fold];
        sw->fold_long = f->lba <= sw->pos && fold_end(f) >= cell_end;
        sw->fold_long =
            sw->fold_long && f->type == VD_RUN_ZERO && sw->nfold == 1 && f->died == VD_EPOCH_MAX;
        event_at(sw, VD_ROUND_DOWN(f->lba, CELL));
        event_at(sw, VD_ROUND_DOWN(fold_end(f), CELL));
    }
    sw->extra_here = sw->extra < b->nextra && b->extra[sw->extra] * CELL == sw->pos;
    if (sw->extra < b->nextra)
        event_at(sw, b->extra[sw->extra] * CELL);
    sw->visit_here = sw->visit_head = false;
    if (sw->visit < b->nvisit) {
        uint64_t from = b->visit[sw->visit].chunk * VD_CHANGE_BLOCKS;
        sw->visit_here = from <= sw->pos;
        sw->visit_head = sw->visit_here && b->visit[sw->visit].head;
        event_at(sw, from);
        event_at(sw, from + VD_CHANGE_BLOCKS);
    }
    event_at(sw, b->out_fold_cursor);
    event_at(sw, VD_ROUND_DOWN(explicit_limit(b, sw->pos), CELL));
}

/* ---- a uniform range ---- */

/* [sw->pos, end): absent in HEAD, or (old_born) inside one ZERO run. */
static int range_merge(struct sweep *sw, uint64_t end, bool old, uint64_t old_born)
{
    struct merge *mg = sw->mg;
    struct mbranch *b = sw->b;
    struct vd_run run = {.lba = sw->pos,
                         .blocks = end - sw->pos,
                         .died = VD_EPOCH_MAX,
                         .type = VD_RUN_ZERO,
                         .born = old ? old_born : UINT64_MAX};
    bool below = explicit_limit(b, sw->pos) > sw->pos;
    int r = 0;

    if (old) {
        struct vd_run *taken = &mg->run;
        while ((r = head_take(&mg->head, b->id, sw->pos, end, taken)) == 0)
            ;
        r = r == -ENOENT ? 0 : r;
    }
    if (sw->fold_long)
        run.born = VD_MIN(run.born, b->fold.run[sw->fold].born);
    if (r == 0 && sw->span_here && run.born == UINT64_MAX && below && b->needed)
        r = changed_add_range(mg, b, mg->span.versions[0].born, sw->pos, end);
    if (sw->span_here)
        run.born = VD_MIN(run.born, mg->span.versions[0].born);
    if (r < 0 || run.born == UINT64_MAX || !b->needed)
        return r;
    if (sw->whole) { /* on its way to the child */
        run.blocks = VD_MIN(end, b->into->limit) - VD_MIN(sw->pos, b->into->limit);
        return run.born <= b->into->origin && run.blocks ? fold_add(&b->into->fold, &run) : 0;
    }
    if (!below || !version_needed(b, run.born, VD_EPOCH_MAX))
        return 0;
    if (!old) { /* make sure the writer stands here */
        r = head_take(&mg->head, b->id, sw->pos, end, &mg->run);
        if (r != -ENOENT)
            return r < 0 ? r : -EUCLEAN;
    }
    return head_put(&mg->head, b->id, &run);
}

/* ---- a step ---- */

/* Finds a uniform range from sw->pos: *end, 0; or 1: this cell needs a closer look. */
static int range_find(struct sweep *sw, uint64_t *end, bool *old, uint64_t *old_born)
{
    struct merge *mg = sw->mg;
    bool head = sw->span_here || sw->nfold || sw->whole || sw->visit_head;
    bool history = sw->nfold || sw->whole || sw->visit_here;
    uint64_t cell;

    *old = false;
    *end = sw->event;
    if ((sw->span_here && (mg->span.blocks <= CELL || mg->span.relocations)) || sw->extra_here ||
        (sw->nfold && !sw->fold_long))
        return 1;
    if (head) {
        struct vd_run *run = &mg->run;
        int r = head_peek(&mg->head, sw->b->id, sw->pos, run);
        if (r < 0 && r != -ENOENT)
            return r;
        if (r == 0 && run->lba >= sw->pos + CELL) {
            *end = VD_MIN(*end, VD_ROUND_DOWN(run->lba, CELL));
        } else if (r == 0) {
            uint64_t to = VD_ROUND_DOWN(vd_run_end(run), CELL);
            *old = run->type == VD_RUN_ZERO && run->lba <= sw->pos && to > sw->pos;
            *old_born = run->born;
            if (!*old)
                return 1;
            *end = VD_MIN(*end, to);
        }
    }
    if (history) {
        int r = history_peek(&mg->history, sw->b->id, sw->pos / CELL, &cell);
        if (r < 0 && r != -ENOENT)
            return r;
        if (r == 0)
            *end = VD_MIN(*end, cell * CELL);
    }
    uint64_t limit = explicit_limit(sw->b, sw->pos);
    bool cut = limit > sw->pos && limit < sw->pos + CELL; /* the limit falls into this cell */
    return *end <= sw->pos || cut;
}

static int cell_merge(struct sweep *sw)
{
    struct merge *mg = sw->mg;
    bool relocations = sw->span_here && mg->span.relocations;
    struct cell_job job = {
        .b = sw->b,
        .cell = sw->pos / CELL,
        .span = sw->span_here ? &mg->span : NULL,
        .fold = sw->b->fold.run + sw->fold,
        .nfold = sw->nfold,
        .head = sw->span_here || sw->nfold || sw->whole || sw->extra_here || sw->visit_head,
        .history = sw->nfold || sw->whole || sw->extra_here || sw->visit_here || relocations,
        .sweep = sw->whole ? sw->b->into : NULL,
        .drop = !sw->b->needed,
    };
    int r = merge_cell(mg, &job);
    if (sw->whole)
        mg->work += 1 + mg->nver / 8;
    sw->pos += CELL;
    return r;
}

static int step(struct sweep *sw)
{
    uint64_t end, born = 0;
    bool old;

    merge_breathe(sw->mg);
    sources_here(sw);
    int r = range_find(sw, &end, &old, &born);
    if (r == 1)
        return cell_merge(sw);
    if (r < 0)
        return r;
    if (sw->whole)
        sw->mg->work++;
    r = range_merge(sw, end, old, born);
    sw->pos = end;
    return r;
}

/* Goes through the whole branch from its cursor on, as far as the budget reaches. */
static int branch_whole(struct sweep *sw)
{
    struct merge *mg = sw->mg;
    struct mbranch *b = sw->b;
    uint64_t *cursor = b->into ? &b->into->out_fold_cursor : &b->out_sweep;
    int r = 0;

    sw->pos = *cursor;
    sw->whole = true;
    while (r == 0 && sw->pos != NOWHERE && mg->work < mg->work_max) {
        r = sources_advance(sw);
        if (r == 0)
            r = step(sw);
    }
    sw->whole = false;
    *cursor = sw->pos;
    b->swept = sw->pos == NOWHERE;
    return r;
}

static int branch_merge(struct merge *mg, struct mbranch *b)
{
    struct sweep sw = {.mg = mg, .b = b};
    int r = 0;

    while (mg->has_span && r == 0 && mg->span.branch < b->id)
        r = span_next(mg); /* of branches that are gone */
    if (r == 0 && (!b->needed || b->into))
        r = branch_whole(&sw);
    while (r == 0 && sw.pos != NOWHERE) {
        r = sources_advance(&sw);
        if (r < 0)
            break;
        sw.pos = sources_first(&sw);
        if (sw.pos != NOWHERE)
            r = step(&sw);
    }
    return r;
}

/* ---- the whole merge ---- */

/* What the sweeps mean for their branches. Children come after their parents. */
static void branches_settle(struct merge_state *ms)
{
    for (size_t i = ms->nbranch; i-- > 0;) {
        struct mbranch *b = &ms->branch[i];
        if (b->absorbing && b->up->swept)
            b->fold_done = true;
        b->removed = !b->needed && b->swept && b->out_kids == 0;
        if (b->removed && b->up)
            b->up->out_kids--;
    }
}

static int maps_merge(struct merge *mg)
{
    mg->ahead = ahead_begin(mg);
    int r = span_next(mg);

    for (size_t i = 0; r == 0 && i < mg->ms->nbranch; i++)
        r = branch_merge(mg, &mg->ms->branch[i]);
    ahead_end(mg->ahead);
    mg->ahead = NULL;
    int h = stream_finish(&mg->head, r);
    return stream_finish(&mg->history, h);
}

int merge_run(void *c, struct pool_merge *m)
{
    struct snap_store *s = c;
    struct merge *mg = calloc(1, sizeof(*mg));
    if (!mg)
        return -ENOMEM;
    mg->s = s;
    mg->m = m;
    mg->ms = s->frozen;
    mg->catalog.owns = true;
    stream_init(&mg->head, m, TREE_HEAD);
    stream_init(&mg->history, m, TREE_HISTORY);
    mg->pos = overlay_seek(m->frozen, 0, 0);
    int r = mg->pos ? plan_purges(mg) : -ENOMEM;
    if (r == 0)
        r = plan_relocations(mg);
    if (r == 0)
        r = maps_merge(mg);
    if (r == 0) {
        branches_settle(mg->ms);
        r = merge_changed(mg);
    }
    if (r == 0)
        r = merge_usage(mg);
    if (r == 0)
        r = merge_catalog(mg);
    overlay_pos_free(mg->pos);
    map3_done(&mg->usage);
    map3_done(&mg->changed);
    map3_done(&mg->catalog);
    free(mg->ver);
    free(mg->order);
    free(mg);
    return r;
}
