/* SPDX-License-Identifier: MIT */
/*
 * The overlay's ordered index: a B+tree of 64-bit keys in nodes of 1 KiB. Inner nodes keep, per
 * child, an upper bound of the epochs below it, so that dropping what an epoch wrote in a range
 * visits only where something of it may be.
 *
 * Invariants: no node is empty; key[i] of an inner node is at most the first key below child i
 * (that of child 0 means nothing); a node is split on the way down, so its parent always has room.
 * Nodes are not joined: an overlay lives for one checkpoint. Pure; called by the overlay only.
 */
#include "pool/overlay_priv.h"

#define NODE_BYTES 1024
#define LEAF_MAX 63
#define INNER_MAX 42

struct ov_node {
    uint32_t n, pad;
    union {
        struct {
            uint64_t key[LEAF_MAX];
            void *val[LEAF_MAX];
        } leaf;
        struct {
            uint64_t key[INNER_MAX];
            struct ov_node *child[INNER_MAX];
            uint64_t max[INNER_MAX];
        } inner;
    };
};
static_assert(sizeof(struct ov_node) <= NODE_BYTES, "a node fits its class");

static struct ov_node *node_new(struct arena *a)
{
    size_t size = NODE_BYTES;
    struct ov_node *node = arena_alloc(a, &size);
    if (node)
        node->n = 0;
    return node;
}

static void node_free(struct arena *a, struct ov_node *node)
{
    arena_free(a, node, NODE_BYTES);
}

/* How many of n ascending keys are <= key. */
static unsigned keys_upto(const uint64_t *keys, unsigned n, uint64_t key)
{
    unsigned lo = 0;
    while (n > 0) {
        unsigned half = n / 2;
        bool right = keys[lo + half] <= key;
        lo = right ? lo + half + 1 : lo;
        n = right ? n - half - 1 : half;
    }
    return lo;
}

static unsigned inner_pick(const struct ov_node *node, uint64_t key)
{
    return keys_upto(node->inner.key + 1, node->n - 1, key);
}

void *index_find(const struct ov_index *x, uint64_t key)
{
    const struct ov_node *node = x->root;
    if (!node)
        return NULL;
    for (unsigned h = x->height; h > 1; h--)
        node = node->inner.child[inner_pick(node, key)];
    unsigned i = keys_upto(node->leaf.key, node->n, key);
    return i && node->leaf.key[i - 1] == key ? node->leaf.val[i - 1] : NULL;
}

bool index_ceil(const struct ov_index *x, uint64_t from, uint64_t *key, void **val)
{
    const struct ov_node *node = x->root, *right = NULL;
    unsigned right_height = 0;

    if (!node)
        return false;
    for (unsigned h = x->height; h > 1; h--) {
        unsigned i = inner_pick(node, from);
        if (i + 1 < node->n) {
            right = node->inner.child[i + 1];
            right_height = h - 1;
        }
        node = node->inner.child[i];
    }
    unsigned i = from ? keys_upto(node->leaf.key, node->n, from - 1) : 0;
    if (i == node->n) {
        if (!right)
            return false;
        for (node = right; right_height > 1; right_height--)
            node = node->inner.child[0];
        i = 0;
    }
    *key = node->leaf.key[i];
    if (val)
        *val = node->leaf.val[i];
    return true;
}

#define MOVE(array, to, from, count) \
    memmove(&(array)[to], &(array)[from], (count) * sizeof *(array))

/* Splits child i of `parent` (height h - 1 = child's). Keys that come in ascending order leave full
 * nodes behind: then little moves to the right. */
