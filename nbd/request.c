/* SPDX-License-Identifier: MIT */
/*
 * Requests: from the bytes of a client that may be hostile to calls on a disk.
 *
 * Invariants:
 *  1. A header is trusted in nothing. What the protocol lets us answer is answered with an error
 *     and its payload skipped; when the stream can no longer be understood the connection ends.
 *  2. A write's payload lands in aligned memory that goes to the disk as it is.
 *  3. A request longer than NBD_PIECE becomes a whole, which has no buffer, and pieces, which do:
 *     memory per connection stays bounded whatever is asked.
 */
#include "nbd/nbd_priv.h"

struct header {
    uint16_t flags, type;
    uint64_t cookie, off;
    uint32_t len;
};

/* The flags that mean something with each command. FUA is allowed everywhere. */
static unsigned flags_allowed(const struct nbd_conn *c, uint16_t type)
{
    switch (type) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (c->structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
    default:
        return NBD_CMD_FLAG_FUA;
    }
}

static bool is_change(uint16_t type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;
}

/* 0, or the error that the client gets. */
static int header_check(struct nbd_conn *c, const struct header *h, const char **why)
{
    struct vd_disk_info info;
    switch (h->type) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
    case NBD_CMD_TRIM:
    case NBD_CMD_WRITE_ZEROES:
    case NBD_CMD_FLUSH:
    case NBD_CMD_CACHE:
        break;
    case NBD_CMD_BLOCK_STATUS:
        *why = "no metadata context was chosen, or the length is 0";
        if (!(c->contexts.allocation || c->contexts.n_since > 0) || h->len == 0)
            return -EINVAL;
        break;
    default:
        *why = "unknown command";
        return -EINVAL;
    }
    *why = "a flag that this command does not have";
    if (h->flags & ~flags_allowed(c, h->type))
        return -EINVAL;
    if (h->type == NBD_CMD_FLUSH) {
        *why = "a flush has no offset and no length";
        return h->off == 0 && h->len == 0 ? 0 : -EINVAL;
    }
    vd_disk_info(c->disk, &info);
    *why = "the export is read-only";
    if (info.read_only && is_change(h->type))
        return -EROFS;
    *why = "offset and length must be multiples of 512";
    if ((h->off | h->len) % VD_SECTOR != 0)
        return -EINVAL;
    *why = "beyond the end of the disk";
    if (h->off > info.size || h->len > info.size - h->off)
        return -ERANGE;
    *why = "longer than 32 MiB";
    if (h->len > NBD_REQUEST_MAX && (h->type == NBD_CMD_READ || h->type == NBD_CMD_WRITE))
        return -EINVAL;
    *why = "too long to be answered in one piece";
    if (h->type == NBD_CMD_READ && (h->flags & NBD_CMD_FLAG_DF) && h->len > NBD_PIECE)
        return -EOVERFLOW;
    *why = NULL;
    return 0;
}

/* A request with a buffer for `len` bytes. VD_YIELDS */
static int request_new(struct nbd_conn *c, const struct header *h, size_t len, struct nbd_req **ret)
{
    int r = nbd_admit(c, len, ret);
    if (r < 0)
        return r;
    (*ret)->type = h->type;
    (*ret)->flags = h->flags;
    (*ret)->cookie = h->cookie;
    (*ret)->off = h->off;
    (*ret)->len = h->len;
    return 0;
}

/* VD_YIELDS */
static int refuse(struct nbd_conn *c, const struct header *h, int err, const char *why)
{
    struct nbd_req *req;
    if (h->type == NBD_CMD_WRITE) {
        if (h->len > NBD_SKIP_MAX)
            return -EPROTO;
        int r = nbd_skip(c, h->len);
        if (r < 0)
            return r;
    }
    int r = request_new(c, h, 0, &req);
    if (r < 0)
        return r;
    req->err = err;
    req->why = why;
    nbd_request_finish(req);
    return 0;
}

/* One read or write that fits a buffer. VD_YIELDS */
static int start_one(struct nbd_conn *c, const struct header *h, struct nbd_req *whole)
{
    struct nbd_req *req;
    int r = request_new(c, h, VD_MAX(h->len, 1u), &req);
    if (r < 0)
        return r;
    if (h->type == NBD_CMD_WRITE) {
        r = nbd_take(c, req->buf, h->len);
        if (r < 0) {
            nbd_release(req);
            return r;
        }
    }
    if (whole) {
        req->whole = whole;
        whole->pieces++;
    }
    nbd_work_push(c->server, req);
    /* A client that sends as fast as we read would never make us wait. */
    if (h->type == NBD_CMD_WRITE && h->len >= NBD_TURN_LEN)
        vd_fiber_yield();
    return 0;
}

