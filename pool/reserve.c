/* SPDX-License-Identifier: MIT */
/*
 * The reserve: the space that writes may not use, since everything must still work when the pool is
 * full (I7): merging both overlays, cleaning, the headers of trims and deletes, and rewriting
 * metadata that has become sparse. It follows the overlays and the trees. docs/decisions/0027 says
 * why it is what it is. Nothing here suspends.
 */
#include "pool/pool_priv.h"

/* What merging an overlay depends on. */
struct load {
    uint64_t written;    /* entries that bring or end runs */
    uint64_t moved;      /* entries that say where a run is now */
    uint64_t run_blocks; /* blocks of new runs: each has a checksum there */
    uint64_t zeroed;     /* blocks whose runs, if snapshots show them, go on in HISTORY */
};

static struct load load_of(const struct overlay *ov, uint64_t zeroed)
{
    uint64_t moved = overlay_relocations(ov);
    return (struct load){.written = overlay_entries(ov) - moved,
                         .moved = moved,
                         .run_blocks = overlay_data_blocks(ov),
                         .zeroed = zeroed};
}

/* Bytes of a new run in a leaf, and of a checksum there; what splitting leaves in a node. */
#define RUN_BYTES 24
#define CSUM_BYTES 8
#define SPLIT_NODE_BYTES 2800

/* Nodes above so many leaves, if they lie as far apart as they can. */
static uint64_t nodes_above(const struct tree_root *r, uint64_t leaves)
{
    return r->height ? VD_MIN(leaves * (r->height - 1), r->nodes - r->leaves) : 0;
}

/* Nodes that a merge may write, one copy: each entry may change a leaf in every tree, and with it
 * all that lies above it. A relocation changes one that describes its run. */
static uint64_t merge_nodes(const struct vd_pool *p, struct load ld)
{
    uint64_t nodes = 16, map = 0, dirty = 0, above = 0;
    for (int t = 0; t < TREE_COUNT; t++) {
        const struct tree_root *r = forest_root(p->forest, t);
        uint64_t leaves = VD_MIN(ld.written, r->leaves);
        if (t != TREE_HEAD && t != TREE_HISTORY) {
            nodes += leaves + nodes_above(r, leaves);
            continue;
        }
        map += r->leaves;
        dirty += leaves;
        above += nodes_above(r, leaves + VD_MIN(ld.moved, r->leaves - leaves));
    }
    nodes += dirty + VD_MIN(ld.moved, map - dirty) + above;
    uint64_t bytes = (ld.written + ld.moved) * RUN_BYTES + ld.run_blocks * CSUM_BYTES;
    if (p->epoch > 1) { /* there are, or were, snapshots */
        uint64_t most = forest_root(p->forest, TREE_HEAD)->leaves * (uint64_t)OD_NODE_SIZE;
        bytes += VD_MIN(ld.zeroed * (RUN_BYTES + CSUM_BYTES), most);
    }
    uint64_t fresh = bytes / SPLIT_NODE_BYTES;
    nodes += fresh + fresh / 32;
    return nodes + nodes / 8; /* neighbours of badly filled nodes */
}

/* With what the cleaner is about to say there. */
static struct load active_load(const struct vd_pool *p)
{
    struct load ld = load_of(p->active, p->space.zeroed);
    ld.moved += p->clean.moving;
    return ld;
}

static uint64_t active_nodes(const struct vd_pool *p)
{
    return merge_nodes(p, active_load(p));
}

static uint64_t frozen_nodes(const struct vd_pool *p)
{
    return merge_nodes(p, load_of(p->frozen, p->ckpt.zeroed));
}

/* What the merge under way has written already it does not need any more. */
static uint64_t nodes_to_come(const struct vd_pool *p)
{
    uint64_t nodes = reserve_frozen_nodes(p), written = p->stats.written[VD_STREAM_META_A];
    if (!p->ckpt.merging || written <= p->ckpt.nodes_before)
        return nodes;
    return nodes - VD_MIN(nodes, written - p->ckpt.nodes_before);
}

uint64_t reserve_frozen_nodes(const struct vd_pool *p)
{
    return frozen_nodes(p) + p->ckpt.nodes_beside;
}

