/* SPDX-License-Identifier: MIT */
/*
 * What the files of snapshot/ share: the store over a pool, views, transactions.
 */
#ifndef VD_SNAPSHOT_STORE_PRIV_H
#define VD_SNAPSHOT_STORE_PRIV_H

#include "core/block/store.h"
#include "pool/pool.h"
#include "snapshot/snapshot.h"
#include "snapshot/state_priv.h"

struct merge_state;
struct io_ctx;

struct snap_store {
    struct vd_store store; /* first */
    struct vd_pool *pool;
    struct catalog cat;
    struct map3 dirty;          /* catalogue keys logged since the last freeze */
    struct merge_state *frozen; /* from freeze to publish */
    struct vd_fmutex control;   /* control operations come one at a time */

    /* Background work as of the last publish, and whether it may have changed since. */
    bool backlog_known, backlog_any;
    uint64_t chunks_left; /* 1 MiB chunks that purges have still to visit */

    struct vd_run runs[VD_CELL_BLOCKS]; /* of a look-up: never across a suspension */
    struct io_ctx *spare;               /* of reads, ready for use */
    unsigned spares;
};

/* ---- views (view.c) ---- */

/* What a handle shows, fixed or live: the branch is looked up anew each time it is used, for a fold
 * may change it. */
struct view_ref {
    struct volume *volume;
    struct snapshot *snapshot; /* or NULL: the live volume */
};
struct view {
    struct branch *branch;
    uint64_t epoch;
    uint64_t size;
};
static inline struct view view_of(struct view_ref ref)
{
    if (ref.snapshot)
        return (struct view){ref.snapshot->branch, ref.snapshot->rec.epoch, ref.snapshot->rec.size};
    return (struct view){ref.volume->branch, EPOCH_LIVE, ref.volume->rec.size};
}

/* Fills the wanted blocks of a cell: 0, all are known (what nobody holds is ZERO with born 0);
 * -EAGAIN: load *need and start the cell again; or damage. Addresses are where the
 * blocks lie now. Does not suspend. */
int view_cell(struct snap_store *s, struct view view, uint64_t cell, struct cell_view *v,
              struct forest_need *need);
/* Which blocks of a run of HEAD (bit n: block n of its cell) do the overlays replace so that
 * neither the live volume nor any retained epoch shows them any more? Nothing can make them wanted
 * again; the merge drops them. Does not suspend. */
uint32_t view_replaced(const struct snap_store *s, const struct branch *b,
                       const struct vd_run *run);
/* view_cell, loading what it takes; true at the time it returns. VD_YIELDS */
int view_cell_load(struct snap_store *s, struct view_ref ref, uint64_t cell, struct cell_view *v);
/* From `lba` (start of a cell) on, up to `end`: how many blocks surely read as zeroes with nothing
 * stored for them. 0 when there may be something in the first cell. VD_YIELDS */
int view_hole(struct snap_store *s, struct view_ref ref, uint64_t lba, uint64_t end, uint64_t *ret);

/* ---- reading (read.c) ---- */

/* Reads [off, off + len), multiples of 512, into the vector. VD_YIELDS */
int view_read(struct snap_store *s, struct view_ref ref, uint64_t off, const struct iovec *iov,
              int n, size_t len);
/* Whole blocks into aligned memory. VD_YIELDS */
int view_read_blocks(struct snap_store *s, struct view_ref ref, uint64_t lba, uint64_t blocks,
                     void *buf);
void read_done(struct snap_store *s); /* frees what is kept ready */

/* ---- disks (volume.c) ---- */

int disk_open(struct snap_store *s, struct view_ref ref, bool read_only, struct vd_disk **ret);
void volume_notify(struct volume *v, enum vd_disk_event event);
/* New I/O on the volume waits from drain to resume; what was in flight has ended. VD_YIELDS */
void volume_drain(struct volume *v);
void volume_resume(struct volume *v);
/* Zeroes what the last block of the volume holds beyond its size. VD_YIELDS */
int volume_clear_tail(struct snap_store *s, struct volume *v);
int volume_resize(struct snap_store *s, struct volume *v, uint64_t size, bool shrink,
                  struct vd_error *err); /* with s->control held */

