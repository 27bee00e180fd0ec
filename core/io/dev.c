/* SPDX-License-Identifier: MIT */
/*
 * The choke point of waist 1: every call on a device passes here, is checked against the contract
 * of dev.h, and is counted. Yields where dev.h says so.
 *
 * Invariants:
 *  - a back end sees only whole, aligned blocks, in range for a file offset, and no change to a
 *    device opened read-only;
 *  - I9: once a flush has failed, no flush of this device succeeds again, not even one that was
 *    already under way.
 */
#include "core/io/dev.h"

#include "core/base/log.h"

static bool range_ok(uint64_t off, uint64_t len)
{
    return off % VD_BLOCK == 0 && len % VD_BLOCK == 0 && off <= INT64_MAX && len <= INT64_MAX - off;
}

/* The length of the transfer, or -EINVAL. */
static int64_t io_check(const struct vd_io *io)
{
    if (io->iovcnt < 1 || io->iovcnt > VD_IO_IOV_MAX ||
        (io->flags & ~(unsigned)(VD_IO_DSYNC | VD_IO_CACHED)) ||
        (io->op != VD_IO_READ && io->op != VD_IO_WRITE))
        return -EINVAL;
    uint64_t len = 0;
    for (int i = 0; i < io->iovcnt; i++) {
        const struct iovec *v = &io->iov[i];
        if ((uintptr_t)v->iov_base % VD_BLOCK || v->iov_len % VD_BLOCK || v->iov_len == 0 ||
            v->iov_len > INT64_MAX - len)
            return -EINVAL;
        len += v->iov_len;
    }
    return range_ok(io->off, len) ? (int64_t)len : -EINVAL;
}

static int ios_refuse(struct vd_dev *dev, struct vd_io *ios, int n, int code)
{
    for (int i = 0; i < n; i++)
        ios[i].res = code;
    if (code == -EINVAL)
        vd_log(VD_LOG_ERROR, "%s: misaligned or malformed transfer refused", dev->path);
    return code;
}

/* All fit to be given to the back end, and counted: 0. */
static int ios_admit(struct vd_dev *dev, struct vd_io *ios, int n)
{
    for (int i = 0; i < n; i++) {
        int64_t len = io_check(&ios[i]);
        if (len < 0)
            return ios_refuse(dev, ios, n, (int)len);
        if (ios[i].op == VD_IO_WRITE) {
            if (dev->read_only)
                return ios_refuse(dev, ios, n, -EROFS);
            dev->stats.writes++;
            dev->stats.write_bytes += (uint64_t)len;
        } else {
            dev->stats.reads++;
            dev->stats.read_bytes += (uint64_t)len;
        }
    }
    return 0;
}

int vd_dev_io(struct vd_dev *dev, struct vd_io *ios, int n)
{
    int r = ios_admit(dev, ios, n);
    return r == 0 && n > 0 ? dev->ops->io(dev, ios, n) : r;
}

bool vd_dev_begin(struct vd_dev *dev, struct vd_io_batch *batch)
{
    batch->begun = batch->pending = 0;
    batch->priv = NULL;
    assert(batch->n > 0 && batch->n <= VD_IO_BATCH_MAX);
    for (int i = 0; i < batch->n; i++)
        assert(batch->ios[i].op == VD_IO_WRITE && !(batch->ios[i].flags & VD_IO_CACHED));
    batch->refused = ios_admit(dev, batch->ios, batch->n);
    return dev->ops->begin && batch->refused == 0 && dev->ops->begin(dev, batch);
}

int vd_dev_end(struct vd_dev *dev, struct vd_io_batch *batch)
{
    int failed = 0;
    if (batch->refused < 0)
        return batch->refused;
    if (dev->ops->end)
        dev->ops->end(dev, batch);
    if (batch->begun < batch->n)
        failed = dev->ops->io(dev, batch->ios + batch->begun, batch->n - batch->begun);
    for (int i = batch->begun; i-- > 0;)
        failed = batch->ios[i].res < 0 ? batch->ios[i].res : failed;
    return failed;
}

int vd_dev_read(struct vd_dev *dev, uint64_t off, void *buf, size_t len)
{
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    struct vd_io io = {.op = VD_IO_READ, .off = off, .iov = &iov, .iovcnt = 1};
    return vd_dev_io(dev, &io, 1);
}

int vd_dev_write(struct vd_dev *dev, uint64_t off, const void *buf, size_t len)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    struct vd_io io = {.op = VD_IO_WRITE, .off = off, .iov = &iov, .iovcnt = 1};
    return vd_dev_io(dev, &io, 1);
}

int vd_dev_flush(struct vd_dev *dev)
{
    if (dev->flush_failed)
        return dev->flush_failed;
    dev->stats.flushes++;
    if (dev->read_only)
        return 0;
    int r = dev->ops->flush(dev);
#ifdef VD_PLANT_FLUSH_ERROR_SWALLOWED
    r = 0;
#endif
    if (r < 0 && !dev->flush_failed) {
        dev->flush_failed = r;
        vd_log(VD_LOG_ERROR, "%s: a flush failed (%s); the device is not trusted any more",
               dev->path, strerrordesc_np(-r));
    }
    return dev->flush_failed;
}

int vd_dev_allocate(struct vd_dev *dev, uint64_t off, uint64_t len)
{
    if (!range_ok(off, len) || len == 0)
        return -EINVAL;
    return dev->read_only ? -EROFS : dev->ops->allocate(dev, off, len);
}

int vd_dev_punch(struct vd_dev *dev, uint64_t off, uint64_t len)
{
    if (!range_ok(off, len) || len == 0)
        return -EINVAL;
    return dev->read_only ? -EROFS : dev->ops->punch(dev, off, len);
}

int vd_dev_truncate(struct vd_dev *dev, uint64_t size)
{
    if (!range_ok(size, 0))
        return -EINVAL;
    return dev->read_only ? -EROFS : dev->ops->truncate(dev, size);
}

uint64_t vd_dev_unwritten(struct vd_dev *dev, uint64_t off)
{
    return dev->ops->unwritten ? dev->ops->unwritten(dev, off) : UINT64_MAX;
}

void vd_dev_info(struct vd_dev *dev, struct vd_dev_info *ret)
{
    memset(ret, 0, sizeof(*ret));
    dev->ops->info(dev, ret);
    ret->read_only = dev->read_only;
}

const char *vd_dev_path(const struct vd_dev *dev)
{
    return dev->path;
}

void vd_dev_close(struct vd_dev *dev)
{
    if (dev)
        dev->ops->close(dev);
}
