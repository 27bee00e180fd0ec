/* SPDX-License-Identifier: MIT */
/*
 * The log: group commit, acknowledgement in sequence, flushes, and what happens when a write of it
 * fails.
 *
 *   pool_commit -> queue -> (writer fiber) record built and written -> complete, in sequence order:
 *   entries applied to overlay and client, operations acknowledged
 *
 * I2  every change is a log entry.
 * I8  an operation is acknowledged when its record and all before it are complete on the device.
 * I3  a flush returns after everything acknowledged before it is durable.
 * I9  a failed flush fails the pool; it is never tried again as if nothing had been lost.
 *
 * A few writer fibers each build one record from what is queued and write it; building does not
 * suspend, so records get their place and number in one go. A record that cannot be written closes
 * the segment: it and all after it are written again, under their old numbers, at the start of the
 * reserved successor.
 */
#include "core/base/hash.h"
#include "core/base/text.h"
#include "pool/pool_priv.h"

#include <stdlib.h>

#define FLUSH_EVERY_NS UINT64_C(1000000000)
#define FLUSH_EVERY_BYTES VD_MIB(256)
#define LOG_FAILURES_MAX 3
#define LOG_COMPANY 16 /* blocks */

/* ---- records ---- */

static struct log_rec *rec_new(struct vd_pool *p)
{
    struct vd_list *l = vd_list_pop(&p->log.spare);
    struct log_rec *rec = l ? vd_container_of(l, struct log_rec, link) : NULL;
    if (!rec) {
        rec = calloc(1, sizeof(*rec));
        if (!rec)
            return NULL;
        rec->header = vd_alloc_aligned(OD_NODE_SIZE);
        if (!rec->header) {
            free(rec);
            return NULL;
        }
        vd_list_init(&rec->link);
        vd_list_init(&rec->ops);
    }
    rec->payload_blocks = rec->bounced = 0;
    rec->commit = rec->done = rec->dsync = false;
    rec->res = 0;
    rec->iovcnt = 1;
    rec->relocations = NULL;
    rec->iov[0] = (struct iovec){rec->header, VD_BLOCK};
    memset(rec->header, 0, VD_BLOCK);
    memset(&rec->rec, 0, sizeof(rec->rec));
    return rec;
}

static void rec_free(struct log_rec *rec)
{
    free(rec->header);
    free(rec->bounce);
    free(rec);
}

/* ---- building ---- */

struct build {
    struct vd_pool *p;
    struct log_rec *rec;
    unsigned len; /* entry bytes used */
    unsigned count;
    uint32_t room; /* payload blocks there is space for */
};

static unsigned build_left(const struct build *b)
{
    return OD_RECORD_ENTRIES_MAX - b->len;
}

static void build_entry(struct build *b, const struct vd_entry *e)
{
    b->len += (unsigned)entry_encode(e, b->rec->header + OD_RECORD_ENTRIES + b->len);
    b->count++;
}

/* Memory of `blocks` blocks at block `pos` of the operation, as iov entries of the record. Pieces
 * that are not whole aligned blocks are copied. False when the record has no room for that. */
static bool build_payload(struct build *b, const struct pool_op *op, uint64_t pos, uint32_t blocks)
{
    struct log_rec *rec = b->rec;
    size_t skip = pos * VD_BLOCK, want = (size_t)blocks * VD_BLOCK;
    int i = 0;
    while (skip >= op->iov[i].iov_len)
        skip -= op->iov[i++].iov_len;
    uint8_t *base = (uint8_t *)op->iov[i].iov_base + skip;
    bool direct = op->iov[i].iov_len - skip >= want && (uintptr_t)base % VD_BLOCK == 0;
    if (!direct) {
        if (!rec->bounce)
            rec->bounce = vd_alloc_aligned(LOG_PAYLOAD_BLOCKS * VD_BLOCK);
        if (!rec->bounce)
            return false;
        uint8_t *to = rec->bounce + (size_t)rec->bounced * VD_BLOCK;
        rec->bounced += blocks;
        base = to;
        for (; want; i++, skip = 0) {
            size_t n = VD_MIN(want, op->iov[i].iov_len - skip);
            memcpy(to, (uint8_t *)op->iov[i].iov_base + skip, n);
            to += n;
            want -= n;
        }
    }
    struct iovec *last = &rec->iov[rec->iovcnt - 1];
    if ((uint8_t *)last->iov_base + last->iov_len == base && rec->iovcnt > 1)
        last->iov_len += (size_t)blocks * VD_BLOCK;
    else
        rec->iov[rec->iovcnt++] = (struct iovec){base, (size_t)blocks * VD_BLOCK};
    return true;
}

