/* SPDX-License-Identifier: MIT */
/*
 * Open files: reading, writing, making durable. A partition is a window on its disk.
 *
 * Invariants:
 *  1. disk.raw goes through the kernel's page cache unless its opener asked for O_DIRECT. A
 *     partition never does, for what is written there is part of disk.raw too, and the other way
 *     round: one of the two has to be without pages.
 *  2. Before a write to a partition is answered, the kernel has dropped what it held of it in
 *     disk.raw.
 *  3. The kernel keeps its pages from one open to the next only if we had the disk open all the
 *     time, and so would have heard of changes, or it is a snapshot.
 *
 * Jobs of workers.
 */
#include "fuse/fuse_priv.h"

#include <fcntl.h>
#include <linux/fuse.h>

uint64_t fhandle_size(const struct fhandle *h)
{
    uint64_t size = fdisk_size(h->disk);
    if (h->len == 0)
        return size;
    /* The disk may have shrunk. */
    return h->start < size ? VD_MIN(h->len, size - h->start) : 0;
}

uint64_t fhandle_clip(const struct fhandle *h, uint64_t off, uint64_t *len)
{
    uint64_t size = fhandle_size(h);
    *len = off < size ? VD_MIN(*len, size - off) : 0;
    return h->start + off;
}

void fhandle_unref(struct fhandle *h)
{
    if (--h->refs > 0)
        return;
    struct fdisk *d = h->disk;
    vd_list_remove(&h->link);
    fnode_unref(h->node);
    free(h);
    fdisk_close(d);
}

void fhandles_free(struct vd_fuse_server *s)
{
    while (!vd_list_empty(&s->handles)) {
        struct fhandle *h = vd_container_of(s->handles.next, struct fhandle, link);
        assert(h->refs == 1);
        fhandle_unref(h);
    }
}

/* libfuse's own reply does not know of parallel direct writes. */
static int reply_open(struct fjob *j, struct fhandle *h, bool direct, bool keep)
{
    struct fuse_open_out out = {.fh = (uintptr_t)h};
    if (direct)
        out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    else if (keep)
        out.open_flags = FOPEN_KEEP_CACHE;
    return fuse_reply_buf(j->req, (const char *)&out, sizeof(out));
}

void ffile_open(struct fjob *j)
{
    struct vd_fuse_server *s = j->server;
    const struct fuse_ctx *ctx = fuse_req_ctx(j->req);
    struct fnode *n = j->node;
    bool writable = (j->flags & O_ACCMODE) != O_RDONLY;
    bool direct = n->key.kind == F_PART || (j->flags & O_DIRECT);
    if (writable && (n->snapshot[0] || (s->flags & VD_FUSE_READ_ONLY))) {
        fjob_done(j, -EROFS);
        return;
    }
    struct fhandle *h = calloc(1, sizeof(*h));
    if (!h) {
        fjob_done(j, -ENOMEM);
        return;
    }
    bool keep = n->snapshot[0] || fdisk_is_open(s, n);
    int r = fdisk_open(s, n, writable, ctx->pid, ctx->uid, &h->disk);
    if (r < 0) {
        free(h);
        fjob_done(j, r);
        return;
    }
    h->refs = 1;
    vd_list_push(&s->handles, &h->link);
    h->node = n;
    fnode_ref(n);
    if (n->key.kind == F_PART) {
        h->start = n->start;
        h->len = n->len;
    }
    n->cached |= !direct;
    if (reply_open(j, h, direct, keep) < 0)
        fhandle_unref(h); /* the opener is gone: nothing will release it */
    fjob_free(j);
}

void ffile_release(struct fjob *j)
{
    fuse_reply_err(j->req, 0);
    fhandle_unref(j->h); /* the kernel's hold; the job's goes with the job */
    fjob_free(j);
}

void ffile_read(struct fjob *j)
{
    struct fdisk *d = j->h->disk;
    uint64_t len = VD_MIN(j->len, FUSE_DATA_MAX);
    uint64_t off = fhandle_clip(j->h, j->off, &len);
    j->buf_len = len > 0 ? len : 1;
    j->buf = fbuf_get(j->server, j->buf_len);
    int r = j->buf ? fdisk_enter(d) : -ENOMEM;
    if (r == 0) {
        r = len > 0 ? fdisk_read(d, off, j->buf, len) : 0;
        fdisk_leave(d);
    }
    if (r < 0) {
        fjob_done(j, r);
        return;
    }
    fuse_reply_buf(j->req, j->buf, len);
    fjob_free(j);
}

void ffile_changed(struct fjob *j, const struct fhandle *h, uint64_t off, uint64_t len, int r,
                   size_t count)
{
    struct fnode *n = h->node;
    struct fkey key = n->key;
    clock_gettime(CLOCK_REALTIME, &n->mtime);
    n->usage_ns = 0;
    if (key.kind == F_PART) {
        key.kind = F_DISK;
        key.part = 0;
        struct fnode *whole = fnode_find(j->server, &key);
        if (whole) {
            whole->mtime = n->mtime;
            whole->usage_ns = 0;
        }
        if (whole && whole->cached && len > 0) {
            fjob_buf_free(j);
            fstale_push(whole, j->server, h->start + off, len, j, r < 0 ? (size_t)0 : count);
            return;
        }
    }
    if (r < 0 || count == 0) {
        fjob_done(j, r);
        return;
    }
    fuse_reply_write(j->req, count);
    fjob_free(j);
}

void ffile_write(struct fjob *j)
{
    struct fdisk *d = j->h->disk;
    uint64_t len = j->len;
    uint64_t off = fhandle_clip(j->h, j->off, &len);
    /* A disk does not grow by being written to, no more than a block device does. */
    int r = !d->writable ? -EBADF : d->gone ? -ENODEV : len == 0 && j->len > 0 ? -ENOSPC : 0;
    if (r == 0)
        r = fdisk_enter(d);
    if (r == 0) {
        r = len > 0 ? fdisk_write(d, off, j->data, len) : 0;
        fdisk_leave(d);
    }
    if (r < 0 || len == 0) {
        fjob_done(j, r);
        return;
    }
    ffile_changed(j, j->h, j->off, len, 0, len);
}

void ffile_fsync(struct fjob *j)
{
    struct fdisk *d = j->h->disk;
    int r = fdisk_enter(d);
    if (r == 0) {
        r = vd_disk_flush(d->disk);
        fdisk_leave(d);
    }
    fjob_done(j, r);
}
