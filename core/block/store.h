/* SPDX-License-Identifier: MIT */
/*
 * Waist 2, the other half: what may be asked of a store of volumes. snapshot/ implements it, doors,
 * server/ and backups use it. Control operations return when durable. Names are given as the user
 * typed them; a target is VOLUME or VOLUME@SNAPSHOT. All calls suspend unless said.
 *
 * Error ids used below: volume-not-found snapshot-not-found volume-exists snapshot-exists
 * name-invalid size-invalid volume-busy volume-has-snapshots snapshot-held no-space read-only
 * shrink-refused pool-failed.
 */
#ifndef VD_BLOCK_STORE_H
#define VD_BLOCK_STORE_H

#include "core/block/disk.h"

struct vd_store;

struct vd_target {
    const char *volume;
    const char *snapshot; /* NULL = the live volume */
};

struct vd_volume_info {
    char name[VD_NAME_MAX + 1];
    struct vd_uuid uuid;
    uint64_t size;
    uint64_t created_s;
    bool read_only;
    unsigned snapshots;
    unsigned opens; /* open handles, and of them writable ones */
    unsigned opens_rw;
    char origin_volume[VD_NAME_MAX + 1]; /* "" unless a clone or rolled back */
    char origin_snapshot[VD_NAME_MAX + 1];
    unsigned depth;      /* branches between it and its root: 0 = none */
    uint64_t referenced; /* bytes its view maps, ancestors included */
    uint64_t exclusive;  /* bytes that would be freed with it, snapshots kept */
};

struct vd_snapshot_info {
    char name[VD_NAME_MAX + 1];
    char volume[VD_NAME_MAX + 1];
    struct vd_uuid uuid;
    uint64_t size;
    uint64_t epoch;
    uint64_t created_s;
    uint64_t exclusive; /* bytes only this snapshot keeps */
    unsigned clones;
    unsigned holds;
    bool automatic; /* made by rollback */
};

struct vd_store_info {
    char name[VD_NAME_MAX + 1];
    struct vd_uuid uuid;
    uint64_t created_s;
    uint64_t capacity;  /* bytes the pool may take on its devices */
    uint64_t allocated; /* bytes it takes now */
    uint64_t live;      /* bytes of data that some version needs */
    uint64_t metadata;  /* bytes of live nodes, all copies */
    uint64_t log_bytes; /* since the last checkpoint */
    uint64_t reserved;
    unsigned volumes, snapshots, devices;
    unsigned format_major, format_minor;
    uint32_t chunk_size;
    bool read_only;
    char failed[200]; /* "" or why the pool went read-only */
    /* What it does; counts are since it was opened. */
    uint64_t segments, segments_free, segments_cleaned, checkpoints;
    bool cleaning;                       /* at this moment */
    uint64_t written, device_written;    /* bytes: by clients, to the devices */
    uint64_t cache_bytes;                /* memory for nodes of trees */
    uint64_t cache_hits, cache_misses;
};

/* Called for each; a non-zero return stops the listing and is returned. Must not suspend. */
typedef int vd_volume_fn(void *arg, const struct vd_volume_info *info);
typedef int vd_snapshot_fn(void *arg, const struct vd_snapshot_info *info);

int vd_store_info(struct vd_store *s, struct vd_store_info *ret);
int vd_store_volumes(struct vd_store *s, vd_volume_fn *fn, void *arg);
int vd_store_volume(struct vd_store *s, const char *name, struct vd_volume_info *ret,
                    struct vd_error *err);
/* Oldest first. volume NULL = of all. */
int vd_store_snapshots(struct vd_store *s, const char *volume, vd_snapshot_fn *fn, void *arg);

/* A live volume opens writable unless read_only is asked or set; snapshots are always read-only. */
int vd_store_open(struct vd_store *s, struct vd_target t, bool read_only, struct vd_disk **ret,
                  struct vd_error *err);

int vd_store_volume_create(struct vd_store *s, const char *name, uint64_t size,
                           struct vd_error *err);
/* -EBUSY while open; -ENOTEMPTY with snapshots unless recursive. */
int vd_store_volume_delete(struct vd_store *s, const char *name, bool recursive,
                           struct vd_error *err);
int vd_store_volume_rename(struct vd_store *s, const char *name, const char *to,
                           struct vd_error *err);
/* A smaller size needs shrink = true. Open handles see it at once. */
int vd_store_volume_resize(struct vd_store *s, const char *name, uint64_t size, bool shrink,
                           struct vd_error *err);
/* Properties: "read-only" (on, off), "comment", and "user.*" (free text up to 1 KiB). value NULL
 * unsets. get: value of `prop` into buf; list through fn. */
int vd_store_prop_set(struct vd_store *s, const char *volume, const char *prop, const char *value,
                      struct vd_error *err);
