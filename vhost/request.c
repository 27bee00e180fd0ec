/* SPDX-License-Identifier: MIT */
/*
 * A request's life between the rings: from the guest's memory to calls on the disk, and the answer.
 *
 * What is read goes straight into the guest's memory where that is aligned. What is written is
 * copied first: the engine computes a checksum and writes afterwards, and a guest that changed its
 * memory between the two would leave a block that nobody can read. A read into memory that the
 * guest changes meanwhile can fail its checksum for the same reason; it is done again into memory
 * of our own before it is believed to have failed.
 */
#include "core/base/text.h"
#include "vhost/vhost_priv.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>

struct vhost_req *request_new(struct vhost_queue *q)
{
    struct vd_list *l = vd_list_pop(&q->conn->free_reqs);
    struct vhost_req *req = l ? vd_container_of(l, struct vhost_req, link) : malloc(sizeof(*req));
    if (!req)
        return NULL;
    /* Not the vectors: n says what of them is used. */
    memset(req, 0, offsetof(struct vhost_req, iov));
    vd_list_init(&req->link);
    req->queue = q;
    return req;
}

void request_free(struct vhost_req *req)
{
    vd_list_push_front(&req->queue->conn->free_reqs, &req->link);
}

void request_finish(struct vhost_req *req)
{
    struct vhost_queue *q = req->queue;
    struct vhost_conn *c = q->conn;
    if (!c->broken) {
        __atomic_store_n(req->status_at, req->status, __ATOMIC_RELAXED);
        req->written++;
        (void)memory_dirty(c, req->status_guest, 1);
    }
    if (vd_list_empty(&q->done))
        vd_list_push(&c->dirty, &q->link);
    vd_list_push(&q->done, &req->link);
    vd_wake_all(&c->publish_q);
}

/* ---- moving bytes ---- */

/* A place in a vector. */
struct cursor {
    const struct iovec *iov;
    const uint64_t *guest;
    unsigned i, n;
    size_t skip;
};

enum copy { COPY_IN, COPY_OUT };

/* Moves the next `len` bytes between the guest's memory and buf. */
static void cursor_copy(struct cursor *cur, uint8_t *buf, size_t len, enum copy way)
{
    while (len > 0) {
        const struct iovec *v = &cur->iov[cur->i];
        size_t part = VD_MIN(len, v->iov_len - cur->skip);
        uint8_t *at = (uint8_t *)v->iov_base + cur->skip;
        if (way == COPY_IN)
            memcpy(buf, at, part);
        else
            memcpy(at, buf, part);
        buf += part;
        len -= part;
        cur->skip += part;
        if (cur->skip == v->iov_len) {
            cur->i++;
            cur->skip = 0;
        }
    }
}

static void dirty_all(struct vhost_req *req)
{
    for (unsigned i = req->out; i < req->n; i++)
        (void)memory_dirty(req->queue->conn, req->guest[i], req->iov[i].iov_len);
}

/* Where the device may write as it is: whole blocks at whole blocks. */
static bool is_aligned(const struct iovec *iov, unsigned n)
{
    uintptr_t all = 0;
    for (unsigned i = 0; i < n; i++)
        all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return all % VD_BLOCK == 0;
}

/* 0, or -ERANGE for what does not fit into the disk at all. */
static int request_off(const struct vhost_req *req, uint64_t *ret)
{
    uint64_t sector = le64toh(req->hdr.sector);
    *ret = sector * VD_SECTOR;
    return sector > VD_VOLUME_MAX / VD_SECTOR ? -ERANGE : 0;
}

/* VD_YIELDS */
static int read_copied(struct vhost_req *req, uint64_t off)
{
    struct vhost_conn *c = req->queue->conn;
    struct cursor cur = {.iov = req->iov + req->out};
    size_t left = req->in_len, room = VD_MIN(left, (size_t)VHOST_PIECE);
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(room);
    if (!buf)
        return -ENOMEM;
    while (left > 0) {
        size_t part = VD_MIN(left, room);
        int r = c->broken ? -ECANCELED : vd_disk_read(c->disk, off, buf, part);
        if (r < 0 || c->broken)
            return r;
        cursor_copy(&cur, buf, part, COPY_OUT);
        off += part;
        left -= part;
    }
    return 0;
}

/* VD_YIELDS */
static int run_read(struct vhost_req *req)
{
    struct vhost_conn *c = req->queue->conn;
    const struct iovec *iov = req->iov + req->out;
    unsigned n = req->n - req->out;
    uint64_t off;
    int r = request_off(req, &off);
    if (r < 0)
        return r;
    if (req->in_len % VD_SECTOR != 0 || req->out_len > 0)
        return -EINVAL;
    c->read_bytes += req->in_len;
    r = -EIO;
    if (is_aligned(iov, n) && off % VD_BLOCK == 0 && req->in_len <= VHOST_PIECE)
        r = vd_disk_readv(c->disk, off, iov, (int)n, 0);
    if (r == -EIO || r == -EBADMSG || r == -EUCLEAN)
        r = read_copied(req, off);
    if (r == 0 && !c->broken) {
        dirty_all(req);
        req->written = (uint32_t)VD_MIN(req->in_len, (size_t)UINT32_MAX - 1);
    }
    return r;
}

