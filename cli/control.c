/* SPDX-License-Identifier: MIT */
/*
 * The side of the process that has a foreign image open: it gives the job its sockets, or makes the
 * image as the job asks for it, on a fiber beside the call that waits for the job.
 *
 * 1. An image gets its name only after the job has said that all is copied, and the job is done
 *    only after it has been told that the image is complete.
 *
 * Yields.
 */
#include "cli/ends_priv.h"

#include "server/wire.h"

#include <sys/socket.h>
#include <unistd.h>

int cli_control_new(struct cli *c, struct cli_control *ret)
{
    int fds[2];
    *ret = (struct cli_control){.cli = c, .theirs = -1};
    vd_group_init(&ret->fiber);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return cli_fail(c, -errno, "no-socket", "cannot make a socket: %s", strerror(errno));
    int r = vd_stream_new(fds[0], &ret->ours);
    if (r < 0) {
        close(fds[0]);
        close(fds[1]);
        return cli_fail(c, r, "no-memory", "out of memory");
    }
    ret->theirs = fds[1];
    return 0;
}

/* Sends a frame, taken over, with sockets, which are closed here in any case. */
static int send_sockets(struct cli_control *k, json_t *frame, const int *fds, int n)
{
    int r = vd_wire_send(k->ours, frame, fds, n);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    return r;
}

static int send_image(struct cli_control *k, struct vd_image *img, json_t *frame)
{
    int fds[VD_REMOTE_LINKS];
    int n = vd_image_sockets(img, fds);
    return send_sockets(k, frame, fds, n);
}

int cli_control_offer(struct cli_control *k, struct cli_end *source)
{
    int r = send_image(k, source->img, json_pack("{s:{s:s}}", "remote", "export", VD_IMAGE_EXPORT));
    return r < 0 ? cli_fail(k->cli, r, "no-socket", "cannot hand over the image: %s", strerror(-r))
                 : 0;
}

/* --- making an image --- */

static int recv_frame(struct cli_control *k, json_t **ret)
{
    int r = vd_wire_recv(k->ours, VD_WIRE_REQUEST_MAX, ret, NULL, NULL);
    return r < 0 ? vd_fail(&k->err, -ECANCELED, "client-gone", "the job has ended") : 0;
}

static int send_failed(struct cli_control *k, int r)
{
    return r < 0 ? vd_fail(&k->err, -ECANCELED, "client-gone", "the job has ended") : 0;
}

static void on_part(void *arg, double part)
{
    struct cli_control *k = arg;
    (void)vd_wire_send(k->ours, json_pack("{s:f}", "part", part), NULL, 0);
}

/* The job serves the source to a program that writes the image. */
static int make_sequential(struct cli_control *k, const char *name)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return vd_fail(&k->err, -errno, "no-socket", "cannot make a socket: %s", strerror(errno));
    int r = send_failed(k, send_sockets(k, json_pack("{s:b}", "feed", 1), fds, 1));
    if (r < 0)
        close(fds[1]);
    else
        r = vd_image_fill(k->img, fds[1], name, on_part, k, &k->err);
    if (r == 0 && k->verify)
        r = vd_image_reopen(k->img, &k->err);
    if (r == 0)
        r = send_failed(k, send_image(k, k->img, json_pack("{s:b}", "written", 1)));
    return r;
}

static int make(struct cli_control *k, json_t *source)
{
    const struct vd_image_target *t = &k->end->target;
    json_t *frame;
    k->size = (uint64_t)get_int(source, "size");
    int r = vd_image_create(t, k->size, &k->img, &k->err);
    if (r < 0) {
        k->img = NULL;
        return r;
    }
    if (vd_image_is_sequential(t))
        r = make_sequential(k, get_str(source, "export"));
    else
        r = send_failed(k, send_image(k, k->img,
                                      json_pack("{s:{s:s, s:b}}", "remote", "export",
                                                VD_IMAGE_EXPORT, "zero", 1)));
    if (r == 0)
        r = recv_frame(k, &frame);
    if (r < 0)
        return r;
    json_decref(frame); /* "copied": there is nothing else to be said */
    return vd_image_commit(k->img, &k->err);
}

static void make_fiber(void *arg)
{
    struct cli_control *k = arg;
    json_t *frame;
    int r = recv_frame(k, &frame);
    if (r == 0) {
        r = make(k, json_object_get(frame, "source"));
        json_decref(frame);
        json_t *answer = r < 0 ? json_pack("{s:o}", "error", vd_wire_error(&k->err))
                               : json_pack("{s:b}", "done", 1);
        (void)vd_wire_send(k->ours, answer, NULL, 0);
    }
    vd_group_done(&k->fiber);
}

int cli_control_make(struct cli_control *k, const struct cli_end *dest, bool verify)
{
    k->end = dest;
    k->verify = verify;
    vd_group_add(&k->fiber);
    int r = vd_fiber_spawn(vd_loop_current(), "image", make_fiber, k);
    if (r < 0) {
        vd_group_done(&k->fiber);
        return cli_fail(k->cli, r, "no-memory", "out of memory");
    }
    return 0;
}

/* --- the end --- */

static struct cli_control *waiting;

static void on_signal(struct cli *c)
{
    vd_stream_shutdown(waiting->ours);
}

/* A detached job goes on: it closes its end when it has ended. */
static void wait_for_job(struct cli_control *k)
{
    json_t *frame;
    waiting = k;
    k->cli->on_signal = on_signal;
    if (!k->end)
        while (vd_wire_recv(k->ours, VD_WIRE_REQUEST_MAX, &frame, NULL, NULL) == 0)
            json_decref(frame);
    vd_group_wait(&k->fiber);
    k->cli->on_signal = NULL;
}

int cli_control_end(struct cli_control *k, int r)
{
    struct cli *c = k->cli;
    if (k->theirs >= 0)
        close(k->theirs);
    if (r < 0 && k->img)
        vd_image_abort(k->img);
    if (r < 0 && k->ours)
        vd_stream_shutdown(k->ours);
    if (r == 0 && k->ours && cli_flag(c, "detach"))
        wait_for_job(k);
    vd_group_wait(&k->fiber);
    if (r == 0 && k->err.code < 0) { /* a detached job's: nobody is told, but the status is right */
        c->err = k->err;
        r = k->err.code;
    }
    vd_image_free(k->img);
    vd_stream_close(k->ours);
    k->ours = NULL;
    k->img = NULL;
    return r;
}
