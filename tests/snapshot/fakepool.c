/* SPDX-License-Identifier: MIT */
/*
 * The pool in memory of fakepool.h. Segments that nothing names any more are poisoned, and so are
 * nodes that a published root has let go: who reads them too late gets a bad checksum.
 *
 * Invariants: what is committed is in the medium's log before pool_commit returns; the log is cut
 * only when a root that includes it is published.
 */
#include "tests/snapshot/fakepool.h"

#include "core/base/hash.h"
#include "core/base/text.h"

#include <stdio.h>
#include <stdlib.h>

#define SEG_BLOCKS 64u
#define NODE_SEG UINT32_C(0x40000000) /* segments from here on hold one node each */
#define FIRST_SEG 8u

struct hint {
    uint64_t branch, lba;
};
struct seg {
    uint8_t *data; /* NULL: free */
    unsigned used; /* blocks */
    int64_t live, delta;
    struct hint hint[SEG_BLOCKS];
    uint64_t last_op;   /* the operation that last wrote here */
    uint64_t victim_op; /* when it was last emptied: not again before the next root */
};
struct logged {
    struct logged *next;
    uint64_t op;
    struct vd_entry e;
    struct vd_addr addr;
    uint8_t value[VD_CATALOG_VALUE_MAX];
};
struct medium {
    struct vd_dev dev;
    struct tree_root root[TREE_COUNT];
    uint64_t epoch, counter;
    uint64_t root_op; /* the state of the roots is that after this operation */
    struct seg *seg;
    uint32_t segs, open;
    uint8_t **node;
    uint32_t nodes, node_room;
    struct logged *log, **log_end;
    uint64_t ops;
    unsigned fail_at, fail_times, budget;
    int fail_commits;
    bool give_up;
    struct vd_uuid uuid;
};
struct vd_pool {
    struct medium *m;
    struct vd_loop *loop;
    const struct pool_client_ops *client;
    void *arg;
    struct forest *forest;
    struct overlay *active, *frozen;
    uint64_t epoch, frozen_epoch, frozen_op;
    bool rdonly;
    char failure[64];
    struct vd_fmutex checkpoint;
    struct node_ptr *released, *written;
    size_t nreleased, nwritten;
    unsigned until_failure, checkpoints;
};

/* ---- medium ---- */

struct medium *medium_new(void)
{
    struct medium *m = calloc(1, sizeof(*m));
    m->epoch = 1;
    m->log_end = &m->log;
    m->budget = 256;
    m->uuid.b[0] = 7;
    return m;
}

static void log_cut(struct medium *m, uint64_t op)
{
    while (m->log && m->log->op <= op) {
        struct logged *l = m->log;
        m->log = l->next;
        free(l);
    }
    if (!m->log)
        m->log_end = &m->log;
}

void medium_free(struct medium *m)
{
    log_cut(m, UINT64_MAX);
    for (uint32_t i = 0; i < m->segs; i++)
        free(m->seg[i].data);
    for (uint32_t i = 0; i < m->nodes; i++)
        free(m->node[i]);
    free(m->node);
    free(m->seg);
    free(m);
}

struct vd_dev *medium_dev(struct medium *m)
{
    return &m->dev;
}

void medium_fail_nodes(struct medium *m, unsigned n, unsigned times)
{
    m->fail_at = n;
    m->fail_times = times;
}

void medium_budget(struct medium *m, unsigned budget)
{
    m->budget = budget;
}

void medium_give_up(struct medium *m, bool give_up)
{
    m->give_up = give_up;
}

void medium_fail_commits(struct medium *m, int err)
{
    m->fail_commits = err;
}

static struct seg *seg_live(struct medium *m)
{
    uint32_t i = FIRST_SEG;
    while (!m->seg[i].data || !m->seg[i].live)
        i++;
    return &m->seg[i];
}

void medium_damage_live(struct medium *m, int by)
{
    seg_live(m)->live += by;
}

void medium_damage_data(struct medium *m)
{
    seg_live(m)->data[100] ^= 1;
}

/* ---- data segments ---- */

