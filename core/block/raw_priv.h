/* SPDX-License-Identifier: MIT */
/* The raw disk's state, and the part of it that runs on offload threads (raw_io.c). */
#ifndef VD_BLOCK_RAW_PRIV_H
#define VD_BLOCK_RAW_PRIV_H

#include "core/block/disk.h"

struct raw_disk {
    struct vd_disk disk;
    /* Fixed since it was opened. */
    int fd;         /* buffered */
    int direct_fd;  /* -1 = there is none */
    uint32_t align; /* of direct transfers: offset, length and memory */
    bool is_file;
    bool read_only;
    /* State. */
    uint64_t size; /* padded to 512 */
    int flush_failed;
    unsigned sharing; /* direct transfers under way */
    bool alone;       /* something that excludes them is */
    unsigned alone_wanted;
    struct vd_waitq turn_q;
};

/* One transfer, for vd_offload. Everything is fixed before it starts. */
struct raw_transfer {
    int fd;
    uint32_t align; /* memory must be aligned so; 1 = it need not */
    bool write;
    unsigned flags; /* VD_DISK_FUA */
    uint64_t off;
    size_t len;
    const struct iovec *iov;
    int n;
};
int raw_transfer_run(void *transfer);

/* Data and holes of [off, off + len) as the host knows them, in whole sectors; returns how many of
 * the `max` it filled, at least 1. Where the host does not know: data. */
int raw_extents_find(int fd, uint64_t off, uint64_t len, struct vd_extent *ret, int max);

#endif
