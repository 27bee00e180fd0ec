/* SPDX-License-Identifier: MIT */
/*
 * Waiting for a descriptor without reading or writing it. Only vd_poll_wait yields.
 *
 * Invariant: the operation lives on the waiting fiber's stack and has completed when that goes on,
 * kicked or not.
 *
 * A poll by io_uring completes with what woke it. A writer wakes the reader only after it has
 * queued the data, so the reader may have taken them by then and be waiting for more: that wake is
 * about nothing. Somebody who then reads would block, or like libnbd, believe that an answer has
 * begun and send no more requests until it is there. So the descriptor is asked again.
 */
#include "core/io/readiness.h"

#include "core/io/loop_priv.h"

#include <poll.h>

void vd_poll_init(struct vd_poll *p, int fd)
{
    *p = (struct vd_poll){.fd = fd};
}

/* What is there now: events, 0 or -errno. */
static int look(int fd, int events)
{
    struct pollfd p = {.fd = fd, .events = (short)events};
    int n = poll(&p, 1, 0);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    return p.revents;
}

int vd_poll_wait(struct vd_poll *p, int events)
{
    int r = 0;
    assert(!p->waiting);
    while (!p->kicked && r == 0) {
        struct loop_op op = {.kind = OP_POLL, .fd = p->fd, .flags = events};
        p->waiting = &op;
        r = loop_op_run(vd_loop_current(), &op);
        p->waiting = NULL;
        if (r > 0)
            r = look(p->fd, events);
    }
    p->kicked = false;
    return r == -ECANCELED ? 0 : r; /* that was the kick */
}

void vd_poll_kick(struct vd_poll *p)
{
    p->kicked = true;
    if (p->waiting)
        loop_op_cancel(vd_loop_current(), p->waiting);
}

void vd_poll_done(struct vd_poll *p)
{
    assert(!p->waiting);
    loop_fd_forget(vd_loop_current(), p->fd);
}
