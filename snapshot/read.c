/* SPDX-License-Identifier: MIT */
/*
 * Reading a view: cells are resolved into pieces, pieces are read and verified by the pool.
 *
 * Invariants: between resolving a piece and pool_read, which pins its segment, nothing suspends
 * (I11); when a node must be loaded in the middle of a batch, what has been resolved so far is read
 * first. Data goes straight into the caller's memory when that is whole aligned blocks, else
 * through a buffer of our own. A 4 KiB read with its nodes in memory allocates nothing.
 */
#include "snapshot/store_priv.h"

#include "core/base/log.h"
#include "core/base/text.h"

#include <stdlib.h>

#define BATCH_BLOCKS 256u
#define SPARES_MAX 64

struct io_ctx {
    struct io_ctx *next;
    int pieces;
    unsigned blocks;
    struct pool_piece piece[BATCH_BLOCKS];
    uint64_t csum[BATCH_BLOCKS];
};

static struct io_ctx *ctx_get(struct snap_store *s)
{
    struct io_ctx *c = s->spare;
    if (c) {
        s->spare = c->next;
        s->spares--;
    } else {
        c = malloc(sizeof(*c));
    }
    if (c) {
        c->pieces = 0;
        c->blocks = 0;
    }
    return c;
}

static void ctx_put(struct snap_store *s, struct io_ctx *c)
{
    if (s->spares >= SPARES_MAX) {
        free(c);
        return;
    }
    c->next = s->spare;
    s->spare = c;
    s->spares++;
}

void read_done(struct snap_store *s)
{
    while (s->spare) {
        struct io_ctx *c = s->spare;
        s->spare = c->next;
        free(c);
    }
    s->spares = 0;
}

/* Adds a block that lies at addr and goes to buf. */
static void ctx_add(struct io_ctx *c, struct vd_addr addr, uint64_t csum, void *buf)
{
    c->csum[c->blocks] = csum;
    struct pool_piece *p = c->pieces ? &c->piece[c->pieces - 1] : NULL;
    if (p && vd_addr_equal(vd_addr_plus(p->addr, p->blocks), addr) &&
        (uint8_t *)p->buf + (size_t)p->blocks * VD_BLOCK == buf) {
        p->blocks++;
    } else {
        c->piece[c->pieces++] =
            (struct pool_piece){.addr = addr, .blocks = 1, .csum = &c->csum[c->blocks], .buf = buf};
    }
    c->blocks++;
}

/* Memory that blocks go to: a vector of whole aligned blocks, walked from its start. */
struct target {
    const struct iovec *iov;
    size_t at; /* bytes used of *iov */
};

static void *target_next(struct target *t)
{
    while (t->at == t->iov->iov_len) {
        t->iov++;
        t->at = 0;
    }
    void *p = (uint8_t *)t->iov->iov_base + t->at;
    t->at += VD_BLOCK;
    return p;
}

/* Resolves as many cells of [*lba, end) as a batch holds. -EAGAIN: *need first, nothing resolved.
 */
static int batch_resolve(struct snap_store *s, struct view_ref ref, struct io_ctx *c,
                         struct target *t, uint64_t *lba, uint64_t end, struct forest_need *need)
{
    const uint64_t start = *lba;
    struct cell_view v;

    while (*lba < end && *lba - start + VD_CELL_BLOCKS <= BATCH_BLOCKS) {
        uint64_t cell = *lba / VD_CELL_BLOCKS;
        unsigned first = (unsigned)(*lba % VD_CELL_BLOCKS);
        unsigned n = (unsigned)VD_MIN(end - *lba, VD_CELL_BLOCKS - first);
        v.want = (uint32_t)(((UINT64_C(1) << n) - 1) << first);
        v.known = 0;
        int r = view_cell(s, view_of(ref), cell, &v, need);
        if (r == -EAGAIN && *lba > start)
            return 0;
        if (r < 0)
            return r;
        for (unsigned i = first; i < first + n; i++) {
            void *buf = target_next(t);
            if (v.b[i].type == VD_RUN_ZERO)
                memset(buf, 0, VD_BLOCK);
            else
                ctx_add(c, v.b[i].addr, v.b[i].csum, buf);
        }
        *lba += n;
    }
    return 0;
}

