/* SPDX-License-Identifier: MIT */
/*
 * What imports and exports share: the other end of a transfer, and stopping it.
 *
 * 1. Whatever a transfer may wait for at its other end (a pipe, a control socket, an NBD server)
 *    is known to `transfer_unblock`, for each of them may be silent for ever.
 *
 * Yields.
 */
#include "server/transfer_priv.h"

#include "foreign/remote.h"

#include <sys/stat.h>
#include <unistd.h>

void transfer_free(void *arg)
{
    struct transfer *t = arg;
    transfer_disconnect(t);
    vd_stream_close(t->control);
    json_decref(t->where);
    if (t->fd >= 0)
        close(t->fd);
    free(t);
}

void transfer_progress(void *arg, const struct vd_copy_stats *now)
{
    struct transfer *t = arg;
    t->job->done = t->base + now->done;
}

static void transfer_unblock(void *arg)
{
    struct transfer *t = arg;
    if (t->pipe)
        vd_stream_shutdown(t->pipe);
    if (t->control)
        vd_stream_shutdown(t->control);
    if (t->remote)
        vd_remote_abort(t->remote);
}

void transfer_begin(struct transfer *t, struct vd_job *job)
{
    t->job = job;
    job->unblock = transfer_unblock;
}

int transfer_pipe_open(struct transfer *t)
{
    int r = vd_stream_new(t->fd, &t->pipe);
    if (r < 0)
        t->pipe = NULL;
    t->fd = r < 0 ? t->fd : -1;
    return r;
}

void transfer_pipe_close(struct transfer *t)
{
    struct vd_stream *s = t->pipe;
    t->pipe = NULL;
    vd_stream_close(s);
}

int transfer_cancelled(struct vd_job *job, struct vd_error *err)
{
    return vd_fail(err, -ECANCELED, "cancelled", "%s was %s", job->kind,
                   job->hold_over ? "interrupted" : "cancelled");
}

/* Whether `fd` is read and written by offset (a file or block device) or as a stream. */
static int fd_kind(int fd, bool *ret_stream, struct vd_error *err)
{
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return request_bad(err, "descriptor");
    if (S_ISDIR(st.st_mode))
        return vd_fail(err, -EISDIR, "is-directory", "that is a directory");
    *ret_stream = !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode);
    return 0;
}

static int control_open(struct transfer *t, struct vd_error *err)
{
    int r = t->fd < 0 ? -EBADF : vd_stream_new(t->fd, &t->control);
    if (r < 0) {
        t->control = NULL;
        return request_bad(err, "descriptor");
    }
    t->fd = -1;
    return 0;
}

static void take_text(struct vd_call *call, const char *key, char *to, size_t len)
{
    const char *text = request_str(call, key);
    if (text && strlen(text) < len)
        memcpy(to, text, strlen(text) + 1);
}

struct transfer *transfer_new(struct vd_call *call, struct vd_error *err)
{
    struct transfer *t = calloc(1, sizeof(*t));
    int r = 0;
    if (!t) {
        vd_fail(err, -ENOMEM, "no-memory", "out of memory");
        return NULL;
    }
    t->fd = request_take_fd(call, 0);
    t->overwrite = request_flag(call, "overwrite");
    t->verify = request_flag(call, "verify");
    t->trust = request_flag(call, "trust");
    take_text(call, "source", t->source, sizeof(t->source));
    t->where = json_incref(json_object_get(call->args, "remote"));
    take_text(call, "format", t->format, sizeof(t->format));
    if (request_flag(call, "foreign"))
        r = control_open(t, err);
    else if (!t->where)
        r = fd_kind(t->fd, &t->stream, err);
    if (r == 0)
        return t;
    transfer_free(t);
    return NULL;
}

int transfer_recv(struct transfer *t, json_t **ret, int *fds, int *nfds, struct vd_error *err)
{
    json_t *frame, *error;
    int r = vd_wire_recv(t->control, VD_WIRE_REQUEST_MAX, &frame, fds, nfds);
    if (r < 0)
        return vd_fail(err, r == -ENODATA ? -ECONNRESET : r, "client-gone",
                       "the process that had the image open has ended");
    error = json_object_get(frame, "error");
    if (!error) {
        *ret = frame;
        return 0;
    }
    r = vd_wire_error_get(error, err);
    json_decref(frame);
    for (int i = 0; fds && i < *nfds; i++)
        close(fds[i]);
    return r < 0 ? r : -EIO;
}

int transfer_connect(struct transfer *t, json_t *remote, const int *fds, int nfds, bool read_only,
                     struct vd_error *err)
{
    struct vd_remote_options opt = {
        .fds = fds,
        .n_fds = nfds,
        .address = json_string_value(json_object_get(remote, "address")),
        .export = json_string_value(json_object_get(remote, "export")),
        .read_only = read_only,
    };
    if (!json_is_object(remote) || (opt.address ? nfds != 0 : nfds == 0)) {
        for (int i = 0; i < nfds; i++)
            close(fds[i]);
        return request_bad(err, "remote");
    }
    int r = vd_remote_new(&opt, &t->remote, err);
    if (r < 0) {
        t->remote = NULL;
        return r;
    }
    t->remote_zero = json_is_true(json_object_get(remote, "zero"));
    if (t->job->cancel) /* before there was anything to be unblocked */
        vd_remote_abort(t->remote);
    return vd_remote_connect(t->remote, err);
}

void transfer_disconnect(struct transfer *t)
{
    struct vd_disk *d = t->remote;
    t->remote = NULL;
    vd_disk_unref(d);
}
