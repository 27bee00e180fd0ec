/* SPDX-License-Identifier: MIT */
/*
 * What a store of volumes may look like, reckoned without any of the product's code.
 *
 * A sector (512 bytes) holds a version: 0, or the number of the change that wrote it. Bytes follow
 * from (version, sector), so what is read says itself what it is. A state is the set of volumes and
 * snapshots by name, each with a version per sector. A history is a state that is certain and the
 * changes since, each an interval: from the moment it was asked for to the moment it was
 * acknowledged, or open for ever if it failed or was cut.
 *
 * After a crash the state found must be what some prefix of the history makes: a set of changes
 * such that whatever was acknowledged before one of them was asked for is in it too, and that holds
 * everything up to the floor. Changes whose intervals overlap may have happened in either order.
 *
 * Pure: no I/O, nothing of vdisk but core/base. Aborts without memory.
 */
#ifndef CRASH_ORACLE_H
#define CRASH_ORACLE_H

#include "core/base/base.h"
#include "tests/crash/memory.h"

#define ORACLE_SECTOR 512u
#define ORACLE_UNREADABLE UINT32_MAX    /* found: reading it was an error */
#define ORACLE_GARBAGE (UINT32_MAX - 1) /* found: bytes that nobody ever wrote there */

struct oracle;

/* ---- bytes ---- */

void oracle_fill(uint32_t version, uint64_t sector, void *buf, uint64_t sectors);
/* The version that these 512 bytes say, or ORACLE_GARBAGE. */
uint32_t oracle_parse(uint64_t sector, const void *buf);

/* ---- states ---- */

struct oracle_content;
struct oracle_state;

struct oracle_state *oracle_state_new(void);
void oracle_state_free(struct oracle_state *s); /* takes NULL */
/* snapshot NULL: the live volume. Everything reads as zeroes at first. Names are kept. */
struct oracle_content *oracle_state_add(struct oracle *o, struct oracle_state *s,
                                        const char *volume, const char *snapshot, uint64_t sectors,
                                        bool automatic);
void oracle_content_set(struct oracle_content *c, uint64_t sector, uint32_t version);
/* The first sector from `at` on in which the two differ; `end` if none below does. */
uint64_t oracle_content_differs(const struct oracle_content *a, const struct oracle_content *b,
                                uint64_t at, uint64_t end);

/* ---- histories ---- */

enum oracle_kind {
    ORACLE_WRITE,
    ORACLE_ZERO, /* and discard */
    ORACLE_CREATE,
    ORACLE_DELETE, /* with its snapshots */
    ORACLE_RENAME,
    ORACLE_RESIZE,
    ORACLE_SNAPSHOT,
    ORACLE_SNAPSHOT_DELETE,
    ORACLE_SNAPSHOT_RENAME,
    ORACLE_ROLLBACK,
    ORACLE_CLONE
};
#define ORACLE_TARGETS 4
#define ORACLE_NAME 64
struct oracle_change {
    enum oracle_kind kind;
    struct {
        char volume[ORACLE_NAME], snapshot[ORACLE_NAME]; /* "" = live */
    } t[ORACLE_TARGETS];
    int targets;
    char to[ORACLE_NAME];     /* new name; of a rollback: the name under which the tip is kept */
    uint64_t sector, sectors; /* WRITE, ZERO; CREATE, RESIZE: sectors = size */
    bool discard;             /* ROLLBACK: the tip is not kept */
    bool maybe;               /* ZERO: may be acknowledged without effect (a trim in a full pool) */
};
struct oracle_op;

struct oracle *oracle_new(void);
void oracle_free(struct oracle *o); /* takes NULL */
/* The same numbers given out, and `s` (copied) as the state that is certain; no changes. */
struct oracle *oracle_fork(const struct oracle *o, const struct oracle_state *s);

/* A change is asked for. */
struct oracle_op *oracle_begin(struct oracle *o, const struct oracle_change *c);
uint32_t oracle_version(const struct oracle_op *op);
/* What a write leaves there, its version, or 0, where zeroes were asked for; false for others. */
bool oracle_leaves(const struct oracle_op *op, uint64_t *sector, uint64_t *sectors,
                   uint32_t *version);
/* It returned: acknowledged; or refused, so nothing happened; or it stays open. `durable`: it and
 * all before it survive a loss of power. */
enum oracle_end { ORACLE_DONE, ORACLE_REFUSED, ORACLE_OPEN };
void oracle_end(struct oracle *o, struct oracle_op *op, enum oracle_end how, bool durable);
/* For a rollback that was acknowledged: before oracle_end. */
void oracle_kept(struct oracle *o, struct oracle_op *op, const char *name);
/* Moments. A flush asked for at `when` makes durable all that was acknowledged before. */
uint64_t oracle_now(struct oracle *o);
void oracle_flushed(struct oracle *o, uint64_t when);

/* ---- judging ---- */

enum oracle_floor {
    ORACLE_ACKNOWLEDGED, /* all that was acknowledged survives */
    ORACLE_DURABLE,      /* all that was flushed survives */
    ORACLE_NOTHING,      /* any prefix will do */
};
struct oracle_verdict {
    unsigned lost;       /* acknowledged and not there */
    unsigned kept;       /* open and there */
    unsigned unreadable; /* sectors */
};
/* Is `found` allowed? 0; or -EUCLEAN, and `why` tells. Unreadable sectors are allowed, and counted.
 */
int oracle_judge(const struct oracle *o, const struct oracle_state *found, enum oracle_floor floor,
                 struct oracle_verdict *ret, char *why, size_t len);

/* A read of a live volume or snapshot: begin before it is submitted, end with what it got. 0, or
 * -EUCLEAN and a line in why. */
struct oracle_read;
struct oracle_read *oracle_read_begin(struct oracle *o, const char *volume, const char *snapshot,
                                      uint64_t sector, uint64_t sectors);
int oracle_read_end(struct oracle *o, struct oracle_read *r, const void *buf, char *why,
                    size_t len);
void oracle_read_drop(struct oracle *o, struct oracle_read *r);

/* The state if every change that is still open did not happen: what tests plan with. */
const struct oracle_state *oracle_live(const struct oracle *o);
/* Sectors of a volume or snapshot in it; false if there is none. */
bool oracle_has(const struct oracle *o, const struct oracle_state *s, const char *volume,
                const char *snapshot, uint64_t *ret_sectors);
/* Calls fn for each. */
typedef void oracle_entry_fn(void *arg, const char *volume, const char *snapshot, uint64_t sectors);
void oracle_each(const struct oracle *o, const struct oracle_state *s, oracle_entry_fn *fn,
                 void *arg);
/* Number of changes begun since the certain state. */
unsigned oracle_changes(const struct oracle *o);
/* What the sector holds in the live state, if that is certain: ORACLE_GARBAGE if not. */
uint32_t oracle_sector(const struct oracle *o, const char *volume, const char *snapshot,
                       uint64_t sector);

#endif