/* One that does not, in pieces that run side by side. VD_YIELDS */
static int start_pieces(struct nbd_conn *c, const struct header *h)
{
    struct nbd_req *whole;
    int r = request_new(c, h, 0, &whole);
    if (r < 0)
        return r;
    whole->pieces = 1; /* ours, until all are cut */
    for (uint32_t done = 0; done < h->len && r == 0;) {
        struct header piece = *h;
        piece.off += done;
        piece.len = (uint32_t)VD_MIN(h->len - done, NBD_PIECE);
        r = start_one(c, &piece, whole);
        done += piece.len;
    }
    if (r < 0 && whole->err == 0)
        whole->err = r;
    nbd_request_finish(whole);
    return r;
}

/* A simple reply cannot go out in pieces: the sender reads and sends by turns. VD_YIELDS */
static int start_streamed(struct nbd_conn *c, const struct header *h)
{
    struct nbd_req *req;
    int r = request_new(c, h, NBD_PIECE, &req);
    if (r < 0)
        return r;
    req->streamed = true;
    nbd_request_finish(req);
    return 0;
}

/* VD_YIELDS */
static int start(struct nbd_conn *c, const struct header *h)
{
    struct nbd_req *req;
    if (h->type == NBD_CMD_READ || h->type == NBD_CMD_WRITE) {
        if (h->type == NBD_CMD_READ)
            c->read_bytes += h->len;
        else
            c->write_bytes += h->len;
        if (h->len <= NBD_PIECE)
            return start_one(c, h, NULL);
        if (h->type == NBD_CMD_READ && !c->structured)
            return start_streamed(c, h);
        return start_pieces(c, h);
    }
    size_t room = h->type == NBD_CMD_BLOCK_STATUS ? nbd_status_room(c) : 0;
    int r = request_new(c, h, room, &req);
    if (r < 0)
        return r;
    nbd_work_push(c->server, req);
    return 0;
}

int nbd_request_read(struct nbd_conn *c)
{
    int r = nbd_fill(c, NBD_REQUEST_LEN);
    if (r < 0)
        return r;
    const uint8_t *p = c->in + c->pos;
    struct header h = {
        .flags = vd_get_be16(p + 4),
        .type = vd_get_be16(p + 6),
        .cookie = vd_get_be64(p + 8),
        .off = vd_get_be64(p + 16),
        .len = vd_get_be32(p + 24),
    };
    if (vd_get_be32(p) != NBD_MAGIC_REQUEST)
        return -EPROTO;
    c->pos += NBD_REQUEST_LEN;
    if (h.type == NBD_CMD_DISC)
        return -ENODATA;
    c->requests++;
    const char *why;
    int err = header_check(c, &h, &why);
    return err < 0 ? refuse(c, &h, err, why) : start(c, &h);
}

/* True if all of it reads as zeroes, as far as the disk knows without reading. VD_YIELDS */
static bool is_hole(struct nbd_req *req)
{
    struct vd_extent ext[4];
    int n = (int)VD_ARRAY_SIZE(ext);
    if (vd_disk_extents(req->conn->disk, req->off, req->len, ext, &n) < 0)
        return false;
    uint64_t zero = 0;
    for (int i = 0; i < n && (ext[i].flags & VD_EXTENT_ZERO); i++)
        zero += ext[i].len;
    return zero == req->len;
}

static int run_read(struct nbd_req *req)
{
    struct nbd_conn *c = req->conn;
    if (c->structured && !(req->flags & NBD_CMD_FLAG_DF) && req->len >= NBD_HOLE_MIN &&
        is_hole(req)) {
        req->hole = true;
        return 0;
    }
    return vd_disk_read(c->disk, req->off, req->buf, req->len);
}

void nbd_request_run(struct nbd_req *req)
{
    struct nbd_conn *c = req->conn;
    unsigned fua = req->flags & NBD_CMD_FLAG_FUA ? VD_DISK_FUA : 0;
    unsigned keep = req->flags & NBD_CMD_FLAG_NO_HOLE ? VD_DISK_NO_UNMAP : 0;
#ifdef VD_PLANT_NBD_FUA_IGNORED
    fua = 0;
#endif
    /* Nobody is left to hear the answer. */
    if (c->broken) {
        req->err = -ECANCELED;
        nbd_request_finish(req);
        return;
    }
    switch (req->type) {
    case NBD_CMD_READ:
        req->err = run_read(req);
        break;
    case NBD_CMD_WRITE:
        req->err = vd_disk_write(c->disk, req->off, req->buf, req->len, fua);
        break;
    case NBD_CMD_FLUSH:
        req->err = vd_disk_flush(c->disk);
        break;
    case NBD_CMD_TRIM:
        req->err = vd_disk_discard(c->disk, req->off, req->len, fua);
        break;
    case NBD_CMD_WRITE_ZEROES:
        req->err = vd_disk_zero(c->disk, req->off, req->len, fua | keep);
        break;
    case NBD_CMD_CACHE:
        break; /* a hint: what is worth keeping the pool knows itself */
    default:
        assert(req->type == NBD_CMD_BLOCK_STATUS);
        req->err = nbd_status_run(req);
        break;
    }
    nbd_request_finish(req);
}
