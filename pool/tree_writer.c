/* SPDX-License-Identifier: MIT */
/*
 * The writer: one pass through a tree in key order that makes a new one beside it. It keeps the
 * path of old nodes to its position, and per level a builder with what will be new nodes.
 *
 * Invariants:
 *  1 an old node on the path is *clean* while all before the position in it is unchanged: then
 * nothing of it is in a builder, and a node left clean is kept, unread below. Once *dirty*, what
 * lies before the position is in its level's builder, the node is released, and all above it are
 * dirty; 2 in key order, what builder l + 1 holds lies before what builder l holds: so before
 * something is added to a builder from beside, those below it are flushed; 3 children are written
 * before their parents, whose pointers need their addresses (I4); 4 after an error nothing more is
 * written or released; finish reports it. Neighbouring dirty nodes flow through one builder and
 * come out nearly full; what is left when a clean node follows is cut evenly, and takes in that
 * node if it would otherwise be badly filled. Suspends for reading and writing nodes. One merge
 * calls it, on the pool's loop.
 */
#include "core/base/text.h"
#include "format/format.h"
#include "pool/tree_build_priv.h"

#include <stdlib.h>

/* A stream of dirty nodes leaves room for a few inserts in each. */
#define STREAM_FILL (NODE_BODY * 93 / 100)
/* More than this pending, and a full node is cut off: what stays divides well, whatever follows. */
#define STREAM_START (NODE_BODY * 4)
#define FILL_MIN (NODE_BODY / 3)
#define FILL_SPLIT (NODE_BODY * 3 / 4)
/* The last node of a tree or branch may be as small as this: it is the one that will grow. */
#define TAIL_MIN (NODE_BODY / 8)

struct wlevel {
    struct od_node *node; /* the old node on the path, if open */
    struct forest_need need;
    unsigned idx, count;
    bool open, dirty;
    struct builder b;
};

struct tree_writer {
    struct forest *f;
    enum tree_id tree;
    struct tree_root base, now; /* now: counts, as they change */
    uint64_t incarnation, counter;
    int err;
    bool started;        /* the root was opened or kept */
    bool peeked;         /* the entry at the position was peeked: take and keep may follow */
    struct tree_key low; /* keys must not be below it */
    bool put_any;        /* `put` holds the last key put or kept */
    struct tree_key put;
    struct od_node *out; /* a node being made */
    struct wlevel level[TREE_HEIGHT_MAX + 2];
};

static int fail(struct tree_writer *w, int err)
{
    if (!w->err)
        w->err = err;
    return w->err;
}

int tree_writer_new(struct forest *f, enum tree_id t, const struct tree_root *base,
                    uint64_t incarnation, uint64_t counter, struct tree_writer **ret)
{
    if (base->height > TREE_HEIGHT_MAX)
        return -EUCLEAN;
    struct tree_writer *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->f = f;
    w->tree = t;
    w->base = w->now = *base;
    w->incarnation = incarnation;
    w->counter = counter;
    w->started = base->height == 0;
    w->out = vd_alloc_aligned(OD_NODE_SIZE);
    if (!w->out) {
        free(w);
        return -ENOMEM;
    }
    for (unsigned l = 0; l < VD_ARRAY_SIZE(w->level); l++) {
        w->level[l].b.tree = t;
        w->level[l].b.level = l;
    }
    *ret = w;
    return 0;
}

void tree_writer_abort(struct tree_writer *w)
{
    if (!w)
        return;
    for (unsigned l = 0; l < VD_ARRAY_SIZE(w->level); l++) {
        builder_free(&w->level[l].b);
        free(w->level[l].node);
    }
    free(w->out);
    free(w);
}

/* ---- writing ---- */

/* Writes the first n items of level l as a node; it becomes an item of the level above. */
static int emit(struct tree_writer *w, unsigned l, size_t n)
{
    struct builder *b = &w->level[l].b;
    struct tree_key key = b->item[0].key;
    struct node_ptr ptr;

    if (l + 1 >= VD_ARRAY_SIZE(w->level) || n == 0)
        return fail(w, -EUCLEAN);
    builder_encode(b, n, w->out);
    w->out->pool = vd_le64(w->f->pool);
    w->out->incarnation = vd_le64(w->incarnation);
    w->out->counter = vd_le64(w->counter);
    w->out->csum = vd_le64(od_csum(w->out, offsetof(struct od_node, csum)));
    /* What a reader would refuse must not be written: runs that overlap, keys out of order. */
    if (node_check_body(w->out) < 0)
        return fail(w, -EINVAL);
    int r = w->f->io.write(w->f->ctx, w->out, &ptr);
    if (r < 0)
        return fail(w, r);
    cache_put(w->f, &ptr, w->out);
    w->now.nodes++;
    w->now.leaves += l == 0;
    builder_drop(b, n);
    r = builder_add_child(&w->level[l + 1].b, &key, &ptr, false);
    return r < 0 ? fail(w, r) : 0;
}

