/* SPDX-License-Identifier: MIT */
/* vhost-user-blk doors: vhost/ behind the table of doors. Called by door.c; all but listing yields.
 */
#include "server/door_priv.h"

#include "vhost/vhost.h"

#include <stdlib.h>

static int vhost_start(struct vd_door *d, const struct vd_door_options *opt, struct vd_error *err)
{
    struct vd_vhost_server *server;
    int r = vd_vhost_start(d->owner->loop, vd_gate_store(d->gate), opt->address,
                           d->read_only ? VD_VHOST_READ_ONLY : 0, &server, err);
    if (r == 0)
        d->server = server;
    return r;
}

static void vhost_stop(struct vd_door *d)
{
    vd_vhost_stop(d->server);
}

static const char *vhost_address(const struct vd_door *d)
{
    return vd_vhost_dir(d->server);
}

/* The directory of the sockets: there is no URI for such disks. */
static char *vhost_uri(const struct vd_door *d)
{
    return strdup(d->full);
}

static int vhost_clients(const struct vd_door *d, vd_door_client_fn *fn, void *arg)
{
    return vd_vhost_clients(d->server, fn, arg);
}

static int vhost_refresh(struct vd_door *d, struct vd_error *err)
{
    return vd_vhost_refresh(d->server, err);
}

const struct door_kind door_vhost = {
    .name = "vhost",
    .start = vhost_start,
    .stop = vhost_stop,
    .address = vhost_address,
    .uri = vhost_uri,
    .clients = vhost_clients,
    .refresh = vhost_refresh,
};
