/* SPDX-License-Identifier: MIT */
/* What an owner can be seen to do: gathered here for `vdisk top` and for metrics. */
#ifndef VD_SERVER_STATS_PRIV_H
#define VD_SERVER_STATS_PRIV_H

#include "server/owner.h"

struct stats_volume {
    char name[VD_NAME_MAX + 1];
    struct vd_uuid uuid;
    uint64_t size, referenced;
    const struct vd_meter *meter; /* NULL = never opened through a door */
};
struct stats {
    struct vd_owner *owner;
    struct vd_store_info pool;
    struct stats_volume *volumes;
    size_t n, room;
};

/* What is gathered stays true until the next suspension. Free with stats_done, also on failure.
 * VD_YIELDS */
int stats_gather(struct vd_owner *o, struct stats *ret);
void stats_done(struct stats *s);

/* The text that Prometheus reads, version 0.0.4; free with free(). NULL when out of memory. */
char *stats_exposition(const struct stats *s);

#endif
