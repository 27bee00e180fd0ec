/* SPDX-License-Identifier: MIT */
/*
 * Waiting for a descriptor without reading or writing it. Only vd_poll_wait yields.
 *
 * Invariant: the operation lives on the waiting fiber's stack and has completed when that goes on,
 * kicked or not.
 */
#include "core/io/readiness.h"

#include "core/io/loop_priv.h"

void vd_poll_init(struct vd_poll *p, int fd)
{
    *p = (struct vd_poll){.fd = fd};
}

int vd_poll_wait(struct vd_poll *p, int events)
{
    struct loop_op op = {.kind = OP_POLL, .fd = p->fd, .flags = events};
    int r = 0;
    assert(!p->waiting);
    if (!p->kicked) {
        p->waiting = &op;
        r = loop_op_run(vd_loop_current(), &op);
        p->waiting = NULL;
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