/* Cuts full nodes off builders that have gathered enough, from level l upwards. */
static int stream(struct tree_writer *w, unsigned l)
{
    for (; l < VD_ARRAY_SIZE(w->level) && w->level[l].b.body_len > STREAM_START; l++) {
        int r = emit(w, l, builder_fit(&w->level[l].b, 0, STREAM_FILL));
        if (r < 0)
            return r;
    }
    return 0;
}

static void release(struct tree_writer *w, const struct node_ptr *ptr, unsigned l)
{
    w->f->io.release(w->f->ctx, ptr);
    cache_cool(w->f, ptr);
    w->now.nodes--;
    w->now.leaves -= l == 0;
}

static size_t body_len(const struct builder *b, size_t from, size_t n)
{
    size_t len = 0;
    for (size_t i = from; i < from + n; i++)
        len += b->item[i].body_len;
    return len;
}

/* Too little for a node of its own, or too little over: then it is worth taking neighbours in. One
 * node that overflows among full ones becomes four of three. */
static bool badly_filled(const struct builder *b)
{
    size_t len, nodes = builder_nodes(b, b->n, &len);
    return len < FILL_MIN || (nodes > 1 && len < nodes * FILL_SPLIT);
}

/* Writes out the first `n` items, which could share a node for their keys. Where more of the same
 * may come behind them later, as behind the end of a branch, the nodes before the last are left
 * full. */
static int flush_alike(struct tree_writer *w, unsigned l, size_t n, bool at_end)
{
    struct builder *b = &w->level[l].b;
    size_t ignore, nodes = builder_nodes(b, n, &ignore);

    while (n > 0) {
        size_t len = body_len(b, 0, n), limit = len;
        if (nodes > 1 && at_end)
            limit = VD_MIN((len - VD_MIN(len, TAIL_MIN)) / (nodes - 1), STREAM_FILL);
        else if (nodes > 1) /* round up: else the last might get one item too many */
            limit = VD_DIV_UP(len, nodes) + b->item[0].body_len / 2;
        size_t fit = VD_MIN(builder_fit(b, 0, limit), n);
        int r = emit(w, l, fit);
        if (r < 0)
            return r;
        n -= fit;
        nodes = nodes > 1 ? nodes - 1 : builder_nodes(b, n, &ignore);
    }
    return 0;
}

/* Takes the node before what is pending at level l back from the level above, if it is an old one
 * and what is pending is little. */
static int take_left(struct tree_writer *w, unsigned l, bool at_end)
{
    struct builder *b = &w->level[l].b, *up = &w->level[l + 1].b;

    if (b->body_len >= (at_end ? TAIL_MIN / 2 : FILL_MIN) || !up->n || !up->item[up->n - 1].kept)
        return 0;
    struct forest_need need = {.tree = w->tree, .level = l, .high = b->item[0].key};
    item_child(up, up->n - 1, &need.low, &need.ptr);
    if (!keys_alike(w->tree, l, &need.low, &b->item[b->n - 1].key))
        return 0;
    int r = forest_fetch(w->f, &need, w->out);
    if (r < 0)
        return fail(w, r);
    struct builder right = *b;
    *b = (struct builder){.tree = w->tree, .level = l};
    builder_pop(up);
    release(w, &need.ptr, l);
    for (unsigned i = 0; i < node_count(w->out) && r == 0; i++)
        r = builder_add_from(b, w->out, i);
    for (size_t i = 0; i < right.n && r == 0; i++)
        r = builder_append(b, &right, i);
    builder_free(&right);
    return r < 0 ? fail(w, r) : 0;
}

static int flush(struct tree_writer *w, unsigned l, bool at_end)
{
    struct builder *b = &w->level[l].b;
    int r = b->n ? take_left(w, l, at_end) : 0;

    while (r == 0 && b->n) {
        size_t n = builder_alike(b, 0);
        r = flush_alike(w, l, n, at_end || n < b->n);
    }
    return r < 0 ? r : stream(w, l + 1);
}

static int flush_below(struct tree_writer *w, unsigned l)
{
    int r = 0;
    for (unsigned i = 0; i < l && r == 0; i++)
        if (w->level[i].b.n)
            r = flush(w, i, false);
    return r;
}

