/* SPDX-License-Identifier: MIT */
/*
 * A connection from accept to close. Its reader fiber owns it: it does the handshake, reads
 * requests, and, whatever ended them, waits until nothing of the connection is under way before it
 * frees it.
 *
 *   start -> handshake -> transmission -> (broken) -> drained -> sender ended -> freed
 *
 * Invariant: while a request is in flight, or the sender lives, the connection does.
 */
#include "core/base/log.h"
#include "core/base/text.h"
#include "nbd/nbd_priv.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

void nbd_conn_break(struct nbd_conn *c)
{
    if (c->broken)
        return;
    c->broken = true;
    vd_stream_shutdown(c->stream);
    for (struct vd_list *l; (l = vd_list_pop(&c->done));)
        nbd_release(vd_container_of(l, struct nbd_req, link));
    vd_wake_all(&c->room_q);
    vd_wake_all(&c->send_q);
}

/* More input behind what is there. VD_YIELDS */
static int read_more(struct nbd_conn *c)
{
    ssize_t r = vd_stream_read_some(c->stream, c->in + c->end, NBD_IN_LEN - c->end);
    if (r < 0)
        return (int)r;
    if (r == 0)
        return c->pos == c->end ? -ENODATA : -ECONNRESET;
    c->end += (size_t)r;
    return 0;
}

/* Puts the unused input at the start of the buffer when it is cheap or there is no room behind. */
static void make_room(struct nbd_conn *c, size_t n)
{
    size_t left = c->end - c->pos;
    if (left == 0) {
        c->pos = c->end = 0;
    } else if (c->pos > 0 && (left <= VD_BLOCK || c->pos + n > NBD_IN_LEN)) {
        memmove(c->in, c->in + c->pos, left);
        c->pos = 0;
        c->end = left;
    }
}

int nbd_fill(struct nbd_conn *c, size_t n)
{
    if (c->end - c->pos >= n)
        return 0;
    make_room(c, n);
    while (c->end - c->pos < n) {
        int r = read_more(c);
        if (r < 0)
            return r;
    }
    return 0;
}

int nbd_take(struct nbd_conn *c, void *buf, size_t n)
{
    size_t have = VD_MIN(n, c->end - c->pos);
    memcpy(buf, c->in + c->pos, have);
    c->pos += have;
    n -= have;
    if (n == 0)
        return 0;
    /* A long rest goes straight to where it belongs; a short one brings along what follows it. */
    int r = n >= NBD_DIRECT_MIN ? vd_stream_read(c->stream, (char *)buf + have, n) : nbd_fill(c, n);
    if (r < 0)
        return r == -ENODATA ? -ECONNRESET : r;
    if (n < NBD_DIRECT_MIN) {
        memcpy((char *)buf + have, c->in + c->pos, n);
        c->pos += n;
    }
    return 0;
}

int nbd_skip(struct nbd_conn *c, uint64_t n)
{
    while (n > 0) {
        int r = nbd_fill(c, 1);
        if (r < 0)
            return r == -ENODATA ? -ECONNRESET : r;
        size_t have = (size_t)VD_MIN(n, (uint64_t)(c->end - c->pos));
        c->pos += have;
        n -= have;
    }
    return 0;
}

static void disk_event(struct vd_disk_watch *w, enum vd_disk_event event)
{
    struct nbd_conn *c = vd_container_of(w, struct nbd_conn, watch);
    /* A new size is seen by whoever connects next; each request is checked against the size of its
     * moment. Content that was replaced is what was asked for by force. */
    if (event == VD_DISK_GONE)
        nbd_conn_break(c);
}

static void conn_end(struct nbd_conn *c)
{
    struct vd_nbd_server *s = c->server;
    while (c->in_flight > 0)
        vd_wait(&c->room_q);
    c->finished = true;
    vd_wake_all(&c->send_q);
    while (!c->sender_ended)
        vd_wait(&c->room_q);
    if (c->disk) {
        vd_disk_unwatch(&c->watch);
        vd_disk_unref(c->disk);
    }
    vd_stream_close(c->stream);
    vd_list_remove(&c->link);
    s->n_conns--;
    vd_wake_all(&s->conns_q);
    free(c->in);
    free(c);
}

static void conn_main(void *arg)
{
    struct nbd_conn *c = arg;
    int r = nbd_handshake(c);
    if (r == 0) {
        c->stage = NBD_TRANSMISSION;
        c->watch.fn = disk_event;
        vd_disk_watch(c->disk, &c->watch);
        vd_wake_all(&c->send_q);
        vd_log(VD_LOG_INFO, "nbd: %s opened %s", c->peer, c->export);
    }
    while (r == 0 && !c->broken && !c->server->stopping)
        r = nbd_request_read(c);
    if (r == -EPROTO)
        vd_log(VD_LOG_WARNING, "nbd: %s does not keep to the protocol: disconnected", c->peer);
    /* The other ways to end: the client said so or has gone, and is sent what is under way; or the
     * server stops, and does the same. */
    if (r < 0 && r != -ENODATA && !c->server->stopping)
        nbd_conn_break(c);
    conn_end(c);
}

static void peer_name(struct nbd_conn *c)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);
    int fd = vd_stream_fd(c->stream);
    uid_t uid;
    gid_t gid;
    pid_t pid;
    snprintf(c->peer, sizeof(c->peer), "unknown peer");
    if (getpeername(fd, (struct sockaddr *)&addr, &len) < 0)
        return;
    if (addr.ss_family == AF_UNIX) {
        if (vd_stream_peer(c->stream, &uid, &gid, &pid) == 0)
            snprintf(c->peer, sizeof(c->peer), "pid %ld, uid %ld", (long)pid, (long)uid);
        return;
    }
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(c->peer, sizeof(c->peer),
                 addr.ss_family == AF_INET6 ? "[%.70s]:%.8s" : "%.70s:%.8s", host, port);
    /* Replies are whole when they are sent; and a client that vanished is noticed some day. */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

int nbd_conn_start(struct vd_nbd_server *s, struct vd_stream *stream)
{
    struct nbd_conn *c = calloc(1, sizeof(*c));
    if (!c || !(c->in = vd_alloc_aligned(NBD_IN_LEN))) {
        free(c);
        vd_stream_close(stream);
        return -ENOMEM;
    }
    c->server = s;
    c->stream = stream;
    c->connected_s = vd_loop_wall_s(s->loop);
    vd_list_init(&c->done);
    vd_list_init(&c->watch.link);
    vd_waitq_init(&c->send_q);
    vd_waitq_init(&c->room_q);
    peer_name(c);
    int size = (int)VD_MIB(2);
    setsockopt(vd_stream_fd(stream), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    setsockopt(vd_stream_fd(stream), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));

    vd_list_push(&s->conns, &c->link);
    s->n_conns++;
    int r = vd_fiber_spawn(s->loop, "nbd-reader", conn_main, c);
    if (r < 0) {
        c->sender_ended = true;
        conn_end(c);
        return r;
    }
    /* Without a sender the reader ends at once. */
    r = vd_fiber_spawn(s->loop, "nbd-sender", nbd_sender_main, c);
    if (r < 0) {
        c->sender_ended = true;
        nbd_conn_break(c);
    }
    return r;
}
