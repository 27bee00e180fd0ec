/* SPDX-License-Identifier: MIT */
/*
 * Every node of a tree, from the devices and not from the cache, in both copies: for check. Where
 * neither copy of a node is good, what is below it is not visited and the walk goes on beside it.
 * Suspends for each read.
 */
#include "core/base/text.h"
#include "pool/tree_priv.h"

#include <stdlib.h>

struct walk {
    struct forest *f;
    tree_node_fn *fn;
    void *arg;
    struct od_node *other; /* a second copy, until it is known which is good */
    struct step {          /* by level */
        struct od_node *node;
        struct forest_need need;
        unsigned next; /* child */
    } step[TREE_HEIGHT_MAX];
};

static int walk_copy(const struct walk *w, const struct forest_need *need, unsigned copy,
                     struct od_node *page)
{
    int r = w->f->io.read(w->f->ctx, need->ptr.copy[copy], page);
    if (r == 0 && vd_get64(page->csum) != need->ptr.csum)
        r = -EBADMSG;
    if (r == 0)
        r = node_verify(page, w->f->pool, need->tree, need->level);
    return r < 0 ? r : node_place(page, need);
}

/* Reads both copies and reports them. 0 with *good = one of them is, and in s->node; or what fn
 * said. */
static int walk_read(struct walk *w, struct step *s, bool *good)
{
    const struct node_ptr *ptr = &s->need.ptr;
    unsigned copies = vd_addr_equal(ptr->copy[0], ptr->copy[1]) ? 1 : 2;

    s->next = 0;
    *good = false;
    for (unsigned copy = 0; copy < copies; copy++) {
        struct od_node *page = *good ? w->other : s->node;
        int err = walk_copy(w, &s->need, copy, page);
        *good = *good || err == 0;
        int r = w->fn(w->arg, ptr, (int)copy, err < 0 ? NULL : page, s->need.level, err);
        if (r != 0)
            return r;
    }
    return 0;
}

static int walk_from(struct walk *w, unsigned top)
{
    unsigned level = top;
    bool good;
    int r = walk_read(w, &w->step[top], &good);

    while (r == 0 && good && level <= top) {
        struct step *s = &w->step[level];
        if (level == 0 || s->next == node_count(s->node)) {
            level++;
            continue;
        }
        bool child_good;
        need_child(s->node, s->next++, &s->need, &w->step[level - 1].need);
        r = walk_read(w, &w->step[level - 1], &child_good);
        if (child_good)
            level--;
    }
    return r;
}

int tree_walk(struct forest *f, enum tree_id t, const struct tree_root *root, tree_node_fn *fn,
              void *arg)
{
    if (!root->height)
        return 0;
    if (root->height > TREE_HEIGHT_MAX)
        return -EUCLEAN;
    struct walk *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    *w = (struct walk){.f = f, .fn = fn, .arg = arg};
    w->other = vd_alloc_aligned(OD_NODE_SIZE);
    int r = w->other ? 0 : -ENOMEM;
    for (unsigned i = 0; i < root->height && r == 0; i++) {
        w->step[i].node = vd_alloc_aligned(OD_NODE_SIZE);
        if (!w->step[i].node)
            r = -ENOMEM;
    }
    need_root(f, t, root, &w->step[root->height - 1].need);
    if (r == 0)
        r = walk_from(w, root->height - 1);
    for (unsigned i = 0; i < root->height; i++)
        free(w->step[i].node);
    free(w->other);
    free(w);
    return r;
}
