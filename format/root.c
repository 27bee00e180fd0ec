/* SPDX-License-Identifier: MIT */
/*
 * Roots: the state of a pool at one sequence number, and where replay goes on from it. Keeps I6.
 * Called by pool/ when it opens and at the end of a checkpoint. Pure; does not yield. On-disk
 * structs: od_root, od_tree_root, od_node_ptr.
 */
#include "format/format_priv.h"

#define ROOT_BYTES 4096u

static void tree_root_encode(const struct vd_tree_root *t, struct od_tree_root *d)
{
    if (t->height == 0)
        return; /* an empty tree is all zero */
    for (int c = 0; c < 2; c++)
        d->ptr.copy[c] = addr_encode(t->copy[c]);
    d->ptr.csum = vd_le64(t->csum);
    d->height = (uint8_t)t->height;
    d->entries = vd_le64(t->entries);
    d->leaves = vd_le64(t->leaves);
    d->nodes = vd_le64(t->nodes);
}

static int tree_root_decode(const struct od_tree_root *d, struct vd_tree_root *t)
{
    memset(t, 0, sizeof(*t));
    if (d->height == 0)
        return bytes_zero(d, sizeof(*d)) ? 0 : -EUCLEAN;
    for (int c = 0; c < 2; c++)
        t->copy[c] = addr_decode(d->ptr.copy[c]);
    t->csum = vd_get64(d->ptr.csum);
    t->height = d->height;
    t->entries = vd_get64(d->entries);
    t->leaves = vd_get64(d->leaves);
    t->nodes = vd_get64(d->nodes);
    if (t->height > OD_HEIGHT_MAX || !bytes_zero(d->pad, sizeof(d->pad)) ||
        !addr_valid(t->copy[0], 1) || !addr_valid(t->copy[1], 1) ||
        vd_addr_equal(t->copy[0], t->copy[1]) || t->leaves < 1 || t->nodes < t->leaves ||
        t->entries < t->leaves || (t->height == 1) != (t->nodes == 1))
        return -EUCLEAN;
    return 0;
}

void root_encode(const struct vd_root *r, void *buf4k)
{
    struct od_root *d = buf4k;

    memset(buf4k, 0, ROOT_BYTES);
    d->magic = vd_le64(OD_MAGIC_ROOT);
    memcpy(d->pool_uuid, r->pool_uuid.b, sizeof(d->pool_uuid));
    d->incarnation = vd_le64(r->incarnation);
    d->counter = vd_le64(r->counter);
    d->seq = vd_le64(r->seq);
    d->epoch = vd_le64(r->epoch);
    segref_encode(&r->log_seg, &d->log_seg);
    d->log_sector = vd_le32(r->log_sector);
    logrefs_encode(r->log_next, d->log_next);
    d->log_csum = vd_le64(r->log_csum);
    for (int i = 0; i < 4; i++)
        d->table_off[i] = vd_le64(r->table_off[i]);
    d->table_area = vd_le64(r->table_area);
    d->table_csum = vd_le64(r->table_csum);
    d->table_entries = vd_le32(r->table_entries);
    d->table_entry_size = vd_le32(r->table_entry_size);
    d->live_blocks = vd_le64(r->live_blocks);
    d->capacity = vd_le64(r->capacity);
    for (int i = 0; i < OD_TREES; i++)
        tree_root_encode(&r->tree[i], &d->tree[i]);
    d->csum = vd_le64(od_csum(buf4k, offsetof(struct od_root, csum)));
}

/* The four areas are whole blocks, hold the table, and lie apart from each other and the slots. */
static int table_place_check(const struct vd_root *r)
{
    if (r->table_area == 0 || r->table_area % VD_BLOCK || r->table_area > INT64_MAX ||
        r->table_entry_size < table_entry_size(1) ||
        r->table_entry_size > table_entry_size(OD_SEG_CHUNKS) || r->table_entry_size % 8 ||
        r->table_entries < 1 || table_size(r->table_entries, r->table_entry_size) > r->table_area)
        return -EUCLEAN;
    for (int i = 0; i < 4; i++) {
        if (r->table_off[i] % VD_BLOCK || r->table_off[i] < OD_ROOT_OFF(2) ||
            r->table_off[i] > INT64_MAX - r->table_area)
            return -EUCLEAN;
        for (int j = 0; j < i; j++)
            if (r->table_off[i] < r->table_off[j] + r->table_area &&
                r->table_off[j] < r->table_off[i] + r->table_area)
                return -EUCLEAN;
    }
    return 0;
}

int root_decode(const void *buf4k, struct vd_root *ret)
{
    const struct od_root *d = buf4k;

    if (vd_get64(d->magic) != OD_MAGIC_ROOT)
        return -ENODATA;
    if (vd_get64(d->csum) != od_csum(buf4k, offsetof(struct od_root, csum)))
        return -EBADMSG;
    *ret = (struct vd_root){
        .incarnation = vd_get64(d->incarnation),
        .counter = vd_get64(d->counter),
        .seq = vd_get64(d->seq),
        .epoch = vd_get64(d->epoch),
        .log_sector = vd_get32(d->log_sector),
        .log_csum = vd_get64(d->log_csum),
        .table_area = vd_get64(d->table_area),
        .table_csum = vd_get64(d->table_csum),
        .table_entries = vd_get32(d->table_entries),
        .table_entry_size = vd_get32(d->table_entry_size),
        .live_blocks = vd_get64(d->live_blocks),
        .capacity = vd_get64(d->capacity),
    };
    memcpy(ret->pool_uuid.b, d->pool_uuid, sizeof(d->pool_uuid));
    for (int i = 0; i < 4; i++)
        ret->table_off[i] = vd_get64(d->table_off[i]);
    int r = segref_decode(&d->log_seg, &ret->log_seg);
    if (r == 0)
        r = logrefs_decode(d->log_next, ret->log_next);
    if (r < 0)
        return r;
    /* The position may be the segment's very end. */
    if (ret->log_seg.stream != VD_STREAM_LOG || ret->log_sector % VD_SECTORS_PER_BLOCK ||
        ret->log_sector > OD_SEG_SECTORS_MAX || !bytes_zero(d->pad0, sizeof(d->pad0)) ||
        !bytes_zero(d->pad1, sizeof(d->pad1)) || !bytes_zero(d + 1, ROOT_BYTES - sizeof(*d)))
        return -EUCLEAN;
    r = table_place_check(ret);
    for (int i = 0; r == 0 && i < OD_TREES; i++)
        r = tree_root_decode(&d->tree[i], &ret->tree[i]);
    return r;
}
