/* SPDX-License-Identifier: MIT */
/*
 * The two ends of a checkpoint: freeze notes what the merge needs of the catalogue, and begins
 * folds; publish takes over what the merge has come to.
 *
 * Invariants:
 *  1 What is needed and kept follows from who points at what, and is worked out anew each time: no
 *    operation has to log it, and a crash loses nothing of it.
 *  2 A fold of p into its only child c, whose origin no kept epoch of p is above, repoints the
 *    names on (p, e) to (c, e): in memory at freeze, in the tree with the merge. c holds nothing of
 *    its own at or below its origin, so both always show the same: it does not matter to a log that
 *    is replayed from an older root.
 *  3 Neither suspends.
 */
#include "snapshot/merge_priv.h"

#include <stdlib.h>

#define FOLD_STARTS 64 /* at most in one merge */

static struct branch *branch_at(struct vd_list *l)
{
    return vd_container_of(l, struct branch, all);
}

/* ---- what is needed ---- */

/* Fills needed and kept of every branch. Children have higher ids than parents. */
static void flags_update(struct catalog *c)
{
    vd_list_each (it, &c->branches) {
        struct branch *b = branch_at(it);
        b->needed = b->tip || !vd_list_empty(&b->snapshots);
        for (unsigned i = 0; i < b->nret; i++)
            b->ret[i].kept = b->ret[i].names > 0;
    }
    for (struct vd_list *it = c->branches.prev; it != &c->branches; it = it->prev) {
        struct branch *b = branch_at(it);
        if (!b->needed || !b->parent)
            continue;
        b->parent->needed = true;
#ifndef VD_PLANT_DELETE_FREES_CLONE
        branch_retained(b->parent, b->origin)->kept = true;
#endif
    }
}

/* Should b be folded? Into its only child, when that is all that needs it. One level stays for
 * names on a branch without a parent, such as a base image that is reset to every night: folding
 * that would rewrite the whole map each time to save one look-up. */
static bool fold_wanted(const struct branch *b)
{
    if (!b->needed || b->tip || b->into || b->absorbing || vd_list_empty(&b->children) ||
        b->children.next != b->children.prev)
        return false;
    const struct branch *child = vd_container_of(b->children.next, struct branch, sibling);
    if (!child->needed || child->absorbing || child->into)
        return false;
    if (!b->parent && !vd_list_empty(&b->snapshots))
        return false;
    for (unsigned i = 0; i < b->nret; i++)
        if (b->ret[i].kept && b->ret[i].epoch > child->origin)
            return false; /* it went on after the child left */
    vd_list_each (it, &b->snapshots) {
        const struct snapshot *sn = vd_container_of(it, struct snapshot, in_branch);
        if (VD_DIV_UP(sn->rec.size, VD_BLOCK) > child->limit)
            return false;
    }
    return true;
}

static bool branch_busy(const struct branch *b)
{
    if (!b->needed || b->into)
        return true;
    if (b->tip_state == CATALOG_TIP_PURGING || (!b->tip && b->tip_state == CATALOG_TIP_LIVE))
        return true;
    for (unsigned i = 0; i < b->nret; i++)
        if (b->ret[i].recorded && !b->ret[i].kept)
            return true;
    return fold_wanted(b);
}

bool merge_backlog(struct snap_store *s)
{
    if (s->backlog_known)
        return s->backlog_any;
    flags_update(&s->cat);
    s->backlog_any = false;
    vd_list_each (it, &s->cat.branches)
        if (branch_busy(branch_at(it)))
            s->backlog_any = true;
    s->backlog_known = true;
    return s->backlog_any;
}

/* ---- folds begin and are called off ---- */

static int fold_begin(struct snap_store *s, struct branch *p)
{
    struct branch *c = vd_container_of(p->children.next, struct branch, sibling);
    uint8_t buf[CATALOG_VALUE_ROOM];

    /* All memory first. */
    if (!branch_alias(&s->cat, p))
        return -ENOMEM;
    vd_list_each (it, &p->snapshots) {
        const struct snapshot *sn = vd_container_of(it, struct snapshot, in_branch);
        struct snapshot_rec rec = sn->rec;
        rec.branch = c->id;
        uint64_t key[3] = {CATALOG_SNAPSHOT, sn->id, 0};
        int r = map3_put_bytes(&s->dirty, key, buf, snapshot_encode(&rec, buf));
        if (r == 0 && !branch_retain(c, rec.epoch))
            r = -ENOMEM;
        if (r < 0)
            return r;
    }
    while (!vd_list_empty(&p->snapshots))
        snapshot_repoint(vd_container_of(p->snapshots.next, struct snapshot, in_branch), c);
    p->into = c;
    c->absorbing = true;
    c->fold_known = false;
    c->fold_cursor = 0;
    return 0;
}

