/* SPDX-License-Identifier: MIT */
/*
 * The back end for where io_uring is forbidden: epoll for sockets and pipes, a small thread pool
 * for files. Completions of the pool come as messages, whose poke ends the sleep.
 *
 * Invariants:
 *  - a descriptor is registered at most once, for what its waiting operations want or wanted: bits
 *    nobody wants any more are taken out when they first show up, not after each operation;
 *  - loop_fd_forget comes before a descriptor is closed, so a registration never outlives it.
 */
#include "core/io/loop_priv.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define FILE_THREADS 16u
#define EVENTS_AT_ONCE 64

struct epoll_fd {
    struct loop_op *ops; /* waiting, chained by next */
    uint32_t registered; /* events asked of the kernel, 0: not registered */
};

struct epoll {
    int fd;
    struct epoll_fd *fds; /* by descriptor */
    int nfds;
    unsigned waiting; /* operations in all the chains */
    bool only_ms;     /* the kernel has no finer timeouts */
    struct workpool *files;
};

static int epoll_init(struct vd_loop *loop)
{
    struct epoll *e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->files = workpool_new(loop, FILE_THREADS);
    e->fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = loop->poke_fd};
    if (!e->files || e->fd < 0 || epoll_ctl(e->fd, EPOLL_CTL_ADD, loop->poke_fd, &ev) < 0) {
        int r = e->files ? -errno : -ENOMEM;
        if (e->fd >= 0)
            close(e->fd);
        workpool_free(e->files);
        free(e);
        return r;
    }
    loop->be = e;
    return 0;
}

static void epoll_done(struct vd_loop *loop)
{
    struct epoll *e = loop->be;
    workpool_free(e->files);
    close(e->fd);
    free(e->fds);
    free(e);
}

static int epoll_start(struct vd_loop *loop)
{
    (void)loop;
    return 0;
}

/* ---- files ---- */

static void file_op_run(struct work *work)
{
    struct loop_op *op = vd_container_of(work, struct loop_op, work);
    op->res = loop_op_execute(op);
}

static void file_op_over(struct vd_loop *loop, struct loop_msg *msg)
{
    struct loop_op *op = vd_container_of(msg, struct loop_op, work.msg);
    loop_op_complete(loop, op, op->res);
}

/* ---- descriptors ---- */

static int fds_grow(struct epoll *e, int fd)
{
    if (fd < e->nfds)
        return 0;
    int n = VD_MAX(fd + 1, VD_MAX(e->nfds * 2, 64));
    struct epoll_fd *bigger = reallocarray(e->fds, (size_t)n, sizeof(*bigger));
    if (!bigger)
        return -ENOMEM;
    memset(bigger + e->nfds, 0, (size_t)(n - e->nfds) * sizeof(*bigger));
    e->fds = bigger;
    e->nfds = n;
    return 0;
}

static uint32_t op_events(const struct loop_op *op)
{
    return op->kind == OP_POLL ? (uint32_t)op->flags : (uint32_t)EPOLLIN;
}

static uint32_t events_wanted(const struct epoll_fd *f)
{
    uint32_t events = 0;
    for (const struct loop_op *op = f->ops; op; op = op->next)
        events |= op_events(op);
    return events;
}

static int fd_register(struct epoll *e, int fd, uint32_t events)
{
    struct epoll_fd *f = &e->fds[fd];
    struct epoll_event ev = {.events = events, .data.fd = fd};
    if (events == f->registered)
        return 0;
    int how = !events ? EPOLL_CTL_DEL : f->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    int r = epoll_ctl(e->fd, how, fd, &ev);
    if (r < 0 && how == EPOLL_CTL_MOD && errno == ENOENT)
        r = epoll_ctl(e->fd, EPOLL_CTL_ADD, fd, &ev);
    if (r < 0 && how != EPOLL_CTL_DEL)
        return -errno;
    f->registered = events;
    return 0;
}

static void op_unlink(struct epoll *e, struct loop_op *op)
{
    struct loop_op **at = &e->fds[op->fd].ops;
    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    e->waiting--;
}

static void fd_submit(struct vd_loop *loop, struct loop_op *op)
{
    struct epoll *e = loop->be;
    int r = op->fd < 0 ? -EBADF : fds_grow(e, op->fd);
    if (r == 0)
        r = fd_register(e, op->fd, e->fds[op->fd].registered | op_events(op));
    if (r == -EPERM && op->kind == OP_POLL) { /* a regular file is always ready */
        loop_op_complete(loop, op, op->flags);
    } else if (r < 0) {
        loop_op_complete(loop, op, r);
    } else {
        op->next = e->fds[op->fd].ops;
        e->fds[op->fd].ops = op;
        e->waiting++;
    }
}

