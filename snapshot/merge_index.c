/* SPDX-License-Identifier: MIT */
/*
 * The indexes a merge keeps beside the map: CHANGED (what an epoch touched), USAGE (bytes by the
 * epochs that need them) and CATALOG. Changes are gathered in memory while the map is merged, and
 * applied in key order afterwards. All of it is bounded by the overlay and the budget, but for the
 * re-keying that comes with a purge's end, which is bounded by the index of that branch.
 *
 * Invariants:
 *  1 USAGE is reckoned with the epochs `ru` and the live end while HEAD and HISTORY are merged; it
 * is brought there first (epochs added, end lost), and from there to what is left (purges done)
 * last. 2 A chunk that any version between two retained epochs touched is marked in CHANGED for an
 * epoch between them. So marks move forward over an epoch that is forgotten, never over one that is
 * not.
 */
#include "snapshot/merge_priv.h"

#include "core/base/log.h"

#include <stdlib.h>

/* ---- gathering ---- */

static void usage_key(const struct mbranch *b, uint64_t born, uint64_t died, uint64_t key[3])
{
    unsigned first = epochs_ceil(b->ru, b->nru, born);

    key[0] = b->id;
    key[1] = first < b->nru ? b->ru[first] : VD_EPOCH_MAX;
    if (died == VD_EPOCH_MAX) {
        key[2] = b->tip || first == b->nru ? VD_EPOCH_MAX : b->ru[b->nru - 1];
    } else {
        unsigned end = epochs_ceil(b->ru, b->nru, died);
        key[2] = end ? b->ru[end - 1] : 0;
    }
}

static int usage_at(struct merge *mg, uint64_t branch, uint64_t first, uint64_t last, int64_t bytes)
{
    uint64_t key[3] = {branch, first, last};
    struct map3_entry *e = map3_make(&mg->usage, key);
    if (!e)
        return -ENOMEM;
    e->val += (uint64_t)bytes;
    return 0;
}

int usage_add(struct merge *mg, const struct mbranch *b, uint64_t born, uint64_t died,
              int64_t bytes)
{
    uint64_t key[3];
    usage_key(b, born, died, key);
    return usage_at(mg, b->id, key[1], key[2], bytes);
}

static int changed_bits(struct merge *mg, uint64_t branch, uint64_t epoch, uint64_t group,
                        uint64_t bits, bool drop_old)
{
    uint64_t key[3] = {branch, epoch, group};
    struct map3_entry *e = map3_make(&mg->changed, key);
    if (!e)
        return -ENOMEM;
    e->val |= bits;
    e->flag = e->flag || drop_old;
    return 0;
}

/* Under which branch a version born at `epoch` is marked. False: nowhere, it is on its way out. */
static bool changed_where(const struct mbranch *b, uint64_t *branch, uint64_t epoch)
{
    *branch = b->id;
    if (b->into) {
        if (epoch > b->into->origin)
            return false;
        *branch = b->into->id;
        return true;
    }
    return b->tip || (b->nkeep && epoch <= b->keep[b->nkeep - 1]);
}

int changed_add(struct merge *mg, const struct mbranch *b, uint64_t epoch, uint64_t lba)
{
    uint64_t branch, chunk = lba / VD_CHANGE_BLOCKS;
    if (!changed_where(b, &branch, epoch))
        return 0;
#ifdef VD_PLANT_CHANGED_MISSES
    if (chunk == 1)
        return 0;
#endif
    return changed_bits(mg, branch, epoch, chunk / 64, UINT64_C(1) << chunk % 64, false);
}

/* Bits of a group that lie in the chunks [first, last]. */
static uint64_t group_bits(uint64_t group, uint64_t first, uint64_t last)
{
    uint64_t bits = UINT64_MAX;
    if (first > group * 64)
        bits &= UINT64_MAX << (first - group * 64);
    if (last < group * 64 + 63)
        bits &= UINT64_MAX >> (group * 64 + 63 - last);
    return bits;
}

