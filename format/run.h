/* SPDX-License-Identifier: MIT */
/* A run, in memory: what some blocks of a branch hold, and since which epoch. */
#ifndef VD_FORMAT_RUN_H
#define VD_FORMAT_RUN_H

#include "core/base/base.h"

struct vd_addr {
    uint32_t seg;
    uint32_t sector; /* 512-byte units from the start of the segment */
};
#define VD_SECTORS_PER_BLOCK (VD_BLOCK / VD_SECTOR)

enum vd_run_type {
    VD_RUN_DATA = 1,
    VD_RUN_ZERO = 2, /* reads as zeroes; differs from absent, which asks the parent */
};

#define VD_EPOCH_MAX UINT64_MAX /* died: still current; USAGE: the live tip */

struct vd_run {
    uint64_t lba;    /* first block */
    uint64_t blocks; /* DATA: 1..32 inside one cell; ZERO in HEAD and overlays: any */
    uint64_t born;   /* epoch it was written in */
    uint64_t died;   /* epoch of the version that replaced it; VD_EPOCH_MAX in HEAD */
    enum vd_run_type type;
    struct vd_addr addr;           /* DATA */
    uint64_t csum[VD_CELL_BLOCKS]; /* DATA: xxh3 per block */
};

static inline uint64_t vd_run_end(const struct vd_run *r)
{
    return r->lba + r->blocks;
}
static inline struct vd_addr vd_addr_plus(struct vd_addr a, uint64_t blocks)
{
    a.sector += (uint32_t)(blocks * VD_SECTORS_PER_BLOCK);
    return a;
}
static inline bool vd_addr_equal(struct vd_addr a, struct vd_addr b)
{
    return a.seg == b.seg && a.sector == b.sector;
}
/* As an assignment, but only of the checksums that there are. */
void vd_run_copy(struct vd_run *to, const struct vd_run *from);
/* Cuts the run to the part inside [lba, lba + blocks); they must meet. */
void vd_run_clip(struct vd_run *r, uint64_t lba, uint64_t blocks);

#endif
