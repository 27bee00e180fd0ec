/* SPDX-License-Identifier: MIT */
/*
 * Log entries: the logical operations inside a record's header. Keeps I6: a decoded entry stays
 * inside its cell, its volume's largest size and the longest segment; what it means is for replay
 * to judge. Called by the log in pool/, and by record.c. Pure; does not yield. On-disk structs:
 * od_entry and od_entry_*.
 */
#include "format/format_priv.h"

#define CATALOG_DELETE 1

static bool lba_valid(uint64_t lba, uint64_t blocks)
{
    return blocks >= 1 && lba < OD_LBA_MAX && blocks <= OD_LBA_MAX - lba;
}

static bool cell_valid(uint64_t lba, uint64_t blocks)
{
    return lba_valid(lba, blocks) && lba % VD_CELL_BLOCKS + blocks <= VD_CELL_BLOCKS;
}

static bool relocate_valid(const struct vd_entry *e)
{
    return e->count >= 1 && e->blocks == VD_DIV_UP(e->count, VD_RELOCATIONS_PER_BLOCK);
}

size_t entry_size(const struct vd_entry *e)
{
    switch (e->type) {
    case VD_ENTRY_WRITE:
        return sizeof(struct od_entry_write) + e->blocks * sizeof(le64_t);
    case VD_ENTRY_ZERO:
        return sizeof(struct od_entry_zero);
    case VD_ENTRY_RELOCATE:
        return sizeof(struct od_entry_relocate);
    case VD_ENTRY_BULK:
        return sizeof(struct od_entry_bulk) + e->blocks * sizeof(le64_t);
    case VD_ENTRY_EPOCH:
        return sizeof(struct od_entry_epoch);
    case VD_ENTRY_CATALOG:
        return sizeof(struct od_entry_catalog) +
               (e->value ? VD_ROUND_UP((size_t)e->value_len, 8) : 0);
    case VD_ENTRY_SEGMENT:
        return sizeof(struct od_entry_segment);
    case VD_ENTRY_EMPTIED:
        return sizeof(struct od_entry_emptied);
    }
    assert(!"entry type");
    return 0;
}

static void csums_encode(const struct vd_entry *e, void *p)
{
    le64_t *d = p;
    for (uint64_t i = 0; i < e->blocks; i++)
        d[i] = vd_le64(e->csum[i]);
}

static void write_encode(const struct vd_entry *e, void *p)
{
    struct od_entry_write *d = p;

    d->blocks = vd_le16((uint16_t)e->blocks);
    d->payload = vd_le16((uint16_t)e->payload);
    d->branch = vd_le32((uint32_t)e->branch);
    d->lba = vd_le64(e->lba);
    csums_encode(e, d + 1);
}

static void zero_encode(const struct vd_entry *e, void *p)
{
    struct od_entry_zero *d = p;

    d->branch = vd_le32((uint32_t)e->branch);
    d->lba = vd_le64(e->lba);
    d->blocks = vd_le64(e->blocks);
}

static void relocate_encode(const struct vd_entry *e, void *p)
{
    struct od_entry_relocate *d = p;

    d->payload = vd_le16((uint16_t)e->payload);
    d->blocks = vd_le16((uint16_t)e->blocks);
    d->count = vd_le32(e->count);
    d->csum = vd_le64(e->csum[0]);
}

static void bulk_encode(const struct vd_entry *e, void *p)
{
    struct od_entry_bulk *d = p;

    d->blocks = vd_le16((uint16_t)e->blocks);
    d->hints = vd_le16(e->hints);
    d->branch = vd_le32((uint32_t)e->branch);
    d->lba = vd_le64(e->lba);
    d->addr = addr_encode(e->addr);
    csums_encode(e, d + 1);
}

static void catalog_encode(const struct vd_entry *e, void *p)
{
    struct od_entry_catalog *d = p;

    for (int i = 0; i < 3; i++)
        d->key[i] = vd_le64(e->key[i]);
    if (!e->value) {
        d->e.flags = CATALOG_DELETE;
        return;
    }
    d->value_len = vd_le16(e->value_len);
    memcpy(d + 1, e->value, e->value_len);
}

