/* SPDX-License-Identifier: MIT */
/*
 * One cell of one branch in a merge: all versions there are of its blocks, from the trees, the
 * overlay and a parent being folded in, put in order; what nothing needs falls out, the rest goes
 * back as HEAD and HISTORY.
 *
 * Invariants:
 *  1 Every block that leaves the trees is accounted for (live blocks, USAGE) as it leaves, every
 * one that enters as it enters, with the same rule: so counts return to zero exactly. What stays as
 * it is, which is most of a cell, does neither. 2 Of one block a version dies when the next is
 * born. ZERO after ZERO is no new version; ZERO where nothing lies below is the same as nothing,
 * and is not stored. 3 An address from a tree is what it is after the relocations of the frozen
 * overlay; the overlay's own are newer than any relocation from there.
 *
 * Called by the sweep of merge.c, in key order. Suspends.
 */
#include "snapshot/merge_priv.h"

#include <stdlib.h>

enum { SRC_HISTORY, SRC_HEAD, SRC_OVERLAY };

/* ---- accounts ---- */

int merge_account(struct merge *mg, const struct mbranch *b, struct vd_addr addr, uint64_t blocks,
                  uint64_t born, uint64_t died, int sign)
{
    pool_merge_live(mg->m, addr, sign * (int64_t)blocks);
    return usage_add(mg, b, born, died, sign * (int64_t)(blocks * VD_BLOCK));
}

/* Goes into the new trees: what the old ones had just so is no change. */
static int ver_in(struct merge *mg, const struct mbranch *b, struct ver *v)
{
    if (v->held && v->was == v->died) {
        v->held = false;
        return 0;
    }
    return v->type == VD_RUN_DATA ? merge_account(mg, b, v->addr, 1, v->born, v->died, 1) : 0;
}

/* All that the old trees held and the new ones do not. */
static int vers_out(struct merge *mg, const struct mbranch *b)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < mg->nver; i++) {
        const struct ver *v = &mg->ver[i];
        if (v->held)
            r = merge_account(mg, b, v->addr, 1, v->born, v->was, -1);
    }
    return r;
}

/* ---- taking apart ---- */

/* One step: nothing moves twice before the next root, but what moved may have come to a place that
 * something else had left before. */
static struct vd_addr addr_now(const struct merge *mg, struct vd_addr a)
{
#ifdef VD_PLANT_RELOCATION_LOST
    return a;
#endif
    struct vd_addr to;
    return overlay_moved(mg->m->frozen, a, &to) ? to : a;
}

static int vers_room(struct merge *mg, size_t more)
{
    if (mg->nver + more <= mg->ver_room)
        return 0;
    size_t room = VD_MAX(mg->ver_room * 2, mg->nver + more + 256);
    struct ver *v = realloc(mg->ver, room * sizeof(*v));
    if (!v)
        return -ENOMEM;
    mg->ver = v;
    mg->ver_room = room;
    struct ver **order = realloc(mg->order, room * sizeof(*order));
    if (!order)
        return -ENOMEM;
    mg->order = order;
    return 0;
}

/* A version as a tree has it: where it was moved, it leaves its old place. */
static int ver_held(struct merge *mg, const struct mbranch *b, struct ver *v)
{
    struct vd_addr old = v->addr;

    v->was = v->died;
    v->addr = addr_now(mg, old);
    v->held = vd_addr_equal(v->addr, old);
    return v->held ? 0 : merge_account(mg, b, old, 1, v->born, v->was, -1);
}

