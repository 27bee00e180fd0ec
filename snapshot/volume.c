/* SPDX-License-Identifier: MIT */
/*
 * Volumes and snapshots as disks: handles, how requests and control operations exclude each other,
 * and what does not change blocks. Writing is write.c's.
 *
 * Invariants:
 *  1 A request runs between volume_enter and volume_leave; roll back and shrink wait until none
 * does and hold new ones back until they are done. Reads of snapshots need no such thing. 2 A
 * request is checked against the size again after it entered: it may have waited for a shrink.
 */
#include "snapshot/volume_priv.h"

#include <stdlib.h>

int volume_enter(struct vol_disk *d, uint64_t off, uint64_t len)
{
    struct volume *v = d->ref.volume;
    if (d->ref.snapshot)
        return 0;
    while (v->switching)
        vd_wait(&v->turn);
    if (off > v->rec.size || len > v->rec.size - off)
        return -ERANGE;
    v->in_flight++;
    return 0;
}

void volume_leave(struct vol_disk *d)
{
    struct volume *v = d->ref.volume;
    if (d->ref.snapshot)
        return;
    if (--v->in_flight == 0 && v->switching)
        vd_wake_all(&v->turn);
}

void volume_drain(struct volume *v)
{
    v->switching = true;
    while (v->in_flight)
        vd_wait(&v->turn);
}

void volume_resume(struct volume *v)
{
    v->switching = false;
    vd_wake_all(&v->turn);
}

void volume_notify(struct volume *v, enum vd_disk_event event)
{
    vd_list_each_safe (it, &v->disks) {
        struct vol_disk *d = vd_container_of(it, struct vol_disk, link);
        vd_disk_notify(&d->d, event);
    }
}

/* ---- the disk ---- */

static int disk_readv(struct vd_disk *disk, uint64_t off, const struct iovec *iov, int n,
                      size_t len)
{
    struct vol_disk *d = vol_disk_of(disk);
    int r = volume_enter(d, off, len);
    if (r < 0)
        return r;
    r = view_read(d->s, d->ref, off, iov, n, len);
    volume_leave(d);
    return r;
}

static int disk_flush(struct vd_disk *disk)
{
    return pool_flush(vol_disk_of(disk)->s->pool);
}

/* Appends to the answer; false when there is no room. */
static bool extent_add(struct vd_extent *e, int *n, int max, uint64_t off, uint64_t len,
                       unsigned flags)
{
    if (*n && e[*n - 1].flags == flags) {
        e[*n - 1].len += len;
        return true;
    }
    if (*n == max)
        return false;
    e[(*n)++] = (struct vd_extent){.off = off, .len = len, .flags = flags};
    return true;
}

/* The blocks [lba, end) of one cell, all known in v, cut to the bytes [off, off_end). */
static bool extents_cell(const struct cell_view *v, uint64_t lba, uint64_t end, uint64_t off,
                         uint64_t off_end, struct vd_extent *e, int *n, int max)
{
    for (; lba < end; lba++) {
        uint64_t from = VD_MAX(off, lba * VD_BLOCK), to = VD_MIN(off_end, (lba + 1) * VD_BLOCK);
        bool zero = v->b[lba % VD_CELL_BLOCKS].type == VD_RUN_ZERO;
        if (!extent_add(e, n, max, from, to - from, zero ? VD_EXTENT_HOLE | VD_EXTENT_ZERO : 0))
            return false;
    }
    return true;
}

static bool cell_is_zero(const struct cell_view *v)
{
    for (uint32_t m = v->want; m; m &= m - 1)
        if (v->b[__builtin_ctz(m)].type != VD_RUN_ZERO)
            return false;
    return true;
}

