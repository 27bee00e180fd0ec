/* SPDX-License-Identifier: MIT */
/*
 * Cursors: a tree in key order. A cursor holds a key, not a place, so it survives whatever happens
 * to the trees between two steps; each step is a look-up from the current root. Steps suspend to
 * load nodes. Called by diff, the cleaner, the catalogue.
 */
#include "pool/tree_priv.h"

void tree_cursor_init(struct tree_cursor *c, struct forest *f, enum tree_id t,
                      const struct tree_key *from)
{
    c->f = f;
    c->tree = t;
    c->key = *from;
}

/* The next key there can be. */
static struct tree_key key_after(struct tree_key key)
{
    for (unsigned i = 4; i-- > 0;)
        if (++key.w[i])
            return key;
    return TREE_KEY_MAX;
}

/* -EAGAIN with *need. */
static int cursor_step(struct tree_cursor *c, struct tree_entry *ret, struct forest_need *need)
{
    for (;;) {
        const struct od_node *n;
        struct tree_key high;
        int r = tree_descend(c->f, c->tree, &c->key, &n, &high, need);
        if (r < 0)
            return r;
        unsigned i = node_lower(n, &c->key);
        if (node_reaches(n, i, &c->key))
            i--;
        if (i < node_count(n)) {
            node_entry(n, i, ret);
            return 0;
        }
        if (tree_key_cmp(&high, &TREE_KEY_MAX) == 0)
            return -ENOENT;
        c->key = high;
    }
}

int tree_cursor_next(struct tree_cursor *c, struct tree_entry *ret)
{
    struct forest_need need;
    int r;

    while ((r = cursor_step(c, ret, &need)) == -EAGAIN) {
        int l = forest_load(c->f, &need);
        if (l < 0 && l != -EAGAIN)
            return l;
    }
    if (r < 0)
        return r;
    if (c->tree == TREE_HEAD)
        c->key = (struct tree_key){{ret->key.w[0], vd_run_end(&ret->run), 0, 0}};
    else
        c->key = key_after(ret->key);
    if (ret->val) {
        memcpy(c->val, ret->val, ret->len);
        ret->val = c->val;
    }
    return 0;
}
