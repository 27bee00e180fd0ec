/* SPDX-License-Identifier: MIT */
/*
 * The smallest client a pool can have, see mini_client.h. Its merge keeps no history. One store at
 * a time: cells are put together in static memory, for a fiber's stack is small.
 */
#include "tests/pool/mini_client.h"

static int mini_load(void *c)
{
    return 0;
}

static int mini_apply(void *c, const struct vd_entry *e)
{
    ((struct mini *)c)->applied++;
    return 0;
}

static int mini_freeze(void *c)
{
    return 0;
}

static void mini_publish(void *c)
{
}

static bool mini_backlog(void *c)
{
    return false;
}

/* Takes the old runs of a cell, moved where the cleaner moved them, into a view. */
static int cell_take(struct pool_merge *m, struct tree_writer *w, uint64_t branch, uint64_t cell,
                     struct cell_view *v)
{
    struct tree_key from = {{branch, cell * VD_CELL_BLOCKS}};
    int r = pool_merge_touch(m, w, TREE_HEAD, &from);
    if (r == 0)
        r = tree_writer_seek(w, &from);
    struct tree_entry e;
    while (r == 0 && (r = tree_writer_peek(w, &e)) == 0) {
        if (e.key.w[0] != branch || e.run.lba >= (cell + 1) * VD_CELL_BLOCKS)
            return 0;
        for (uint64_t i = 0; i < e.run.blocks; i++) {
            struct vd_run one = e.run;
            vd_run_clip(&one, e.run.lba + i, 1);
            pool_merge_live(m, one.addr, -1);
            overlay_moved(m->frozen, one.addr, &one.addr);
            pool_merge_live(m, one.addr, 1);
            cell_view_add(v, cell, &one);
        }
        tree_writer_take(w);
    }
    return r == -ENOENT ? 0 : r;
}