void reserve_frozen(struct vd_pool *p)
{
    p->space.nodes_at_freeze = frozen_nodes(p);
}

/* Blocks of nodes that the trees name. */
uint64_t reserve_meta_live(const struct vd_pool *p)
{
    uint64_t blocks = 0;
    for (int t = 0; t < TREE_COUNT; t++)
        blocks += 2 * forest_root(p->forest, t)->nodes;
    return blocks;
}

/* Nodes are never overwritten: what a merge replaces is garbage between others that are not, until
 * the segment is empty or sparse enough to be (cleaner_touch_meta). So metadata is to have twice
 * the space that it takes: or the cleaner, whose relocations change nodes everywhere, stops being
 * worth it long before the data is dense. Returns the blocks that it does not have yet. */
static uint64_t meta_shortage(const struct vd_pool *p)
{
    uint64_t has = (uint64_t)p->segs.meta * p->seg_blocks, wants = 2 * reserve_meta_live(p);
    return wants > has ? wants - has : 0;
}

bool reserve_meta_sparse(const struct vd_pool *p)
{
    uint64_t has = (uint64_t)p->segs.meta * p->seg_blocks, live = reserve_meta_live(p);
    return has > live + live / 2 + RESERVE_META_SEGMENTS * p->seg_blocks;
}

void reserve_update(struct vd_pool *p)
{
    uint64_t nodes = active_nodes(p);
    if (p->frozen)
        nodes += nodes_to_come(p);
    if (p->client->backlog(p->client_arg))
        nodes += RESERVE_BACKGROUND_NODES;
    p->space.nodes = nodes;
    p->space.for_meta = meta_shortage(p);
    uint32_t meta = 2 * (uint32_t)VD_DIV_UP(nodes, p->seg_blocks);
    const struct bulk_stream *s = &p->meta.a;
    p->space.for_merge = s->seg && p->seg_blocks - s->block >= 2 * nodes ? 0 : meta;
    p->space.keep = meta + 1;
    /* Besides, segments of the cleaner's and the log's. */
    uint64_t merge = 2 * nodes + 2 * (uint64_t)p->seg_blocks;
    p->space.reserved =
        (VD_DIV_UP(merge, p->seg_blocks) + RESERVE_CLEAN_SEGMENTS) * (uint64_t)p->seg_blocks +
        RESERVE_HEADERS_BLOCKS;
#ifdef VD_PLANT_RESERVE_NOT_ENFORCED
    p->space.reserved = 0;
#endif
}

uint64_t reserve_spare_nodes(const struct vd_pool *p)
{
    const struct bulk_stream *s = &p->meta.a;
    uint64_t pairs = p->segs.free_backed > 1 ? (p->segs.free_backed - 1) / 2 : 0;
    uint64_t room = pairs * p->seg_blocks + (s->seg ? p->seg_blocks - s->block : 0);
    return room > p->space.nodes ? room - p->space.nodes : 0;
}

/* Blocks that relocations let the merges write beyond what they write anyway, at most. */
uint64_t reserve_of_moves(const struct vd_pool *p, uint64_t moves)
{
    struct load ld = active_load(p), more = ld;
    more.moved += moves;
    return 2 * (merge_nodes(p, more) - merge_nodes(p, ld));
}

/* A discard says little in the log, and moves many runs between trees if snapshots show them. */
uint64_t reserve_of_zeroes(const struct vd_pool *p, const struct pool_op *op)
{
    struct load ld = active_load(p), more = ld;
    for (unsigned i = 0; i < op->count; i++)
        if (op->entries[i].type == VD_ENTRY_ZERO)
            more.zeroed += op->entries[i].blocks;
    return more.zeroed > ld.zeroed ? 2 * (merge_nodes(p, more) - merge_nodes(p, ld)) : 0;
}

/* Blocks that the reserve will grow by when the active overlay is frozen and another one has become
 * as large. */
int64_t reserve_to_come(const struct vd_pool *p)
{
    uint64_t now = active_nodes(p) + (p->frozen ? frozen_nodes(p) : 0);
    return VD_MAX(0, 2 * ((int64_t)(2 * p->space.nodes_at_freeze) - (int64_t)now));
}