/* The bytes of block `i` of a WRITE, contiguous: *tmp is used when they are not. */
static const uint8_t *op_block(const struct pool_op *op, uint64_t i, uint8_t *tmp)
{
    size_t skip = i * VD_BLOCK;
    int v = 0;
    while (skip >= op->iov[v].iov_len)
        skip -= op->iov[v++].iov_len;
    if (op->iov[v].iov_len - skip >= VD_BLOCK)
        return (uint8_t *)op->iov[v].iov_base + skip;
    size_t got = 0;
    for (; got < VD_BLOCK; v++, skip = 0) {
        size_t n = VD_MIN(VD_BLOCK - got, op->iov[v].iov_len - skip);
        memcpy(tmp + got, (uint8_t *)op->iov[v].iov_base + skip, n);
        got += n;
    }
    return tmp;
}

/* Encodes a piece of a WRITE from op->pos on: blocks of one cell, all zero or none. 0 when there is
 * no room for even one block. */
static uint32_t build_write_piece(struct build *b, struct pool_op *op)
{
    uint64_t lba = op->lba + op->pos;
    uint32_t n = (uint32_t)VD_MIN(op->blocks - op->pos, VD_CELL_BLOCKS - lba % VD_CELL_BLOCKS);
    uint8_t *tmp = b->p->log.scratch;
    bool detect = !(op->flags & POOL_OP_KEEP_ZERO);
    struct vd_entry e = {.type = VD_ENTRY_WRITE, .branch = op->branch, .lba = lba};
    bool zero = detect && vd_is_zero(op_block(op, op->pos, tmp), VD_BLOCK);

    if (zero) {
        if (build_left(b) < sizeof(struct od_entry_zero))
            return 0;
        uint32_t i = 1;
        while (i < n && vd_is_zero(op_block(op, op->pos + i, tmp), VD_BLOCK))
            i++;
        e.type = VD_ENTRY_ZERO;
        e.blocks = i;
        build_entry(b, &e);
        return i;
    }
    if (build_left(b) < sizeof(struct od_entry_write) + sizeof(uint64_t) ||
        b->rec->iovcnt == LOG_IOV)
        return 0;
    uint32_t fit = (build_left(b) - (uint32_t)sizeof(struct od_entry_write)) / 8;
    n = VD_MIN(VD_MIN(n, fit), b->room);
    uint32_t i = 0;
    for (; i < n; i++) {
        const uint8_t *data = op_block(op, op->pos + i, tmp);
        if (i && detect && vd_is_zero(data, VD_BLOCK))
            break;
        e.csum[i] = vd_xxh3(data, VD_BLOCK);
    }
    if (i == 0 || !build_payload(b, op, op->pos, i))
        return 0;
    e.blocks = i;
    e.payload = b->rec->payload_blocks;
    b->rec->payload_blocks += i;
    b->room -= i;
    build_entry(b, &e);
    return i;
}

/* Payload blocks that the operation needs in the record it goes on in. */
static uint32_t op_payload(const struct pool_op *op)
{
    if (op->count == 0)
        return 1;
    return op->relocations && op->pos == 0 ? 2 * (uint32_t)op->entries[0].blocks : 0;
}

/* Could all that is left of op go into this record? An upper bound will do. */
static bool build_fits(const struct build *b, const struct pool_op *op)
{
    if (op->count) {
        if (op->relocations && op->pos == 0 &&
            (b->rec->relocations || op_payload(op) > b->room || b->rec->iovcnt == LOG_IOV))
            return false;
        size_t need = 0;
        for (uint64_t i = op->pos; i < op->count && need <= build_left(b); i++)
            need += entry_size(&op->entries[i]);
        return need <= build_left(b);
    }
    uint64_t n = op->blocks - op->pos;
    if (n > b->room || (uint64_t)b->rec->iovcnt + n > LOG_IOV)
        return false;
    if (n == 1)
        return build_left(b) >= sizeof(struct od_entry_write) + 8;
    return n * 32 + 2 * sizeof(struct od_entry_write) <= build_left(b);
}

