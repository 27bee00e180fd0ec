/* SPDX-License-Identifier: MIT */
/*
 * A disk in memory, for tests and for measuring doors without a store. Sparse: 64 KiB chunks come
 * into being when they are written, and go when they are zeroed or discarded whole.
 *
 * Invariant: bytes beyond `size` inside the last chunk are zero, so growing exposes nothing.
 *
 * Never suspends.
 */
#include "core/block/disk.h"

#include <stdlib.h>

#define CHUNK VD_KIB(64)

struct memory_disk {
    struct vd_disk disk;
    uint64_t size;
    uint8_t **chunks;
    uint64_t n_chunks;
};

static struct memory_disk *memory_of(struct vd_disk *d)
{
    return vd_container_of(d, struct memory_disk, disk);
}

/* The part of [off, off + len) that lies in off's chunk. */
static uint64_t in_chunk(uint64_t off, uint64_t len)
{
    return VD_MIN(len, CHUNK - off % CHUNK);
}

static int memory_readv(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n, size_t len)
{
    struct memory_disk *m = memory_of(d);
    for (int i = 0; i < n; i++) {
        uint8_t *to = iov[i].iov_base;
        for (uint64_t left = iov[i].iov_len; left > 0;) {
            uint64_t part = in_chunk(off, left);
            const uint8_t *chunk = m->chunks[off / CHUNK];
            if (chunk)
                memcpy(to, chunk + off % CHUNK, part);
            else
                memset(to, 0, part);
            to += part;
            off += part;
            left -= part;
        }
    }
    return 0;
}

static int memory_writev(struct vd_disk *d, uint64_t off, const struct iovec *iov, int n,
                         size_t len, unsigned flags)
{
    struct memory_disk *m = memory_of(d);
    /* Memory first, so that a write that fails has changed nothing. */
    for (uint64_t i = off / CHUNK; i <= (off + len - 1) / CHUNK; i++)
        if (!m->chunks[i] && !(m->chunks[i] = calloc(1, CHUNK)))
            return -ENOMEM;
    for (int i = 0; i < n; i++) {
        const uint8_t *from = iov[i].iov_base;
        for (uint64_t left = iov[i].iov_len; left > 0;) {
            uint64_t part = in_chunk(off, left);
            memcpy(m->chunks[off / CHUNK] + off % CHUNK, from, part);
            from += part;
            off += part;
            left -= part;
        }
    }
    return 0;
}

static int memory_zero(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    struct memory_disk *m = memory_of(d);
    while (len > 0) {
        uint64_t part = in_chunk(off, len);
        uint8_t **chunk = &m->chunks[off / CHUNK];
        bool whole = part == CHUNK || (off % CHUNK == 0 && off + part == m->size);
        if (*chunk && whole && !(flags & VD_DISK_NO_UNMAP)) {
            free(*chunk);
            *chunk = NULL;
        } else if (*chunk) {
            memset(*chunk + off % CHUNK, 0, part);
        }
        off += part;
        len -= part;
    }
    return 0;
}

static int memory_discard(struct vd_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    return memory_zero(d, off, len, 0);
}

static int memory_flush(struct vd_disk *d)
{
    return 0;
}

static int memory_extents(struct vd_disk *d, uint64_t off, uint64_t len, struct vd_extent *ret,
                          int *n)
{
    struct memory_disk *m = memory_of(d);
    int used = 0;
    while (len > 0) {
        uint64_t part = in_chunk(off, len);
        unsigned flags = m->chunks[off / CHUNK] ? 0 : VD_EXTENT_HOLE | VD_EXTENT_ZERO;
        if (used > 0 && ret[used - 1].flags == flags) {
            ret[used - 1].len += part;
        } else {
            if (used == *n)
                break;
            ret[used++] = (struct vd_extent){.off = off, .len = part, .flags = flags};
        }
        off += part;
        len -= part;
    }
    *n = used;
    return 0;
}

static int memory_resize(struct vd_disk *d, uint64_t size, struct vd_error *err)
{
    struct memory_disk *m = memory_of(d);
    uint64_t n_chunks = VD_DIV_UP(size, CHUNK);
    uint8_t **chunks = calloc(n_chunks ? n_chunks : 1, sizeof(*chunks));
    if (!chunks)
        return vd_fail(err, -ENOMEM, "no-memory", "not enough memory for the new size");
    for (uint64_t i = 0; i < m->n_chunks; i++) {
        if (i < n_chunks)
            chunks[i] = m->chunks[i];
        else
            free(m->chunks[i]);
    }
    if (size < m->size && size % CHUNK != 0 && chunks[size / CHUNK])
        memset(chunks[size / CHUNK] + size % CHUNK, 0, CHUNK - size % CHUNK);
    free(m->chunks);
    m->chunks = chunks;
    m->n_chunks = n_chunks;
    m->size = size;
    vd_disk_notify(d, VD_DISK_RESIZED);
    return 0;
}

static void memory_info(struct vd_disk *d, struct vd_disk_info *ret)
{
    *ret = (struct vd_disk_info){
        .size = memory_of(d)->size,
        .block_min = VD_SECTOR,
        .block_pref = VD_BLOCK,
        .request_max = VD_MIB(32),
    };
}

static void memory_close(struct vd_disk *d)
{
    struct memory_disk *m = memory_of(d);
    for (uint64_t i = 0; i < m->n_chunks; i++)
        free(m->chunks[i]);
    free(m->chunks);
    free(m);
}

static const struct vd_disk_ops memory_ops = {
    .readv = memory_readv,
    .writev = memory_writev,
    .zero = memory_zero,
    .discard = memory_discard,
    .flush = memory_flush,
    .extents = memory_extents,
    .resize = memory_resize,
    .info = memory_info,
    .close = memory_close,
};

int vd_disk_memory(uint64_t size, struct vd_disk **ret)
{
    if (size % VD_SECTOR != 0 || size > VD_VOLUME_MAX)
        return -EINVAL;
    struct memory_disk *m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->size = size;
    m->n_chunks = VD_DIV_UP(size, CHUNK);
    m->chunks = calloc(m->n_chunks ? m->n_chunks : 1, sizeof(*m->chunks));
    if (!m->chunks) {
        free(m);
        return -ENOMEM;
    }
    vd_disk_init(&m->disk, &memory_ops);
    *ret = &m->disk;
    return 0;
}
