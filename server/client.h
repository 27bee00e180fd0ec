/* SPDX-License-Identifier: MIT */
/*
 * The client side: finds the owner of a pool and has a command run by it, or becomes the owner for
 * as long as the command takes.
 *
 * The devices are locked if they can be; then the command runs in this process. Else the owner is
 * asked through its control socket. An owner that is just starting or ending is waited for a few
 * seconds; one that cannot be talked to is named in the error (-EBUSY "in-use").
 */
#ifndef VD_SERVER_CLIENT_H
#define VD_SERVER_CLIENT_H

#include "core/base/error.h"
#include "core/base/uuid.h"
#include "core/io/fiber.h"

#include <jansson.h>

struct vd_client;

struct vd_client_options {
    const char *name; /* what this process calls itself, "vdisk import" */
    bool no_wait;     /* leave the background work that a command caused to a later one */
    /* Called for each {"event": KIND, ...} of the running command; the object is the client's.
     * May be NULL. Must not suspend. */
    void (*event)(void *arg, json_t *event);
    void *arg;
};
/* Takes copies of nothing: name must live as long. NULL when out of memory. */
struct vd_client *vd_client_new(const struct vd_client_options *opt);
void vd_client_free(struct vd_client *c); /* takes NULL */

/* With "detach" in args: once the job runs there is an event {"event": "detached", "job": {...}};
 * if it runs in this process the call returns only when it has ended.
 *
 * Runs `command` on the pool that `path` is a member of; uuid not NULL: it must be that pool.
 * `args` is an object whose reference is taken over, also on failure. Descriptors in fds stay the
 * caller's. *ret is an object, the caller's. One call at a time. VD_YIELDS */
int vd_client_call(struct vd_client *c, const char *path, const struct vd_uuid *uuid,
                   const char *command, json_t *args, const int *fds, int nfds, json_t **ret,
                   struct vd_error *err);
/* Asks the running call, and those to come, to stop; from any fiber of the loop. */
void vd_client_cancel(struct vd_client *c);

/* The owner of `path` that answers, as "process 123 (vdisk serve)"; *ret_serving tells whether it
 * stays. -EAGAIN when none answers. VD_YIELDS */
int vd_client_owner(const char *path, char *buf, size_t len, bool *ret_serving);

/* How long it makes sense to wait for whoever holds the lock that `busy` (from vd_owner_open) is
 * about: for an owner that starts or ends, longer than for a process of another name. */
uint64_t vd_client_patience_ns(const struct vd_error *busy);

/* Calls fn with the hello of each owner of this user that answers. VD_YIELDS */
int vd_client_owners(void (*fn)(void *arg, json_t *hello), void *arg, struct vd_error *err);

#endif