/* ORs what CHANGED knows of a branch up to an epoch, cut to the chunks, into *into. */
static int changed_collect(struct merge *mg, uint64_t branch, uint64_t upto, uint64_t first,
                           uint64_t last, struct map3 *into)
{
    struct tree_entry *e = &mg->entry;
    int r;

    for (size_t i = 0; i < mg->changed.room; i++) {
        const struct map3_entry *c = &mg->changed.slot[i];
        uint64_t key[3] = {c->key[2]};
        if (!c->used || c->key[0] != branch || c->key[1] > upto || c->key[2] < first / 64 ||
            c->key[2] > last / 64)
            continue;
        struct map3_entry *g = map3_make(into, key);
        if (!g)
            return -ENOMEM;
        g->val |= c->val & group_bits(c->key[2], first, last);
    }
    tree_cursor_init(&mg->cursor, mg->m->forest, TREE_CHANGED, &(struct tree_key){{branch}});
    while ((r = tree_cursor_next(&mg->cursor, e)) == 0 && e->key.w[0] == branch &&
           e->key.w[1] <= upto) {
        uint64_t key[3] = {e->key.w[2]};
        le64_t bits;
        if (e->len != sizeof(bits))
            return -EUCLEAN;
        if (key[0] < first / 64 || key[0] > last / 64)
            continue;
        memcpy(&bits, e->val, sizeof(bits));
        struct map3_entry *g = map3_make(into, key);
        if (!g)
            return -ENOMEM;
        g->val |= vd_get64(bits) & group_bits(key[0], first, last);
    }
    return r == -ENOENT ? 0 : r;
}

#define RANGE_GROUPS 4096 /* 256 GiB: up to there every chunk is simply marked */

int changed_add_range(struct merge *mg, const struct mbranch *b, uint64_t epoch, uint64_t lba,
                      uint64_t end)
{
    uint64_t first = lba / VD_CHANGE_BLOCKS, last = (end - 1) / VD_CHANGE_BLOCKS, branch;
    int r = 0;

    if (!changed_where(b, &branch, epoch))
        return 0;
    if (last / 64 - first / 64 < RANGE_GROUPS) {
        for (uint64_t g = first / 64; r == 0 && g <= last / 64; g++)
            r = changed_bits(mg, branch, epoch, g, group_bits(g, first, last), false);
        return r;
    }
    /* Only where there was ever anything to be zeroed. */
    struct map3 groups = {0};
    r = changed_collect(mg, b->id, VD_EPOCH_MAX, first, last, &groups);
    uint64_t upto = b->origin;
    for (const struct mbranch *up = b->up; r == 0 && up; up = up->up) {
        r = changed_collect(mg, up->id, upto, first, last, &groups);
        upto = up->origin;
    }
    for (size_t i = 0; r == 0 && i < groups.room; i++)
        if (groups.slot[i].used)
            r = changed_bits(mg, branch, epoch, groups.slot[i].key[0], groups.slot[i].val, false);
    map3_done(&groups);
    return r;
}

/* ---- epochs that are forgotten ---- */

static bool epoch_done(const struct mbranch *b, unsigned i)
{
    return b->nep && b->ep[i].done;
}

static bool any_done(const struct mbranch *b)
{
    for (unsigned i = 0; i < b->nep; i++)
        if (b->ep[i].done)
            return true;
    return false;
}

/* Where marks of `epoch` belong when the purges that are done are. 0: nowhere. */
static uint64_t changed_epoch(const struct mbranch *b, uint64_t epoch)
{
    unsigned i = epochs_ceil(b->ru, b->nru, epoch);
    for (; i < b->nru && epoch_done(b, i); i++)
        epoch = b->ru[i] + 1;
    return i == b->nru && b->out_tip_state == CATALOG_TIP_DEAD ? 0 : epoch;
}

/* Moves the marks of epochs in [lo, hi]. */
static int changed_move(struct merge *mg, const struct mbranch *b, uint64_t lo, uint64_t hi)
{
    struct tree_entry *e = &mg->entry;
    int r;

    tree_cursor_init(&mg->cursor, mg->m->forest, TREE_CHANGED, &(struct tree_key){{b->id, lo}});
    while ((r = tree_cursor_next(&mg->cursor, e)) == 0 && e->key.w[0] == b->id &&
           e->key.w[1] <= hi) {
        uint64_t from = e->key.w[1], group = e->key.w[2], branch = b->id, to = from;
        le64_t bits;
        if (e->len != sizeof(bits))
            return -EUCLEAN;
        memcpy(&bits, e->val, sizeof(bits));
        if (b->into)
            to = changed_where(b, &branch, to) ? to : 0;
        else
            to = changed_epoch(b, from);
        if (to == from && branch == b->id)
            continue;
        r = changed_bits(mg, b->id, from, group, 0, true);
        if (r == 0 && to)
            r = changed_bits(mg, branch, to, group, vd_get64(bits), false);
        if (r < 0)
            return r;
    }
    return r == -ENOENT ? 0 : r;
}

