/* SPDX-License-Identifier: MIT */
/*
 * Copy-on-write B+trees, one per key space, and a cache of their nodes. Trees are changed only by a
 * writer that streams through one in key order (a checkpoint's merge) and yields a new root; nodes
 * are never changed in place, and the old root reads as before until its space is reused.
 *
 * Key spaces (words of the key; unused ones are 0):
 *   HEAD    branch, lba                      run; the newest version only; runs do not overlap
 *   HISTORY branch, cell, lba, died          run inside the cell; superseded versions
 *   CHANGED branch, epoch, group             64-bit map of the 1 MiB chunks group*64 .. +63
 *   CATALOG kind, id, sub                    value as snapshot/catalog.h defines
 *   USAGE   branch, first, last              bytes (u64)
 */
#ifndef VD_POOL_TREE_H
#define VD_POOL_TREE_H

#include "core/base/error.h"
#include "format/od.h"
#include "format/run.h"

enum tree_id {
    TREE_HEAD,
    TREE_HISTORY,
    TREE_CHANGED,
    TREE_CATALOG,
    TREE_USAGE,
    TREE_SHARED,
    TREE_COUNT
};
static inline bool tree_is_map(enum tree_id t)
{
    return t == TREE_HEAD || t == TREE_HISTORY;
}

struct tree_key {
    uint64_t w[4];
};
int tree_key_cmp(const struct tree_key *a, const struct tree_key *b);
#define TREE_KEY_MAX ((struct tree_key){{UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}})

struct node_ptr {
    struct vd_addr copy[2];
    uint64_t csum;
};
struct tree_root {
    struct node_ptr ptr;
    unsigned height; /* 0 = empty */
    uint64_t entries, leaves, nodes;
};

/* One entry, as cursors and writers hand them over. `key` is always filled. Map trees: `run` (its
 * branch is key.w[0]). Others: val, len (val points into a buffer that is good until the next call
 * on the same cursor or writer). */
#define TREE_VALUE_MAX 1024
struct tree_entry {
    struct tree_key key;
    struct vd_run run;
    const void *val;
    uint16_t len;
};

/* How nodes get from and to the devices; the pool gives these. */
struct forest_io {
    /* Reads one copy's 4096 bytes; no verification. VD_YIELDS */
    int (*read)(void *ctx, struct vd_addr at, void *buf);
    /* Buffers a new node for writing, in both copies; complete when the checkpoint says so. `node`
     * is a finished 4096-byte od_node but for its csum, already set. May suspend for space. */
    int (*write)(void *ctx, const void *node, struct node_ptr *ret);
    /* A node that the new tree no longer names; to be forgotten if the merge fails, as the old tree
     * does name it. Does not suspend. */
    void (*release)(void *ctx, const struct node_ptr *ptr);
    /* A good second copy was found beside a bad first one (or the reverse). Does not suspend. */
    void (*bad_copy)(void *ctx, struct vd_addr at, int err);
};

struct forest;
/* cache_bytes bounds the node cache. pool is the first 8 bytes of the pool's UUID, as in nodes. */
int forest_new(const struct forest_io *io, void *ctx, uint64_t pool, size_t cache_bytes,
               struct forest **ret);
void forest_free(struct forest *f);
/* The roots that look-ups start from. Setting is the in-memory publication: no suspension. */
void forest_set_root(struct forest *f, enum tree_id t, const struct tree_root *root);
const struct tree_root *forest_root(const struct forest *f, enum tree_id t);
/* Goes up at each forest_set_root. */
uint64_t forest_version(const struct forest *f);
void forest_set_cache(struct forest *f, size_t cache_bytes);
struct forest_cache {
    uint64_t bytes, hits, misses; /* memory it takes; look-ups since it was made */
};
void forest_cache(const struct forest *f, struct forest_cache *ret);
/* May all nodes of the tree be in the cache at once? */
bool forest_fits(const struct forest *f, enum tree_id t);

/* ---- look-up without I/O ---- */

/* All runs of HEAD (tree_head_find) or HISTORY (tree_history_find) of a branch that meet
 * [lba, lba + blocks), which lies within one cell, in key order, clipped to that range; at most
 * `max` (32 are always enough). Returns the number found; -EAGAIN when a node must be loaded first:
 * it is in *need, pass it to forest_load (VD_YIELDS) and start again. -EUCLEAN etc. from damage. */
struct forest_need {
    struct node_ptr ptr;
    enum tree_id tree;
    unsigned level;
    /* Where it must be: its first key is `low`, its last below `high`. */
    bool is_root; /* `low` means nothing */
    struct tree_key low, high;
    uint64_t version; /* of the roots it was found with */
};
int tree_head_find(struct forest *f, uint64_t branch, uint64_t lba, uint64_t blocks,
                   struct vd_run *ret, int max, struct forest_need *need);
/* Of HISTORY only versions with died > epoch and born <= epoch (those visible at `epoch`); at most
 * one per block, so never more than `blocks` runs. */
