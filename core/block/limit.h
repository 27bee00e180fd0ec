/* SPDX-License-Identifier: MIT */
/*
 * How much I/O a volume may have: a token bucket for requests and one for bytes. A volume that had
 * been idle may take `burst` worth of both at once; then requests wait, and several users of one
 * volume are served in turn. Everything on one loop.
 */
#ifndef VD_BLOCK_LIMIT_H
#define VD_BLOCK_LIMIT_H

#include "core/base/error.h"
#include "core/io/fiber.h"

struct vd_limits {
    uint64_t iops, bandwidth; /* per second; 0 = any */
    uint64_t burst_ns;
};
#define VD_LIMIT_BURST_NS UINT64_C(1000000000) /* where none is set */

/* Whether `prop` is one of limit.iops ("1000"), limit.bandwidth ("50MiB"), limit.burst ("10s",
 * "500ms"); then sets it in *limits, which may be NULL, to `value` (NULL = none). -ENOENT for
 * another property, -EINVAL "property-invalid". */
int vd_limits_property(struct vd_limits *limits, const char *prop, const char *value,
                       struct vd_error *err);

struct vd_limit {
    struct vd_limits limits;
    bool on;     /* something is limited, and not lifted */
    bool lifted; /* nobody waits any more: the end is near */
    uint64_t ops_ns, bytes_ns; /* until when what was taken pays for itself */
    struct vd_list users;      /* those with somebody waiting; the first has its turn */
};
/* One that shares a limit with others: a handle of the volume. */
struct vd_limit_user {
    struct vd_list link;
    struct vd_list waiters;
    bool released;
};

void vd_limit_init(struct vd_limit *l);
void vd_limit_user_init(struct vd_limit_user *u);
/* From now on; those who wait are judged anew, and the burst is full again. */
void vd_limit_set(struct vd_limit *l, const struct vd_limits *limits);
/* Waits until a request of `len` bytes may go, if it has to. VD_YIELDS */
void vd_limit_take(struct vd_limit *l, struct vd_limit_user *u, uint64_t len);
/* Neither those who wait for `u` nor those to come are held back any more. */
void vd_limit_release(struct vd_limit *l, struct vd_limit_user *u);
/* Nobody is. */
void vd_limit_lift(struct vd_limit *l);

#endif
