/* SPDX-License-Identifier: MIT */
/*
 * Reading data blocks. I6: nothing is handed out before its checksum was verified; I11: segments
 * are pinned before the first suspension, so what the caller resolved stays where it is. Suspends.
 */
#include "core/base/hash.h"
#include "pool/pool_priv.h"

#define READ_BATCH 24

static void pin(struct vd_pool *p, const struct pool_piece *pieces, int n, int by)
{
#ifdef VD_PLANT_READ_NOT_PINNED
    return;
#endif
    for (int i = 0; i < n; i++)
        if (pieces[i].addr.seg < p->segs.count)
            p->segs.v[pieces[i].addr.seg].pins += (uint32_t)by;
}

static int piece_verify(const struct pool_piece *q)
{
#ifdef VD_PLANT_MISDIRECTED_ACCEPTED
    return 0;
#endif
    for (uint32_t b = 0; b < q->blocks; b++)
        if (vd_xxh3((const uint8_t *)q->buf + (size_t)b * VD_BLOCK, VD_BLOCK) != q->csum[b])
            return -EBADMSG;
    return 0;
}

/* What was acknowledged early is read when it is complete. -EAGAIN: it has got another place. */
static int wait_complete(struct vd_pool *p, const struct pool_piece *pieces, int n)
{
    uint64_t moves = p->log.moves;
#ifdef VD_PLANT_READ_UNDER_WAY
    return 0;
#endif
    for (int i = 0; i < n; i++)
        while (seg_valid(p, pieces[i].addr, pieces[i].blocks) &&
               log_under_way(p, pieces[i].addr, pieces[i].blocks)) {
            if (pool_failed(p))
                return -EIO;
            vd_wait(&p->log.settled);
        }
    return p->log.moves == moves ? 0 : -EAGAIN;
}

/* Transfers for some pieces. Those that lie close behind each other, as the records of one log do,
 * are read together, and what is between them, another's block or a header, along with them. */
struct batch {
    struct vd_io io[READ_BATCH];
    struct iovec iov[2 * READ_BATCH]; /* a piece, or a gap and a piece */
    int8_t io_of[READ_BATCH];         /* by piece; -1 = it has none */
    int ios, iovs;
};

/* Blocks between the end of `a` and `b`; SIZE_MAX when b is not close behind. */
static size_t gap(const struct pool_piece *a, const struct pool_piece *b)
{
    uint64_t end = a->addr.sector + (uint64_t)a->blocks * VD_SECTORS_PER_BLOCK;
    if (b->addr.seg != a->addr.seg || b->addr.sector < end)
        return SIZE_MAX;
    uint64_t sectors = b->addr.sector - end, blocks = sectors / VD_SECTORS_PER_BLOCK;
    return sectors % VD_SECTORS_PER_BLOCK || blocks > POOL_READ_GAP ? SIZE_MAX : (size_t)blocks;
}

static void batch_add(struct vd_pool *p, struct batch *b, const struct pool_piece *q,
                      const struct pool_piece *before)
{
    size_t between = before ? gap(before, q) : SIZE_MAX;
    struct iovec *v = &b->iov[b->iovs];
    if (between == SIZE_MAX) {
        b->io[b->ios++] = (struct vd_io){.op = VD_IO_READ, .off = addr_off(p, q->addr), .iov = v};
    } else if (between > 0) {
        *v++ = (struct iovec){p->read_gap, between * VD_BLOCK};
        b->iovs++;
        b->io[b->ios - 1].iovcnt++;
    }
    *v = (struct iovec){q->buf, (size_t)q->blocks * VD_BLOCK};
    b->iovs++;
    b->io[b->ios - 1].iovcnt++;
}

/* What became of a piece whose transfer ended; where that failed for several, each has a try of its
 * own, since the bad place may be in another, or in a gap. */
static int batch_result(struct vd_pool *p, const struct vd_io *io, const struct pool_piece *q)
{
    int r = io->res;
    if (r < 0 && io->iovcnt > 1)
        r = vd_dev_read(p->dev, addr_off(p, q->addr), q->buf, (size_t)q->blocks * VD_BLOCK);
    return r < 0 ? r : piece_verify(q);
}

static void read_batch(struct vd_pool *p, struct pool_piece *pieces, int n)
{
    struct batch b;
    const struct pool_piece *before = NULL;
    b.ios = b.iovs = 0;
    for (int i = 0; i < n; i++) {
        struct pool_piece *q = &pieces[i];
        b.io_of[i] = -1;
        q->res = seg_valid(p, q->addr, q->blocks) ? 0 : -EUCLEAN;
        if (q->res < 0)
            continue;
        batch_add(p, &b, q, before);
        b.io_of[i] = (int8_t)(b.ios - 1);
        before = q;
    }
    if (b.ios)
        vd_dev_io(p->dev, b.io, b.ios);
    for (int i = 0; i < n; i++)
        if (b.io_of[i] >= 0)
            pieces[i].res = batch_result(p, &b.io[b.io_of[i]], &pieces[i]);
}

int pool_read(struct vd_pool *p, struct pool_piece *pieces, int n)
{
    int res = 0;
    pin(p, pieces, n, 1);
    if (p->log.told)
        res = wait_complete(p, pieces, n);
    if (res < 0) {
        pin(p, pieces, n, -1);
        for (int i = 0; i < n; i++)
            pieces[i].res = res;
        return res;
    }
    for (int done = 0; done < n; done += READ_BATCH)
        read_batch(p, pieces + done, VD_MIN(n - done, READ_BATCH));
    pin(p, pieces, n, -1);
    for (int i = 0; i < n; i++) {
        if (pieces[i].res == 0)
            continue;
        if (res == 0)
            res = pieces[i].res;
        vd_log(VD_LOG_ERROR, "%s: %u blocks in segment %u, sector %u: %s", vd_dev_path(p->dev),
               pieces[i].blocks, pieces[i].addr.seg, pieces[i].addr.sector,
               strerror(-pieces[i].res));
    }
    return res;
}
