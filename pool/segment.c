/* SPDX-License-Identifier: MIT */
/*
 * Segments: allocation, release, the host's space behind them. On one device segment n is chunk n.
 *
 *   NONE/absent --grow--> FREE --seg_open--> OPEN --seg_close--> CLOSED --a root forgets it--> FREE
 *
 * I5: CLOSED -> FREE happens (seg_release) when nobody has the segment pinned and either the root
 * that forgets it is durable, or all that the trees name in it was moved elsewhere by relocations
 * that are durable: whoever starts from the root finds them in the log (docs/decisions/0003).
 * seg_open, segs_back and segs_trim suspend, the rest does not.
 */
#include "core/base/text.h"
#include "pool/map_priv.h"

#include <stdlib.h>

#define HOST_FULL_RETRY_NS UINT64_C(5000000000)

int segs_init(struct vd_pool *p, uint32_t count)
{
    p->segs.room = VD_MAX(count, 64u);
    p->segs.v = calloc(p->segs.room, sizeof(*p->segs.v));
    if (!p->segs.v)
        return -ENOMEM;
    p->segs.count = count;
    vd_fmutex_init(&p->segs.alloc_lock);
    return 0;
}

void segs_free(struct vd_pool *p)
{
    for (uint32_t i = 0; p->segs.v && i < p->segs.count; i++)
        map_drop(p, i);
    free(p->segs.v);
    p->segs.v = NULL;
}

/* How many segments there may be: by the table's area, the capacity asked for, and the device. */
void segs_set_limit(struct vd_pool *p)
{
    struct vd_dev_info info;
    vd_dev_info(p->dev, &info);
    uint64_t limit = head_table_limit(p->root.table_area);
    if (p->label.capacity)
        limit = VD_MIN(limit, p->label.capacity >> p->chunk_shift);
    if (!info.is_file)
        limit = VD_MIN(limit, info.size >> p->chunk_shift);
    p->segs.limit = (uint32_t)VD_MAX(limit, p->segs.count);
}

void segs_recount(struct vd_pool *p)
{
    struct pool_segments *s = &p->segs;
    s->free_backed = s->free_cold = s->used = s->meta = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->v[i].state == VD_SEG_FREE) {
            (*(s->v[i].backed ? &s->free_backed : &s->free_cold))++;
        } else if (s->v[i].state == VD_SEG_OPEN || s->v[i].state == VD_SEG_CLOSED) {
            s->used++;
            s->meta += seg_holds_nodes(&s->v[i]);
        }
    }
    s->low_hint = 0;
}

/* A table says what was true when its root was written. Since then segments may have been given
 * back to the host, and others written; the host knows. */
void segs_ask_host(struct vd_pool *p)
{
    struct pool_segments *s = &p->segs;
    uint64_t unwritten = 0; /* the first byte, as far as is known */
    for (uint32_t i = 0; i < s->count; i++) {
        uint64_t off = seg_off(p, i);
        if (unwritten <= off)
            unwritten = vd_dev_unwritten(p->dev, off);
        s->v[i].warm = off + p->chunk_size <= unwritten;
        if (s->v[i].state == VD_SEG_FREE)
            s->v[i].backed = s->v[i].warm;
    }
    segs_recount(p);
}

/* Is this an address of data or nodes: inside a segment in use? For what comes from disk (I6). */
bool seg_valid(const struct vd_pool *p, struct vd_addr a, uint64_t blocks)
{
    return a.seg < p->segs.count && a.sector % VD_SECTORS_PER_BLOCK == 0 &&
           a.sector / VD_SECTORS_PER_BLOCK + blocks <= p->seg_blocks &&
           (p->segs.v[a.seg].state == VD_SEG_OPEN || p->segs.v[a.seg].state == VD_SEG_CLOSED);
}

bool seg_header(const struct vd_pool *p, struct vd_addr at, const void *header,
                struct vd_record *ret)
{
    return record_decode(header, ret) == 0 && ret->pool == p->pool64 &&
           vd_addr_equal(ret->at, at) && addr_block(at) + 1 + ret->payload_blocks <= p->seg_blocks;
}

static bool host_refuses(struct vd_pool *p)
{
    if (p->segs.host_full && vd_loop_now_ns(p->loop) - p->segs.host_full_ns > HOST_FULL_RETRY_NS)
        p->segs.host_full = false;
    return p->segs.host_full;
}

