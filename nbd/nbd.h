/* SPDX-License-Identifier: MIT */
/*
 * The NBD door: serves a store's volumes and snapshots over a unix socket or TCP, to any client of
 * the fixed newstyle protocol.
 *
 * Export names: a volume's name (writable), VOLUME@SNAPSHOT (read-only), and "" for the only volume
 * of a store that has just one. Offered: TLS, structured replies, base:allocation and, for each
 * snapshot of the export's volume, vdisk:changed-since:SNAPSHOT, flush, FUA on every command, trim,
 * write zeroes (always fast), cache (a hint that is not taken), several connections to one export,
 * requests up to 32 MiB. Offsets and lengths must be multiples of 512.
 *
 * Everything runs on the loop of the fiber that calls, which must be the store's. A client cannot
 * hold up another: each has its own share of memory, and is not read from while that is used up.
 */
#ifndef VD_NBD_NBD_H
#define VD_NBD_NBD_H

#include "core/block/door.h"
#include "core/block/store.h"
#include "core/io/loop.h"

struct vd_nbd_server;
struct vd_tls; /* core/codec/tls.h */

enum vd_nbd_flags {
    VD_NBD_READ_ONLY = 1, /* every export is read-only */
    VD_NBD_REMOTE = 2     /* an address that other machines can reach is no mistake */
};

/* `address` is what vd_listen takes; NULL makes a server without a listener, for vd_nbd_attach.
 * With `tls` no client gets further than to TLS without it. Store and `tls` must outlive the
 * server. -EPERM "address-remote" where other machines could connect and VD_NBD_REMOTE is not
 * given. VD_YIELDS */
int vd_nbd_start(struct vd_loop *loop, struct vd_store *store, const char *address, unsigned flags,
                 struct vd_tls *tls, struct vd_nbd_server **ret, struct vd_error *err);
/* Takes no more requests, answers those under way, closes every connection (after ten seconds also
 * those whose client does not take its answers) and frees the server. Takes NULL. VD_YIELDS */
void vd_nbd_stop(struct vd_nbd_server *server);
/* The address clients can use, with the real port; "" without a listener. */
const char *vd_nbd_address(const struct vd_nbd_server *server);
/* Serves a connected socket as if it had been accepted. Takes the descriptor over in any case. */
int vd_nbd_attach(struct vd_nbd_server *server, int fd);

int vd_nbd_clients(const struct vd_nbd_server *server, vd_door_client_fn *fn, void *arg);
/* Drops, without waiting for them, the clients of one export; of all with NULL. They may be listed
 * for a moment more. Returns how many. */
unsigned vd_nbd_drop(struct vd_nbd_server *server, const char *export);
/* Frees the buffers that are kept for requests to come. */
void vd_nbd_trim(struct vd_nbd_server *server);

#endif
