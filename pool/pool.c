/* SPDX-License-Identifier: MIT */
/*
 * A pool's life: format, open, close, failure. The order of opening is the proof that what is
 * served is a prefix of what was acknowledged: label, newest root, its table and trees, replay of
 * the log up to its end, and only then, flushed, the cut that keeps a stale tail from ever coming
 * back (I12). Everything here suspends but the accessors.
 */
#include "core/base/text.h"
#include "pool/pool_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define NODE_CACHE_BYTES VD_MIB(64)
#define NODE_CACHE_MOST VD_MIB(192)

void pool_fail(struct vd_pool *p, const char *fmt, ...)
{
    if (!pool_failed(p)) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(p->failure, sizeof(p->failure), fmt, ap);
        va_end(ap);
        vd_log(VD_LOG_ERROR, "%s: %s; the pool is read-only from here on", vd_dev_path(p->dev),
               p->failure);
    }
    vd_wake_all(&p->log.work);
    vd_wake_all(&p->log.idle);
    vd_wake_all(&p->log.settled);
    vd_wake_all(&p->log.flush_done);
    vd_wake_all(&p->space.waiters);
    vd_wake_all(&p->space.paced);
    vd_wake_all(&p->space.kick);
    vd_wake_all(&p->ckpt.finished);
    vd_wake_all(&p->ckpt.kick);
    vd_wake_all(&p->clean.kick);
    vd_wake_all(&p->clean.help);
}

int pool_spawn(struct vd_pool *p, const char *name, void (*fn)(void *arg))
{
    int r = vd_fiber_spawn(p->loop, name, fn, p);
    if (r == 0)
        p->fibers++;
    return r;
}

void pool_fiber_ends(struct vd_pool *p)
{
    p->fibers--;
    vd_wake_all(&p->fiber_ended);
}

static uint32_t chunk_size_for(uint64_t bytes)
{
    if (bytes <= VD_GIB(8))
        return VD_MIB(1);
    if (bytes <= VD_GIB(64))
        return VD_MIB(4);
    if (bytes <= VD_GIB(256))
        return VD_MIB(8);
    if (bytes <= VD_GIB(1024))
        return VD_MIB(16);
    return VD_MIB(32);
}

#define POOL_SEGMENTS_MIN 24u

int pool_format(struct vd_dev *dev, const struct pool_format_options *opt, struct vd_error *err)
{
    struct vd_dev_info info;
    vd_dev_info(dev, &info);
    uint64_t bytes = VD_MAX(opt->size_hint, opt->capacity);
    if (!info.is_file)
        bytes = info.size;
    uint32_t chunk = opt->chunk_size ? opt->chunk_size : chunk_size_for(bytes);
    if (chunk < VD_MIB(1) || chunk > VD_MIB(32) || (chunk & (chunk - 1)))
        return vd_fail(err, -EINVAL, "size-invalid", "chunks must be a power of two, 1 to 32 MiB");
    uint64_t bound = opt->capacity ? opt->capacity : info.is_file ? 0 : info.size;
    if (bound && bound / chunk < POOL_SEGMENTS_MIN)
        return vd_fail(err, -EINVAL, "size-invalid", "a pool needs at least %u MiB",
                       (unsigned)(POOL_SEGMENTS_MIN * (uint64_t)chunk >> 20));

    struct vd_label *l VD_CLEANUP(vd_cleanup_free) = calloc(1, sizeof(*l));
    struct vd_root *r VD_CLEANUP(vd_cleanup_free) = calloc(1, sizeof(*r));
    if (!l || !r)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    struct vd_loop *loop = vd_loop_current();
    struct vd_rng *rng = vd_loop_rng(loop);
    l->major = OD_FORMAT_MAJOR;
    l->minor = OD_FORMAT_MINOR;
    l->dev_count = 1;
    l->chunk_size = chunk;
    l->incompat = OD_INCOMPAT_REFILL;
    l->incarnation = 1;
    l->created_s = vd_loop_wall_s(loop);
    l->capacity = opt->capacity;
    l->root_counter = 1;
    l->redundancy_data = 1;
    l->flags = OD_LABEL_CLEAN;
    snprintf(l->pool_name, sizeof(l->pool_name), "%s", opt->name ? opt->name : "");
    vd_uuid_new(&l->pool_uuid, rng);
    vd_uuid_new(&l->dev_uuid, rng);
    struct vd_logref first = {HEAD_CHUNKS, vd_rng_u64(rng) | 1};
    r->pool_uuid = l->pool_uuid;
    r->incarnation = 1;
    r->counter = 1;
    r->epoch = 1;
    r->log_seg = log_segref(&first);
    r->capacity = opt->capacity;
    head_table_areas(chunk, r->table_off, &r->table_area);
    int res = 0;
    uint64_t size = (HEAD_CHUNKS + 1) * (uint64_t)chunk;
    if (info.is_file && info.size < size)
        res = vd_dev_truncate(dev, size);
    if (res == 0)
        res = head_format(dev, l, r);
    return res < 0 ? vd_fail_at(err, res, "%s cannot be formatted", vd_dev_path(dev)) : 0;
}

