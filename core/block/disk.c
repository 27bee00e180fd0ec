/* SPDX-License-Identifier: MIT */
/*
 * The choke point of waist 2: every call on a disk passes here once, is checked against the
 * contract of disk.h, counted, and handed to the implementation.
 *
 * Invariants:
 *  1. An implementation sees only calls that are aligned to 512 bytes, inside the disk as it is at
 *     the moment of the call, longer than nothing, and, for changes, on a writable disk.
 *  2. A call of length 0 is 0 at once and reaches nobody.
 *  3. What an implementation answers to extents() starts at the offset asked for, has no gaps and
 *     no empty pieces, and ends inside the range asked for.
 *  4. Of a disk with a meter, every request that reaches the implementation is begun and ended
 * there once.
 *
 * Anybody on the disk's loop calls this. All calls suspend in the implementation, and here only
 * where a volume has used up its limits.
 */
#include "core/block/disk.h"

#include "core/block/meter.h"

#include <limits.h>

/* 0 = go on, 1 = nothing to do. Bad ranges come from users and guests: errors, not assertions.
 * VD_METER_KINDS stands for what neither moves nor changes data. */
static int range_check(struct vd_disk *d, enum vd_meter_kind kind, uint64_t off, uint64_t len)
{
    struct vd_disk_info info;
    vd_disk_info(d, &info);
    if ((off | len) % VD_SECTOR != 0)
        return -EINVAL;
    if (off > info.size || len > info.size - off)
        return -ERANGE;
    bool change = kind == VD_METER_WRITE || kind == VD_METER_ZERO || kind == VD_METER_DISCARD;
    if (change && info.read_only)
        return -EROFS;
    if ((kind == VD_METER_READ || kind == VD_METER_WRITE) && len > info.request_max)
        return -EINVAL;
    return len == 0 ? 1 : 0;
}

/* Returns r. */
static int request_end(struct vd_disk *d, enum vd_meter_kind kind, uint64_t len, uint64_t began_ns,
                       int r)
{
    if (d->use)
        vd_meter_end(d->use, kind, len, began_ns, r);
    return r;
}

/* 0 = go on, and end it with request_end; 1 = nothing to do. */
static int request_begin(struct vd_disk *d, enum vd_meter_kind kind, uint64_t off, uint64_t len,
                         uint64_t *ret_began_ns)
{
    int r = range_check(d, kind, off, len);
    *ret_began_ns = 0;
    if (r != 0 || !d->use)
        return r;
    *ret_began_ns = vd_meter_begin(d->use, kind, len);
    /* It may have waited, and the disk may have shrunk. */
    r = d->use->meter->limit.on ? range_check(d, kind, off, len) : 0;
    return r < 0 ? request_end(d, kind, len, *ret_began_ns, r) : r;
}

/* Sums the vector; -EINVAL for one that cannot be. */
static int iov_len(const struct iovec *iov, int n, size_t *ret)
{
    size_t len = 0;
    if (n < 0 || n > IOV_MAX)
        return -EINVAL;
    for (int i = 0; i < n; i++)
        if (__builtin_add_overflow(len, iov[i].iov_len, &len))
            return -EINVAL;
    *ret = len;
    return 0;
}

int vd_disk_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, unsigned flags)
{
    uint64_t began;
    size_t len = 0;
    int r = flags ? -EINVAL : iov_len(iov, n, &len);
    if (r < 0)
        return r;
    r = request_begin(d, VD_METER_READ, off, len, &began);
    if (r != 0)
        return r < 0 ? r : 0;
    d->stats.reads++;
    d->stats.read_bytes += len;
    return request_end(d, VD_METER_READ, len, began, d->ops->readv(d, off, iov, n, len));
}

int vd_disk_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, unsigned flags)
{
    uint64_t began;
    size_t len = 0;
    int r = flags & ~(unsigned)VD_DISK_FUA ? -EINVAL : iov_len(iov, n, &len);
    if (r < 0)
        return r;
    r = request_begin(d, VD_METER_WRITE, off, len, &began);
    if (r != 0)
        return r < 0 ? r : 0;
    d->stats.writes++;
    d->stats.write_bytes += len;
    return request_end(d, VD_METER_WRITE, len, began, d->ops->writev(d, off, iov, n, len, flags));
}