/* Gives segment `i` host space. VD_YIELDS */
static int seg_back(struct vd_pool *p, uint32_t i)
{
    int r = vd_dev_allocate(p->dev, seg_off(p, i), p->chunk_size);
    if (r == -EOPNOTSUPP) {
        /* P4 is best effort on such a host; growing the file is all there is to do. */
        struct vd_dev_info info;
        vd_dev_info(p->dev, &info);
        r = 0;
        if (info.size < seg_off(p, i) + p->chunk_size)
            r = vd_dev_truncate(p->dev, seg_off(p, i) + p->chunk_size);
    }
    if (r == -ENOSPC || r == -EDQUOT || r == -EFBIG) {
        p->segs.host_full = true;
        p->segs.host_full_ns = vd_loop_now_ns(p->loop);
        r = -ENOSPC;
    }
    return r;
}

int segs_add(struct vd_pool *p)
{
    struct pool_segments *s = &p->segs;
    if (s->count >= s->limit)
        return -ENOSPC;
    if (s->count == s->room) {
        struct pool_seg *v = realloc(s->v, sizeof(*v) * s->room * 2);
        if (!v)
            return -ENOMEM;
        s->v = v;
        s->room *= 2;
    }
    s->v[s->count++] = (struct pool_seg){.state = VD_SEG_FREE};
    s->free_cold++;
    return 0;
}

/* The caller holds alloc_lock. Index of a segment that is free and has not got host space, grown if
 * there is none. */
static int64_t seg_find_cold(struct vd_pool *p)
{
    struct pool_segments *s = &p->segs;
    if (s->free_cold == 0) {
        int r = segs_add(p);
        return r < 0 ? r : (int64_t)s->count - 1;
    }
    for (uint32_t i = 0; i < s->count; i++)
        if (s->v[i].state == VD_SEG_FREE && !s->v[i].backed && s->v[i].pins == 0)
            return i;
    return -ENOSPC;
}

/* The table's areas get host space before there are segments to list in it. */
static int table_back(struct vd_pool *p)
{
    if (p->segs.count + 1 < p->segs.table_backed)
        return 0;
    uint32_t entries = p->segs.count + p->segs.count / 4 + 2048;
    uint64_t len = VD_MIN(table_size(entries, table_entry_size(1)), p->root.table_area);
    for (unsigned i = 0; i < 4; i++) {
        int r = vd_dev_allocate(p->dev, p->root.table_off[i], len);
        if (r < 0 && r != -EOPNOTSUPP)
            return r;
    }
    p->segs.table_backed = entries;
    return 0;
}

static uint32_t segs_back_locked(struct vd_pool *p, uint32_t want)
{
    uint32_t n = 0;
    while (n < want && !host_refuses(p)) {
        if (table_back(p) < 0)
            break;
        int64_t i = seg_find_cold(p);
        if (i < 0 || seg_back(p, (uint32_t)i) < 0)
            break;
        p->segs.v[i].backed = true;
        p->segs.free_cold--;
        p->segs.free_backed++;
        n++;
    }
    return n;
}

uint32_t segs_back(struct vd_pool *p, uint32_t want)
{
    vd_fmutex_lock(&p->segs.alloc_lock);
    uint32_t n = segs_back_locked(p, want);
    vd_fmutex_unlock(&p->segs.alloc_lock);
    return n;
}

/* A backed free segment: for the log one written before, since overwriting it makes flushes cheap;
 * second copies of nodes from the far end, the rest from the near one. */
static int64_t seg_find_backed(struct vd_pool *p, enum vd_stream_kind stream)
{
    struct pool_segments *s = &p->segs;
    int64_t found = -ENOSPC;
    bool first = true;
    if (stream == VD_STREAM_META_B) {
        for (uint32_t i = s->count; i-- > 0;)
            if (s->v[i].state == VD_SEG_FREE && s->v[i].backed && s->v[i].pins == 0)
                return i;
        return found;
    }
    for (uint32_t i = s->low_hint; i < s->count; i++) {
        if (s->v[i].state != VD_SEG_FREE)
            continue;
        if (first)
            s->low_hint = i;
        first = false;
        if (!s->v[i].backed || s->v[i].pins != 0)
            continue;
        if (stream != VD_STREAM_LOG || s->v[i].warm)
            return i;
        if (found < 0)
            found = i;
    }
    return found;
}

