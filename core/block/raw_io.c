/* SPDX-License-Identifier: MIT */
/*
 * The raw disk's system calls. Everything here runs on offload threads: it may block, and touches
 * nothing but its arguments.
 */
#include "core/base/text.h"
#include "core/block/raw_priv.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#define BOUNCE_LEN VD_MIB(1)

/* Moves an iovec array on by `done` bytes. */
static void iov_advance(struct iovec **iov, int *n, size_t done)
{
    while (done > 0) {
        size_t step = VD_MIN(done, (*iov)->iov_len);
        (*iov)->iov_base = (char *)(*iov)->iov_base + step;
        (*iov)->iov_len -= step;
        done -= step;
        if ((*iov)->iov_len == 0) {
            (*iov)++;
            (*n)--;
        }
    }
}

/* The end of the file: zeroes up to the end of its last sector, anything more is missing. */
static int fill_tail(struct iovec *iov, int n, size_t left)
{
    if (left >= VD_SECTOR)
        return -EIO;
    for (int i = 0; i < n; i++)
        memset(iov[i].iov_base, 0, iov[i].iov_len);
    return 0;
}

/* Whole transfer, however many calls it takes. Uses up `iov`. */
static int move(const struct raw_transfer *t, uint64_t off, struct iovec *iov, int n, size_t len)
{
    while (len > 0) {
        int count = VD_MIN(n, IOV_MAX);
        int rwf = t->flags & VD_DISK_FUA ? RWF_DSYNC : 0;
        ssize_t r = t->write ? pwritev2(t->fd, iov, count, (off_t)off, rwf)
                             : preadv(t->fd, iov, count, (off_t)off);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        if (r == 0)
            return t->write ? -EIO : fill_tail(iov, n, len);
        off += (uint64_t)r;
        len -= (size_t)r;
        iov_advance(&iov, &n, (size_t)r);
        /* A direct read that stopped at the end of the file would be unaligned if continued. */
        if (!t->write && len > 0 && len < VD_SECTOR && off % VD_SECTOR != 0)
            return fill_tail(iov, n, len);
    }
    return 0;
}

/* Copies between `buf` and the vector, from `skip` bytes into it. */
static void bounce_copy(const struct raw_transfer *t, size_t skip, char *buf, size_t len)
{
    for (int i = 0; i < t->n && len > 0; i++) {
        if (skip >= t->iov[i].iov_len) {
            skip -= t->iov[i].iov_len;
            continue;
        }
        char *at = (char *)t->iov[i].iov_base + skip;
        size_t part = VD_MIN(len, t->iov[i].iov_len - skip);
        if (t->write)
            memcpy(buf, at, part);
        else
            memcpy(at, buf, part);
        skip = 0;
        buf += part;
        len -= part;
    }
}

static int move_bounced(const struct raw_transfer *t)
{
    char *buf = vd_alloc_aligned(VD_MIN(t->len, BOUNCE_LEN));
    if (!buf)
        return -ENOMEM;
    int r = 0;
    for (size_t done = 0; done < t->len && r == 0;) {
        size_t part = VD_MIN(t->len - done, BOUNCE_LEN);
        struct iovec iov = {.iov_base = buf, .iov_len = part};
        if (t->write)
            bounce_copy(t, done, buf, part);
        r = move(t, t->off + done, &iov, 1, part);
        if (!t->write && r == 0)
            bounce_copy(t, done, buf, part);
        done += part;
    }
    free(buf);
    return r;
}

static bool is_aligned(const struct raw_transfer *t)
{
    for (int i = 0; i < t->n; i++)
        if (((uintptr_t)t->iov[i].iov_base | t->iov[i].iov_len) % t->align != 0)
            return false;
    return true;
}

int raw_transfer_run(void *transfer)
{
    const struct raw_transfer *t = transfer;
    if (!is_aligned(t))
        return move_bounced(t);
    if (t->n == 1) {
        struct iovec iov = t->iov[0];
        return move(t, t->off, &iov, 1, t->len);
    }
    struct iovec *iov = malloc(sizeof(*iov) * (size_t)t->n);
    if (!iov)
        return -ENOMEM;
    memcpy(iov, t->iov, sizeof(*iov) * (size_t)t->n);
    int r = move(t, t->off, iov, t->n, t->len);
    free(iov);
    return r;
}

/* Adds [*at, to) to the array, joined to the last one if it is alike; false when there is no room.
 */
static bool extent_add(struct vd_extent *ret, int *used, int max, uint64_t *at, uint64_t to,
                       unsigned flags)
{
    if (*used > 0 && ret[*used - 1].flags == flags)
        ret[*used - 1].len += to - *at;
    else if (*used < max)
        ret[(*used)++] = (struct vd_extent){.off = *at, .len = to - *at, .flags = flags};
    else
        return false;
    *at = to;
    return true;
}

int raw_extents_find(int fd, uint64_t off, uint64_t len, struct vd_extent *ret, int max)
{
    uint64_t at = off, end = off + len;
    int used = 0;
    while (at < end) {
        off_t found = lseek(fd, (off_t)at, SEEK_DATA);
        /* ENXIO: nothing but hole up to the end of the file. Other errors: the host cannot tell. */
        uint64_t data = found >= 0 ? (uint64_t)found : errno == ENXIO ? end : at;
        data = VD_MIN(VD_ROUND_DOWN(data, VD_SECTOR), end);
        if (data > at && !extent_add(ret, &used, max, &at, data, VD_EXTENT_HOLE | VD_EXTENT_ZERO))
            break;
        if (at == end)
            break;
        found = lseek(fd, (off_t)at, SEEK_HOLE);
        uint64_t hole = found > (off_t)at ? VD_ROUND_UP((uint64_t)found, VD_SECTOR) : end;
        if (!extent_add(ret, &used, max, &at, VD_MIN(hole, end), 0))
            break;
    }
    return used;
}