int pool_read_label(struct vd_dev *dev, struct vd_label *ret, struct vd_error *err)
{
    return head_read_label(dev, ret, err);
}

static void pool_free(struct vd_pool *p)
{
    if (!p)
        return;
    forest_free(p->forest);
    overlay_free(p->active);
    overlay_free(p->frozen);
    meta_done(p);
    log_done(p);
    refill_end(p);
    cleaner_rest(p);
    touch_list_clear(p);
    for (int i = 0; i < TREE_COUNT; i++)
        free(p->ckpt.touch[i].v);
    segs_free(p);
    vd_dev_close(p->dev);
    free(p);
}

uint64_t pool_inner_nodes(const struct vd_pool *p)
{
    uint64_t n = 0;
    for (int t = 0; t < TREE_COUNT; t++)
        n += forest_root(p->forest, t)->nodes - forest_root(p->forest, t)->leaves;
    return n;
}

/* A look-up should read one node, a leaf: so there is room for all the others, within reason. */
void pool_fit_cache(struct vd_pool *p)
{
    uint64_t bytes = NODE_CACHE_BYTES / 2 + pool_inner_nodes(p) * OD_NODE_SIZE * 9 / 8;
    forest_set_cache(p->forest, VD_MAX(NODE_CACHE_BYTES, VD_MIN(bytes, NODE_CACHE_MOST)));
}

static int pool_load_roots(struct vd_pool *p, struct vd_error *err)
{
    int r = head_read_root(p, err);
    if (r == 0)
        r = head_read_table(p, err);
    if (r < 0)
        return r;
    segs_set_limit(p);
    segs_recount(p);
    memcpy(&p->pool64, p->label.pool_uuid.b, sizeof(p->pool64));
    p->pool64 = le64toh(p->pool64);
    r = forest_new(&pool_forest_io, p, p->pool64, NODE_CACHE_BYTES, &p->forest);
    if (r < 0)
        return vd_fail(err, r, "no-memory", "out of memory");
    for (int t = 0; t < TREE_COUNT; t++) {
        const struct vd_tree_root *o = &p->root.tree[t];
        struct tree_root root = {
            .ptr = {.copy = {o->copy[0], o->copy[1]}, .csum = o->csum},
            .height = o->height,
            .entries = o->entries,
            .leaves = o->leaves,
            .nodes = o->nodes,
        };
        forest_set_root(p->forest, t, &root);
    }
    pool_fit_cache(p);
    p->epoch = p->root.epoch;
    return 0;
}

/* Takes the next incarnation and a fresh log segment. */
static int session_begin(struct vd_pool *p)
{
    uint32_t seg;
    int r = seg_open(p, VD_STREAM_LOG, &seg);
    if (r < 0)
        return r;
    p->label.incarnation = VD_MAX(p->label.incarnation, p->root.incarnation) + 1;
    p->log.incarnation = p->label.incarnation;
    p->log.cur = (struct vd_logref){seg, p->segs.v[seg].rid};
    p->log.block = 0;
    p->log.next_seq = p->log.applied_seq + 1;
    p->log.prev_csum = p->log.applied_csum;
    return 0;
}

/* Durably cuts whatever lies behind the log's end: only then may anything be served. */
static int session_cut(struct vd_pool *p, uint64_t incarnation)
{
    struct vd_label *l = &p->label;
    l->cut[l->cut_count++] = (struct vd_cut){
        .incarnation = incarnation,
        .last_seq = p->log.applied_seq,
        .last_csum = p->log.applied_csum,
        .next = log_segref(&p->log.cur),
    };
    memcpy(l->cut[l->cut_count - 1].log_next, p->log.next, sizeof(p->log.next));
    l->flags &= (uint8_t)~OD_LABEL_CLEAN;
    l->root_counter = p->root.counter;
#ifdef VD_PLANT_TAIL_COMES_BACK
    return 0;
#endif
    /* What was replayed is verified, but not known to be flushed; the label promises it. */
    int r = vd_dev_flush(p->dev);
    if (r == 0)
        r = head_write_label(p);
    p->log.durable_seq = p->log.applied_seq;
    return r;
}

