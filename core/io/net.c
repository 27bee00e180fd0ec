/* SPDX-License-Identifier: MIT */
/*
 * Addresses, listeners and connections for streams. Host names are looked up on an offload thread.
 *
 * Invariants: a unix listener removes only the socket file it made itself; a listener closed while
 * a fiber accepts on it is freed by the last one to leave.
 */
#include "core/io/stream.h"

#include "core/io/loop_priv.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_BACKLOG 128
#define RETRY_NS UINT64_C(1000000)
#define CONNECT_RETRIES 2000
#define ACCEPT_PAUSE_NS UINT64_C(50000000)

struct vd_listener {
    int fd;
    bool closed;
    unsigned users;       /* fibers inside vd_accept */
    struct vd_list waits; /* struct accept_wait */
    char *path;           /* of a unix socket that we made, else NULL */
    bool remote;
    dev_t st_dev; /* its file */
    ino_t st_ino;
    char address[320];
};

struct accept_wait {
    struct vd_list link;
    struct loop_op op;
};

/* ---- addresses ---- */

struct target {
    bool is_unix;
    int fd; /* a listening socket that was handed over; -1 = none */
    struct sockaddr_un un;
    char host[256], port[8];
};

static int bad_address(struct vd_error *err, const char *text)
{
    return vd_fail(err, -EINVAL, "bad-address",
                   "'%s' is not an address: unix:PATH, tcp:HOST:PORT or fd:N", text);
}

static int target_parse(const char *text, struct target *t, struct vd_error *err)
{
    memset(t, 0, sizeof(*t));
    t->fd = -1;
    if (strncmp(text, "fd:", 3) == 0) {
        size_t len = strspn(text + 3, "0123456789");
        if (len == 0 || len > 9 || text[3 + len])
            return bad_address(err, text);
        t->fd = atoi(text + 3);
        return 0;
    }
    if (strncmp(text, "unix:", 5) == 0) {
        const char *path = text + 5;
        t->is_unix = true;
        t->un.sun_family = AF_UNIX;
        if (!*path)
            return bad_address(err, text);
        if (strlen(path) >= sizeof(t->un.sun_path))
            return vd_fail(err, -ENAMETOOLONG, "bad-address",
                           "the path of a socket has at most %zu bytes: %s",
                           sizeof(t->un.sun_path) - 1, path);
        memcpy(t->un.sun_path, path, strlen(path) + 1);
        return 0;
    }
    if (strncmp(text, "tcp:", 4) != 0)
        return bad_address(err, text);
    const char *host = text + 4, *colon = strrchr(host, ':');
    size_t port_len = colon ? strlen(colon + 1) : 0;
    if (!colon || port_len == 0 || port_len >= sizeof(t->port) ||
        strspn(colon + 1, "0123456789") != port_len || atol(colon + 1) > 65535)
        return bad_address(err, text);
    size_t host_len = (size_t)(colon - host);
    if (host_len >= 2 && host[0] == '[' && colon[-1] == ']') {
        host++;
        host_len -= 2;
    }
    if (host_len == 0 || host_len >= sizeof(t->host))
        return bad_address(err, text);
    memcpy(t->host, host, host_len);
    memcpy(t->port, colon + 1, port_len);
    return 0;
}

struct lookup {
    const struct target *target;
    int flags;
    struct addrinfo *found;
};

static int lookup_call(void *arg)
{
    struct lookup *l = arg;
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = l->flags | AI_NUMERICSERV};
    return getaddrinfo(l->target->host, l->target->port, &hints, &l->found);
}

static int target_lookup(const struct target *t, int flags, struct addrinfo **ret,
                         struct vd_error *err)
{
    struct lookup l = {.target = t, .flags = flags};
    int r = vd_offload(lookup_call, &l);
    if (r != 0)
        return vd_fail(err, -ENOENT, "host-not-found", "%s: %s", t->host, gai_strerror(r));
    *ret = l.found;
    return 0;
}

static void socket_tune(int fd)
{
    int on = 1; /* without effect on a unix socket */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ---- connecting ---- */

/* 0 or -errno. VD_YIELDS */
static int connect_wait(int fd, const struct sockaddr *addr, socklen_t len)
{
    for (int i = 0; i < CONNECT_RETRIES; i++) {
        if (connect(fd, addr, len) == 0)
            return 0;
        if (errno == EINPROGRESS || errno == EINTR) {
            struct loop_op op = {.kind = OP_POLL, .fd = fd, .flags = POLLOUT};
            int r = loop_op_run(vd_loop_current(), &op), code = 0;
            socklen_t code_len = sizeof(code);
            if (r < 0)
                return r;
            if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &code_len) < 0)
                return -errno;
            return -code;
        }
        if (errno != EAGAIN)
            return -errno;
        vd_fiber_sleep(RETRY_NS); /* the backlog of a unix socket is full */
    }
    return -ETIMEDOUT;
}