/* The part of the run inside the cell, block by block. stored: a tree names its address. */
static int explode(struct merge *mg, const struct cell_job *job, const struct vd_run *run,
                   uint8_t src, bool stored)
{
    uint64_t first = job->cell * VD_CELL_BLOCKS;
    uint64_t from = VD_MAX(first, run->lba), end = VD_MIN(first + VD_CELL_BLOCKS, vd_run_end(run));
    int r = vers_room(mg, VD_CELL_BLOCKS);

    for (uint64_t lba = from; r == 0 && lba < end; lba++) {
        struct ver *v = &mg->ver[mg->nver++];
        *v = (struct ver){
            .born = run->born,
            .died = src == SRC_OVERLAY ? VD_EPOCH_MAX : run->died,
            .blk = (uint8_t)(lba - first),
            .type = (uint8_t)run->type,
            .src = src,
        };
        if (run->type == VD_RUN_DATA) {
            v->addr = vd_addr_plus(run->addr, lba - run->lba);
            v->csum = run->csum[lba - run->lba];
#ifdef VD_PLANT_RELOCATION_OVERWRITES
            if (!stored)
                v->addr = addr_now(mg, v->addr);
#endif
            if (stored)
                r = ver_held(mg, job->b, v);
        }
    }
    return r;
}

static int take_old(struct merge *mg, const struct cell_job *job)
{
    const struct mbranch *b = job->b;
    uint64_t lba = job->cell * VD_CELL_BLOCKS;
    struct vd_run *run = &mg->run;
    int r = 0;

    while (job->history && r == 0) {
        r = history_take(&mg->history, b->id, job->cell, run);
        if (r == 0)
            r = explode(mg, job, run, SRC_HISTORY, true);
    }
    r = r == -ENOENT ? 0 : r;
    while (job->head && r == 0) {
        r = head_take(&mg->head, b->id, lba, lba + VD_CELL_BLOCKS, run);
        if (r == 0) {
            run->died = VD_EPOCH_MAX;
            r = explode(mg, job, run, SRC_HEAD, true);
        }
    }
    return r == -ENOENT ? 0 : r;
}

static int take_new(struct merge *mg, const struct cell_job *job)
{
    struct vd_run *run = &mg->run;
    int r = 0;

    for (size_t i = 0; r == 0 && i < job->nfold; i++) {
        const struct fold_run *f = &job->fold[i];
        *run = (struct vd_run){.lba = f->lba,
                               .blocks = f->blocks,
                               .born = f->born,
                               .died = f->died,
                               .type = f->type,
                               .addr = f->addr};
        if (f->type == VD_RUN_DATA)
            memcpy(run->csum, job->b->fold.csum + f->csum, f->blocks * sizeof(run->csum[0]));
        r = explode(mg, job, run, SRC_HEAD, false);
    }
    for (unsigned i = 0; r == 0 && job->span && i < job->span->count; i++)
        r = explode(mg, job, &job->span->versions[i], SRC_OVERLAY, false);
    return r;
}

static int ver_cmp(const void *a, const void *b)
{
    const struct ver *x = a, *y = b;
    if (x->blk != y->blk)
        return x->blk < y->blk ? -1 : 1;
    if (x->born != y->born)
        return x->born < y->born ? -1 : 1;
    return (int)x->src - (int)y->src;
}

/* What the trees gave is in order mostly, and the overlay adds a few blocks. */
#define INSERT_MAX 80
static void vers_sort(struct merge *mg)
{
    struct ver *v = mg->ver, x;

    if (mg->nver > INSERT_MAX) {
        qsort(v, mg->nver, sizeof(*v), ver_cmp);
        return;
    }
    for (size_t i = 1, k; i < mg->nver; i++) {
        if (ver_cmp(&v[i - 1], &v[i]) <= 0)
            continue;
        x = v[i];
        for (k = i; k > 0 && ver_cmp(&v[k - 1], &x) > 0; k--)
            v[k] = v[k - 1];
        v[k] = x;
    }
}

/* ---- one block's versions ---- */

/* Goes through the versions of one block, oldest first: settles when each died, marks those that
 * fall out (died = born) and notes what changed. */