static int changed_rekey(struct merge *mg, struct mbranch *b)
{
    int r = 0;

    if (b->into)
        return b->into->fold_starts ? changed_move(mg, b, 0, VD_EPOCH_MAX) : 0;
    for (unsigned i = 0; r == 0 && i < b->nep; i++)
        if (b->ep[i].done)
            r = changed_move(mg, b, i ? b->ru[i - 1] + 1 : 0, b->ru[i]);
    if (r == 0 && b->out_tip_state == CATALOG_TIP_DEAD && b->tip_state != CATALOG_TIP_DEAD)
        r = changed_move(mg, b, b->nru ? b->ru[b->nru - 1] + 1 : 0, VD_EPOCH_MAX);
    return r;
}

/* ---- writing an index ---- */

static int writer_open(struct merge *mg, enum tree_id t, struct tree_writer **w)
{
    if (*w)
        return 0;
    return tree_writer_new(mg->m->forest, t, &mg->m->base[t], mg->m->incarnation, mg->m->counter,
                           w);
}

static int writer_seek(struct merge *mg, enum tree_id t, struct tree_writer **w,
                       const struct tree_key *key)
{
    int r = writer_open(mg, t, w);
    if (r == 0)
        r = pool_merge_touch(mg->m, *w, t, key);
    return r < 0 ? r : tree_writer_seek(*w, key);
}

static int writer_finish(struct merge *mg, enum tree_id t, struct tree_writer *w, int err)
{
    struct tree_root root;
    int r = err;

    if (r == 0 && pool_merge_wants(mg->m, t))
        r = writer_seek(mg, t, &w, &TREE_KEY_MAX);
    if (!w)
        return r;
    if (r < 0) {
        tree_writer_abort(w);
        return r;
    }
    r = tree_writer_finish(w, &root);
    if (r == 0)
        mg->m->root[t] = root;
    return r;
}

/* Drops all entries of a branch. */
static int branch_drop(struct merge *mg, enum tree_id t, struct tree_writer **w, uint64_t branch)
{
    struct tree_entry *e = &mg->entry;
    int r = writer_seek(mg, t, w, &(struct tree_key){{branch}});

    while (r == 0 && (r = tree_writer_peek(*w, e)) == 0 && e->key.w[0] == branch)
        tree_writer_take(*w);
    return r == -ENOENT ? 0 : r;
}

static int put_u64(struct merge *mg, struct tree_writer *w, const uint64_t key[3], uint64_t val)
{
    le64_t od = vd_le64(val);
    mg->entry =
        (struct tree_entry){.key = {{key[0], key[1], key[2]}}, .val = &od, .len = sizeof(od)};
    return tree_writer_put(w, &mg->entry);
}

/* Takes the old value at key, if there is one. */
static int take_u64(struct merge *mg, enum tree_id t, struct tree_writer **w, const uint64_t key[3],
                    uint64_t *ret)
{
    struct tree_key k = {{key[0], key[1], key[2]}};
    struct tree_entry *e = &mg->entry;
    le64_t od;

    *ret = 0;
    merge_breathe(mg);
    int r = writer_seek(mg, t, w, &k);
    if (r == 0)
        r = tree_writer_peek(*w, e);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    if (tree_key_cmp(&e->key, &k) != 0)
        return 0;
    if (e->len != sizeof(od))
        return -EUCLEAN;
    memcpy(&od, e->val, sizeof(od));
    *ret = vd_get64(od);
    tree_writer_take(*w);
    return 0;
}

static bool branch_gone(const struct mbranch *b)
{
    return b->removed || (b->into && b->into->fold_done);
}

