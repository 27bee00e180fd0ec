/* SPDX-License-Identifier: MIT */
/*
 * Registered pools: names for people, kept in pools.json of the configuration directory as
 * name -> UUID and device paths. A name is a convenience: the pool is what its label says, and an
 * opener checks the UUID. Blocking, short; for the client side only.
 */
#ifndef VD_SERVER_NAMES_H
#define VD_SERVER_NAMES_H

#include "core/base/error.h"
#include "core/base/uuid.h"

#define VD_POOL_DEVICES_MAX 64

struct vd_pool_entry {
    const char *name;
    struct vd_uuid uuid;
    const char *const *devices; /* absolute paths */
    int n_devices;
};

/* Calls fn for each in alphabetical order; a non-zero return stops and is returned. */
typedef int vd_pool_entry_fn(void *arg, const struct vd_pool_entry *entry);
int vd_names_list(vd_pool_entry_fn *fn, void *arg, struct vd_error *err);
/* Copies of the paths, NULL-terminated; free with vd_names_free. -ENOENT "pool-not-registered". */
int vd_names_find(const char *name, struct vd_uuid *ret_uuid, char ***ret_devices,
                  struct vd_error *err);
void vd_names_free(char **devices);
/* -EEXIST "pool-registered" when the name is taken; -EINVAL for names that a TARGET would take for
 * a path. */
int vd_names_add(const struct vd_pool_entry *entry, struct vd_error *err);
int vd_names_remove(const char *name, struct vd_error *err);

#endif
