/* SPDX-License-Identifier: MIT */
/*
 * The server: accepts, lists, stops.
 *
 * Stopping, in order: no new connections; every connection's input is closed, so its reader takes
 * no more requests; what is under way is finished and answered; the connections go; the workers,
 * which served them, go last. A client that does not take its answers is given ten seconds.
 *
 * Called on the store's loop. Start and stop suspend, the rest does not.
 */
#include "core/base/log.h"
#include "nbd/nbd_priv.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static struct nbd_conn *conn_of(struct vd_list *l)
{
    return vd_container_of(l, struct nbd_conn, link);
}

/* Where there are as many clients as there may be, whoever has been choosing longest goes:
 * strangers who only hold places do not keep those out who have something to do. For a moment,
 * until the one that was dropped is gone, there are more, and of these there are bounds too. */
static bool room_make(struct vd_nbd_server *s)
{
    if (s->n_conns >= 2 * NBD_CLIENTS_MAX)
        return false;
    vd_list_each (l, &s->conns) {
        struct nbd_conn *c = conn_of(l);
        if (c->stage != NBD_HANDSHAKE || c->broken)
            continue;
        vd_log(VD_LOG_WARNING, "nbd: %s had not chosen an export and made room for another client",
               c->peer);
        nbd_conn_break(c);
        return true;
    }
    return false;
}

static void accept_main(void *arg)
{
    struct vd_nbd_server *s = arg;
    for (;;) {
        struct vd_stream *stream;
        int r = vd_accept(s->listener, &stream);
        if (r == -ECANCELED || s->stopping) {
            if (r == 0)
                vd_stream_close(stream);
            break;
        }
        if (r < 0) {
            /* Out of descriptors, most likely: somebody has to go first. */
            vd_log(VD_LOG_WARNING, "nbd: accepting a client on %s: %s",
                   vd_listener_address(s->listener), strerror(-r));
            vd_fiber_sleep(100000000);
            if (s->stopping)
                break;
            continue;
        }
        if (s->n_conns >= NBD_CLIENTS_MAX && !room_make(s)) {
            vd_log(VD_LOG_WARNING, "nbd: more than %u clients: one is turned away",
                   NBD_CLIENTS_MAX);
            vd_stream_close(stream);
            continue;
        }
        nbd_conn_start(s, stream);
    }
    vd_group_done(&s->fibers);
}

static struct vd_nbd_server *server_new(struct vd_loop *loop, struct vd_store *store,
                                        unsigned flags, struct vd_tls *tls)
{
    struct vd_nbd_server *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->loop = loop;
    s->store = store;
    s->flags = flags;
    s->tls = tls;
    s->handshake_ns = NBD_HANDSHAKE_NS;
    s->stop_ns = NBD_STOP_NS;
    vd_list_init(&s->conns);
    vd_list_init(&s->work);
    vd_list_init(&s->idle);
    vd_list_init(&s->free_reqs);
    vd_waitq_init(&s->conns_q);
    vd_group_init(&s->fibers);
    return s;
}

static int listen_start(struct vd_nbd_server *s, const char *address, struct vd_error *err)
{
    int r = vd_listen(address, &s->listener, err);
    if (r < 0)
        return r;
    /* Nobody has been accepted yet. */
    if (!(s->flags & VD_NBD_REMOTE) && vd_listener_remote(s->listener))
        return vd_fail(err, -EPERM, "address-remote", "other machines can reach %s",
                       vd_listener_address(s->listener));
    vd_group_add(&s->fibers);
    r = vd_fiber_spawn(s->loop, "nbd-accept", accept_main, s);
    if (r == 0)
        return 0;
    vd_group_done(&s->fibers);
    return vd_fail(err, r, "no-memory", "not enough memory for an NBD server");
}

int vd_nbd_start(struct vd_loop *loop, struct vd_store *store, const char *address, unsigned flags,
                 struct vd_tls *tls, struct vd_nbd_server **ret, struct vd_error *err)
{
    if (flags & ~(unsigned)(VD_NBD_READ_ONLY | VD_NBD_REMOTE))
        return vd_fail(err, -EINVAL, "flags-invalid", "unknown flags for an NBD server");
    struct vd_nbd_server *s = server_new(loop, store, flags, tls);
    if (!s)
        return vd_fail(err, -ENOMEM, "no-memory", "not enough memory for an NBD server");
    int r = nbd_workers_start(s);
    if (r < 0) {
        free(s);
        return vd_fail(err, r, "no-memory", "not enough memory for an NBD server");
    }
    if (address)
        r = listen_start(s, address, err);
    if (r < 0) {
        vd_nbd_stop(s);
        return r;
    }
    *ret = s;
    return 0;
}

int vd_nbd_attach(struct vd_nbd_server *s, int fd)
{
    struct vd_stream *stream;
    if (s->stopping || s->n_conns >= NBD_CLIENTS_MAX) {
        close(fd);
        return -EBUSY;
    }
    int r = vd_stream_new(fd, &stream);
    if (r < 0) {
        close(fd);
        return r;
    }
    return nbd_conn_start(s, stream);
}

void vd_nbd_stop(struct vd_nbd_server *s)
{
    if (!s)
        return;
    s->stopping = true;
    if (s->listener)
        vd_listener_close(s->listener);
    vd_list_each (l, &s->conns) {
        /* Readers see the end of their input; replies still go out. */
        shutdown(vd_stream_fd(conn_of(l)->stream), SHUT_RD);
        vd_wake_all(&conn_of(l)->room_q);
    }
    uint64_t end = vd_loop_now_ns(s->loop) + s->stop_ns;
    while (s->n_conns > 0) {
        uint64_t now = vd_loop_now_ns(s->loop);
        if (now < end) {
            vd_wait_for(&s->conns_q, end - now);
            continue;
        }
        vd_list_each (l, &s->conns)
            nbd_conn_break(conn_of(l));
        vd_wait(&s->conns_q);
    }
    nbd_workers_stop(s);
    vd_group_wait(&s->fibers);
    nbd_buffers_free(s);
    free(s);
}

const char *vd_nbd_address(const struct vd_nbd_server *s)
{
    return s->listener ? vd_listener_address(s->listener) : "";
}

int vd_nbd_clients(const struct vd_nbd_server *s, vd_door_client_fn *fn, void *arg)
{
    vd_list_each (l, &s->conns) {
        const struct nbd_conn *c = conn_of(l);
        struct vd_door_client client = {
            .peer = c->peer,
            .export = c->export,
            .read_only = c->read_only,
            .connected_s = c->connected_s,
            .requests = c->requests,
            .read_bytes = c->read_bytes,
            .write_bytes = c->write_bytes,
            .in_flight = c->in_flight,
        };
        int r = fn(arg, &client);
        if (r != 0)
            return r;
    }
    return 0;
}

unsigned vd_nbd_drop(struct vd_nbd_server *s, const char *export)
{
    unsigned n = 0;
    vd_list_each (l, &s->conns) {
        struct nbd_conn *c = conn_of(l);
        if (c->broken || (export && strcmp(c->export, export) != 0))
            continue;
        nbd_conn_break(c);
        n++;
    }
    return n;
}

void vd_nbd_trim(struct vd_nbd_server *s)
{
    nbd_buffers_free(s);
}
