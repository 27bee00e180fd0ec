/* SPDX-License-Identifier: MIT */
/*
 * The overlay: what the log says since the last checkpoint, in memory and in order: the last entry
 * per (branch, lba, epoch). Pure: no I/O, no loop. A pool has one active overlay and, during a
 * checkpoint, one frozen one.
 *
 * Long ZERO ranges cost O(1) or so, not one entry per cell.
 */
#ifndef VD_POOL_OVERLAY_H
#define VD_POOL_OVERLAY_H

#include "format/run.h"

struct overlay;

struct overlay *overlay_new(void);
void overlay_free(struct overlay *ov);

/* Applies, in log order, one entry of `branch` written in run->born (epochs never go down per
 * branch): DATA within one cell, or ZERO of any length. What the same epoch held of those blocks is
 * replaced. -ENOMEM, -EINVAL for what makes no sense (nothing changed). */
int overlay_apply(struct overlay *ov, uint64_t branch, const struct vd_run *run);

/* A view of one cell, filled from the newest layer down: active overlay, frozen overlay, tree,
 * parent. Block i is known when bit i of `known` is set. */
struct cell_view {
    uint32_t want;  /* blocks the caller is interested in */
    uint32_t known; /* subset of want */
    struct {
        enum vd_run_type type;
        struct vd_addr addr;
        uint64_t csum;
        uint64_t born;
    } b[VD_CELL_BLOCKS];
};
/* Fills the blocks that are wanted and not yet known with the newest entry whose epoch <= epoch. */
void overlay_view(const struct overlay *ov, uint64_t branch, uint64_t cell, uint64_t epoch,
                  struct cell_view *v);
/* The same from one run (from the tree): blocks wanted, not yet known, that it covers. */
void cell_view_add(struct cell_view *v, uint64_t cell, const struct vd_run *run);

/* ---- relocations: data moved by the cleaner ---- */

/* `blocks` blocks at `from` (of branch, lba, born: inside one cell) now also lie at `to`. -ENOMEM.
 */
int overlay_relocate(struct overlay *ov, uint64_t branch, uint64_t lba, uint64_t blocks,
                     struct vd_addr from, struct vd_addr to);
/* True and *to set when the block at `from` was moved (one step: if that was moved in turn, ask
 * again). Cheap when nothing was. */
bool overlay_moved(const struct overlay *ov, struct vd_addr from, struct vd_addr *to);

/* ---- in key order, for the merge and diff ---- */

/* A span: either one cell in which something lies (blocks <= 32), or a longer range that starts and
 * ends on cell boundaries and that only long ZERO entries cover, the same ones throughout. */
struct overlay_span {
    uint64_t branch;
    uint64_t lba, blocks;
    bool relocations; /* the cell has relocations: look at the tree even without versions */
    /* Versions inside the span, ascending by (born, lba); of one epoch they do not overlap. Owned
     * by the position, good until the next overlay_next on it. */
    const struct vd_run *versions;
    unsigned count;
};
struct overlay_pos;
/* Positions are for overlays that do not change meanwhile, or that are re-seeked. NULL: no memory.
 */
struct overlay_pos *overlay_seek(const struct overlay *ov, uint64_t branch, uint64_t lba);
/* The next span at or after the position, or false. The first may start at the cell boundary before
 * the lba sought. */
bool overlay_next(struct overlay_pos *pos, struct overlay_span *ret);
/* -ENOMEM if that is why overlay_next returned false: only when the overlay grew after the seek. */
int overlay_pos_error(const struct overlay_pos *pos);
void overlay_pos_free(struct overlay_pos *pos);

size_t overlay_entries(const struct overlay *ov);     /* relocations included */
size_t overlay_relocations(const struct overlay *ov); /* of these, in blocks */
size_t overlay_memory(const struct overlay *ov);      /* bytes, for the bound */
uint64_t
overlay_data_blocks(const struct overlay *ov); /* 4 KiB blocks that its DATA entries hold */
bool overlay_empty(const struct overlay *ov);

#endif
