/* SPDX-License-Identifier: MIT */
/*
 * Checks what lies below the client's meaning: both copies of labels, roots, table and nodes, the
 * counts of metadata segments against a walk of the trees, and the places that addresses name.
 * Never writes; suspends. For a pool at rest (attached read-only, or between checkpoints).
 */
#include "core/base/hash.h"
#include "core/base/text.h"
#include "pool/pool_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct check {
    struct vd_pool *p;
    pool_finding_fn *fn;
    void *arg;
    int findings;
    uint64_t nodes;
    uint32_t *meta_live; /* per segment, as walked */
    uint32_t segments;   /* when the check began: the pool may grow meanwhile */
    enum tree_id tree;
};

static void VD_PRINTF(2, 3) finding(struct check *c, const char *fmt, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    c->findings++;
    c->fn(c->arg, line);
}

/* A crash may have come between the two copies of a slot: the second is then the older generation,
 * until the next opening. */
static bool crashed(const struct vd_pool *p)
{
    return !(p->label.flags & OD_LABEL_CLEAN);
}

/* The copies of the current generation of a slot pair. A copy of the other generation may be old,
 * and after a crash torn. */
static int check_labels(struct check *c)
{
    struct vd_pool *p = c->p;
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(VD_BLOCK);
    struct vd_label *l VD_CLEANUP(vd_cleanup_free) = malloc(sizeof(*l));
    if (!buf || !l)
        return -ENOMEM;
    for (unsigned copy = 0; copy < 2; copy++) {
        uint64_t off = OD_LABEL_OFF(p->label.generation & 1) + copy * OD_HEAD_COPY;
        int r = vd_dev_read(p->dev, off, buf, VD_BLOCK);
        if (r == 0)
            r = label_decode(buf, l);
        if (r == 0 && l->generation < p->label.generation && crashed(p))
            continue;
        if (r < 0 || l->generation != p->label.generation)
            finding(c, "label copy %u of generation %" PRIu64 " is bad", copy, p->label.generation);
    }
    return 0;
}

static int check_roots(struct check *c)
{
    struct vd_pool *p = c->p;
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(VD_BLOCK);
    struct vd_root *root VD_CLEANUP(vd_cleanup_free) = malloc(sizeof(*root));
    if (!buf || !root)
        return -ENOMEM;
    for (unsigned copy = 0; copy < 2; copy++) {
        uint64_t off = OD_ROOT_OFF(p->root.counter & 1) + copy * OD_HEAD_COPY;
        int r = vd_dev_read(p->dev, off, buf, VD_BLOCK);
        if (r == 0)
            r = root_decode(buf, root);
        if (r == 0 && root->counter < p->root.counter && crashed(p))
            continue;
        if (r < 0 || root->counter != p->root.counter)
            finding(c, "root copy %u of generation %" PRIu64 " is bad", copy, p->root.counter);
    }
    return 0;
}

static int check_table(struct check *c)
{
    struct vd_pool *p = c->p;
    size_t len = table_size(p->root.table_entries, p->root.table_entry_size);
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(len);
    if (!buf)
        return -ENOMEM;
    for (unsigned copy = 0; copy < 2; copy++) {
        int r = vd_dev_read(p->dev, p->root.table_off[(p->root.counter & 1) * 2 + copy], buf, len);
        if (r < 0 || vd_xxh3(buf, len) != p->root.table_csum)
            finding(c, "segment table copy %u of generation %" PRIu64 " is bad", copy,
                    p->root.counter);
    }
    return 0;
}

static int check_node(void *arg, const struct node_ptr *ptr, int copy, const struct od_node *node,
                      unsigned level, int err)
{
    struct check *c = arg;
    struct vd_addr a = ptr->copy[copy];
    if (err < 0)
        finding(c, "tree %u: copy %d of a level %u node at segment %u, sector %u is bad: %s",
                c->tree, copy, level, a.seg, a.sector, strerror(-err));
    if (!seg_valid(c->p, a, 1)) {
        finding(c, "tree %u: a node at segment %u, sector %u lies outside segments in use", c->tree,
                a.seg, a.sector);
        return 0;
    }
    if (a.seg < c->segments) /* or the trees were not held */
        c->meta_live[a.seg]++;
    c->nodes += copy == 0;
    return 0;
}

static int check_trees(struct check *c)
{
    struct vd_pool *p = c->p;
    for (int t = 0; t < TREE_COUNT; t++) {
        const struct tree_root *root = forest_root(p->forest, t);
        uint64_t before = c->nodes;
        c->tree = t;
        int r = root->height ? tree_walk(p->forest, t, root, check_node, c) : 0;
        if (r < 0)
            finding(c, "tree %d cannot be walked: %s", t, strerror(-r));
        else if (c->nodes - before != root->nodes)
            finding(c, "tree %d has %" PRIu64 " nodes, the root says %" PRIu64, t,
                    c->nodes - before, root->nodes);
    }
    for (uint32_t i = 0; i < c->segments; i++) {
        const struct pool_seg *s = &p->segs.v[i];
        uint32_t walked = c->meta_live[i], known = seg_holds_nodes(s) ? s->live : 0;
        if (seg_has_ghosts(p, s) ? walked > known : walked != known)
            finding(c, "segment %u holds %u nodes, the table says %u", i, walked, known);
    }
    return 0;
}

int pool_check(struct vd_pool *p, pool_finding_fn *fn, void *arg, uint64_t *ret_nodes)
{
    struct check c = {.p = p, .fn = fn, .arg = arg};
    c.segments = p->segs.count;
    c.meta_live = calloc(c.segments + 1, sizeof(*c.meta_live));
    if (!c.meta_live)
        return -ENOMEM;
    int r = check_labels(&c);
    if (r == 0)
        r = check_roots(&c);
    if (r == 0)
        r = check_table(&c);
    if (r == 0)
        r = check_trees(&c);
    free(c.meta_live);
    *ret_nodes = c.nodes;
    return r < 0 ? r : c.findings;
}
