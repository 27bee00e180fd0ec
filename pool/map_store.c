/* SPDX-License-Identifier: MIT */
/*
 * Maps of segments outlive their session, if it ends well (docs/decisions/0030): they lie behind
 * the two copies of the table of the last root, in docs/format.md's section 5. Nobody needs them.
 * But who has them writes over what they call dead, so they are believed only by the session that
 * directly follows the one that wrote them, from the same root, with nothing in the log behind it,
 * and only if they name as many blocks as the table counts.
 */
#include "core/base/text.h"
#include "pool/map_priv.h"

#include <stdlib.h>

/* In each place. Opening and closing a large pool is to stay quick. */
#define PLACE_MOST VD_MIB(4)
#define PLACES 2u

static uint64_t place(const struct vd_pool *p, unsigned i, size_t *room)
{
    const struct vd_root *r = &p->root;
    size_t table = table_size(r->table_entries, r->table_entry_size);
    *room = (size_t)VD_MIN(r->table_area - table, PLACE_MOST);
    return r->table_off[(r->counter & 1) * 2 + i] + table;
}

static bool seg_has_place(const struct pool_seg *s)
{
    return (s->state == VD_SEG_OPEN || s->state == VD_SEG_CLOSED) && !s->rotten &&
           (s->stream == VD_STREAM_LOG || s->stream == VD_STREAM_CLEAN);
}

/* ---- storing ---- */

struct store {
    struct vd_pool *p;
    uint8_t *buf;
    size_t room;
    uint32_t next;  /* segment */
    int64_t spare;  /* bytes that are left when all bits are stored, for tellers */
    uint32_t count; /* of maps in this place */
};

/* What it is without tellers: then its headers stay until it is emptied. */
static void parts_of(const struct vd_pool *p, uint32_t seg, struct vd_segmap *ret)
{
    map_parts(p, p->segs.v[seg].map, ret);
    ret->seg = seg;
}

static size_t bare_size(const struct vd_pool *p, uint32_t seg)
{
    struct vd_segmap m;
    parts_of(p, seg, &m);
    m.tellers = 0;
    return segmap_size(&m, p->seg_blocks);
}

static bool stores(const struct vd_pool *p, uint32_t seg)
{
    return p->segs.v[seg].map && seg_has_place(&p->segs.v[seg]);
}

/* As many maps as have room in one place; returns its bytes. */
static size_t place_fill(struct store *s)
{
    struct vd_pool *p = s->p;
    size_t len = sizeof(struct od_segmaps);
    s->count = 0;
    for (; s->next < p->segs.count; s->next++) {
        if (!stores(p, s->next))
            continue;
        struct vd_segmap m;
        parts_of(p, s->next, &m);
        size_t bare = bare_size(p, s->next), size = segmap_size(&m, p->seg_blocks);
        if ((int64_t)(size - bare) > s->spare || len + size > s->room) {
            m.tellers = 0;
            size = bare;
        }
        if (len + size > s->room)
            break;
        segmap_encode(&m, p->seg_blocks, s->buf + len);
        len += size;
        s->spare -= (int64_t)(size - bare);
        s->count++;
    }
    return len;
}

static int place_write(struct store *s, uint64_t off)
{
    struct vd_pool *p = s->p;
    struct vd_segmaps head = {
        .pool_uuid = p->label.pool_uuid,
        .incarnation = p->label.incarnation,
        .root_counter = p->root.counter,
        .len = (uint32_t)place_fill(s),
        .count = s->count,
    };
    size_t len = VD_ROUND_UP(head.len, VD_BLOCK);
    memset(s->buf + head.len, 0, len - head.len);
    segmaps_seal(&head, s->buf);
    return vd_dev_write(p->dev, off, s->buf, len);
}

void maps_store(struct vd_pool *p)
{
    struct store s = {.p = p, .next = 1};
    uint64_t off[PLACES];
    refill_rest(p);
    for (unsigned i = 0; i < PLACES; i++) {
        off[i] = place(p, i, &s.room);
        s.spare += (int64_t)s.room - (int64_t)sizeof(struct od_segmaps);
    }
    bool any = false;
    for (uint32_t i = 1; i < p->segs.count; i++)
        if (stores(p, i)) {
            s.spare -= (int64_t)bare_size(p, i);
            any = true;
        }
    if (!any || s.room < VD_BLOCK)
        return;
    s.buf = vd_alloc_aligned(s.room);
    if (!s.buf)
        return;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < PLACES && s.next < p->segs.count; i++)
        r = place_write(&s, off[i]);
    if (r < 0)
        vd_log(VD_LOG_DEBUG, "%s: maps of segments cannot be stored: %s", vd_dev_path(p->dev),
               strerror(-r));
    p->label.compat |= OD_COMPAT_SEGMAPS;
    free(s.buf);
}

/* ---- loading ---- */

/* The maps of one place, or NULL. */
static uint8_t *place_read(struct vd_pool *p, unsigned i, struct vd_segmaps *head)
{
    size_t room;
    uint64_t off = place(p, i, &room);
    uint8_t *first VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(VD_BLOCK);
    if (room < VD_BLOCK || !first || vd_dev_read(p->dev, off, first, VD_BLOCK) < 0)
        return NULL;
    int r = segmaps_decode(first, VD_BLOCK, head);
    if ((r < 0 && r != -ENOBUFS) || head->len > room ||
        !vd_uuid_equal(&head->pool_uuid, &p->label.pool_uuid))
        return NULL;
#ifndef VD_PLANT_OLD_MAPS_TRUSTED
    if (head->incarnation != p->label.incarnation || head->root_counter != p->root.counter)
        return NULL;
#endif
    size_t len = VD_ROUND_UP(head->len, VD_BLOCK);
    uint8_t *buf = vd_alloc_aligned(len);
    if (buf && vd_dev_read(p->dev, off, buf, len) == 0 && segmaps_decode(buf, len, head) == 0)
        return buf;
    free(buf);
    return NULL;
}

static int64_t map_load(struct vd_pool *p, const uint8_t *from, size_t len)
{
    struct seg_map *m = map_new(p);
    if (!m)
        return -ENOMEM;
    struct vd_segmap parts;
    map_parts(p, m, &parts);
    int64_t n = segmap_decode(from, len, p->seg_blocks, &parts);
    m->hints = parts.hints;
    if (n > 0 && parts.seg > 0 && parts.seg < p->segs.count && seg_has_place(&p->segs.v[parts.seg]))
        map_adopt(p, parts.seg, m);
    else
        map_free(p, m);
    return n;
}

void maps_load(struct vd_pool *p)
{
    bool closed = p->label.flags & OD_LABEL_CLEAN && p->label.root_counter == p->root.counter &&
                  overlay_entries(p->active) == 0;
#ifdef VD_PLANT_OLD_MAPS_TRUSTED
    closed = true;
#endif
    for (unsigned i = 0; closed && i < PLACES; i++) {
        struct vd_segmaps head;
        uint8_t *buf VD_CLEANUP(vd_cleanup_free) = place_read(p, i, &head);
        if (!buf)
            return;
        size_t at = sizeof(struct od_segmaps);
        for (uint32_t n = 0; n < head.count; n++) {
            int64_t len = map_load(p, buf + at, head.len - at);
            if (len < 0)
                return;
            at += (size_t)len;
        }
    }
}