int vd_disk_read(struct vd_disk *d, uint64_t off, void *buf, size_t len)
{
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    return vd_disk_readv(d, off, &iov, 1, 0);
}

int vd_disk_write(struct vd_disk *d, uint64_t off, const void *buf, size_t len, unsigned flags)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    return vd_disk_writev(d, off, &iov, 1, flags);
}

int vd_disk_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t began;
    if (flags & ~(unsigned)(VD_DISK_FUA | VD_DISK_NO_UNMAP))
        return -EINVAL;
    int r = request_begin(d, VD_METER_ZERO, off, len, &began);
    if (r != 0)
        return r < 0 ? r : 0;
    d->stats.writes++;
    return request_end(d, VD_METER_ZERO, len, began, d->ops->zero(d, off, len, flags));
}

int vd_disk_discard(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t began;
    if (flags & ~(unsigned)VD_DISK_FUA)
        return -EINVAL;
    int r = request_begin(d, VD_METER_DISCARD, off, len, &began);
    if (r != 0)
        return r < 0 ? r : 0;
    return request_end(d, VD_METER_DISCARD, len, began, d->ops->discard(d, off, len, flags));
}

int vd_disk_flush(struct vd_disk *d)
{
    d->stats.flushes++;
    uint64_t began = d->use ? vd_meter_begin(d->use, VD_METER_FLUSH, 0) : 0;
    return request_end(d, VD_METER_FLUSH, 0, began, d->ops->flush(d));
}

int vd_disk_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret, int *n)
{
    if (*n < 1)
        return -EINVAL;
    int r = range_check(d, VD_METER_KINDS, off, len);
    if (r != 0) {
        if (r > 0)
            *n = 0;
        return r < 0 ? r : 0;
    }
    if (!d->ops->extents) {
        /* Whoever cannot tell holds data everywhere: always a true answer. */
        ret[0] = (struct vd_extent){.off = off, .len = len};
        *n = 1;
        return 0;
    }
    int max = *n;
    r = d->ops->extents(d, off, len, ret, n);
    if (r < 0)
        return r;
    assert(*n >= 1 && *n <= max);
    uint64_t at = off;
    for (int i = 0; i < *n; i++) {
        assert(ret[i].off == at && ret[i].len > 0 && ret[i].len <= len - (at - off));
        at += ret[i].len;
    }
    return 0;
}

int vd_disk_resize(struct vd_disk *d, uint64_t size, struct vd_error *err)
{
    struct vd_disk_info info;
    vd_disk_info(d, &info);
    if (size % VD_SECTOR != 0 || size > VD_VOLUME_MAX)
        return vd_fail(err, -EINVAL, "size-invalid",
                       "a disk's size must be a multiple of 512 bytes and at most 8 EiB - 1 MiB");
    if (info.read_only)
        return vd_fail(err, -EROFS, "read-only", "the disk is read-only, it cannot be resized");
    if (!d->ops->resize)
        return vd_fail(err, -EOPNOTSUPP, "resize-unsupported", "this disk cannot be resized");
    return d->ops->resize(d, size, err);
}

void vd_disk_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    d->ops->info(d, ret);
}

void vd_disk_ref(struct vd_disk *d)
{
    assert(d->refs > 0);
    d->refs++;
}

void vd_disk_unref(struct vd_disk *d)
{
    if (!d)
        return;
    assert(d->refs > 0);
    if (--d->refs > 0)
        return;
    assert(vd_list_empty(&d->watches));
    struct vd_meter_use *use = d->use; /* closing may finish what is under way */
    d->ops->close(d);
    vd_meter_use_free(use);
}

void vd_disk_init(struct vd_disk *d, const struct vd_disk_ops *ops)
{
    *d = (struct vd_disk){.ops = ops, .refs = 1};
    vd_list_init(&d->watches);
}

void vd_disk_watch(struct vd_disk *d, struct vd_disk_watch *w)
{
    vd_list_push(&d->watches, &w->link);
}

void vd_disk_unwatch(struct vd_disk_watch *w)
{
    vd_list_remove(&w->link);
}

void vd_disk_notify(struct vd_disk *d, enum vd_disk_event event)
{
    /* A watcher may unwatch itself while it is told, but nobody else. */
    vd_list_each_safe (it, &d->watches) {
        struct vd_disk_watch *w = vd_container_of(it, struct vd_disk_watch, link);
        w->fn(w, event);
    }
}
