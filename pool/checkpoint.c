/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints. At sequence C the active overlay is frozen and a fresh one takes its place; the
 * client merges the frozen one into new trees while I/O goes on; then, in this order (I4): nodes
 * and table are written, the device is flushed (which covers data and log <= C as well), the root
 * is written and flushed, the new trees are published in memory, and only then may segments that
 * the root forgets be used again (I5). A failed merge leaves the old root, and the frozen overlay
 * stays to be merged again.
 */
#include "pool/map_priv.h"

#include <stdlib.h>

#define WINDOW_MIN VD_MIB(16)
#define WINDOW_MAX VD_GIB(1)
#define FAILURES_MAX 3
#define BACKGROUND_MAX 2048u /* leaves of purging and folding per checkpoint */
#define BACKGROUND_NODES 4u  /* that each may change */

uint64_t checkpoint_window(const struct vd_pool *p)
{
    uint64_t used = (uint64_t)p->segs.used * p->chunk_size;
    uint64_t window = VD_MAX(WINDOW_MIN, VD_MIN(WINDOW_MAX, used / 8));
    /* Where space is scarce, what lies overwritten in the window must come free sooner. */
    uint64_t live = p->root.live_blocks * VD_BLOCK;
    uint64_t all = (uint64_t)p->segs.limit << p->chunk_shift;
    uint64_t slack = all > live ? all - live : 0;
    return VD_MAX(WINDOW_MIN, VD_MIN(window, slack / 2));
}

void checkpoint_want(struct vd_pool *p)
{
    p->ckpt.wanted = true;
    vd_wake_all(&p->ckpt.kick);
}

/* Where record `applied_seq + 1` is or will be: what the coming root says replay starts at. */
static void note_log_position(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    struct vd_list *list = !vd_list_empty(&l->group) ? &l->group : &l->inflight;
    struct vd_logref at = l->cur;
    uint32_t block = l->block;
    memcpy(p->ckpt.log_next, l->next, sizeof(l->next));
    if (!vd_list_empty(list)) {
        const struct log_rec *rec = vd_container_of(list->next, struct log_rec, link);
        at = (struct vd_logref){rec->at.seg, rec->rec.rid};
        block = rec->at.sector / VD_SECTORS_PER_BLOCK;
        memcpy(p->ckpt.log_next, rec->rec.next, sizeof(p->ckpt.log_next));
    }
    p->ckpt.log_seg = log_segref(&at);
    p->ckpt.log_sector = block * VD_SECTORS_PER_BLOCK;
    p->ckpt.seq = l->applied_seq;
    p->ckpt.csum = l->applied_csum;
    p->ckpt.epoch = p->epoch;
    p->ckpt.window = l->window_bytes;
    p->ckpt.spent = l->spent;
}

static int freeze(struct vd_pool *p)
{
    struct overlay *fresh = overlay_new();
    if (!fresh)
        return -ENOMEM;
    int r = p->client->freeze(p->client_arg);
    if (r < 0) {
        overlay_free(fresh);
        return r;
    }
    p->frozen = p->active;
    p->active = fresh;
    p->ckpt.progress = 0;
    p->ckpt.zeroed = p->space.zeroed;
    p->space.zeroed = 0;
    reserve_frozen(p);
    note_log_position(p);
    return 0;
}

void pool_merge_live(struct pool_merge *m, struct vd_addr addr, int64_t blocks)
{
    if (addr.seg >= m->pool->segs.count)
        return;
    m->pool->segs.v[addr.seg].delta += (int32_t)blocks;
    map_merge(m->pool, addr, (uint64_t)(blocks < 0 ? -blocks : blocks));
}

bool pool_merge_wants(const struct pool_merge *m, enum tree_id t)
{
    return m->pool->ckpt.touch[t].pos < m->pool->ckpt.touch[t].count;
}

int pool_merge_touch(struct pool_merge *m, struct tree_writer *w, enum tree_id t,
                     const struct tree_key *upto)
{
    struct touch_list *l = &m->pool->ckpt.touch[t];
    for (; l->pos < l->count && tree_key_cmp(&l->v[l->pos].key, upto) < 0; l->pos++) {
        int r = tree_writer_touch(w, &l->v[l->pos].key, l->v[l->pos].level);
        if (r < 0)
            return r;
    }
    return 0;
}

