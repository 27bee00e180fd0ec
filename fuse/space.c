/* SPDX-License-Identifier: MIT */
/*
 * What files can do besides being read and written: holes, finding data, copying inside the pool.
 * Punching a hole means zeroes here, always: what was there must not come back.
 *
 * Jobs of workers.
 */
#include "fuse/fuse_priv.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

/* One copy_file_range does no more, so that nobody waits for long: programs ask again. */
#define COPY_MAX VD_MIB(64)

/* 0 = done with it; 1 = the range has to be zeroed. VD_YIELDS */
static int allocate_check(struct fjob *j)
{
    uint64_t end, size = fhandle_size(j->h);
    if (j->mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        return -EOPNOTSUPP;
    if (!j->h->disk->writable)
        return -EBADF;
    if (__builtin_add_overflow(j->off, j->len, &end))
        return -EFBIG;
    if (end > size && !(j->mode & FALLOC_FL_KEEP_SIZE)) {
        if (j->h->len > 0)
            return -ENOSPC; /* a partition */
        if (end % VD_SECTOR != 0)
            return -EINVAL;
        int r = vd_store_volume_resize(j->server->store, j->node->volume, end, false, NULL);
        if (r < 0)
            return r;
    }
    return j->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) ? 1 : 0;
}

void fspace_allocate(struct fjob *j)
{
    struct fdisk *d = j->h->disk;
    uint64_t len = j->len, off;
    /* Space is taken when it is written: nothing is to be had in advance. */
    int r = allocate_check(j);
    if (r <= 0) {
        fjob_done(j, r);
        return;
    }
    off = fhandle_clip(j->h, j->off, &len);
    r = fdisk_enter(d);
    if (r == 0) {
        r = len > 0 ? fdisk_zero(d, off, len, 0) : 0;
        fdisk_leave(d);
    }
    ffile_changed(j, j->h, j->off, len, r, 0);
}

/* The first byte at or after `off` that is data, or not. VD_YIELDS */
static int seek(struct fjob *j, bool data, uint64_t *ret)
{
    struct fhandle *h = j->h;
    struct vd_extent ext[32];
    uint64_t off = j->off, size;
    while (off < (size = fhandle_size(h))) {
        uint64_t from = VD_ROUND_DOWN(h->start + off, VD_SECTOR);
        int n = (int)VD_ARRAY_SIZE(ext);
        int r = vd_disk_extents(h->disk->disk, from, h->start + size - from, ext, &n);
        if (r < 0)
            return r;
        for (int i = 0; i < n; i++) {
            bool is_data = !(ext[i].flags & VD_EXTENT_ZERO);
            if (is_data == data && ext[i].off + ext[i].len > h->start + off) {
                *ret = VD_MAX(ext[i].off, h->start + off) - h->start;
                return 0;
            }
        }
        if (n == 0)
            break;
        off = ext[n - 1].off + ext[n - 1].len - h->start;
    }
    *ret = size; /* the end of a file is a hole */
    return data ? -ENXIO : 0;
}

void fspace_seek(struct fjob *j)
{
    struct fdisk *d = j->h->disk;
    uint64_t at = 0;
    int r = j->mode != SEEK_DATA && j->mode != SEEK_HOLE ? -EINVAL
            : j->off >= fhandle_size(j->h)               ? -ENXIO
                                                         : fdisk_enter(d);
    if (r == 0) {
        r = seek(j, j->mode == SEEK_DATA, &at);
        fdisk_leave(d);
    }
    if (r < 0) {
        fjob_done(j, r);
        return;
    }
    fuse_reply_lseek(j->req, (off_t)at);
    fjob_free(j);
}

/* True if the `*len` bytes at `off` are zeroes as far as the disk knows; cuts *len to what is
 * alike. VD_YIELDS */
static bool is_hole(struct fdisk *d, uint64_t off, uint64_t *len)
{
    struct vd_extent ext;
    int n = 1;
    if ((off | *len) % VD_SECTOR != 0 || vd_disk_extents(d->disk, off, *len, &ext, &n) < 0 || n < 1)
        return false;
    *len = VD_MIN(*len, ext.len);
    return ext.flags & VD_EXTENT_ZERO;
}

/* VD_YIELDS */
static int copy_piece(struct fjob *j, uint64_t from, uint64_t to, uint64_t *len)
{
    struct fdisk *in = j->h->disk, *out = j->to->disk;
    if (is_hole(in, from, len))
        return fdisk_zero(out, to, *len, 0);
    *len = VD_MIN(*len, FUSE_DATA_MAX);
    int r = fdisk_read(in, from, j->buf, *len);
    return r < 0 ? r : fdisk_write(out, to, j->buf, *len);
}

/* Returns what was copied before anything failed, or the failure. VD_YIELDS */
static int copy(struct fjob *j, uint64_t *ret)
{
    uint64_t from_len = j->len, to_len = VD_MIN(j->len, COPY_MAX);
    uint64_t from = fhandle_clip(j->h, j->off, &from_len);
    uint64_t to = fhandle_clip(j->to, j->to_off, &to_len);
    uint64_t len = VD_MIN(from_len, to_len), done = 0;
    int r = from_len > 0 && to_len == 0 ? -ENOSPC : 0;
    while (r == 0 && done < len) {
        uint64_t piece = len - done;
        r = copy_piece(j, from + done, to + done, &piece);
        if (r == 0)
            done += piece;
    }
    *ret = done;
    return done > 0 ? 0 : r;
}

void fspace_copy(struct fjob *j)
{
    struct fdisk *in = j->h->disk, *out = j->to->disk;
    uint64_t done = 0;
    int r = out->writable ? 0 : -EBADF;
    j->buf_len = FUSE_LARGE_LEN;
    j->buf = r == 0 ? fbuf_get(j->server, j->buf_len) : NULL;
    if (r == 0 && !j->buf)
        r = -ENOMEM;
    if (r == 0)
        r = fdisk_enter(in);
    if (r == 0) {
        r = fdisk_enter(out);
        if (r == 0) {
            r = copy(j, &done);
            fdisk_leave(out);
        }
        fdisk_leave(in);
    }
    if (r == 0 && done == 0) {
        fuse_reply_write(j->req, 0);
        fjob_free(j);
        return;
    }
    if (r < 0)
        fjob_done(j, r);
    else
        ffile_changed(j, j->to, j->to_off, done, 0, done);
}
