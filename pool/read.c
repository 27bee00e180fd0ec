/* SPDX-License-Identifier: MIT */
/*
 * Reading data blocks. I6: nothing is handed out before its checksum was verified; I11: segments
 * are pinned before the first suspension, so what the caller resolved stays where it is. Suspends.
 */
#include "core/base/hash.h"
#include "pool/pool_priv.h"

#define READ_BATCH 32

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
    for (int done = 0; done < n; done += READ_BATCH) {
        struct vd_io io[READ_BATCH];
        struct iovec iov[READ_BATCH];
        int which[READ_BATCH], count = 0;
        for (int i = done; i < VD_MIN(n, done + READ_BATCH); i++) {
            struct pool_piece *q = &pieces[i];
            q->res = seg_valid(p, q->addr, q->blocks) ? 0 : -EUCLEAN;
            if (q->res < 0)
                continue;
            iov[count] = (struct iovec){q->buf, (size_t)q->blocks * VD_BLOCK};
            io[count] = (struct vd_io){
                .op = VD_IO_READ, .off = addr_off(p, q->addr), .iov = &iov[count], .iovcnt = 1};
            which[count++] = i;
        }
        if (count)
            vd_dev_io(p->dev, io, count);
        for (int i = 0; i < count; i++) {
            struct pool_piece *q = &pieces[which[i]];
            q->res = io[i].res;
            if (q->res == 0)
                q->res = piece_verify(q);
        }
    }
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