static int cell_put(struct tree_writer *w, uint64_t branch, uint64_t cell,
                    const struct cell_view *v)
{
    for (unsigned i = 0; i < VD_CELL_BLOCKS; i++) {
        if (!(v->known >> i & 1) || v->b[i].type != VD_RUN_DATA)
            continue;
        struct tree_entry e = {
            .key = {{branch, cell * VD_CELL_BLOCKS + i}},
            .run = {.lba = cell * VD_CELL_BLOCKS + i,
                    .blocks = 1,
                    .born = v->b[i].born,
                    .died = VD_EPOCH_MAX,
                    .type = VD_RUN_DATA,
                    .addr = v->b[i].addr,
                    .csum = {v->b[i].csum}},
        };
        int r = tree_writer_put(w, &e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int span_merge(struct pool_merge *m, struct tree_writer *w, const struct overlay_span *s)
{
    for (uint64_t cell = s->lba / VD_CELL_BLOCKS; cell * VD_CELL_BLOCKS < s->lba + s->blocks;
         cell++) {
        static struct cell_view old, v;
        old.want = v.want = UINT32_MAX;
        old.known = v.known = 0;
        int r = cell_take(m, w, s->branch, cell, &old);
        if (r < 0)
            return r;
        overlay_view(m->frozen, s->branch, cell, VD_EPOCH_MAX, &v);
        for (unsigned i = 0; i < VD_CELL_BLOCKS; i++) {
            bool now = v.known >> i & 1, before = old.known >> i & 1;
            if (now && v.b[i].type == VD_RUN_DATA) {
                pool_merge_live(m, v.b[i].addr, 1);
            }
            if (now && before)
                pool_merge_live(m, old.b[i].addr, -1);
            if (!now && before) {
                v.b[i] = old.b[i];
                v.known |= UINT32_C(1) << i;
            }
        }
        r = cell_put(w, s->branch, cell, &v);
        if (r < 0)
            return r;
    }
    return 0;
}

static int mini_merge(void *c, struct pool_merge *m)
{
    struct mini *mini = c;
    if (mini->fail_merge) {
        int r = mini->fail_merge;
        mini->fail_merge = 0;
        return r;
    }
    struct tree_writer *w;
    int r =
        tree_writer_new(m->forest, TREE_HEAD, &m->base[TREE_HEAD], m->incarnation, m->counter, &w);
    if (r < 0)
        return r;
    struct overlay_pos *pos = overlay_seek(m->frozen, 0, 0);
    struct overlay_span span;
    while (r == 0 && overlay_next(pos, &span))
        r = span_merge(m, w, &span);
    overlay_pos_free(pos);
    if (r == 0)
        r = pool_merge_touch(m, w, TREE_HEAD, &TREE_KEY_MAX);
    if (r < 0) {
        tree_writer_abort(w);
        return r;
    }
    return tree_writer_finish(w, &m->root[TREE_HEAD]);
}

/* Resolves one block: 1 when it holds data, 0 when not. */
static int resolve(struct mini *m, uint64_t branch, uint64_t lba, struct vd_run *ret)
{
    uint64_t cell = lba / VD_CELL_BLOCKS;
    unsigned bit = lba % VD_CELL_BLOCKS;
    for (;;) {
        struct cell_view v = {.want = UINT32_C(1) << bit};
        struct forest_need need;
        overlay_view(pool_active(m->pool), branch, cell, VD_EPOCH_MAX, &v);
        if (pool_frozen(m->pool))
            overlay_view(pool_frozen(m->pool), branch, cell, VD_EPOCH_MAX, &v);
        int n = 0;
        if (!v.known)
            n = tree_head_find(pool_forest(m->pool), branch, lba, 1, ret, 1, &need);
        if (n == -EAGAIN) {
            n = forest_load(pool_forest(m->pool), &need);
            if (n < 0 && n != -EAGAIN)
                return n;
            continue;
        }
        if (n < 0)
            return n;
        if (n) {
            ret->addr = pool_moved(m->pool, ret->addr);
            cell_view_add(&v, cell, ret);
        }
        if (!v.known || v.b[bit].type != VD_RUN_DATA)
            return 0;
        *ret = (struct vd_run){.lba = lba,
                               .blocks = 1,
                               .born = v.b[bit].born,
                               .type = VD_RUN_DATA,
                               .addr = v.b[bit].addr,
                               .csum = {v.b[bit].csum}};
        return 1;
    }
}

static int mini_owner(void *c, const struct pool_owner_query *q, struct vd_run *ret, int max,
                      uint64_t *branch, uint32_t *gone)
{
    struct mini *m = c;
    struct forest_need need;
    int n = 0;
    *branch = q->branch;
    *gone = 0;
    for (uint64_t i = 0; i < q->blocks && n < max; i++) {
        int r;
        while ((r = tree_head_find(pool_forest(m->pool), q->branch, q->lba + i, 1, &ret[n], 1,
                                   &need)) == -EAGAIN) {
            r = forest_load(pool_forest(m->pool), &need);
            if (r < 0 && r != -EAGAIN)
                return r;
        }
        if (r < 0)
            return r;
        if (r == 0)
            continue;
        ret[n].addr = pool_moved(m->pool, ret[n].addr);
        if (vd_addr_equal(ret[n].addr, vd_addr_plus(q->addr, i)))
            n++;
    }
    return n;
}

const struct pool_client_ops mini_ops = {
    .load = mini_load,
    .apply = mini_apply,
    .freeze = mini_freeze,
    .merge = mini_merge,
    .publish = mini_publish,
    .owner = mini_owner,
    .backlog = mini_backlog,
};

int mini_open(struct mini *m, struct vd_dev *dev, unsigned flags, struct vd_error *err)
{
    return pool_open(dev, flags, &mini_ops, m, &m->pool, err);
}

int mini_write(struct mini *m, uint64_t branch, uint64_t lba, uint64_t blocks, const void *buf,
               unsigned flags)
{
    struct iovec iov = {(void *)(uintptr_t)buf, blocks * VD_BLOCK};
    struct pool_op op = {
        .flags = flags, .branch = branch, .lba = lba, .blocks = blocks, .iov = &iov, .iovcnt = 1};
    return pool_commit(m->pool, &op);
}

int mini_zero(struct mini *m, uint64_t branch, uint64_t lba, uint64_t blocks)
{
    struct vd_entry e = {.type = VD_ENTRY_ZERO, .branch = branch, .lba = lba, .blocks = blocks};
    struct pool_op op = {.flags = POOL_OP_RESERVE, .entries = &e, .count = 1};
    return pool_commit(m->pool, &op);
}

int mini_read(struct mini *m, uint64_t branch, uint64_t lba, void *buf)
{
    struct vd_run run;
    int r = resolve(m, branch, lba, &run);
    if (r <= 0) {
        memset(buf, 0, VD_BLOCK);
        return r;
    }
    struct pool_piece p = {.addr = run.addr, .blocks = 1, .csum = run.csum, .buf = buf};
    return pool_read(m->pool, &p, 1);
}
