/* SPDX-License-Identifier: MIT */
/*
 * The fibers that run requests, shared by all connections. They wait on disks and never on a
 * client. The one that became idle last is used first: its stack is still in the cache.
 *
 * Invariant: a request waits in the queue only while NBD_WORKERS_MAX workers are busy, or there is
 * no memory for another one; the first worker is made when the server starts, so it gets its turn.
 */
#include "nbd/nbd_priv.h"

#include <stdlib.h>

static void worker_main(void *arg)
{
    struct nbd_worker *w = arg;
    struct vd_nbd_server *s = w->server;
    w->fiber = vd_fiber_current();
    for (;;) {
        if (!w->req) {
            struct vd_list *l = vd_list_pop(&s->work);
            if (l)
                w->req = vd_container_of(l, struct nbd_req, link);
        }
        if (w->req) {
            nbd_request_run(w->req);
            w->req = NULL;
            continue;
        }
        if (s->stopping && s->n_conns == 0)
            break;
        vd_list_push_front(&s->idle, &w->link);
        vd_fiber_suspend();
    }
    s->n_workers--;
    vd_group_done(&s->fibers);
    free(w);
}

static int worker_spawn(struct vd_nbd_server *s, struct nbd_req *req)
{
    struct nbd_worker *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->server = s;
    w->req = req;
    vd_list_init(&w->link);
    vd_group_add(&s->fibers);
    int r = vd_fiber_spawn(s->loop, "nbd-worker", worker_main, w);
    if (r < 0) {
        vd_group_done(&s->fibers);
        free(w);
        return r;
    }
    s->n_workers++;
    return 0;
}

int nbd_workers_start(struct vd_nbd_server *s)
{
    return worker_spawn(s, NULL);
}

void nbd_work_push(struct vd_nbd_server *s, struct nbd_req *req)
{
    struct vd_list *l = vd_list_pop(&s->idle);
    if (l) {
        struct nbd_worker *w = vd_container_of(l, struct nbd_worker, link);
        w->req = req;
        vd_fiber_wake(w->fiber);
        return;
    }
    if (s->n_workers < NBD_WORKERS_MAX && worker_spawn(s, req) == 0)
        return;
    vd_list_push(&s->work, &req->link);
}

void nbd_workers_stop(struct vd_nbd_server *s)
{
    for (struct vd_list *l; (l = vd_list_pop(&s->idle));)
        vd_fiber_wake(vd_container_of(l, struct nbd_worker, link)->fiber);
}
