/* SPDX-License-Identifier: MIT */
/*
 * Waist 1: a host device, a file or a block device, real or simulated. All I/O is whole 4 KiB
 * blocks from memory aligned to VD_BLOCK; one choke point checks that. Nothing here retries, and
 * nothing here knows what the bytes mean. All I/O calls suspend the calling fiber.
 *
 * A write is durable after a later flush returned 0, or, with VD_IO_DSYNC, when it completes; the
 * latter says nothing of earlier writes. Errors are -errno: EIO, ENOSPC, ENODEV, ETIMEDOUT, EROFS.
 * A short transfer is continued, or is EIO at the end of the device.
 */
#ifndef VD_IO_DEV_H
#define VD_IO_DEV_H

#include "core/base/error.h"
#include "core/io/fiber.h"

#include <sys/uio.h>

struct vd_dev;

enum vd_io_op { VD_IO_READ, VD_IO_WRITE };
/* DSYNC: durable when it completes. CACHED: a write that may be complete when the host has it in
 * its page cache, where a flush and direct reads find it; it may be so without suspending. */
enum { VD_IO_DSYNC = 1, VD_IO_CACHED = 2 };

/* One transfer. iov entries are aligned in memory and whole blocks long; at most VD_IO_IOV_MAX. */
#define VD_IO_IOV_MAX 1024
struct vd_io {
    enum vd_io_op op;
    unsigned flags;
    uint64_t off; /* bytes, multiple of VD_BLOCK */
    const struct iovec *iov;
    int iovcnt;
    int res; /* out: 0 or -errno */
};

/* Submits all n at once, in any order to the device, and returns when all have completed: 0, or
 * the first failed one's error (each has its own in .res). VD_YIELDS */
int vd_dev_io(struct vd_dev *dev, struct vd_io *ios, int n);

/* Writes that are begun now and looked at later. */
#define VD_IO_BATCH_MAX 64
struct vd_io_batch {
    struct vd_io *ios; /* stays, with all memory it names, until vd_dev_end */
    int n;             /* at most VD_IO_BATCH_MAX */
    /* the device's: */
    int refused; /* 0 or why none of it may be written */
    int begun, pending;
    void *priv;
};
/* Begins the batch's writes. True: the host has all of them and carries them out whatever becomes
 * of this process; only a crash of the host can undo them, as it can undo any write that is not
 * flushed. False: no such promise. vd_dev_end in either case. Does not suspend. */
bool vd_dev_begin(struct vd_dev *dev, struct vd_io_batch *batch);
/* Returns when all have completed, like vd_dev_io. VD_YIELDS */
int vd_dev_end(struct vd_dev *dev, struct vd_io_batch *batch);
int vd_dev_read(struct vd_dev *dev, uint64_t off, void *buf, size_t len);        /* VD_YIELDS */
int vd_dev_write(struct vd_dev *dev, uint64_t off, const void *buf, size_t len); /* VD_YIELDS */
/* Makes durable every write that completed before the call. A failed flush leaves the device
 * failed: each later flush fails too (I9). VD_YIELDS */
int vd_dev_flush(struct vd_dev *dev);
/* Allocates [off, off + len) physically, growing the device if it must; reads as before or zero.
 * -EOPNOTSUPP where the host cannot. VD_YIELDS */
int vd_dev_allocate(struct vd_dev *dev, uint64_t off, uint64_t len);
/* Gives the space of [off, off + len) back to the host; what it reads as afterwards is undefined.
 * Best effort: 0 also where the host cannot. VD_YIELDS */
int vd_dev_punch(struct vd_dev *dev, uint64_t off, uint64_t len);
/* Cuts the device at `size`; -EOPNOTSUPP for a block device. VD_YIELDS */
int vd_dev_truncate(struct vd_dev *dev, uint64_t size);

/* The first byte at or after `off` that was not written since the host gave it space, or for which
 * it has given none: to write there costs it metadata. UINT64_MAX where there is none up to the
 * device's end, and where the host cannot tell. Does not suspend. */
uint64_t vd_dev_unwritten(struct vd_dev *dev, uint64_t off);

struct vd_dev_info {
    uint64_t size;      /* bytes now */
    uint64_t allocated; /* bytes the host has given (st_blocks * 512); the size for block devices */
    bool is_file;       /* may grow, shrink, be punched */
    bool can_allocate;  /* vd_dev_allocate reserves space for real */
    bool can_punch;
    bool hands_over; /* vd_dev_begin is worth while */
    bool caches;     /* VD_IO_CACHED is */
    bool read_only;
    uint64_t st_dev, st_ino; /* identity, names the control socket; st_rdev, 0 for block devices */
};
void vd_dev_info(struct vd_dev *dev, struct vd_dev_info *ret);
/* The path it was opened by. */
const char *vd_dev_path(const struct vd_dev *dev);

enum vd_dev_flags {
    VD_DEV_RDONLY = 1,
    VD_DEV_CREATE = 2, /* make the file, 0600; -EEXIST if it is there (O_EXCL) */
    VD_DEV_NO_LOCK = 4,
    VD_DEV_BUFFERED = 8, /* without O_DIRECT, as is tried where that is refused (tmpfs) */
};
/* Opens a file or block device with O_DIRECT and takes its lock (exclusive; shared for RDONLY):
 * OFD lock, released by close or death. -EBUSY, id "in-use", when another process has it: the
 * holder is named if it is known. VD_YIELDS */
int vd_dev_open(const char *path, unsigned flags, struct vd_dev **ret, struct vd_error *err);
/* Takes NULL. No I/O may be in flight. */
void vd_dev_close(struct vd_dev *dev);

/* For back ends: the ops behind a vd_dev. */
struct vd_dev_ops {
    int (*io)(struct vd_dev *dev, struct vd_io *ios, int n);
    /* NULL: what is begun is done by io, at its end. A back end that begins some only leaves the
     * rest, from batch->begun on, to io. */
    bool (*begin)(struct vd_dev *dev, struct vd_io_batch *batch);
    void (*end)(struct vd_dev *dev, struct vd_io_batch *batch);
    int (*flush)(struct vd_dev *dev);
    int (*allocate)(struct vd_dev *dev, uint64_t off, uint64_t len);
    int (*punch)(struct vd_dev *dev, uint64_t off, uint64_t len);
    int (*truncate)(struct vd_dev *dev, uint64_t size);
    uint64_t (*unwritten)(struct vd_dev *dev, uint64_t off); /* NULL: it cannot tell */
    void (*info)(struct vd_dev *dev, struct vd_dev_info *ret);
    void (*close)(struct vd_dev *dev);
};
struct vd_dev {
    const struct vd_dev_ops *ops;
    char *path;
    bool read_only;
    int flush_failed; /* sticky -errno of the first failed flush, 0 = none */
    struct {
        uint64_t reads, writes, flushes, read_bytes, write_bytes;
    } stats;
};

#endif
