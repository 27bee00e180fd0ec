/* SPDX-License-Identifier: MIT */
/*
 * What the files of the overlay share.
 *
 * A branch has an index per level. Level 0 is keyed by cell; its records hold the versions inside a
 * cell. Level k > 0 is keyed by cell >> 5k; its records hold ZERO versions of 32^k whole cells,
 * into which long ZERO ranges are cut (at most 62 pieces a level, and a look-up probes only levels
 * in use).
 *
 * Invariants:
 *  1 in a record versions ascend by born, then by offset; those of one epoch do not overlap;
 *  2 of two records of the same epoch that cover a block the finer one is the newer: a coarse
 *    version, when it is applied, removes what finer records hold of its epoch;
 *  3 no record is empty, except inside overlay_apply;
 *  4 the bound of a subtree (`max`) is at least the epoch of every version in it.
 */
#ifndef VD_POOL_OVERLAY_PRIV_H
#define VD_POOL_OVERLAY_PRIV_H

#include "pool/overlay.h"

/* ---- memory: small pieces cut from chunks, all freed at once (overlay_arena.c) ---- */

#define ARENA_CLASSES 64
struct arena_chunk {
    struct arena_chunk *next;
};
struct arena_big { /* before a piece too large for a class */
    struct arena_big *next, **link;
};
struct arena {
    struct arena_chunk *chunks;
    struct arena_big *big;
    uint8_t *at;
    size_t left;
    size_t bytes; /* taken from malloc */
    void *spare[ARENA_CLASSES];
};
/* A piece of at least *size bytes, aligned to 8; *size becomes its real size. NULL: no memory. */
void *arena_alloc(struct arena *a, size_t *size);
void arena_free(struct arena *a, void *p, size_t size);
void arena_done(struct arena *a);

/* ---- records ---- */

/* A version is stored as its checksums, then this: so a record is read from its end, newest first.
 */
struct ov_ver {
    uint64_t born;
    struct vd_addr addr;
    uint8_t off, blocks; /* in the cell; both 0 for a piece of a level above 0 */
    uint8_t type;        /* enum vd_run_type */
    uint8_t pad[5];
};
struct ov_rec {
    uint32_t used; /* bytes of data */
    uint32_t room; /* the same, at most */
    uint8_t data[];
};
static inline unsigned ver_csums(const struct ov_ver *v)
{
    return v->type == VD_RUN_DATA ? v->blocks : 0;
}
/* The version that ends at *end, which moves to its start. */
static inline const struct ov_ver *rec_prev(const struct ov_rec *r, uint32_t *end)
{
    const struct ov_ver *v = (const void *)(r->data + *end - sizeof(*v));
    *end -= (uint32_t)(sizeof(*v) + 8 * ver_csums(v));
    return v;
}
static inline const uint64_t *ver_csum(const struct ov_ver *v)
{
    return (const uint64_t *)v - ver_csums(v);
}

/* ---- an index: B+tree of 64-bit keys (overlay_index.c) ---- */

struct ov_node;
struct ov_index {
    struct ov_node *root;
    unsigned height; /* 0 = empty */
};
/* The record at `key`, or NULL. */
void *index_find(const struct ov_index *x, uint64_t key);
/* The place of the value at `key`, made (NULL in it) if it is not there; notes that `epoch` goes in
 * there, which is never below what went in before. NULL: no memory, and the key is not there. */
void **index_insert(struct ov_index *x, struct arena *a, uint64_t key, uint64_t epoch);
void index_remove(struct ov_index *x, struct arena *a, uint64_t key);
/* The first key >= from, or false. */
bool index_ceil(const struct ov_index *x, uint64_t from, uint64_t *key, void **val);
/* Calls fn for the values at [lo, hi] in subtrees that may hold `epoch`; where it says true, the
 * value is removed. fn leaves nothing of that epoch, so the bound sinks. */
typedef bool index_drop_fn(void *arg, void *val);
void index_drop(struct ov_index *x, struct arena *a, uint64_t lo, uint64_t hi, uint64_t epoch,
                index_drop_fn *fn, void *arg);

/* ---- relocations (overlay_moved.c) ---- */

struct moved {
    uint64_t from, to;
};
struct moved_shard {
    struct moved *v;
    uint32_t count, room; /* room: power of two */
};
#define MOVED_SHARDS 256
struct moved_map {
    struct moved_shard *shard;
    size_t count, bytes;
};
void moved_done(struct moved_map *m);

/* ---- the overlay ---- */

#define OV_LEVELS 10
#define OV_CELL_BITS 46 /* a volume has at most 2^51 blocks */
#define OV_LBA_MAX (UINT64_C(1) << 51)

struct ov_branch {
    uint64_t id;
    uint64_t newest; /* epoch */
    struct ov_index level[OV_LEVELS];
    struct ov_index moved; /* cells that have relocations; the values mean nothing */
};
struct overlay {
    struct arena arena;
    struct ov_branch **branch; /* ascending by id */
    size_t branches, branch_room;
    struct moved_map moved;
    size_t versions;
    uint64_t data_blocks;
    uint32_t largest[OV_LEVELS]; /* of all records there have been, bytes: bounds a span */
};
/* The index in ov->branch of the first id >= `id`. */
size_t branch_ceil(const struct overlay *ov, uint64_t id);
struct ov_branch *branch_find(const struct overlay *ov, uint64_t id);
struct ov_branch *branch_make(struct overlay *ov, uint64_t id);

static inline uint32_t block_mask(unsigned off, unsigned blocks)
{
    return (uint32_t)(((UINT64_C(1) << blocks) - 1) << off);
}

#endif
