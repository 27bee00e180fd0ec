/* SPDX-License-Identifier: MIT */
/*
 * Where things of this user live at run time: control sockets and default doors, and the
 * configuration. $VDISK_RUNTIME_DIR and $VDISK_CONFIG_DIR override both, for containers and tests.
 */
#ifndef VD_SERVER_RUNTIME_H
#define VD_SERVER_RUNTIME_H

#include "core/base/error.h"

#include <sys/types.h>

/* The directory of control sockets: $XDG_RUNTIME_DIR/vdisk, for root /run/vdisk; without the
 * variable /run/user/UID/vdisk, else /tmp/vdisk-UID. With `make`: made 0700 if missing, and refused
 * ("runtime-dir-unsafe") when it is another user's or open to others. Free with free(). */
int vd_runtime_dir(bool make, char **ret, struct vd_error *err);
/* Where `uid` keeps its sockets, as far as can be guessed: i = 0, 1, ...; NULL when there is no
 * more. For root, who may talk to anybody's server. Free with free(). */
char *vd_runtime_dir_of(uid_t uid, int i);
/* DIR/<dev>-<ino>SUFFIX; NULL when out of memory. Free with free(). */
char *vd_runtime_path(const char *dir, uint64_t dev, uint64_t ino, const char *suffix);
/* $XDG_CONFIG_HOME/vdisk, ~/.config/vdisk, for root /etc/vdisk. Not made. Free with free(). */
int vd_config_dir(char **ret, struct vd_error *err);

#endif
