/* SPDX-License-Identifier: MIT */
/* A volume or snapshot as a disk: shared by volume.c and write.c. */
#ifndef VD_SNAPSHOT_VOLUME_PRIV_H
#define VD_SNAPSHOT_VOLUME_PRIV_H

#include "snapshot/store_priv.h"

struct vol_disk {
    struct vd_disk d; /* first */
    struct snap_store *s;
    struct view_ref ref;
    bool read_only;
    struct vd_list link;
};
static inline struct vol_disk *vol_disk_of(struct vd_disk *d)
{
    return vd_container_of(d, struct vol_disk, d);
}

/* Around each request on a live volume. enter: -ERANGE when the range is (no longer) inside the
 * volume; it counts only when it returns 0. VD_YIELDS */
int volume_enter(struct vol_disk *d, uint64_t off, uint64_t len);
void volume_leave(struct vol_disk *d);

int disk_writev(struct vd_disk *disk, uint64_t off, const struct iovec *iov, int n, size_t len,
                unsigned flags);
int disk_zero(struct vd_disk *disk, uint64_t off, uint64_t len, unsigned flags);
int disk_discard(struct vd_disk *disk, uint64_t off, uint64_t len, unsigned flags);

#endif
