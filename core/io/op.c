/* SPDX-License-Identifier: MIT */
/*
 * Kernel operations as the back ends see them: counting completions for a waiting fiber, spare
 * ones, and doing one in the calling thread. Only loop_wait and loop_op_run yield.
 */
#include "core/io/loop_priv.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

void loop_wait_init(struct loop_wait *w, unsigned pending)
{
    w->fiber = vd_fiber_current();
    w->pending = pending;
    w->parked = false;
    assert(w->fiber);
}

void loop_wait(struct loop_wait *w)
{
    w->parked = true;
    while (w->pending)
        vd_fiber_suspend();
}

void loop_wait_done(struct loop_wait *w)
{
    assert(w->pending > 0);
    if (--w->pending == 0 && w->parked)
        vd_fiber_wake(w->fiber);
}

void loop_op_submit(struct vd_loop *loop, struct loop_op *op)
{
    op->in_flight = true;
    loop->ops->submit(loop, op);
}

void loop_op_complete(struct vd_loop *loop, struct loop_op *op, int res)
{
    op->res = res;
    op->in_flight = false;
    if (op_is_transfer(op->kind))
        loop->stats.io++;
    loop_wait_done(op->wait);
}

void loop_op_cancel(struct vd_loop *loop, struct loop_op *op)
{
    assert(op->kind == OP_POLL || op->kind == OP_RECV);
    if (op->in_flight)
        loop->ops->cancel(loop, op);
}

int loop_op_run(struct vd_loop *loop, struct loop_op *op)
{
    struct loop_wait w;
    loop_wait_init(&w, 1);
    op->wait = &w;
    loop_op_submit(loop, op);
    loop_wait(&w);
    return op->res;
}

struct loop_op *loop_op_get(struct vd_loop *loop)
{
    struct loop_op *op = loop->spare_ops;
    if (!op)
        return malloc(sizeof(*op));
    loop->spare_ops = op->next;
    return op;
}

void loop_op_put(struct vd_loop *loop, struct loop_op *op)
{
    op->next = loop->spare_ops;
    loop->spare_ops = op;
}

/* A durable write for where the kernel knows no RWF_DSYNC. */
static ssize_t write_then_sync(const struct loop_op *op)
{
    ssize_t n = pwritev(op->fd, op->iov, (int)op->iovcnt, (off_t)op->off);
    return n >= 0 && fdatasync(op->fd) < 0 ? -1 : n;
}

int loop_op_execute(const struct loop_op *op)
{
    ssize_t n = -1;
    do {
        switch (op->kind) {
        case OP_READV:
            n = preadv2(op->fd, op->iov, (int)op->iovcnt, (off_t)op->off, op->flags);
            break;
        case OP_WRITEV:
            n = pwritev2(op->fd, op->iov, (int)op->iovcnt, (off_t)op->off, op->flags);
            if (n < 0 && errno == EOPNOTSUPP && op->flags == RWF_DSYNC)
                n = write_then_sync(op);
            break;
        case OP_FDATASYNC:
            n = fdatasync(op->fd);
            break;
        case OP_FALLOCATE:
            n = fallocate(op->fd, op->flags, (off_t)op->off, (off_t)op->len);
            break;
        case OP_POLL:
        case OP_RECV:
            return -EINVAL;
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (int)n; /* the kernel moves at most 2 GiB - 4 KiB at once */
}

bool loop_op_try(struct vd_loop *loop, struct loop_op *op, short events)
{
    if (op->kind == OP_POLL) {
        loop_op_complete(loop, op, events);
        return true;
    }
    ssize_t n = recv(op->fd, op->buf, op->len, (op->flags & ~MSG_WAITALL) | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    loop_op_complete(loop, op, n < 0 ? -errno : (int)n);
    return true;
}

void loop_fd_forget(struct vd_loop *loop, int fd)
{
    if (loop->ops->forget)
        loop->ops->forget(loop, fd);
}
