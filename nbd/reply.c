/* SPDX-License-Identifier: MIT */
/*
 * Answers. A finished request is encoded into its own head[] and put on the connection's list; the
 * sender writes all that is on the list with one call, header and data of each, so that many
 * requests finished in one turn of the loop cost one system call.
 *
 * Invariants:
 *  1. Only the sender writes to the socket once the handshake is over, and whole replies: they
 * never mix, whatever order requests finish in.
 *  2. A structured read never claims success before it is certain: pieces go out without the final
 *     mark, and the whole request's own chunk, the last one, carries it.
 *  3. Of a request that failed no data is sent, save what a streamed read sent before it failed;
 *     then the connection ends, as the protocol demands.
 */
#include "core/base/log.h"
#include "nbd/nbd_priv.h"

#include <stdio.h>

/* The protocol's number for one of ours. */
static uint32_t wire_error(int r, uint16_t type)
{
    bool change = type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;
    switch (-r) {
    case EPERM:
    case EACCES:
    case EROFS:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ERANGE: /* beyond the end */
        return change ? NBD_ENOSPC : NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case EOPNOTSUPP:
        return NBD_ENOTSUP;
    case ECANCELED:
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

static void put_simple(struct nbd_req *req, uint32_t error)
{
    vd_put_be32(req->head, NBD_MAGIC_SIMPLE_REPLY);
    vd_put_be32(req->head + 4, error);
    vd_put_be64(req->head + 8, req->cookie);
    req->head_len = NBD_SIMPLE_REPLY_LEN;
}

void nbd_put_chunk(uint8_t *to, enum nbd_chunk type, bool done, uint64_t cookie, uint32_t len)
{
    vd_put_be32(to, NBD_MAGIC_CHUNK);
    vd_put_be16(to + 4, done ? NBD_CHUNK_DONE : 0);
    vd_put_be16(to + 6, (uint16_t)type);
    vd_put_be64(to + 8, cookie);
    vd_put_be32(to + 16, len);
}

static void put_chunk(struct nbd_req *req, enum nbd_chunk type, bool done, uint32_t len)
{
    nbd_put_chunk(req->head, type, done, req->cookie, len);
    req->head_len = NBD_CHUNK_LEN;
}

static void put_error(struct nbd_req *req)
{
    uint32_t error = wire_error(req->err, req->type);
    req->data_len = 0;
    if (!req->conn->structured) {
        put_simple(req, error);
        return;
    }
    size_t room = sizeof(req->head) - NBD_CHUNK_LEN - 6;
    size_t len = req->why ? VD_MIN(strlen(req->why), room) : 0;
    put_chunk(req, NBD_CHUNK_ERROR, true, (uint32_t)(6 + len));
    vd_put_be32(req->head + 20, error);
    vd_put_be16(req->head + 24, (uint16_t)len);
    if (len > 0)
        memcpy(req->head + 26, req->why, len);
    req->head_len += (uint32_t)(6 + len);
}

static void put_read(struct nbd_req *req)
{
    bool done = !req->whole;
    if (!req->conn->structured) {
        put_simple(req, 0);
        req->data_len = req->len;
    } else if (req->len == 0) {
        put_chunk(req, NBD_CHUNK_NONE, true, 0);
    } else if (req->hole) {
        put_chunk(req, NBD_CHUNK_OFFSET_HOLE, done, 12);
        vd_put_be64(req->head + 20, req->off);
        vd_put_be32(req->head + 28, req->len);
        req->head_len += 12;
    } else {
        put_chunk(req, NBD_CHUNK_OFFSET_DATA, done, 8 + req->len);
        vd_put_be64(req->head + 20, req->off);
        req->head_len += 8;
        req->data_len = req->len;
    }
}

static void encode(struct nbd_req *req)
{
    if (req->err < 0)
        put_error(req);
    else if (req->type == NBD_CMD_READ && req->buf)
        put_read(req);
    else if (req->type == NBD_CMD_READ && req->conn->structured)
        put_chunk(req, NBD_CHUNK_NONE, true, 0); /* the end of one that went out in pieces */
    else if (req->type == NBD_CMD_BLOCK_STATUS)
        req->head_len = 0; /* its chunks are in the buffer already */
    else
        put_simple(req, 0);
}

static void reply_push(struct nbd_req *req)
{
    struct nbd_conn *c = req->conn;
    if (c->broken) {
        nbd_release(req);
        return;
    }
    if (!req->streamed)
        encode(req);
    vd_list_push(&c->done, &req->link);
    vd_wake_one(&c->send_q);
}

void nbd_request_finish(struct nbd_req *req)
{
    struct nbd_req *whole = req->whole;
    if (!whole) {
        /* A whole request is held once by the reader while it still cuts pieces. */
        if (req->pieces == 0 || --req->pieces == 0)
            reply_push(req);
        return;
    }
    if (req->err < 0 && whole->err == 0) {
        whole->err = req->err;
        whole->why = req->why;
    }
    if (req->type == NBD_CMD_READ && req->err == 0)
        reply_push(req);
    else
        nbd_release(req);
    if (--whole->pieces == 0)
        reply_push(whole);
}

/* A read too long for one buffer that must be answered in one piece: read and sent in turn. The
 * first part decides what the client hears; a later failure can only end the connection. VD_YIELDS
 */
static int send_streamed(struct nbd_conn *c, struct nbd_req *req)
{
    int r = 0;
    for (uint32_t done = 0; done < req->len && r == 0;) {
        struct iovec iov[2];
        size_t part = VD_MIN(req->len - done, req->buf_len);
        r = vd_disk_read(c->disk, req->off + done, req->buf, part);
        if (done == 0) {
            req->err = r;
            encode(req);
            if (r < 0)
                return vd_stream_write(c->stream, req->head, req->head_len);
        }
        iov[0] = (struct iovec){.iov_base = req->head, .iov_len = done == 0 ? req->head_len : 0};
        iov[1] = (struct iovec){.iov_base = req->buf, .iov_len = part};
        if (r == 0)
            r = done == 0 ? vd_stream_writev(c->stream, iov, 2)
                          : vd_stream_write(c->stream, req->buf, part);
        done += (uint32_t)part;
        vd_fiber_yield();
    }
    return r;
}

/* What is ready, with one call. VD_YIELDS */
static int send_ready(struct nbd_conn *c)
{
    struct vd_list batch;
    size_t len = 0;
    int n = 0, r;
    vd_list_init(&batch);
    while (!vd_list_empty(&c->done) && n + 2 <= NBD_SEND_IOV && len < NBD_TURN_LEN) {
        struct nbd_req *req = vd_container_of(c->done.next, struct nbd_req, link);
        if (req->streamed && n > 0)
            break;
        vd_list_remove(&req->link);
        vd_list_push(&batch, &req->link);
        if (req->streamed)
            break;
        c->iov[n++] = (struct iovec){.iov_base = req->head, .iov_len = req->head_len};
        if (req->data_len > 0)
            c->iov[n++] = (struct iovec){.iov_base = req->buf, .iov_len = req->data_len};
        len += req->head_len + req->data_len;
    }
    if (n == 0)
        r = send_streamed(c, vd_container_of(batch.next, struct nbd_req, link));
    else
        r = vd_stream_writev(c->stream, c->iov, n);
    for (struct vd_list *l; (l = vd_list_pop(&batch));)
        nbd_release(vd_container_of(l, struct nbd_req, link));
    /* A client that takes data as fast as we send it would never make us wait. */
    if (len >= NBD_TURN_LEN)
        vd_fiber_yield();
    return r;
}

/* While the handshake lasts the sender has nothing to send: it watches the clock. VD_YIELDS */
static void guard_handshake(struct nbd_conn *c)
{
    uint64_t end = vd_loop_now_ns(c->server->loop) + c->server->handshake_ns;
    while (c->stage == NBD_HANDSHAKE && !c->finished && !c->broken) {
        uint64_t now = vd_loop_now_ns(c->server->loop);
        if (now < end) {
            vd_wait_for(&c->send_q, end - now);
            continue;
        }
        vd_log(VD_LOG_WARNING, "nbd: %s took too long to choose an export: disconnected", c->peer);
        nbd_conn_break(c);
    }
}

void nbd_sender_main(void *arg)
{
    struct nbd_conn *c = arg;
    guard_handshake(c);
    for (;;) {
        while (vd_list_empty(&c->done) && !c->finished)
            vd_wait(&c->send_q);
        if (vd_list_empty(&c->done))
            break;
        if (send_ready(c) < 0)
            nbd_conn_break(c);
    }
    c->sender_ended = true;
    vd_wake_all(&c->room_q);
}
