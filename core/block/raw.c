/* SPDX-License-Identifier: MIT */
/*
 * A raw file or block device as a disk: what import, export and convert read and write.
 *
 * System calls run on offload threads: these requests are large and few, so a thread's hand-over is
 * small beside them, and every kind of file works. Two descriptors: one with O_DIRECT for whatever
 * is aligned as the host wants it (memory that is not goes through a bounce buffer), one buffered
 * for the rest: the odd tail of a file, 512-byte requests on a 4 KiB medium, hosts without
 * O_DIRECT.
 *
 * Invariants:
 *  1. A buffered transfer never runs beside a direct one, because the kernel keeps the two views
 *     of one page equal only when they take turns.
 *  2. After a flush has failed every later flush fails: the kernel has marked the pages clean, so
 *     one that "works" says nothing.
 *  3. Bytes between the end of the file and the next 512 read as zeroes. A read that ends earlier
 *     than that is -EIO, never a silent zero.
 *
 * All calls suspend, info does not.
 */
#include "core/block/disk.h"

#include "core/base/text.h"
#include "core/block/raw_priv.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is written when the host cannot zero by itself. */
#define ZERO_LEN VD_MIB(1)

static struct raw_disk *raw_of(struct vd_disk *d)
{
    return vd_container_of(d, struct raw_disk, disk);
}

/* Invariant 1: direct transfers share, a buffered one is alone. VD_YIELDS */
static void turn_take(struct raw_disk *raw, bool direct)
{
    if (raw->direct_fd < 0)
        return;
    /* Whoever needs to be alone goes before newcomers, or a busy disk would never let it. */
    raw->alone_wanted += !direct;
    while (raw->alone || (direct ? raw->alone_wanted > 0 : raw->sharing > 0))
        vd_wait(&raw->turn_q);
    raw->alone_wanted -= !direct;
    if (direct)
        raw->sharing++;
    else
        raw->alone = true;
}

static void turn_give(struct raw_disk *raw, bool direct)
{
    if (raw->direct_fd < 0)
        return;
    if (direct)
        raw->sharing--;
    else
        raw->alone = false;
    vd_wake_all(&raw->turn_q);
}

/* VD_YIELDS */
static int transfer(struct raw_disk *raw, struct raw_transfer *t)
{
    bool direct = raw->direct_fd >= 0 && (t->off | t->len) % raw->align == 0;
    t->fd = direct ? raw->direct_fd : raw->fd;
    t->align = direct ? raw->align : 1;
    turn_take(raw, direct);
    int r = vd_offload(raw_transfer_run, t);
    turn_give(raw, direct);
    if (r < 0 && (t->flags & VD_DISK_FUA) && r != -ENOSPC && raw->flush_failed == 0)
        raw->flush_failed = r;
    return r;
}

static int raw_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len)
{
    struct raw_transfer t = {.off = off, .len = len, .iov = iov, .n = n};
    return transfer(raw_of(d), &t);
}

static int raw_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len,
                      unsigned flags)
{
    struct raw_disk *raw = raw_of(d);
    if ((flags & VD_DISK_FUA) && raw->flush_failed)
        return raw->flush_failed;
    struct raw_transfer t = {
        .write = true, .off = off, .len = len, .iov = iov, .n = n, .flags = flags};
    return transfer(raw, &t);
}

static int flush_run(void *arg)
{
    struct raw_disk *raw = arg;
    return fdatasync(raw->fd) < 0 ? -errno : 0;
}

static int raw_flush(struct vd_disk *d)
{
    struct raw_disk *raw = raw_of(d);
    if (raw->flush_failed)
        return raw->flush_failed;
    if (raw->read_only)
        return 0;
    int r = vd_offload(flush_run, raw);
    if (r < 0 && raw->flush_failed == 0)
        raw->flush_failed = r;
    return raw->flush_failed;
}

struct fallocate_call {
    int fd, mode;
    uint64_t off, len;
};

