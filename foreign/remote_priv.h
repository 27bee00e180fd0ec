/* SPDX-License-Identifier: MIT */
/* What the parts of the remote disk share. */
#ifndef VD_FOREIGN_REMOTE_PRIV_H
#define VD_FOREIGN_REMOTE_PRIV_H

#include "core/io/readiness.h"
#include "foreign/remote.h"

#include <libnbd.h>

struct remote;

/* One connection. */
struct link {
    struct remote *remote;
    struct nbd_handle *nbd;
    struct vd_poll poll;
    int polling;        /* the events its fiber waits for, 0 = it does not wait */
    unsigned in_flight; /* commands */
    bool ended;         /* its fiber has gone, or never was */
    char why[300];      /* libnbd's words about the first failure */
};

struct remote {
    struct vd_disk disk;
    /* As given. */
    int fds[VD_REMOTE_LINKS]; /* -1 once libnbd has it */
    int n_fds;
    char *address, *export;
    bool want_read_only;
    /* What the server says. */
    uint64_t size;   /* its own */
    uint64_t padded; /* as a disk shows it */
    uint32_t request_max;
    bool read_only, can_zero, can_trim, can_flush, can_fua, can_extents;
    /* State. */
    struct link links[VD_REMOTE_LINKS];
    int n_links;
    bool aborted;
    struct vd_stream *connecting; /* NULL: not now */
    struct vd_group pumps;
    struct vd_waitq changed; /* a handshake or a link has ended */
    /* The last answer about extents; dropped by every change. */
    struct vd_extent *ext;
    int n_ext;
    uint64_t generation; /* counts changes */
};

static inline struct remote *remote_of(struct vd_disk *d)
{
    return vd_container_of(d, struct remote, disk);
}

/* Waiting for one command. */
struct remote_wait {
    struct link *link;
    bool done;
    int error; /* errno, 0 = well */
    struct vd_waitq q;
};

/* The link with the least to do, or NULL when all have ended. */
struct link *remote_link(struct remote *r);
nbd_completion_callback remote_done(struct remote_wait *w, struct link *l);
/* Waits for the command whose cookie is given (-1 = it was refused by libnbd). 0 or -errno.
 * VD_YIELDS */
int remote_wait(struct remote_wait *w, int64_t cookie);
/* extents.c */
int remote_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret, int *n);

#endif
