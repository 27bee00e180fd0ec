/* SPDX-License-Identifier: MIT */
/* What every door (NBD, vhost-user-blk, FUSE) tells of those who use it. */
#ifndef VD_BLOCK_DOOR_H
#define VD_BLOCK_DOOR_H

#include "core/base/base.h"

struct vd_door_client {
    const char *peer;   /* "pid 4711, uid 1000", "192.0.2.7:49152" or "192.0.2.7:49152 (alice)" */
    const char *export; /* VOLUME or VOLUME@SNAPSHOT; "" while it is still choosing one */
    bool read_only;
    uint64_t connected_s; /* wall clock */
    uint64_t requests;    /* received so far */
    uint64_t read_bytes, write_bytes;
    unsigned in_flight;
};
/* Called for each; a non-zero return ends the listing and is returned. Must not suspend. */
typedef int vd_door_client_fn(void *arg, const struct vd_door_client *client);

#endif
