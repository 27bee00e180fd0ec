/* SPDX-License-Identifier: MIT */
/*
 * HEAD and HISTORY as streams: old entries come out, new ones go in, in one ascending pass. Hides
 * the writer's rules, runs of ZERO that reach over the range being worked on, and the metadata
 * cleaner's wishes.
 *
 * Invariants: ranges asked for ascend; all old entries of a range are taken before anything new is
 * put into it; adjacent ZERO runs of one epoch that are put one after another become one.
 * Everything suspends.
 */
#include "snapshot/merge_priv.h"

void stream_init(struct mstream *st, struct pool_merge *m, enum tree_id t)
{
    *st = (struct mstream){.m = m, .tree = t};
}

static int stream_open(struct mstream *st)
{
    if (st->w)
        return 0;
    return tree_writer_new(st->m->forest, st->tree, &st->m->base[st->tree], st->m->incarnation,
                           st->m->counter, &st->w);
}

static int out_flush(struct mstream *st)
{
    if (!st->has_out)
        return 0;
    st->has_out = false;
    return tree_writer_put(st->w, &st->out);
}

static int seek_key(struct mstream *st, const struct tree_key *key)
{
    int r = stream_open(st);
    if (r == 0)
        r = pool_merge_touch(st->m, st->w, st->tree, key);
    return r < 0 ? r : tree_writer_seek(st->w, key);
}

/* ---- HEAD ---- */

int head_put(struct mstream *st, uint64_t branch, const struct vd_run *run)
{
    struct vd_run *o = &st->out.run;
    if (st->has_out && st->out.key.w[0] == branch && run->type == VD_RUN_ZERO &&
        o->born == run->born && vd_run_end(o) == run->lba) {
        o->blocks += run->blocks;
        return 0;
    }
    int r = out_flush(st);
    if (r < 0)
        return r;
    st->out.key = (struct tree_key){{branch, run->lba}};
    vd_run_copy(o, run);
    o->died = VD_EPOCH_MAX;
    st->has_out = run->type == VD_RUN_ZERO;
    return st->has_out ? 0 : tree_writer_put(st->w, &st->out);
}

/* Goes on to (branch, lba). What is left of a carried run before that is put back. */
static int head_seek(struct mstream *st, uint64_t branch, uint64_t lba)
{
    if (st->at && st->branch == branch && st->pos >= lba)
        return 0;
    if (st->has_carry) {
        struct vd_run keep = st->carry;
        uint64_t end = vd_run_end(&keep);
        bool inside = st->branch == branch && lba < end;
        if (inside) {
            keep.blocks = lba - keep.lba;
            st->carry.lba = lba;
            st->carry.blocks = end - lba;
        }
        st->has_carry = inside;
        if (keep.blocks) {
            int r = head_put(st, st->branch, &keep);
            if (r < 0)
                return r;
        }
        if (inside) {
            st->pos = lba;
            return 0;
        }
    }
    int r = out_flush(st);
    if (r == 0)
        r = seek_key(st, &(struct tree_key){{branch, lba}});
    st->at = true;
    st->branch = branch;
    st->pos = lba;
    return r;
}

/* The next old run at or after the position, without moving. */
static int head_next(struct mstream *st, uint64_t branch, struct vd_run *ret)
{
    if (st->has_carry) {
        *ret = st->carry;
        return 0;
    }
    int r = tree_writer_peek(st->w, &st->peek);
    if (r < 0)
        return r;
    if (st->peek.key.w[0] != branch)
        return -ENOENT;
    vd_run_copy(ret, &st->peek.run);
    return 0;
}

int head_peek(struct mstream *st, uint64_t branch, uint64_t lba, struct vd_run *ret)
{
    int r = head_seek(st, branch, lba);
    return r < 0 ? r : head_next(st, branch, ret);
}

int head_take(struct mstream *st, uint64_t branch, uint64_t lba, uint64_t end, struct vd_run *ret)
{
    int r = head_seek(st, branch, lba);
    if (r == 0)
        r = head_next(st, branch, ret);
    if (r == 0 && ret->lba >= end)
        r = -ENOENT;
    if (r < 0) {
        if (r == -ENOENT)
            st->pos = VD_MAX(st->pos, end);
        return r;
    }
    if (st->has_carry)
        st->has_carry = false;
    else
        tree_writer_take(st->w);
    uint64_t run_end = vd_run_end(ret);
    if (ret->lba < lba) { /* only ZERO runs reach over a cell */
        struct vd_run before = *ret;
        before.blocks = lba - before.lba;
        r = head_put(st, branch, &before);
        if (r < 0)
            return r;
    }
    if (run_end > end) {
        st->carry = *ret;
        st->carry.lba = end;
        st->carry.blocks = run_end - end;
        st->has_carry = true;
        st->pos = end;
    }
    if (ret->lba < lba || run_end > end)
        vd_run_clip(ret, lba, end - lba);
    return 0;
}

/* ---- HISTORY ---- */

/* pos counts cells. */
static int history_seek(struct mstream *st, uint64_t branch, uint64_t cell)
{
    if (st->at && st->branch == branch && st->pos >= cell)
        return 0;
    int r = seek_key(st, &(struct tree_key){{branch, cell}});
    st->at = true;
    st->branch = branch;
    st->pos = cell;
    return r;
}

int history_peek(struct mstream *st, uint64_t branch, uint64_t cell, uint64_t *ret)
{
    int r = history_seek(st, branch, cell);
    if (r == 0)
        r = tree_writer_peek(st->w, &st->peek);
    if (r == 0 && st->peek.key.w[0] != branch)
        r = -ENOENT;
    if (r == 0)
        *ret = st->peek.key.w[1];
    return r;
}

int history_take(struct mstream *st, uint64_t branch, uint64_t cell, struct vd_run *ret)
{
    uint64_t at;
    int r = history_peek(st, branch, cell, &at);
    if (r == 0 && at != cell)
        r = -ENOENT;
    if (r == 0) {
        vd_run_copy(ret, &st->peek.run);
        tree_writer_take(st->w);
    }
    return r;
}

int history_put(struct mstream *st, uint64_t branch, const struct vd_run *run, bool inside)
{
    st->out.key = (struct tree_key){{branch, run->lba / VD_CELL_BLOCKS, run->lba, run->died}};
    vd_run_copy(&st->out.run, run);
    if (!inside) {
        int r = seek_key(st, &st->out.key);
        if (r < 0)
            return r;
        st->at = false; /* somewhere inside the cell */
    }
    return tree_writer_put(st->w, &st->out);
}

/* ---- the end ---- */

int stream_finish(struct mstream *st, int err)
{
    int r = err;

    if (r == 0 && st->has_carry) {
        st->has_carry = false;
        r = head_put(st, st->branch, &st->carry);
    }
    if (r == 0)
        r = out_flush(st);
    if (r == 0 && pool_merge_wants(st->m, st->tree))
        r = seek_key(st, &TREE_KEY_MAX);
    if (!st->w)
        return r;
    if (r < 0) {
        tree_writer_abort(st->w);
    } else {
        struct tree_root root;
        r = tree_writer_finish(st->w, &root);
        if (r == 0)
            st->m->root[st->tree] = root;
    }
    st->w = NULL;
    return r;
}
