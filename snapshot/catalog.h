/* SPDX-License-Identifier: MIT */
/*
 * The catalogue as it lies on disk: what the keys and values of the CATALOG tree, and of CATALOG
 * entries in the log, mean. A key is {kind, id, sub}; unused words are 0. Values are the structs
 * below, little-endian, followed by text without a terminating NUL where said.
 *
 * Who writes what: control operations log META, BRANCH (once, when it is made), VOLUME, SNAPSHOT,
 * PROPERTY and HOLD. RETAINED and ALIAS, the progress fields of BRANCH, the removal of branches and
 * the repointing of SNAPSHOT at the start of a fold are written by checkpoints' merges only, straight
 * into the tree: they say how far the trees have come, not what the user asked for.
 *
 * Kinds are numbered so that in key order everything comes after what it refers to (only aliases come
 * before). A branch's parent has a lower id than the branch, always. A branch id in a BRANCH, VOLUME or
 * SNAPSHOT value may be one that has been folded: then its ALIAS says where it went; and where it is
 * being folded (its child is ABSORBING), the child's id is meant.
 */
#ifndef VD_SNAPSHOT_CATALOG_H
#define VD_SNAPSHOT_CATALOG_H

#include "core/base/bytes.h"

enum catalog_kind {
    CATALOG_META = 1,     /* 0, 0 */
    CATALOG_ALIAS = 2,    /* id of a branch that was folded, 0: the branch it went into */
    CATALOG_BRANCH = 3,   /* branch id, 0 */
    CATALOG_VOLUME = 4,   /* volume id, 0 */
    CATALOG_SNAPSHOT = 5, /* snapshot id, 0: ids ascend with age */
    CATALOG_PROPERTY = 6, /* volume id, 2n: the name of property n; 2n + 1: its value. Text */
    CATALOG_HOLD = 7,     /* snapshot id, n: the tag of hold n. Text */
    CATALOG_RETAINED = 8  /* branch id, epoch: USAGE is reckoned with this retained epoch */
};

/* Ids are never used twice. Branch ids are below 2^32. */
struct od_catalog_meta {
    le64_t next_id;     /* 0: of volumes and snapshots */
    le64_t next_branch; /* 8 */
}; /* 16 */

/* A writable line. Its view at epoch E, for a block: the newest version with born <= E in the branch,
 * else, for blocks below `limit`, the view of `parent` at min(E, origin), else zeroes.
 * With ABSORBING, the parent is being folded into this branch: for blocks below fold_cursor all of
 * the parent's versions are here already, and the parent's parent is asked in its place, at the
 * parent's origin, for blocks below both limits. */
struct od_catalog_branch {
    le64_t parent;     /*  0: 0 = none */
    le64_t origin;     /*  8: epoch of the parent that this branch starts from */
    le64_t limit;      /* 16: blocks; the origin's size, rounded up */
    le64_t fold_cursor; /* 24: block, multiple of 32; 0 unless ABSORBING */
    le64_t tip_floor;  /* 32: tip_state PURGING: versions of HEAD born later than this go */
    le64_t tip_cursor; /* 40: and those in 1 MiB chunks below this one are gone */
    le64_t sweep_cursor; /* 48: of a branch that nothing needs: blocks below it are gone */
    uint8_t tip_state; /* 56: enum catalog_tip */
    uint8_t flags;     /* 57: CATALOG_BRANCH_* */
    uint8_t pad[6];    /* 58 */
}; /* 64 */
#define CATALOG_BRANCH_ABSORBING 1
/* How USAGE reckons with the end of the branch. */
enum catalog_tip {
    CATALOG_TIP_LIVE = 0,    /* a volume writes here */
    CATALOG_TIP_PURGING = 1, /* no more; what only it needed is being dropped */
    CATALOG_TIP_DEAD = 2
};

struct od_catalog_alias {
    le64_t branch; /* 0: may be an alias in turn */
}; /* 8 */

struct od_catalog_volume {
    uint8_t uuid[16];  /*  0 */
    le64_t branch;     /* 16: whose end is the live volume */
    le64_t size;       /* 24: bytes, multiple of 512 */
    le64_t created_s;  /* 32 */
    le32_t flags;      /* 40: CATALOG_VOLUME_* */
    uint8_t name_len;  /* 44: then the texts, one after another: */
    uint8_t origin_volume_len;   /* 45: of a clone, or after a roll back: names at that time */
    uint8_t origin_snapshot_len; /* 46 */
    uint8_t pad;       /* 47 */
}; /* 48 + texts */
#define CATALOG_VOLUME_READ_ONLY 1

struct od_catalog_snapshot {
    uint8_t uuid[16];  /*  0 */
    le64_t volume;     /* 16: id of the volume whose snapshot it is */
    le64_t branch;     /* 24: the view: this branch ... */
    le64_t epoch;      /* 32: ... at this epoch */
    le64_t size;       /* 40: bytes */
    le64_t created_s;  /* 48 */
    le32_t flags;      /* 56: CATALOG_SNAPSHOT_* */
    uint8_t name_len;  /* 60 */
    uint8_t pad[3];    /* 61: then the name */
}; /* 64 + name */
#define CATALOG_SNAPSHOT_AUTOMATIC 1 /* made by a roll back */

/* An epoch of a branch that the trees know as retained. Once no snapshot and no branch starts from it
 * any more, the versions that only it needed are dropped: they lie in chunks that CHANGED marks for
 * an epoch in (lo, hi]. The record goes when that is done. */
struct od_catalog_retained {
    le64_t lo;      /*  0: while PURGING */
    le64_t hi;      /*  8 */
    le64_t cursor;  /* 16: 1 MiB chunks below this one are done */
    uint8_t flags;  /* 24: CATALOG_RETAINED_* */
    uint8_t pad[7]; /* 25 */
}; /* 32 */
#define CATALOG_RETAINED_PURGING 1
#define CATALOG_RETAINED_HEAD 2 /* HEAD is to be looked at too */

static_assert(sizeof(struct od_catalog_meta) == 16, "on disk");
static_assert(sizeof(struct od_catalog_branch) == 64, "on disk");
static_assert(offsetof(struct od_catalog_branch, tip_state) == 56, "on disk");
static_assert(sizeof(struct od_catalog_volume) == 48, "on disk");
static_assert(sizeof(struct od_catalog_snapshot) == 64, "on disk");
static_assert(sizeof(struct od_catalog_retained) == 32, "on disk");

#endif
