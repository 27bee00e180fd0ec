/* SPDX-License-Identifier: MIT */
/*
 * Byte streams over descriptors. A call first tries the system call without waiting, and hands the
 * wait to the back end only if it must; a socket's receive then completes in the kernel, so data
 * that comes costs no second call. Everything here yields but new, shutdown, close and questions.
 *
 * Invariants:
 *  - at most one fiber reads and one writes; each one's operation in flight is known, so that
 *    shutdown can cancel it, and none is left when the stream is closed;
 *  - sockets are kept blocking and every call on them says MSG_DONTWAIT: io_uring waits for a
 *    blocking one, but answers EAGAIN for others. Pipes and the like are made non-blocking.
 */
#include "core/io/stream_priv.h"

#include "core/io/loop_priv.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define FDS_MAX 64   /* descriptors in one message */
#define WRITE_IOV 32 /* pieces handed to the kernel at once */
#define RECV_MAX 0x40000000u

int vd_stream_new(int fd, struct vd_stream **ret)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &st) < 0)
        return -errno;
    bool is_socket = S_ISSOCK(st.st_mode);
    int wanted = is_socket ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
    if (wanted != flags && fcntl(fd, F_SETFL, wanted) < 0)
        return -errno;
    struct vd_stream *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->fd = fd;
    s->is_socket = is_socket;
    *ret = s;
    return 0;
}

void vd_stream_close(struct vd_stream *s)
{
    if (!s)
        return;
    assert(!s->reading && !s->writing);
    if (s->tls)
        stream_tls_end(s);
    if (vd_loop_current())
        loop_fd_forget(vd_loop_current(), s->fd);
    close(s->fd);
    free(s);
}

void vd_stream_shutdown(struct vd_stream *s)
{
    struct vd_loop *loop = vd_loop_current();
    if (s->cancelled)
        return;
    s->cancelled = true;
    if (s->is_socket)
        (void)shutdown(s->fd, SHUT_RDWR); /* the peer learns of it at once */
    if (s->reading)
        loop_op_cancel(loop, s->reading);
    if (s->writing)
        loop_op_cancel(loop, s->writing);
}

int vd_stream_fd(const struct vd_stream *s)
{
    return s->fd;
}

int vd_stream_peer(const struct vd_stream *s, uid_t *uid, gid_t *gid, pid_t *pid)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    if (getsockopt(s->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -errno;
    *uid = cred.uid;
    *gid = cred.gid;
    *pid = cred.pid;
    return 0;
}

/* ---- waiting ---- */

static int stream_errno(int code)
{
    return code == -EPIPE || code == -ENOTCONN ? -ECONNRESET : code;
}

static int op_wait(struct vd_stream *s, struct loop_op **slot, struct loop_op *op)
{
    assert(!*slot);
    *slot = op;
    int r = loop_op_run(vd_loop_current(), op);
    *slot = NULL;
    return s->cancelled ? -ECANCELED : r;
}

static int poll_wait(struct vd_stream *s, struct loop_op **slot, int events)
{
    struct loop_op op = {.kind = OP_POLL, .fd = s->fd, .flags = events};
    int r = op_wait(s, slot, &op);
    return r < 0 ? r : 0;
}

static bool try_again(int code)
{
    return code == -EAGAIN || code == -EINTR;
}

/* ---- reading ---- */

/* At least one byte, or 0 at the end; `more`: would rather have all `len`. */
static ssize_t read_once(struct vd_stream *s, void *buf, size_t len, bool more)
{
    for (;;) {
        if (s->cancelled)
            return -ECANCELED;
        ssize_t n = s->is_socket ? recv(s->fd, buf, len, MSG_DONTWAIT) : read(s->fd, buf, len);
        if (n >= 0)
            return n;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return stream_errno(-errno);
        if (s->is_socket) {
            struct loop_op op = {.kind = OP_RECV,
                                 .fd = s->fd,
                                 .buf = buf,
                                 .len = VD_MIN(len, (size_t)RECV_MAX),
                                 .flags = more ? MSG_WAITALL : 0};
            n = op_wait(s, &s->reading, &op);
            if (!try_again((int)n))
                return n < 0 ? stream_errno((int)n) : n;
        } else {
            int r = poll_wait(s, &s->reading, POLLIN);
            if (r < 0)
                return r;
        }
    }
}

ssize_t stream_raw_read(struct vd_stream *s, void *buf, size_t len)
{
    return read_once(s, buf, len, false);
}

ssize_t vd_stream_read_some(struct vd_stream *s, void *buf, size_t len)
{
    return s->tls ? stream_tls_read(s, buf, len) : read_once(s, buf, len, false);
}

int vd_stream_read(struct vd_stream *s, void *buf, size_t len)
{
    size_t done = 0;
    while (done < len) {
        char *rest = (char *)buf + done;
        ssize_t n =
            s->tls ? stream_tls_read(s, rest, len - done) : read_once(s, rest, len - done, true);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return done ? -ECONNRESET : -ENODATA;
        done += (size_t)n;
    }
    return 0;
}

/* ---- writing ---- */

/* Once; the number of bytes taken. */
static ssize_t write_once(struct vd_stream *s, const struct iovec *iov, int n)
{
    for (;;) {
        ssize_t sent;
        if (s->cancelled)
            return -ECANCELED;
        if (s->is_socket) {
            struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov,
                                 .msg_iovlen = (size_t)n};
            sent = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        } else {
            sent = writev(s->fd, iov, n);
        }
        if (sent >= 0)
            return sent;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return stream_errno(-errno);
        int r = poll_wait(s, &s->writing, POLLOUT);
        if (r < 0)
            return r;
    }
}

