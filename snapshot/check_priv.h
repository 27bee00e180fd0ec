/* SPDX-License-Identifier: MIT */
/* A check in progress: check.c counts, check_data.c looks at marks and stored bytes. */
#ifndef VD_SNAPSHOT_CHECK_PRIV_H
#define VD_SNAPSHOT_CHECK_PRIV_H

#include "snapshot/store_priv.h"

struct cell_run {
    uint64_t lba, end, born, died;
};

struct check {
    struct snap_store *s;
    bool data;
    vd_check_fn *fn;
    void *arg;
    const bool *cancel;
    struct vd_check_report *report;

    uint64_t branch_id; /* whose rules are at hand: */
    struct branch *branch;
    uint64_t *ru;
    unsigned nru;

    uint64_t *live; /* blocks counted, by segment */
    size_t segs;
    struct map3 usage; /* counted minus written */
    struct map3 marks; /* CHANGED: branch, retained epoch that ends the interval, group -> bits */
    struct cell_run *cell;
    size_t ncell, cell_room;
    uint64_t cell_branch;
    struct data_batch *batch; /* check_data.c's */

    struct tree_cursor cursor;
    struct tree_entry entry;
};

void check_finding(struct check *k, const char *fmt, ...) VD_PRINTF(2, 3);
int check_run(struct check *k, uint64_t branch, const struct vd_run *run);
int check_marks_load(struct check *k);                       /* VD_YIELDS */
int check_marked(struct check *k, const struct vd_run *run); /* k->branch is the run's */
/* Looks at the blocks of a tree's run, now or when there are enough of them. VD_YIELDS */
int check_data(struct check *k, const struct vd_run *run);
int check_data_flush(struct check *k); /* those that were put off. VD_YIELDS */
void check_data_done(struct check *k);
int check_overlays(struct check *k);                         /* VD_YIELDS */

#endif