/* The label holds few cuts, and a crash leaves log segments that only a root gives free. When
 * either runs short a root is written first; it cuts as well as they do, since it names the fresh
 * segment as the place where the log goes on. The second root names that segment's successors. */
static int session_root(struct vd_pool *p)
{
    int r = checkpoint_run(p);
    if (r == 0)
        r = log_reserve(p);
    if (r == 0)
        r = checkpoint_run(p);
    if (r < 0)
        return r;
    p->label.flags &= (uint8_t)~OD_LABEL_CLEAN;
    p->label.root_counter = p->root.counter;
    return head_write_label(p);
}

static bool seg_was_emptied(const struct pool_seg *s)
{
    /* The root may be younger than the entry: then nodes may have come to lie there since. */
    return s->state == VD_SEG_CLOSED && s->emptied &&
           (s->stream == VD_STREAM_LOG || s->stream == VD_STREAM_CLEAN);
}

/* Segments that the cleaner had emptied are free again, once the relocations that say so are
 * certainly durable: a pool that was nearly full has no other space to open with. */
static int release_emptied(struct vd_pool *p)
{
    bool any = false;
    for (uint32_t i = 0; i < p->segs.count; i++)
        any |= seg_was_emptied(&p->segs.v[i]);
    int r = any ? vd_dev_flush(p->dev) : 0;
    for (uint32_t i = 0; r == 0 && i < p->segs.count; i++)
        if (seg_was_emptied(&p->segs.v[i])) {
            p->segs.v[i].ghosts_until = p->root.counter + 1;
            seg_release(p, i);
        }
    return r;
}

static int pool_start(struct vd_pool *p, struct vd_error *err)
{
    uint64_t before = VD_MAX(p->label.incarnation, p->root.incarnation);
    segs_ask_host(p);
    maps_load(p);
    int r = head_heal_root(p);
    if (r == 0)
        r = replay_tail_rewrite(p);
    if (r == 0)
        r = release_emptied(p);
    if (r == 0)
        r = session_begin(p);
    reserve_update(p);
    uint32_t want = space_idle_segments(p) - 1, have = p->segs.free_backed;
    bool scarce = r == 0 && have < want && segs_back(p, want - have) < want - have;
    if (r == 0 && (scarce || p->label.cut_count == OD_LABEL_CUTS)) {
        r = session_root(p);
    } else if (r == 0) {
        r = log_reserve(p);
        if (r == 0)
            r = session_cut(p, before);
    }
    if (r == 0)
        r = log_start(p);
    refill_count(p);
    if (r == 0)
        r = space_start(p);
    return r < 0 ? vd_fail_at(err, r, "%s cannot be opened for writing", vd_dev_path(p->dev)) : 0;
}

/* Ends the pool's own fibers. */
static void pool_stop_fibers(struct vd_pool *p)
{
    p->closing = true;
    vd_wake_all(&p->log.work);
    vd_wake_all(&p->space.kick);
    vd_wake_all(&p->space.waiters);
    vd_wake_all(&p->space.paced);
    vd_wake_all(&p->ckpt.kick);
    vd_wake_all(&p->clean.kick);
    vd_wake_all(&p->clean.help);
    vd_wake_all(&p->refill.untidy);
    while (p->fibers)
        vd_wait(&p->fiber_ended);
}

