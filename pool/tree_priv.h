/* SPDX-License-Identifier: MIT */
/* What the files of the tree share: nodes as they lie in memory, the cache, the way down. */
#ifndef VD_POOL_TREE_PRIV_H
#define VD_POOL_TREE_PRIV_H

#include "core/base/list.h"
#include "pool/tree.h"

/* A root higher than this is damage: even with two children a node, no tree gets there. */
#define TREE_HEIGHT_MAX 16
#define NODE_BODY (sizeof(((struct od_node *)0)->body))
#define NODE_NO_EPOCH 0xffff
/* A HEAD run ends here at most. */
#define LBA_MAX (UINT64_C(1) << 51)

static inline unsigned tree_words(enum tree_id t)
{
    return t == TREE_HEAD ? 2 : t == TREE_HISTORY || t == TREE_SHARED ? 4 : 3;
}
static inline size_t child_bytes(enum tree_id t)
{
    return sizeof(struct od_child) + 8 * tree_words(t);
}
/* Bytes that a key-value entry takes, its offset not counted. */
static inline size_t kv_bytes(enum tree_id t, size_t len)
{
    return VD_ROUND_UP(sizeof(struct od_kv) + 8 * tree_words(t) + len, (size_t)8);
}

static inline bool ptr_equal(const struct node_ptr *a, const struct node_ptr *b)
{
    return a->csum == b->csum && vd_addr_equal(a->copy[0], b->copy[0]);
}
static inline struct vd_addr addr_get(struct od_addr a)
{
    return (struct vd_addr){vd_get32(a.seg), vd_get32(a.sector)};
}
static inline struct od_addr addr_put(struct vd_addr a)
{
    return (struct od_addr){vd_le32(a.seg), vd_le32(a.sector)};
}
static inline void ptr_get(const struct od_node_ptr *p, struct node_ptr *ret)
{
    ret->copy[0] = addr_get(p->copy[0]);
    ret->copy[1] = addr_get(p->copy[1]);
    ret->csum = vd_get64(p->csum);
}
static inline void key_get(const le64_t *words, unsigned n, struct tree_key *ret)
{
    for (unsigned i = 0; i < 4; i++)
        ret->w[i] = i < n ? vd_get64(words[i]) : 0;
}
/* A key on disk against one in memory, of which words beyond `n` count as above. */
static inline int key_cmp_od(const le64_t *words, unsigned n, const struct tree_key *key)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t w = vd_get64(words[i]);
        if (w != key->w[i])
            return w < key->w[i] ? -1 : 1;
    }
    for (unsigned i = n; i < 4; i++)
        if (key->w[i])
            return -1;
    return 0;
}

/* ---- tree_node.c: verified nodes ---- */

static inline const struct od_child *child_at(const struct od_node *n, size_t size, unsigned i)
{
    return (const void *)(n->body + size * i);
}
/* The child whose range holds `key`: the last with a key <= it, or the first. */
unsigned node_pick(const struct od_node *n, const struct tree_key *key);
/* Leaf: the first entry with a key >= `key`; may be the count. */
unsigned node_lower(const struct od_node *n, const struct tree_key *key);
void node_entry_key(const struct od_node *n, unsigned i, struct tree_key *ret);
/* HEAD: does entry i - 1 reach beyond `key`? Then a search for `key` finds it. */
bool node_reaches(const struct od_node *n, unsigned i, const struct tree_key *key);
/* Map leaf: only where run i lies and since when; then what of it is in [lba, lba + blocks). */
void node_run_range(const struct od_node *n, unsigned i, struct vd_run *ret);
void node_run_clipped(const struct od_node *n, unsigned i, uint64_t lba, uint64_t blocks,
                      struct vd_run *ret);
/* Is the verified node the one that `need` asks for? 0 or -EUCLEAN. */
int node_place(const struct od_node *n, const struct forest_need *need);
/* The structure without checksum and pool: for a node about to be written as well. */
int node_check_body(const struct od_node *n);

/* ---- tree_cache.c ---- */

struct forest {
    struct forest_io io;
    void *ctx;
    uint64_t pool;
    struct tree_root root[TREE_COUNT];
    uint64_t version;
    struct vd_list loads; /* struct load, in flight */

    /* Frames in chunks of FRAMES_PER_CHUNK; buckets hold 1 + frame number, 0 at the end. */
    struct frame *frame;
    uint8_t **chunk;
    uint32_t *bucket;
    uint32_t frames, frame_max, bucket_mask;
    uint32_t spare; /* 1 + first free frame */
    uint32_t hand;  /* of the clock */
    uint64_t hits, misses;
};
#define FRAMES_PER_CHUNK 512 /* 2 MiB: a huge page, as look-ups jump about in them */
struct frame {
    uint64_t addr, csum;
    uint32_t next; /* in the bucket or the list of free ones, 1 + frame number */
    uint8_t heat;  /* how many turns of the clock it survives */
    uint8_t state;
    uint8_t level;
};
static inline uint64_t frame_addr(struct vd_addr a)
{
    return (uint64_t)a.seg << 32 | a.sector;
}
static inline uint32_t frame_hash(const struct forest *f, uint64_t addr)
{
    return (uint32_t)(addr * UINT64_C(0x9e3779b97f4a7c15) >> 32) & f->bucket_mask;
}
static inline const struct od_node *frame_node(const struct forest *f, uint32_t i)
{
    return (const void *)(f->chunk[i / FRAMES_PER_CHUNK] +
                          (size_t)(i % FRAMES_PER_CHUNK) * OD_NODE_SIZE);
}
/* The node if it is cached, good until the caller suspends or something else is cached. */
const struct od_node *cache_get(struct forest *f, const struct node_ptr *ptr);
/* A copy of `node`, just written, if there is room. */
void cache_put(struct forest *f, const struct node_ptr *ptr, const struct od_node *node);
/* The node was replaced: the first to make room. */
void cache_cool(struct forest *f, const struct node_ptr *ptr);
/* The need for the root of a tree; *need is all set. */
void need_root(const struct forest *f, enum tree_id t, const struct tree_root *root,
               struct forest_need *need);
/* The need for child i of `n`, found with `up`. */
void need_child(const struct od_node *n, unsigned i, const struct forest_need *up,
                struct forest_need *need);
/* Reads the node into buf, from the cache or the devices. VD_YIELDS */
int forest_fetch(struct forest *f, const struct forest_need *need, struct od_node *buf);

/* ---- tree_find.c ---- */

/* The leaf whose range holds `key`: 0, -ENOENT (empty tree), -EAGAIN with *need. *high: where the
 * next leaf begins, TREE_KEY_MAX if there is none. */
int tree_descend(struct forest *f, enum tree_id t, const struct tree_key *key,
                 const struct od_node **leaf, struct tree_key *high, struct forest_need *need);

#endif
