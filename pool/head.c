/* SPDX-License-Identifier: MIT */
/*
 * The head of a device: labels, roots, and the segment table's four areas. They are
 * overwritten in place (I1; nothing else is but dead blocks, refill.c): each is written to the slot
 * or area that the newest durable generation does not use, so a torn write costs nothing. All calls
 * suspend.
 */
#include "core/base/hash.h"
#include "core/base/text.h"
#include "pool/pool_priv.h"

#include <stdlib.h>

/* The table's areas are the four chunks behind the head, one each. */
void head_table_areas(uint32_t chunk_size, uint64_t off[4], uint64_t *area)
{
    *area = chunk_size;
    for (unsigned i = 0; i < 4; i++)
        off[i] = (HEAD_CHUNKS - 4 + i) * (uint64_t)chunk_size;
}

uint32_t head_table_limit(uint64_t area)
{
    return (uint32_t)((area - sizeof(struct od_table_header)) / table_entry_size(1));
}

/* Writes one 4 KiB slot in both copies. The second copy follows the first, so that at no moment
 * both are in flight. */
static int slot_write(struct vd_dev *dev, uint64_t off, const void *buf)
{
    int r = vd_dev_write(dev, off, buf, 4096);
    return r < 0 ? r : vd_dev_write(dev, off + OD_HEAD_COPY, buf, 4096);
}

int head_read_label(struct vd_dev *dev, struct vd_label *ret, struct vd_error *err)
{
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(4096);
    struct vd_label *l VD_CLEANUP(vd_cleanup_free) = malloc(sizeof(*l));
    if (!buf || !l)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");

    bool found = false, damaged = false;
    struct vd_dev_info info;
    vd_dev_info(dev, &info);
    if (info.size < VD_MIB(1))
        return vd_fail(err, -ENODEV, "not-a-pool", "%s is not a vdisk image", vd_dev_path(dev));
    for (unsigned i = 0; i < 4; i++) {
        int r = vd_dev_read(dev, OD_LABEL_OFF(i & 1) + (i >> 1) * OD_HEAD_COPY, buf, 4096);
        if (r == 0)
            r = label_decode(buf, l);
        if (r == -EPROTONOSUPPORT) {
            char names[160];
            return vd_fail(err, r, "unsupported-feature",
                           "%s needs features that this version does not know: %s",
                           vd_dev_path(dev), feature_names(l->incompat, names, sizeof(names)));
        }
        if (r < 0) {
            damaged |= r != -ENODATA;
            continue;
        }
        if (!found || l->generation > ret->generation)
            *ret = *l;
        found = true;
    }
    if (found)
        return 0;
    if (damaged)
        return vd_fail(err, -EUCLEAN, "damaged", "no label of %s can be read", vd_dev_path(dev));
    return vd_fail(err, -ENODEV, "not-a-pool", "%s is not a vdisk image", vd_dev_path(dev));
}

int head_write_label(struct vd_pool *p)
{
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(4096);
    if (!buf)
        return -ENOMEM;
    p->label.generation++;
    label_encode(&p->label, buf);
    int r = slot_write(p->dev, OD_LABEL_OFF(p->label.generation & 1), buf);
    return r < 0 ? r : vd_dev_flush(p->dev);
}

int head_read_root(struct vd_pool *p, struct vd_error *err)
{
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(4096);
    struct vd_root *r VD_CLEANUP(vd_cleanup_free) = malloc(sizeof(*r));
    if (!buf || !r)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");

    bool found = false;
    for (unsigned i = 0; i < 4; i++) {
        if (vd_dev_read(p->dev, OD_ROOT_OFF(i & 1) + (i >> 1) * OD_HEAD_COPY, buf, 4096) < 0 ||
            root_decode(buf, r) < 0 || !vd_uuid_equal(&r->pool_uuid, &p->label.pool_uuid))
            continue;
#ifdef VD_PLANT_STALE_ROOT_ACCEPTED
        found = false;
#endif
        if (!found || r->counter > p->root.counter)
            p->root = *r;
        found = true;
    }
    if (!found)
        return vd_fail(err, -EUCLEAN, "damaged", "no root of %s can be read", vd_dev_path(p->dev));
    if (p->label.root_counter > p->root.counter)
        return vd_fail(err, -EUCLEAN, "damaged",
                       "%s: root %" PRIu64
                       " was durable, but the newest that can be read is %" PRIu64,
                       vd_dev_path(p->dev), p->label.root_counter, p->root.counter);
    return 0;
}

int head_heal_root(struct vd_pool *p)
{
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(4096);
    struct vd_root *r VD_CLEANUP(vd_cleanup_free) = malloc(sizeof(*r));
    if (!buf || !r)
        return -ENOMEM;
    int res = 0;
    bool sure = p->label.root_counter == p->root.counter;
    for (unsigned copy = 0; copy < 2 && res == 0; copy++) {
        uint64_t off = OD_ROOT_OFF(p->root.counter & 1) + copy * OD_HEAD_COPY;
        if (sure && vd_dev_read(p->dev, off, buf, 4096) == 0 && root_decode(buf, r) == 0 &&
            r->counter == p->root.counter && vd_uuid_equal(&r->pool_uuid, &p->root.pool_uuid))
            continue;
        root_encode(&p->root, buf);
        res = vd_dev_write(p->dev, off, buf, 4096);
    }
    return res;
}

int head_write_root(struct vd_pool *p, const struct vd_root *r)
{
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(4096);
    if (!buf)
        return -ENOMEM;
    root_encode(r, buf);
    int res = slot_write(p->dev, OD_ROOT_OFF(r->counter & 1), buf);
#ifdef VD_PLANT_ROOT_NOT_FLUSHED
    return res;
#endif
    return res < 0 ? res : vd_dev_flush(p->dev);
}

