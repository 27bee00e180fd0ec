/* SPDX-License-Identifier: MIT */
/*
 * Maps of segments: which blocks are in use, as far as memory for them goes: of segments opened in
 * this session, of those that the session before it knew (map_store.c), and of others that the
 * cleaner has looked through. A segment without one is not refilled. Nothing here suspends.
 */
#ifndef VD_POOL_MAP_PRIV_H
#define VD_POOL_MAP_PRIV_H

#include "pool/pool_priv.h"

/* Which header or hint block says whose a block is, as a number below 256; 0 = one that stays. So
 * those that nothing needs any more can be found, and are dead like any other block. */
#define MAP_TELLERS OD_SEGMAP_TELLERS
struct map_tellers {
    uint16_t at[MAP_TELLERS]; /* the block of each; 0 = the number is free */
    uint8_t of[];             /* of each block, its number */
};

struct seg_map {
    uint32_t used;               /* blocks that are named or fixed */
    uint32_t hints;              /* hint blocks that stay */
    uint64_t *next;              /* what the merge under way makes of `named`, if it changes it */
    struct map_tellers *tellers; /* NULL: headers stay */
    /* Bits of the blocks that the trees of the newest root name, which may be what lay there before
     * the segment was opened and was moved since; then of headers and hint blocks. */
    uint64_t named[];
};

/* A segment of the log's or the cleaner's is opened; another stream's; is free again. */
void map_open(struct vd_pool *p, uint32_t seg);
void map_drop(struct vd_pool *p, uint32_t seg);
void map_release(struct vd_pool *p, uint32_t seg);
/* Of a segment that was opened in another session: an empty map, to be filled by map_fix for each
 * header and hint block and map_name for each block that the trees name. NULL: no memory for it. */
struct seg_map *map_new(struct vd_pool *p);
void map_name(struct seg_map *m, uint32_t block, uint8_t teller);
void map_free(struct vd_pool *p, struct seg_map *m);
/* Gives it to its segment, if it names as many blocks as are counted there; else frees it. */
bool map_adopt(struct vd_pool *p, uint32_t seg, struct seg_map *m);
/* Where its parts lie, to be stored or filled. */
void map_parts(const struct vd_pool *p, struct seg_map *m, struct vd_segmap *ret);
/* There is a header at `at`, and `blocks` blocks behind it are its own. */
void map_header(struct vd_pool *p, struct vd_addr at, uint32_t blocks);
/* The merge under way puts these blocks into a tree, or takes them out of it. */
void map_merge(struct vd_pool *p, struct vd_addr addr, uint64_t blocks);
/* The merge's root is durable, and `live` of the segment is what it counted. */
void map_publish(struct vd_pool *p, uint32_t seg);
void map_merge_failed(struct vd_pool *p, uint32_t seg);

bool map_used(const struct vd_pool *p, const struct seg_map *m, uint32_t block);
/* Takes a dead block for a header or hint block: its number, or 0. */
uint8_t map_fix(struct vd_pool *p, struct seg_map *m, uint32_t block);
void map_unfix(struct vd_pool *p, struct seg_map *m, uint32_t block, uint8_t teller);
/* Does this header or hint block tell of the block, and the trees name it? */
bool map_told(const struct seg_map *m, uint32_t block, uint8_t teller);
/* Numbers of headers that tell of at most `least` blocks in use, those that tell of fewest first,
 * as long as they tell of `most` together; returns how many. */
unsigned map_weak(const struct vd_pool *p, const struct seg_map *m, unsigned least, unsigned most,
                  uint8_t *ret, unsigned room);
/* Lets go of headers and hint blocks that say nothing of what is in use any more. */
void map_forget(struct vd_pool *p, struct seg_map *m);

#endif
