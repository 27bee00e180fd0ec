/* SPDX-License-Identifier: MIT */
/*
 * The log: group commit, acknowledgement in sequence, flushes, and what happens when a write of it
 * fails.
 *
 *   pool_commit -> queue -> (writer fiber) record built and written -> complete, in sequence order:
 *   entries applied to overlay and client, operations acknowledged
 *
 * I2  every change is a log entry.
 * I8  an operation is acknowledged when its record and all before it are complete on the device, or
 *     so far under way that the death of this process does not stop them ("told": decision 0023).
 * I3  a flush returns after everything acknowledged before it is durable.
 * I9  a failed flush fails the pool; it is never tried again as if nothing had been lost.
 *
 * A few writer fibers each build one record (log_build.c) from what is queued and write it. A
 * record that cannot be written closes the segment: it and all after it are written again, under
 * their old numbers, from the start of the reserved successor on, and of the one after it where
 * they do not fit.
 */
#include "pool/pool_priv.h"

#include <stdlib.h>

#define FLUSH_EVERY_NS UINT64_C(1000000000)
#define FLUSH_EVERY_BYTES VD_MIB(256)
#define LOG_FAILURES_MAX 3

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

/* A record was told of before it was complete: until then the blocks that it names cannot be read
 * from the device. */
static void told_count(struct vd_pool *p, const struct log_rec *rec, int by)
{
    p->log.told += (unsigned)by;
    p->segs.v[rec->told_at.seg].told += (uint32_t)by;
    for (unsigned i = 0; i < rec->told_fills; i++)
        p->segs.v[rec->fill_at[i].seg].told += (uint32_t)by;
}

static void rec_spare(struct vd_pool *p, struct log_rec *rec)
{
    if (rec->told)
        told_count(p, rec, -1);
    rec->told = false;
    refill_done(&rec->full);
    vd_list_push(&p->log.spare, &rec->link);
}

static int rec_apply(struct vd_pool *p, struct log_rec *rec, const uint8_t *relocations)
{
    struct log_homes homes = {rec->fill_at, rec->homed ? rec->fills : 0};
    int r = log_apply(p, &rec->rec, rec->header, relocations, &homes);
    if (r < 0)
        pool_fail(p, "record %" PRIu64 " cannot be applied: %s", rec->seq, strerror(-r));
    p->log.applied_csum = rec->rec.csum;
    return r;
}

/* Applies one record and acknowledges what ends in it. */
static void rec_acknowledge(struct vd_pool *p, struct log_rec *rec)
{
    int r = rec_apply(p, rec, rec->relocations);
    p->log.applied_seq = rec->seq;
    if (rec->dsync && !rec->told && r == 0)
        p->log.durable_seq = VD_MAX(p->log.durable_seq, rec->seq);
    ops_finish(&rec->ops, rec->seq, r);
}

/* Records that had been told of when they failed lie elsewhere now. Only when all of them do is
 * that made known, at once: in between an older write would be seen for a newer one. */
static void moved_apply(struct vd_pool *p)
{
    struct vd_list *n;
    while ((n = vd_list_pop(&p->log.moved))) {
        struct log_rec *rec = vd_container_of(n, struct log_rec, link);
        (void)rec_apply(p, rec, NULL);
        p->log.moves++;
        rec_spare(p, rec);
    }
}

static void rec_complete(struct vd_pool *p, struct log_rec *rec)
{
    struct pool_log *l = &p->log;
    vd_list_remove(&rec->link);
    l->inflight_count--;
    l->failures = 0;
    memcpy(l->known, rec->rec.next, sizeof(l->known));
    if (rec->told && rec->moved) {
        vd_list_push(&l->moved, &rec->link);
    } else if (rec->told) {
        if (rec->dsync) /* all before it was durable when it began */
            l->durable_seq = VD_MAX(l->durable_seq, rec->seq);
        rec_spare(p, rec);
    } else if (!rec->commit) {
        vd_list_push(&l->group, &rec->link);
    } else {
        struct vd_list *g;
        while ((g = vd_list_pop(&l->group))) {
            struct log_rec *part = vd_container_of(g, struct log_rec, link);
            rec_acknowledge(p, part);
            rec_spare(p, part);
        }
        rec_acknowledge(p, rec);
        rec_spare(p, rec);
    }
}

/* Is the record at `link` one that was told of? */
static bool told_of(const struct pool_log *l, const struct vd_list *link)
{
    return link != &l->inflight && vd_container_of(link, struct log_rec, link)->told;
}

/* What the host has taken over is as good as complete for whoever does not ask for a flush, if all
 * before it is. */