void pool_merge_progress(struct pool_merge *m, uint64_t done)
{
    struct vd_pool *p = m->pool;
    size_t all = overlay_entries(m->frozen);
    uint64_t progress = all ? VD_MIN(done, all) * MERGE_ALL / all : MERGE_ALL;
    if (progress != p->ckpt.progress && !vd_waitq_empty(&p->space.paced))
        vd_wake_all(&p->space.paced);
    p->ckpt.progress = progress;
}

/* Purging and folding go on in a full pool too, slowly: the reserve has room for the least. */
static unsigned background_budget(struct vd_pool *p)
{
    if (!p->client->backlog(p->client_arg))
        return 0;
    reserve_update(p);
    uint64_t least = RESERVE_BACKGROUND_NODES / BACKGROUND_NODES,
             most = reserve_spare_nodes(p) / 2 / BACKGROUND_NODES;
    return (unsigned)VD_MIN(VD_MAX(least, most), (uint64_t)BACKGROUND_MAX);
}

static int merge(struct vd_pool *p, struct vd_root *root, struct pool_merge *m)
{
    *m = (struct pool_merge){
        .pool = p,
        .forest = p->forest,
        .frozen = p->frozen,
        .seq = p->ckpt.seq,
        .epoch = p->ckpt.epoch,
        .incarnation = root->incarnation,
        .counter = root->counter,
        .budget = background_budget(p),
    };
    for (int t = 0; t < TREE_COUNT; t++) {
        m->base[t] = m->root[t] = *forest_root(p->forest, t);
        p->ckpt.touch[t].pos = 0;
    }
    p->ckpt.merging = true;
    p->ckpt.progress = 0;
    p->ckpt.nodes_before = p->stats.written[VD_STREAM_META_A];
    p->ckpt.nodes_beside += m->budget * BACKGROUND_NODES;
    uint64_t most = reserve_frozen_nodes(p);
    uint32_t free = p->segs.free_backed;
    int r = p->client->merge(p->client_arg, m);
    if (r == 0)
        r = meta_flush(p);
    vd_log(VD_LOG_DEBUG,
           "%s: a merge of %zu entries (%zu relocations) wrote %" PRIu64 " nodes, at most %" PRIu64
           " were expected, %" PRIu64 " of them beside; free segments %u, then %u; %u hold nodes",
           vd_dev_path(p->dev), overlay_entries(p->frozen), overlay_relocations(p->frozen),
           p->stats.written[VD_STREAM_META_A] - p->ckpt.nodes_before, most, p->ckpt.nodes_beside,
           free, p->segs.free_backed, p->segs.meta);
    for (int t = 0; r == 0 && t < TREE_COUNT; t++) {
        const struct tree_root *o = &m->root[t];
        root->tree[t] = (struct vd_tree_root){
            .copy = {o->ptr.copy[0], o->ptr.copy[1]},
            .csum = o->ptr.csum,
            .height = o->height,
            .entries = o->entries,
            .leaves = o->leaves,
            .nodes = o->nodes,
        };
    }
    return r;
}

static uint64_t count_live(const struct vd_pool *p)
{
    uint64_t live = 0;
    for (uint32_t i = 0; i < p->segs.count; i++) {
        const struct pool_seg *s = &p->segs.v[i];
        if (s->stream == VD_STREAM_LOG || s->stream == VD_STREAM_CLEAN)
            live += (uint64_t)((int64_t)s->live + s->delta);
    }
    return live;
}

/* Table, flush, root. `freed` gets what the root forgets. */
static int write_root(struct vd_pool *p, struct vd_root *root, bool *freed)
{
    for (uint32_t i = 0; i < p->segs.count; i++) {
        const struct pool_seg *s = &p->segs.v[i];
        if ((int64_t)s->live + s->delta < 0 ||
            (int64_t)s->live + s->delta > 2 * (int64_t)p->seg_blocks) {
            pool_fail(p, "segment %u would hold %" PRId64 " live blocks", i,
                      (int64_t)s->live + s->delta);
            return -EUCLEAN;
        }
        freed[i] = p->segs.v[i].doomed = seg_freeable(p, i, p->ckpt.seq);
    }
    root->live_blocks = count_live(p);
    int r = head_write_table(p, root, freed);
#ifndef VD_PLANT_ROOT_BEFORE_NODES
    if (r == 0)
        r = log_flush_now(p);
#endif
    if (r == 0 && pool_failed(p))
        r = -EIO;
    if (r < 0)
        return r;
    r = head_write_root(p, root);
    if (r < 0) /* it may be durable all the same: nothing may be built on either */
        pool_fail(p, "the root cannot be written: %s", strerror(-r));
    return r;
}

