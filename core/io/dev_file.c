/* SPDX-License-Identifier: MIT */
/*
 * Files and block devices: struct vd_dev over the loop's kernel operations. Reads and writes of one
 * vd_dev_io go out together and cost one suspension; calls that may block for long and have no
 * asynchronous form run on offload threads.
 *
 * Invariants: the caller's struct vd_io and iovecs are not changed but for .res; a transfer is
 * either complete or an error; errors are of the closed set of dev.h.
 */
#include "core/io/dev.h"

#include "core/base/log.h"
#include "core/io/dev_aio.h"
#include "core/io/dev_cached.h"
#include "core/io/dev_lock.h"
#include "core/io/loop_priv.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

struct file_dev {
    struct vd_dev dev;
    int fd;
    bool is_block, can_allocate, can_punch;
    bool hands_over;     /* io_submit passes writes on to the device, no matter who dies */
    unsigned allocating; /* calls under way that keep writes waiting in the kernel */
    struct dev_aio aio;
    struct dev_cached cached;
    uint64_t block_size_bytes; /* of a block device */
    uint64_t st_dev, st_ino;
};

static struct file_dev *file_of(struct vd_dev *dev)
{
    return vd_container_of(dev, struct file_dev, dev);
}

/* The small set of errors that those above know how to treat. */
static int errno_close(int code)
{
    switch (-code) {
    case 0:
    case EIO:
    case ENOSPC:
    case ENODEV:
    case ETIMEDOUT:
    case EROFS:
    case ENOMEM:
    case EOPNOTSUPP:
        return code;
    case EDQUOT:
    case EFBIG:
        return -ENOSPC;
    case ENXIO:
    case ESTALE:
        return -ENODEV;
    default:
        return -EIO;
    }
}

/* ---- transfers ---- */

static uint64_t iov_bytes(const struct iovec *iov, unsigned n)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < n; i++)
        sum += iov[i].iov_len;
    return sum;
}

static void op_prepare(struct loop_op *op, const struct file_dev *f, const struct vd_io *io)
{
    op->kind = io->op == VD_IO_WRITE ? OP_WRITEV : OP_READV;
    op->fd = f->fd;
    op->flags = io->op == VD_IO_WRITE && (io->flags & VD_IO_DSYNC) ? RWF_DSYNC : 0;
    op->off = io->off;
    op->iov = io->iov;
    op->iovcnt = (unsigned)io->iovcnt;
}

/* Goes on after a short or interrupted transfer, `done` bytes in. Rare, so it may allocate. */
static int transfer_continue(struct vd_loop *loop, const struct file_dev *f, const struct vd_io *io,
                             uint64_t done, uint64_t len)
{
    struct iovec *rest = malloc((size_t)io->iovcnt * sizeof(*rest));
    struct loop_op *op = loop_op_get(loop);
    int r = rest && op ? 0 : -ENOMEM;
    while (r == 0 && done < len) {
        uint64_t skip = done;
        int from = 0, n = 0;
        for (; skip >= io->iov[from].iov_len; from++)
            skip -= io->iov[from].iov_len;
        for (int i = from; i < io->iovcnt; i++)
            rest[n++] = io->iov[i];
        rest[0].iov_base = (char *)rest[0].iov_base + skip;
        rest[0].iov_len -= skip;
        op_prepare(op, f, io);
        op->off = io->off + done;
        op->iov = rest;
        op->iovcnt = (unsigned)n;
        int got = loop_op_run(loop, op);
        if (got > 0)
            done += (uint64_t)got;
        else if (got == 0)
            r = -EIO; /* the end of the device */
        else if (got == -EAGAIN || got == -EINTR)
            vd_fiber_yield();
        else
            r = got;
    }
    if (op)
        loop_op_put(loop, op);
    free(rest);
    return r;
}

static int transfer_settle(struct vd_loop *loop, const struct file_dev *f, const struct vd_io *io,
                           int got)
{
    uint64_t len = iov_bytes(io->iov, (unsigned)io->iovcnt);
    if (got >= 0 && (uint64_t)got == len)
        return 0;
    if (got == 0)
        return -EIO;
    if (got < 0 && got != -EAGAIN && got != -EINTR)
        return errno_close(got);
    return errno_close(transfer_continue(loop, f, io, got < 0 ? 0 : (uint64_t)got, len));
}

#define LOCAL_OPS 4

