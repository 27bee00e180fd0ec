/* SPDX-License-Identifier: MIT */
/*
 * What pool/ asks upward. The pool keeps bytes: segments, log, overlays, trees' mechanism, the
 * cleaner. What branches, epochs and catalogue values mean is the client's: snapshot/ answers
 * these.
 */
#ifndef VD_POOL_CLIENT_H
#define VD_POOL_CLIENT_H

#include "format/format.h"
#include "pool/overlay.h"
#include "pool/tree.h"

struct vd_pool;

/* A merge in progress: the frozen overlay and the client's background work become new trees. */
struct pool_merge {
    struct vd_pool *pool;
    struct forest *forest;
    const struct overlay *frozen;
    uint64_t seq;                  /* the state at this record is what the trees must say */
    uint64_t epoch;                /* the current epoch at it */
    uint64_t incarnation, counter; /* for tree_writer_new */
    unsigned budget; /* about how many leaves of background work (purge, fold) to do, at most */
    struct tree_root base[TREE_COUNT]; /* as published by the last checkpoint */
    struct tree_root root[TREE_COUNT]; /* out; preset to base */
};
/* Tells the pool that the trees now name `blocks` more (or, negative, fewer) blocks at addr (a data
 * run, within one segment). */
void pool_merge_live(struct pool_merge *m, struct vd_addr addr, int64_t blocks);
/* Touches, in `w`, the nodes of tree t below `upto` that the metadata cleaner wants rewritten. Call
 * before each tree_writer_seek with its key, and with TREE_KEY_MAX before tree_writer_finish. A
 * tree for which pool_merge_wants is false and which nothing else changes needs no writer.
 * VD_YIELDS */
int pool_merge_touch(struct pool_merge *m, struct tree_writer *w, enum tree_id t,
                     const struct tree_key *upto);
bool pool_merge_wants(const struct pool_merge *m, enum tree_id t);
/* `done` of the frozen overlay's entries are in the new trees: writes go on in proportion. */
void pool_merge_progress(struct pool_merge *m, uint64_t done);

/* Whose are these blocks? The cleaner found `blocks` blocks at `addr`, and a header says that they
 * were stored for (branch, lba). */
struct pool_owner_query {
    uint64_t branch, lba, blocks; /* inside one cell */
    struct vd_addr addr;
};

struct pool_client_ops {
    /* Opening: roots are set, the forest can be read. Load the catalogue. VD_YIELDS */
    int (*load)(void *c);
    /* One EPOCH or CATALOG entry of a committed operation, in log order, live and at replay. (Map
     * entries the pool applies to its overlay itself, with born = the current epoch.) Never
     * suspends, and does not fail but for -ENOMEM and, at replay, -EUCLEAN. */
    int (*apply)(void *c, const struct vd_entry *e);
    /* A checkpoint begins: the active overlay has just become the frozen one. Note what the merge
     * needs of the state now (dirty catalogue keys, retained epochs). Never suspends. */
    int (*freeze)(void *c);
    /* Writes the new trees into m->root. On an error the old ones stay; the frozen overlay is kept,
     * and merge is tried again with the same frozen state and base, or the pool fails. VD_YIELDS */
    int (*merge)(void *c, struct pool_merge *m);
    /* The new roots are durable and have just been set, and the frozen overlay dropped. Never
     * suspends. */
    void (*publish)(void *c);
    /* Which of the queried blocks does some version in HEAD or HISTORY of
     * (branch, lba) hold at that address? (No overlay points into a segment that is cleaned.) Runs
     * to ret (addr = where it lies, lba, born, csum; at most `max`, 32 are always enough), and the
     * branch that owns them now to *branch. Bits of *gone, from block 0 of the query on, are those
     * that a tree names but nothing will ever show again, once what has been applied is durable:
     * the merge of the overlays as they are drops them. Returns the number of runs; must answer for
     * the state at the time it returns. VD_YIELDS */
    int (*owner)(void *c, const struct pool_owner_query *q, struct vd_run *ret, int max,
                 uint64_t *branch, uint32_t *gone);
    /* Is there background work that further checkpoints would advance? Never suspends. */
    bool (*backlog)(void *c);
};

#endif
