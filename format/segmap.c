/* SPDX-License-Identifier: MIT */
/*
 * Maps of segments, as a pool that is closed leaves them for whoever opens it: an area with a
 * header and any number of maps. They only repeat what trees and headers say, but somebody who
 * believes a wrong one writes over data: so the header says of which session and which root they
 * are. Called by pool/map_store.c. Pure; does not yield. On-disk structs: od_segmaps, od_segmap.
 */
#include "format/format_priv.h"

#include "core/base/hash.h"

static size_t words(uint32_t seg_blocks)
{
    return seg_blocks / 64; /* a segment has at least 256 blocks, and a power of two */
}

static uint32_t bits_count(const uint64_t *bits, uint32_t seg_blocks)
{
    uint32_t n = 0;
    for (size_t i = 0; i < words(seg_blocks); i++)
        n += (uint32_t)__builtin_popcountll(bits[i]);
    return n;
}

static size_t bare_size(uint32_t seg_blocks)
{
    return sizeof(struct od_segmap) + 2 * words(seg_blocks) * sizeof(le64_t);
}

static size_t tellers_size(const struct vd_segmap *m, uint32_t seg_blocks)
{
    return m->tellers ? m->tellers * sizeof(le16_t) + bits_count(m->named, seg_blocks) : 0;
}

size_t segmap_size(const struct vd_segmap *m, uint32_t seg_blocks)
{
    return bare_size(seg_blocks) + VD_ROUND_UP(tellers_size(m, seg_blocks), 8);
}

static uint8_t *bits_encode(const uint64_t *bits, uint32_t seg_blocks, uint8_t *to)
{
    for (size_t i = 0; i < words(seg_blocks); i++, to += sizeof(le64_t)) {
        le64_t w = vd_le64(bits[i]);
        memcpy(to, &w, sizeof(w));
    }
    return to;
}

static const uint8_t *bits_decode(const uint8_t *from, uint32_t seg_blocks, uint64_t *bits)
{
    for (size_t i = 0; i < words(seg_blocks); i++, from += sizeof(le64_t)) {
        le64_t w;
        memcpy(&w, from, sizeof(w));
        bits[i] = vd_get64(w);
    }
    return from;
}

void segmap_encode(const struct vd_segmap *m, uint32_t seg_blocks, void *buf)
{
    struct od_segmap d = {.seg = vd_le32(m->seg),
                          .hints = vd_le16((uint16_t)m->hints),
                          .tellers = vd_le16((uint16_t)m->tellers)};
    uint8_t *to = buf;
    memset(to, 0, segmap_size(m, seg_blocks));
    memcpy(to, &d, sizeof(d));
    to = bits_encode(m->named, seg_blocks, to + sizeof(d));
    to = bits_encode(m->fixed, seg_blocks, to);
    for (unsigned i = 1; i <= m->tellers; i++, to += sizeof(le16_t)) {
        le16_t at = vd_le16(m->at[i]);
        memcpy(to, &at, sizeof(at));
    }
    for (uint32_t b = 0; m->tellers && b < seg_blocks; b++)
        if (vd_bit_get(m->named, b))
            *to++ = m->of[b] <= m->tellers ? m->of[b] : 0;
}

/* Each number is of a header or hint block, and no two of the same. */
static int tellers_decode(const uint8_t *from, uint32_t seg_blocks, struct vd_segmap *m)
{
    if (!m->of)
        return 0;
    memset(m->of, 0, seg_blocks);
    for (unsigned i = 1; i <= m->tellers; i++, from += sizeof(le16_t)) {
        le16_t d;
        memcpy(&d, from, sizeof(d));
        uint16_t at = vd_get16(d);
        if (at >= seg_blocks || (at && (!vd_bit_get(m->fixed, at) || m->of[at])))
            return -EUCLEAN;
        m->of[at] = 1;
        m->at[i] = at;
    }
    for (uint32_t b = 0; m->tellers && b < seg_blocks; b++) {
        m->of[b] = vd_bit_get(m->named, b) ? *from++ : 0;
        if (m->of[b] > m->tellers)
            return -EUCLEAN;
    }
    return 0;
}

int64_t segmap_decode(const void *buf, size_t len, uint32_t seg_blocks, struct vd_segmap *ret)
{
    struct od_segmap d;
    const uint8_t *from = buf;
    if (len < bare_size(seg_blocks))
        return -EUCLEAN;
    memcpy(&d, from, sizeof(d));
    ret->seg = vd_get32(d.seg);
    ret->hints = vd_get16(d.hints);
    ret->tellers = vd_get16(d.tellers);
    if (ret->tellers >= OD_SEGMAP_TELLERS || ret->hints > seg_blocks)
        return -EUCLEAN;
    from = bits_decode(from + sizeof(d), seg_blocks, ret->named);
    from = bits_decode(from, seg_blocks, ret->fixed);
    size_t used = tellers_size(ret, seg_blocks), size = segmap_size(ret, seg_blocks);
    if (size > len || !bytes_zero(from + used, size - bare_size(seg_blocks) - used))
        return -EUCLEAN;
    int r = tellers_decode(from, seg_blocks, ret);
    return r < 0 ? r : (int64_t)size;
}

static uint64_t segmaps_csum(const void *buf, size_t len)
{
    size_t from = offsetof(struct od_segmaps, pool_uuid);
    return vd_xxh3((const uint8_t *)buf + from, len - from);
}

void segmaps_seal(const struct vd_segmaps *m, void *buf)
{
    struct od_segmaps *d = buf;
    memset(d, 0, sizeof(*d));
    d->magic = vd_le64(OD_MAGIC_SEGMAPS);
    memcpy(d->pool_uuid, m->pool_uuid.b, sizeof(d->pool_uuid));
    d->incarnation = vd_le64(m->incarnation);
    d->root_counter = vd_le64(m->root_counter);
    d->len = vd_le32(m->len);
    d->count = vd_le32(m->count);
    d->csum = vd_le64(segmaps_csum(buf, m->len));
}

int segmaps_decode(const void *buf, size_t len, struct vd_segmaps *ret)
{
    const struct od_segmaps *d = buf;
    if (len < sizeof(*d) || vd_get64(d->magic) != OD_MAGIC_SEGMAPS)
        return -ENODATA;
    *ret = (struct vd_segmaps){
        .incarnation = vd_get64(d->incarnation),
        .root_counter = vd_get64(d->root_counter),
        .len = vd_get32(d->len),
        .count = vd_get32(d->count),
    };
    memcpy(ret->pool_uuid.b, d->pool_uuid, sizeof(d->pool_uuid));
    if (ret->len < sizeof(*d) || !bytes_zero(d->pad, sizeof(d->pad)))
        return -EUCLEAN;
    if (ret->len > len)
        return -ENOBUFS;
    return vd_get64(d->csum) == segmaps_csum(buf, ret->len) ? 0 : -EBADMSG;
}
