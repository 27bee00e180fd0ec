/* SPDX-License-Identifier: MIT */
/*
 * The vhost-user-blk door: each volume of a store as a virtio disk over a unix socket of its own,
 * DIR/VOLUME.sock, for QEMU and other monitors that share their guests' memory. Follows QEMU's
 * docs/interop/vhost-user.rst and the virtio 1.2 specification, section 5.2 (block device).
 *
 * Everything runs on the loop of the fiber that calls, which must be the store's. Guest memory and
 * messages are never trusted: a client that breaks the rules is dropped, and only that one.
 */
#ifndef VD_VHOST_VHOST_H
#define VD_VHOST_VHOST_H

#include "core/base/error.h"
#include "core/block/door.h"
#include "core/block/store.h"
#include "core/io/loop.h"

struct vd_vhost_server;

enum vd_vhost_flags {
    VD_VHOST_READ_ONLY = 1, /* every disk is read-only */
};

/* Makes `dir` (0700) if it is missing and a socket (0600) in it for every volume there is; volumes
 * made, renamed or deleted later are followed at vd_vhost_refresh. The store must outlive the
 * server. VD_YIELDS */
int vd_vhost_start(struct vd_loop *loop, struct vd_store *store, const char *dir, unsigned flags,
                   struct vd_vhost_server **ret, struct vd_error *err);
/* Makes the sockets what the volumes are. VD_YIELDS */
int vd_vhost_refresh(struct vd_vhost_server *server, struct vd_error *err);
/* Finishes the requests under way, closes every connection, removes the sockets and frees the
 * server. Takes NULL. VD_YIELDS */
void vd_vhost_stop(struct vd_vhost_server *server);
/* The directory, as given. */
const char *vd_vhost_dir(const struct vd_vhost_server *server);
/* Serves a connected socket as `target` as if it had been accepted. Takes the descriptor over in
 * any case. */
int vd_vhost_attach(struct vd_vhost_server *server, struct vd_target target, int fd);
int vd_vhost_clients(const struct vd_vhost_server *server, vd_door_client_fn *fn, void *arg);
/* Drops, without waiting for them, the clients of one volume; of all with NULL. Returns how many. */
unsigned vd_vhost_drop(struct vd_vhost_server *server, const char *volume);

#endif