static int write_all(struct vd_stream *s, const struct iovec *iov, int n)
{
    size_t skip = 0; /* of iov[0] */
    for (;;) {
        while (n > 0 && iov[0].iov_len == skip) {
            iov++;
            n--;
            skip = 0;
        }
        if (n == 0)
            return s->cancelled ? -ECANCELED : 0;
        struct iovec part[WRITE_IOV];
        int count = VD_MIN(n, WRITE_IOV);
        memcpy(part, iov, (size_t)count * sizeof(*iov));
        part[0].iov_base = (char *)part[0].iov_base + skip;
        part[0].iov_len -= skip;
        ssize_t sent = write_once(s, part, count);
        if (sent < 0)
            return (int)sent;
        skip += (size_t)sent;
        while (n > 0 && skip >= iov[0].iov_len && skip) {
            skip -= iov[0].iov_len;
            iov++;
            n--;
        }
    }
}

int stream_raw_write(struct vd_stream *s, const void *buf, size_t len)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    return write_all(s, &iov, 1);
}

int vd_stream_writev(struct vd_stream *s, const struct iovec *iov, int n)
{
    return s->tls ? stream_tls_writev(s, iov, n) : write_all(s, iov, n);
}

int vd_stream_write(struct vd_stream *s, const void *buf, size_t len)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    return vd_stream_writev(s, &iov, 1);
}

/* ---- descriptors ---- */

union fds_control {
    struct cmsghdr align;
    char buf[CMSG_SPACE(sizeof(int) * FDS_MAX)];
};

int vd_stream_send_fds(struct vd_stream *s, const void *buf, size_t len, const int *fds, int nfds)
{
    union fds_control control;
    if (nfds < 0 || nfds > FDS_MAX || len == 0 || s->tls)
        return -EINVAL;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nfds) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = control.buf;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)nfds);
    }
    for (;;) {
        if (s->cancelled)
            return -ECANCELED;
        ssize_t n = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) /* the descriptors went with the first byte */
            return (size_t)n < len ? vd_stream_write(s, (const char *)buf + n, len - (size_t)n) : 0;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return stream_errno(-errno);
        int r = poll_wait(s, &s->writing, POLLOUT);
        if (r < 0)
            return r;
    }
}

/* Hands over up to `room` received descriptors, closes what came beyond. */
static int fds_take(struct msghdr *msg, int *fds, int room)
{
    int count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (count < room)
                fds[count++] = fd;
            else
                close(fd);
        }
    }
    return count;
}

ssize_t vd_stream_recv_fds(struct vd_stream *s, void *buf, size_t len, int *fds, int *nfds)
{
    union fds_control control;
    int room = VD_MIN(*nfds, FDS_MAX);
    if (s->tls)
        return -EINVAL;
    for (;;) {
        if (s->cancelled)
            return -ECANCELED;
        struct iovec iov = {.iov_base = buf, .iov_len = len};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.buf,
                             .msg_controllen = sizeof(control.buf)};
        ssize_t n = recvmsg(s->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n >= 0) {
            *nfds = fds_take(&msg, fds, room);
            return n;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return stream_errno(-errno);
        int r = poll_wait(s, &s->reading, POLLIN);
        if (r < 0)
            return r;
    }
}
