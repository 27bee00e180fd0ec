/* SPDX-License-Identifier: MIT */
/* Random operations on a store and on its model, alike; over the pool in memory. */
#ifndef TESTS_SNAPSHOT_DRIVE_H
#define TESTS_SNAPSHOT_DRIVE_H

#include "tests/snapshot/fakepool.h"
#include "tests/snapshot/model.h"

struct drive {
    struct medium *medium;
    struct vd_store *store;
    struct model model;
    struct vd_rng rng;
    uint64_t seed;
    unsigned step, names;
    bool checkpointing;
    struct vd_waitq checkpointed;
    int checkpoint_res;
    bool trace, paranoid;
    char why[512];
};

/* A new medium with a store on it. */
int drive_open(struct drive *d, uint64_t seed);
/* One random operation. 0, or d->why says what is wrong. */
int drive_step(struct drive *d);
/* Everything is compared, checked, deleted; nothing may be left. Closes. */
int drive_end(struct drive *d);
void drive_close(struct drive *d);
struct vd_pool *drive_pool(struct drive *d);
/* vd_store_check finds nothing. */
int drive_check(struct drive *d);

#endif