static void epoll_submit(struct vd_loop *loop, struct loop_op *op)
{
    struct epoll *e = loop->be;
    if (op->kind == OP_POLL || op->kind == OP_RECV) {
        fd_submit(loop, op);
        return;
    }
    op->work.run = file_op_run;
    op->work.msg.fn = file_op_over;
    if (workpool_submit(e->files, &op->work) < 0)
        loop_op_complete(loop, op, loop_op_execute(op)); /* no thread to be had: in place */
}

static void epoll_cancel(struct vd_loop *loop, struct loop_op *op)
{
    op_unlink(loop->be, op);
    loop_op_complete(loop, op, -ECANCELED);
}

static void epoll_forget(struct vd_loop *loop, int fd)
{
    struct epoll *e = loop->be;
    if (fd >= 0 && fd < e->nfds && e->fds[fd].registered)
        (void)fd_register(e, fd, 0);
}

/* ---- waiting ---- */

static void fd_ready(struct vd_loop *loop, int fd, uint32_t events)
{
    struct epoll *e = loop->be;
    struct epoll_fd *f = &e->fds[fd];
    struct loop_op *next, *again = NULL;
    bool met = false;
    for (struct loop_op *op = f->ops; op; op = next) {
        next = op->next;
        if (!(events & (op_events(op) | EPOLLERR | EPOLLHUP)))
            continue;
        met = true;
        op_unlink(e, op);
        if (!loop_op_try(loop, op, (short)events)) {
            op->next = again;
            again = op;
        }
    }
    while (again) {
        next = again->next;
        again->next = f->ops;
        f->ops = again;
        e->waiting++;
        again = next;
    }
    if (!met)
        (void)fd_register(e, fd, events_wanted(f));
}

static int wait_events(struct epoll *e, struct epoll_event *events, uint64_t timeout_ns)
{
    int n = -1;
    if (!e->only_ms) {
        struct timespec ts = {.tv_sec = (time_t)(timeout_ns / UINT64_C(1000000000)),
                              .tv_nsec = (long)(timeout_ns % UINT64_C(1000000000))};
        n = epoll_pwait2(e->fd, events, EVENTS_AT_ONCE, timeout_ns == LOOP_NEVER ? NULL : &ts,
                         NULL);
        e->only_ms = n < 0 && errno == ENOSYS; /* before Linux 5.11 */
    }
    if (e->only_ms) { /* milliseconds, rounded up */
        uint64_t ms = VD_MIN(timeout_ns / 1000000 + (timeout_ns % 1000000 != 0), UINT64_C(3600000));
        int timeout = timeout_ns == LOOP_NEVER ? -1 : timeout_ns == 0 ? 0 : (int)ms;
        n = epoll_wait(e->fd, events, EVENTS_AT_ONCE, timeout);
    }
    return n < 0 ? (errno == EINTR ? 0 : -errno) : n;
}

static int epoll_backend_wait(struct vd_loop *loop, uint64_t until_ns)
{
    struct epoll *e = loop->be;
    struct epoll_event events[EVENTS_AT_ONCE];
    uint64_t now = until_ns ? loop_clock_ns(loop) : 0;
    uint64_t timeout = until_ns == LOOP_NEVER ? LOOP_NEVER : until_ns > now ? until_ns - now : 0;
    if (timeout == 0 && !e->waiting)
        return 0;
    if (timeout)
        loop->stats.wakeups++;
    int n = wait_events(e, events, timeout);
    for (int i = 0; i < n; i++) {
        uint64_t count;
        if (events[i].data.fd != loop->poke_fd)
            fd_ready(loop, events[i].data.fd, events[i].events);
        else if (read(loop->poke_fd, &count, sizeof(count)) < 0 && errno != EINTR)
            return -errno;
    }
    return n < 0 ? n : 0;
}

const struct loop_ops loop_epoll_ops = {
    .name = "epoll",
    .init = epoll_init,
    .done = epoll_done,
    .start = epoll_start,
    .wait = epoll_backend_wait,
    .submit = epoll_submit,
    .cancel = epoll_cancel,
    .forget = epoll_forget,
    .now_ns = loop_clock_ns,
};