static int connect_to(int family, const struct sockaddr *addr, socklen_t len, int *ret_fd)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int r = connect_wait(fd, addr, len);
    if (r < 0) {
        loop_fd_forget(vd_loop_current(), fd);
        close(fd);
        return r;
    }
    socket_tune(fd);
    *ret_fd = fd;
    return 0;
}

int vd_connect(const char *address, struct vd_stream **ret, struct vd_error *err)
{
    struct target t;
    int fd = -1, r = target_parse(address, &t, err);
    if (r < 0)
        return r;
    if (t.fd >= 0)
        return bad_address(err, address);
    if (t.is_unix) {
        r = connect_to(AF_UNIX, (const struct sockaddr *)&t.un, sizeof(t.un), &fd);
    } else {
        struct addrinfo *found = NULL;
        r = target_lookup(&t, 0, &found, err);
        if (r < 0)
            return r;
        r = -ENOENT;
        for (struct addrinfo *ai = found; ai && r < 0; ai = ai->ai_next)
            r = connect_to(ai->ai_family, ai->ai_addr, ai->ai_addrlen, &fd);
        freeaddrinfo(found);
    }
    if (r == 0) {
        r = vd_stream_new(fd, ret);
        if (r < 0)
            close(fd);
    }
    if (r < 0)
        return vd_fail(err, r, "connect-failed", "%s: cannot connect: %s", address,
                       strerrordesc_np(-r));
    return 0;
}

/* ---- listening ---- */

static int bind_unix(int fd, const struct sockaddr_un *un)
{
    (void)fchmod(fd, 0600); /* before the bind, so that the file is never open to others */
    return bind(fd, (const struct sockaddr *)un, sizeof(*un)) < 0 ? -errno : 0;
}

