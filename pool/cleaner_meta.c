/* SPDX-License-Identifier: MIT */
/*
 * Cleaning of metadata: cold nodes of sparse segments become part of the next merge, which writes
 * them elsewhere. Called by the checkpoint before its merge; suspends.
 */
#include "core/base/text.h"
#include "pool/pool_priv.h"

#include <stdlib.h>

#define META_NODES_PER_MERGE 2048

void touch_list_clear(struct vd_pool *p)
{
    for (int t = 0; t < TREE_COUNT; t++)
        p->ckpt.touch[t].count = p->ckpt.touch[t].pos = 0;
}

static int touch_add(struct touch_list *l, const struct od_node *n)
{
    if (l->count == l->room) {
        size_t room = l->room ? l->room * 2 : 64;
        struct touch_node *v = realloc(l->v, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        l->v = v;
        l->room = room;
    }
    struct touch_node *t = &l->v[l->count++];
    for (int i = 0; i < 4; i++)
        t->key.w[i] = vd_get64(n->first.w[i]);
    t->level = n->level;
    return 0;
}

static int touch_cmp(const void *a, const void *b)
{
    return tree_key_cmp(&((const struct touch_node *)a)->key, &((const struct touch_node *)b)->key);
}

/* Lists the nodes of one segment that the trees still name. */
static int touch_segment(struct vd_pool *p, uint32_t seg, uint8_t *buf)
{
    int r = vd_dev_read(p->dev, seg_off(p, seg), buf, p->chunk_size);
    for (uint32_t b = 0; r == 0 && b < p->seg_blocks; b++) {
        const struct od_node *n = (const struct od_node *)(buf + (size_t)b * OD_NODE_SIZE);
        if (vd_get32(n->magic) != OD_MAGIC_NODE || n->tree >= TREE_COUNT ||
            node_verify(n, p->pool64, n->tree, n->level) < 0)
            continue;
        struct forest_need need;
        int named;
        while ((named = tree_names(p->forest, n, (struct vd_addr){seg, b * VD_SECTORS_PER_BLOCK},
                                   &need)) == -EAGAIN) {
            int l = forest_load(p->forest, &need);
            if (l < 0 && l != -EAGAIN)
                return l;
        }
        if (named < 0)
            return named;
        if (named)
            r = touch_add(&p->ckpt.touch[n->tree], n);
    }
    return r;
}

/* The sparsest segment of first copies that was not seen yet; 0 = none. */
static uint32_t sparsest(const struct vd_pool *p, const bool *seen)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < p->segs.count; i++) {
        const struct pool_seg *s = &p->segs.v[i];
        if (s->state == VD_SEG_CLOSED && s->stream == VD_STREAM_META_A && !seen[i] && s->live &&
            (!best || s->live < p->segs.v[best].live))
            best = i;
    }
    return best;
}

/* Metadata segments empty by themselves where everything is rewritten; cold nodes keep others half
 * empty. Those of the sparsest become part of the next merge while more than a third of the space
 * is garbage. First and second copies lie in pairs of segments, so looking at the first ones is
 * enough. It brings more than it takes, so it may take most of what there is, if that does not
 * belong to the merges: where roots are frequent and change a few nodes each, metadata would grow
 * until there is no space left. */
int cleaner_touch_meta(struct vd_pool *p)
{
    touch_list_clear(p);
    p->ckpt.nodes_beside = 0;
    reserve_update(p);
    uint64_t used = 0, live = 0, cost = 0, above = pool_inner_nodes(p);
    uint64_t room = reserve_spare_nodes(p) * 3 / 4;
    uint64_t most = VD_MAX((uint64_t)META_NODES_PER_MERGE, reserve_frozen_nodes(p));
    for (uint32_t i = 0; i < p->segs.count; i++)
        if (p->segs.v[i].state == VD_SEG_CLOSED && p->segs.v[i].stream == VD_STREAM_META_A) {
            used += p->seg_blocks;
            live += p->segs.v[i].live;
        }
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = NULL;
    bool *seen VD_CLEANUP(vd_cleanup_free) = calloc(p->segs.count, sizeof(*seen));
    if (!seen)
        return -ENOMEM;
    while (used > live + live / 2 + p->seg_blocks / 2 && cost < most) {
        uint32_t seg = sparsest(p, seen), has = p->segs.v[seg].live;
        uint64_t with = has + VD_MIN(has, above); /* those above them change too */
        if (!seg || has > p->seg_blocks * 3 / 4 || cost + with > room)
            break;
        if (!buf && !(buf = vd_alloc_aligned(p->chunk_size)))
            return -ENOMEM;
        seen[seg] = true;
        int r = touch_segment(p, seg, buf);
        if (r < 0)
            return r;
        cost += with;
        above -= with - has;
        used -= p->seg_blocks;
        live -= has;
    }
    p->ckpt.nodes_beside = cost;
    for (int t = 0; t < TREE_COUNT; t++) {
        struct touch_list *l = &p->ckpt.touch[t];
        if (l->count)
            qsort(l->v, l->count, sizeof(l->v[0]), touch_cmp);
    }
    return 0;
}
