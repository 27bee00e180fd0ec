/* SPDX-License-Identifier: MIT */
/*
 * Exports, as jobs: to a file or pipe that the client has opened, to an NBD server, or into a
 * foreign image that the client makes (transfer_priv.h has the frames).
 *
 * 1. A live volume that guests may write is exported from a snapshot made for that.
 * 2. A foreign image is complete when its client says so; only then is the job done.
 *
 * Yields.
 */
#include "nbd/nbd.h"
#include "server/transfer_priv.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* One export under way. */
struct outlet {
    struct transfer *t;
    struct vd_disk *src;
    struct vd_target from;
    struct vd_copy_options opt;
};

static int export_to_stream(struct outlet *x, struct vd_error *err)
{
    int r = transfer_pipe_open(x->t);
    if (r < 0)
        return vd_fail(err, r, "copy-write", "cannot write to the pipe: %s", strerror(-r));
    r = vd_copy_to_stream(x->src, x->t->pipe, &x->opt, NULL, err);
    transfer_pipe_close(x->t);
    return r;
}

/* Reads both again. */
static int export_verify(struct outlet *x, struct vd_disk *dst, struct vd_error *err)
{
    x->t->base = x->t->total;
    return vd_copy_verify(x->src, dst, &x->opt, NULL, NULL, err);
}

static int export_to_disk(struct outlet *x, struct vd_disk *dst, struct vd_error *err)
{
    struct vd_disk_info info;
    vd_disk_info(dst, &info);
    if (info.size < x->t->total)
        return vd_fail(err, -ENOSPC, "target-too-small",
                       "the target has %" PRIu64 " bytes, %" PRIu64 " are needed", info.size,
                       x->t->total);
    int r = vd_copy_disk(x->src, dst, &x->opt, NULL, err);
    if (r == 0 && x->t->verify)
        r = export_verify(x, dst, err);
    return r;
}

static int export_to_file(struct outlet *x, struct vd_error *err)
{
    struct transfer *t = x->t;
    struct stat st;
    struct vd_disk *dst;
    if (fstat(t->fd, &st) < 0)
        return vd_fail(err, -errno, "copy-write", "cannot look at the target: %s", strerror(errno));
    if (S_ISREG(st.st_mode)) {
        if (ftruncate(t->fd, 0) < 0 || ftruncate(t->fd, (off_t)t->total) < 0)
            return vd_fail(err, -errno, "copy-write", "cannot set the file's size: %s",
                           strerror(errno));
        x->opt.flags |= VD_COPY_TARGET_ZERO;
    }
    int r = vd_disk_raw(t->fd, false, &dst, err);
    t->fd = -1;
    if (r < 0)
        return r;
    r = export_to_disk(x, dst, err);
    vd_disk_unref(dst);
    return r;
}

/* --- to an NBD server --- */

static int export_to_remote(struct outlet *x, json_t *remote, const int *fds, int nfds,
                            struct vd_error *err)
{
    struct transfer *t = x->t;
    int r = transfer_connect(t, remote, fds, nfds, false, err);
    if (r == 0 && t->remote_zero)
        x->opt.flags |= VD_COPY_TARGET_ZERO;
    if (r == 0)
        r = export_to_disk(x, t->remote, err);
    transfer_disconnect(t);
    return r;
}

/* --- into a foreign image --- */

/* Takes frames until the client has written it; sockets to verify it go to fds. */
static int feed_wait(struct outlet *x, int *fds, int *nfds, struct vd_error *err)
{
    struct transfer *t = x->t;
    for (;;) {
        json_t *frame;
        int r = transfer_recv(t, &frame, fds, nfds, err);
        if (r < 0)
            return r;
        double part = json_number_value(json_object_get(frame, "part"));
        bool written = json_is_true(json_object_get(frame, "written"));
        json_decref(frame);
        if (written)
            return 0;
        for (int i = 0; i < *nfds; i++)
            close(fds[i]);
        if (part > 0 && part <= 1)
            t->job->done = (uint64_t)(part * (double)t->total);
    }
}

/* Lets the client read the source through `fd`, which is taken over. */
static int export_feed(struct outlet *x, int fd, struct vd_error *err)
{
    struct transfer *t = x->t;
    struct vd_nbd_server *server;
    int fds[VD_WIRE_FDS], nfds = 0;
    int r = vd_nbd_start(t->job->owner->loop, t->job->owner->store, NULL, VD_NBD_READ_ONLY, NULL,
                         &server, err);
    if (r < 0) {
        close(fd);
        return r;
    }
    r = vd_nbd_attach(server, fd);
    if (r < 0)
        vd_fail(err, r, "no-memory", "cannot serve the source: %s", strerror(-r));
    else
        r = feed_wait(x, fds, &nfds, err);
    if (r < 0)
        (void)vd_nbd_drop(server, NULL);
    vd_nbd_stop(server);
    if (r < 0 || !nfds)
        return r;
    json_t *remote = json_pack("{s:s}", "export", "disk");
    r = transfer_connect(t, remote, fds, nfds, true, err);
    json_decref(remote);
    if (r == 0)
        r = export_verify(x, t->remote, err);
    transfer_disconnect(t);
    return r;
}

