/* SPDX-License-Identifier: MIT */
/*
 * convert: from one image, device or NBD server to another, without a pool. All of it happens in
 * this process and its children. Yields.
 *
 * 1. A file that was made here is removed again when the command fails.
 */
#include "cli/ends_priv.h"

#include "copy/copy.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRESS_NS UINT64_C(200000000)

struct convert {
    struct cli *cli;
    struct cli_end from, to;
    struct vd_disk *src, *dst; /* what a signal has to end */
    struct vd_image *img;      /* being made */
    uint64_t size, base, total;
    uint64_t told_ns;
};

static struct convert *current; /* for on_signal */

static void on_signal(struct cli *c)
{
    if (current->from.kind != END_RAW && current->src)
        vd_remote_abort(current->src);
    if (current->to.kind != END_RAW && current->dst)
        vd_remote_abort(current->dst);
    if (current->img)
        vd_image_abort(current->img);
}

static void tell(struct convert *v, uint64_t done)
{
    uint64_t now = vd_loop_now_ns(vd_loop_current());
    if (now - v->told_ns < PROGRESS_NS && done < v->total)
        return;
    v->told_ns = now;
    json_t *event = json_pack("{s:s, s:i, s:s, s:I, s:I}", "event", "progress", "job", 0, "kind",
                              "convert", "done", (json_int_t)done, "total", (json_int_t)v->total);
    cli_progress_event(v->cli, event);
    json_decref(event);
}

static void on_progress(void *arg, const struct vd_copy_stats *now)
{
    struct convert *v = arg;
    tell(v, v->base + now->done);
}

static void on_part(void *arg, double part)
{
    struct convert *v = arg;
    tell(v, (uint64_t)(part * (double)v->size));
}

/* Connects to an end that is a server: the user's, or the child that has the image open. */
static int open_remote(struct convert *v, struct cli_end *e, struct vd_image *img, bool read_only,
                       struct vd_disk **ret)
{
    int fds[VD_REMOTE_LINKS];
    struct vd_remote_options opt = {.fds = fds,
                                    .n_fds = img ? vd_image_sockets(img, fds) : 0,
                                    .address = e->uri.address,
                                    .export = img ? VD_IMAGE_EXPORT : e->uri.export,
                                    .read_only = read_only};
    int r = vd_remote_new(&opt, ret, &v->cli->err);
    if (r < 0) {
        *ret = NULL;
        return r;
    }
    if (v->cli->cancelled)
        vd_remote_abort(*ret);
    return vd_remote_connect(*ret, &v->cli->err);
}

static int open_raw(struct convert *v, struct cli_end *e, bool read_only, struct vd_disk **ret)
{
    int r = vd_disk_raw(e->fd, read_only, ret, &v->cli->err);
    if (r == 0)
        e->fd = -1;
    return r;
}

static int open_source(struct convert *v)
{
    struct vd_disk_info info;
    int r = v->from.kind == END_RAW ? open_raw(v, &v->from, true, &v->src)
                                    : open_remote(v, &v->from, v->from.img, true, &v->src);
    if (r < 0)
        return r;
    vd_disk_info(v->src, &info);
    v->size = info.size;
    v->total = cli_flag(v->cli, "verify") ? 2 * v->size : v->size;
    return v->size ? 0 : cli_fail(v->cli, -EINVAL, "source-empty", "the source is empty");
}

/* *ret_zero: it reads as zeroes. */
static int open_target(struct convert *v, bool *ret_zero)
{
    struct cli *c = v->cli;
    struct stat st;
    if (v->to.kind == END_REMOTE)
        return open_remote(v, &v->to, NULL, false, &v->dst);
    *ret_zero = true;
    if (v->to.kind == END_IMAGE) {
        int r = vd_image_create(&v->to.target, v->size, &v->img, &c->err);
        return r < 0 ? r : open_remote(v, &v->to, v->img, false, &v->dst);
    }
    *ret_zero = fstat(v->to.fd, &st) == 0 && S_ISREG(st.st_mode);
    if (*ret_zero && (ftruncate(v->to.fd, 0) < 0 || ftruncate(v->to.fd, (off_t)v->size) < 0))
        return cli_fail(c, -errno, "copy-write", "cannot set the size of %s: %s", v->to.text,
                        strerror(errno));
    return open_raw(v, &v->to, false, &v->dst);
}

static int verify(struct convert *v)
{
    struct vd_copy_options opt = {.progress = on_progress, .arg = v, .cancel = &v->cli->cancelled};
    v->base = v->size;
    return vd_copy_verify(v->src, v->dst, &opt, NULL, NULL, &v->cli->err);
}