/* The first entry of an operation that has relocations, and their two copies. There is room. */
static void build_relocations(struct build *b, struct pool_op *op)
{
    struct vd_entry e = op->entries[op->pos++];
    uint32_t blocks = 2 * (uint32_t)e.blocks;
    e.payload = b->rec->payload_blocks;
    b->rec->relocations = op->relocations;
    b->rec->iov[b->rec->iovcnt++] =
        (struct iovec){(void *)(uintptr_t)op->relocations, (size_t)blocks * VD_BLOCK};
    b->rec->payload_blocks += blocks;
    b->room -= blocks;
    build_entry(b, &e);
}

/* Encodes as much of op as there is room for; true when that was its end. */
static bool build_op(struct build *b, struct pool_op *op)
{
    if (op->count) {
        if (op->relocations && op->pos == 0)
            build_relocations(b, op);
        while (op->pos < op->count && entry_size(&op->entries[op->pos]) <= build_left(b))
            build_entry(b, &op->entries[op->pos++]);
        return op->pos == op->count;
    }
    while (op->pos < op->blocks) {
        uint32_t n = build_write_piece(b, op);
        if (n == 0)
            return false;
        op->pos += n;
    }
    return true;
}

struct vd_segref log_segref(const struct vd_logref *l)
{
    return (struct vd_segref){.seg = l->seg,
                              .stream = VD_STREAM_LOG,
                              .nchunks = 1,
                              .rid = l->rid,
                              .chunk = {{.dev = 0, .idx = l->seg}}};
}

/* Moves on to the reserved successor. */
static void log_roll(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    seg_close(p, l->cur.seg);
    l->cur = l->next[0];
    l->next[0] = l->next[1];
    l->next[1] = l->prepared;
    l->announce = l->prepared.seg != 0;
    l->prepared = (struct vd_logref){0};
    l->block = 0;
    l->fill_ns = vd_loop_now_ns(p->loop) - l->rolled_ns;
    l->rolled_ns += l->fill_ns;
    space_kick(p); /* reserves another */
}

/* Puts a finished header together: place, number, chain, echo, horizon. Also for a second attempt,
 * which keeps entries and number. */
static void rec_seal(struct vd_pool *p, struct log_rec *rec)
{
    struct pool_log *l = &p->log;
    struct vd_record *r = &rec->rec;
    rec->at = (struct vd_addr){l->cur.seg, l->block * VD_SECTORS_PER_BLOCK};
    r->pool = p->pool64;
    r->incarnation = l->incarnation;
    r->seq = rec->seq;
    r->prev_csum = l->prev_csum;
    r->rid = l->cur.rid;
    r->at = rec->at;
    r->payload_blocks = rec->payload_blocks;
    r->flags = (uint16_t)((rec->commit ? OD_RECORD_COMMIT : 0) | (r->flags & OD_RECORD_SEAL));
    r->echo_len = l->echo_len;
    r->echo_count = l->echo_count;
    r->prev_flags = l->echo_flags;
    r->prev_payload_blocks = l->echo_payload_blocks;
    r->horizon = l->durable_seq;
    r->root_counter = p->root.counter;
    memcpy(r->next, l->next, sizeof(r->next));
    r->wall_s = vd_loop_wall_s(p->loop);
    memset(rec->header, 0, OD_RECORD_ENTRIES);
    memcpy(rec->header + OD_RECORD_ENTRIES + r->entries_len, l->echo, l->echo_len);
    size_t used = OD_RECORD_ENTRIES + r->entries_len + l->echo_len;
    memset(rec->header + used, 0, VD_BLOCK - used);
    l->prev_csum = record_seal(r, rec->header);

    memcpy(l->echo, rec->header + OD_RECORD_ENTRIES, r->entries_len);
    l->echo_len = r->entries_len;
    l->echo_count = r->entry_count;
    l->echo_flags = r->flags;
    l->echo_payload_blocks = r->payload_blocks;
    l->sealed = r->horizon;
    l->block += 1 + rec->payload_blocks;
    p->segs.v[rec->at.seg].last_seq = rec->seq;
    uint64_t bytes = (1 + (uint64_t)rec->payload_blocks) * VD_BLOCK;
    l->window_bytes += bytes;
    l->unflushed_bytes += bytes;
    p->stats.written[VD_STREAM_LOG] += bytes / VD_BLOCK;
    p->stats.records++;
}

