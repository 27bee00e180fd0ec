/* SPDX-License-Identifier: MIT */
/*
 * FUSE doors: fuse/ behind the table of doors. Whoever may unmount may close such a door from
 * outside: it is then taken out of the list by a fiber of its own. Called by door.c; starting and
 * stopping yield.
 */
#include "core/base/log.h"
#include "fuse/fuse.h"
#include "server/door_priv.h"

#include <stdlib.h>

static void ended_fiber(void *arg)
{
    struct vd_door *d = arg;
    struct vd_owner *o = d->owner;
    bool listed = !vd_list_empty(&d->link); /* else somebody is closing it, and waits for us */
    if (--d->busy == 0)
        vd_wake_all(&d->idle);
    if (listed)
        vd_door_close(d);
    vd_group_done(&o->door_group);
}

static void fuse_ended(void *arg)
{
    struct vd_door *d = arg;
    if (vd_list_empty(&d->link))
        return;
    d->busy++;
    vd_group_add(&d->owner->door_group);
    if (vd_fiber_spawn(d->owner->loop, "unmounted", ended_fiber, d) < 0) {
        d->busy--; /* it stays in the list until the owner ends */
        vd_group_done(&d->owner->door_group);
    }
}

static int fuse_start(struct vd_door *d, const struct vd_door_options *opt, struct vd_error *err)
{
    struct vd_fuse_server *server;
    unsigned flags =
        (d->read_only ? VD_FUSE_READ_ONLY : 0) | (opt->allow_other ? VD_FUSE_ALLOW_OTHER : 0);
    int r =
        vd_fuse_start(d->owner->loop, vd_gate_store(d->gate), opt->address, flags, &server, err);
    if (r < 0)
        return r;
    d->server = server;
    vd_fuse_on_end(server, fuse_ended, d);
    return 0;
}

static void fuse_stop(struct vd_door *d)
{
    vd_fuse_stop(d->server);
}

static const char *fuse_address(const struct vd_door *d)
{
    return vd_fuse_mountpoint(d->server);
}

static char *fuse_uri(const struct vd_door *d)
{
    return strdup(d->full);
}

static int fuse_clients(const struct vd_door *d, vd_door_client_fn *fn, void *arg)
{
    return vd_fuse_clients(d->server, fn, arg);
}

const struct door_kind door_fuse = {
    .name = "fuse",
    .start = fuse_start,
    .stop = fuse_stop,
    .address = fuse_address,
    .uri = fuse_uri,
    .clients = fuse_clients,
    .mounts = true,
};