/* Up to as many transfers as there are operations to be had; returns how many (at least one). */
static int batch_run(struct vd_loop *loop, const struct file_dev *f, struct vd_io *ios, int n)
{
    struct loop_op local[LOCAL_OPS], *first = NULL, **tail = &first;
    struct loop_wait w;
    int count = 0;
    for (; count < n; count++) {
        struct loop_op *op = count < LOCAL_OPS ? &local[count] : loop_op_get(loop);
        if (!op)
            break; /* fewer at a time, then */
        op_prepare(op, f, &ios[count]);
        op->wait = &w;
        op->next = NULL;
        *tail = op;
        tail = &op->next;
    }
    loop_wait_init(&w, (unsigned)count);
    for (struct loop_op *op = first; op; op = op->next)
        loop_op_submit(loop, op);
    loop_wait(&w);
    struct loop_op *op = first;
    for (int i = 0; i < count; i++) {
        struct loop_op *next = op->next;
        ios[i].res = op->res;
        if (i >= LOCAL_OPS)
            loop_op_put(loop, op);
        op = next;
    }
    return count;
}

static bool all_cached(const struct vd_io *ios, int n)
{
    for (int i = 0; i < n; i++)
        if (ios[i].flags != VD_IO_CACHED)
            return false;
    return true;
}

static int file_io(struct vd_dev *dev, struct vd_io *ios, int n)
{
    const struct file_dev *f = file_of(dev);
    struct vd_loop *loop = vd_loop_current();
    int failed = 0;
    if (all_cached(ios, n) && !f->allocating && dev_cached_write(&file_of(dev)->cached, ios, n)) {
        for (int i = 0; i < n; i++)
            ios[i].res = 0;
        loop->answered_lately = true;
        return 0;
    }
    for (int done = 0; done < n;)
        done += batch_run(loop, f, ios + done, n - done);
    for (int i = 0; i < n; i++) {
        ios[i].res = transfer_settle(loop, f, &ios[i], ios[i].res);
        if (ios[i].res < 0 && !failed)
            failed = ios[i].res;
    }
    return failed;
}

/* While space is being allocated io_submit would block. */
static bool file_begin(struct vd_dev *dev, struct vd_io_batch *batch)
{
    struct file_dev *f = file_of(dev);
    if (f->hands_over && !f->allocating)
        dev_aio_begin(&f->aio, f->fd, batch);
    return batch->begun == batch->n;
}

static void file_end(struct vd_dev *dev, struct vd_io_batch *batch)
{
    struct file_dev *f = file_of(dev);
    struct vd_loop *loop = vd_loop_current();
    if (batch->begun == 0)
        return;
    dev_aio_end(&f->aio, batch);
    for (int i = 0; i < batch->begun; i++)
        batch->ios[i].res = transfer_settle(loop, f, &batch->ios[i], batch->ios[i].res);
}

static int file_flush(struct vd_dev *dev)
{
    struct loop_op op = {.kind = OP_FDATASYNC, .fd = file_of(dev)->fd};
    int r;
    do
        r = loop_op_run(vd_loop_current(), &op);
    while (r == -EINTR);
    return errno_close(r);
}

/* ---- space ---- */

static int file_fallocate(struct file_dev *f, int mode, uint64_t off, uint64_t len)
{
    struct loop_op op = {.kind = OP_FALLOCATE, .fd = f->fd, .flags = mode, .off = off, .len = len};
    int r;
    f->allocating++;
    do
        r = loop_op_run(vd_loop_current(), &op);
    while (r == -EINTR || r == -EAGAIN);
    f->allocating--;
    return r == -ENOSYS ? -EOPNOTSUPP : errno_close(r);
}

static int file_allocate(struct vd_dev *dev, uint64_t off, uint64_t len)
{
    struct file_dev *f = file_of(dev);
    if (f->is_block)
        return off + len <= f->block_size_bytes ? 0 : -ENOSPC;
    return file_fallocate(f, 0, off, len);
}

struct range_call {
    int fd;
    uint64_t range[2];
};

static int discard_call(void *arg)
{
    struct range_call *c = arg;
    return ioctl(c->fd, BLKDISCARD, c->range) < 0 ? -errno : 0;
}

