/* SPDX-License-Identifier: MIT */
/*
 * Writing volumes: whole blocks go to the log as they are; parts of blocks are read, changed and
 * written.
 *
 * Invariants:
 *  1 A hold stands for a change of some blocks in progress. A read-modify-write waits, after it has
 *    announced itself, for every earlier hold on its blocks; any other change waits for earlier
 *    read-modify-writes on its blocks only. So no change falls between the read and the write of
 * one that it overlaps. Holds wait only for earlier ones: no cycle. 2 Of a block the volume holds
 * only part of (its size is no multiple of 4 KiB), what lies beyond the end is nobody's: growing
 * clears it first (volume_clear_tail).
 *
 * Every call is on a handle's fiber and suspends.
 */
#include "snapshot/volume_priv.h"

#include "core/base/text.h"

#include <stdlib.h>

/* Most blocks of one logged operation: larger requests are cut. */
#define OP_BLOCKS 256u

struct hold {
    struct vd_list link;
    uint64_t lba, end;
    bool rmw;
};

/* True if an earlier hold stands in the way of h. */
static bool hold_blocked(const struct volume *v, const struct hold *h)
{
    vd_list_each (it, &v->holds) {
        const struct hold *o = vd_container_of(it, struct hold, link);
        if (o == h)
            return false;
        if ((h->rmw || o->rmw) && o->lba < h->end && h->lba < o->end)
            return true;
    }
    return false;
}

static void hold_take(struct volume *v, struct hold *h)
{
    vd_list_push(&v->holds, &h->link);
    v->rmw += h->rmw;
#ifndef VD_PLANT_RMW_LOSES
    while (v->rmw && hold_blocked(v, h))
        vd_wait(&v->released);
#endif
}

static void hold_release(struct volume *v, struct hold *h)
{
    vd_list_remove(&h->link);
    if (v->rmw)
        vd_wake_all(&v->released);
    v->rmw -= h->rmw;
}

static unsigned op_flags(unsigned flags)
{
    return flags & VD_DISK_FUA ? POOL_OP_FUA : 0;
}

/* ---- whole blocks ---- */

static int write_op(struct snap_store *s, struct volume *v, uint64_t lba, uint64_t blocks,
                    const struct iovec *iov, int n, unsigned flags)
{
    struct pool_op op = {
        .flags = op_flags(flags),
        .branch = v->branch->id,
        .lba = lba,
        .blocks = blocks,
        .iov = iov,
        .iovcnt = n,
    };
    return pool_commit(s->pool, &op);
}

/* Cuts [at, at + len) bytes out of the vector into ret, which has as many entries. */
static int iov_cut(const struct iovec *iov, size_t at, size_t len, struct iovec *ret)
{
    int n = 0;
    for (; at >= iov->iov_len; iov++)
        at -= iov->iov_len;
    for (; len > 0; iov++) {
        size_t take = VD_MIN(len, iov->iov_len - at);
        if (take)
            ret[n++] = (struct iovec){(uint8_t *)iov->iov_base + at, take};
        len -= take;
        at = 0;
    }
    return n;
}

/* Whole blocks, the vector is exactly as long. */
static int write_blocks(struct snap_store *s, struct volume *v, uint64_t lba, uint64_t blocks,
                        const struct iovec *iov, int n, unsigned flags)
{
    if (blocks <= OP_BLOCKS)
        return write_op(s, v, lba, blocks, iov, n, flags);
    struct iovec *part = malloc((size_t)n * sizeof(*part));
    if (!part)
        return -ENOMEM;
    int r = 0;
    for (uint64_t done = 0; r == 0 && done < blocks;) {
        uint64_t take = VD_MIN(blocks - done, OP_BLOCKS);
        int cnt = iov_cut(iov, done * VD_BLOCK, take * VD_BLOCK, part);
        r = write_op(s, v, lba + done, take, part, cnt, flags);
        done += take;
    }
    free(part);
    return r;
}

/* ---- parts of blocks ---- */

/* The first and last block of a range, as far as it covers them only in part. */
struct edges {
    uint8_t *buf; /* two blocks */
    uint64_t lba, end;
    size_t head; /* bytes of the first block before the range */
    size_t tail; /* bytes of the last block behind it */
};

static int edges_read(struct snap_store *s, struct volume *v, uint64_t off, uint64_t len,
                      struct edges *e)
{
    struct view_ref ref = {.volume = v};
    *e = (struct edges){
        .lba = off / VD_BLOCK,
        .end = VD_DIV_UP(off + len, VD_BLOCK),
        .head = off % VD_BLOCK,
        .tail = (VD_BLOCK - (off + len) % VD_BLOCK) % VD_BLOCK,
        .buf = vd_alloc_aligned(2u * VD_BLOCK),
    };
    if (!e->buf)
        return -ENOMEM;
    int r = 0;
    if (e->head)
        r = view_read_blocks(s, ref, e->lba, 1, e->buf);
    if (r == 0 && e->tail)
        r = view_read_blocks(s, ref, e->end - 1, 1, e->buf + VD_BLOCK);
    return r;
}

