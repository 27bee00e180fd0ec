/* SPDX-License-Identifier: MIT */
/*
 * Jobs, the fibers that run them, and the buffers they need.
 *
 * Invariants:
 *  1. A job has a hold on its node and its open files, so they stay while it runs, also after it
 *     was answered: the kernel may then forget them at once.
 *  2. A job waits in the queue only while FUSE_WORKERS_MAX workers are busy or there is no memory
 *     for another; the first worker is made when the server starts, so it gets its turn.
 *  3. Workers wait on disks and on other writes, never on the kernel's answer to us (stale.c).
 *
 * Jobs are made and pushed by the receiving fiber, which does not yield here.
 */
#include "core/base/text.h"
#include "fuse/fuse_priv.h"

/* ---- buffers ---- */

void *fbuf_get(struct vd_fuse_server *s, size_t len)
{
    void **list = len <= FUSE_SMALL_LEN ? &s->small : &s->large;
    unsigned *n = len <= FUSE_SMALL_LEN ? &s->n_small : &s->n_large;
    void *buf = *list;
    if (!buf)
        return vd_alloc_aligned(len <= FUSE_SMALL_LEN ? FUSE_SMALL_LEN : FUSE_LARGE_LEN);
    memcpy(list, buf, sizeof(void *)); /* the next one's address is kept in it */
    (*n)--;
    return buf;
}

void fbuf_put(struct vd_fuse_server *s, void *buf, size_t len)
{
    bool is_small = len <= FUSE_SMALL_LEN;
    void **list = is_small ? &s->small : &s->large;
    unsigned *n = is_small ? &s->n_small : &s->n_large;
    if (*n >= (is_small ? FUSE_SMALL_KEEP : FUSE_LARGE_KEEP)) {
        free(buf);
        return;
    }
    memcpy(buf, list, sizeof(void *));
    *list = buf;
    (*n)++;
}

void fjob_buf_free(struct fjob *j)
{
    if (j->buf)
        fbuf_put(j->server, j->buf, j->buf_len);
    j->buf = NULL;
}

/* ---- workers ---- */

static void worker_main(void *arg)
{
    struct fworker *w = arg;
    struct vd_fuse_server *s = w->server;
    w->fiber = vd_fiber_current();
    for (;;) {
        if (!w->job) {
            struct vd_list *l = vd_list_pop(&s->work);
            if (l)
                w->job = vd_container_of(l, struct fjob, link);
        }
        if (w->job) {
            w->job->run(w->job);
            w->job = NULL;
            continue;
        }
        if (s->closing && s->in_flight == 0)
            break;
        vd_list_push_front(&s->idle, &w->link);
        vd_fiber_suspend();
    }
    s->n_workers--;
    vd_group_done(&s->fibers);
    free(w);
}

static int worker_spawn(struct vd_fuse_server *s, struct fjob *j)
{
    struct fworker *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->server = s;
    w->job = j;
    vd_list_init(&w->link);
    vd_group_add(&s->fibers);
    int r = vd_fiber_spawn(s->loop, "fuse-worker", worker_main, w);
    if (r < 0) {
        vd_group_done(&s->fibers);
        free(w);
        return r;
    }
    s->n_workers++;
    return 0;
}

int fworkers_start(struct vd_fuse_server *s)
{
    return worker_spawn(s, NULL);
}

void fworkers_stop(struct vd_fuse_server *s)
{
    for (struct vd_list *l; (l = vd_list_pop(&s->idle));)
        vd_fiber_wake(vd_container_of(l, struct fworker, link)->fiber);
}

/* ---- jobs ---- */

struct fjob *fjob_new(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                      void (*run)(struct fjob *j))
{
    struct vd_fuse_server *s = fuse_req_userdata(req);
    struct vd_list *l = vd_list_pop(&s->free_jobs);
    struct fjob *j = l ? vd_container_of(l, struct fjob, link) : malloc(sizeof(*j));
    if (!j) {
        fuse_reply_err(req, ENOMEM);
        return NULL;
    }
    s->n_free_jobs -= l != NULL;
    memset(j, 0, offsetof(struct fjob, name));
    vd_list_init(&j->link);
    j->name[0] = 0;
    j->server = s;
    j->req = req;
    j->run = run;
    j->node = fnode_of(s, ino);
    fnode_ref(j->node);
    if (fi && fi->fh) {
        j->h = (struct fhandle *)(uintptr_t)fi->fh;
        j->h->refs++;
    }
    return j;
}

void fjob_push(struct fjob *j, size_t held)
{
    struct vd_fuse_server *s = j->server;
    j->held = held;
    s->held += held;
    s->in_flight++;
    struct vd_list *l = vd_list_pop(&s->idle);
    if (l) {
        struct fworker *w = vd_container_of(l, struct fworker, link);
        w->job = j;
        vd_fiber_wake(w->fiber);
        return;
    }
    if (s->n_workers < FUSE_WORKERS_MAX && worker_spawn(s, j) == 0)
        return;
    vd_list_push(&s->work, &j->link);
}

void fjob_free(struct fjob *j)
{
    struct vd_fuse_server *s = j->server;
    fjob_buf_free(j);
    if (j->h)
        fhandle_unref(j->h);
    if (j->to)
        fhandle_unref(j->to);
    fnode_unref(j->node);
    s->held -= j->held;
    s->in_flight--;
    vd_wake_all(&s->room_q);
    if (s->n_free_jobs < FUSE_IN_FLIGHT_MAX) {
        vd_list_push_front(&s->free_jobs, &j->link);
        s->n_free_jobs++;
    } else {
        free(j);
    }
}

int fuse_errno(int r)
{
    switch (r) {
    case -EUCLEAN:
    case -EBADMSG:
    case -ECANCELED:
    case -ENODEV:
        return EIO;
    default:
        return -r;
    }
}

void fjob_done(struct fjob *j, int r)
{
    fuse_reply_err(j->req, fuse_errno(r));
    fjob_free(j);
}

void fjobs_free(struct vd_fuse_server *s)
{
    for (struct vd_list *l; (l = vd_list_pop(&s->free_jobs));)
        free(vd_container_of(l, struct fjob, link));
    while (s->small)
        free(fbuf_get(s, 1));
    while (s->large)
        free(fbuf_get(s, FUSE_LARGE_LEN));
    free(s->received);
}
