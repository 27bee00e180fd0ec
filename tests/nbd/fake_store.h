/* SPDX-License-Identifier: MIT */
/*
 * A store of memory disks, with what tests of a door need: snapshots that are copies, requests that
 * finish out of order, fail or wait, and a record of what reached the disk.
 */
#ifndef VD_TESTS_NBD_FAKE_STORE_H
#define VD_TESTS_NBD_FAKE_STORE_H

#include "core/block/store.h"

#define FAKE_VOLUMES 8

struct fake_volume {
    struct fake_store *store;
    char name[VD_NAME_MAX + 1];
    char snapshot[VD_NAME_MAX + 1]; /* "" for a live volume */
    struct vd_disk *memory;
    bool read_only; /* however it is opened */
    unsigned opens;
    struct vd_list handles;
    /* What reached it. */
    unsigned reads, writes, fua_writes, zeroes, kept_zeroes, discards, flushes, fua_others;
};

struct fake_store {
    struct vd_store store;
    struct fake_volume volumes[FAKE_VOLUMES]; /* and snapshots */
    unsigned n_volumes;
    /* Requests give way to others a random number of times first. */
    bool shuffle;
    /* Requests wait here while it is set. */
    bool paused;
    unsigned waiting;
    struct vd_waitq pause_q;
    /* Requests that touch this range fail so; fail_len 0 = none. */
    int fail;
    uint64_t fail_off, fail_len;
    int fail_flush;
};

void fake_store_init(struct fake_store *fs);
void fake_store_done(struct fake_store *fs);
struct fake_volume *fake_volume_add(struct fake_store *fs, const char *name, uint64_t size);
/* A read-only copy of a volume as it is now. On a fiber. */
struct fake_volume *fake_snapshot_add(struct fake_store *fs, struct fake_volume *v,
                                      const char *name);
void fake_resume(struct fake_store *fs);
int fake_resize(struct fake_volume *v, uint64_t size);
void fake_notify(struct fake_volume *v, enum vd_disk_event event);

#endif