/* The range with its edges completed as one operation (or several, if it is long). */
static int write_edges(struct snap_store *s, struct volume *v, const struct edges *e,
                       const struct iovec *iov, int n, unsigned flags)
{
    struct iovec *all = malloc(((size_t)n + 2) * sizeof(*all));
    int cnt = 0;
    if (!all)
        return -ENOMEM;
    if (e->head)
        all[cnt++] = (struct iovec){e->buf, e->head};
    memcpy(all + cnt, iov, (size_t)n * sizeof(*iov));
    cnt += n;
    if (e->tail)
        all[cnt++] = (struct iovec){e->buf + 2u * VD_BLOCK - e->tail, e->tail};
    int r = write_blocks(s, v, e->lba, e->end - e->lba, all, cnt, flags);
    free(all);
    return r;
}

static int write_part(struct snap_store *s, struct volume *v, uint64_t off, uint64_t len,
                      const struct iovec *iov, int n, unsigned flags)
{
    struct edges e;
    int r = edges_read(s, v, off, len, &e);
    if (r == 0)
        r = write_edges(s, v, &e, iov, n, flags);
    free(e.buf);
    return r;
}

int disk_writev(struct vd_disk *disk, uint64_t off, const struct iovec *iov, int n, size_t len,
                unsigned flags)
{
    struct vol_disk *d = vol_disk_of(disk);
    struct volume *v = d->ref.volume;
    bool whole = (off | len) % VD_BLOCK == 0;
    int r = volume_enter(d, off, len);
    if (r < 0)
        return r;
    struct hold h = {.lba = off / VD_BLOCK, .end = VD_DIV_UP(off + len, VD_BLOCK), .rmw = !whole};
    hold_take(v, &h);
    if (whole)
        r = write_blocks(d->s, v, h.lba, h.end - h.lba, iov, n, flags);
    else
        r = write_part(d->s, v, off, len, iov, n, flags);
    hold_release(v, &h);
    volume_leave(d);
    return r;
}

/* ---- zeroes ---- */

static int zero_op(struct snap_store *s, struct volume *v, uint64_t lba, uint64_t blocks,
                   unsigned flags)
{
    struct vd_entry e = {
        .type = VD_ENTRY_ZERO, .branch = v->branch->id, .lba = lba, .blocks = blocks};
    struct pool_op op = {.flags = flags, .entries = &e, .count = 1};
    return pool_commit(s->pool, &op);
}

/* Part of one block becomes zero. */
static int zero_part(struct snap_store *s, struct volume *v, uint64_t off, size_t len,
                     unsigned flags)
{
    static const uint8_t zeroes[VD_BLOCK];
    struct iovec iov = {(void *)(uintptr_t)zeroes, len};
    struct hold h = {.lba = off / VD_BLOCK, .end = off / VD_BLOCK + 1, .rmw = true};

    hold_take(v, &h);
    int r = write_part(s, v, off, len, &iov, 1, flags);
    hold_release(v, &h);
    return r;
}

int volume_clear_tail(struct snap_store *s, struct volume *v)
{
    uint64_t size = v->rec.size;
    if (size % VD_BLOCK == 0)
        return 0;
    return zero_part(s, v, size, VD_BLOCK - size % VD_BLOCK, 0);
}

static int zero_range(struct snap_store *s, struct volume *v, uint64_t off, uint64_t len,
                      unsigned flags)
{
    uint64_t end = off + len, first = VD_DIV_UP(off, VD_BLOCK), last = end / VD_BLOCK;
    int r = 0;

    if (end == v->rec.size)
        last = VD_DIV_UP(end, VD_BLOCK); /* what lies beyond the end is nobody's */
    if (first > last)
        return zero_part(s, v, off, len, flags);
    if (off % VD_BLOCK)
        r = zero_part(s, v, off, first * VD_BLOCK - off, flags);
    if (r == 0 && last > first) {
        struct hold h = {.lba = first, .end = last};
        hold_take(v, &h);
        r = zero_op(s, v, first, last - first, op_flags(flags));
        hold_release(v, &h);
    }
    if (r == 0 && last * VD_BLOCK < end)
        r = zero_part(s, v, last * VD_BLOCK, end - last * VD_BLOCK, flags);
    return r;
}

int disk_zero(struct vd_disk *disk, uint64_t off, uint64_t len, unsigned flags)
{
    struct vol_disk *d = vol_disk_of(disk);
    int r = volume_enter(d, off, len);
    if (r < 0)
        return r;
    r = zero_range(d->s, d->ref.volume, off, len, flags);
    volume_leave(d);
    return r;
}

int disk_discard(struct vd_disk *disk, uint64_t off, uint64_t len, unsigned flags)
{
    struct vol_disk *d = vol_disk_of(disk);
    struct volume *v = d->ref.volume;
    int r = volume_enter(d, off, len);
    if (r < 0)
        return r;
    uint64_t first = VD_DIV_UP(off, VD_BLOCK), last = (off + len) / VD_BLOCK;
    if (off + len == v->rec.size)
        last = VD_DIV_UP(v->rec.size, VD_BLOCK);
    if (first < last) {
        struct hold h = {.lba = first, .end = last};
        hold_take(v, &h);
        r = zero_op(d->s, v, first, last - first, op_flags(flags) | POOL_OP_RESERVE);
        hold_release(v, &h);
    }
    volume_leave(d);
    return r == -ENOSPC ? 0 : r;
}
