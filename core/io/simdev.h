/* SPDX-License-Identifier: MIT */
/*
 * The simulated device. A struct vd_simdisk is the medium and outlives crashes; vd_simdev_open
 * attaches a vd_dev to it. Writes that no flush has covered are kept aside; at a crash each is
 * kept, dropped or torn at 512 bytes, independently, as the seed says: that covers reordering too.
 * Works on any loop; with the SIM loop completions come in seeded random order.
 */
#ifndef VD_IO_SIMDEV_H
#define VD_IO_SIMDEV_H

#include "core/io/dev.h"

struct vd_simdisk;

/* size_max: how far the medium may grow (allocate beyond it is -ENOSPC). Sparse in memory. */
struct vd_simdisk *vd_simdisk_new(uint64_t size, uint64_t size_max, uint64_t seed);
void vd_simdisk_free(struct vd_simdisk *disk);
/* A deep copy, durable and unflushed state alike, for trying several outcomes of one crash. */
struct vd_simdisk *vd_simdisk_clone(const struct vd_simdisk *disk, uint64_t seed);

/* Where the medium has its memory from: calloc, unless a test makes that fail. */
extern void *(*vd_simdisk_memory)(size_t n, size_t size);

int vd_simdev_open(struct vd_simdisk *disk, unsigned flags, struct vd_dev **ret);

/* From now on every call on devices of this disk fails with -ENODEV and changes nothing, at the
 * n-th I/O operation from now (0 = at once; n = 1 the next operation is cut: it may be kept,
 * dropped or torn). Every write, flush, allocate, punch, truncate counts, reads do not. -1 disarms.
 */
void vd_simdisk_cut_after(struct vd_simdisk *disk, int64_t n);
bool vd_simdisk_is_cut(const struct vd_simdisk *disk);
/* Operations counted so far. */
uint64_t vd_simdisk_ops(const struct vd_simdisk *disk);

enum vd_crash {
    VD_CRASH_PROCESS, /* kill -9: every completed write stays; those in flight kept, dropped, torn
                       */
    VD_CRASH_POWER,   /* unflushed writes are kept, dropped or torn, each by the seed */
    VD_CRASH_POWER_DROP, /* every unflushed write is dropped */
    VD_CRASH_POWER_KEEP, /* every unflushed write is kept */
};
/* Settles the unflushed writes and makes the disk usable again (clears cut and armed faults).
 * No vd_dev may be open on it. */
void vd_simdisk_crash(struct vd_simdisk *disk, enum vd_crash kind, uint64_t seed);

enum vd_fault {
    VD_FAULT_READ_EIO,
    VD_FAULT_WRITE_EIO,   /* the write may have been torn */
    VD_FAULT_FLUSH_EIO,   /* the writes it should have covered are dropped, later flushes "work" */
    VD_FAULT_ENOSPC,      /* allocate */
    VD_FAULT_LOST_WRITE,  /* acknowledged, never done */
    VD_FAULT_MISDIRECTED, /* lands one chunk of 4 KiB further */
    VD_FAULT_READ_FLIP,   /* a bit flips on the way */
    VD_FAULT_SLOW,        /* completes after 30 virtual seconds */
    VD_FAULT_COUNT
};
/* The n-th matching operation from now (1 = the next) fails; `forever`: and all after it. */
void vd_simdisk_fault(struct vd_simdisk *disk, enum vd_fault fault, uint64_t n, bool forever);
void vd_simdisk_clear_faults(struct vd_simdisk *disk);
/* True if the armed fault has struck. */
bool vd_simdisk_fault_hit(const struct vd_simdisk *disk);
/* How many writes VD_FAULT_WRITE_EIO has made fail, ever; or of them, those handed over before. */
uint64_t vd_simdisk_writes_failed(const struct vd_simdisk *disk, bool handed_over);
/* Direct access to the medium, for rot and for looking: flips one bit; reads and writes bytes. */
void vd_simdisk_rot(struct vd_simdisk *disk, uint64_t off, unsigned bit);
void vd_simdisk_peek(struct vd_simdisk *disk, uint64_t off, void *buf, size_t len);
void vd_simdisk_poke(struct vd_simdisk *disk, uint64_t off, const void *buf, size_t len);
uint64_t vd_simdisk_size(const struct vd_simdisk *disk);
uint64_t vd_simdisk_allocated(const struct vd_simdisk *disk);

#endif
