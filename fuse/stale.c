/* SPDX-License-Identifier: MIT */
/*
 * Telling the kernel what it holds that is no longer true.
 *
 * The kernel may have to write pages back to us before it can drop them, and waits for requests of
 * those pages that are under way: so it is told on another thread, while loop and workers go on.
 * A job whose answer has to wait for this is parked here and holds no worker; were workers to wait,
 * all of them could, and nobody would be left to take what is written back.
 */
#include "fuse/fuse_priv.h"

struct fstale {
    struct vd_list link;
    struct vd_fuse_server *server;
    struct fnode *node;
    uint64_t off, len;
    struct fjob *job;
    size_t count;
};

/* A batch, on a thread of its own. */
static int tell(void *arg)
{
    struct vd_list *batch = arg;
    vd_list_each (l, batch) {
        const struct fstale *st = vd_container_of(l, struct fstale, link);
        /* -ENOENT: the kernel does not know the node any more. All the better. */
        fuse_lowlevel_notify_inval_inode(st->server->session, fnode_id(st->node), (off_t)st->off,
                                         (off_t)st->len);
    }
    return 0;
}

static void finish(struct fstale *st)
{
    struct fjob *j = st->job;
    if (j && st->count > 0) {
        fuse_reply_write(j->req, st->count);
        fjob_free(j);
    } else if (j) {
        fjob_done(j, 0);
    }
    fnode_unref(st->node);
    st->server->n_stale--;
    free(st);
}

static void stale_main(void *arg)
{
    struct vd_fuse_server *s = arg;
    for (;;) {
        struct vd_list batch;
        vd_list_init(&batch);
        vd_list_push_all(&batch, &s->stale);
        if (vd_list_empty(&batch)) {
            if (s->closing)
                break;
            vd_wait(&s->stale_q);
            continue;
        }
        fthread_run(tell, &batch);
        for (struct vd_list *l; (l = vd_list_pop(&batch));)
            finish(vd_container_of(l, struct fstale, link));
        vd_wake_all(&s->room_q);
    }
    vd_group_done(&s->fibers);
}

int fstale_start(struct vd_fuse_server *s)
{
    vd_group_add(&s->fibers);
    int r = vd_fiber_spawn(s->loop, "fuse-stale", stale_main, s);
    if (r < 0)
        vd_group_done(&s->fibers);
    return r;
}

void fstale_push(struct fnode *n, struct vd_fuse_server *s, uint64_t off, uint64_t len,
                 struct fjob *j, size_t count)
{
    struct fstale *st = s->closing || s->ended ? NULL : malloc(sizeof(*st));
    if (!st) {
        /* Closing: nobody reads those pages any more. No memory: the write is done all the same. */
        if (j && count > 0) {
            fuse_reply_write(j->req, count);
            fjob_free(j);
        } else if (j) {
            fjob_done(j, 0);
        }
        return;
    }
    *st = (struct fstale){.server = s, .node = n, .off = off, .len = len, .job = j, .count = count};
    fnode_ref(n);
    s->n_stale++;
    vd_list_push(&s->stale, &st->link);
    vd_wake_all(&s->stale_q);
}

void fstale_disk(struct fdisk *d)
{
    struct fkey key = {.kind = F_DISK, .volume = d->volume, .snapshot = d->snapshot};
    struct fnode *n = fnode_find(d->server, &key);
    if (n)
        fstale_push(n, d->server, 0, 0, NULL, 0);
}

void fstale_stop(struct vd_fuse_server *s)
{
    s->closing = true;
    vd_wake_all(&s->stale_q);
    while (s->n_stale > 0)
        vd_wait(&s->room_q);
}