static int extents_find(struct vol_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret,
                        int *n)
{
    uint64_t off_end = off + len, lba = off / VD_BLOCK, end = VD_DIV_UP(off_end, VD_BLOCK);
    unsigned cells = 0;
    int max = *n, r = 0;

    *n = 0;
    while (lba < end) {
        struct cell_view v = {.want = UINT32_MAX};
        if (++cells % 64 == 0)
            vd_fiber_yield(); /* nodes in memory: let the others have their turn */
        uint64_t cell_end = VD_MIN(end, VD_ROUND_UP(lba + 1, (uint64_t)VD_CELL_BLOCKS));
        r = view_cell_load(d->s, d->ref, lba / VD_CELL_BLOCKS, &v);
        if (r < 0 || !extents_cell(&v, lba, cell_end, off, off_end, ret, n, max))
            break;
        lba = cell_end;
        if (lba >= end || !cell_is_zero(&v))
            continue;
        uint64_t hole;
        r = view_hole(d->s, d->ref, lba, end, &hole);
        if (r < 0)
            break;
        uint64_t from = VD_MAX(off, lba * VD_BLOCK), to = VD_MIN(off_end, (lba + hole) * VD_BLOCK);
        if (hole && !extent_add(ret, n, max, from, to - from, VD_EXTENT_HOLE | VD_EXTENT_ZERO))
            break;
        lba += hole;
    }
    return *n ? 0 : r;
}

static int disk_extents(struct vd_disk *disk, uint64_t off, uint64_t len, struct vd_extent *ret,
                        int *n)
{
    struct vol_disk *d = vol_disk_of(disk);
    int r = volume_enter(d, off, len);
    if (r < 0)
        return r;
    r = extents_find(d, off, len, ret, n);
    volume_leave(d);
    return r;
}

static int disk_resize(struct vd_disk *disk, uint64_t size, struct vd_error *err)
{
    struct vol_disk *d = vol_disk_of(disk);
    if (!size)
        return vd_fail(err, -EINVAL, "size-invalid", "a volume cannot have size 0");
    vd_fmutex_lock(&d->s->control);
    int r = volume_resize(d->s, d->ref.volume, size, true, err);
    vd_fmutex_unlock(&d->s->control);
    return r;
}

static void disk_info(struct vd_disk *disk, struct vd_disk_info *ret)
{
    const struct vol_disk *d = vol_disk_of(disk);
    *ret = (struct vd_disk_info){
        .size = view_of(d->ref).size,
        .block_min = VD_SECTOR,
        .block_pref = VD_BLOCK,
        .request_max = 32 << 20,
        .read_only = d->read_only || (d->ref.volume->rec.flags & CATALOG_VOLUME_READ_ONLY),
        .uuid = d->ref.snapshot ? d->ref.snapshot->rec.uuid : d->ref.volume->rec.uuid,
    };
}

static void disk_close(struct vd_disk *disk)
{
    struct vol_disk *d = vol_disk_of(disk);
    vd_list_remove(&d->link);
    if (d->ref.snapshot) {
        d->ref.snapshot->opens--;
    } else {
        d->ref.volume->opens--;
        d->ref.volume->opens_rw -= !d->read_only;
    }
    free(d);
}

static const struct vd_disk_ops ops = {
    .readv = disk_readv,
    .writev = disk_writev,
    .zero = disk_zero,
    .discard = disk_discard,
    .flush = disk_flush,
    .extents = disk_extents,
    .resize = disk_resize,
    .info = disk_info,
    .close = disk_close,
};

int disk_open(struct snap_store *s, struct view_ref ref, bool read_only, struct vd_disk **ret)
{
    struct vol_disk *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    vd_disk_init(&d->d, &ops);
    d->s = s;
    d->ref = ref;
    d->read_only = read_only || ref.snapshot || pool_read_only(s->pool) ||
                   (ref.volume->rec.flags & CATALOG_VOLUME_READ_ONLY);
    if (ref.snapshot) {
        ref.snapshot->opens++;
        vd_list_push(&ref.snapshot->disks, &d->link);
    } else {
        ref.volume->opens++;
        ref.volume->opens_rw += !d->read_only;
        vd_list_push(&ref.volume->disks, &d->link);
    }
    *ret = &d->d;
    return 0;
}