/* Invariant 1: makes the open nodes from the root down to level l dirty. */
static int make_dirty(struct tree_writer *w, unsigned l)
{
    for (unsigned i = w->base.height; i-- > l;) {
        struct wlevel *lv = &w->level[i];
        if (!lv->open || lv->dirty)
            continue;
        int r = lv->idx ? flush_below(w, i) : 0;
        for (unsigned k = 0; k < lv->idx && r == 0; k++) {
            r = builder_add_from(&lv->b, lv->node, k);
            r = r < 0 ? fail(w, r) : stream(w, i);
        }
        if (r < 0)
            return r;
        lv->dirty = true;
        release(w, &lv->need.ptr, i);
    }
    return 0;
}

/* ---- moving ---- */

/* The lowest open level, or the height if none is. */
static unsigned lowest(const struct tree_writer *w)
{
    unsigned l = 0;
    while (l < w->base.height && !w->level[l].open)
        l++;
    return l;
}

/* Opens the child at the position of level l (l = height: the root). */
static int open_child(struct tree_writer *w, unsigned l)
{
    struct wlevel *lv = &w->level[l - 1];

    if (!lv->node) {
        lv->node = vd_alloc_aligned(OD_NODE_SIZE);
        if (!lv->node)
            return fail(w, -ENOMEM);
    }
    if (l == w->base.height)
        need_root(w->f, w->tree, &w->base, &lv->need);
    else
        need_child(w->level[l].node, w->level[l].idx, &w->level[l].need, &lv->need);
    int r = forest_fetch(w->f, &lv->need, lv->node);
    if (r < 0)
        return fail(w, r);
    w->started = true;
    lv->open = true;
    lv->dirty = false;
    lv->idx = 0;
    lv->count = node_count(lv->node);
    return 0;
}

/* Is what is pending below level l badly filled, and would the child at l's position help? */
static bool wants_child(const struct tree_writer *w, unsigned l, const struct tree_key *child)
{
    const struct builder *b = &w->level[l - 1].b;
    bool any = false;

    for (unsigned i = 0; i < l; i++)
        any = any || w->level[i].b.n;
    if (!any || !badly_filled(b))
        return false;
    return l > 1 || keys_alike(w->tree, 0, &b->item[b->n - 1].key, child);
}

/* Moves past the child at the position of level l, which stays as it is. */
static int keep_child(struct tree_writer *w, unsigned l)
{
    struct wlevel *lv = &w->level[l];
    struct tree_key key;
    struct node_ptr ptr;

    if (l == w->base.height) { /* the whole tree */
        w->started = true;
        key = (struct tree_key){{0}};
        int r = builder_add_child(&lv->b, &key, &w->base.ptr, true);
        return r < 0 ? fail(w, r) : 0;
    }
    if (lv->dirty) {
        node_child(lv->node, lv->idx, &key, &ptr);
        int r = flush_below(w, l);
        if (r == 0 && (r = builder_add_child(&lv->b, &key, &ptr, true)) < 0)
            fail(w, r);
        if (r == 0)
            r = stream(w, l);
        if (r < 0)
            return r;
    }
    lv->idx++;
    return 0;
}

/* The node at level l is used up: on in its parent. */
static int close_node(struct tree_writer *w, unsigned l)
{
    struct wlevel *lv = &w->level[l], *up = &w->level[l + 1];

    if (!lv->dirty && l + 1 < w->base.height && up->dirty && wants_child(w, l + 1, &lv->need.low)) {
        int r = make_dirty(w, l);
        if (r < 0)
            return r;
    }
    lv->open = false;
    if (!lv->dirty)
        return keep_child(w, l + 1);
    if (l + 1 < w->base.height)
        up->idx++;
    return 0;
}

/* Moves over the child at level l's position, whole: keeps it, or opens it to be taken in. */
static int pass_child(struct tree_writer *w, unsigned l)
{
    if (l < w->base.height && w->level[l].dirty) {
        struct tree_key key;
        node_child(w->level[l].node, w->level[l].idx, &key, NULL);
        if (wants_child(w, l, &key)) {
            int r = open_child(w, l);
            return r < 0 ? r : make_dirty(w, l - 1);
        }
    }
    return keep_child(w, l);
}

