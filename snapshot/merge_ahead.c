/* SPDX-License-Identifier: MIT */
/*
 * Reading ahead of a merge. A merge asks for one leaf of HEAD after another, and where the tree is
 * larger than the cache, it would wait for each: with a terabyte written at random, for a quarter
 * of a million of them. So some fibers go through the frozen overlay before it, not far, and load
 * the leaves that it will ask for.
 *
 * Nothing depends on them: what they do not load, or what is gone from the cache by then, the merge
 * loads itself, and errors are for it to find. They end with the merge's pass through the maps.
 */
#include "snapshot/merge_priv.h"

#include <stdlib.h>

#define FIBERS 6u
#define LEAD 192u /* spans: at most as many leaves */
#define FOLLOW 32u

struct merge_ahead {
    struct merge *mg;
    struct overlay_pos *pos;
    uint64_t spans;
    bool over;
    struct vd_waitq go_on;
    struct vd_group group;
};

/* The leaf where the span begins. */
static void ahead_load(struct merge_ahead *a, const struct overlay_span *span)
{
    struct forest *f = a->mg->m->forest;
    struct forest_need need;
    struct vd_run run;
    while (!a->over && tree_head_find(f, span->branch, span->lba, 1, &run, 1, &need) == -EAGAIN) {
        int r = forest_load(f, &need);
        if (r < 0 && r != -EAGAIN)
            return;
    }
}

static void ahead_fiber(void *arg)
{
    struct merge_ahead *a = arg;
    struct overlay_span span;
    while (!a->over) {
        if (a->spans >= a->mg->spans + LEAD) {
            vd_wait(&a->go_on);
            continue;
        }
        if (!overlay_next(a->pos, &span))
            break;
        if (++a->spans > a->mg->spans)
            ahead_load(a, &span);
    }
    vd_group_done(&a->group);
}

void ahead_follow(struct merge_ahead *a)
{
    if (a->mg->spans % FOLLOW == 0)
        vd_wake_all(&a->go_on);
}

struct merge_ahead *ahead_begin(struct merge *mg)
{
    struct merge_ahead *a = NULL;
    if (!forest_fits(mg->m->forest, TREE_HEAD))
        a = calloc(1, sizeof(*a));
    if (a)
        a->pos = overlay_seek(mg->m->frozen, 0, 0);
    if (!a || !a->pos) {
        free(a);
        return NULL;
    }
    a->mg = mg;
    vd_waitq_init(&a->go_on);
    vd_group_init(&a->group);
    for (unsigned i = 0; i < FIBERS; i++)
        if (vd_fiber_spawn(vd_loop_current(), "merge-ahead", ahead_fiber, a) == 0)
            vd_group_add(&a->group);
    return a;
}

void ahead_end(struct merge_ahead *a)
{
    if (!a)
        return;
    a->over = true;
    vd_wake_all(&a->go_on);
    vd_group_wait(&a->group);
    overlay_pos_free(a->pos);
    free(a);
}