int pool_open(struct vd_dev *dev, unsigned flags, const struct pool_client_ops *ops, void *client,
              struct vd_pool **ret, struct vd_error *err)
{
    struct vd_pool *p = calloc(1, sizeof(*p));
    if (!p) {
        vd_dev_close(dev);
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    p->loop = vd_loop_current();
    p->dev = dev;
    p->client = ops;
    p->client_arg = client;
    p->rdonly = flags & POOL_RDONLY;
    vd_waitq_init(&p->fiber_ended);
    vd_waitq_init(&p->ckpt.finished);
    vd_waitq_init(&p->ckpt.kick);
    vd_waitq_init(&p->behind.ended);
    vd_waitq_init(&p->clean.kick);
    vd_waitq_init(&p->clean.idle);
    vd_waitq_init(&p->clean.help);
    vd_waitq_init(&p->space.waiters);
    vd_waitq_init(&p->space.kick);
    vd_waitq_init(&p->space.paced);
    log_init(p);
    refill_init(p);
    int r = head_read_label(dev, &p->label, err);
    if (r == 0) {
        p->chunk_size = p->label.chunk_size;
        p->chunk_shift = (unsigned)__builtin_ctz(p->chunk_size);
        p->seg_blocks = p->chunk_size / VD_BLOCK;
        p->active = overlay_new();
        r = p->active ? meta_init(p) : -ENOMEM;
        if (r < 0)
            vd_fail(err, r, "no-memory", "out of memory");
    }
    if (r == 0)
        r = pool_load_roots(p, err);
    if (r == 0) {
        *ret = p; /* the client's load reads through it */
        r = ops->load(client);
        if (r < 0)
            vd_fail_at(err, r, "%s: the catalogue cannot be read", vd_dev_path(dev));
    }
    if (r == 0)
        r = pool_replay(p, err);
    if (r == 0 && !p->rdonly)
        r = pool_start(p, err);
    if (r < 0) {
        pool_stop_fibers(p);
        pool_free(p);
        *ret = NULL;
    }
    return r;
}

int pool_close(struct vd_pool *p, struct vd_error *err)
{
    int r = 0;
    if (!p->rdonly && !pool_failed(p)) {
        cleaner_stop(p); /* what it moved is to be in the last root */
        if (p->log.applied_seq > p->root.seq)
            r = checkpoint_run(p);
        pool_stop_fibers(p);
        /* An idle image owns only what it needs: also to be opened and to delete something when its
         * host has become full. */
        if (r == 0) {
            reserve_update(p);
            segs_trim(p, space_idle_segments(p));
        }
        if (r == 0 && !pool_failed(p)) {
            maps_store(p);
            p->label.flags |= OD_LABEL_CLEAN;
            p->label.root_counter = p->root.counter;
            r = head_write_label(p);
        }
    } else {
        if (pool_failed(p))
            r = -EROFS;
        pool_stop_fibers(p);
    }
    if (r < 0)
        vd_fail(err, r, "pool-failed", "%s was not closed cleanly: %s", vd_dev_path(p->dev),
                pool_failed(p) ? p->failure : strerror(-r));
    pool_free(p);
    return r;
}

void pool_abandon(struct vd_pool *p)
{
    if (!pool_failed(p))
        snprintf(p->failure, sizeof(p->failure), "abandoned");
    pool_stop_fibers(p);
    pool_free(p);
}

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
    return &p->label.pool_uuid;
}

bool pool_read_only(const struct vd_pool *p)
{
    return p->rdonly || pool_failed(p);
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
    /* At most one move per checkpoint, so at most one in each overlay. */
    if (p->frozen)
        overlay_moved(p->frozen, a, &a);
    overlay_moved(p->active, a, &a);
    return a;
}

void pool_info(const struct vd_pool *p, struct pool_info *ret)
{
    struct vd_dev_info dev;
    vd_dev_info(p->dev, &dev);
    *ret = (struct pool_info){
        .created_s = p->label.created_s,
        .capacity =
            p->label.capacity ? p->label.capacity : (uint64_t)p->segs.limit << p->chunk_shift,
        .allocated = dev.allocated,
        .live_blocks = p->root.live_blocks,
        .log_bytes = p->log.window_bytes,
        .reserved = p->space.reserved * VD_BLOCK,
        .chunk_size = p->chunk_size,
        .major = p->label.major,
        .minor = p->label.minor,
        .segments = p->segs.count,
        .free_segments = p->segs.free_backed + p->segs.free_cold,
        .checkpoints = p->stats.checkpoints,
        .cleaned_segments = p->stats.cleaned,
        .guest_bytes = p->stats.guest_blocks * VD_BLOCK,
        .device_bytes = p->dev->stats.write_bytes,
        .cleaning = cleaner_busy(p),
    };
    snprintf(ret->name, sizeof(ret->name), "%s", p->label.pool_name);
    for (int t = 0; t < TREE_COUNT; t++)
        ret->metadata += forest_root(p->forest, t)->nodes * OD_NODE_SIZE * 2;
}

void pool_trim(struct vd_pool *p)
{
    forest_set_cache(p->forest, 0); /* keeps a few */
    forest_set_cache(p->forest, NODE_CACHE_BYTES);
}

int pool_segment_live(const struct vd_pool *p, uint32_t seg, uint32_t *ret_live, bool *ret_used,
                      bool *ret_meta)
{
    if (seg >= p->segs.count)
        return -ENOENT;
    const struct pool_seg *s = &p->segs.v[seg];
    *ret_live = s->live;
    *ret_meta = seg_holds_nodes(s);
    /* Free with something live in it: emptied by the cleaner, the trees do not know yet. */
    bool used = s->state == VD_SEG_OPEN || s->state == VD_SEG_CLOSED || s->live;
    *ret_used = used && (!*ret_meta || seg_has_ghosts(p, s));
    return 0;
}