static int export_foreign(struct outlet *x, struct vd_error *err)
{
    struct transfer *t = x->t;
    char name[TARGET_TEXT];
    int fds[VD_WIRE_FDS], nfds = 0;
    json_t *frame;
    snprintf(name, sizeof(name), "%s%s%s", x->from.volume, x->from.snapshot ? "@" : "",
             x->from.snapshot ? x->from.snapshot : "");
    int r = vd_wire_send(
        t->control,
        json_pack("{s:{s:s, s:I}}", "source", "export", name, "size", (json_int_t)t->total), NULL,
        0);
    if (r == 0)
        r = transfer_recv(t, &frame, fds, &nfds, err);
    else
        vd_fail(err, r, "client-gone", "the process that makes the image has ended");
    if (r < 0)
        return r;
    if (json_is_true(json_object_get(frame, "feed")) && nfds == 1)
        r = export_feed(x, fds[0], err);
    else
        r = export_to_remote(x, json_object_get(frame, "remote"), fds, nfds, err);
    json_decref(frame);
    if (r < 0)
        return r;
    r = vd_wire_send(t->control, json_pack("{s:b}", "copied", 1), NULL, 0);
    if (r == 0)
        r = transfer_recv(t, &frame, NULL, NULL, err);
    else
        vd_fail(err, r, "client-gone", "the process that makes the image has ended");
    if (r == 0)
        json_decref(frame);
    return r;
}

static int export_run(struct transfer *t, struct vd_target from, struct vd_error *err)
{
    struct outlet x = {
        .t = t,
        .from = from,
        .opt = {.progress = transfer_progress, .arg = t, .cancel = &t->job->cancel},
    };
    struct vd_disk_info info;
    int r = vd_store_open(t->job->owner->store, from, true, &x.src, err);
    if (r < 0)
        return r;
    vd_disk_info(x.src, &info);
    t->total = info.size;
    t->job->total = t->verify ? 2 * t->total : t->total;
    if (t->control)
        r = export_foreign(&x, err);
    else if (t->where)
        r = export_to_remote(&x, t->where, NULL, 0, err);
    else
        r = t->stream ? export_to_stream(&x, err) : export_to_file(&x, err);
    vd_disk_unref(x.src);
    return r;
}

static int export_job(struct vd_job *job, void *arg, json_t **ret, struct vd_error *err)
{
    struct transfer *t = arg;
    struct vd_owner *o = job->owner;
    struct vd_target from = t->target.t;
    transfer_begin(t, job);
    /* Read-only owners have no writers; everybody else may get one at any moment. */
    bool snapshot = !from.snapshot && !o->read_only;
    int r = 0;
    if (snapshot) {
        snprintf(t->temp, sizeof(t->temp), "export-%u-%" PRIx64, job->id, vd_loop_wall_s(o->loop));
        from.snapshot = t->temp;
        r = vd_store_snapshot_create(o->store, &from, 1, err);
        if (r < 0)
            return r;
    }
    r = export_run(t, from, err);
    if (snapshot)
        (void)vd_store_snapshot_delete(o->store, &from, 1, NULL);
    if (r < 0 && job->cancel)
        return transfer_cancelled(job, err);
    if (r < 0)
        return r;
    job->done = job->total;
    *ret = json_pack("{s:s, s:I}", "volume", t->target.volume, "bytes", (json_int_t)t->total);
    return 0;
}

/* {"volume"?, "snapshot"?, "verify"?, "detach"} and the descriptor; or "remote": {"address",
 * "export"}; or "foreign": true and a control socket */
int request_export(struct vd_call *call, json_t **ret, struct vd_error *err)
{
    char text[TARGET_TEXT];
    struct transfer *t = transfer_new(call, err);
    if (!t)
        return err ? err->code : -EINVAL;
    int r = request_own_target(call, TARGET_EITHER, &t->target, err);
    if (r == 0 && t->stream && t->verify)
        r = vd_fail(err, -EINVAL, "usage", "what goes into a pipe cannot be verified");
    if (r < 0) {
        transfer_free(t);
        return r;
    }
    return vd_job_call(call, "export", request_target_text(&t->target, text, sizeof(text)),
                       export_job, t, transfer_free, ret, err);
}