static struct seg *seg_open(struct medium *m, unsigned blocks, uint32_t *id)
{
    if (m->open && m->seg[m->open].used + blocks <= SEG_BLOCKS) {
        *id = m->open;
        return &m->seg[m->open];
    }
    uint32_t i = FIRST_SEG;
    while (i < m->segs && m->seg[i].data)
        i++;
    if (i >= m->segs) {
        m->seg = realloc(m->seg, (i + 1) * sizeof(*m->seg));
        memset(m->seg + m->segs, 0, (i + 1 - m->segs) * sizeof(*m->seg));
        m->segs = i + 1;
    }
    struct seg *s = &m->seg[i]; /* counts of what trees still name here from before stay */
    *s = (struct seg){.live = s->live, .delta = s->delta};
    s->data = vd_alloc_aligned((size_t)SEG_BLOCKS * VD_BLOCK);
    m->open = i;
    *id = i;
    return &m->seg[i];
}

static struct vd_addr data_store(struct medium *m, uint64_t branch, uint64_t lba,
                                 const uint8_t *data, unsigned blocks)
{
    uint32_t id;
    struct seg *s = seg_open(m, blocks, &id);
    struct vd_addr at = {id, s->used * VD_SECTORS_PER_BLOCK};
    memcpy(s->data + (size_t)s->used * VD_BLOCK, data, (size_t)blocks * VD_BLOCK);
    for (unsigned i = 0; i < blocks; i++)
        s->hint[s->used + i] = (struct hint){branch, lba + i};
    s->used += blocks;
    s->last_op = m->ops;
    return at;
}

static uint8_t *data_at(struct medium *m, struct vd_addr a)
{
    assert(a.seg < m->segs && a.sector % VD_SECTORS_PER_BLOCK == 0);
    assert(a.sector / VD_SECTORS_PER_BLOCK < SEG_BLOCKS);
    return m->seg[a.seg].data ? m->seg[a.seg].data + (size_t)a.sector * VD_SECTOR : NULL;
}

/* ---- nodes ---- */

static int node_read(void *ctx, struct vd_addr at, void *buf)
{
    struct vd_pool *p = ctx;
    uint32_t i = at.seg - NODE_SEG;
    vd_fiber_yield();
    if (i >= p->m->nodes || !p->m->node[i])
        return -EIO;
    memcpy(buf, p->m->node[i], OD_NODE_SIZE);
    return 0;
}

static void ptr_note(struct node_ptr **v, size_t *n, const struct node_ptr *ptr)
{
    if ((*n & (*n - 1)) == 0)
        *v = realloc(*v, (*n ? *n * 2 : 1) * sizeof(**v));
    (*v)[(*n)++] = *ptr;
}

static int node_write(void *ctx, const void *node, struct node_ptr *ret)
{
    struct vd_pool *p = ctx;
    struct medium *m = p->m;
    const struct od_node *n = node;
    if (p->until_failure && --p->until_failure == 0)
        return -ENOSPC;
    if (m->nodes == m->node_room) {
        m->node_room = m->node_room ? m->node_room * 2 : 64;
        m->node = realloc(m->node, m->node_room * sizeof(*m->node));
    }
    m->node[m->nodes] = malloc(OD_NODE_SIZE);
    memcpy(m->node[m->nodes], node, OD_NODE_SIZE);
    *ret = (struct node_ptr){.copy = {{NODE_SEG + m->nodes, 0}, {NODE_SEG + m->nodes, 0}},
                             .csum = vd_get64(n->csum)};
    m->nodes++;
    ptr_note(&p->written, &p->nwritten, ret);
    vd_fiber_yield();
    return 0;
}

static void node_release(void *ctx, const struct node_ptr *ptr)
{
    struct vd_pool *p = ctx;
    ptr_note(&p->released, &p->nreleased, ptr);
}

static void node_bad(void *ctx, struct vd_addr at, int err)
{
    fprintf(stderr, "bad node copy %u: %d\n", at.seg, err);
}

static void nodes_drop(struct vd_pool *p, const struct node_ptr *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t at = v[i].copy[0].seg - NODE_SEG;
        free(p->m->node[at]);
        p->m->node[at] = NULL;
    }
}