/* Entry i of the open leaf goes into the new tree as it is. */
static int keep_entry(struct tree_writer *w)
{
    struct wlevel *lv = &w->level[0];
    if (lv->dirty) {
        int r = builder_add_from(&lv->b, lv->node, lv->idx);
        r = r < 0 ? fail(w, r) : stream(w, 0);
        if (r < 0)
            return r;
    }
    lv->idx++;
    return 0;
}

/* Nothing can be put before entry i of the leaf any more. */
static void passed(struct tree_writer *w, unsigned i)
{
    node_entry_key(w->level[0].node, i, &w->put);
    w->put_any = true;
}

/* Where the child at the position of level l ends; l = height: the root. */
static void child_high(const struct tree_writer *w, unsigned l, struct tree_key *high)
{
    const struct wlevel *lv = &w->level[l];
    *high = TREE_KEY_MAX;
    if (l == w->base.height)
        return;
    *high = lv->need.high;
    if (lv->idx + 1 < lv->count)
        node_child(lv->node, lv->idx + 1, high, NULL);
}

/* Moves to the first old entry that is not before `key`; NULL: past all. */
static int advance(struct tree_writer *w, const struct tree_key *key)
{
    while (!w->err) {
        unsigned l = lowest(w);
        struct wlevel *lv = &w->level[l];
        int r;
        if (l == w->base.height && w->started)
            return 0;
        if (l == 0) {
            unsigned upto = lv->count;
            if (key) {
                upto = node_lower(lv->node, key);
                upto -= node_reaches(lv->node, upto, key);
            }
            if (lv->idx < upto)
                passed(w, upto - 1);
            while (lv->idx < upto)
                if (keep_entry(w) < 0)
                    return w->err;
            /* Beyond the last entry is still inside the node, unless the next one begins there. */
            if (lv->idx < lv->count || (key && tree_key_cmp(key, &lv->need.high) < 0))
                return 0;
            r = close_node(w, 0);
        } else if (l < w->base.height && lv->idx == lv->count) {
            r = close_node(w, l);
        } else {
            struct tree_key high;
            child_high(w, l, &high);
            r = !key || tree_key_cmp(key, &high) >= 0 ? pass_child(w, l) : open_child(w, l);
        }
        if (r < 0)
            return r;
    }
    return w->err;
}

int tree_writer_seek(struct tree_writer *w, const struct tree_key *key)
{
    if (w->err)
        return w->err;
    if (tree_key_cmp(key, &w->low) < 0)
        return fail(w, -EINVAL);
    w->low = *key;
    w->peeked = false;
    return advance(w, key);
}

int tree_writer_peek_below(struct tree_writer *w, const struct tree_key *limit,
                           struct tree_entry *ret)
{
    w->peeked = false;
    while (!w->err) {
        unsigned l = lowest(w);
        struct wlevel *lv = &w->level[l];
        struct tree_key next;
        if (l == w->base.height && w->started)
            return -ENOENT;
        if (l == 0 && lv->idx < lv->count) {
            node_entry(lv->node, lv->idx, ret);
            if (tree_key_cmp(&ret->key, limit) >= 0)
                return -ENOENT;
            w->peeked = true;
            return 0;
        }
        if (l < w->base.height && lv->idx == lv->count) {
            /* The last node stays open: what is put behind its end goes into it. */
            if (tree_key_cmp(&lv->need.high, limit) >= 0)
                return -ENOENT;
            if (close_node(w, l) < 0)
                return w->err;
            continue;
        }
        if (l < w->base.height) {
            node_child(lv->node, lv->idx, &next, NULL);
            if (tree_key_cmp(&next, limit) >= 0)
                return -ENOENT;
        }
        if (open_child(w, l) < 0)
            return w->err;
    }
    return w->err;
}

int tree_writer_peek(struct tree_writer *w, struct tree_entry *ret)
{
    return tree_writer_peek_below(w, &TREE_KEY_MAX, ret);
}

void tree_writer_take(struct tree_writer *w)
{
    if (w->err)
        return;
    if (!w->peeked) {
        fail(w, -EINVAL);
        return;
    }
    w->peeked = false;
    if (make_dirty(w, 0) < 0)
        return;
    w->level[0].idx++;
    w->now.entries--;
}

int tree_writer_keep(struct tree_writer *w)
{
    if (w->err)
        return w->err;
    if (!w->peeked)
        return fail(w, -EINVAL);
    w->peeked = false;
    passed(w, w->level[0].idx);
    return keep_entry(w);
}

/* ---- putting ---- */