static int file_punch(struct vd_dev *dev, uint64_t off, uint64_t len)
{
    struct file_dev *f = file_of(dev);
    int r;
    if (!f->can_punch)
        return 0;
    if (f->is_block) {
        struct range_call c = {.fd = f->fd, .range = {off, len}};
        r = errno_close(vd_offload(discard_call, &c));
    } else {
        r = file_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
    }
    if (r != -EOPNOTSUPP)
        return r;
    f->can_punch = false;
    return 0;
}

static int truncate_call(void *arg)
{
    struct range_call *c = arg;
    return ftruncate(c->fd, (off_t)c->range[0]) < 0 ? -errno : 0;
}

static int file_truncate(struct vd_dev *dev, uint64_t size)
{
    struct file_dev *f = file_of(dev);
    if (f->is_block)
        return -EOPNOTSUPP;
    struct range_call c = {.fd = f->fd, .range = {size, 0}};
    return errno_close(vd_offload(truncate_call, &c));
}

/* File systems call a hole what reads as zeroes without their reading it: also what is allocated
 * and was never written. The end of the file is one to them, too. */
static uint64_t file_unwritten(struct vd_dev *dev, uint64_t off)
{
    const struct file_dev *f = file_of(dev);
    struct stat st;
    if (f->is_block || fstat(f->fd, &st) < 0)
        return UINT64_MAX;
    if (off >= (uint64_t)st.st_size)
        return off;
    off_t hole = lseek(f->fd, (off_t)off, SEEK_HOLE);
    return hole < 0 ? UINT64_MAX : (uint64_t)hole;
}

static void file_info(struct vd_dev *dev, struct vd_dev_info *ret)
{
    const struct file_dev *f = file_of(dev);
    struct stat st;
    ret->is_file = !f->is_block;
    ret->can_allocate = f->can_allocate;
    ret->can_punch = f->can_punch;
    ret->hands_over = f->hands_over;
    ret->caches = f->cached.fd >= 0;
    ret->st_dev = f->st_dev;
    ret->st_ino = f->st_ino;
    if (f->is_block) {
        ret->size = ret->allocated = f->block_size_bytes;
    } else if (fstat(f->fd, &st) == 0) {
        ret->size = (uint64_t)st.st_size;
        ret->allocated = (uint64_t)st.st_blocks * 512;
    }
}

static void file_close(struct vd_dev *dev)
{
    struct file_dev *f = file_of(dev);
    /* By hand: the ring may hold on to the open file for a moment longer than we do. */
    struct flock unlock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    (void)fcntl(f->fd, F_OFD_SETLK, &unlock);
    dev_aio_close(&f->aio);
    dev_cached_close(&f->cached);
    close(f->fd);
    free(dev->path);
    free(f);
}

static const struct vd_dev_ops file_dev_ops = {
    .io = file_io,
    .begin = file_begin,
    .end = file_end,
    .flush = file_flush,
    .allocate = file_allocate,
    .punch = file_punch,
    .truncate = file_truncate,
    .unwritten = file_unwritten,
    .info = file_info,
    .close = file_close,
};

/* ---- opening; on an offload thread ---- */

struct open_call {
    const char *path;
    unsigned flags;
    struct file_dev *f;
    struct vd_error *err;
};

static int open_failed(struct open_call *c, int code)
{
    const char *id = code == -ENOENT   ? "not-found"
                     : code == -EEXIST ? "exists"
                     : code == -EACCES ? "permission-denied"
                     : code == -EBUSY  ? "in-use"
                                       : "open-failed";
    return vd_fail(c->err, code, id, "%s: cannot be opened: %s", c->path, strerrordesc_np(-code));
}

/* What kind of thing it is, before opening: opening a pipe or a tape does things. */
static int open_check_kind(struct open_call *c)
{
    struct stat st;
    if (c->flags & VD_DEV_CREATE)
        return 0;
    if (stat(c->path, &st) < 0)
        return open_failed(c, -errno);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return vd_fail(c->err, -EINVAL, "not-a-disk", "%s is neither a file nor a block device",
                       c->path);
    c->f->is_block = S_ISBLK(st.st_mode);
    return 0;
}