static void log_tell(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    if (l->failing || l->holding || pool_failed(p) || !vd_list_empty(&l->group))
        return;
    vd_list_each (it, &l->inflight) {
        struct log_rec *rec = vd_container_of(it, struct log_rec, link);
        if (rec->told)
            continue;
        if (!rec->handed || rec->res < 0)
            break;
        rec->told = true;
        rec->told_at = rec->at;
        rec->told_fills = rec->fills;
        told_count(p, rec, 1);
        rec_acknowledge(p, rec);
    }
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
        if (!rec->told)
            moved_apply(p);
        rec_complete(p, rec);
    }
    if (!told_of(l, l->inflight.next))
        moved_apply(p);
    log_tell(p);
    vd_wake_all(&l->settled);
    if (l->inflight_count == 0)
        vd_wake_all(&l->idle);
    if (l->inflight_count == 0 || !vd_list_empty(&l->queue))
        vd_wake_one(&l->work); /* for what waited for company, or to go on to the next segment */
}

/* Header and payload, all blocks that fill dead places elsewhere, and hint blocks that became
 * complete with them, at once: the record is there when all of them are. `flags` of struct vd_io;
 * what the payload has a copy of need not be forced with it. */
static int rec_ios(struct vd_pool *p, struct log_rec *rec, unsigned flags)
{
    struct vd_io *io = rec->io;
    int n = 0, hints = 0;
    io[n++] = (struct vd_io){
        .op = VD_IO_WRITE,
        .off = addr_off(p, rec->at),
        .iov = rec->iov,
        .iovcnt = rec->iovcnt,
    };
    for (unsigned i = 0; i < rec->fills; i++) {
        uint64_t off = addr_off(p, rec->fill_at[i]);
        if (i && io[n - 1].off + (uint64_t)io[n - 1].iovcnt * VD_BLOCK == off) {
            io[n - 1].iovcnt++; /* behind the one before */
            continue;
        }
        io[n++] = (struct vd_io){.op = VD_IO_WRITE, .off = off, .iov = &rec->fill[i], .iovcnt = 1};
    }
    vd_list_each (it, &rec->full)
        io[n++] = refill_io(p, refill_of(it), &rec->hint[hints++]);
    for (int i = 0; i < n; i++)
        io[i].flags = i && rec->homed ? 0 : flags;
#ifdef VD_PLANT_COPY_NOT_FORCED
    io[0].flags = rec->homed ? 0 : flags;
#endif
    return n;
}

/* Where one writer waits for each of its writes, going to the device is most of the time. Only
 * while no other is under way: a cached write beside a direct one in the same large page, and a
 * third program that reads both, make the kernel report an error that is none. */
static bool rec_is_small(const struct vd_pool *p, const struct log_rec *rec)
{
    return p->log.caches && p->log.inflight_count == 1 &&
           rec->payload_blocks + rec->fills <= LOG_CACHED_BLOCKS;
}

static int rec_write(struct vd_pool *p, struct log_rec *rec)
{
    unsigned flags = rec->dsync ? VD_IO_DSYNC : rec_is_small(p, rec) ? VD_IO_CACHED : 0;
    return vd_dev_io(p->dev, rec->io, rec_ios(p, rec, flags));
}

/* May it be acknowledged when it has been handed over, and is that sooner? */
static bool rec_goes_ahead(const struct vd_pool *p, const struct log_rec *rec)
{
    return rec->plain && (rec->dsync || !rec_is_small(p, rec));
}

/* The same, and acknowledges what it can before that is complete. */
static int rec_hand_over(struct vd_pool *p, struct log_rec *rec)
{
    rec->batch =
        (struct vd_io_batch){.ios = rec->io, .n = rec_ios(p, rec, rec->dsync ? VD_IO_DSYNC : 0)};
    rec->handed = vd_dev_begin(p->dev, &rec->batch);
#ifdef VD_PLANT_TOLD_BEFORE_HANDED_OVER
    rec->handed = true;
#endif
    log_tell(p);
    return vd_dev_end(p->dev, &rec->batch);
}

