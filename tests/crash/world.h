/* SPDX-License-Identifier: MIT */
/*
 * A simulated disk, the store on it and the oracle that watches: every change goes through here, so
 * that the oracle knows when it was asked for and how it ended. What must not be is kept in `why`
 * (world_failed), and everything after that is skipped.
 *
 * All calls but new, free, fail suspend and belong on a fiber of the SIM loop.
 */
#ifndef CRASH_WORLD_H
#define CRASH_WORLD_H

#include "core/io/simdev.h"
#include "snapshot/snapshot.h"
#include "tests/crash/oracle.h"

#define WORLD_HANDLES 24
#define WORLD_WHY 6000

struct world_handle {
    char volume[ORACLE_NAME], snapshot[ORACLE_NAME];
    struct vd_disk *disk;
    bool writable;
};

struct world {
    uint64_t seed;
    struct vd_rng rng;
    struct vd_simdisk *disk;
    struct vd_store *store; /* NULL while closed */
    struct oracle *oracle;
    bool oracle_borrowed;        /* belongs to the world that this one was cloned from */
    struct world_handle *handle; /* WORLD_HANDLES of them */

    bool faulty;        /* a fault is armed: errors are to be expected, wrong bytes are not */
    bool may_fill;      /* ENOSPC is to be expected */
    bool stopped;       /* a change failed for good: no more of them */
    int error;          /* the first one */
    bool refused_space; /* a change was refused with ENOSPC */
    /* What was acknowledged and not flushed may be lost where several writes failed, and the pool
     * became read-only or did not close well: it has said so. */
    bool gave_up;
    /* And where a write fails after it was acknowledged, and the process dies before it has been
     * written elsewhere: was there any at the end, and how many had failed at the beginning? */
    bool told;
    uint64_t handed_failed;

    /* of the last world_reopen */
    struct oracle_verdict verdict;
    struct vd_check_report report;

    char *why; /* WORLD_WHY bytes; "" = all is well */
};

struct world_options {
    uint64_t disk_max, capacity;
    uint32_t chunk_size;
};
void world_init(struct world *w, uint64_t seed);
/* Frees disk and oracle; the store must be closed. */
void world_done(struct world *w);
/* A closed world with a copy of the disk (after it was abandoned or cut), and the same oracle. */
void world_clone(const struct world *from, uint64_t seed, struct world *to);
void world_fail(struct world *w, const char *fmt, ...) VD_PRINTF(2, 3);
static inline bool world_failed(const struct world *w)
{
    return w->why[0] != 0;
}

/* Formats a new disk. */
void world_format(struct world *w, const struct world_options *opt);
/* 0 or what attach said; then the store is closed. Fails the world unless faulty or cut. */
int world_attach(struct world *w, unsigned flags);
void world_detach(struct world *w);
/* As a crash leaves it: whatever is open is dropped. Takes a closed world. */
void world_abandon(struct world *w);
/* abandon, then what the crash makes of the disk. */
void world_crash(struct world *w, enum vd_crash kind);

/* ---- changes ---- */

struct vd_disk *world_disk(struct world *w, const char *volume, const char *snapshot);
void world_close_handles(struct world *w, const char *volume); /* NULL = all */

/* Return what the store returned. `flags` as vd_disk_write's. Offsets and lengths in sectors. */
int world_write(struct world *w, const char *volume, uint64_t sector, uint64_t sectors,
                unsigned flags);
int world_zero(struct world *w, const char *volume, uint64_t sector, uint64_t sectors,
               unsigned flags);
int world_discard(struct world *w, const char *volume, uint64_t sector, uint64_t sectors);
int world_flush(struct world *w, const char *volume);
/* Reads and judges. */
int world_read(struct world *w, const char *volume, const char *snapshot, uint64_t sector,
               uint64_t sectors);
int world_create(struct world *w, const char *volume, uint64_t sectors);
int world_delete(struct world *w, const char *volume);
int world_rename(struct world *w, const char *volume, const char *to);
int world_resize(struct world *w, const char *volume, uint64_t sectors);
/* "a@s1 b@s1" */
int world_snapshot(struct world *w, const char *targets);
int world_snapshot_delete(struct world *w, const char *targets);
int world_snapshot_rename(struct world *w, const char *target, const char *to);
int world_rollback(struct world *w, const char *target, bool discard);
int world_clone_volume(struct world *w, const char *target, const char *to);
int world_checkpoint(struct world *w);
/* Moves the live blocks of what the cleaner finds worth it, whether space is short or not. */
int world_clean(struct world *w);
int world_settle(struct world *w);
/* Until the idle log has been sealed. */
void world_idle(struct world *w);

/* ---- judging ---- */

/* Opens the pool again, checks it, reads everything and has the oracle judge; what was found is
 * then what is certain. 0: fine, the store is open. -EUCLEAN etc.: refused by name, which only a
 * faulty world may; or the world has failed. */
int world_reopen(struct world *w, unsigned flags, enum oracle_floor floor);
/* The same without opening, on a store that is open. */
int world_judge(struct world *w, enum oracle_floor floor);

/* Runs fn on a fiber of a new SIM loop; a run that takes more than `limit_s` virtual seconds, or
 * that nothing can ever wake, fails the world. */
void world_run(struct world *w, uint64_t seed, void (*fn)(struct world *w, void *arg), void *arg);

#endif