static bool child_split(struct arena *a, struct ov_node *parent, unsigned i, bool leaf,
                        uint64_t key)
{
    struct ov_node *l = parent->inner.child[i], *r = node_new(a);
    if (!r)
        return false;
    const uint64_t *keys = leaf ? l->leaf.key : l->inner.key;
    unsigned keep = key > keys[l->n - 1] ? l->n - 2 : l->n / 2;
    unsigned moved = l->n - keep;

    if (leaf) {
        memcpy(r->leaf.key, l->leaf.key + keep, moved * sizeof(uint64_t));
        memcpy(r->leaf.val, l->leaf.val + keep, moved * sizeof(void *));
    } else {
        memcpy(r->inner.key, l->inner.key + keep, moved * sizeof(uint64_t));
        memcpy(r->inner.child, l->inner.child + keep, moved * sizeof(void *));
        memcpy(r->inner.max, l->inner.max + keep, moved * sizeof(uint64_t));
    }
    l->n = keep;
    r->n = moved;
    unsigned after = parent->n - i - 1;
    MOVE(parent->inner.key, i + 2, i + 1, after);
    MOVE(parent->inner.child, i + 2, i + 1, after);
    MOVE(parent->inner.max, i + 2, i + 1, after);
    parent->inner.key[i + 1] = leaf ? r->leaf.key[0] : r->inner.key[0];
    parent->inner.child[i + 1] = r;
    parent->inner.max[i + 1] = parent->inner.max[i];
    parent->n++;
    return true;
}

/* A tree with a root that has room. No epoch in it is above `epoch`. */
static bool root_prepare(struct ov_index *x, struct arena *a, uint64_t key, uint64_t epoch)
{
    if (!x->root) {
        x->root = node_new(a);
        x->height = x->root ? 1 : 0;
        return x->root;
    }
    if (x->root->n < (x->height == 1 ? LEAF_MAX : INNER_MAX))
        return true;
    struct ov_node *top = node_new(a);
    if (!top)
        return false;
    top->n = 1;
    top->inner.key[0] = 0;
    top->inner.child[0] = x->root;
    top->inner.max[0] = epoch;
    if (!child_split(a, top, 0, x->height == 1, key)) {
        node_free(a, top);
        return false;
    }
    x->root = top;
    x->height++;
    return true;
}

/* The place of a key that is there already, or NULL: needs no memory. */
static void **slot_present(struct ov_index *x, uint64_t key, uint64_t epoch)
{
    struct ov_node *node = x->root;
    if (!node)
        return NULL;
    for (unsigned h = x->height; h > 1; h--) {
        unsigned i = inner_pick(node, key);
        node->inner.max[i] = VD_MAX(node->inner.max[i], epoch);
        node = node->inner.child[i];
    }
    unsigned i = keys_upto(node->leaf.key, node->n, key);
    return i && node->leaf.key[i - 1] == key ? &node->leaf.val[i - 1] : NULL;
}

void **index_insert(struct ov_index *x, struct arena *a, uint64_t key, uint64_t epoch)
{
    if (!root_prepare(x, a, key, epoch))
        return slot_present(x, key, epoch);
    struct ov_node *node = x->root;
    for (unsigned h = x->height; h > 1; h--) {
        unsigned i = inner_pick(node, key);
        struct ov_node *child = node->inner.child[i];
        if (child->n == (h == 2 ? LEAF_MAX : INNER_MAX)) {
            if (!child_split(a, node, i, h == 2, key))
                return slot_present(x, key, epoch);
            i += key >= node->inner.key[i + 1];
            child = node->inner.child[i];
        }
        if (node->inner.max[i] < epoch)
            node->inner.max[i] = epoch;
        node = child;
    }
    unsigned i = keys_upto(node->leaf.key, node->n, key);
    if (i && node->leaf.key[i - 1] == key)
        return &node->leaf.val[i - 1];
    MOVE(node->leaf.key, i + 1, i, node->n - i);
    MOVE(node->leaf.val, i + 1, i, node->n - i);
    node->leaf.key[i] = key;
    node->leaf.val[i] = NULL;
    node->n++;
    return &node->leaf.val[i];
}