static const struct forest_io node_io = {node_read, node_write, node_release, node_bad};

/* ---- applying, live and at opening ---- */

static int map_apply(struct vd_pool *p, const struct vd_entry *e, struct vd_addr addr)
{
    struct vd_run run = {
        .lba = e->lba,
        .blocks = e->blocks,
        .born = p->epoch,
        .died = VD_EPOCH_MAX,
        .type = e->type == VD_ENTRY_ZERO ? VD_RUN_ZERO : VD_RUN_DATA,
        .addr = addr,
    };
    memcpy(run.csum, e->csum, sizeof(run.csum));
    return overlay_apply(p->active, e->branch, &run);
}

static int entry_apply(struct vd_pool *p, const struct vd_entry *e, struct vd_addr addr)
{
    switch (e->type) {
    case VD_ENTRY_WRITE:
    case VD_ENTRY_ZERO:
        return map_apply(p, e, addr);
    case VD_ENTRY_RELOCATE:
        return overlay_relocate(p->active, e->branch, e->lba, e->blocks, e->addr, addr);
    case VD_ENTRY_EPOCH:
        p->epoch = e->epoch;
        return p->client->apply(p->arg, e);
    default:
        return p->client->apply(p->arg, e);
    }
}

static int entry_log(struct vd_pool *p, const struct vd_entry *e, struct vd_addr addr)
{
    struct logged *l = calloc(1, sizeof(*l));
    l->e = *e;
    l->addr = addr;
    l->op = p->m->ops;
    if (e->value) {
        memcpy(l->value, e->value, e->value_len);
        l->e.value = l->value;
    }
    *p->m->log_end = l;
    p->m->log_end = &l->next;
    int r = entry_apply(p, e, addr);
    if (r < 0) {
        fprintf(stderr, "applying an entry of type %d failed: %d\n", e->type, r);
        abort();
    }
    return r;
}

static void op_write(struct vd_pool *p, const struct pool_op *op)
{
    uint8_t *all = malloc(op->blocks * VD_BLOCK), *at = all;
    for (int i = 0; i < op->iovcnt; i++) {
        memcpy(at, op->iov[i].iov_base, op->iov[i].iov_len);
        at += op->iov[i].iov_len;
    }
    assert(at == all + op->blocks * VD_BLOCK);
    for (uint64_t i = 0; i < op->blocks;) {
        struct vd_entry e = {.branch = op->branch, .lba = op->lba + i};
        bool zero = vd_is_zero(all + i * VD_BLOCK, VD_BLOCK);
        uint64_t n = 0;
        while (i + n < op->blocks && vd_is_zero(all + (i + n) * VD_BLOCK, VD_BLOCK) == zero &&
               (!n || zero || (e.lba + n) % VD_CELL_BLOCKS)) {
            e.csum[n % VD_CELL_BLOCKS] = vd_xxh3(all + (i + n) * VD_BLOCK, VD_BLOCK);
            n++;
        }
        e.type = zero ? VD_ENTRY_ZERO : VD_ENTRY_WRITE;
        e.blocks = n;
        struct vd_addr addr = {0};
        if (!zero)
            addr = data_store(p->m, e.branch, e.lba, all + i * VD_BLOCK, (unsigned)n);
        entry_log(p, &e, addr);
        i += n;
    }
    free(all);
}

int pool_commit(struct vd_pool *p, struct pool_op *op)
{
    vd_fiber_yield();
    if (p->rdonly || p->failure[0])
        return -EROFS;
    if (p->m->fail_commits)
        return p->m->fail_commits;
    p->m->ops++;
    if (op->count == 0)
        op_write(p, op);
    for (unsigned i = 0; i < op->count; i++)
        entry_log(p, &op->entries[i], (struct vd_addr){0});
    op->seq = p->m->ops;
    vd_fiber_yield();
    return 0;
}

int pool_flush(struct vd_pool *p)
{
    vd_fiber_yield();
    return 0;
}

/* ---- opening ---- */

