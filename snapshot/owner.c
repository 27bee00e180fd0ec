/* SPDX-License-Identifier: MIT */
/*
 * The cleaner's question: does a tree still name these blocks, and as what? A header says for whom
 * they were stored; since then the branch may have been folded, and the blocks kept in HISTORY, or
 * moved. Whatever a tree names counts, wanted or not: the place is used again once all of that has
 * been moved, or is certain to go with the next merge because the overlays have replaced it. No
 * overlay points into a segment that is being cleaned.
 * Suspends; answers for the roots there are when it returns.
 */
#include "snapshot/store_priv.h"

#include <stdlib.h>

struct ask {
    struct snap_store *s;
    const struct pool_owner_query *q;
    uint32_t left; /* blocks of the query that nobody has claimed yet */
    uint32_t gone; /* those that a tree names and nothing shows */
    struct vd_run *ret;
    int n, max;
};

/* Does the run hold block `i` of the query, where the query says it is? Nothing that moved since
 * the last root lies in a segment that is cleaned, or came from there: the address in the tree is
 * the address. */
static bool holds(const struct ask *a, const struct vd_run *run, uint64_t i)
{
    uint64_t lba = a->q->lba + i;
    return a->left >> i & 1 && lba >= run->lba && lba < vd_run_end(run) &&
           vd_addr_equal(vd_addr_plus(run->addr, lba - run->lba), vd_addr_plus(a->q->addr, i));
}

static bool holds_any(const struct ask *a, const struct vd_run *run)
{
    for (uint64_t i = 0; i < a->q->blocks && run->type == VD_RUN_DATA; i++)
        if (holds(a, run, i))
            return true;
    return false;
}

/* Takes up the blocks of the query that the run holds where the query says they are. `replaced`: of
 * its cell, those that nobody needs. */
static void claim(struct ask *a, const struct vd_run *run, uint32_t replaced)
{
    const struct pool_owner_query *q = a->q;
    struct vd_run *last = NULL;

    if (run->type != VD_RUN_DATA)
        return;
    for (uint64_t i = 0; i < q->blocks; i++) {
        uint64_t lba = q->lba + i;
        if (!holds(a, run, i))
            continue;
        struct vd_addr at = vd_addr_plus(q->addr, i);
        if (replaced >> lba % VD_CELL_BLOCKS & 1) {
            a->gone |= UINT32_C(1) << i;
            a->left &= ~(UINT32_C(1) << i);
            continue;
        }
        if (!last || vd_run_end(last) != lba) {
            if (a->n == a->max)
                return;
            last = &a->ret[a->n++];
            *last = (struct vd_run){
                .lba = lba, .born = run->born, .died = run->died, .type = VD_RUN_DATA, .addr = at};
        }
        last->csum[last->blocks++] = run->csum[lba - run->lba];
        a->left &= ~(UINT32_C(1) << i);
    }
}

/* All versions in HISTORY: into *runs, to be judged later. VD_YIELDS */
static int history_read(struct snap_store *s, uint64_t branch, const struct pool_owner_query *q,
                        struct vd_run **runs, size_t *count)
{
    uint64_t cell = q->lba / VD_CELL_BLOCKS;
    struct tree_key from = {{branch, cell}};
    struct tree_cursor *c = malloc(sizeof(*c));
    struct tree_entry *e = malloc(sizeof(*e));
    size_t room = 0;
    int r = c && e ? 0 : -ENOMEM;

    if (r == 0)
        tree_cursor_init(c, pool_forest(s->pool), TREE_HISTORY, &from);
    while (r == 0 && (r = tree_cursor_next(c, e)) == 0 && e->key.w[0] == branch &&
           e->key.w[1] == cell) {
        if (e->run.type != VD_RUN_DATA || e->run.lba >= q->lba + q->blocks ||
            vd_run_end(&e->run) <= q->lba)
            continue;
        if (*count >= room) {
            room = VD_MAX(2 * room, *count + 8);
            struct vd_run *v = realloc(*runs, room * sizeof(*v));
            if (!v) {
                r = -ENOMEM;
                break;
            }
            *runs = v;
        }
        (*runs)[(*count)++] = e->run;
    }
    free(c);
    free(e);
    return r == -ENOENT ? 0 : r;
}

