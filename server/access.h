/* SPDX-License-Identifier: MIT */
/* Turns EACCES, EPERM, ENOENT and the like into the one line that tells whose file it is. */
#ifndef VD_SERVER_ACCESS_H
#define VD_SERVER_ACCESS_H

#include "core/base/error.h"

/* `code` is what opening `path` gave (-errno). Fills *err with the first path component that is in
 * the way, who owns it, its mode and what to do; returns `code`. Blocking, short. */
int vd_access_explain(const char *path, bool writing, int code, struct vd_error *err);

#endif
