/* SPDX-License-Identifier: MIT */
/*
 * Maps of segments (map_priv.h).
 *
 * Invariant: at each root a map names as many blocks as the segment table counts there. Merges
 * account for each run that leaves a tree or enters one, so toggling is enough, in whatever order;
 * a block that is used again before its old content has left the trees is still named when the
 * merge ends, since relocations are never merged after what came to their old place. A map that
 * fails the comparison is dropped.
 */
#include "pool/map_priv.h"

#include <stdlib.h>

#define MAPS_BYTES VD_MIB(64) /* of this, half for tellers */

static uint32_t words(const struct vd_pool *p)
{
    return (p->seg_blocks + 63) / 64;
}

static uint64_t *fixed(const struct vd_pool *p, struct seg_map *m)
{
    return m->named + words(p);
}

bool map_used(const struct vd_pool *p, const struct seg_map *m, uint32_t block)
{
    return vd_bit_get(m->named, block) || vd_bit_get(m->named + words(p), block);
}

/* ---- life ---- */

static size_t map_bytes(const struct vd_pool *p)
{
    return sizeof(struct seg_map) + 2 * words(p) * sizeof(uint64_t);
}

static size_t tellers_bytes(const struct vd_pool *p)
{
    return sizeof(struct map_tellers) + p->seg_blocks;
}

static void *map_alloc(struct vd_pool *p, size_t bytes, size_t most)
{
    if (p->refill.map_bytes + bytes > most)
        return NULL;
    void *m = calloc(1, bytes);
    if (m)
        p->refill.map_bytes += bytes;
    return m;
}

void map_open(struct vd_pool *p, uint32_t seg)
{
    struct pool_seg *s = &p->segs.v[seg];
    if (!(p->label.incompat & OD_INCOMPAT_REFILL))
        return;
    if (!s->map && (s->live || s->delta))
        return; /* the trees name something there, and it is not known what */
    if (!s->map)
        s->map = map_alloc(p, map_bytes(p), MAPS_BYTES);
    if (s->map)
        s->map->tellers = map_alloc(p, tellers_bytes(p), MAPS_BYTES / 2);
}

static void tellers_drop(struct vd_pool *p, struct seg_map *m)
{
    p->refill.map_bytes -= m->tellers ? tellers_bytes(p) : 0;
    free(m->tellers);
    m->tellers = NULL;
}

void map_parts(const struct vd_pool *p, struct seg_map *m, struct vd_segmap *ret)
{
    *ret = (struct vd_segmap){.hints = m->hints, .named = m->named, .fixed = fixed(p, m)};
    if (!m->tellers)
        return;
    ret->at = m->tellers->at;
    ret->of = m->tellers->of;
    for (unsigned i = 1; i < MAP_TELLERS; i++)
        if (ret->at[i])
            ret->tellers = i;
}

void map_free(struct vd_pool *p, struct seg_map *m)
{
    if (!m)
        return;
    tellers_drop(p, m);
    p->refill.map_bytes -= map_bytes(p);
    free(m->next);
    free(m);
}

void map_drop(struct vd_pool *p, uint32_t seg)
{
    map_free(p, p->segs.v[seg].map);
    p->segs.v[seg].map = NULL;
}

struct seg_map *map_new(struct vd_pool *p)
{
    if (!(p->label.incompat & OD_INCOMPAT_REFILL))
        return NULL;
    struct seg_map *m = map_alloc(p, map_bytes(p), MAPS_BYTES);
    if (m)
        m->tellers = map_alloc(p, tellers_bytes(p), MAPS_BYTES / 2);
    return m;
}

void map_name(struct seg_map *m, uint32_t block, uint8_t teller)
{
    vd_bit_set(m->named, block);
    if (m->tellers)
        m->tellers->of[block] = teller;
}

void map_release(struct vd_pool *p, uint32_t seg)
{
    struct pool_seg *s = &p->segs.v[seg];
    struct seg_map *m = s->map;
    if (m && !s->live && !s->delta) {
        map_drop(p, seg);
    } else if (m) {
        tellers_drop(p, m);
        memset(fixed(p, m), 0, words(p) * sizeof(uint64_t));
        m->hints = 0;
        m->used = s->live;
    }
}

/* ---- headers ---- */

static uint8_t teller_new(struct seg_map *m, uint32_t block)
{
    struct map_tellers *t = m->tellers;
    for (unsigned i = 1; t && block && i < MAP_TELLERS; i++)
        if (t->at[i] == 0) {
            t->at[i] = (uint16_t)block;
            t->of[block] = 0;
            return (uint8_t)i;
        }
    return 0;
}