static bool log_is_known(const struct pool_log *l, const struct vd_logref *to)
{
#ifdef VD_PLANT_LOG_GOES_ANYWHERE
    return true;
#endif
    for (unsigned i = 0; i < OD_LOG_NEXT && to->seg; i++)
        if (l->known[i].seg == to->seg && l->known[i].rid == to->rid)
            return true;
    return false;
}

/* Builds the next record from the queue, and puts it in flight. Returns NULL when there is nothing
 * to write or no successor is reserved yet. Does not suspend. */
static struct log_rec *log_build(struct vd_pool *p, bool seal)
{
    struct pool_log *l = &p->log;
    if ((vd_list_empty(&l->queue) && !seal) || pool_failed(p) || l->failing)
        return NULL;
    struct pool_op *first =
        vd_list_empty(&l->queue) ? NULL : vd_container_of(l->queue.next, struct pool_op, link);
    uint32_t payload = first ? op_payload(first) : 0;
    /* While a record is under way the next one waits for company: headers shared by many writes
     * cost little, and the device is busy anyhow. */
    if (!seal && l->inflight_count && l->queued < LOG_COMPANY)
        return NULL;
    /* If the first record of a segment fails, it is written again in the segment's successor, which
     * replay finds only if a record before has named it. The last block of a segment is for that.
     */
    bool known = log_is_known(l, &l->next[1]), only_names = false;
    if (l->block + 1 + payload + !known > p->seg_blocks) {
        if (!known && (!l->next[1].seg || l->inflight_count))
            return NULL;
        only_names = !known && l->block < p->seg_blocks; /* it is full after a rewrite only */
        if (!only_names)
            log_roll(p);
        known = log_is_known(l, &l->next[1]);
    }
    struct log_rec *rec = rec_new(p);
    if (!rec)
        return NULL;
    struct build b = {.p = p, .rec = rec};
    b.room = VD_MIN(p->seg_blocks - l->block - 1 - (!known && !only_names), LOG_PAYLOAD_BLOCKS);
    if (l->announce) {
        const struct vd_logref *n = &l->next[OD_LOG_NEXT - 1];
        struct vd_entry e = {.type = VD_ENTRY_SEGMENT, .seg = log_segref(n)};
        build_entry(&b, &e);
        l->announce = false;
    }
    bool whole = !only_names || !first || first->pos == 0;
    uint64_t charge = 1;
    while (!vd_list_empty(&l->queue) && !only_names) {
        struct pool_op *op = vd_container_of(l->queue.next, struct pool_op, link);
        if (!vd_list_empty(&rec->ops) && !build_fits(&b, op))
            break;
        whole = build_op(&b, op);
        if (!whole)
            break;
        vd_list_remove(&op->link);
        vd_list_push(&rec->ops, &op->link);
        l->queued -= op->count ? 1 : op->blocks;
        charge += op->charge;
        op->charge = 0;
    }
    space_placed(p, charge - 1);
    rec->commit = whole;
    rec->seq = l->next_seq++;
    rec->rec.epoch = p->epoch;
    rec->rec.entry_count = b.count;
    rec->rec.entries_len = b.len;
    if (seal || only_names)
        rec->rec.flags = OD_RECORD_SEAL;
    else
        l->data_seq = rec->seq;
    rec_seal(p, rec);
    vd_list_push(&l->inflight, &rec->link);
    l->inflight_count++;
    return rec;
}

/* ---- completion ---- */

static void op_finish(struct pool_op *op, int res)
{
    op->res = res;
    op->done = true;
    vd_fiber_wake(op->fiber);
}

static void ops_finish(struct vd_list *ops, uint64_t seq, int res)
{
    struct vd_list *l;
    while ((l = vd_list_pop(ops))) {
        struct pool_op *op = vd_container_of(l, struct pool_op, link);
        op->seq = seq;
        op_finish(op, res);
    }
}

/* Applies one complete record and acknowledges what ends in it. */
static void rec_acknowledge(struct vd_pool *p, struct log_rec *rec)
{
    int r = log_apply(p, &rec->rec, rec->header, rec->relocations);
    if (r < 0)
        pool_fail(p, "record %" PRIu64 " cannot be applied: %s", rec->seq, strerror(-r));
    p->log.applied_seq = rec->seq;
    p->log.applied_csum = rec->rec.csum;
    if (rec->dsync && r == 0)
        p->log.durable_seq = VD_MAX(p->log.durable_seq, rec->seq);
    ops_finish(&rec->ops, rec->seq, r);
    vd_list_push(&p->log.spare, &rec->link);
}

