/* SPDX-License-Identifier: MIT */
/*
 * The fibers that run requests, a set for each connection, made as they are needed. They wait on
 * the disk and never on a client. The one that became idle last is used first: its stack is still
 * in the cache.
 *
 * Invariant: there are never more than VHOST_IN_FLIGHT_MAX, for nothing more is fetched; a request
 * waits in the queue only while there is no memory for another worker, behind one that lives.
 */
#include "vhost/vhost_priv.h"

#include <stdlib.h>

static void worker_main(void *arg)
{
    struct vhost_worker *w = arg;
    struct vhost_conn *c = w->conn;
    w->fiber = vd_fiber_current();
    for (;;) {
        if (!w->req) {
            struct vd_list *l = vd_list_pop(&c->work);
            if (l)
                w->req = vd_container_of(l, struct vhost_req, link);
        }
        if (w->req) {
            request_run(w->req);
            w->req = NULL;
            continue;
        }
        if (c->ending)
            break;
        vd_list_push_front(&c->idle, &w->link);
        vd_fiber_suspend();
    }
    c->n_workers--;
    free(w);
    vd_wake_all(&c->drain_q);
}

static int worker_spawn(struct vhost_conn *c, struct vhost_req *req)
{
    struct vhost_worker *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->conn = c;
    w->req = req;
    vd_list_init(&w->link);
    int r = vd_fiber_spawn(c->server->loop, "vhost-worker", worker_main, w);
    if (r < 0) {
        free(w);
        return r;
    }
    c->n_workers++;
    return 0;
}

int work_push(struct vhost_conn *c, struct vhost_req *req)
{
    struct vd_list *l = vd_list_pop(&c->idle);
    if (l) {
        struct vhost_worker *w = vd_container_of(l, struct vhost_worker, link);
        w->req = req;
        vd_fiber_wake(w->fiber);
        return 0;
    }
    int r = worker_spawn(c, req);
    if (r < 0 && c->n_workers > 0) {
        vd_list_push(&c->work, &req->link);
        r = 0;
    }
    return r;
}

void workers_stop(struct vhost_conn *c)
{
    for (struct vd_list *l; (l = vd_list_pop(&c->idle));)
        vd_fiber_wake(vd_container_of(l, struct vhost_worker, link)->fiber);
}