/* VD_YIELDS */
static int run_write(struct vhost_req *req, unsigned fua)
{
    struct vhost_conn *c = req->queue->conn;
    struct cursor cur = {.iov = req->iov};
    size_t left = req->out_len, room = VD_MIN(left, (size_t)VHOST_PIECE);
    uint64_t off;
    int r = request_off(req, &off);
    if (r < 0)
        return r;
    if (left % VD_SECTOR != 0 || req->in_len > 0)
        return -EINVAL;
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(VD_MAX(room, (size_t)1));
    if (!buf)
        return -ENOMEM;
    c->write_bytes += left;
    while (left > 0 && r == 0) {
        size_t part = VD_MIN(left, room);
        cursor_copy(&cur, buf, part, COPY_IN);
        if (atomic_load_explicit(&c->memory_lost, memory_order_relaxed))
            return -EIO; /* zeroes that nobody has written */
        r = vd_disk_write(c->disk, off, buf, part, fua);
        off += part;
        left -= part;
        if (c->broken)
            return -ECANCELED;
    }
    return r;
}

/* ---- ranges ---- */

/* VD_YIELDS */
static int run_range(struct vhost_req *req, const struct virtio_blk_discard_write_zeroes *range,
                     bool zero, unsigned fua)
{
    struct vd_disk *disk = req->queue->conn->disk;
    uint64_t sector = le64toh(range->sector), sectors = le32toh(range->num_sectors);
    uint32_t flags = le32toh(range->flags);
    if (zero ? flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : flags)
        return -EOPNOTSUPP;
    if (sector > VD_VOLUME_MAX / VD_SECTOR || sectors > VHOST_RANGE_SECTORS)
        return -ERANGE;
    if (!zero)
        return vd_disk_discard(disk, sector * VD_SECTOR, sectors * VD_SECTOR, fua);
    unsigned keep = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP ? 0 : VD_DISK_NO_UNMAP;
    return vd_disk_zero(disk, sector * VD_SECTOR, sectors * VD_SECTOR, fua | keep);
}

/* VD_YIELDS */
static int run_ranges(struct vhost_req *req, bool zero, unsigned fua)
{
    struct virtio_blk_discard_write_zeroes range[VHOST_RANGES_MAX];
    struct cursor cur = {.iov = req->iov};
    size_t n = req->out_len / sizeof(range[0]);
    if (req->out_len % sizeof(range[0]) != 0 || n == 0 || n > VHOST_RANGES_MAX || req->in_len > 0)
        return -EINVAL;
    cursor_copy(&cur, (uint8_t *)range, req->out_len, COPY_IN);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++)
        r = run_range(req, &range[i], zero, fua);
    return r;
}

/* The disk's serial number: as much of its UUID as there is room for. */
static int run_id(struct vhost_req *req)
{
    struct vd_disk_info info;
    char id[VIRTIO_BLK_ID_BYTES + 1];
    struct cursor cur = {.iov = req->iov + req->out};
    vd_disk_info(req->queue->conn->disk, &info);
    for (unsigned i = 0; i < VIRTIO_BLK_ID_BYTES / 2; i++)
        snprintf(id + 2 * i, 3, "%02x", info.uuid.b[i]);
    size_t len = VD_MIN(req->in_len, (size_t)VIRTIO_BLK_ID_BYTES);
    cursor_copy(&cur, (uint8_t *)id, len, COPY_OUT);
    dirty_all(req);
    req->written = (uint32_t)len;
    return 0;
}

static uint8_t status_of(int r)
{
    if (r == 0)
        return VIRTIO_BLK_S_OK;
    return r == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

void request_run(struct vhost_req *req)
{
    struct vhost_conn *c = req->queue->conn;
    unsigned fua = config_write_through(c) ? VD_DISK_FUA : 0;
    int r = -ECANCELED;
    /* Nobody is left to hear the answer. */
    if (c->broken) {
        request_finish(req);
        return;
    }
    switch (le32toh(req->hdr.type)) {
    case VIRTIO_BLK_T_IN:
        r = run_read(req);
        break;
    case VIRTIO_BLK_T_OUT:
        r = run_write(req, fua);
        break;
    case VIRTIO_BLK_T_FLUSH:
        r = c->read_only ? 0 : vd_disk_flush(c->disk);
        break;
    case VIRTIO_BLK_T_GET_ID:
        r = run_id(req);
        break;
    case VIRTIO_BLK_T_DISCARD:
        r = c->read_only ? -EOPNOTSUPP : run_ranges(req, false, fua);
        break;
    case VIRTIO_BLK_T_WRITE_ZEROES:
        r = c->read_only ? -EOPNOTSUPP : run_ranges(req, true, fua);
        break;
    default:
        r = -EOPNOTSUPP;
        break;
    }
    req->status = status_of(r);
    request_finish(req);
}
