/* SPDX-License-Identifier: MIT */
/*
 * Relocations of the overlay: a hash of block addresses in shards, so that growing one is short,
 * and per branch an index of the cells concerned. One step only: an address that was moved twice
 * within an overlay is found by asking twice. Pure; called by the pool at look-ups and by its log.
 */
#include "pool/overlay_priv.h"

#include <stdlib.h>

#define FREE UINT64_MAX /* no block has this address: sectors are multiples of 8 */

static uint64_t addr_key(struct vd_addr a)
{
    return (uint64_t)a.seg << 32 | a.sector;
}

static uint64_t mix(uint64_t key)
{
    key *= UINT64_C(0x9e3779b97f4a7c15);
    return key ^ key >> 32;
}

static struct moved_shard *shard_of(const struct moved_map *m, uint64_t hash)
{
    return &m->shard[hash % MOVED_SHARDS];
}

/* The place of `key`, or the free one where it would go. */
static struct moved *shard_place(const struct moved_shard *s, uint64_t hash, uint64_t key)
{
    uint32_t mask = s->room - 1;
    uint32_t i = (uint32_t)(hash >> 8) & mask;
    while (s->v[i].from != key && s->v[i].from != FREE)
        i = (i + 1) & mask;
    return &s->v[i];
}

bool overlay_moved(const struct overlay *ov, struct vd_addr from, struct vd_addr *to)
{
    if (!ov->moved.count)
        return false;
    uint64_t key = addr_key(from), hash = mix(key);
    const struct moved_shard *s = shard_of(&ov->moved, hash);
    if (!s->count)
        return false;
    const struct moved *m = shard_place(s, hash, key);
    if (m->from != key)
        return false;
    *to = (struct vd_addr){(uint32_t)(m->to >> 32), (uint32_t)m->to};
    return true;
}

/* Room for `more` entries in the shard, at most half full. */
static bool shard_room(struct moved_map *m, struct moved_shard *s, uint32_t more)
{
    if (s->room && (s->count + more) * 2 <= s->room)
        return true;
    struct moved_shard bigger = {.room = VD_MAX(s->room, 8u)};
    while ((s->count + more) * 2 > bigger.room)
        bigger.room *= 2;
    bigger.v = malloc(bigger.room * sizeof(struct moved));
    if (!bigger.v)
        return false;
    memset(bigger.v, 0xff, bigger.room * sizeof(struct moved));
    for (uint32_t i = 0; i < s->room; i++)
        if (s->v[i].from != FREE)
            *shard_place(&bigger, mix(s->v[i].from), s->v[i].from) = s->v[i];
    bigger.count = s->count;
    m->bytes += (bigger.room - (size_t)s->room) * sizeof(struct moved);
    free(s->v);
    *s = bigger;
    return true;
}

int overlay_relocate(struct overlay *ov, uint64_t branch, uint64_t lba, uint64_t blocks,
                     struct vd_addr from, struct vd_addr to)
{
    struct moved_map *m = &ov->moved;

    if (!blocks || lba >= OV_LBA_MAX || lba % VD_CELL_BLOCKS + blocks > VD_CELL_BLOCKS)
        return -EINVAL;
    if (!m->shard) {
        m->shard = calloc(MOVED_SHARDS, sizeof(struct moved_shard));
        if (!m->shard)
            return -ENOMEM;
        m->bytes = MOVED_SHARDS * sizeof(struct moved_shard);
    }
    /* All memory first: then nothing fails half way. */
    uint8_t more[MOVED_SHARDS] = {0};
    for (uint64_t i = 0; i < blocks; i++) {
        struct moved_shard *s = shard_of(m, mix(addr_key(vd_addr_plus(from, i))));
        if (!shard_room(m, s, ++more[s - m->shard]))
            return -ENOMEM;
    }
    struct ov_branch *b = branch_make(ov, branch);
    if (!b || !index_insert(&b->moved, &ov->arena, lba / VD_CELL_BLOCKS, 0))
        return -ENOMEM;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t key = addr_key(vd_addr_plus(from, i)), hash = mix(key);
        struct moved_shard *s = shard_of(m, hash);
        struct moved *place = shard_place(s, hash, key);
        if (place->from == FREE) {
            s->count++;
            m->count++;
        }
        place->from = key;
        place->to = addr_key(vd_addr_plus(to, i));
    }
    return 0;
}

void moved_done(struct moved_map *m)
{
    for (unsigned i = 0; m->shard && i < MOVED_SHARDS; i++)
        free(m->shard[i].v);
    free(m->shard);
}