/* True if the socket file there has no listener any more, and was removed. */
static bool stale_removed(const struct sockaddr_un *un)
{
    struct stat st;
    if (lstat(un->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool dead = connect(fd, (const struct sockaddr *)un, sizeof(*un)) < 0 && errno == ECONNREFUSED;
    close(fd);
    return dead && unlink(un->sun_path) == 0;
}

static int listen_unix(struct vd_listener *l, const struct target *t)
{
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return -errno;
    int r = bind_unix(l->fd, &t->un);
    if (r == -EADDRINUSE && stale_removed(&t->un))
        r = bind_unix(l->fd, &t->un);
    if (r < 0)
        return r;
    struct stat st;
    l->path = strdup(t->un.sun_path);
    if (!l->path || lstat(l->path, &st) < 0) {
        r = l->path ? -errno : -ENOMEM;
        (void)unlink(t->un.sun_path);
        free(l->path);
        l->path = NULL;
        return r;
    }
    l->st_dev = st.st_dev;
    l->st_ino = st.st_ino;
    (void)snprintf(l->address, sizeof(l->address), "unix:%s", l->path);
    return listen(l->fd, LISTEN_BACKLOG) < 0 ? -errno : 0;
}

static int bind_tcp(struct vd_listener *l, const struct addrinfo *ai)
{
    int on = 1;
    l->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return -errno;
    (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(l->fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(l->fd, LISTEN_BACKLOG) == 0)
        return 0;
    int r = -errno;
    close(l->fd);
    l->fd = -1;
    return r;
}

static int listen_tcp(struct vd_listener *l, const struct target *t, struct vd_error *err)
{
    struct addrinfo *found = NULL;
    int r = target_lookup(t, AI_PASSIVE, &found, err);
    if (r < 0)
        return r;
    r = -ENOENT;
    for (struct addrinfo *ai = found; ai && r < 0; ai = ai->ai_next)
        r = bind_tcp(l, ai);
    freeaddrinfo(found);
    if (r < 0)
        return r;
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    char port[8] = "";
    if (getsockname(l->fd, (struct sockaddr *)&sa, &len) == 0)
        (void)getnameinfo((struct sockaddr *)&sa, len, NULL, 0, port, sizeof(port), NI_NUMERICSERV);
    bool v6 = strchr(t->host, ':') != NULL;
    (void)snprintf(l->address, sizeof(l->address), "tcp:%s%s%s:%s", v6 ? "[" : "", t->host,
                   v6 ? "]" : "", port);
    return 0;
}

/* "tcp:HOST:PORT" or "unix:PATH" of a socket that others have set up. */
static void address_format(struct vd_listener *l, const struct sockaddr_storage *sa, socklen_t len)
{
    char host[80], port[8]; /* numbers, and a scope */
    const char *path = ((const struct sockaddr_un *)sa)->sun_path;
    (void)snprintf(l->address, sizeof(l->address), "fd:%d", l->fd);
    if (sa->ss_family == AF_UNIX) {
        if (len > offsetof(struct sockaddr_un, sun_path) && *path == '/')
            (void)snprintf(l->address, sizeof(l->address), "unix:%.*s",
                           (int)sizeof(((struct sockaddr_un *)0)->sun_path), path);
    } else if (getnameinfo((const struct sockaddr *)sa, len, host, sizeof(host), port, sizeof(port),
                           NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        (void)snprintf(l->address, sizeof(l->address),
                       sa->ss_family == AF_INET6 ? "tcp:[%.200s]:%.8s" : "tcp:%.200s:%.8s", host,
                       port);
    }
}

/* Takes a listening socket over: its file, if it has one, is not ours to remove. What we have
 * opened ourselves is close-on-exec, what was handed over is not, and becomes so. */
static int listen_given(struct vd_listener *l, int fd, struct vd_error *err)
{
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa), size = sizeof(int);
    int listens = 0, type = 0, flags = fcntl(fd, F_GETFL), own = fcntl(fd, F_GETFD);
    if (fd <= STDERR_FILENO || flags < 0 || own < 0 || (own & FD_CLOEXEC) ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM)
        return vd_fail(err, -EINVAL, "bad-address",
                       "fd:%d is not a listening socket that this process was given", fd);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    l->fd = fd;
    address_format(l, &sa, len);
    return 0;
}

static bool is_loopback(const struct sockaddr_storage *sa)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
    const struct in6_addr *in6 = &((const struct sockaddr_in6 *)sa)->sin6_addr;
    if (sa->ss_family == AF_INET)
        return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    if (sa->ss_family != AF_INET6)
        return false;
    return IN6_IS_ADDR_LOOPBACK(in6) ||
           (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == IN_LOOPBACKNET);
}

static bool reaches_out(int fd)
{
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return true;
    return sa.ss_family != AF_UNIX && !is_loopback(&sa);
}

static void listener_free(struct vd_listener *l)
{
    free(l->path);
    free(l);
}

/* The descriptor and the socket file go at once, also while a fiber still looks at `l`. */
static void listener_stop(struct vd_listener *l)
{
    struct stat st;
    if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->st_dev && st.st_ino == l->st_ino)
        (void)unlink(l->path);
    if (l->fd >= 0) {
        if (vd_loop_current())
            loop_fd_forget(vd_loop_current(), l->fd);
        close(l->fd);
        l->fd = -1;
    }
}

int vd_listen(const char *address, struct vd_listener **ret, struct vd_error *err)
{
    struct target t;
    int r = target_parse(address, &t, err);
    if (r < 0)
        return r;
    struct vd_listener *l = calloc(1, sizeof(*l));
    if (!l)
        return vd_fail(err, -ENOMEM, "no-memory", "out of memory");
    l->fd = -1;
    vd_list_init(&l->waits);
    struct vd_error lookup_err = {0};
    if (t.fd >= 0)
        r = listen_given(l, t.fd, &lookup_err);
    else
        r = t.is_unix ? listen_unix(l, &t) : listen_tcp(l, &t, &lookup_err);
    if (r == 0) {
        l->remote = reaches_out(l->fd);
        *ret = l;
        return 0;
    }
    listener_stop(l);
    listener_free(l);
    if (lookup_err.code) {
        if (err)
            *err = lookup_err;
        return r;
    }
    return vd_fail(err, r, r == -EADDRINUSE ? "address-in-use" : "listen-failed",
                   "%s: cannot listen: %s", address, strerrordesc_np(-r));
}

bool vd_listener_remote(const struct vd_listener *l)
{
    return l->remote;
}

const char *vd_listener_address(const struct vd_listener *l)
{
    return l->address;
}

/* Until a connection may be there. VD_YIELDS */
static void accept_wait(struct vd_listener *l)
{
    struct accept_wait wait = {.op = {.kind = OP_POLL, .fd = l->fd, .flags = POLLIN}};
    vd_list_push(&l->waits, &wait.link);
    (void)loop_op_run(vd_loop_current(), &wait.op);
    vd_list_remove(&wait.link);
}

/* True for what will pass: the one connection is gone, or something has run out. */
static bool accept_retry(int code)
{
    switch (code) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        vd_fiber_sleep(ACCEPT_PAUSE_NS);
        return true;
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
        return true;
    default:
        return false;
    }
}

int vd_accept(struct vd_listener *l, struct vd_stream **ret)
{
    int r = -ECANCELED;
    l->users++;
    while (!l->closed) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            socket_tune(fd);
            r = vd_stream_new(fd, ret);
            if (r < 0)
                close(fd);
            break;
        }
        int code = errno;
        if (code == EAGAIN) {
            accept_wait(l);
        } else if (!accept_retry(code)) {
            r = -code;
            break;
        }
    }
    if (--l->users == 0 && l->closed)
        listener_free(l);
    return r;
}

void vd_listener_close(struct vd_listener *l)
{
    if (!l)
        return;
    l->closed = true;
    vd_list_each_safe (it, &l->waits) {
        loop_op_cancel(vd_loop_current(), &vd_container_of(it, struct accept_wait, link)->op);
    }
    listener_stop(l);
    if (l->users == 0)
        listener_free(l);
}