int merge_changed(struct merge *mg)
{
    struct tree_writer *w = NULL;
    struct map3_entry **v = NULL;
    int r = 0;

    for (size_t i = 0; r == 0 && i < mg->ms->nbranch; i++)
        if (!branch_gone(&mg->ms->branch[i]) || mg->ms->branch[i].into)
            r = changed_rekey(mg, &mg->ms->branch[i]);
    if (r == 0)
        r = map3_sorted(&mg->changed, &v);
    size_t n = mg->changed.count, at = 0;
    for (size_t i = 0; r == 0 && i < mg->ms->nbranch; i++) {
        const struct mbranch *b = &mg->ms->branch[i];
        if (b->removed)
            r = branch_drop(mg, TREE_CHANGED, &w, b->id);
        for (; r == 0 && at < n && v[at]->key[0] <= b->id; at++) {
            uint64_t old;
            if (b->removed)
                continue;
            r = take_u64(mg, TREE_CHANGED, &w, v[at]->key, &old);
            uint64_t bits = v[at]->val | (v[at]->flag ? 0 : old);
            if (r == 0 && bits)
                r = put_u64(mg, w, v[at]->key, bits);
        }
    }
    free(v);
    return writer_finish(mg, TREE_CHANGED, w, r);
}

/* ---- USAGE ---- */

/* The smallest epoch that is new to the trees and lies above all they know. 0: none. */
static uint64_t epoch_added(const struct mbranch *b)
{
    for (unsigned i = 0; i < b->nep; i++)
        if (!b->ep[i].in.recorded && b->ep[i].in.epoch > b->origin)
            return b->ep[i].in.epoch;
    return 0;
}

static bool end_lost(const struct mbranch *b)
{
    return !b->tip && b->tip_state == CATALOG_TIP_LIVE;
}

/* Is the whole index of the branch gone through and written anew? */
static bool usage_rewritten(const struct mbranch *b)
{
    return branch_gone(b) || any_done(b) || end_lost(b);
}

/* From how the trees reckoned to how this merge did: invariant 1. */
static void usage_first(const struct mbranch *b, uint64_t key[3])
{
    uint64_t added = epoch_added(b);
    if (key[1] == VD_EPOCH_MAX && added)
        key[1] = added;
    if (key[2] == VD_EPOCH_MAX && end_lost(b) && key[1] != VD_EPOCH_MAX)
        key[2] = b->ru[b->nru - 1];
}

/* And from there to what is left. */
static void usage_last(const struct mbranch *b, uint64_t key[3])
{
    unsigned first = epochs_ceil(b->ru, b->nru, key[1]);
    while (first < b->nru && epoch_done(b, first))
        first++;
    key[1] = first < b->nru ? b->ru[first] : VD_EPOCH_MAX;
    if (key[2] == VD_EPOCH_MAX)
        return;
    unsigned end = epochs_ceil(b->ru, b->nru, key[2] + 1);
    while (end && epoch_done(b, end - 1))
        end--;
    key[2] = end ? b->ru[end - 1] : 0;
}

/* Calls for each USAGE entry of the branch in the tree: mg->entry, *bytes. */
static int usage_next(struct merge *mg, const struct mbranch *b, uint64_t key[3], int64_t *bytes)
{
    struct tree_entry *e = &mg->entry;
    le64_t od;
    int r = tree_cursor_next(&mg->cursor, e);

    if (r < 0 || e->key.w[0] != b->id)
        return r < 0 ? r : -ENOENT;
    if (e->len != sizeof(od))
        return -EUCLEAN;
    memcpy(&od, e->val, sizeof(od));
    memcpy(key, e->key.w, 3 * sizeof(key[0]));
    *bytes = (int64_t)vd_get64(od);
    return 0;
}

/* Only (MAX, MAX) changes its key. */
static int usage_added(struct merge *mg, const struct mbranch *b)
{
    uint64_t key[3], added = epoch_added(b);
    int64_t bytes;

    if (!added)
        return 0;
    tree_cursor_init(&mg->cursor, mg->m->forest, TREE_USAGE,
                     &(struct tree_key){{b->id, VD_EPOCH_MAX, VD_EPOCH_MAX}});
    int r = usage_next(mg, b, key, &bytes);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    r = usage_at(mg, b->id, VD_EPOCH_MAX, VD_EPOCH_MAX, -bytes);
    return r < 0 ? r : usage_at(mg, b->id, added, VD_EPOCH_MAX, bytes);
}