/* HEAD, without suspension: -EAGAIN with *need. */
static int ask_head(struct ask *a, uint64_t branch, struct forest_need *need)
{
    struct snap_store *s = a->s;
    const struct branch *b = catalog_branch(&s->cat, branch);
    int n = tree_head_find(pool_forest(s->pool), branch, a->q->lba, a->q->blocks, s->runs,
                           VD_CELL_BLOCKS, need);
    for (int i = 0; i < n; i++)
        if (holds_any(a, &s->runs[i]))
            claim(a, &s->runs[i], b ? view_replaced(s, b, &s->runs[i]) : 0);
    return VD_MIN(n, 0);
}

/* The branch that may hold the blocks now, or NULL; *child: where a fold has got to, it may be
 * that. */
static struct branch *asked_branch(struct snap_store *s, uint64_t id, struct branch **child)
{
    struct branch *b = catalog_resolve(&s->cat, id);
    *child = b ? b->into : NULL;
    return b;
}

static int ask_branch(struct ask *a, uint64_t branch, const struct vd_run *old, size_t count,
                      struct forest_need *need)
{
    /* No overlay can hold them: a segment that one points into is never cleaned. */
    int r = ask_head(a, branch, need);
    for (size_t i = 0; r == 0 && i < count; i++)
        claim(a, &old[i], 0);
    return r;
}

static void ask_afresh(struct ask *a)
{
    a->n = 0;
    a->gone = 0;
    a->left = (uint32_t)((UINT64_C(1) << a->q->blocks) - 1);
}

/* The answer for one branch: the number of runs. -EAGAIN: something changed, ask anew. VD_YIELDS */
static int owner_in(struct ask *a, uint64_t branch)
{
    struct forest *f = pool_forest(a->s->pool);
    uint64_t version = forest_version(f);
    struct forest_need need;
    struct vd_run *old = NULL;
    size_t count = 0;

    ask_afresh(a);
    int r = ask_branch(a, branch, NULL, 0, &need);
    if (r == 0 && a->left && forest_root(f, TREE_HISTORY)->height) {
        r = history_read(a->s, branch, a->q, &old, &count);
        if (r == 0 && forest_version(f) != version) {
            r = -ESTALE;
        } else if (r == 0 && count) {
            ask_afresh(a);
            r = ask_branch(a, branch, old, count, &need);
        }
    }
    free(old);
    if (r == -EAGAIN) {
        r = forest_load(f, &need);
        return r < 0 && r != -EAGAIN ? r : -EAGAIN;
    }
    if (r == -ESTALE)
        return -EAGAIN;
    return r < 0 ? r : a->n;
}

int owner_find(void *c, const struct pool_owner_query *q, struct vd_run *ret, int max,
               uint64_t *branch, uint32_t *ret_gone)
{
    struct snap_store *s = c;
    struct ask a = {.s = s, .q = q, .ret = ret, .max = max};

    if (!q->blocks || q->lba % VD_CELL_BLOCKS + q->blocks > VD_CELL_BLOCKS)
        return -EINVAL;
    *ret_gone = 0;
    for (;;) {
        struct branch *child, *b = asked_branch(s, q->branch, &child);
        if (!b)
            return 0;
        uint64_t version = forest_version(pool_forest(s->pool)), id = b->id;
        uint64_t child_id = child ? child->id : 0;
        int n = owner_in(&a, id);
        *branch = id;
        if (n == 0 && child_id && !a.gone) {
            n = owner_in(&a, child_id);
            *branch = child_id;
        }
        *ret_gone = a.gone;
        /* A cell moves to the child as a whole, with a new root. */
        if (n != -EAGAIN && forest_version(pool_forest(s->pool)) == version)
            return n;
        if (n < 0 && n != -EAGAIN)
            return n;
    }
}