int pool_open(struct vd_dev *dev, unsigned flags, const struct pool_client_ops *ops, void *client,
              struct vd_pool **ret, struct vd_error *err)
{
    struct vd_pool *p = calloc(1, sizeof(*p));
    p->m = vd_container_of(dev, struct medium, dev);
    p->loop = vd_loop_current();
    p->client = ops;
    p->arg = client;
    p->rdonly = flags & POOL_RDONLY;
    p->active = overlay_new();
    p->epoch = p->m->epoch;
    vd_fmutex_init(&p->checkpoint);
    int r = forest_new(&node_io, p, 7, 256 * 1024, &p->forest);
    for (int t = 0; t < TREE_COUNT; t++)
        forest_set_root(p->forest, t, &p->m->root[t]);
    *ret = p;
    if (r == 0)
        r = ops->load(client);
    for (struct logged *l = p->m->log; r == 0 && l; l = l->next)
        r = entry_apply(p, &l->e, l->addr);
    if (r < 0) {
        vd_fail(err, r, "fake", "opening the fake pool: %d", r);
        pool_abandon(p);
        *ret = NULL;
    }
    return r;
}

void pool_abandon(struct vd_pool *p)
{
    overlay_free(p->active);
    overlay_free(p->frozen);
    forest_free(p->forest);
    free(p->released);
    free(p->written);
    for (uint32_t i = 0; i < p->m->segs; i++)
        p->m->seg[i].delta = 0;
    free(p);
}

int pool_close(struct vd_pool *p, struct vd_error *err)
{
    int r = p->rdonly ? 0 : fake_checkpoint(p);
    pool_abandon(p);
    return r < 0 ? vd_fail(err, r, "fake", "closing: %d", r) : 0;
}

/* ---- state ---- */

struct forest *pool_forest(struct vd_pool *p)
{
    return p->forest;
}

const struct overlay *pool_active(const struct vd_pool *p)
{
    return p->active;
}

const struct overlay *pool_frozen(const struct vd_pool *p)
{
    return p->frozen;
}

uint64_t pool_epoch(const struct vd_pool *p)
{
    return p->epoch;
}

const struct vd_uuid *pool_uuid(const struct vd_pool *p)
{
    return &p->m->uuid;
}

bool pool_read_only(const struct vd_pool *p)
{
    return p->rdonly || p->failure[0];
}

const char *pool_failure(const struct vd_pool *p)
{
    return p->failure;
}

struct vd_loop *pool_loop(const struct vd_pool *p)
{
    return p->loop;
}

struct vd_addr pool_moved(const struct vd_pool *p, struct vd_addr a)
{
    if (p->frozen)
        overlay_moved(p->frozen, a, &a);
    overlay_moved(p->active, a, &a);
    return a;
}

void pool_info(const struct vd_pool *p, struct pool_info *ret)
{
    *ret = (struct pool_info){.live_blocks = fake_live(p), .checkpoints = p->checkpoints};
}

void pool_trim(struct vd_pool *p)
{
}

int pool_read(struct vd_pool *p, struct pool_piece *pieces, int n)
{
    int res = 0;
    /* What is resolved is read at once, as if pinned; then the others get their turn. */
    for (int i = 0; i < n; i++) {
        struct pool_piece *pc = &pieces[i];
        assert((uintptr_t)pc->buf % VD_BLOCK == 0);
        pc->res = 0;
        for (uint32_t b = 0; b < pc->blocks; b++) {
            const uint8_t *at = data_at(p->m, vd_addr_plus(pc->addr, b));
            if (!at || vd_xxh3(at, VD_BLOCK) != pc->csum[b])
                pc->res = -EBADMSG;
            else
                memcpy((uint8_t *)pc->buf + (size_t)b * VD_BLOCK, at, VD_BLOCK);
        }
        res = res ? res : pc->res;
    }
    vd_fiber_yield();
    return res;
}

/* ---- checkpoints ---- */

void pool_merge_live(struct pool_merge *m, struct vd_addr addr, int64_t blocks)
{
    struct medium *md = m->pool->m;
    assert(addr.seg < md->segs);
    md->seg[addr.seg].delta += blocks;
}

int pool_merge_touch(struct pool_merge *m, struct tree_writer *w, enum tree_id t,
                     const struct tree_key *upto)
{
    return 0;
}