/* ---- transactions: entries that become one operation (txn.c) ---- */

struct txn {
    struct snap_store *s;
    struct vd_entry *entry;
    unsigned count, room;
    void **value;
    uint64_t next_id, next_branch;
    int err; /* sticky; txn_commit returns it */
};
void txn_init(struct txn *t, struct snap_store *s);
void txn_put(struct txn *t, uint64_t kind, uint64_t id, uint64_t sub, const void *val,
             uint16_t len);
void txn_del(struct txn *t, uint64_t kind, uint64_t id, uint64_t sub);
void txn_zero(struct txn *t, uint64_t branch, uint64_t lba, uint64_t blocks);
void txn_epoch(struct txn *t); /* the current epoch + 1 */
uint64_t txn_id(struct txn *t);
/* A new branch that starts at (parent, origin), or from nothing: its id. */
uint64_t txn_branch(struct txn *t, uint64_t parent, uint64_t origin, uint64_t limit);
void txn_volume(struct txn *t, uint64_t id, const struct volume_rec *rec);
void txn_snapshot(struct txn *t, uint64_t id, const struct snapshot_rec *rec);
/* Logs all of it, durable on return; frees the transaction in any case. VD_YIELDS */
int txn_commit(struct txn *t, unsigned flags, struct vd_error *err);
void txn_drop(struct txn *t);

/* ---- control operations (control.c, snapshots.c, properties.c, diff.c, info.c) ---- */

struct volume *find_volume(struct snap_store *s, const char *name, struct vd_error *err);
struct snapshot *find_snapshot(struct snap_store *s, struct vd_target t, struct vd_error *err);
int find_view(struct snap_store *s, struct vd_target t, struct view_ref *ret, struct vd_error *err);
int writable(struct snap_store *s, struct vd_error *err);

int op_volume_create(struct vd_store *st, const char *name, uint64_t size, struct vd_error *err);
int op_volume_delete(struct vd_store *st, const char *name, bool recursive, struct vd_error *err);
int op_volume_rename(struct vd_store *st, const char *name, const char *to, struct vd_error *err);
int op_volume_resize(struct vd_store *st, const char *name, uint64_t size, bool shrink,
                     struct vd_error *err);
int op_prop_set(struct vd_store *st, const char *volume, const char *prop, const char *value,
                struct vd_error *err);
int op_props(struct vd_store *st, const char *volume, vd_prop_fn *fn, void *arg,
             struct vd_error *err);
int op_snapshot_create(struct vd_store *st, const struct vd_target *t, int n, struct vd_error *err);
int op_snapshot_delete(struct vd_store *st, const struct vd_target *t, int n, struct vd_error *err);
int op_snapshot_rename(struct vd_store *st, struct vd_target t, const char *to,
                       struct vd_error *err);
int op_snapshot_hold(struct vd_store *st, struct vd_target t, const char *tag, bool release,
                     struct vd_error *err);
int op_rollback(struct vd_store *st, struct vd_target t, bool discard, bool force, char *ret_kept,
                struct vd_error *err);
int op_clone(struct vd_store *st, struct vd_target t, const char *name, struct vd_error *err);
int op_diff(struct vd_store *st, struct vd_target from, struct vd_target to, uint64_t off,
            uint64_t len, vd_diff_fn *fn, void *arg, struct vd_error *err);
int op_volumes(struct vd_store *st, vd_volume_fn *fn, void *arg);
int op_volume(struct vd_store *st, const char *name, struct vd_volume_info *ret,
              struct vd_error *err);
int op_snapshots(struct vd_store *st, const char *volume, vd_snapshot_fn *fn, void *arg);

/* ---- the pool's questions (merge.c, owner.c) ---- */

int merge_freeze(void *c);
int merge_run(void *c, struct pool_merge *m);
void merge_publish(void *c);
void merge_state_free(struct merge_state *ms);
bool merge_backlog(struct snap_store *s);
int owner_find(void *c, const struct pool_owner_query *q, struct vd_run *ret, int max,
               uint64_t *branch, uint32_t *gone);

#endif
