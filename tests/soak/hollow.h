/* SPDX-License-Identifier: MIT */
/*
 * A device for pools that are larger than the machine's disks: it keeps everything but payload. A
 * block of payload is one word 512 times over, of which the device keeps 31 bits; all other blocks
 * (labels, headers, nodes) are kept whole, compressed.
 *
 * Programs linked with --wrap=vd_dev_open have such a device behind each path that ends in
 * ".hollow"; everything else about them is as always. Beside PATH, which has the blocks that are
 * kept whole, there are PATH.map and PATH.used. All of it is in the host's page cache when a write
 * completes, so that it outlives the process as a file does, whatever kills it; a crash of the
 * host is another matter, unless VDISK_HOLLOW_SYNC=1 makes flushes real.
 *
 * VDISK_HOLLOW_MAX: GiB that PATH may take (32); then writes are refused with ENOSPC.
 */
#ifndef TESTS_SOAK_HOLLOW_H
#define TESTS_SOAK_HOLLOW_H

#include "core/io/dev.h"

#define HOLLOW_TAG UINT32_C(0x5eed0d15)
#define HOLLOW_SEED_MAX UINT32_C(0x7fffffff)

/* The content of a payload block: this word, little-endian, over and over. seed: 1 to the most. */
static inline uint64_t hollow_word(uint32_t seed)
{
    return (uint64_t)seed << 32 | HOLLOW_TAG;
}

/* The first page of PATH.used: what anybody may look at, also while the device is in use. */
struct hollow_head {
    uint64_t magic, size;
    uint64_t high; /* words of the map of sectors in use, the last of which has one */
    uint64_t free; /* sectors below that are not in use */
    uint64_t next; /* where the search for free ones goes on */
    /* Blocks, and calls, since the device was made. */
    uint64_t read_payload, read_whole, read_calls;
    uint64_t write_payload, write_whole, write_calls, flushes;
};

/* NULL for other devices. */
const struct hollow_head *hollow_head_of(struct vd_dev *dev);

int __real_vd_dev_open(const char *path, unsigned flags, struct vd_dev **ret, struct vd_error *err);
int __wrap_vd_dev_open(const char *path, unsigned flags, struct vd_dev **ret, struct vd_error *err);

#endif