/* Everything queued and in flight fails. */
static void log_drop(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    struct vd_list *n;
    while ((n = vd_list_pop(&l->group))) {
        struct log_rec *rec = vd_container_of(n, struct log_rec, link);
        ops_finish(&rec->ops, rec->seq, -EIO);
        rec_spare(p, rec);
    }
    while ((n = vd_list_pop(&l->moved)))
        rec_spare(p, vd_container_of(n, struct log_rec, link));
    vd_list_each_safe (it, &l->inflight) {
        struct log_rec *rec = vd_container_of(it, struct log_rec, link);
        if (!rec->done)
            continue; /* its writer still uses it; it comes here again */
        vd_list_remove(&rec->link);
        l->inflight_count--;
        ops_finish(&rec->ops, rec->seq, -EIO);
        rec_spare(p, rec);
    }
    l->queued = 0;
    while ((n = vd_list_pop(&l->queue)))
        op_finish(vd_container_of(n, struct pool_op, link), -EIO);
    vd_wake_all(&l->settled);
    if (l->inflight_count == 0)
        vd_wake_all(&l->idle);
}

/* Waits until records up to `seq` are complete. */
static void log_wait_complete(struct vd_pool *p, uint64_t seq)
{
    struct pool_log *l = &p->log;
    while (!pool_failed(p) &&
           (!vd_list_empty(&l->moved) ||
            (!vd_list_empty(&l->inflight) &&
             vd_container_of(l->inflight.next, struct log_rec, link)->seq <= seq)))
        vd_wait(&l->settled);
}

void log_settle(struct vd_pool *p)
{
    log_wait_complete(p, p->log.next_seq - 1);
}

void log_hold(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
#ifdef VD_PLANT_FROZEN_UNDER_WAY
    return;
#endif
    l->holding = true;
    while (l->told && !pool_failed(p))
        vd_wait(&l->settled);
}

void log_go_on(struct vd_pool *p)
{
    p->log.holding = false;
    log_tell(p);
}

static bool rec_has(const struct log_rec *rec, struct vd_addr at, uint64_t blocks)
{
    for (unsigned i = 0; i <= rec->told_fills; i++) {
        struct vd_addr a = i ? rec->fill_at[i - 1] : rec->told_at;
        uint64_t len = i ? 1 : 1 + (uint64_t)rec->payload_blocks;
        if (a.seg == at.seg && addr_block(a) < addr_block(at) + blocks &&
            addr_block(at) < addr_block(a) + len)
            return true;
    }
    return false;
}

bool log_under_way(const struct vd_pool *p, struct vd_addr at, uint64_t blocks)
{
    const struct pool_log *l = &p->log;
    if (l->told == 0 || p->segs.v[at.seg].told == 0)
        return false;
    if (l->failing)
        return true;
    vd_list_each (it, &l->inflight)
        if (told_of(l, it) && rec_has(vd_container_of(it, struct log_rec, link), at, blocks))
            return true;
    return false;
}

