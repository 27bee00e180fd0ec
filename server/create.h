/* SPDX-License-Identifier: MIT */
/* Making pools: for the client side, on paths that nobody owns yet. */
#ifndef VD_SERVER_CREATE_H
#define VD_SERVER_CREATE_H

#include "core/base/error.h"
#include "core/base/uuid.h"

struct vd_create_options {
    const char *pool_name; /* NULL = a plain one-file image */
    uint64_t capacity;     /* 0 = as the host gives */
    const char *volume;    /* made at once; NULL = none */
    uint64_t size;         /* of the volume */
    bool existing;         /* the path may exist: a block device, or a file */
    bool force;            /* and may hold something */
};

/* Makes a pool on one device. What it has made is removed again when anything fails. -EEXIST
 * "exists", -EBUSY "holds-data" (names what was found there). *ret_no_reserve: the host cannot
 * reserve space. VD_YIELDS */
int vd_create(const char *path, const struct vd_create_options *opt, struct vd_uuid *ret_uuid,
              bool *ret_no_reserve, struct vd_error *err);

#endif
