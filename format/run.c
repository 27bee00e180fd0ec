/* SPDX-License-Identifier: MIT */
/* Runs in memory: cutting them. Pure; called by pool/ and snapshot/ wherever runs meet a range. */
#include "format/run.h"

void vd_run_copy(struct vd_run *to, const struct vd_run *from)
{
    memcpy(to, from, offsetof(struct vd_run, csum));
    if (from->type == VD_RUN_DATA)
        memcpy(to->csum, from->csum, from->blocks * sizeof(from->csum[0]));
}

void vd_run_clip(struct vd_run *r, uint64_t lba, uint64_t blocks)
{
    uint64_t from = VD_MAX(r->lba, lba);
    uint64_t end = VD_MIN(vd_run_end(r), lba + blocks);
    uint64_t skip = from - r->lba;

    assert(from < end);
    r->lba = from;
    r->blocks = end - from;
    if (r->type != VD_RUN_DATA || !skip)
        return;
    r->addr = vd_addr_plus(r->addr, skip);
    memmove(r->csum, r->csum + skip, r->blocks * sizeof(r->csum[0]));
}
