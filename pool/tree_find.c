/* SPDX-License-Identifier: MIT */
/*
 * Look-up in the current trees. No I/O, no allocation: a node that is not cached is named to the
 * caller, who loads it (forest_load) and starts again. Called for every read and write.
 */
#include "pool/tree_priv.h"

static bool child_begins(const struct od_node *up, unsigned i, const struct od_node *n)
{
    size_t words = tree_words(up->tree);
    return memcmp(child_at(up, child_bytes(up->tree), i)->key, n->first.w, words * 8) == 0;
}

int tree_descend(struct forest *f, enum tree_id t, const struct tree_key *key,
                 const struct od_node **leaf, struct tree_key *high, struct forest_need *need)
{
    const struct tree_root *root = &f->root[t];
    /* Of the node looked for: where its parent says it begins and ends. */
    const struct od_node *up = NULL, *bound = NULL;
    unsigned pick = 0, bound_pick = 0;
    struct node_ptr ptr = root->ptr;

    *high = TREE_KEY_MAX;
    if (!root->height)
        return -ENOENT;
    for (unsigned level = root->height; level-- > 0;) {
        const struct od_node *n = cache_get(f, &ptr);
        if (bound)
            node_child(bound, bound_pick, high, NULL);
        if (!n) {
            need_root(f, t, root, need);
            need->ptr = ptr;
            need->level = level;
            if (up) {
                need->is_root = false;
                node_child(up, pick, &need->low, NULL);
            }
            need->high = *high;
            return -EAGAIN;
        }
        /* A cached node was verified for the place it was read for; this must be the same one. */
        if (n->tree != t || n->level != level || (up && !child_begins(up, pick, n)))
            return -EUCLEAN;
        if (level == 0) {
            *leaf = n;
            return 0;
        }
        pick = node_pick(n, key);
        node_child(n, pick, NULL, &ptr);
        up = n;
        if (pick + 1 < node_count(n)) {
            bound = n;
            bound_pick = pick + 1;
        }
    }
    return -EUCLEAN;
}

int tree_head_find(struct forest *f, uint64_t branch, uint64_t lba, uint64_t blocks,
                   struct vd_run *ret, int max, struct forest_need *need)
{
    struct tree_key key = {{branch, lba, 0, 0}}, high;
    uint64_t end = lba + blocks;
    int found = 0;

    for (;;) {
        const struct od_node *n;
        int r = tree_descend(f, TREE_HEAD, &key, &n, &high, need);
        if (r < 0)
            return r == -ENOENT ? 0 : r;
        unsigned i = node_lower(n, &key), count = node_count(n);
        if (node_reaches(n, i, &key))
            i--;
        if (vd_get64(n->first.w[0]) != branch)
            i = count; /* an earlier branch's leaf, at most */
        for (; i < count; i++) {
            struct vd_run range;
            node_run_range(n, i, &range);
            if (range.lba >= end || found == max)
                return found;
            node_run_clipped(n, i, lba, blocks, &ret[found++]);
        }
        if (high.w[0] != branch || high.w[1] >= end)
            return found;
        key = high;
    }
}

/* Versions of a block are disjoint in time and sorted by death, so of those that start at one lba
 * only the first that died after `epoch` can be visible: each lba costs one search at most. */
int tree_history_find(struct forest *f, uint64_t branch, uint64_t lba, uint64_t blocks,
                      uint64_t epoch, struct vd_run *ret, int max, struct forest_need *need)
{
    uint64_t cell = lba / VD_CELL_BLOCKS, end = lba + blocks;
    struct tree_key key = {{branch, cell, cell * VD_CELL_BLOCKS, 0}}, high;
    int found = 0;

    if (epoch == UINT64_MAX)
        return 0; /* nothing dies after it */
    key.w[3] = epoch + 1;
    for (;;) {
        const struct od_node *n;
        int r = tree_descend(f, TREE_HISTORY, &key, &n, &high, need);
        if (r < 0)
            return r == -ENOENT ? 0 : r;
        unsigned i = node_lower(n, &key), count = node_count(n);
        while (i < count) {
            struct tree_key at;
            struct vd_run range;
            node_entry_key(n, i, &at);
            if (at.w[0] != branch || at.w[1] != cell || at.w[2] >= end || found == max)
                return found;
            node_run_range(n, i, &range);
            /* If it died before, on to a later version that starts there; else to the next start.
             */
            key.w[2] = at.w[2] + (range.died > epoch);
            key.w[3] = epoch + 1;
            if (range.died > epoch && range.born <= epoch && vd_run_end(&range) > lba)
                node_run_clipped(n, i, lba, blocks, &ret[found++]);
            unsigned next = i + 1;
            if (next < count) {
                node_entry_key(n, next, &at);
                next = tree_key_cmp(&at, &key) < 0 ? node_lower(n, &key) : next;
            }
            i = next;
        }
        if (key.w[2] >= end || high.w[0] != branch || high.w[1] != cell || high.w[2] >= end)
            return found;
        if (tree_key_cmp(&high, &key) > 0) {
            /* On in the next leaf, but not before its first key: that would lead here again. */
            key.w[2] = high.w[2];
            key.w[3] = VD_MAX(high.w[3], epoch + 1);
        }
    }
}

int tree_names(struct forest *f, const struct od_node *n, struct vd_addr at,
               struct forest_need *need)
{
    enum tree_id t = n->tree;
    struct tree_key first;
    struct node_ptr ptr;

    if (n->tree >= TREE_COUNT)
        return 0;
    const struct tree_root *root = &f->root[t];
    if (n->level >= root->height)
        return 0;
    key_get(n->first.w, 4, &first);
    ptr = root->ptr;
    need_root(f, t, root, need);
    for (unsigned level = root->height - 1; level > n->level; level--) {
        const struct od_node *up = cache_get(f, &ptr);
        if (!up)
            return -EAGAIN;
        if (up->tree != t || up->level != level)
            return -EUCLEAN;
        struct forest_need above = *need;
        need_child(up, node_pick(up, &first), &above, need);
        ptr = need->ptr;
    }
    return ptr.csum == vd_get64(n->csum) &&
           (vd_addr_equal(ptr.copy[0], at) || vd_addr_equal(ptr.copy[1], at));
}
