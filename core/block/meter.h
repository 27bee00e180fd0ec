/* SPDX-License-Identifier: MIT */
/*
 * What all handles of a volume have in common, whatever door they were opened through: counts of
 * what they did, and the limits on what they may do. The choke point of disks (disk.c) reports each
 * request here, if the disk is metered.
 */
#ifndef VD_BLOCK_METER_H
#define VD_BLOCK_METER_H

#include "core/base/uuid.h"
#include "core/block/histogram.h"
#include "core/block/limit.h"

enum vd_meter_kind {
    VD_METER_READ,
    VD_METER_WRITE,
    VD_METER_ZERO,
    VD_METER_DISCARD,
    VD_METER_FLUSH,
    VD_METER_KINDS
};
extern const char *const vd_meter_kind_names[VD_METER_KINDS]; /* "read", "write", ... */

struct vd_meter_counts {
    uint64_t requests, bytes, errors; /* that have ended; bytes: of those without error */
    struct vd_histogram latency;      /* as the client sees it, waiting for limits included */
};

struct vd_meter {
    struct vd_list link; /* its keeper's */
    struct vd_uuid volume;
    struct vd_meter_counts kinds[VD_METER_KINDS];
    uint64_t held_ns; /* that requests have waited for limits, in all */
    unsigned in_flight;
    struct vd_limit limit;
    struct vd_list uses; /* struct vd_meter_use */
};

/* One handle. Belongs to the disk, which frees it when it is closed. */
struct vd_meter_use {
    struct vd_list link;
    struct vd_meter *meter;
    const void *door; /* through which it was opened */
    bool writable;
    struct vd_limit_user limit;
};

struct vd_meter *vd_meter_new(const struct vd_uuid *volume);
void vd_meter_free(struct vd_meter *m); /* takes NULL; nobody uses it */
/* NULL when out of memory. */
struct vd_meter_use *vd_meter_use_new(struct vd_meter *m, const void *door, bool writable);
void vd_meter_use_free(struct vd_meter_use *u); /* takes NULL */

/* Before a request: waits for the limit, which flushes need not. Returns when it came. VD_YIELDS */
uint64_t vd_meter_begin(struct vd_meter_use *u, enum vd_meter_kind kind, uint64_t len);
/* After it; r as it ended. */
void vd_meter_end(struct vd_meter_use *u, enum vd_meter_kind kind, uint64_t len, uint64_t began_ns,
                  int r);

#endif