static void publish_segment(struct vd_pool *p, uint32_t i, uint64_t seq)
{
    struct pool_seg *s = &p->segs.v[i];
    s->live = (uint32_t)((int64_t)s->live + s->delta);
    s->stuck = s->stuck && s->delta == 0;
    s->delta = 0;
    if (!s->victim || s->pins || s->victim_seq > seq)
        return;
    s->victim = false;
    s->stuck = s->live != 0;
    /* The owners of what is left may be gone, and the trees not purged of them yet. */
    if (s->stuck && !s->rotten && !p->client->backlog(p->client_arg))
        vd_log(VD_LOG_WARNING, "%s: segment %u cannot be emptied: %u live blocks are not found",
               vd_dev_path(p->dev), i, s->live);
}

static void publish(struct vd_pool *p, const struct vd_root *root, const struct pool_merge *m,
                    const bool *freed, uint32_t count)
{
    space_merged(p, root);
    p->root = *root;
    /* Cuts of sessions before this root's are history. */
    p->label.cut_count = 0;
    for (int t = 0; t < TREE_COUNT; t++)
        forest_set_root(p->forest, t, &m->root[t]);
    overlay_free(p->frozen);
    p->frozen = NULL;
    for (uint32_t i = 0; i < p->segs.count; i++)
        publish_segment(p, i, root->seq);
    refill_merge_ends(p, true);
    p->log.window_bytes -= VD_MIN(p->ckpt.window, p->log.window_bytes);
    p->ckpt.spent_at_root = p->ckpt.spent;
    pool_fit_cache(p);
    p->client->publish(p->client_arg);
    for (uint32_t i = 0; i < count; i++)
        if (freed[i]) {
            p->segs.v[i].doomed = false;
            if (p->segs.v[i].pins == 0)
                seg_release(p, i);
            else
                map_drop(p, i); /* the root says that it is free: nothing may be put there */
        }
    p->stats.checkpoints++;
    vd_log(VD_LOG_DEBUG,
           "%s: root %" PRIu64 "; blocks so far: %" PRIu64 " of guests; %" PRIu64
           " to the log (%" PRIu64 " headers), %" PRIu64 " by the cleaner from %" PRIu64
           " segments, %" PRIu64 " of nodes, %" PRIu64 " to dead places; window %" PRIu64 " MiB",
           vd_dev_path(p->dev), root->counter, p->stats.guest_blocks,
           p->stats.written[VD_STREAM_LOG], p->stats.records, p->stats.written[VD_STREAM_CLEAN],
           p->stats.cleaned, 2 * p->stats.written[VD_STREAM_META_A], p->stats.refilled,
           p->ckpt.window >> 20);
    reserve_update(p);
}

static int checkpoint_once(struct vd_pool *p)
{
    int r = 0;
    if (!p->frozen) {
        /* A root covers complete records only. */
        log_hold(p);
        r = pool_failed(p) ? -EIO : freeze(p);
        log_go_on(p);
    }
    if (r < 0)
        return r;
    r = cleaner_touch_meta(p);
    struct vd_root *root VD_CLEANUP(vd_cleanup_free) = malloc(sizeof(*root));
    bool *freed VD_CLEANUP(vd_cleanup_free) = NULL;
    struct pool_merge *m VD_CLEANUP(vd_cleanup_free) = malloc(sizeof(*m));
    if (!root || !m)
        return -ENOMEM;
    *root = p->root;
    root->incarnation = p->log.incarnation;
    root->counter = p->root.counter + 1;
    root->seq = p->ckpt.seq;
    root->epoch = p->ckpt.epoch;
    root->log_seg = p->ckpt.log_seg;
    root->log_sector = p->ckpt.log_sector;
    memcpy(root->log_next, p->ckpt.log_next, sizeof(root->log_next));
    root->log_csum = p->ckpt.csum;
    if (r == 0)
        r = refill_checkpoint(p);
    if (r == 0)
        r = merge(p, root, m);
    p->ckpt.merging = false;
    p->ckpt.nodes_beside = 0;
    uint32_t count = p->segs.count;
    if (r == 0) {
        freed = calloc(count, sizeof(*freed));
        r = freed ? write_root(p, root, freed) : -ENOMEM;
    }
    if (r < 0) {
        for (uint32_t i = 0; i < p->segs.count; i++) {
            p->segs.v[i].delta = 0;
            p->segs.v[i].doomed = false;
        }
        refill_merge_ends(p, false);
        return r;
    }
    publish(p, root, m, freed, count);
    return 0;
}