static int fallocate_run(void *arg)
{
    struct fallocate_call *c = arg;
    int r;
    do
        r = fallocate(c->fd, c->mode, (off_t)c->off, (off_t)c->len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

/* What a host answers that does not know this way of doing it. */
static bool is_unsupported(int r)
{
    return r == -EOPNOTSUPP || r == -ENOSYS || r == -EINVAL || r == -ENODEV || r == -EPERM;
}

static int zero_by_writing(struct raw_disk *raw, uint64_t off, uint64_t len)
{
    size_t buf_len = (size_t)VD_MIN(len, ZERO_LEN);
    void *buf = vd_alloc_aligned(buf_len);
    if (!buf)
        return -ENOMEM;
    memset(buf, 0, buf_len);
    int r = 0;
    while (len > 0 && r == 0) {
        struct iovec iov = {.iov_base = buf, .iov_len = (size_t)VD_MIN(len, buf_len)};
        struct raw_transfer t = {
            .write = true, .off = off, .len = iov.iov_len, .iov = &iov, .n = 1};
        r = transfer(raw, &t);
        off += iov.iov_len;
        len -= iov.iov_len;
    }
    free(buf);
    return r;
}

static int raw_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    struct raw_disk *raw = raw_of(d);
    int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    int zero = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    struct fallocate_call c = {.fd = raw->fd, .off = off, .len = len};

    c.mode = flags & VD_DISK_NO_UNMAP ? zero : punch;
    /* Changes the mapping under both views: alone, like a buffered transfer. */
    turn_take(raw, false);
    int r = vd_offload(fallocate_run, &c);
    if (is_unsupported(r) && c.mode == punch) {
        c.mode = zero;
        r = vd_offload(fallocate_run, &c);
    }
    turn_give(raw, false);
    if (is_unsupported(r))
        r = zero_by_writing(raw, off, len);
    if (r == 0 && (flags & VD_DISK_FUA))
        r = raw_flush(d);
    return r;
}

static int discard_device_run(void *arg)
{
    struct fallocate_call *c = arg;
    uint64_t range[2] = {c->off, c->len};
    return ioctl(c->fd, BLKDISCARD, range) < 0 ? -errno : 0;
}

static int raw_discard(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    struct raw_disk *raw = raw_of(d);
    struct fallocate_call c = {.fd = raw->fd, .off = off, .len = len};
    c.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (!raw->is_file) {
        /* A device refuses what does not fit its blocks, all of it: give it what does. */
        uint64_t end = VD_ROUND_DOWN(off + len, VD_BLOCK);
        c.off = VD_ROUND_UP(off, VD_BLOCK);
        c.len = end > c.off ? end - c.off : 0;
        if (c.len == 0)
            return flags & VD_DISK_FUA ? raw_flush(d) : 0;
    }
    turn_take(raw, false);
    int r = vd_offload(raw->is_file ? fallocate_run : discard_device_run, &c);
    turn_give(raw, false);
    /* A hint: no host that ignores it, and none that has no room to split an extent, is an error.
     */
    if (is_unsupported(r) || r == -ENOSPC)
        r = 0;
    if (r == 0 && (flags & VD_DISK_FUA))
        r = raw_flush(d);
    return r;
}

struct extents_call {
    struct raw_disk *raw;
    uint64_t off, len;
    struct vd_extent *ret;
    int n;
};

static int extents_run(void *arg)
{
    struct extents_call *c = arg;
    c->n = raw_extents_find(c->raw->fd, c->off, c->len, c->ret, c->n);
    return 0;
}

static int raw_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret, int *n)
{
    struct raw_disk *raw = raw_of(d);
    struct extents_call c = {.raw = raw, .off = off, .len = len, .ret = ret, .n = *n};
    int r = vd_offload(extents_run, &c);
    *n = c.n;
    return r;
}

struct truncate_call {
    int fd;
    uint64_t size;
};

static int truncate_run(void *arg)
{
    struct truncate_call *c = arg;
    return ftruncate(c->fd, (off_t)c->size) < 0 || fsync(c->fd) < 0 ? -errno : 0;
}

static int raw_resize(struct vd_disk *d, uint64_t size, struct vd_error *err)
{
    struct raw_disk *raw = raw_of(d);
    if (!raw->is_file)
        return vd_fail(err, -EOPNOTSUPP, "resize-unsupported",
                       "a block device cannot be resized from here");
    struct truncate_call c = {.fd = raw->fd, .size = size};
    turn_take(raw, false);
    int r = vd_offload(truncate_run, &c);
    turn_give(raw, false);
    if (r < 0)
        return vd_fail_at(err, r, "resizing the file");
    raw->size = size;
    vd_disk_notify(d, VD_DISK_RESIZED);
    return 0;
}