static int chain(struct merge *mg, const struct cell_job *job, struct ver *v, size_t n,
                 bool is_explicit)
{
    struct ver *prev = NULL;

    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n)
            v[i].died = VD_MIN(v[i].died, v[i + 1].born);
        if (v[i].died <= v[i].born) {
            v[i].died = v[i].born;
            continue; /* replaced within its epoch */
        }
        bool follows = prev && prev->died == v[i].born;
        if (v[i].type == VD_RUN_ZERO && follows && prev->type == VD_RUN_ZERO) {
            prev->died = v[i].died;
            v[i].died = v[i].born;
            continue;
        }
        bool nothing = v[i].type == VD_RUN_ZERO && !is_explicit && !follows;
        if (v[i].src == SRC_OVERLAY && !nothing && !job->drop) {
            int r = changed_add(mg, job->b, v[i].born, job->cell * VD_CELL_BLOCKS + v[i].blk);
            if (r < 0)
                return r;
        }
        prev = &v[i];
    }
    return 0;
}

static int chains(struct merge *mg, const struct cell_job *job, uint64_t limit)
{
    uint64_t first = job->cell * VD_CELL_BLOCKS;

    vers_sort(mg);
    for (size_t i = 0; i < mg->nver;) {
        size_t n = 1;
        while (i + n < mg->nver && mg->ver[i + n].blk == mg->ver[i].blk)
            n++;
        int r = chain(mg, job, &mg->ver[i], n, first + mg->ver[i].blk < limit);
        if (r < 0)
            return r;
        i += n;
    }
    return 0;
}

/* ---- putting together ---- */

/* Does y go on where x ends? */
static bool joins(const struct ver *x, const struct ver *y)
{
    return y->blk == x->blk + 1 && y->type == x->type && y->born == x->born && y->died == x->died &&
           (y->type == VD_RUN_ZERO || vd_addr_equal(vd_addr_plus(x->addr, 1), y->addr));
}

/* Makes mg->run of v[0..] as far as they join; returns how many. */
static size_t assemble(struct merge *mg, uint64_t cell, struct ver *const *v, size_t n)
{
    struct vd_run *run = &mg->run;
    size_t k = 1;

    run->lba = cell * VD_CELL_BLOCKS + v[0]->blk;
    run->born = v[0]->born;
    run->died = v[0]->died;
    run->type = v[0]->type;
    run->addr = v[0]->addr;
    run->csum[0] = v[0]->csum;
    for (; k < n && joins(v[k - 1], v[k]); k++)
        run->csum[k] = v[k]->csum;
    run->blocks = k;
    return k;
}

static int put_head(struct merge *mg, const struct cell_job *job, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t k = assemble(mg, job->cell, mg->order + i, n - i);
        int r = 0;
        for (size_t to = i + k; r == 0 && i < to; i++)
            r = ver_in(mg, job->b, mg->order[i]);
        if (r == 0)
            r = head_put(&mg->head, job->b->id, &mg->run);
        if (r < 0)
            return r;
    }
    return 0;
}

static int by_died(const void *a, const void *b)
{
    const struct ver *x = *(struct ver *const *)a, *y = *(struct ver *const *)b;
    if (x->died != y->died)
        return x->died < y->died ? -1 : 1;
    return (int)x->blk - (int)y->blk;
}

/* Of runs, named by where they start in order of died. */
static int by_key(const void *a, const void *b)
{
    const struct ver *x = **(struct ver * *const *)a, *y = **(struct ver * *const *)b;
    if (x->blk != y->blk)
        return (int)x->blk - (int)y->blk;
    return x->died < y->died ? -1 : x->died > y->died;
}

/* Runs of HISTORY go in key order, first block before died; but blocks that join are neighbours in
 * order of died. So that order comes first, and then the runs found in it are put in theirs. */
