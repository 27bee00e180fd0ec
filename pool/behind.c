/* SPDX-License-Identifier: MIT */
/*
 * Transfers that nobody waits for: of the cleaner and of checkpoints. What guests write waits
 * behind them in the device's queue, so there are few at a time: enough to keep the device busy,
 * and no more. A guest that writes one block at a time would still wait behind each; for its sake
 * they go in short parts, one after another, unless room is short and throughput is what counts.
 * Yields.
 */
#include "pool/pool_priv.h"

#define TRANSFERS 3u /* at once */
#define PART_BYTES VD_KIB(64)
#define ALONE_BLOCKS 3 /* in a record: more are of many requests, or of large ones */
#define PART_IOV (PART_BYTES / VD_BLOCK)

/* Does whoever writes wait for each block? */
static bool gently(const struct vd_pool *p)
{
    return p->log.company <= ALONE_BLOCKS * 16 && !space_is_short(p);
}

/* How far a transfer in parts has come. */
struct progress {
    uint64_t off; /* on the device */
    int at;       /* entry of the iov, and bytes of it that are done */
    size_t skip;
};

static int part_run(struct vd_pool *p, const struct vd_io *io, struct progress *g)
{
    struct iovec iov[PART_IOV];
    size_t len = 0;
    int n = 0;
    while (g->at < io->iovcnt && len < PART_BYTES) {
        const struct iovec *v = &io->iov[g->at];
        size_t piece = VD_MIN(v->iov_len - g->skip, PART_BYTES - len);
        iov[n++] = (struct iovec){(uint8_t *)v->iov_base + g->skip, piece};
        len += piece;
        g->skip += piece;
        if (g->skip == v->iov_len) {
            g->skip = 0;
            g->at++;
        }
    }
    struct vd_io part = {.op = io->op, .flags = io->flags, .off = g->off, .iov = iov, .iovcnt = n};
    g->off += len;
    return vd_dev_io(p->dev, &part, 1);
}

static int transfer_run(struct vd_pool *p, const struct vd_io *io)
{
    struct progress g = {.off = io->off};
    int r = 0;
    while (r == 0 && g.at < io->iovcnt)
        r = part_run(p, io, &g);
    return r;
}

/* Parts or wholes, side by side or one after another. */
static int some_run(struct vd_pool *p, struct vd_io *ios, int n)
{
    if (!gently(p))
        return vd_dev_io(p->dev, ios, n);
    int failed = 0;
    for (int i = 0; i < n; i++) {
        ios[i].res = transfer_run(p, &ios[i]);
        failed = failed ? failed : ios[i].res;
    }
    return failed;
}

int behind_io(struct vd_pool *p, struct vd_io *ios, int n)
{
    int failed = 0;
    for (int done = 0; done < n;) {
        while (p->behind.used == TRANSFERS)
            vd_wait(&p->behind.ended);
        int k = VD_MIN(n - done, (int)(TRANSFERS - p->behind.used));
        p->behind.used += (unsigned)k;
        int r = some_run(p, ios + done, k);
        p->behind.used -= (unsigned)k;
        for (int i = 0; i < k; i++)
            vd_wake_one(&p->behind.ended);
        failed = failed ? failed : r;
        done += k;
    }
    return failed;
}
