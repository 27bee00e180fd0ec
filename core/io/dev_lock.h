/* SPDX-License-Identifier: MIT */
/* Inside core/io: the lock that makes one process the owner of a device. */
#ifndef VD_IO_DEV_LOCK_H
#define VD_IO_DEV_LOCK_H

#include "core/base/error.h"

/* Locks the whole of `fd` (an open file description lock: released by the last close or by death),
 * exclusively or shared. -EBUSY, id "in-use", naming the holder if it can be found. May block for
 * as long as it takes to read /proc. */
int dev_lock_take(int fd, bool exclusive, const char *path, struct vd_error *err);

#endif
