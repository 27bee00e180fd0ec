/* SPDX-License-Identifier: MIT */
/*
 * A part of a disk as a disk: lets a long copy go in steps, each durable and recorded before the
 * next. Passes everything on with the offset added; yields as the disk below does.
 */
#include "server/window_priv.h"

#include <stdlib.h>

struct window {
    struct vd_disk disk;
    struct vd_disk *below;
    uint64_t off, len;
};

static struct window *window_of(struct vd_disk *d)
{
    return vd_container_of(d, struct window, disk);
}

static int window_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len)
{
    struct window *w = window_of(d);
    return vd_disk_readv(w->below, w->off + off, iov, n, 0);
}

static int window_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n,
                         size_t len, unsigned flags)
{
    struct window *w = window_of(d);
    return vd_disk_writev(w->below, w->off + off, iov, n, flags);
}

static int window_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    struct window *w = window_of(d);
    return vd_disk_zero(w->below, w->off + off, len, flags);
}

static int window_discard(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    struct window *w = window_of(d);
    return vd_disk_discard(w->below, w->off + off, len, flags);
}

static int window_flush(struct vd_disk *d)
{
    return vd_disk_flush(window_of(d)->below);
}

static int window_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret,
                          int *n)
{
    struct window *w = window_of(d);
    int r = vd_disk_extents(w->below, w->off + off, len, ret, n);
    for (int i = 0; r == 0 && i < *n; i++)
        ret[i].off -= w->off;
    return r;
}

static void window_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    struct window *w = window_of(d);
    vd_disk_info(w->below, ret);
    ret->size = w->len;
}

static void window_close(struct vd_disk *d)
{
    struct window *w = window_of(d);
    vd_disk_unref(w->below);
    free(w);
}

static const struct vd_disk_ops window_ops = {
    .readv = window_readv,
    .writev = window_writev,
    .zero = window_zero,
    .discard = window_discard,
    .flush = window_flush,
    .extents = window_extents,
    .info = window_info,
    .close = window_close,
};

struct vd_disk *window_new(struct vd_disk *d, uint64_t off, uint64_t len)
{
    struct window *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    vd_disk_init(&w->disk, &window_ops);
    w->below = d;
    w->off = off;
    w->len = len;
    vd_disk_ref(d);
    return &w->disk;
}
