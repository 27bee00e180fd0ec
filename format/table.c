/* SPDX-License-Identifier: MIT */
/*
 * The segment table: one entry for each segment, in an area that a root names with its checksum.
 * The checksum of the whole area is the root's, so these decoders look at meaning only (I6). Called
 * by pool/. Pure; does not yield. On-disk structs: od_table_header, od_table_entry.
 */
#include "format/format_priv.h"

#define TABLE_WARM 1
#define LIVE_MAX (OD_SEG_SECTORS_MAX / VD_SECTORS_PER_BLOCK)

size_t table_entry_size(unsigned nchunks)
{
    return offsetof(struct od_table_entry, chunk) + nchunks * sizeof(struct od_chunk);
}

size_t table_size(uint32_t entries, size_t entry_size)
{
    return VD_ROUND_UP(sizeof(struct od_table_header) + entries * entry_size, VD_BLOCK);
}

void table_entry_encode(const struct vd_table_entry *e, void *buf, size_t entry_size)
{
    struct od_table_entry *d = buf;

    assert(table_entry_size(e->nchunks) <= entry_size);
    memset(buf, 0, entry_size);
    d->state = (uint8_t)e->state;
    d->stream = (uint8_t)e->stream;
    d->nchunks = (uint8_t)e->nchunks;
    d->flags = e->warm ? TABLE_WARM : 0;
    d->live = vd_le32(e->live);
    d->last_seq = vd_le64(e->last_seq);
    d->rid = vd_le64(e->rid);
    for (unsigned i = 0; i < e->nchunks; i++) {
        d->chunk[i].dev = vd_le16(e->chunk[i].dev);
        d->chunk[i].idx = vd_le32(e->chunk[i].idx);
    }
}

int table_entry_decode(const void *buf, size_t entry_size, struct vd_table_entry *ret)
{
    const struct od_table_entry *d = buf;
    struct vd_table_entry e = {
        .state = (enum vd_seg_state)d->state,
        .stream = (enum vd_stream_kind)d->stream,
        .nchunks = d->nchunks,
        .warm = d->flags & TABLE_WARM,
        .live = vd_get32(d->live),
        .last_seq = vd_get64(d->last_seq),
        .rid = vd_get64(d->rid),
    };

    if (d->state > VD_SEG_FIXED || d->stream > VD_STREAM_FIXED || (d->flags & ~TABLE_WARM) ||
        e.nchunks > OD_SEG_CHUNKS || table_entry_size(e.nchunks) > entry_size)
        return -EUCLEAN;
    bool used = e.state > VD_SEG_FREE;
    if (used ? e.nchunks == 0 || e.stream == 0 : e.live != 0)
        return -EUCLEAN;
    if (e.live > LIVE_MAX || (e.state == VD_SEG_FIXED) != (e.stream == VD_STREAM_FIXED))
        return -EUCLEAN;
    for (unsigned i = 0; i < e.nchunks; i++) {
        e.chunk[i].dev = vd_get16(d->chunk[i].dev);
        e.chunk[i].idx = vd_get32(d->chunk[i].idx);
        if (e.chunk[i].dev >= OD_DEVICES || !bytes_zero(d->chunk[i].pad, sizeof(d->chunk[i].pad)))
            return -EUCLEAN;
    }
    size_t len = table_entry_size(e.nchunks);
    if (!bytes_zero((const uint8_t *)buf + len, entry_size - len))
        return -EUCLEAN;
    *ret = e;
    return 0;
}

void table_header_encode(void *buf, const struct vd_uuid *pool, uint64_t counter, uint32_t entries,
                         size_t entry_size)
{
    struct od_table_header *d = buf;

    memset(d, 0, sizeof(*d));
    d->magic = vd_le64(OD_MAGIC_TABLE);
    memcpy(d->pool_uuid, pool->b, sizeof(d->pool_uuid));
    d->counter = vd_le64(counter);
    d->entries = vd_le32(entries);
    d->entry_size = vd_le32((uint32_t)entry_size);
}

int table_header_decode(const void *buf, const struct vd_uuid *pool, uint64_t counter,
                        uint32_t entries, size_t entry_size)
{
    const struct od_table_header *d = buf;

    if (vd_get64(d->magic) != OD_MAGIC_TABLE)
        return -ENODATA;
    if (memcmp(d->pool_uuid, pool->b, sizeof(d->pool_uuid)) || vd_get64(d->counter) != counter ||
        vd_get32(d->entries) != entries || vd_get32(d->entry_size) != entry_size ||
        !bytes_zero(d->pad, sizeof(d->pad)))
        return -EUCLEAN;
    return 0;
}