/* A record failed. When nothing is under way any more, the first bad one and all after it are given
 * new places at the start of the successor, in order, chained from the last good one, and written.
 * Of what was told of, the new place is made known. VD_YIELDS */
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
    bool full = false; /* the records did not all fit into the successor: on to the next one */
    while (!vd_list_empty(&l->inflight) && !pool_failed(p)) {
        if (!full && ++l->failures > LOG_FAILURES_MAX) {
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
        if (!full) {
            l->prev_csum = first->rec.prev_csum;
            l->echo_len = first->rec.echo_len;
            l->echo_count = first->rec.echo_count;
            l->echo_flags = first->rec.prev_flags;
            l->echo_payload_blocks = first->rec.prev_payload_blocks;
            memcpy(l->echo, first->header + OD_RECORD_ENTRIES + first->rec.entries_len,
                   l->echo_len);
        }
        log_roll(p);
        full = false;
        int r = 0;
        vd_list_each (it, &l->inflight) {
            struct log_rec *rec = vd_container_of(it, struct log_rec, link);
            full = l->block + 1 + rec->payload_blocks + rec->fills > p->seg_blocks;
            if (full)
                break;
            rec->dsync = false;
            rec->moved = rec->told;
            log_fills_inline(p, rec);
            log_seal_record(p, rec);
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

/* There is no memory for a record, and none under way whose memory could be used again: what waits
 * is refused. An operation whose first part is in the log already can only end in it. */
static void log_refuse(struct vd_pool *p)
{
    struct pool_log *l = &p->log;
    struct vd_list *n;
    l->starved = false;
    if (!vd_list_empty(&l->queue) && vd_container_of(l->queue.next, struct pool_op, link)->pos) {
        pool_fail(p, "there is no memory to go on with the log");
        log_drop(p);
        return;
    }
    while ((n = vd_list_pop(&l->queue))) {
        struct pool_op *op = vd_container_of(n, struct pool_op, link);
        l->queued -= op->count ? 1 : op->blocks;
        space_placed(p, op->charge);
        p->refill.promised -= op->refill;
        op_finish(op, -ENOMEM);
    }
}

/* A record that is alone, with everything before it durable, needs no flush after it if its write
 * is forced. So it is where that is asked for, or where whoever writes flushes after each record:
 * one forced write takes much less than a write and a flush. */
static bool rec_is_forced(const struct pool_log *l, const struct log_rec *rec)
{
    if (l->inflight_count != 1 || l->durable_seq != rec->seq - 1)
        return false;
    bool fua = log_flush_expected(l) && l->flushed_at == rec->seq - 1;
    vd_list_each (it, &rec->ops)
        fua |= vd_container_of(it, struct pool_op, link)->flags & POOL_OP_FUA;
    return fua;
}

static void log_writer(void *arg)
{
    struct vd_pool *p = arg;
    struct pool_log *l = &p->log;
    for (;;) {
        struct log_rec *rec = log_build(p, false);
        if (!rec) {
            if (pool_failed(p))
                log_drop(p);
            else if (l->starved && l->inflight_count == 0)
                log_refuse(p);
            if (p->closing && vd_list_empty(&l->queue)) {
                vd_wake_all(&l->work); /* those that found something in the queue may end as well */
                break;
            }
            vd_wait(&l->work);
            continue;
        }
        rec->dsync = rec_is_forced(l, rec);
        if (rec->dsync)
            log_take_homes(p, rec);
#ifdef VD_PLANT_ACKNOWLEDGED_EARLY
        ops_finish(&rec->ops, rec->seq, 0);
#endif
        if (!vd_list_empty(&l->queue))
            log_wake_writers(p);
        log_record_done(p, rec, rec_goes_ahead(p, rec) ? rec_hand_over(p, rec) : rec_write(p, rec));
    }
    pool_fiber_ends(p);
}

void log_wake_writers(struct vd_pool *p)
{
    vd_wake_one(&p->log.work);
}

static void log_flush_asked(struct pool_log *l)
{
    if (l->applied_seq != l->flushed_at)
        l->flush_habit = l->applied_seq == l->flushed_at + 1 ? l->flush_habit + 1 : 0;
    l->flushed_at = l->applied_seq;
}

int pool_commit(struct vd_pool *p, struct pool_op *op)
{
    if (pool_read_only(p) || p->closing)
        return -EROFS;
    op->fiber = vd_fiber_current();
    op->done = false;
    op->pos = op->charge = 0;
    op->refill = 0;
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
        log_flush_asked(&p->log);
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
#ifndef VD_PLANT_FLUSHED_UNDER_WAY
    log_wait_complete(p, covers);
#endif
    l->unflushed_bytes = 0;
    int r = pool_failed(p) ? -EIO : vd_dev_flush(p->dev);
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

/* Will record `seq` be durable when it is complete, as a forced write that was told of is? */
static bool log_is_forced(const struct pool_log *l, uint64_t seq)
{
    const struct vd_list *link = l->inflight.next;
    if (!told_of(l, link))
        return false;
    const struct log_rec *rec = vd_container_of(link, struct log_rec, link);
    return rec->seq == seq && rec->dsync && !l->failing;
}

int log_flush_to(struct vd_pool *p, uint64_t seq)
{
    struct pool_log *l = &p->log;
    while (l->durable_seq < seq) {
        if (l->flushing) {
            vd_wait(&l->flush_done);
            continue;
        }
        if (log_is_forced(l, seq) && !pool_failed(p)) {
            vd_wait(&l->settled);
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
    log_flush_asked(&p->log);
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
    vd_list_init(&l->moved);
    vd_list_init(&l->spare);
    vd_waitq_init(&l->work);
    vd_waitq_init(&l->idle);
    vd_waitq_init(&l->settled);
    vd_waitq_init(&l->flush_done);
}

int log_start(struct vd_pool *p)
{
    p->log.data_seq = p->log.sealed = p->log.applied_seq;
    memcpy(p->log.known, p->log.next, sizeof(p->log.known));
    p->log.last_flush_ns = vd_loop_now_ns(p->loop);
    struct vd_dev_info info;
    vd_dev_info(p->dev, &info);
    p->log.tells = info.hands_over;
    p->log.caches = info.caches;
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
    struct vd_list *lists[] = {&p->log.inflight, &p->log.group, &p->log.moved, &p->log.spare};
    for (unsigned i = 0; i < VD_ARRAY_SIZE(lists); i++) {
        struct vd_list *l;
        while ((l = vd_list_pop(lists[i])))
            log_rec_free(vd_container_of(l, struct log_rec, link));
    }
}