static int read_failed(struct view_ref ref, uint64_t lba, uint64_t end, int err)
{
    vd_log_volume(VD_LOG_ERROR, ref.volume->rec.name,
                  "volume %s%s%s: reading %" PRIu64 " bytes at %" PRIu64 ": %s",
                  ref.volume->rec.name, ref.snapshot ? "@" : "",
                  ref.snapshot ? ref.snapshot->rec.name : "", (end - lba) * VD_BLOCK,
                  lba * VD_BLOCK, err == -EBADMSG ? "checksum mismatch" : strerror(-err));
    return err;
}

/* Reads [lba, lba + blocks) into a vector of whole aligned blocks. */
static int read_aligned(struct snap_store *s, struct view_ref ref, uint64_t lba, uint64_t blocks,
                        const struct iovec *iov)
{
    struct target t = {.iov = iov};
    uint64_t end = lba + blocks;
    struct io_ctx *c = ctx_get(s);
    int r = c ? 0 : -ENOMEM;

    while (r == 0 && lba < end) {
        struct forest_need need;
        uint64_t from = lba;
        struct target start = t;
        c->pieces = 0;
        c->blocks = 0;
        r = batch_resolve(s, ref, c, &t, &lba, end, &need);
        if (r == -EAGAIN) {
            r = forest_load(pool_forest(s->pool), &need);
            if (r == -EAGAIN)
                r = 0;
        } else if (r == 0 && c->pieces) {
            r = pool_read(s->pool, c->piece, c->pieces);
            if (r == -EAGAIN) { /* to where it is by now */
                lba = from;
                t = start;
                r = 0;
            }
        }
        if (r < 0)
            read_failed(ref, from, VD_MAX(lba, from + 1), r);
    }
    if (c)
        ctx_put(s, c);
    return r;
}

int view_read_blocks(struct snap_store *s, struct view_ref ref, uint64_t lba, uint64_t blocks,
                     void *buf)
{
    struct iovec iov = {buf, blocks * VD_BLOCK};
    return read_aligned(s, ref, lba, blocks, &iov);
}

static bool iov_aligned(const struct iovec *iov, int n)
{
    uintptr_t bits = 0;
    for (int i = 0; i < n; i++)
        bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return bits % VD_BLOCK == 0;
}

/* Copies to the vector from byte `at` of it on. */
static void iov_fill(const struct iovec *iov, size_t at, const uint8_t *from, size_t len)
{
    for (; at >= iov->iov_len; iov++)
        at -= iov->iov_len;
    while (len > 0) {
        size_t n = VD_MIN(len, iov->iov_len - at);
        memcpy((uint8_t *)iov->iov_base + at, from, n);
        from += n;
        len -= n;
        at = 0;
        iov++;
    }
}

static int read_bounced(struct snap_store *s, struct view_ref ref, uint64_t off,
                        const struct iovec *iov, size_t len)
{
    const uint64_t room = (uint64_t)BATCH_BLOCKS * VD_BLOCK;
    uint64_t lba = off / VD_BLOCK, end = VD_DIV_UP(off + len, VD_BLOCK), at = 0;
    uint8_t *buf = vd_alloc_aligned(VD_MIN((end - lba) * VD_BLOCK, room));
    int r = buf ? 0 : -ENOMEM;

    while (r == 0 && lba < end) {
        uint64_t n = VD_MIN(end - lba, BATCH_BLOCKS);
        r = view_read_blocks(s, ref, lba, n, buf);
        if (r < 0)
            break;
        size_t skip = (size_t)(off + at - lba * VD_BLOCK);
        size_t take = (size_t)VD_MIN(n * VD_BLOCK - skip, len - at);
        iov_fill(iov, at, buf + skip, take);
        at += take;
        lba += n;
    }
    free(buf);
    return r;
}

int view_read(struct snap_store *s, struct view_ref ref, uint64_t off, const struct iovec *iov,
              int n, size_t len)
{
    if ((off | len) % VD_BLOCK == 0 && iov_aligned(iov, n))
        return read_aligned(s, ref, off / VD_BLOCK, len / VD_BLOCK, iov);
    return read_bounced(s, ref, off, iov, len);
}