static void raw_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    struct raw_disk *raw = raw_of(d);
    *ret = (struct vd_disk_info){
        .size = raw->size,
        .block_min = VD_SECTOR,
        .block_pref = VD_BLOCK,
        .request_max = VD_MIB(32),
        .read_only = raw->read_only,
    };
}

static void raw_close(struct vd_disk *d)
{
    struct raw_disk *raw = raw_of(d);
    if (raw->direct_fd >= 0)
        close(raw->direct_fd);
    if (raw->fd >= 0)
        close(raw->fd);
    free(raw);
}

static const struct vd_disk_ops raw_ops = {
    .readv = raw_readv,
    .writev = raw_writev,
    .zero = raw_zero,
    .discard = raw_discard,
    .flush = raw_flush,
    .extents = raw_extents,
    .resize = raw_resize,
    .info = raw_info,
    .close = raw_close,
};

/* The alignment that direct transfers need here, 0 = there are none. */
static uint32_t direct_align(int fd, bool is_file)
{
    if (!is_file) {
        int sector = 0;
        return ioctl(fd, BLKSSZGET, &sector) < 0 || sector < 512 ? 0 : (uint32_t)sector;
    }
#ifdef STATX_DIOALIGN
    struct statx sx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN))
        return VD_MAX(sx.stx_dio_mem_align, sx.stx_dio_offset_align);
#endif
    return VD_BLOCK; /* whoever does not say is happy with this */
}

/* A second descriptor of the same file, direct. Opened anew, because O_DIRECT belongs to the open
 * file, not to the number. Not to be had (permissions, tmpfs): everything is buffered. */
static void direct_open(struct raw_disk *raw)
{
    char path[40];
    uint32_t align = direct_align(raw->fd, raw->is_file);
    if (align < VD_SECTOR || (align & (align - 1)) != 0 || align > VD_BLOCK)
        align = align > 0 && align < VD_SECTOR ? VD_SECTOR : 0;
    if (align == 0)
        return;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", raw->fd);
    raw->direct_fd = open(path, (raw->read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
    raw->align = align;
}

static int raw_setup(struct raw_disk *raw, bool read_only, struct vd_error *err)
{
    struct stat st;
    int fl = fcntl(raw->fd, F_GETFL);
    if (fl < 0 || fstat(raw->fd, &st) < 0)
        return vd_fail_at(err, -errno, "looking at the file");
    raw->is_file = S_ISREG(st.st_mode);
    if (!raw->is_file && !S_ISBLK(st.st_mode))
        return vd_fail(err, -EINVAL, "not-a-disk",
                       "neither a regular file nor a block device: it cannot be used as a disk");
    int mode = fl & O_ACCMODE;
    if (mode == O_WRONLY || (mode == O_RDONLY && !read_only))
        return vd_fail(err, -EINVAL, "not-a-disk", "the file is not open for reading and writing");
    raw->read_only = read_only;
    /* O_APPEND would send every write to the end; O_DIRECT would make this descriptor picky. */
    if ((fl & (O_APPEND | O_DIRECT)) && fcntl(raw->fd, F_SETFL, fl & ~(O_APPEND | O_DIRECT)) < 0)
        return vd_fail_at(err, -errno, "preparing the file");
    uint64_t size = (uint64_t)st.st_size;
    if (!raw->is_file && ioctl(raw->fd, BLKGETSIZE64, &size) < 0)
        return vd_fail_at(err, -errno, "asking for the device's size");
    if (size > VD_VOLUME_MAX)
        return vd_fail(err, -EFBIG, "size-invalid", "the file is larger than 8 EiB - 1 MiB");
    raw->size = VD_ROUND_UP(size, VD_SECTOR);
    direct_open(raw);
    return 0;
}

int vd_disk_raw(int fd, bool read_only, struct vd_disk **ret, struct vd_error *err)
{
    struct raw_disk *raw = calloc(1, sizeof(*raw));
    if (!raw)
        return vd_fail(err, -ENOMEM, "no-memory", "not enough memory");
    vd_disk_init(&raw->disk, &raw_ops);
    vd_waitq_init(&raw->turn_q);
    raw->fd = fd;
    raw->direct_fd = -1;
    int r = raw_setup(raw, read_only, err);
    if (r < 0) {
        raw->fd = -1; /* still the caller's */
        raw_close(&raw->disk);
        return r;
    }
    *ret = &raw->disk;
    return 0;
}
