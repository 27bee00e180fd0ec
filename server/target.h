/* SPDX-License-Identifier: MIT */
/*
 * TARGET := POOL[:VOLUME][@SNAPSHOT], as people type it. Does not touch the file system.
 *
 * A known scheme prefix (rbd: nbd: nbd+unix:) is taken off first; then, after the last '/', the
 * last '@' begins the snapshot and the last ':' before it the volume. A pool without '/' and '.' is
 * a registered name, anything else the path of a member.
 */
#ifndef VD_SERVER_TARGET_H
#define VD_SERVER_TARGET_H

#include "core/base/error.h"

enum vd_pool_kind { VD_POOL_NAME, VD_POOL_PATH, VD_POOL_URI };

struct vd_target_ref {
    enum vd_pool_kind kind;
    char *pool;     /* never NULL after a successful parse */
    char *volume;   /* NULL when left out */
    char *snapshot; /* NULL when left out */
};

/* `pool_path` not NULL (--pool PATH): it is the pool, and `text` (NULL allowed) only
 * [:][VOLUME][@SNAPSHOT]. -EINVAL "target-invalid" or "name-invalid". Free with vd_target_done. */
int vd_target_parse(const char *text, const char *pool_path, struct vd_target_ref *ret,
                    struct vd_error *err);
/* Frees the strings; takes a zeroed one. */
void vd_target_done(struct vd_target_ref *t);
/* "POOL:VOLUME@SNAPSHOT" again, for messages; free with free(). NULL when out of memory. */
char *vd_target_text(const struct vd_target_ref *t);

#endif
