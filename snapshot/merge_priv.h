/* SPDX-License-Identifier: MIT */
/*
 * A merge: the frozen overlay and the background work become new trees. Shared by the merge_*.c.
 *
 * struct merge_state is what a checkpoint's freeze notes of the catalogue: `in` parts never change
 * until publish; `out` parts are made anew by each attempt of the merge and count only at publish.
 * So a failed merge is simply run again.
 *
 * Words: a branch is *needed* when somebody can still look at it; an epoch is *kept* when a snapshot
 * or a needed branch starts from it, *recorded* when USAGE is reckoned with it. Recorded and not kept:
 * being purged. `ru` are all epochs that USAGE is reckoned with at the end of this merge's HEAD and
 * HISTORY pass: kept and recorded ones.
 */
#ifndef VD_SNAPSHOT_MERGE_PRIV_H
#define VD_SNAPSHOT_MERGE_PRIV_H

#include "snapshot/store_priv.h"

struct mepoch {
    struct retained in, out;
    bool done; /* out: nothing needs the record any more */
};

/* A run on its way from a folded branch to its child. */
struct fold_run {
    uint64_t lba, blocks, born, died;
    enum vd_run_type type;
    struct vd_addr addr;
    size_t csum; /* index of its first */
};
struct fold_buf {
    struct fold_run *run;
    size_t count, room;
    uint64_t *csum;
    size_t csums, csum_room;
};

struct chunk_visit {
    uint64_t chunk; /* 1 MiB */
    bool head;      /* look at HEAD too */
};

struct mbranch {
    /* in */
    uint64_t id, origin, limit;
    struct mbranch *up; /* parent */
    unsigned kids;      /* branches whose parent it is */
    bool needed, tip;
    bool absorbing;        /* folds its parent into itself */
    struct mbranch *into;  /* is folded into that child */
    bool fold_starts;      /* on the child: the trees do not know of the fold yet */
    uint64_t fold_cursor;  /* on the child */
    enum catalog_tip tip_state;
    uint64_t tip_floor, tip_cursor;
    uint64_t sweep_cursor;
    struct mepoch *ep; /* as many as ru, or none: all are kept and recorded */
    unsigned nep;
    const uint64_t *keep, *ru;
    unsigned nkeep, nru;

    /* out */
    enum catalog_tip out_tip_state;
    uint64_t out_tip_floor, out_tip_cursor;
    uint64_t out_fold_cursor;
    uint64_t out_sweep;
    bool fold_done; /* on the child */
    bool removed;   /* swept (not: folded) */
    bool swept;
    unsigned out_kids;
    struct chunk_visit *visit; /* ascending */
    size_t nvisit, visit_room;
    uint64_t *extra; /* cells to look at because of relocations under an older name */
    size_t nextra, extra_room;
    struct fold_buf fold; /* what comes in from the parent */
};

struct merge_state {
    struct map3 dirty; /* catalogue keys logged up to the freeze */
    struct mbranch *branch; /* ascending by id */
    size_t nbranch;
    struct mepoch *epochs;
    uint64_t *numbers;
    size_t nepochs, nnumbers;
    uint64_t out_chunks_left;
};
struct mbranch *mstate_find(struct merge_state *ms, uint64_t id);

/* One version of one block, while a cell is worked out. */
struct ver {
    uint64_t born, died, csum;
    struct vd_addr addr;
    uint8_t blk, type;
    uint8_t src; /* 0 HISTORY, 1 HEAD or folded in, 2 overlay */
    bool held;   /* the old trees hold it at this address, until `was`; not accounted for yet */
    uint64_t was;
};

/* One of the two map trees, read and rewritten in one pass (merge_stream.c). */
struct mstream {
    struct pool_merge *m;
    enum tree_id tree;
    struct tree_writer *w;
    uint64_t branch, pos; /* old entries before this have been dealt with */
    bool at;              /* branch and pos mean something */
    bool has_carry;       /* HEAD: the rest of a ZERO run that was cut */
    struct vd_run carry;
    bool has_out; /* HEAD: a ZERO run that may still grow */
    struct tree_entry out;
    struct tree_entry peek;
};

struct merge {
    struct snap_store *s;
    struct pool_merge *m;
    struct merge_state *ms;
    struct mstream head, history;
    struct map3 usage;   /* branch, first, last: signed bytes */
    struct map3 changed; /* branch, epoch, group: bits; flag: drop what was there */
    struct map3 catalog; /* keys written by this merge itself */
    uint64_t work, work_max; /* runs of background work, and how many there may be */
    struct overlay_pos *pos;
    struct overlay_span span;
    bool has_span;
    uint64_t spans, entries; /* of the frozen overlay: how far it has come */
    struct merge_ahead *ahead;
    uint64_t steps;
    /* Workspace of cells. */
    struct ver *ver;
    size_t nver, ver_room;
    struct ver **order;
    size_t order_room;
    struct vd_run run, plain;
    struct tree_entry entry;
    struct tree_cursor cursor;
};