int checkpoint_run(struct vd_pool *p)
{
    /* One that is under way froze before this call: it may not include everything. */
    while (p->ckpt.running && !pool_failed(p))
        vd_wait(&p->ckpt.finished);
    if (pool_failed(p))
        return -EROFS;
    uint64_t want = p->log.applied_seq, from = vd_loop_now_ns(p->loop);
    p->ckpt.running = true;
    int r;
    do {
        r = checkpoint_once(p);
    } while (r == 0 && p->root.seq < want && !pool_failed(p));
    p->ckpt.running = false;
    p->ckpt.wanted = false;
    p->ckpt.ended_ns = vd_loop_now_ns(p->loop);
    p->ckpt.last_error = r;
    p->ckpt.failures = r < 0 ? p->ckpt.failures + 1 : 0;
    if (r < 0)
        vd_log(VD_LOG_WARNING, "%s: a checkpoint failed: %s", vd_dev_path(p->dev), strerror(-r));
    else
        vd_log(VD_LOG_DEBUG, "%s: a checkpoint took %" PRIu64 " ms", vd_dev_path(p->dev),
               (p->ckpt.ended_ns - from) / 1000000);
    if (p->ckpt.failures >= FAILURES_MAX || r == -EUCLEAN || r == -EBADMSG)
        pool_fail(p, "checkpoints fail: %s", strerror(-r));
    p->ckpt.done++;
    vd_wake_all(&p->ckpt.finished);
    if (p->space.waiting)
        vd_wake_all(&p->space.waiters);
    vd_wake_all(&p->space.paced);
    space_kick(p);
    return r;
}

int pool_hold_checkpoints(struct vd_pool *p)
{
    if (p->rdonly)
        return 0;
    while (p->ckpt.running && !pool_failed(p))
        vd_wait(&p->ckpt.finished);
    if (pool_failed(p))
        return -EROFS;
    p->ckpt.running = p->ckpt.held = true;
    return 0;
}

void pool_release_checkpoints(struct vd_pool *p)
{
    if (p->rdonly)
        return;
    p->ckpt.running = p->ckpt.held = false;
    vd_wake_all(&p->ckpt.finished);
}

int pool_checkpoint(struct vd_pool *p)
{
    if (pool_read_only(p))
        return -EROFS;
    return checkpoint_run(p);
}

static void checkpointer(void *arg)
{
    struct vd_pool *p = arg;
    while (!p->closing && !pool_failed(p)) {
        if (!p->ckpt.wanted) {
            vd_wait(&p->ckpt.kick);
            continue;
        }
        if (checkpoint_run(p) < 0 && !p->closing && !pool_failed(p))
            vd_wait_for(&p->ckpt.kick, UINT64_C(1000000000));
    }
    pool_fiber_ends(p);
}

int checkpoint_start(struct vd_pool *p)
{
    return pool_spawn(p, "checkpointer", checkpointer);
}

int pool_settle(struct vd_pool *p, const bool *cancel)
{
    for (;;) {
        if (pool_read_only(p))
            return -EROFS;
        if (cancel && *cancel)
            return -ECANCELED;
        int emptied = space_may_grow(p) ? 0 : cleaner_batch(p, false);
        if (emptied < 0)
            return emptied;
        bool backlog = p->client->backlog(p->client_arg);
        if (emptied == 0 && !backlog)
            return 0;
        if (backlog || space_may_grow(p) || emptied == 0) {
            int r = checkpoint_run(p);
            if (r < 0)
                return r;
        }
    }
}