/* In sequence order, as far as records are complete. An operation over several records counts when
 * its last one does: all or none. */
static void log_complete(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    while (!vd_list_empty(&l->inflight)) {
        struct log_rec *rec = vd_container_of(l->inflight.next, struct log_rec, link);
        if (!rec->done || rec->res < 0)
            break;
        vd_list_remove(&rec->link);
        l->inflight_count--;
        l->failures = 0;
        memcpy(l->known, rec->rec.next, sizeof(l->known));
        if (!rec->commit) {
            vd_list_push(&l->group, &rec->link);
            continue;
        }
        struct vd_list *g;
        while ((g = vd_list_pop(&l->group)))
            rec_acknowledge(p, vd_container_of(g, struct log_rec, link));
        rec_acknowledge(p, rec);
    }
    if (l->inflight_count == 0)
        vd_wake_all(&l->idle);
    if (l->inflight_count == 0 || !vd_list_empty(&l->queue))
        vd_wake_one(&l->work); /* for what waited for company, or to go on to the next segment */
}

static int rec_write(struct vd_pool *p, struct log_rec *rec)
{
    struct vd_io io = {
        .op = VD_IO_WRITE,
        .flags = rec->dsync ? VD_IO_DSYNC : 0,
        .off = addr_off(p, rec->at),
        .iov = rec->iov,
        .iovcnt = rec->iovcnt,
    };
    return vd_dev_io(p->dev, &io, 1);
}

/* Everything queued and in flight fails. */
static void log_drop(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    struct vd_list *n;
    while ((n = vd_list_pop(&l->group))) {
        struct log_rec *rec = vd_container_of(n, struct log_rec, link);
        ops_finish(&rec->ops, rec->seq, -EIO);
        vd_list_push(&l->spare, &rec->link);
    }
    vd_list_each_safe (it, &l->inflight) {
        struct log_rec *rec = vd_container_of(it, struct log_rec, link);
        if (!rec->done)
            continue; /* its writer still uses it; it comes here again */
        vd_list_remove(&rec->link);
        l->inflight_count--;
        ops_finish(&rec->ops, rec->seq, -EIO);
        vd_list_push(&l->spare, &rec->link);
    }
    l->queued = 0;
    while ((n = vd_list_pop(&l->queue)))
        op_finish(vd_container_of(n, struct pool_op, link), -EIO);
    if (l->inflight_count == 0)
        vd_wake_all(&l->idle);
}

/* A record failed. When nothing is under way any more, the first bad one and all after it are given
 * new places at the start of the successor, in order, chained from the last good one, and written;
 * nothing of them has been acknowledged. VD_YIELDS */
static void log_rewrite(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    for (;;) {
        bool busy = false;
        vd_list_each (it, &l->inflight)
            busy |= !vd_container_of(it, struct log_rec, link)->done;
        if (!busy)
            break;
        vd_wait(&l->idle);
    }
    log_complete(p);
    /* What lies behind a bad record does not count, even where it is good. */
    vd_list_each (it, &l->inflight)
        vd_container_of(it, struct log_rec, link)->res = -EIO;
    while (!vd_list_empty(&l->inflight) && !pool_failed(p)) {
        if (++l->failures > LOG_FAILURES_MAX) {
            pool_fail(p, "the log cannot be written");
            break;
        }
        while (!l->next[1].seg && !pool_failed(p) && log_reserve(p) < 0)
            pool_fail(p, "the log cannot be written, and there is no space elsewhere");
        /* Replay goes on from the last good record, and only to where that one says. */
        if (!log_is_known(l, &l->next[0]))
            pool_fail(p, "the log cannot be written where it would be found");
        if (pool_failed(p))
            break;
        /* The last good record, whose checksum and echo the chain goes on from. */
        struct log_rec *first = vd_container_of(l->inflight.next, struct log_rec, link);
        l->prev_csum = first->rec.prev_csum;
        l->echo_len = first->rec.echo_len;
        l->echo_count = first->rec.echo_count;
        l->echo_flags = first->rec.prev_flags;
        l->echo_payload_blocks = first->rec.prev_payload_blocks;
        memcpy(l->echo, first->header + OD_RECORD_ENTRIES + first->rec.entries_len, l->echo_len);
        log_roll(p);
        int r = 0;
        vd_list_each (it, &l->inflight) {
            struct log_rec *rec = vd_container_of(it, struct log_rec, link);
            if (l->block + 1 + rec->payload_blocks > p->seg_blocks) {
                pool_fail(p, "the log cannot be written");
                r = -EIO;
                break;
            }
            rec->dsync = false;
            rec_seal(p, rec);
            rec->res = r = rec_write(p, rec);
            if (r < 0)
                break;
        }
        log_complete(p);
    }
    l->failing = false;
}