void pool_merge_progress(struct pool_merge *m, uint64_t done)
{
}

bool pool_merge_wants(const struct pool_merge *m, enum tree_id t)
{
    return false;
}

/* Segments that neither the trees nor an overlay name are poisoned and free. */
static void segs_free(struct vd_pool *p)
{
    struct medium *m = p->m;
    for (uint32_t i = FIRST_SEG; i < m->segs; i++) {
        struct seg *s = &m->seg[i];
        if (!s->data || s->live || s->last_op > m->root_op || i == m->open)
            continue;
        free(s->data);
        *s = (struct seg){0};
    }
}

static void publish(struct vd_pool *p, const struct pool_merge *pm)
{
    struct medium *m = p->m;
    for (int t = 0; t < TREE_COUNT; t++) {
        m->root[t] = pm->root[t];
        forest_set_root(p->forest, t, &pm->root[t]);
    }
    overlay_free(p->frozen);
    p->frozen = NULL;
    m->epoch = p->frozen_epoch;
    m->root_op = p->frozen_op;
    log_cut(m, m->root_op);
    for (uint32_t i = 0; i < m->segs; i++) {
        m->seg[i].live += m->seg[i].delta;
        m->seg[i].delta = 0;
        assert(m->seg[i].live >= 0 && m->seg[i].live <= SEG_BLOCKS);
    }
    p->client->publish(p->arg);
    nodes_drop(p, p->released, p->nreleased);
    segs_free(p);
    p->checkpoints++;
}

static int checkpoint_try(struct vd_pool *p)
{
    struct pool_merge *pm = calloc(1, sizeof(*pm));
    *pm = (struct pool_merge){
        .pool = p,
        .forest = p->forest,
        .frozen = p->frozen,
        .seq = p->frozen_op,
        .epoch = p->frozen_epoch,
        .incarnation = 1,
        .counter = ++p->m->counter,
        .budget = p->m->budget,
    };
    for (int t = 0; t < TREE_COUNT; t++)
        pm->base[t] = pm->root[t] = *forest_root(p->forest, t);
    p->nreleased = p->nwritten = 0;
    p->until_failure = 0;
    if (p->m->fail_times) {
        p->m->fail_times--;
        p->until_failure = p->m->fail_at;
    }
    int r = p->client->merge(p->arg, pm);
    if (r < 0) {
        nodes_drop(p, p->written, p->nwritten);
        for (uint32_t i = 0; i < p->m->segs; i++)
            p->m->seg[i].delta = 0;
    } else {
        publish(p, pm);
    }
    free(pm);
    return r;
}

int fake_checkpoint(struct vd_pool *p)
{
    vd_fmutex_lock(&p->checkpoint);
    int r = 0;
    if (!p->frozen) {
        struct overlay *fresh = overlay_new();
        r = p->client->freeze(p->arg);
        if (r < 0) {
            overlay_free(fresh);
        } else {
            p->frozen = p->active;
            p->active = fresh;
            p->frozen_epoch = p->epoch;
            p->frozen_op = p->m->ops;
        }
    }
    while (r == 0 && (r = checkpoint_try(p)) == -ENOSPC && !p->m->give_up)
        r = 0;
    vd_fmutex_unlock(&p->checkpoint);
    return r;
}

int pool_checkpoint(struct vd_pool *p)
{
    return fake_checkpoint(p);
}

int pool_settle(struct vd_pool *p, const bool *cancel)
{
    int r = 0;
    for (int i = 0; r == 0 && p->client->backlog(p->arg); i++) {
        assert(i < 10000); /* background work comes to an end */
        r = fake_checkpoint(p);
    }
    return r;
}

int pool_hold_checkpoints(struct vd_pool *p)
{
    vd_fmutex_lock(&p->checkpoint);
    return 0;
}

void pool_release_checkpoints(struct vd_pool *p)
{
    vd_fmutex_unlock(&p->checkpoint);
}

int pool_check(struct vd_pool *p, pool_finding_fn *fn, void *arg, uint64_t *ret_nodes)
{
    *ret_nodes = 0;
    return 0;
}

