/* SPDX-License-Identifier: MIT */
/*
 * The catalogue in memory: branches, volumes, snapshots, and what the trees know of them.
 *
 * What the user asked for (volumes, snapshots, new branches) changes only in catalog_apply, live and
 * at replay alike. How far the trees have come (recorded epochs, cursors, folds) changes only at a
 * checkpoint's freeze and publish. Whether an epoch is retained or a branch is needed at all is never
 * stored: it follows from who points at it.
 */
#ifndef VD_SNAPSHOT_STATE_PRIV_H
#define VD_SNAPSHOT_STATE_PRIV_H

#include "core/base/list.h"
#include "core/base/uuid.h"
#include "core/io/fiber.h"
#include "snapshot/catalog.h"
#include "snapshot/table_priv.h"

struct volume;

/* Reads of the live volume: above every epoch, below VD_EPOCH_MAX. */
#define EPOCH_LIVE (UINT64_MAX - 1)

/* An epoch of a branch that is retained, or that the trees still know as such. Sorted arrays. */
struct retained {
    uint64_t epoch;
    uint64_t lo, hi, cursor; /* while purging: see od_catalog_retained */
    unsigned names;          /* snapshots on it */
    bool kept;               /* set at freeze: names, or a needed child starts here */
    bool recorded;           /* USAGE is reckoned with it */
    bool purging;
    bool head;
};

struct branch {
    struct hlink link;
    struct vd_list all; /* catalog.branches, ascending by id */
    uint64_t id;
    struct branch *parent; /* NULL = none */
    uint64_t origin, limit;
    struct vd_list children, sibling;
    struct vd_list snapshots;
    struct volume *tip; /* the volume that writes here */
    struct retained *ret;
    unsigned nret, ret_room;

    struct branch *into;  /* this branch is being folded into that child */
    struct alias *alias;  /* ready for when that is done */
    bool absorbing;       /* and this one absorbs its parent */
    bool fold_known;      /* the trees know that it does */
    bool needed;          /* set at freeze */
    uint64_t fold_cursor; /* on the child */
    enum catalog_tip tip_state;
    uint64_t tip_floor, tip_cursor;
    uint64_t sweep_cursor;
};

struct alias {
    struct hlink link;
    struct vd_list all;
    uint64_t id, to;
};

struct property {
    struct vd_list link;
    uint64_t n;
    char *name, *value;
};

struct volume_rec {
    struct vd_uuid uuid;
    uint64_t branch, size, created_s;
    uint32_t flags;
    char name[VD_NAME_MAX + 1];
    char origin_volume[VD_NAME_MAX + 1], origin_snapshot[VD_NAME_MAX + 1];
};
struct volume {
    struct hlink by_id, by_name;
    struct vd_list all;
    uint64_t id;
    struct volume_rec rec;
    struct branch *branch;
    struct vd_list snapshots; /* oldest first */
    unsigned nsnapshots;
    struct vd_list properties;
    uint64_t next_property;

    /* Open handles (volume.c). */
    unsigned opens, opens_rw;
    struct vd_list disks;
    bool switching; /* new I/O waits, what is in flight drains */
    unsigned in_flight;
    struct vd_waitq turn;
    struct vd_list holds; /* of blocks, in order of arrival */
    unsigned rmw;         /* how many of them are read-modify-write */
    struct vd_waitq released;
};

struct hold_tag {
    struct vd_list link;
    uint64_t n;
    char *tag;
};

struct snapshot_rec {
    struct vd_uuid uuid;
    uint64_t volume, branch, epoch, size, created_s;
    uint32_t flags;
    char name[VD_NAME_MAX + 1];
};
struct snapshot {
    struct hlink by_id, by_name;
    struct vd_list in_volume, in_branch;
    uint64_t id;
    struct snapshot_rec rec;
    struct volume *volume;
    struct branch *branch;
    struct vd_list holds;
    unsigned nholds;
    uint64_t next_hold;
    unsigned opens;
    struct vd_list disks;
};

struct catalog {
    struct htab branch_ids, alias_ids, volume_ids, volume_names, snapshot_ids, snapshot_names;
    struct vd_list branches, aliases, volumes; /* ascending by id */
    unsigned nvolumes, nsnapshots, nbranches, naliases;
    uint64_t next_id, next_branch;
};

void catalog_init(struct catalog *c);
void catalog_done(struct catalog *c);
/* Puts (or, val NULL, deletes) one key, from the tree at load or from the log. -EUCLEAN for what makes
 * no sense; -ENOMEM. Does not suspend. */
int catalog_apply(struct catalog *c, const uint64_t key[3], const void *val, uint16_t len);
/* After load: what no single key can tell. -EUCLEAN. */
int catalog_verify(const struct catalog *c);

struct branch *catalog_branch(const struct catalog *c, uint64_t id); /* no aliases; NULL */
/* The branch that holds now what was written under `id`. NULL: gone. */
struct branch *catalog_resolve(const struct catalog *c, uint64_t id);
struct volume *catalog_volume(const struct catalog *c, const char *name);
struct volume *catalog_volume_id(const struct catalog *c, uint64_t id);
struct snapshot *catalog_snapshot(const struct catalog *c, const struct volume *v, const char *name);

/* Is anything of the branch wanted: a volume, a snapshot, a needed child? */
bool branch_needed(const struct branch *b);
/* Needed branches that start at `epoch` of b. */
unsigned branch_clones(const struct branch *b, uint64_t epoch);
/* The entry of an epoch, or NULL. branch_retain makes one. */
struct retained *branch_retained(const struct branch *b, uint64_t epoch);
struct retained *branch_retain(struct branch *b, uint64_t epoch);
/* The first epoch >= `epoch` that has an entry, or EPOCH_LIVE. */
uint64_t branch_retained_from(const struct branch *b, uint64_t epoch);

/* Moves of merges. */
void snapshot_repoint(struct snapshot *s, struct branch *to); /* after branch_retain(to, epoch) */
void branch_set_parent(struct branch *b, struct branch *parent, uint64_t origin, uint64_t limit);
void branch_remove(struct catalog *c, struct branch *b); /* nothing refers to it any more */
int catalog_alias(struct catalog *c, uint64_t id, uint64_t to);
struct alias *branch_alias(struct catalog *c, struct branch *b); /* makes b->alias; NULL */
void alias_insert(struct catalog *c, struct alias *a, uint64_t to);
void alias_remove(struct catalog *c, struct alias *a);

/* Where blocks of `b` from `lba` on that it does not hold itself are looked for. NULL: they are zero.
 * *end: the answer holds for [lba, *end). */
struct branch *branch_below(const struct branch *b, uint64_t lba, uint64_t *epoch, uint64_t *end);

/* ---- values (catalog_codec.c) ---- */

#define CATALOG_VALUE_ROOM 512 /* enough for all but property values */
uint16_t volume_encode(const struct volume_rec *v, void *buf);
int volume_decode(const void *val, uint16_t len, struct volume_rec *ret);
uint16_t snapshot_encode(const struct snapshot_rec *s, void *buf);
int snapshot_decode(const void *val, uint16_t len, struct snapshot_rec *ret);

#endif
