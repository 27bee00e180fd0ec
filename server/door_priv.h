/* SPDX-License-Identifier: MIT */
/* The kinds of doors behind door.c: each is a table of what to do. */
#ifndef VD_SERVER_DOOR_PRIV_H
#define VD_SERVER_DOOR_PRIV_H

#include "core/block/door.h"
#include "core/block/gate.h"
#include "server/door.h"
#include "server/owner.h"

struct vd_tls;

/* Members that a kind can do without are NULL. */
struct door_kind {
    const char *name;
    /* Opens d at opt->address, which door.c has filled in, and sets d->server. VD_YIELDS */
    int (*start)(struct vd_door *d, const struct vd_door_options *opt, struct vd_error *err);
    /* Finishes requests, frees d->server. VD_YIELDS */
    void (*stop)(struct vd_door *d);
    const char *(*address)(const struct vd_door *d);
    /* Made from d->full; free with free(); NULL when out of memory. */
    char *(*uri)(const struct vd_door *d);
    bool mounts; /* looking at its address asks this very process, so the loop must not do it */
    int (*clients)(const struct vd_door *d, vd_door_client_fn *fn, void *arg);
    int (*refresh)(struct vd_door *d, struct vd_error *err); /* VD_YIELDS */
    void (*trim)(struct vd_door *d);
    const char *default_suffix; /* of a socket in the runtime directory; NULL = it must be told */
};
extern const struct door_kind door_nbd, door_vhost, door_fuse, door_metrics;

struct vd_door {
    struct vd_list link;
    struct vd_owner *owner;
    const struct door_kind *kind;
    struct vd_gate *gate; /* what it serves */
    void *server;         /* the kind's */
    char *full;           /* its address with the full path */
    struct vd_tls *tls;   /* NULL = in the clear */
    bool read_only;
    uint64_t refreshed; /* after which of the owner's volume_changes */
    unsigned busy;      /* being refreshed: it is not to be freed */
    struct vd_waitq idle;
};

#endif