static int put_history(struct merge *mg, const struct cell_job *job, size_t n)
{
    struct ver **v = mg->order, ***start = n ? malloc(n * sizeof(struct ver **)) : NULL;
    size_t starts = 0;
    int r = 0;

    if (!start)
        return n ? -ENOMEM : 0;
    qsort(v, n, sizeof(struct ver *), by_died);
    for (size_t i = 0, k; i < n; i += k) {
        for (k = 1; i + k < n && joins(v[i + k - 1], v[i + k]); k++)
            ;
        start[starts++] = &v[i];
    }
    qsort(start, starts, sizeof(struct ver **), by_key);
    for (size_t i = 0; r == 0 && i < starts; i++) {
        size_t k = assemble(mg, job->cell, start[i], (size_t)(v + n - start[i]));
        for (size_t of = 0; r == 0 && of < k; of++)
            r = ver_in(mg, job->b, start[i][of]);
        if (r == 0)
            r = history_put(&mg->history, job->b->id, &mg->run, job->history);
    }
    free(start);
    return r;
}

static int put_back(struct merge *mg, const struct cell_job *job, uint64_t limit)
{
    uint64_t first = job->cell * VD_CELL_BLOCKS;
    size_t n = 0;
    int r;

    for (int pass = 0; pass < 2; pass++, n = 0) {
        for (size_t i = 0; i < mg->nver; i++) {
            struct ver *v = &mg->ver[i];
            bool head = v->died == VD_EPOCH_MAX;
            if (v->died == v->born || head != (pass == 0) ||
                !version_needed(job->b, v->born, v->died))
                continue;
            if (v->type == VD_RUN_ZERO && first + v->blk >= limit)
                continue;
            mg->order[n++] = v;
        }
        r = pass ? put_history(mg, job, n) : put_head(mg, job, n);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- a branch that is folded into its child ---- */

int fold_add(struct fold_buf *f, const struct vd_run *run)
{
    if (f->count == f->room) {
        size_t room = f->room ? f->room * 2 : 64;
        struct fold_run *v = realloc(f->run, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        f->run = v;
        f->room = room;
    }
    size_t csums = run->type == VD_RUN_DATA ? run->blocks : 0;
    if (f->csums + csums > f->csum_room) {
        size_t room = VD_MAX(f->csum_room * 2, f->csums + csums + 256);
        uint64_t *v = realloc(f->csum, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        f->csum = v;
        f->csum_room = room;
    }
    f->run[f->count++] = (struct fold_run){run->lba,  run->blocks, run->born, run->died,
                                           run->type, run->addr,   f->csums};
    if (csums)
        memcpy(f->csum + f->csums, run->csum, csums * sizeof(run->csum[0]));
    f->csums += csums;
    return 0;
}

/* What the child's origin shows, or a name that went ahead to the child needs, goes there. */
static int move_out(struct merge *mg, const struct cell_job *job)
{
    struct mbranch *child = job->sweep;
    uint64_t first = job->cell * VD_CELL_BLOCKS;
    size_t n = 0;

    for (size_t i = 0; i < mg->nver; i++) {
        struct ver *v = &mg->ver[i];
        if (v->died == v->born || first + v->blk >= child->limit ||
            !version_needed(job->b, v->born, v->died))
            continue;
        if (v->died > child->origin)
            v->died = VD_EPOCH_MAX; /* until the child's first */
        mg->order[n++] = v;
    }
    if (n > 1)
        qsort(mg->order, n, sizeof(struct ver *), by_died);
    for (size_t i = 0; i < n;) {
        i += assemble(mg, job->cell, mg->order + i, n - i);
        int r = fold_add(&child->fold, &mg->run);
        if (r < 0)
            return r;
    }
    return 0;
}

int merge_cell(struct merge *mg, const struct cell_job *job)
{
    uint64_t limit = explicit_limit(job->b, job->cell * VD_CELL_BLOCKS);

    mg->nver = 0;
    if (cell_is_plain(job))
        return cell_plain(mg, job, limit);
    int r = vers_room(mg, 1);
    if (r == 0)
        r = take_old(mg, job);
    if (r == 0)
        r = take_new(mg, job);
    if (r == 0 && mg->nver && !job->drop)
        r = chains(mg, job, limit);
    if (r == 0 && mg->nver && !job->drop)
        r = job->sweep ? move_out(mg, job) : put_back(mg, job, limit);
    return r < 0 ? r : vers_out(mg, job->b);
}