static int table_load(struct vd_pool *p, const uint8_t *buf)
{
    const struct vd_root *r = &p->root;
    int res = table_header_decode(buf, &p->label.pool_uuid, r->counter, r->table_entries,
                                  r->table_entry_size);
    if (res < 0)
        return res;
    for (uint32_t i = 0; i < r->table_entries; i++) {
        struct vd_table_entry e;
        res = table_entry_decode(buf + sizeof(struct od_table_header) +
                                     (size_t)i * r->table_entry_size,
                                 r->table_entry_size, &e);
        if (res < 0)
            return res;
        p->segs.v[i] = (struct pool_seg){
            .state = (uint8_t)e.state,
            .stream = (uint8_t)e.stream,
            .warm = e.warm,
            .backed = e.warm || e.state != VD_SEG_FREE,
            .live = e.live,
            .last_seq = e.last_seq,
            .rid = e.rid,
        };
    }
    return 0;
}

int head_read_table(struct vd_pool *p, struct vd_error *err)
{
    const struct vd_root *r = &p->root;
    size_t len = table_size(r->table_entries, r->table_entry_size);
    if (len > r->table_area || r->table_entry_size < table_entry_size(1))
        return vd_fail(err, -EUCLEAN, "damaged",
                       "%s: segment table of %zu bytes in an area of %" PRIu64, vd_dev_path(p->dev),
                       len, r->table_area);
    int res = segs_init(p, r->table_entries);
    if (res < 0)
        return vd_fail(err, res, "no-memory", "out of memory");
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(len);
    if (!buf)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    for (unsigned copy = 0; copy < 2; copy++) {
        res = vd_dev_read(p->dev, r->table_off[(r->counter & 1) * 2 + copy], buf, len);
        if (res == 0 && vd_xxh3(buf, len) != r->table_csum)
            res = -EBADMSG;
        if (res == 0)
            res = table_load(p, buf);
        if (res == 0)
            return 0;
        vd_log(VD_LOG_WARNING, "%s: copy %u of the segment table cannot be used",
               vd_dev_path(p->dev), copy);
    }
    return vd_fail(err, -EUCLEAN, "damaged", "no copy of the segment table of %s can be read",
                   vd_dev_path(p->dev));
}

/* What segment i is once the coming root is durable: the table speaks of that moment. A segment
 * that the cleaner emptied and gave free is still named by this root's trees, under relocations
 * that are only in the log: for whoever starts from this root it is in use. */
static void table_entry_of(const struct vd_pool *p, uint32_t i, bool freed,
                           struct vd_table_entry *e)
{
    const struct pool_seg *s = &p->segs.v[i];
    *e = (struct vd_table_entry){
        .state = freed ? VD_SEG_FREE : s->state,
        .stream = s->stream,
        .nchunks = 1,
        .warm = s->warm,
        .live = (uint32_t)((int64_t)s->live + s->delta),
        .last_seq = s->last_seq,
        .rid = s->rid,
        .chunk = {{.dev = 0, .idx = i}},
    };
    if (e->state == VD_SEG_FREE && e->live) {
        e->state = VD_SEG_CLOSED;
        e->stream = VD_STREAM_CLEAN;
        e->last_seq = p->log.applied_seq;
        e->rid = 1;
    }
    if (e->state == VD_SEG_FREE) {
        e->stream = 0;
        e->last_seq = 0;
        e->rid = 0;
        e->live = 0;
    }
}

int head_write_table(struct vd_pool *p, struct vd_root *r, const bool *freed)
{
    size_t entry = table_entry_size(1);
    size_t len = table_size(p->segs.count, entry);
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(len);
    if (!buf)
        return -ENOMEM;
    memset(buf, 0, len);
    table_header_encode(buf, &p->label.pool_uuid, r->counter, p->segs.count, entry);
    for (uint32_t i = 0; i < p->segs.count; i++) {
        struct vd_table_entry e;
        table_entry_of(p, i, freed && freed[i], &e);
        table_entry_encode(&e, buf + sizeof(struct od_table_header) + i * entry, entry);
    }
    r->table_entries = p->segs.count;
    r->table_entry_size = (uint32_t)entry;
    r->table_csum = vd_xxh3(buf, len);
    for (unsigned copy = 0; copy < 2; copy++) {
        int res = vd_dev_write(p->dev, r->table_off[(r->counter & 1) * 2 + copy], buf, len);
        if (res < 0)
            return res;
    }
    return 0;
}

/* Writes a first label, root and table from what `l` and `r` say: one closed log segment, nothing
 * else. */
int head_format(struct vd_dev *dev, struct vd_label *l, struct vd_root *r)
{
    struct vd_pool *p VD_CLEANUP(vd_cleanup_free) = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->dev = dev;
    p->label = *l;
    int res = segs_init(p, HEAD_CHUNKS + 1);
    if (res < 0)
        return res;
    for (uint32_t i = 0; i < HEAD_CHUNKS; i++)
        p->segs.v[i] = (struct pool_seg){.state = VD_SEG_FIXED, .stream = VD_STREAM_FIXED};
    p->segs.v[HEAD_CHUNKS] =
        (struct pool_seg){.state = VD_SEG_CLOSED, .stream = VD_STREAM_LOG, .rid = r->log_seg.rid};
    res = head_write_table(p, r, NULL);
    /* The root has to find the table, and a label without a root must not exist. */
    if (res == 0)
        res = vd_dev_flush(dev);
    if (res == 0)
        res = head_write_root(p, r);
    if (res == 0)
        res = head_write_label(p);
    segs_free(p);
    return res;
}
