/* SPDX-License-Identifier: MIT */
/*
 * A pool in memory, for testing snapshot/ without log and devices. It implements pool/pool.h: commits
 * apply at once (after giving other fibers a turn), checkpoints freeze, merge and publish with the real
 * overlay and the real trees over nodes in memory. The medium outlives the pool: opening it again
 * starts from the last published roots and applies what was committed since, as after a crash.
 */
#ifndef TESTS_SNAPSHOT_FAKEPOOL_H
#define TESTS_SNAPSHOT_FAKEPOOL_H

#include "pool/pool.h"
#include "snapshot/snapshot.h"

struct medium;

struct medium *medium_new(void);
void medium_free(struct medium *m);
/* What vd_store_attach wants. */
struct vd_dev *medium_dev(struct medium *m);
/* Merges fail at the n-th node written from now (0 = never), `times` times in a row. */
void medium_fail_nodes(struct medium *m, unsigned n, unsigned times);
/* A failed merge is not tried again: the checkpoint fails, for a crash between freeze and publish. */
void medium_give_up(struct medium *m, bool give_up);
/* At most this many leaves of background work per merge. */
void medium_budget(struct medium *m, unsigned budget);
/* Every commit fails with this from now on (0 = none). */
void medium_fail_commits(struct medium *m, int err);

/* Damage for check to find: a live count that is wrong by so much; one stored byte changed. */
void medium_damage_live(struct medium *m, int by);
void medium_damage_data(struct medium *m);

/* A checkpoint; failures that were asked for are retried with the same frozen state. */
int fake_checkpoint(struct vd_pool *p);
/* Moves what lives in a random data segment elsewhere, as the cleaner does. */
int fake_clean(struct vd_pool *p, struct vd_rng *rng);
/* Blocks of data that the published trees name. */
uint64_t fake_live(const struct vd_pool *p);
/* Entries in a published tree. */
uint64_t fake_entries(const struct vd_pool *p, enum tree_id t);
unsigned fake_checkpoints(const struct vd_pool *p);

#endif
