/* SPDX-License-Identifier: MIT */
/*
 * Waist 2: a disk as a guest sees it. Doors, copying and backups know disks only through this.
 * Volumes, snapshots, raw files and memory are all struct vd_disk.
 *
 * Offsets and lengths are bytes, multiples of 512, inside the disk; one choke point (disk.c) checks
 * that, splits nothing, and refuses writes to read-only disks, so implementations need not. All
 * calls suspend the calling fiber unless said. Several may run at once; overlapping writes land in
 * some order, each whole per 512-byte sector. A write is acknowledged when the call returns.
 */
#ifndef VD_BLOCK_DISK_H
#define VD_BLOCK_DISK_H

#include "core/base/error.h"
#include "core/base/uuid.h"
#include "core/io/fiber.h"

#include <sys/uio.h>

struct vd_disk;

enum vd_disk_flags {
    VD_DISK_FUA = 1,     /* durable when it returns */
    VD_DISK_NO_UNMAP = 2 /* zero: keep space allocated if that means anything here */
};

struct vd_disk_info {
    uint64_t size;        /* bytes, multiple of 512 */
    uint32_t block_min;   /* 512 */
    uint32_t block_pref;  /* 4096 */
    uint32_t request_max; /* largest read or write, bytes: 32 MiB */
    bool read_only;
    bool rotational;
    struct vd_uuid uuid;
};

/* One answer of vd_disk_extents. ALLOCATED or not (HOLE), reads as zeroes or not (ZERO). */
enum { VD_EXTENT_HOLE = 1, VD_EXTENT_ZERO = 2 };
struct vd_extent {
    uint64_t off, len;
    unsigned flags;
};

int vd_disk_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, unsigned flags);
int vd_disk_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, unsigned flags);
int vd_disk_read(struct vd_disk *d, uint64_t off, void *buf, size_t len);
int vd_disk_write(struct vd_disk *d, uint64_t off, const void *buf, size_t len, unsigned flags);
/* Reads as zeroes afterwards. Any length, O(1) for volumes. */
int vd_disk_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags);
/* The content is no longer wanted; ours reads as zeroes for whole blocks. Never fails for want of
 * space. */
int vd_disk_discard(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags);
/* Makes durable every write acknowledged before the call. */
int vd_disk_flush(struct vd_disk *d);
/* Fills up to *n extents that cover [off, off + len) from its start without gaps, coalesced, and
 * sets *n; covers less when the array is too small, at least one extent. Includes unflushed data.
 */
int vd_disk_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret, int *n);
/* Grows or (data beyond the end is lost) shrinks; -EOPNOTSUPP where that cannot be. */
int vd_disk_resize(struct vd_disk *d, uint64_t size, struct vd_error *err);
/* Does not suspend. The size may change between calls. */
void vd_disk_info(struct vd_disk *d, struct vd_disk_info *ret);
/* Reference counts; the last unref closes (it may suspend, and drains what is in flight). */
void vd_disk_ref(struct vd_disk *d);
void vd_disk_unref(struct vd_disk *d); /* takes NULL */

/* Called, on the disk's loop, when the size changed or the content was replaced under its users
 * (rollback --force), or the disk went away. */
enum vd_disk_event { VD_DISK_RESIZED, VD_DISK_REPLACED, VD_DISK_GONE };
struct vd_disk_watch {
    struct vd_list link;
    void (*fn)(struct vd_disk_watch *w, enum vd_disk_event event);
};
void vd_disk_watch(struct vd_disk *d, struct vd_disk_watch *w);
void vd_disk_unwatch(struct vd_disk_watch *w);

/* For implementations. Calls arrive checked: aligned to 512, in range, len > 0, writable. */
struct vd_disk_ops {
    int (*readv)(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len);
    int (*writev)(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len,
                  unsigned flags);
    int (*zero)(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags);
    int (*discard)(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags);
    int (*flush)(struct vd_disk *d);
    int (*extents)(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret, int *n);
    int (*resize)(struct vd_disk *d, uint64_t size, struct vd_error *err); /* NULL = cannot */
    void (*info)(struct vd_disk *d, struct vd_disk_info *ret);
    void (*close)(struct vd_disk *d); /* frees d */
};
struct vd_meter_use; /* core/block/meter.h */
struct vd_disk {
    const struct vd_disk_ops *ops;
    unsigned refs;
    struct vd_list watches;
    struct vd_meter_use *use; /* NULL = not metered */
    struct {
        uint64_t reads, writes, read_bytes, write_bytes, flushes;
    } stats;
};
/* Fills the common part of a new disk: refs = 1. Telling watchers is the implementation's duty, on
 * every handle that is concerned. */
void vd_disk_init(struct vd_disk *d, const struct vd_disk_ops *ops);
void vd_disk_notify(struct vd_disk *d, enum vd_disk_event event);

/* A disk in memory, for tests. */
int vd_disk_memory(uint64_t size, struct vd_disk **ret);
/* A raw file or block device that exists (O_DIRECT where it can); the descriptor is taken over
 * when it succeeds. A file whose size is no multiple of 512 reads as if padded with zeroes. */
int vd_disk_raw(int fd, bool read_only, struct vd_disk **ret, struct vd_error *err);

#endif