int tree_history_find(struct forest *f, uint64_t branch, uint64_t lba, uint64_t blocks,
                      uint64_t epoch, struct vd_run *ret, int max, struct forest_need *need);
/* Reads (either copy), verifies checksum, place in the tree and structure, caches. Several fibers
 * may ask for the same node; one reads. Returns 0, or -EAGAIN if the roots changed meanwhile and
 * the node is no longer readable (look again), -EBADMSG, -EUCLEAN, -EIO. VD_YIELDS */
int forest_load(struct forest *f, const struct forest_need *need);

/* ---- cursors: reading in key order, loading as they go ---- */

/* Survives root changes: each step goes to the first key after the last one of the current root. */
struct tree_cursor {
    struct forest *f;
    enum tree_id tree;
    struct tree_key key; /* of the next entry to look for: >= */
    uint8_t val[TREE_VALUE_MAX];
};
void tree_cursor_init(struct tree_cursor *c, struct forest *f, enum tree_id t,
                      const struct tree_key *from);
/* The first entry with key >= the cursor's; then the cursor moves beyond it. HEAD: a run that
 * starts before `from` and reaches into it counts. 0, -ENOENT at the end, or an error. VD_YIELDS */
int tree_cursor_next(struct tree_cursor *c, struct tree_entry *ret);

/* ---- writer: one pass through a tree in ascending order, making a new one ---- */

struct tree_writer;
/* Starts from `base` (which may be the current root). `incarnation`, `counter`: for the nodes.
 * One writer per tree at a time; writers of different trees may be interleaved freely. The first
 * error sticks: all that follows returns it, and so does finish. */
int tree_writer_new(struct forest *f, enum tree_id t, const struct tree_root *base,
                    uint64_t incarnation, uint64_t counter, struct tree_writer **ret);
/* Moves forward: old entries before `key` that were not taken are kept as they are (whole subtrees
 * without being read). HEAD: stops before a run that starts earlier but reaches to `key`. Keys must
 * not descend. VD_YIELDS */
int tree_writer_seek(struct tree_writer *w, const struct tree_key *key);
/* The next old entry at or after the position: 0, or -ENOENT at the end of the tree. VD_YIELDS */
int tree_writer_peek(struct tree_writer *w, struct tree_entry *ret);
/* The same, but -ENOENT when its key is not below `limit`; does not read a node for that. */
int tree_writer_peek_below(struct tree_writer *w, const struct tree_key *limit,
                           struct tree_entry *ret);
/* Drops the entry just peeked: it will not be in the new tree. An error is reported by the calls
 * that follow. VD_YIELDS */
void tree_writer_take(struct tree_writer *w);
/* Keeps the entry just peeked and moves past it. VD_YIELDS */
int tree_writer_keep(struct tree_writer *w);
/* Adds an entry: its key is above all kept or put so far and below the next old one not taken (a
 * caller who breaks this, or whose runs overlap, gets -EINVAL, here or from a later call). Adjacent
 * map entries are the caller's to coalesce. VD_YIELDS */
int tree_writer_put(struct tree_writer *w, const struct tree_entry *e);
/* Seeks to `key` and makes the node at `level` on its path part of the new tree even if nothing
 * changes in it (cleaning of metadata segments). VD_YIELDS */
int tree_writer_touch(struct tree_writer *w, const struct tree_key *key, unsigned level);
/* Keeps the rest and writes what is left; *ret is the new root. Frees w. VD_YIELDS */
int tree_writer_finish(struct tree_writer *w, struct tree_root *ret);
/* Frees w; the nodes already written are garbage that the caller's space accounting drops. */
void tree_writer_abort(struct tree_writer *w);

/* ---- for check and the metadata cleaner ---- */

/* Walks every node of the tree at `root`, parents first, without using the cache; reads both
 * copies. fn gets the verified node, or err < 0 for a copy that is bad. VD_YIELDS */
typedef int tree_node_fn(void *arg, const struct node_ptr *ptr, int copy,
                         const struct od_node *node, unsigned level, int err);
int tree_walk(struct forest *f, enum tree_id t, const struct tree_root *root, tree_node_fn *fn,
              void *arg);
/* True if the current tree names the node `n` found at `at` (one of its copies): the metadata
 * cleaner's question. *need as in tree_head_find. Returns 1, 0, -EAGAIN. */
int tree_names(struct forest *f, const struct od_node *n, struct vd_addr at,
               struct forest_need *need);

/* Decodes and verifies a node's 4096 bytes: magic, checksum, pool, tree, level, order of keys,
 * lengths, indexes, overlaps. 0, -EBADMSG, -EUCLEAN. */
int node_verify(const struct od_node *n, uint64_t pool, enum tree_id t, unsigned level);
unsigned node_count(const struct od_node *n);
/* Entry i of a verified leaf. */
void node_entry(const struct od_node *n, unsigned i, struct tree_entry *ret);
void node_child(const struct od_node *n, unsigned i, struct tree_key *key, struct node_ptr *ptr);

#endif