int seg_open(struct vd_pool *p, enum vd_stream_kind stream, uint32_t *ret)
{
    struct pool_segments *s = &p->segs;
    vd_fmutex_lock(&s->alloc_lock);
    if (s->free_backed == 0)
        segs_back_locked(p, 1);
    int64_t i = seg_find_backed(p, stream);
    if (i >= 0) {
        s->v[i] = (struct pool_seg){
            .state = VD_SEG_OPEN,
            .stream = (uint8_t)stream,
            .warm = s->v[i].warm,
            .backed = true,
            /* What the trees name here still, the relocations say where it is now. */
            .live = s->v[i].live,
            .delta = s->v[i].delta,
            .ghosts_until = s->v[i].ghosts_until,
            .map = s->v[i].map,
            .rid = vd_rng_u64(vd_loop_rng(p->loop)) | 1,
        };
        s->free_backed--;
        s->used++;
        s->meta += seg_holds_nodes(&s->v[i]);
        if (stream == VD_STREAM_LOG || stream == VD_STREAM_CLEAN)
            map_open(p, (uint32_t)i);
        else
            map_drop(p, (uint32_t)i);
        *ret = (uint32_t)i;
    }
    vd_fmutex_unlock(&s->alloc_lock);
    return i < 0 ? -ENOSPC : 0;
}

#define WARM_BYTES VD_KIB(64) /* at a time: somebody's write may wait behind it */

void seg_warm(struct vd_pool *p, uint32_t seg)
{
    if (p->segs.v[seg].warm)
        return;
    uint8_t *zeroes VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(WARM_BYTES);
    if (!zeroes)
        return;
    memset(zeroes, 0, WARM_BYTES);
    for (uint32_t at = 0; at < p->chunk_size; at += WARM_BYTES)
        if (vd_dev_write(p->dev, seg_off(p, seg) + at, zeroes, WARM_BYTES) < 0)
            return;
    p->segs.v[seg].warm = true;
}

void seg_close(struct vd_pool *p, uint32_t seg)
{
    assert(p->segs.v[seg].state == VD_SEG_OPEN);
    p->segs.v[seg].state = VD_SEG_CLOSED;
    p->segs.v[seg].warm = true; /* its stream has filled it, or is about to end */
}

bool seg_has_ghosts(const struct vd_pool *p, const struct pool_seg *s)
{
    return s->emptied || s->ghosts_until > p->root.counter;
}

bool seg_freeable(const struct vd_pool *p, uint32_t seg, uint64_t seq)
{
    const struct pool_seg *s = &p->segs.v[seg];
    bool root_knows = s->last_seq <= seq;
#ifdef VD_PLANT_SEGMENT_REUSED_EARLY
    root_knows = true;
#endif
    return s->state == VD_SEG_CLOSED && (int64_t)s->live + s->delta == 0 && root_knows &&
           s->unpublished == 0 && s->pins == 0 && !s->refilling;
}

void seg_release(struct vd_pool *p, uint32_t seg)
{
    struct pool_seg *s = &p->segs.v[seg];
    map_release(p, seg);
    p->segs.meta -= seg_holds_nodes(s);
    *s = (struct pool_seg){
        .state = VD_SEG_FREE,
        .map = s->map,
        .warm = s->warm,
        .backed = true,
        .live = s->live,
        .delta = s->delta,
        .ghosts_until = s->ghosts_until,
    };
    p->segs.used--;
    p->segs.free_backed++;
    p->segs.low_hint = VD_MIN(p->segs.low_hint, seg);
    p->segs.freed_at_ns = vd_loop_now_ns(p->loop);
}

/* Highest first, so that a file can be cut at its end. */
void segs_trim(struct vd_pool *p, uint32_t keep)
{
    struct pool_segments *s = &p->segs;
    vd_fmutex_lock(&s->alloc_lock);
    for (uint32_t i = s->count; i-- > 1 && s->free_backed > keep;) {
        if (s->v[i].state != VD_SEG_FREE || !s->v[i].backed)
            continue;
        s->v[i].backed = s->v[i].warm = false;
        s->free_backed--;
        s->free_cold++;
        if (vd_dev_punch(p->dev, seg_off(p, i), p->chunk_size) < 0)
            break;
    }
    vd_fmutex_unlock(&s->alloc_lock);
}
