/* SPDX-License-Identifier: MIT */
/*
 * The FUSE door: a store's volumes and snapshots as files below a mount point.
 *
 *     VOLUME/disk.raw                          the live volume
 *     VOLUME/partitions/N.raw                  its GPT or MBR partitions
 *     VOLUME/snapshots/NAME/disk.raw           read-only, and partitions/ beside it
 *
 * Everything runs on the loop of the fiber that calls, which must be the store's; an ordinary user
 * mounts through fusermount3.
 */
#ifndef VD_FUSE_FUSE_H
#define VD_FUSE_FUSE_H

#include "core/base/error.h"
#include "core/block/door.h"
#include "core/block/store.h"
#include "core/io/loop.h"

struct vd_fuse_server;

enum vd_fuse_flags {
    VD_FUSE_READ_ONLY = 1,  /* every file is read-only, no snapshot is taken or deleted */
    VD_FUSE_ALLOW_OTHER = 2 /* other users may use it: modes are 0666 less the process's umask */
};

/* Mounts on the directory `mountpoint`. The store must outlive the server. Error ids: no-fuse
 * (/dev/fuse or fusermount3 is missing or may not be used), mountpoint-invalid, mountpoint-stale
 * (left by a server that was killed: `vdisk umount` cleans it). VD_YIELDS */
int vd_fuse_start(struct vd_loop *loop, struct vd_store *store, const char *mountpoint,
                  unsigned flags, struct vd_fuse_server **ret, struct vd_error *err);
/* Makes everything durable, unmounts (lazily where files are still open) and frees the server.
 * Takes NULL. VD_YIELDS */
void vd_fuse_stop(struct vd_fuse_server *server);
/* Full path. */
const char *vd_fuse_mountpoint(const struct vd_fuse_server *server);
/* True once it was unmounted from outside; `fn` is called on the loop when that happens. */
bool vd_fuse_ended(const struct vd_fuse_server *server);
void vd_fuse_on_end(struct vd_fuse_server *server, void (*fn)(void *arg), void *arg);
/* One for each volume or snapshot that is open. */
int vd_fuse_clients(const struct vd_fuse_server *server, vd_door_client_fn *fn, void *arg);
/* Unmounts what is left of a killed server at `mountpoint`, or asks a living one to end. -EINVAL
 * "not-mounted" where nothing of ours is mounted, -EBUSY "mount-busy" while files are open there.
 * May be called without a loop; never on the loop of the server that lives there (its vd_fuse_stop
 * is for that), which would have to answer meanwhile. */
int vd_fuse_umount(const char *mountpoint, struct vd_error *err);

#endif