static void log_record_done(struct vd_pool *p, struct log_rec *rec, int res)
{
    struct pool_log *l = &p->log;
    rec->res = res;
    rec->done = true;
    if (pool_failed(p)) {
        log_drop(p);
        return;
    }
    if (res == 0 && !l->failing) {
#ifdef VD_PLANT_ACKNOWLEDGED_OUT_OF_ORDER
        ops_finish(&rec->ops, rec->seq, 0);
#endif
        log_complete(p);
        return;
    }
    if (l->failing) {
        vd_wake_all(&l->idle); /* the fiber that rewrites waits for all to be done */
        return;
    }
    vd_log(VD_LOG_WARNING, "%s: log write at segment %u failed (%s); going on in segment %u",
           vd_dev_path(p->dev), rec->at.seg, strerror(-res), l->next[0].seg);
    l->failing = true;
    log_rewrite(p);
    if (pool_failed(p))
        log_drop(p);
    vd_wake_all(&l->work);
}

/* ---- writer fibers ---- */

static void log_writer(void *arg)
{
    struct vd_pool *p = arg;
    struct pool_log *l = &p->log;
    for (;;) {
        struct log_rec *rec = log_build(p, false);
        if (!rec) {
            if (pool_failed(p))
                log_drop(p);
            if (p->closing && vd_list_empty(&l->queue)) {
                vd_wake_all(&l->work); /* those that found something in the queue may end as well */
                break;
            }
            vd_wait(&l->work);
            continue;
        }
        /* Alone and with everything before it durable, a forced write needs no flush after it. */
        bool fua = false;
        vd_list_each (it, &rec->ops)
            fua |= vd_container_of(it, struct pool_op, link)->flags & POOL_OP_FUA;
        rec->dsync = fua && l->inflight_count == 1 && l->durable_seq == rec->seq - 1;
#ifdef VD_PLANT_ACKNOWLEDGED_EARLY
        ops_finish(&rec->ops, rec->seq, 0);
#endif
        if (!vd_list_empty(&l->queue))
            log_wake_writers(p);
        log_record_done(p, rec, rec_write(p, rec));
    }
    pool_fiber_ends(p);
}

void log_wake_writers(struct vd_pool *p)
{
    vd_wake_one(&p->log.work);
}

int pool_commit(struct vd_pool *p, struct pool_op *op)
{
    if (pool_read_only(p) || p->closing)
        return -EROFS;
    op->fiber = vd_fiber_current();
    op->done = false;
    op->pos = op->charge = 0;
    int r = space_admit(p, op);
    if (r < 0)
        return r;
    if (pool_failed(p))
        return -EROFS;
    vd_list_push(&p->log.queue, &op->link);
    p->log.queued += op->count ? 1 : op->blocks;
    log_wake_writers(p);
    while (!op->done)
        vd_fiber_suspend();
    if (op->res == 0 && op->flags & POOL_OP_FUA) {
#ifndef VD_PLANT_FUA_IGNORED
        op->res = log_flush_to(p, op->seq);
#endif
    }
    return op->res;
}

/* ---- flushing ---- */

/* One device flush, after any that is under way; what was applied before it is durable after it. */
int log_flush_now(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    while (l->flushing)
        vd_wait(&l->flush_done);
    if (pool_failed(p))
        return -EIO;
    l->flushing = true;
    uint64_t covers = l->applied_seq;
    l->unflushed_bytes = 0;
    int r = vd_dev_flush(p->dev);
    l->flushing = false;
    l->last_flush_ns = vd_loop_now_ns(p->loop);
#ifdef VD_PLANT_FLUSH_ERROR_SWALLOWED
    r = 0;
#endif
    if (r < 0)
        pool_fail(p, "a flush failed: %s", strerror(-r));
    else
        l->durable_seq = VD_MAX(l->durable_seq, covers);
    vd_wake_all(&l->flush_done);
    return r < 0 ? -EIO : 0;
}