size_t entry_encode(const struct vd_entry *e, void *p)
{
    size_t len = entry_size(e);
    struct od_entry *d = p;

    memset(p, 0, len);
    d->type = (uint8_t)e->type;
    d->len = vd_le16((uint16_t)len);
    switch (e->type) {
    case VD_ENTRY_WRITE:
        assert(cell_valid(e->lba, e->blocks) && e->branch <= UINT32_MAX);
        write_encode(e, p);
        break;
    case VD_ENTRY_ZERO:
        assert(lba_valid(e->lba, e->blocks) && e->branch <= UINT32_MAX);
        zero_encode(e, p);
        break;
    case VD_ENTRY_RELOCATE:
        assert(relocate_valid(e));
        relocate_encode(e, p);
        break;
    case VD_ENTRY_BULK:
        assert(cell_valid(e->lba, e->blocks) && e->branch <= UINT32_MAX);
        bulk_encode(e, p);
        break;
    case VD_ENTRY_EPOCH:
        ((struct od_entry_epoch *)p)->epoch = vd_le64(e->epoch);
        break;
    case VD_ENTRY_CATALOG:
        assert(e->value_len <= VD_CATALOG_VALUE_MAX);
        catalog_encode(e, p);
        break;
    case VD_ENTRY_SEGMENT:
        segref_encode(&e->seg, &((struct od_entry_segment *)p)->ref);
        break;
    case VD_ENTRY_EMPTIED:
        ((struct od_entry_emptied *)p)->seg = vd_le32(e->addr.seg);
        break;
    }
    return len;
}

/* The checksums after a fixed part of `fixed` bytes fill the entry exactly. */
static int csums_decode(const void *p, size_t fixed, size_t len, struct vd_entry *e)
{
    const le64_t *s = (const void *)((const uint8_t *)p + fixed);

    if (!cell_valid(e->lba, e->blocks) || len != fixed + e->blocks * sizeof(le64_t))
        return -EUCLEAN;
    for (uint64_t i = 0; i < e->blocks; i++)
        e->csum[i] = vd_get64(s[i]);
    return 0;
}

static int write_decode(const void *p, size_t len, struct vd_entry *e)
{
    const struct od_entry_write *d = p;

    if (len < sizeof(*d) || !bytes_zero(d->pad, sizeof(d->pad)))
        return -EUCLEAN;
    e->blocks = vd_get16(d->blocks);
    e->payload = vd_get16(d->payload);
    e->branch = vd_get32(d->branch);
    e->lba = vd_get64(d->lba);
    return csums_decode(p, sizeof(*d), len, e);
}

static int zero_decode(const void *p, size_t len, struct vd_entry *e)
{
    const struct od_entry_zero *d = p;

    if (len != sizeof(*d))
        return -EUCLEAN;
    e->branch = vd_get32(d->branch);
    e->lba = vd_get64(d->lba);
    e->blocks = vd_get64(d->blocks);
    return lba_valid(e->lba, e->blocks) ? 0 : -EUCLEAN;
}

static int relocate_decode(const void *p, size_t len, struct vd_entry *e)
{
    const struct od_entry_relocate *d = p;

    if (len != sizeof(*d) || !bytes_zero(d->pad, sizeof(d->pad)))
        return -EUCLEAN;
    e->payload = vd_get16(d->payload);
    e->blocks = vd_get16(d->blocks);
    e->count = vd_get32(d->count);
    e->csum[0] = vd_get64(d->csum);
    return relocate_valid(e) ? 0 : -EUCLEAN;
}

static int bulk_decode(const void *p, size_t len, struct vd_entry *e)
{
    const struct od_entry_bulk *d = p;

    if (len < sizeof(*d) || !bytes_zero(d->pad, sizeof(d->pad)))
        return -EUCLEAN;
    e->blocks = vd_get16(d->blocks);
    e->hints = vd_get16(d->hints);
    e->branch = vd_get32(d->branch);
    e->lba = vd_get64(d->lba);
    e->addr = addr_decode(d->addr);
    if (!addr_valid(e->addr, e->blocks))
        return -EUCLEAN;
    return csums_decode(p, sizeof(*d), len, e);
}

static int epoch_decode(const void *p, size_t len, struct vd_entry *e)
{
    const struct od_entry_epoch *d = p;

    if (len != sizeof(*d) || !bytes_zero(d->pad, sizeof(d->pad)))
        return -EUCLEAN;
    e->epoch = vd_get64(d->epoch);
    return 0;
}

