/* SPDX-License-Identifier: MIT */
/*
 * Readiness of a descriptor that somebody else reads and writes: a library with a state machine of
 * its own, a process to be waited for.
 */
#ifndef VD_IO_READINESS_H
#define VD_IO_READINESS_H

#include "core/io/fiber.h"

struct loop_op;

struct vd_poll {
    int fd;
    bool kicked;
    struct loop_op *waiting; /* NULL when nobody waits */
};
/* The descriptor stays the caller's. */
void vd_poll_init(struct vd_poll *p, int fd);
/* Waits for one of `events` (POLLIN, POLLOUT; errors and hang-ups always count) and returns those
 * that are there; 0 after a kick, which may have come before; or -errno. One fiber at a time.
 * VD_YIELDS */
int vd_poll_wait(struct vd_poll *p, int events);
/* Ends the wait that is under way, or the next one. */
void vd_poll_kick(struct vd_poll *p);
/* To be called before the descriptor is closed, when nobody waits. */
void vd_poll_done(struct vd_poll *p);

#endif
