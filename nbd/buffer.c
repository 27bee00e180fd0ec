/* SPDX-License-Identifier: MIT */
/*
 * Requests and buffers, reused, so that nothing is allocated per request once a connection is
 * warm; and the rule how much of both a connection may hold.
 *
 * Invariants:
 *  1. A connection waits only for what it holds itself. One that holds no buffer always gets the
 *     next, whatever the others hold: a client that never takes its answers stops nobody else.
 *  2. So all buffers together stay below NBD_BUDGET plus one piece per connection.
 *  3. Buffers are aligned to VD_BLOCK and a power of two long: what a device wants, without a copy.
 */
#include "core/base/text.h"
#include "nbd/nbd_priv.h"

#include <stdlib.h>

static unsigned class_of(size_t len)
{
    unsigned class = 0;
    while (((size_t)NBD_BUF_MIN << class) < len)
        class ++;
    assert(class < NBD_BUF_CLASSES);
    return class;
}

static void *buffer_get(struct vd_nbd_server *s, unsigned class)
{
    size_t len = (size_t)NBD_BUF_MIN << class;
    void *buf = s->free_bufs[class];
    if (!buf)
        return vd_alloc_aligned(len);
    memcpy(&s->free_bufs[class], buf, sizeof(void *)); /* the next one's address is kept in it */
    s->cached -= len;
    return buf;
}

static void buffer_put(struct vd_nbd_server *s, void *buf, size_t len)
{
    unsigned class = class_of(len);
    if (s->cached + len > NBD_CACHE_MAX) {
        free(buf);
        return;
    }
    memcpy(buf, &s->free_bufs[class], sizeof(void *));
    s->free_bufs[class] = buf;
    s->cached += len;
}

static bool may_hold(const struct nbd_conn *c, size_t len)
{
    size_t share = NBD_BUDGET / VD_MAX(c->server->n_conns, 4u);
    if (c->in_flight >= NBD_IN_FLIGHT_MAX)
        return false;
    return len == 0 || c->held == 0 || c->held + len <= VD_MAX(share, NBD_PIECE);
}

int nbd_admit(struct nbd_conn *c, size_t len, struct nbd_req **ret)
{
    struct vd_nbd_server *s = c->server;
    unsigned class = len > 0 ? class_of(len) : 0;
    size_t buf_len = len > 0 ? (size_t)NBD_BUF_MIN << class : 0;

    while (!c->broken && !s->stopping && !may_hold(c, buf_len))
        vd_wait(&c->room_q);
    if (c->broken || s->stopping)
        return -ECANCELED;

    struct vd_list *l = vd_list_pop(&s->free_reqs);
    struct nbd_req *req = l ? vd_container_of(l, struct nbd_req, link) : malloc(sizeof(*req));
    if (!req)
        return -ENOMEM;
    /* Not the reply's bytes: they are written before they are used. */
    memset(req, 0, offsetof(struct nbd_req, head));
    vd_list_init(&req->link);
    if (len > 0) {
        req->buf = buffer_get(s, class);
        if (!req->buf) {
            vd_list_push_front(&s->free_reqs, &req->link);
            return -ENOMEM;
        }
    }
    req->buf_len = buf_len;
    req->conn = c;
    c->in_flight++;
    c->held += buf_len;
    *ret = req;
    return 0;
}

void nbd_release(struct nbd_req *req)
{
    struct nbd_conn *c = req->conn;
    if (req->buf)
        buffer_put(c->server, req->buf, req->buf_len);
    c->held -= req->buf_len;
    c->in_flight--;
    vd_list_push_front(&c->server->free_reqs, &req->link);
    vd_wake_all(&c->room_q);
}

void nbd_buffers_free(struct vd_nbd_server *s)
{
    for (unsigned i = 0; i < NBD_BUF_CLASSES; i++) {
        while (s->free_bufs[i])
            free(buffer_get(s, i));
    }
    for (struct vd_list *l; (l = vd_list_pop(&s->free_reqs));)
        free(vd_container_of(l, struct nbd_req, link));
}