static int catalog_decode(const void *p, size_t len, struct vd_entry *e)
{
    const struct od_entry_catalog *d = p;

    if (len < sizeof(*d) || !bytes_zero(d->pad, sizeof(d->pad)))
        return -EUCLEAN;
    for (int i = 0; i < 3; i++)
        e->key[i] = vd_get64(d->key[i]);
    e->value_len = vd_get16(d->value_len);
    if (e->value_len > VD_CATALOG_VALUE_MAX ||
        len != sizeof(*d) + VD_ROUND_UP((size_t)e->value_len, 8))
        return -EUCLEAN;
    if (d->e.flags & CATALOG_DELETE)
        return e->value_len == 0 ? 0 : -EUCLEAN;
    e->value = d + 1;
    size_t end = sizeof(*d) + e->value_len;
    return bytes_zero((const uint8_t *)p + end, len - end) ? 0 : -EUCLEAN;
}

static int segment_decode(const void *p, size_t len, struct vd_entry *e)
{
    const struct od_entry_segment *d = p;

    if (len != sizeof(*d) || !bytes_zero(d->pad, sizeof(d->pad)))
        return -EUCLEAN;
    return segref_decode(&d->ref, &e->seg);
}

static int emptied_decode(const void *p, size_t len, struct vd_entry *e)
{
    const struct od_entry_emptied *d = p;

    if (len != sizeof(*d))
        return -EUCLEAN;
    e->addr.seg = vd_get32(d->seg);
    return e->addr.seg ? 0 : -EUCLEAN;
}

int entry_decode(const void *p, size_t len, struct vd_entry *ret)
{
    static int (*const decode[])(const void *, size_t, struct vd_entry *) = {
        [VD_ENTRY_WRITE] = write_decode,       [VD_ENTRY_ZERO] = zero_decode,
        [VD_ENTRY_RELOCATE] = relocate_decode, [VD_ENTRY_BULK] = bulk_decode,
        [VD_ENTRY_EPOCH] = epoch_decode,       [VD_ENTRY_CATALOG] = catalog_decode,
        [VD_ENTRY_SEGMENT] = segment_decode,   [VD_ENTRY_EMPTIED] = emptied_decode,
    };
    static const uint8_t flags[VD_ARRAY_SIZE(decode)] = {
        [VD_ENTRY_CATALOG] = CATALOG_DELETE,
    };
    const struct od_entry *d = p;

    if (len < sizeof(*d))
        return -EUCLEAN;
    size_t own = vd_get16(d->len);
    if (own > len || own < sizeof(*d) || own % 8 || d->type >= VD_ARRAY_SIZE(decode) ||
        !decode[d->type] || (d->flags & ~flags[d->type]))
        return -EUCLEAN;
    memset(ret, 0, sizeof(*ret));
    ret->type = (enum vd_entry_type)d->type;
    int r = decode[d->type](p, own, ret);
    return r < 0 ? r : (int)own;
}

struct entry_walk entries_of(const struct vd_record *rec, const void *buf4k)
{
    return (struct entry_walk){(const uint8_t *)buf4k + OD_RECORD_ENTRIES, rec->entries_len,
                               rec->entry_count};
}

int entry_next(struct entry_walk *w, struct vd_entry *ret)
{
    if (w->count == 0)
        return 0;
    int n = entry_decode(w->at, w->left, ret);
    if (n < 0)
        return n;
    w->at += n;
    w->left -= (size_t)n;
    w->count--;
    return 1;
}

void relocation_encode(const struct vd_relocation *r, void *p32)
{
    struct od_relocation *d = p32;

    assert(cell_valid(r->lba, r->blocks) && r->branch <= UINT32_MAX);
    d->branch = vd_le32((uint32_t)r->branch);
    d->blocks = vd_le32(r->blocks);
    d->lba = vd_le64(r->lba);
    d->from = addr_encode(r->from);
    d->to = addr_encode(r->to);
}

int relocation_decode(const void *p32, struct vd_relocation *ret)
{
    const struct od_relocation *d = p32;

    ret->branch = vd_get32(d->branch);
    ret->blocks = vd_get32(d->blocks);
    ret->lba = vd_get64(d->lba);
    ret->from = addr_decode(d->from);
    ret->to = addr_decode(d->to);
    bool good = cell_valid(ret->lba, ret->blocks) && addr_valid(ret->from, ret->blocks) &&
                addr_valid(ret->to, ret->blocks);
    return good ? 0 : -EUCLEAN;
}

struct vd_addr entry_addr(const struct vd_record *rec, const struct vd_entry *e)
{
    return e->type == VD_ENTRY_WRITE ? vd_addr_plus(rec->at, 1 + e->payload) : e->addr;
}
