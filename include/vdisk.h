/* SPDX-License-Identifier: MIT */
/*
 * libvdisk: virtual disks with snapshots, for programs. Link with -lvdisk (pkg-config vdisk).
 *
 * A program opens a volume or snapshot and becomes the owner of its pool, as a command or a server
 * would: the vdisk program can then snapshot, resize or inspect the open disk, its commands being
 * carried out by this process. Each open disk has a thread of its own; all calls may be made from
 * any thread, block until done, and several may run at once.
 *
 * Calls return 0 or -errno, and fill `err` when they fail and it is not NULL.
 */
#ifndef VDISK_H
#define VDISK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VDISK_API __attribute__((visibility("default")))

struct vdisk_error {
    int code;          /* -errno */
    char id[40];       /* stable, for programs: "volume-not-found" */
    char message[472]; /* one line, for people */
};

/* "0.1.0" */
VDISK_API const char *vdisk_version(void);

/* Makes a file that is a pool with one volume of `size` bytes (a multiple of 512), called "disk".
 * An existing path is refused. */
VDISK_API int vdisk_create(const char *path, uint64_t size, struct vdisk_error *err);

struct vdisk;

enum vdisk_flags {
    VDISK_READ_ONLY = 1 /* writes nothing, and lets others read the pool at the same time */
};
/* target: POOL[:VOLUME][@SNAPSHOT] as on the command line. -EBUSY "in-use" when another process has
 * the pool. */
VDISK_API int vdisk_open(const char *target, unsigned flags, struct vdisk **ret,
                         struct vdisk_error *err);
/* Finishes what runs, makes everything durable and closes the pool; `d` is gone whatever it
 * returns. No other call on d may run. */
VDISK_API int vdisk_close(struct vdisk *d, struct vdisk_error *err);

VDISK_API uint64_t vdisk_size(struct vdisk *d);
VDISK_API int vdisk_is_read_only(struct vdisk *d);

/* Offsets and lengths are multiples of 512 within the disk. A write is safe from the death of the
 * process when it returns, and durable after a later vdisk_flush. */
VDISK_API int vdisk_pread(struct vdisk *d, void *buf, size_t len, uint64_t off);
VDISK_API int vdisk_pwrite(struct vdisk *d, const void *buf, size_t len, uint64_t off);
/* Durable when it returns ("force unit access"): dearer than vdisk_pwrite, cheaper than a flush
 * after it. */
VDISK_API int vdisk_pwrite_fua(struct vdisk *d, const void *buf, size_t len, uint64_t off);
VDISK_API int vdisk_zero(struct vdisk *d, uint64_t len, uint64_t off);
VDISK_API int vdisk_discard(struct vdisk *d, uint64_t len, uint64_t off);
VDISK_API int vdisk_flush(struct vdisk *d);

#ifdef __cplusplus
}
#endif

#endif