typedef int vd_prop_fn(void *arg, const char *prop, const char *value);
int vd_store_props(struct vd_store *s, const char *volume, vd_prop_fn *fn, void *arg,
                   struct vd_error *err);

/* One atomic operation over all n targets (all need a snapshot name). */
int vd_store_snapshot_create(struct vd_store *s, const struct vd_target *t, int n,
                             struct vd_error *err);
/* Deletes all n or none. Freed space follows in the background. */
int vd_store_snapshot_delete(struct vd_store *s, const struct vd_target *t, int n,
                             struct vd_error *err);
int vd_store_snapshot_rename(struct vd_store *s, struct vd_target t, const char *to,
                             struct vd_error *err);
/* A held snapshot cannot be deleted. Tags are names. */
int vd_store_snapshot_hold(struct vd_store *s, struct vd_target t, const char *tag, bool release,
                           struct vd_error *err);
/* The volume becomes what it was at t; the present state is kept as an automatic snapshot, whose
 * name goes to ret_kept (VD_NAME_MAX + 1 bytes), unless discard. Open handles: -EBUSY unless force;
 * then they see VD_DISK_REPLACED. */
int vd_store_rollback(struct vd_store *s, struct vd_target t, bool discard, bool force,
                      char *ret_kept, struct vd_error *err);
/* A new volume that starts as t; t without snapshot = the live volume as it is now. */
int vd_store_clone(struct vd_store *s, struct vd_target t, const char *name, struct vd_error *err);

/* What changed from view `from` to view `to` (any two of one store; from.volume NULL = from
 * nothing). Extents in order, coalesced; VD_EXTENT_ZERO where `to` reads as zeroes. Whole blocks,
 * nothing that did not change in content except rewrites with equal bytes. */
typedef int vd_diff_fn(void *arg, const struct vd_extent *extent); /* may suspend */
int vd_store_diff(struct vd_store *s, struct vd_target from, struct vd_target to, vd_diff_fn *fn,
                  void *arg, struct vd_error *err);
/* The same for what touches [off, off + len) only; extents may stick out by a part of a block. */
int vd_store_diff_part(struct vd_store *s, struct vd_target from, struct vd_target to, uint64_t off,
                       uint64_t len, vd_diff_fn *fn, void *arg, struct vd_error *err);

int vd_store_flush(struct vd_store *s);
/* Runs background work (purges, folds, cleaning that pays) until there is none, or *cancel. */
int vd_store_settle(struct vd_store *s, const bool *cancel);
/* Bytes of background work left, 0 = none. Does not suspend. */
uint64_t vd_store_backlog(struct vd_store *s);

/* Lets go of memory that is only there to be quick. Does not suspend. */
void vd_store_trim(struct vd_store *s);

/* For implementations. Same order and meaning. */
struct vd_store_ops {
    int (*info)(struct vd_store *, struct vd_store_info *);
    int (*volumes)(struct vd_store *, vd_volume_fn *, void *);
    int (*volume)(struct vd_store *, const char *, struct vd_volume_info *, struct vd_error *);
    int (*snapshots)(struct vd_store *, const char *, vd_snapshot_fn *, void *);
    int (*open)(struct vd_store *, struct vd_target, bool, struct vd_disk **, struct vd_error *);
    int (*volume_create)(struct vd_store *, const char *, uint64_t, struct vd_error *);
    int (*volume_delete)(struct vd_store *, const char *, bool, struct vd_error *);
    int (*volume_rename)(struct vd_store *, const char *, const char *, struct vd_error *);
    int (*volume_resize)(struct vd_store *, const char *, uint64_t, bool, struct vd_error *);
    int (*prop_set)(struct vd_store *, const char *, const char *, const char *, struct vd_error *);
    int (*props)(struct vd_store *, const char *, vd_prop_fn *, void *, struct vd_error *);
    int (*snapshot_create)(struct vd_store *, const struct vd_target *, int, struct vd_error *);
    int (*snapshot_delete)(struct vd_store *, const struct vd_target *, int, struct vd_error *);
    int (*snapshot_rename)(struct vd_store *, struct vd_target, const char *, struct vd_error *);
    int (*snapshot_hold)(struct vd_store *, struct vd_target, const char *, bool,
                         struct vd_error *);
    int (*rollback)(struct vd_store *, struct vd_target, bool, bool, char *, struct vd_error *);
    int (*clone)(struct vd_store *, struct vd_target, const char *, struct vd_error *);
    int (*diff)(struct vd_store *, struct vd_target, struct vd_target, uint64_t, uint64_t,
                vd_diff_fn *, void *, struct vd_error *);
    int (*flush)(struct vd_store *);
    int (*settle)(struct vd_store *, const bool *);
    uint64_t (*backlog)(struct vd_store *);
    void (*trim)(struct vd_store *); /* NULL = there is nothing to let go of */
};
struct vd_store {
    const struct vd_store_ops *ops;
};

#endif