uint8_t map_fix(struct vd_pool *p, struct seg_map *m, uint32_t block)
{
    vd_bit_flip(fixed(p, m), block);
    m->used += !vd_bit_get(m->named, block);
    return teller_new(m, block);
}

void map_unfix(struct vd_pool *p, struct seg_map *m, uint32_t block, uint8_t teller)
{
    vd_bit_flip(fixed(p, m), block);
    m->used -= !vd_bit_get(m->named, block);
    if (teller)
        m->tellers->at[teller] = 0;
}

void map_header(struct vd_pool *p, struct vd_addr at, uint32_t blocks)
{
    struct seg_map *m = p->segs.v[at.seg].map;
    uint32_t header = addr_block(at);
    if (!m)
        return;
    assert(!vd_bit_get(fixed(p, m), header));
    uint8_t teller = map_fix(p, m, header);
    for (uint32_t b = header + 1; teller && b <= header + blocks; b++)
        m->tellers->of[b] = teller;
}

void map_forget(struct vd_pool *p, struct seg_map *m)
{
    struct map_tellers *t = m->tellers;
    bool needed[MAP_TELLERS] = {false};
    if (!t)
        return;
    for (uint32_t b = 1; b < p->seg_blocks; b++)
        needed[t->of[b]] |= vd_bit_get(m->named, b);
    for (unsigned i = 1; i < MAP_TELLERS; i++)
        if (t->at[i] && !needed[i])
            map_unfix(p, m, t->at[i], (uint8_t)i);
}

bool map_told(const struct seg_map *m, uint32_t block, uint8_t teller)
{
    return vd_bit_get(m->named, block) && m->tellers->of[block] == teller;
}

unsigned map_weak(const struct vd_pool *p, const struct seg_map *m, unsigned least, unsigned most,
                  uint8_t *ret, unsigned room)
{
    const struct map_tellers *t = m->tellers;
    uint16_t told[MAP_TELLERS] = {0};
    unsigned n = 0;
    for (uint32_t b = 1; b < p->seg_blocks; b++)
        told[t->of[b]] += vd_bit_get(m->named, b);
    for (unsigned of = 1; of <= least; of++)
        for (unsigned i = 1; i < MAP_TELLERS && n < room; i++)
            if (t->at[i] && told[i] == of && of <= most) {
                ret[n++] = (uint8_t)i;
                most -= of;
            }
    return n;
}

/* ---- merges ---- */

void map_merge(struct vd_pool *p, struct vd_addr addr, uint64_t blocks)
{
    struct seg_map *m = p->segs.v[addr.seg].map;
    uint32_t first = addr_block(addr);
    if (!m)
        return;
    if (!m->next) {
        m->next = malloc(words(p) * sizeof(uint64_t));
        if (!m->next) {
            map_drop(p, addr.seg);
            return;
        }
        memcpy(m->next, m->named, words(p) * sizeof(uint64_t));
    }
    for (uint32_t b = first; b < first + blocks; b++)
        vd_bit_flip(m->next, b);
}

void map_merge_failed(struct vd_pool *p, uint32_t seg)
{
    struct seg_map *m = p->segs.v[seg].map;
    if (m) {
        free(m->next);
        m->next = NULL;
    }
}

/* Sets m->used; returns how many blocks the trees name. */
static uint32_t map_count(const struct vd_pool *p, struct seg_map *m)
{
    uint32_t named = 0;
    m->used = 0;
    for (uint32_t i = 0; i < words(p); i++) {
        named += (uint32_t)__builtin_popcountll(m->named[i]);
        m->used += (uint32_t)__builtin_popcountll(m->named[i] | fixed(p, m)[i]);
    }
    return named;
}

bool map_adopt(struct vd_pool *p, uint32_t seg, struct seg_map *m)
{
    struct pool_seg *s = &p->segs.v[seg];
    if (s->map || map_count(p, m) != s->live) {
        map_free(p, m);
        return false;
    }
    s->map = m;
    return true;
}

void map_publish(struct vd_pool *p, uint32_t seg)
{
    struct pool_seg *s = &p->segs.v[seg];
    struct seg_map *m = s->map;
    if (!m)
        return;
    if (m->next)
        memcpy(m->named, m->next, words(p) * sizeof(uint64_t));
    map_merge_failed(p, seg);
    uint32_t named = map_count(p, m);
    if (named != s->live) {
        vd_log(VD_LOG_WARNING, "%s: segment %u is not refilled: %u blocks in use, %u counted",
               vd_dev_path(p->dev), seg, named, s->live);
        map_drop(p, seg);
    }
}