/* Adds what the tree holds to the deltas, re-keyed: then they are all there is. */
static int usage_absorb(struct merge *mg, const struct mbranch *b)
{
    uint64_t key[3];
    int64_t bytes;
    int r;

    tree_cursor_init(&mg->cursor, mg->m->forest, TREE_USAGE, &(struct tree_key){{b->id}});
    while ((r = usage_next(mg, b, key, &bytes)) == 0) {
        usage_first(b, key);
        r = usage_at(mg, b->id, key[1], key[2], bytes);
        if (r < 0)
            return r;
    }
    return r == -ENOENT ? 0 : r;
}

static int usage_put(struct merge *mg, struct tree_writer **w, const uint64_t key[3], int64_t bytes)
{
    if (bytes < 0) {
        vd_log(VD_LOG_ERROR,
               "usage of branch %" PRIu64 " [%" PRIu64 ", %" PRIu64 "] falls to %" PRId64, key[0],
               key[1], key[2], bytes);
        bytes = 0;
    }
    return bytes ? put_u64(mg, *w, key, (uint64_t)bytes) : 0;
}

/* All entries v[0..n) of a branch that is written anew. */
static int usage_rewrite(struct merge *mg, const struct mbranch *b, struct tree_writer **w,
                         struct map3_entry **v, size_t n)
{
    struct map3 left = {0};
    struct map3_entry **sorted = NULL;
    int r = branch_drop(mg, TREE_USAGE, w, b->id);

    for (size_t i = 0; r == 0 && i < n; i++) {
        uint64_t key[3] = {v[i]->key[0], v[i]->key[1], v[i]->key[2]};
        if (!v[i]->val)
            continue;
        usage_last(b, key);
        if (branch_gone(b) || key[1] > key[2]) {
            vd_log(VD_LOG_ERROR,
                   "branch %" PRIu64 ": %" PRId64 " bytes of [%" PRIu64 ", %" PRIu64
                   "] are left over",
                   b->id, (int64_t)v[i]->val, v[i]->key[1], v[i]->key[2]);
            continue;
        }
        struct map3_entry *e = map3_make(&left, key);
        if (e)
            e->val += v[i]->val;
        else
            r = -ENOMEM;
    }
    if (r == 0)
        r = map3_sorted(&left, &sorted);
    for (size_t i = 0; r == 0 && i < left.count; i++)
        r = usage_put(mg, w, sorted[i]->key, (int64_t)sorted[i]->val);
    free(sorted);
    map3_done(&left);
    return r;
}

static int usage_update(struct merge *mg, struct tree_writer **w, struct map3_entry **v, size_t n)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i++) {
        uint64_t old;
        if (!v[i]->val)
            continue;
        r = take_u64(mg, TREE_USAGE, w, v[i]->key, &old);
        if (r == 0)
            r = usage_put(mg, w, v[i]->key, (int64_t)(old + v[i]->val));
    }
    return r;
}

int merge_usage(struct merge *mg)
{
    struct tree_writer *w = NULL;
    struct map3_entry **v = NULL;
    int r = 0;

    for (size_t i = 0; r == 0 && i < mg->ms->nbranch; i++) {
        const struct mbranch *b = &mg->ms->branch[i];
        r = usage_rewritten(b) ? usage_absorb(mg, b) : usage_added(mg, b);
    }
    if (r == 0)
        r = map3_sorted(&mg->usage, &v);
    size_t n = mg->usage.count, at = 0;
    for (size_t i = 0; r == 0 && i < mg->ms->nbranch; i++) {
        const struct mbranch *b = &mg->ms->branch[i];
        size_t from = at;
        while (at < n && v[at]->key[0] <= b->id)
            at++;
        if (usage_rewritten(b))
            r = usage_rewrite(mg, b, &w, v + from, at - from);
        else
            r = usage_update(mg, &w, v + from, at - from);
    }
    free(v);
    return writer_finish(mg, TREE_USAGE, w, r);
}