static void leaf_cut(struct ov_node *node, unsigned i)
{
    node->n--;
    MOVE(node->leaf.key, i, i + 1, node->n - i);
    MOVE(node->leaf.val, i, i + 1, node->n - i);
}

static void inner_cut(struct ov_node *node, unsigned i)
{
    node->n--;
    MOVE(node->inner.key, i, i + 1, node->n - i);
    MOVE(node->inner.child, i, i + 1, node->n - i);
    MOVE(node->inner.max, i, i + 1, node->n - i);
}

static void root_shrink(struct ov_index *x, struct arena *a)
{
    if (x->root && !x->root->n) {
        node_free(a, x->root);
        x->root = NULL;
        x->height = 0;
    }
    while (x->height > 1 && x->root->n == 1) {
        struct ov_node *old = x->root;
        x->root = old->inner.child[0];
        x->height--;
        node_free(a, old);
    }
}

static void node_remove(struct arena *a, struct ov_node *node, unsigned h, uint64_t key)
{
    if (h == 1) {
        unsigned i = keys_upto(node->leaf.key, node->n, key);
        if (i && node->leaf.key[i - 1] == key)
            leaf_cut(node, i - 1);
        return;
    }
    unsigned i = inner_pick(node, key);
    struct ov_node *child = node->inner.child[i];
    node_remove(a, child, h - 1, key);
    if (!child->n) {
        node_free(a, child);
        inner_cut(node, i);
    }
}

void index_remove(struct ov_index *x, struct arena *a, uint64_t key)
{
    if (!x->root)
        return;
    node_remove(a, x->root, x->height, key);
    root_shrink(x, a);
}

struct drop {
    struct arena *a;
    uint64_t lo, hi, epoch;
    index_drop_fn *fn;
    void *arg;
};

static void leaf_drop(const struct drop *d, struct ov_node *node)
{
    unsigned from = d->lo ? keys_upto(node->leaf.key, node->n, d->lo - 1) : 0;
    unsigned to = keys_upto(node->leaf.key, node->n, d->hi);
    unsigned out = from;

    for (unsigned i = from; i < to; i++) {
        if (d->fn(d->arg, node->leaf.val[i]))
            continue;
        node->leaf.key[out] = node->leaf.key[i];
        node->leaf.val[out++] = node->leaf.val[i];
    }
    MOVE(node->leaf.key, out, to, node->n - to);
    MOVE(node->leaf.val, out, to, node->n - to);
    node->n -= to - out;
}

static void node_drop(const struct drop *d, struct ov_node *node, unsigned h)
{
    if (h == 1) {
        leaf_drop(d, node);
        return;
    }
    unsigned from = inner_pick(node, d->lo), to = inner_pick(node, d->hi), out = from;
    for (unsigned i = from; i <= to; i++) {
        struct ov_node *child = node->inner.child[i];
        uint64_t max = node->inner.max[i];
        if (max >= d->epoch) {
            node_drop(d, child, h - 1);
            /* Children strictly between the first and the last lie wholly in the range. */
            if (i > from && i < to && d->epoch)
                max = d->epoch - 1;
        }
        if (!child->n) {
            node_free(d->a, child);
            continue;
        }
        node->inner.key[out] = node->inner.key[i];
        node->inner.child[out] = child;
        node->inner.max[out++] = max;
    }
    unsigned after = node->n - to - 1;
    MOVE(node->inner.key, out, to + 1, after);
    MOVE(node->inner.child, out, to + 1, after);
    MOVE(node->inner.max, out, to + 1, after);
    node->n = out + after;
}

void index_drop(struct ov_index *x, struct arena *a, uint64_t lo, uint64_t hi, uint64_t epoch,
                index_drop_fn *fn, void *arg)
{
    struct drop d = {.a = a, .lo = lo, .hi = hi, .epoch = epoch, .fn = fn, .arg = arg};
    if (!x->root)
        return;
    node_drop(&d, x->root, x->height);
    root_shrink(x, a);
}
