/* SPDX-License-Identifier: MIT */
/*
 * The CATALOG tree's part of a merge: the keys logged up to the freeze, as they were then, and the
 * keys that say how far the trees have come. Where both have a key, the merge's own value is the
 * right one: it was made from the state at the freeze, which includes what was logged.
 */
#include "snapshot/merge_priv.h"

#include <stdlib.h>

static int own_put(struct merge *mg, uint64_t kind, uint64_t id, uint64_t sub, const void *val,
                   uint16_t len)
{
    uint64_t key[3] = {kind, id, sub};
    return map3_put_bytes(&mg->catalog, key, val, len);
}

static int epoch_own(struct merge *mg, const struct mbranch *b, const struct mepoch *e, bool gone)
{
    const struct retained *in = &e->in, *out = &e->out;

    if (gone || e->done)
        return in->recorded ? own_put(mg, CATALOG_RETAINED, b->id, in->epoch, NULL, 0) : 0;
    if (in->recorded && in->purging == out->purging && in->cursor == out->cursor)
        return 0;
    struct od_catalog_retained od = {
        .lo = vd_le64(out->lo),
        .hi = vd_le64(out->hi),
        .cursor = vd_le64(out->cursor),
        .flags = (uint8_t)((out->purging ? CATALOG_RETAINED_PURGING : 0) |
                           (out->head ? CATALOG_RETAINED_HEAD : 0)),
    };
    return own_put(mg, CATALOG_RETAINED, b->id, in->epoch, &od, sizeof(od));
}

/* The aliases of a branch that goes. */
static int aliases_own(struct merge *mg, uint64_t id)
{
    int r = 0;
    vd_list_each (it, &mg->s->cat.aliases) {
        const struct alias *a = vd_container_of(it, struct alias, all);
        const struct branch *to = catalog_resolve(&mg->s->cat, a->id);
        if (r == 0 && to && to->id == id)
            r = own_put(mg, CATALOG_ALIAS, a->id, 0, NULL, 0);
    }
    return r;
}

static bool branch_same(const struct mbranch *b)
{
    return b->out_tip_state == b->tip_state && b->out_tip_floor == b->tip_floor &&
           b->out_tip_cursor == b->tip_cursor && b->out_fold_cursor == b->fold_cursor &&
           b->out_sweep == b->sweep_cursor && !b->fold_done && !b->fold_starts;
}

static int branch_own(struct merge *mg, const struct mbranch *b)
{
    const struct mbranch *up = b->up;
    uint64_t origin = b->origin, limit = b->limit;

    if (branch_same(b))
        return 0;
    if (b->fold_done) {
        struct od_catalog_alias alias = {vd_le64(b->id)};
        int r = own_put(mg, CATALOG_ALIAS, up->id, 0, &alias, sizeof(alias));
        if (r < 0)
            return r;
        limit = up->up ? VD_MIN(limit, up->limit) : 0;
        origin = up->origin;
        up = up->up;
    }
    bool absorbing = b->absorbing && !b->fold_done;
    struct od_catalog_branch od = {
        .parent = vd_le64(up ? up->id : 0),
        .origin = vd_le64(origin),
        .limit = vd_le64(limit),
        .fold_cursor = vd_le64(absorbing ? b->out_fold_cursor : 0),
        .tip_floor = vd_le64(b->out_tip_floor),
        .tip_cursor = vd_le64(b->out_tip_cursor),
        .sweep_cursor = vd_le64(b->out_sweep),
        .tip_state = (uint8_t)b->out_tip_state,
        .flags = absorbing ? CATALOG_BRANCH_ABSORBING : 0,
    };
    return own_put(mg, CATALOG_BRANCH, b->id, 0, &od, sizeof(od));
}

static int own_make(struct merge *mg)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < mg->ms->nbranch; i++) {
        const struct mbranch *b = &mg->ms->branch[i];
        bool folded = b->into && b->into->fold_done, gone = folded || b->removed;
        for (unsigned k = 0; r == 0 && k < b->nep; k++)
            r = epoch_own(mg, b, &b->ep[k], gone);
        if (r == 0 && gone)
            r = own_put(mg, CATALOG_BRANCH, b->id, 0, NULL, 0);
        else if (r == 0)
            r = branch_own(mg, b);
        if (r == 0 && b->removed)
            r = aliases_own(mg, b->id);
    }
    return r;
}

static int key_cmp(const uint64_t a[3], const uint64_t b[3])
{
    for (int i = 0; i < 3; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* Replaces one key in the tree. */
static int entry_write(struct merge *mg, struct tree_writer **w, const struct map3_entry *e)
{
    struct tree_key key = {{e->key[0], e->key[1], e->key[2]}};
    struct tree_entry *t = &mg->entry;
    int r = 0;

    merge_breathe(mg);

    if (!*w)
        r = tree_writer_new(mg->m->forest, TREE_CATALOG, &mg->m->base[TREE_CATALOG],
                            mg->m->incarnation, mg->m->counter, w);
    if (r == 0)
        r = pool_merge_touch(mg->m, *w, TREE_CATALOG, &key);
    if (r == 0)
        r = tree_writer_seek(*w, &key);
    if (r == 0)
        r = tree_writer_peek(*w, t);
    if (r == 0 && tree_key_cmp(&t->key, &key) == 0)
        tree_writer_take(*w);
    if (r == -ENOENT)
        r = 0;
    if (r < 0 || !e->ptr)
        return r;
    *t = (struct tree_entry){.key = key, .val = e->ptr, .len = e->len};
    return tree_writer_put(*w, t);
}

static int catalog_finish(struct merge *mg, struct tree_writer *w, int err)
{
    struct tree_root root;
    int r = err;

    if (r == 0 && pool_merge_wants(mg->m, TREE_CATALOG)) {
        if (!w)
            r = tree_writer_new(mg->m->forest, TREE_CATALOG, &mg->m->base[TREE_CATALOG],
                                mg->m->incarnation, mg->m->counter, &w);
        if (r == 0)
            r = pool_merge_touch(mg->m, w, TREE_CATALOG, &TREE_KEY_MAX);
    }
    if (!w)
        return r;
    if (r < 0) {
        tree_writer_abort(w);
        return r;
    }
    r = tree_writer_finish(w, &root);
    if (r == 0)
        mg->m->root[TREE_CATALOG] = root;
    return r;
}

int merge_catalog(struct merge *mg)
{
    struct map3_entry **own = NULL, **logged = NULL;
    struct tree_writer *w = NULL;
    size_t i = 0, k = 0;

    int r = own_make(mg);
    if (r == 0)
        r = map3_sorted(&mg->catalog, &own);
    if (r == 0)
        r = map3_sorted(&mg->ms->dirty, &logged);
    while (r == 0 && (i < mg->catalog.count || k < mg->ms->dirty.count)) {
        int c = i == mg->catalog.count     ? 1
                : k == mg->ms->dirty.count ? -1
                                           : key_cmp(own[i]->key, logged[k]->key);
        const struct map3_entry *e = c <= 0 ? own[i] : logged[k];
        i += c <= 0;
        k += c >= 0;
        r = entry_write(mg, &w, e);
    }
    free(own);
    free(logged);
    return catalog_finish(mg, w, r);
}