/* Returns how many have begun. */
static int folds_update(struct snap_store *s)
{
    unsigned begun = 0;
    int r = 0;
    vd_list_each (it, &s->cat.branches) {
        struct branch *b = branch_at(it);
        if (b->into && !b->into->needed) {
            b->into->absorbing = false;
            b->into->fold_cursor = 0;
            b->into = NULL;
        } else if (r == 0 && begun < FOLD_STARTS && fold_wanted(b)) {
            r = fold_begin(s, b);
            begun++;
        }
    }
    return r < 0 ? r : (int)begun;
}

/* ---- the copy ---- */

static void retained_drop(struct branch *b)
{
    unsigned n = 0;
    for (unsigned i = 0; i < b->nret; i++)
        if (b->ret[i].kept || b->ret[i].recorded || b->into) /* a fold's names have gone ahead */
            b->ret[n++] = b->ret[i];
    b->nret = n;
}

struct mbranch *mstate_find(struct merge_state *ms, uint64_t id)
{
    size_t lo = 0, n = ms->nbranch;
    while (n > 0) {
        size_t half = n / 2;
        if (ms->branch[lo + half].id < id) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return lo < ms->nbranch && ms->branch[lo].id == id ? &ms->branch[lo] : NULL;
}

/* Nothing of its epochs changes in the merge to come: then only their numbers are copied. That is
 * nearly all branches nearly always, and keeps the freeze short with 100,000 snapshots. */
static bool branch_quiet(const struct branch *b)
{
    if (!b->needed || b->into)
        return false;
    for (unsigned i = 0; i < b->nret; i++)
        if (!b->ret[i].kept || !b->ret[i].recorded)
            return false;
    return true;
}

static void epochs_copy(struct merge_state *ms, const struct branch *b, struct mbranch *m)
{
    uint64_t *numbers = ms->numbers + ms->nnumbers;

    m->nru = b->nret;
    m->ru = m->keep = numbers;
    for (unsigned i = 0; i < b->nret; i++)
        numbers[i] = b->ret[i].epoch;
    ms->nnumbers += b->nret;
    if (branch_quiet(b)) {
        m->nkeep = b->nret;
        return;
    }
    m->ep = ms->epochs + ms->nepochs;
    m->nep = b->nret;
    m->keep = numbers + b->nret;
    for (unsigned i = 0; i < b->nret; i++) {
        m->ep[i] = (struct mepoch){.in = b->ret[i]};
        if (b->ret[i].kept)
            ms->numbers[ms->nnumbers + m->nkeep++] = b->ret[i].epoch;
    }
    ms->nepochs += b->nret;
    ms->nnumbers += b->nret;
}

static void branch_copy(struct merge_state *ms, const struct branch *b, struct mbranch *m)
{
    *m = (struct mbranch){
        .id = b->id,
        .origin = b->origin,
        .limit = b->limit,
        .needed = b->needed,
        .tip = b->tip != NULL,
        .absorbing = b->absorbing,
        .fold_starts = b->absorbing && !b->fold_known,
        .fold_cursor = b->fold_cursor,
        .tip_state = b->tip_state,
        .tip_floor = b->tip_floor,
        .tip_cursor = b->tip_cursor,
        .sweep_cursor = b->sweep_cursor,
    };
    epochs_copy(ms, b, m);
    if (b->parent) {
        m->up = mstate_find(ms, b->parent->id); /* copied before: lower id */
        m->up->kids++;
        if (b->absorbing)
            m->up->into = m;
    }
}

static struct merge_state *state_copy(const struct catalog *c)
{
    struct merge_state *ms = calloc(1, sizeof(*ms));
    size_t epochs = 0, numbers = 0;