int pool_segment_live(const struct vd_pool *p, uint32_t seg, uint32_t *ret_live, bool *ret_used,
                      bool *ret_meta)
{
    if (seg >= p->m->segs)
        return -ENOENT;
    *ret_live = (uint32_t)p->m->seg[seg].live;
    *ret_used = p->m->seg[seg].data || p->m->seg[seg].live;
    *ret_meta = false;
    return 0;
}

/* ---- the cleaner ---- */

/* Moves one block if a tree names it and it is still wanted: 1 if it is named, else 0. */
static int block_move(struct vd_pool *p, struct vd_addr from, struct hint h)
{
    struct medium *m = p->m;
    struct pool_owner_query q = {.branch = h.branch, .lba = h.lba, .blocks = 1, .addr = from};
    struct vd_run *run = malloc(VD_CELL_BLOCKS * sizeof(*run));
    uint64_t branch = 0;
    uint32_t gone;
    int n = p->client->owner(p->arg, &q, run, VD_CELL_BLOCKS, &branch, &gone);
    const uint8_t *data = data_at(m, from);
    if (n == 1 && data) {
        assert(run->lba == h.lba && run->blocks == 1 && vd_addr_equal(run->addr, from));
        assert(vd_xxh3(data, VD_BLOCK) == run->csum[0]);
        uint8_t *copy = malloc(VD_BLOCK);
        memcpy(copy, data, VD_BLOCK);
        m->ops++;
        /* In the log that this pool keeps in memory a relocation is an entry like others, and has
         * its new address beside it. The new home says what the branch was called when it moved. */
        struct vd_entry e = {
            .type = VD_ENTRY_RELOCATE, .branch = branch, .lba = h.lba, .blocks = 1, .addr = from};
        struct vd_addr to = data_store(m, branch, h.lba, copy, 1);
        free(copy);
        entry_log(p, &e, to);
    }
    free(run);
    return n < 0 ? n : n + (int)gone;
}

int fake_clean(struct vd_pool *p, struct vd_rng *rng)
{
    struct medium *m = p->m;
    if (m->segs <= FIRST_SEG)
        return 0;
    uint32_t seg = FIRST_SEG + (uint32_t)vd_rng_below(rng, m->segs - FIRST_SEG);
    unsigned roots = p->checkpoints;
    int64_t moved = 0;
    int n = 0;
    /* None that an overlay may point into. */
    if (!m->seg[seg].data || m->seg[seg].last_op > m->root_op || m->seg[seg].victim_op > m->root_op)
        return 0;
    if (seg == m->open)
        m->open = 0;
    for (unsigned i = 0; n >= 0 && roots == p->checkpoints && i < m->seg[seg].used; i++) {
        n = block_move(p, (struct vd_addr){seg, i * VD_SECTORS_PER_BLOCK}, m->seg[seg].hint[i]);
        moved += VD_MAX(n, 0);
    }
    if (n < 0)
        return n;
    m->seg[seg].victim_op = m->ops;
    if (roots != p->checkpoints)
        return 0;
    /* All that the trees name in it must have been found. It is in use again at once. */
    assert(moved == m->seg[seg].live);
    free(m->seg[seg].data);
    m->seg[seg].data = NULL;
    return 0;
}

uint64_t fake_live(const struct vd_pool *p)
{
    uint64_t live = 0;
    for (uint32_t i = 0; i < p->m->segs; i++)
        live += (uint64_t)p->m->seg[i].live;
    return live;
}

uint64_t fake_entries(const struct vd_pool *p, enum tree_id t)
{
    return p->m->root[t].entries;
}

unsigned fake_checkpoints(const struct vd_pool *p)
{
    return p->checkpoints;
}

/* ---- not for a pool in memory ---- */

int pool_format(struct vd_dev *dev, const struct pool_format_options *opt, struct vd_error *err)
{
    return vd_fail(err, -EOPNOTSUPP, "fake", "no devices here");
}

int pool_read_label(struct vd_dev *dev, struct vd_label *ret, struct vd_error *err)
{
    return vd_fail(err, -EOPNOTSUPP, "fake", "no devices here");
}