static bool entry_valid(enum tree_id t, const struct tree_entry *e)
{
    const struct vd_run *r = &e->run;
    const uint64_t *w = e->key.w;

    if (!tree_is_map(t))
        return e->len <= TREE_VALUE_MAX && (e->val || !e->len) && (tree_words(t) == 4 || !w[3]);
    if (r->type != VD_RUN_DATA && r->type != VD_RUN_ZERO)
        return false;
    if (!r->blocks || r->lba >= LBA_MAX || r->blocks > LBA_MAX - r->lba)
        return false;
    bool in_cell = r->lba % VD_CELL_BLOCKS + r->blocks <= VD_CELL_BLOCKS;
    if (t == TREE_HEAD)
        return w[1] == r->lba && !w[2] && !w[3] && (in_cell || r->type == VD_RUN_ZERO);
    return w[1] == r->lba / VD_CELL_BLOCKS && w[2] == r->lba && w[3] == r->died &&
           r->born < r->died && in_cell;
}

/* Is `key` before the next old entry? */
static bool fits_here(const struct tree_writer *w, const struct tree_key *key)
{
    const struct wlevel *leaf = &w->level[0];
    struct tree_key at;

    if (!leaf->open)
        return w->base.height == 0; /* else it is behind TREE_KEY_MAX */
    if (leaf->idx == leaf->count)
        return true;
    node_entry_key(leaf->node, leaf->idx, &at);
    return tree_key_cmp(&at, key) > 0;
}

int tree_writer_put(struct tree_writer *w, const struct tree_entry *e)
{
    if (w->err)
        return w->err;
    /* It may lie before the key sought: the rest of a run that reached over it. */
    if (!entry_valid(w->tree, e) || (w->put_any && tree_key_cmp(&e->key, &w->put) <= 0))
        return fail(w, -EINVAL);
    w->peeked = false;
    int r = advance(w, &e->key);
    if (r < 0)
        return r;
    struct wlevel *leaf = &w->level[0];
    if (!fits_here(w, &e->key))
        return fail(w, -EINVAL);
    r = make_dirty(w, 0);
    if (r < 0)
        return r;
    r = builder_add_entry(&leaf->b, e);
    if (r < 0)
        return fail(w, r);
    if (tree_key_cmp(&e->key, &w->low) > 0)
        w->low = e->key;
    w->put = e->key;
    w->put_any = true;
    w->now.entries++;
    return stream(w, 0);
}

int tree_writer_touch(struct tree_writer *w, const struct tree_key *key, unsigned level)
{
    /* A node may begin inside the cell that was just rewritten: then that is where it is now. */
    struct tree_key at = tree_key_cmp(key, &w->low) < 0 ? w->low : *key;
    int r = tree_writer_seek(w, &at);
    if (r < 0 || level >= w->base.height || !w->level[level].open)
        return r;
    return make_dirty(w, level);
}

/* ---- the end ---- */

/* The top of the new tree has one child, from the old one: that is the root, and if it has a single
 * child itself, that one is. */
static int lower_root(struct tree_writer *w)
{
    while (w->now.height > 1) {
        struct forest_need need;
        need_root(w->f, w->tree, &w->now, &need);
        int r = forest_fetch(w->f, &need, w->out);
        if (r < 0)
            return fail(w, r);
        if (node_count(w->out) > 1)
            break;
        release(w, &w->now.ptr, w->now.height - 1);
        node_child(w->out, 0, NULL, &w->now.ptr);
        w->now.height--;
    }
    return 0;
}

static int make_root(struct tree_writer *w)
{
    for (unsigned l = 0; l < VD_ARRAY_SIZE(w->level); l++) {
        struct builder *b = &w->level[l].b;
        bool top = true;
        for (unsigned up = l + 1; up < VD_ARRAY_SIZE(w->level); up++)
            top = top && !w->level[up].b.n;
        if (top && l > 0 && b->n == 1) {
            bool kept = b->item[0].kept;
            item_child(b, 0, NULL, &w->now.ptr);
            w->now.height = l;
            return kept && l < w->base.height ? lower_root(w) : 0;
        }
        int r = flush(w, l, true);
        if (r < 0)
            return r;
        if (top && l + 1 < VD_ARRAY_SIZE(w->level) && !w->level[l + 1].b.n) {
            memset(&w->now.ptr, 0, sizeof(w->now.ptr));
            w->now.height = 0;
            return 0;
        }
    }
    return fail(w, -EUCLEAN);
}

int tree_writer_finish(struct tree_writer *w, struct tree_root *ret)
{
    int r = advance(w, NULL);
    if (r == 0)
        r = make_root(w);
    if (r == 0)
        *ret = w->now;
    tree_writer_abort(w);
    return r;
}