/* A merge may find everything in memory; I/O goes on all the same. Call once per cell or key. VD_YIELDS */
static inline void merge_breathe(struct merge *mg)
{
    if (++mg->steps % 8 == 0)
        vd_fiber_yield();
}

/* ---- merge_ahead.c: HEAD is read before it is needed ---- */

/* Where it pays. Best effort. end: takes NULL. VD_YIELDS */
struct merge_ahead *ahead_begin(struct merge *mg);
void ahead_end(struct merge_ahead *a);
/* The merge has gone on by a span. */
void ahead_follow(struct merge_ahead *a);

/* ---- merge_plan.c: what is needed and what is to be done ---- */

bool version_needed(const struct mbranch *b, uint64_t born, uint64_t died);
/* Blocks below this, of the cell at lba, have something under them: ZERO must be said there. */
uint64_t explicit_limit(const struct mbranch *b, uint64_t lba);
/* Index of the first >= epoch. */
unsigned epochs_ceil(const uint64_t *v, unsigned n, uint64_t epoch);
/* Chooses the 1 MiB chunks that purges visit in this merge. VD_YIELDS */
int plan_purges(struct merge *mg);
/* Cells of relocations that are filed under a branch that has been folded. */
int plan_relocations(struct merge *mg);

/* ---- merge_stream.c ---- */

void stream_init(struct mstream *st, struct pool_merge *m, enum tree_id t);
/* The next old run of the branch that reaches beyond lba: 0 or -ENOENT. It starts at or after lba, or
 * covers it. Calls come in ascending order. VD_YIELDS */
int head_peek(struct mstream *st, uint64_t branch, uint64_t lba, struct vd_run *ret);
/* Takes the next old run that meets [lba, end), clipped to it; parts outside stay. -ENOENT: none
 * left, the range is now empty and everything of it may be put. VD_YIELDS */
int head_take(struct mstream *st, uint64_t branch, uint64_t lba, uint64_t end, struct vd_run *ret);
int head_put(struct mstream *st, uint64_t branch, const struct vd_run *run); /* VD_YIELDS */
/* The cell of the next old entry of the branch at or after `cell`; -ENOENT. VD_YIELDS */
int history_peek(struct mstream *st, uint64_t branch, uint64_t cell, uint64_t *ret);
int history_take(struct mstream *st, uint64_t branch, uint64_t cell, struct vd_run *ret);
/* inside: the cell was taken, nothing old is left in it. VD_YIELDS */
int history_put(struct mstream *st, uint64_t branch, const struct vd_run *run, bool inside);
int stream_finish(struct mstream *st, int err); /* sets the root, or gives up. VD_YIELDS */

/* ---- merge_cell.c ---- */

struct cell_job {
    struct mbranch *b;
    uint64_t cell;
    const struct overlay_span *span; /* or NULL */
    const struct fold_run *fold;     /* runs that come in and meet the cell */
    size_t nfold;
    bool head, history;     /* what to read of the old trees */
    struct mbranch *sweep;  /* what is needed goes to this child ... */
    bool drop;              /* ... or everything goes */
};
int merge_cell(struct merge *mg, const struct cell_job *job); /* VD_YIELDS */
/* Accounts for blocks of data that enter the trees (sign 1) or leave them (-1). */
int merge_account(struct merge *mg, const struct mbranch *b, struct vd_addr addr, uint64_t blocks,
                  uint64_t born, uint64_t died, int sign);
int fold_add(struct fold_buf *f, const struct vd_run *run);

/* ---- merge_plain.c ---- */

bool cell_is_plain(const struct cell_job *job);
/* limit: explicit_limit of the cell. VD_YIELDS */
int cell_plain(struct merge *mg, const struct cell_job *job, uint64_t limit);

/* ---- merge_index.c: USAGE, CHANGED, CATALOG ---- */

int usage_add(struct merge *mg, const struct mbranch *b, uint64_t born, uint64_t died,
              int64_t bytes);
int changed_add(struct merge *mg, const struct mbranch *b, uint64_t epoch, uint64_t lba);
/* All of [lba, end) that has something under it became ZERO. VD_YIELDS */
int changed_add_range(struct merge *mg, const struct mbranch *b, uint64_t epoch, uint64_t lba,
                      uint64_t end);
int merge_changed(struct merge *mg); /* VD_YIELDS */
int merge_usage(struct merge *mg);   /* VD_YIELDS */
int merge_catalog(struct merge *mg); /* VD_YIELDS */

#endif