int log_flush_to(struct vd_pool *p, uint64_t seq)
{
    struct pool_log *l = &p->log;
    while (l->durable_seq < seq) {
        if (l->flushing) {
            vd_wait(&l->flush_done);
            continue;
        }
        int r = log_flush_now(p);
        if (r < 0)
            return r;
    }
    return pool_failed(p) ? -EIO : 0;
}

int pool_flush(struct vd_pool *p)
{
    if (p->rdonly)
        return 0;
    if (pool_failed(p))
        return -EIO;
    return log_flush_to(p, p->log.applied_seq);
}

/* Called now and then: keeps the horizon close behind, and seals an idle log, so that its end can
 * be told from rot. VD_YIELDS */
int log_seal(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    uint64_t now = vd_loop_now_ns(p->loop);
    if (l->data_seq > l->durable_seq && l->applied_seq >= l->data_seq &&
        (now - l->last_flush_ns >= FLUSH_EVERY_NS || l->unflushed_bytes >= FLUSH_EVERY_BYTES)) {
        int r = log_flush_to(p, l->data_seq);
        if (r < 0)
            return r;
    }
    if (l->durable_seq >= l->data_seq && l->sealed < l->data_seq && l->inflight_count == 0 &&
        vd_list_empty(&l->queue)) {
        struct log_rec *rec = log_build(p, true);
        if (rec)
            log_record_done(p, rec, rec_write(p, rec));
    }
    return 0;
}

/* ---- life ---- */

/* Writing over what was written before costs a host's file system nothing but the bytes, writing
 * into new space metadata for each flush. Where the log is slow enough that latency is what counts,
 * its next segments are written once in advance. */
#define WARM_FILL_NS_PER_MIB UINT64_C(8000000)

static int segment_for_log(struct vd_pool *p, struct vd_logref *ret)
{
    uint32_t seg;
    int r = seg_open(p, VD_STREAM_LOG, &seg);
    if (r < 0)
        return r;
    if (p->log.fill_ns >= (p->chunk_size >> 20) * WARM_FILL_NS_PER_MIB)
        seg_warm(p, seg);
    *ret = (struct vd_logref){seg, p->segs.v[seg].rid};
    return 0;
}

/* Fills *to, unless somebody else was quicker. */
static int segment_reserve(struct vd_pool *p, struct vd_logref *to, bool *filled)
{
    struct vd_logref ref;
    int r = segment_for_log(p, &ref);
    *filled = r == 0 && !to->seg;
    if (*filled) {
        *to = ref;
    } else if (r == 0) {
        seg_close(p, ref.seg);
        seg_release(p, ref.seg);
    }
    return r;
}

int log_reserve(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    for (unsigned i = 0; i < OD_LOG_NEXT; i++) {
        bool filled = false;
        int r = l->next[i].seg ? 0 : segment_reserve(p, &l->next[i], &filled);
        if (r < 0)
            return r;
        l->announce |= filled;
    }
    vd_wake_one(&l->work);
    return 0;
}

void log_prepare(struct vd_pool *p)
{
    bool filled;
    if (!p->log.prepared.seg && space_available(p) > 2 * (int64_t)p->seg_blocks)
        (void)segment_reserve(p, &p->log.prepared, &filled);
}

void log_init(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    vd_list_init(&l->queue);
    vd_list_init(&l->inflight);
    vd_list_init(&l->group);
    vd_list_init(&l->spare);
    vd_waitq_init(&l->work);
    vd_waitq_init(&l->idle);
    vd_waitq_init(&l->flush_done);
}

int log_start(struct vd_pool *p)
{
    p->log.data_seq = p->log.sealed = p->log.applied_seq;
    memcpy(p->log.known, p->log.next, sizeof(p->log.known));
    p->log.last_flush_ns = vd_loop_now_ns(p->loop);
    for (int i = 0; i < LOG_RECORDS; i++) {
        int r = pool_spawn(p, "log-writer", log_writer);
        if (r < 0)
            return r;
    }
    return 0;
}

void log_done(struct vd_pool *p)
{
    free(p->log.tail.v);
    struct vd_list *lists[] = {&p->log.inflight, &p->log.group, &p->log.spare};
    for (unsigned i = 0; i < VD_ARRAY_SIZE(lists); i++) {
        struct vd_list *l;
        while ((l = vd_list_pop(lists[i])))
            rec_free(vd_container_of(l, struct log_rec, link));
    }
}