static int copy(struct convert *v)
{
    struct vd_copy_options opt = {.progress = on_progress, .arg = v, .cancel = &v->cli->cancelled};
    struct vd_disk_info info;
    bool zero = false;
    int r = open_source(v);
    if (r == 0)
        r = open_target(v, &zero);
    if (r < 0)
        return r;
    vd_disk_info(v->dst, &info);
    if (info.size < v->size)
        return cli_fail(v->cli, -ENOSPC, "target-too-small",
                        "the target has %" PRIu64 " bytes, %" PRIu64 " are needed", info.size,
                        v->size);
    opt.flags = zero ? VD_COPY_TARGET_ZERO : 0;
    r = vd_copy_disk(v->src, v->dst, &opt, NULL, &v->cli->err);
    return r == 0 && cli_flag(v->cli, "verify") ? verify(v) : r;
}

/* A socket to a server of the source: for a program that reads it by itself. */
static int source_socket(struct convert *v, const char **ret_export)
{
    struct cli *c = v->cli;
    int fds[VD_REMOTE_LINKS];
    *ret_export = v->from.kind == END_REMOTE ? v->from.uri.export : VD_IMAGE_EXPORT;
    if (v->from.kind == END_REMOTE) {
        struct vd_stream *s;
        int r = vd_connect(v->from.uri.address, &s, &c->err);
        if (r < 0)
            return r;
        int fd = fcntl(vd_stream_fd(s), F_DUPFD_CLOEXEC, 3);
        vd_stream_close(s);
        return fd < 0 ? cli_fail(c, -errno, "no-descriptors", "too many open files") : fd;
    }
    /* A raw file is opened by a child as well; this one only wants sockets. */
    int r =
        v->from.img ? 0 : vd_image_open(v->from.text, VD_FORMAT_RAW, false, &v->from.img, &c->err);
    if (r < 0)
        return r;
    int n = vd_image_sockets(v->from.img, fds);
    for (int i = 1; i < n; i++)
        close(fds[i]);
    v->size = vd_image_size(v->from.img);
    v->total = v->size;
    return fds[0];
}

static int convert_sequential(struct convert *v)
{
    struct cli *c = v->cli;
    const char *export;
    int r = vd_image_create(&v->to.target, 0, &v->img, &c->err);
    if (r < 0)
        return r;
    int fd = source_socket(v, &export);
    if (fd < 0)
        return fd;
    return vd_image_fill(v->img, fd, export, on_part, v, &c->err);
}

/* The image that is complete is compared with the source, opened again. */
static int verify_sequential(struct convert *v)
{
    struct cli *c = v->cli;
    int r = 0;
    if (v->from.kind == END_IMAGE) {
        vd_image_free(v->from.img);
        v->from.img = NULL;
        r = vd_image_open(v->from.text, v->from.format, cli_flag(c, "trust-source"), &v->from.img,
                          &c->err);
    }
    if (r == 0)
        r = open_source(v);
    if (r == 0)
        r = vd_image_reopen(v->img, &c->err);
    if (r == 0)
        r = open_remote(v, &v->to, v->img, true, &v->dst);
    return r < 0 ? r : verify(v);
}

static int run(struct convert *v)
{
    struct cli *c = v->cli;
    bool sequential = v->to.kind == END_IMAGE && vd_image_is_sequential(&v->to.target);
    int r = sequential ? convert_sequential(v) : copy(v);
    if (r == 0 && sequential && cli_flag(c, "verify"))
        r = verify_sequential(v);
    if (r < 0 && !c->cancelled) {
        if (v->img)
            vd_image_explain(v->img, &c->err);
        if (v->from.img)
            vd_image_explain(v->from.img, &c->err);
    }
    vd_disk_unref(v->src);
    vd_disk_unref(v->dst);
    v->src = v->dst = NULL;
    if (r == 0 && v->img)
        r = vd_image_commit(v->img, &c->err);
    vd_image_free(v->img);
    v->img = NULL;
    if (c->cancelled && r < 0)
        r = cli_fail(c, -ECANCELED, "cancelled", "convert was cancelled");
    return r;
}

int cli_convert(struct cli *c)
{
    struct convert v = {.cli = c};
    if (!strcmp(c->args[0], "-") || !strcmp(c->args[1], "-"))
        return cli_fail(c, -EINVAL, "usage",
                        "convert works on files, devices and NBD servers, not on pipes");
    int r = cli_source_open(c, c->args[0], "source-format", &v.from);
    if (r < 0)
        return r;
    c->target = c->args[1];
    r = cli_dest_open(c, c->args[1], &v.to);
    if (r == 0) {
        c->target = c->args[0];
        current = &v;
        c->on_signal = on_signal;
        r = run(&v);
        c->on_signal = NULL;
        if (r < 0 && v.to.made)
            unlink(v.to.text);
        cli_end_done(&v.to);
    }
    cli_end_done(&v.from);
    if (r == 0 && c->json)
        cli_json(c, json_pack("{s:I}", "bytes", (json_int_t)v.size));
    return r;
}
