/* SPDX-License-Identifier: MIT */
/*
 * Nodes on their way to and from the device. New nodes are gathered in a buffer and appended to two
 * segments at once, so that their copies are far apart; nothing names them before the root that
 * follows (I4). Suspends for I/O and space.
 */
#include "core/base/text.h"
#include "pool/pool_priv.h"

#include <stdlib.h>

int meta_init(struct vd_pool *p)
{
    struct meta_stream *m = &p->meta;
    m->buf = vd_alloc_aligned((size_t)META_BUFFER_NODES * OD_NODE_SIZE);
    m->a.kind = VD_STREAM_META_A;
    m->b.kind = VD_STREAM_META_B;
    vd_fmutex_init(&m->lock);
    return m->buf ? 0 : -ENOMEM;
}

void meta_done(struct vd_pool *p)
{
    free(p->meta.buf);
}

/* Writes what is buffered, in both copies. */
static int meta_write_out(struct vd_pool *p)
{
    struct meta_stream *m = &p->meta;
    if (m->count == 0)
        return 0;
    struct iovec iov = {m->buf, (size_t)m->count * OD_NODE_SIZE};
    struct vd_io io[2];
    for (unsigned i = 0; i < 2; i++)
        io[i] = (struct vd_io){
            .op = VD_IO_WRITE, .off = addr_off(p, m->first[i]), .iov = &iov, .iovcnt = 1};
    int r = behind_io(p, io, 2);
    p->stats.written[VD_STREAM_META_A] += m->count;
    p->stats.written[VD_STREAM_META_B] += m->count;
    m->a.block += m->count;
    m->b.block += m->count;
    m->count = 0;
    return r;
}

static int stream_room(struct vd_pool *p, struct bulk_stream *s)
{
    if (s->seg && s->block < p->seg_blocks)
        return 0;
    if (s->seg)
        seg_close(p, s->seg);
    s->seg = 0;
    s->block = 0;
    return seg_open(p, s->kind, &s->seg);
}

int meta_flush(struct vd_pool *p)
{
    vd_fmutex_lock(&p->meta.lock);
    int r = meta_write_out(p);
    vd_fmutex_unlock(&p->meta.lock);
    return r;
}

static int meta_append(struct vd_pool *p, const void *node, struct node_ptr *ret)
{
    struct meta_stream *m = &p->meta;
    uint32_t room =
        m->a.seg && m->b.seg ? p->seg_blocks - VD_MAX(m->a.block, m->b.block) - m->count : 0;
    int r = 0;
    if (room == 0 || m->count == META_BUFFER_NODES)
        r = meta_write_out(p);
    if (r == 0 && m->count == 0) {
        r = stream_room(p, &m->a);
        if (r == 0)
            r = stream_room(p, &m->b);
        m->first[0] = (struct vd_addr){m->a.seg, m->a.block * VD_SECTORS_PER_BLOCK};
        m->first[1] = (struct vd_addr){m->b.seg, m->b.block * VD_SECTORS_PER_BLOCK};
    }
    if (r < 0)
        return r;
    memcpy(m->buf + (size_t)m->count * OD_NODE_SIZE, node, OD_NODE_SIZE);
    for (unsigned i = 0; i < 2; i++) {
        ret->copy[i] = vd_addr_plus(m->first[i], m->count);
        p->segs.v[ret->copy[i].seg].delta++;
    }
    ret->csum = vd_get64(((const struct od_node *)node)->csum);
    m->count++;
    return 0;
}

static int meta_write(void *ctx, const void *node, struct node_ptr *ret)
{
    struct vd_pool *p = ctx;
    vd_fmutex_lock(&p->meta.lock);
    int r = pool_failed(p) ? -EROFS : meta_append(p, node, ret);
    vd_fmutex_unlock(&p->meta.lock);
    return r;
}

static int meta_read(void *ctx, struct vd_addr at, void *buf)
{
    struct vd_pool *p = ctx;
    struct meta_stream *m = &p->meta;
    if (!seg_valid(p, at, 1))
        return -EUCLEAN;
    for (unsigned i = 0; i < 2 && m->count; i++) {
        uint32_t n = (at.sector - m->first[i].sector) / VD_SECTORS_PER_BLOCK;
        if (at.seg == m->first[i].seg && at.sector >= m->first[i].sector && n < m->count) {
            memcpy(buf, m->buf + (size_t)n * OD_NODE_SIZE, OD_NODE_SIZE);
            return 0;
        }
    }
    p->segs.v[at.seg].pins++;
    int r = vd_dev_read(p->dev, addr_off(p, at), buf, OD_NODE_SIZE);
    p->segs.v[at.seg].pins--;
    return r;
}

static void meta_release(void *ctx, const struct node_ptr *ptr)
{
    struct vd_pool *p = ctx;
    for (unsigned i = 0; i < 2; i++)
        if (ptr->copy[i].seg < p->segs.count)
            p->segs.v[ptr->copy[i].seg].delta--;
}

static void meta_bad_copy(void *ctx, struct vd_addr at, int err)
{
    struct vd_pool *p = ctx;
    vd_log(VD_LOG_WARNING,
           "%s: a node's copy in segment %u, sector %u is bad (%s); the other serves",
           vd_dev_path(p->dev), at.seg, at.sector, strerror(-err));
}

const struct forest_io pool_forest_io = {
    .read = meta_read,
    .write = meta_write,
    .release = meta_release,
    .bad_copy = meta_bad_copy,
};
