/* SPDX-License-Identifier: MIT */
/* A part of a disk as a disk. */
#ifndef VD_SERVER_WINDOW_PRIV_H
#define VD_SERVER_WINDOW_PRIV_H

#include "core/block/disk.h"

/* [off, off + len) of `d`, which is referenced. Both multiples of 512, inside it. Cannot be
 * resized. NULL when out of memory. */
struct vd_disk *window_new(struct vd_disk *d, uint64_t off, uint64_t len);

#endif