    vd_list_each (it, &c->branches) {
        const struct branch *b = branch_at(it);
        bool quiet = branch_quiet(b);
        numbers += quiet ? b->nret : 2u * b->nret;
        epochs += quiet ? 0 : b->nret;
    }
    if (ms) {
        ms->dirty.owns = true;
        ms->branch = malloc((c->nbranches + 1u) * sizeof(*ms->branch));
        ms->epochs = malloc((epochs + 1) * sizeof(*ms->epochs));
        ms->numbers = malloc((numbers + 1) * sizeof(*ms->numbers));
    }
    if (!ms || !ms->branch || !ms->epochs || !ms->numbers) {
        merge_state_free(ms);
        return NULL;
    }
    vd_list_each (it, &c->branches) {
        struct mbranch *m = &ms->branch[ms->nbranch++];
        m->id = branch_at(it)->id;
        branch_copy(ms, branch_at(it), m);
    }
    return ms;
}

void merge_state_free(struct merge_state *ms)
{
    if (!ms)
        return;
    for (size_t i = 0; i < ms->nbranch; i++) {
        struct mbranch *b = &ms->branch[i];
        free(b->visit);
        free(b->extra);
        free(b->fold.run);
        free(b->fold.csum);
    }
    map3_done(&ms->dirty);
    free(ms->branch);
    free(ms->epochs);
    free(ms->numbers);
    free(ms);
}

int merge_freeze(void *c)
{
    struct snap_store *s = c;

    assert(!s->frozen);
    s->backlog_known = false;
    flags_update(&s->cat);
    int r = folds_update(s);
    if (r < 0)
        return r;
    if (r > 0)
        flags_update(&s->cat); /* names have moved */
    vd_list_each (it, &s->cat.branches)
        retained_drop(branch_at(it));
    struct merge_state *ms = state_copy(&s->cat);
    if (!ms)
        return -ENOMEM;
    ms->dirty = s->dirty;
    s->dirty = (struct map3){.owns = true};
    s->frozen = ms;
    return 0;
}

/* ---- publish ---- */

static void publish_epochs(struct branch *b, const struct mbranch *m)
{
    for (unsigned i = 0; i < m->nep; i++) {
        const struct mepoch *e = &m->ep[i];
        struct retained *r = branch_retained(b, e->in.epoch);
        r->recorded = !e->done;
        r->purging = !e->done && e->out.purging;
        r->head = e->out.head;
        r->lo = e->out.lo;
        r->hi = e->out.hi;
        r->cursor = e->out.cursor;
    }
    unsigned n = 0;
    for (unsigned i = 0; m->nep && i < b->nret; i++) {
        const struct mepoch *e = NULL;
        unsigned at = epochs_ceil(m->ru, m->nru, b->ret[i].epoch);
        if (at < m->nru && m->ru[at] == b->ret[i].epoch)
            e = &m->ep[at];
        if (!e || !e->done)
            b->ret[n++] = b->ret[i];
    }
    if (m->nep)
        b->nret = n;
}

/* The child takes its parent's place; the parent's name goes on as an alias. */
static void publish_fold(struct catalog *cat, struct branch *c)
{
    struct branch *p = c->parent;
    c->absorbing = false;
    c->fold_cursor = 0;
    branch_set_parent(c, p->parent, p->origin, p->parent ? VD_MIN(c->limit, p->limit) : 0);
    p->into = NULL;
    struct alias *a = p->alias;
    p->alias = NULL;
    branch_remove(cat, p);
    alias_insert(cat, a, c->id);
}

static void publish_removed(struct catalog *cat, struct branch *b)
{
    uint64_t id = b->id;
    vd_list_each_safe (it, &cat->aliases) {
        struct alias *a = vd_container_of(it, struct alias, all);
        struct branch *to = catalog_resolve(cat, a->id);
        if (!to || to->id == id)
            alias_remove(cat, a);
    }
    branch_remove(cat, b);
}

void merge_publish(void *c)
{
    struct snap_store *s = c;
    struct merge_state *ms = s->frozen;

    s->frozen = NULL;
    s->backlog_known = false;
    s->chunks_left = ms->out_chunks_left;
    for (size_t i = ms->nbranch; i-- > 0;) {
        const struct mbranch *m = &ms->branch[i];
        struct branch *b = catalog_branch(&s->cat, m->id);
        if (!b)
            continue; /* folded just now */
        if (m->removed) {
            publish_removed(&s->cat, b);
            continue;
        }
        publish_epochs(b, m);
        b->tip_state = m->out_tip_state;
        b->tip_floor = m->out_tip_floor;
        b->tip_cursor = m->out_tip_cursor;
        b->sweep_cursor = m->out_sweep;
        if (b->absorbing) {
            b->fold_known = true;
            b->fold_cursor = m->out_fold_cursor;
        }
        if (m->fold_done)
            publish_fold(&s->cat, b);
    }
    merge_state_free(ms);
}