static int open_descriptor(struct open_call *c)
{
    int flags = O_CLOEXEC | (c->flags & VD_DEV_RDONLY ? O_RDONLY : O_RDWR);
    if (c->flags & VD_DEV_CREATE)
        flags |= O_CREAT | O_EXCL;
    else if (c->f->is_block && !(c->flags & (VD_DEV_RDONLY | VD_DEV_NO_LOCK)))
        flags |= O_EXCL; /* on a block device: fails while it is mounted or otherwise claimed */
    if (!(c->flags & VD_DEV_BUFFERED)) {
        c->f->fd = open(c->path, flags | O_DIRECT, 0600);
        if (c->f->fd >= 0 || errno != EINVAL)
            return c->f->fd < 0 ? open_failed(c, -errno) : 0;
        /* Refused after the file was made, on some file systems: it is ours then. */
        flags &= ~(c->flags & VD_DEV_CREATE ? O_EXCL : 0);
    }
    c->f->fd = open(c->path, flags, 0600);
    return c->f->fd < 0 ? open_failed(c, -errno) : 0;
}

/* Host file systems where fallocate does not keep a promise, since they write elsewhere. */
static bool copies_on_write(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0)
        return false;
    return fs.f_type == BTRFS_SUPER_MAGIC || fs.f_type == 0x2fc12fc1 /* zfs */ ||
           fs.f_type == (__typeof__(fs.f_type))0xca451a4e /* bcachefs */;
}

/* Host file systems on which a direct write that io_submit took is with the block device. On a
 * block device it always is. */
static bool writes_through(const struct file_dev *f)
{
    struct statfs fs;
    int flags = fcntl(f->fd, F_GETFL);
    if (flags < 0 || !(flags & O_DIRECT))
        return false;
    return f->is_block || (fstatfs(f->fd, &fs) == 0 &&
                           (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC));
}

static int open_probe(struct open_call *c)
{
    struct file_dev *f = c->f;
    struct stat st;
    if (fstat(f->fd, &st) < 0)
        return open_failed(c, -errno);
    if (S_ISBLK(st.st_mode) != f->is_block || (!f->is_block && !S_ISREG(st.st_mode)))
        return vd_fail(c->err, -EINVAL, "not-a-disk", "%s changed while it was opened", c->path);
    f->can_punch = !f->dev.read_only;
    f->hands_over = !f->dev.read_only && writes_through(f);
    if (f->hands_over)
        dev_cached_open(&f->cached, f->fd);
    if (f->is_block) {
        f->st_dev = st.st_rdev;
        if (ioctl(f->fd, BLKGETSIZE64, &f->block_size_bytes) < 0)
            return open_failed(c, -errno);
        f->can_allocate = true;
        return 0;
    }
    f->st_dev = st.st_dev;
    f->st_ino = st.st_ino;
    if (f->dev.read_only)
        return 0;
    /* Changes nothing in a file that is in use; a new one gets its first block here. */
    f->can_allocate =
        fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, VD_BLOCK) == 0 && !copies_on_write(f->fd);
    off_t beyond = (off_t)VD_ROUND_UP((uint64_t)st.st_size + VD_BLOCK, (uint64_t)VD_BLOCK);
    f->can_punch =
        fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, beyond, VD_BLOCK) == 0;
    return 0;
}

static int open_call(void *arg)
{
    struct open_call *c = arg;
    int r = open_check_kind(c);
    if (r == 0)
        r = open_descriptor(c);
    if (r == 0 && !(c->flags & VD_DEV_NO_LOCK))
        r = dev_lock_take(c->f->fd, !(c->flags & VD_DEV_RDONLY), c->path, c->err);
    if (r == 0)
        r = open_probe(c);
    return r;
}

int vd_dev_open(const char *path, unsigned flags, struct vd_dev **ret, struct vd_error *err)
{
    if ((flags & VD_DEV_CREATE) && (flags & VD_DEV_RDONLY))
        return vd_fail(err, -EINVAL, "bad-flags", "%s: cannot be created read-only", path);
    struct file_dev *f = calloc(1, sizeof(*f));
    char *copy = strdup(path);
    if (!f || !copy) {
        free(f);
        free(copy);
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    }
    f->fd = f->cached.fd = -1;
    f->dev.ops = &file_dev_ops;
    f->dev.path = copy;
    f->dev.read_only = flags & VD_DEV_RDONLY;
    struct open_call call = {.path = copy, .flags = flags, .f = f, .err = err};
    int r = vd_offload(open_call, &call);
    if (r < 0) {
        dev_cached_close(&f->cached);
        if (f->fd >= 0) {
            close(f->fd);
            if (flags & VD_DEV_CREATE)
                (void)unlink(copy); /* made a moment ago, by us */
        }
        free(copy);
        free(f);
        return r;
    }
    *ret = &f->dev;
    return 0;
}
