/* SPDX-License-Identifier: MIT */
/*
 * Cells of a branch that keeps no epoch but its tip, overwritten with data: the common case. There
 * is one version of each block, so old runs and new ones are laid side by side, and what nobody
 * overwrote goes through as it is. Everything else is merge_cell.c's.
 *
 * Accounts and marks are the same as there: a block that is covered leaves, one that covers enters
 * and is marked as changed. Suspends.
 */
#include "snapshot/merge_priv.h"

bool cell_is_plain(const struct cell_job *job)
{
    const struct overlay_span *s = job->span;
    if (!s || !s->count || s->relocations || !job->head || job->history || job->nfold ||
        job->sweep || job->drop || job->b->into || job->b->absorbing || !job->b->tip ||
        job->b->nkeep || s->versions[0].born != s->versions[s->count - 1].born)
        return false;
    for (unsigned i = 0; i < s->count; i++)
        if (s->versions[i].type != VD_RUN_DATA)
            return false;
    return true;
}

static int account(struct merge *mg, const struct mbranch *b, const struct vd_run *run,
                   uint64_t blocks, int sign)
{
    return run->type == VD_RUN_DATA
               ? merge_account(mg, b, run->addr, blocks, run->born, VD_EPOCH_MAX, sign)
               : 0;
}

/* ---- what comes out, neighbours joined ---- */

static int out_put(struct merge *mg, const struct cell_job *job)
{
    struct vd_run *out = &mg->plain;
    int r = out->blocks ? head_put(&mg->head, job->b->id, out) : 0;
    out->blocks = 0;
    return r;
}

/* The first `blocks` blocks of the run. */
static int out_add(struct merge *mg, const struct cell_job *job, const struct vd_run *run,
                   uint64_t blocks)
{
    struct vd_run *out = &mg->plain;
    bool joins = out->blocks && vd_run_end(out) == run->lba && out->type == run->type &&
                 out->born == run->born &&
                 (run->type != VD_RUN_DATA ||
                  vd_addr_equal(vd_addr_plus(out->addr, out->blocks), run->addr));
    int r = joins ? 0 : out_put(mg, job);
    if (r < 0)
        return r;
    if (!joins) {
        out->lba = run->lba;
        out->born = run->born;
        out->died = VD_EPOCH_MAX;
        out->type = run->type;
        out->addr = run->addr;
    }
    if (run->type == VD_RUN_DATA)
        memcpy(out->csum + out->blocks, run->csum, blocks * sizeof(run->csum[0]));
    out->blocks += blocks;
    return 0;
}

/* ---- what was there ---- */

/* Zeroes say something only where a parent would show through. */
static int old_keep(struct merge *mg, const struct cell_job *job, struct vd_run *old,
                    uint64_t blocks, uint64_t limit)
{
    uint64_t n = blocks;
    if (old->type == VD_RUN_ZERO)
        n = old->lba < limit ? VD_MIN(blocks, limit - old->lba) : 0;
    int r = n ? out_add(mg, job, old, n) : 0;
    if (blocks < old->blocks)
        vd_run_clip(old, old->lba + blocks, old->blocks - blocks);
    else
        old->blocks = 0;
    return r;
}

static int old_next(struct merge *mg, const struct cell_job *job, struct vd_run *old)
{
    uint64_t lba = job->cell * VD_CELL_BLOCKS;
    int r = head_take(&mg->head, job->b->id, lba, lba + VD_CELL_BLOCKS, old);
    if (r < 0)
        old->blocks = 0;
    return r == -ENOENT ? 0 : r;
}

/* All of the old runs before `end`: kept up to `from`, and what lies from there on leaves. */
static int old_upto(struct merge *mg, const struct cell_job *job, uint64_t from, uint64_t end,
                    uint64_t limit)
{
    struct vd_run *old = &mg->run;
    int r = 0;
    while (r == 0 && old->blocks && old->lba < end) {
        if (old->lba < from) {
            r = old_keep(mg, job, old, VD_MIN(old->blocks, from - old->lba), limit);
        } else {
            uint64_t gone = VD_MIN(old->blocks, end - old->lba);
            r = account(mg, job->b, old, gone, -1);
            if (gone < old->blocks)
                vd_run_clip(old, old->lba + gone, old->blocks - gone);
            else
                old->blocks = 0;
        }
        if (r == 0 && old->blocks == 0)
            r = old_next(mg, job, old);
    }
    return r;
}

int cell_plain(struct merge *mg, const struct cell_job *job, uint64_t limit)
{
    int r = old_next(mg, job, &mg->run);
    mg->plain.blocks = 0;
    for (unsigned i = 0; r == 0 && i < job->span->count; i++) {
        const struct vd_run *v = &job->span->versions[i];
        r = old_upto(mg, job, v->lba, vd_run_end(v), limit);
        for (uint64_t b = 0; r == 0 && b < v->blocks; b++)
            r = changed_add(mg, job->b, v->born, v->lba + b);
        if (r == 0)
            r = account(mg, job->b, v, v->blocks, 1);
        if (r == 0)
            r = out_add(mg, job, v, v->blocks);
    }
    if (r == 0)
        r = old_upto(mg, job, UINT64_MAX, UINT64_MAX, limit);
    return r < 0 ? r : out_put(mg, job);
}
