/* SPDX-License-Identifier: MIT */
/*
 * Replay: from the newest durable root along the log to its end, filling the overlay. No tree I/O.
 *
 * The chain is followed by place: a record lies behind its predecessor, or at the start of the
 * reserved successor; sequence number, the predecessor's checksum, incarnation, place and the
 * segment's random id must all agree. Cuts in the label say where a session's records end.
 *
 * What ends the log, and what is rot (I12): at or below a horizon, which some later record carries,
 * nothing is ever cut. A bad header there is repaired from the echo in its successor, or the pool
 * is refused; a bad payload there stays that block's error. Above the last horizon every payload is
 * verified, and the first bad record, and all after it, are no part of the log.
 *
 * Suspends for reads; writes nothing.
 */
#include "core/base/hash.h"
#include "core/base/text.h"
#include "pool/pool_priv.h"

#include <stdlib.h>

#define WINDOW_BLOCKS 64u /* blocks read at once when looking for headers */

/* A record above the horizon, kept until it is certain that it counts. */
struct pending {
    struct vd_list link;
    struct vd_record rec;
    uint8_t header[VD_BLOCK];
};

struct replay {
    struct vd_pool *p;
    uint8_t *buf; /* WINDOW_BLOCKS blocks of segment `seg` from block `base` */
    uint32_t seg, base, have;
    struct vd_list pending; /* in order */
    /* the next record expected */
    uint32_t at_seg, at_block;
    uint64_t rid;
    uint64_t seq, prev_csum, incarnation;
    struct vd_logref next[OD_LOG_NEXT]; /* the successors that the last header named */
    uint64_t horizon;
    /* the first record found in a successor, for the `next` it was looked up for */
    struct {
        struct vd_logref of[OD_LOG_NEXT];
        int which;    /* index in `of`, -1 = none valid */
        uint64_t seq; /* records from this on count there, not here */
        uint64_t prev_csum;
    } succ;
    uint8_t *peek; /* one block */
};

static int window_block(struct replay *r, uint32_t seg, uint32_t block, const uint8_t **ret)
{
    struct vd_pool *p = r->p;
    if (seg >= p->segs.limit || block >= p->seg_blocks)
        return -ENODATA;
    if (seg != r->seg || block < r->base || block >= r->base + r->have) {
        r->seg = seg;
        r->base = block;
        r->have = VD_MIN(WINDOW_BLOCKS, p->seg_blocks - block);
        struct vd_dev_info info;
        vd_dev_info(p->dev, &info);
        uint64_t off = seg_off(p, seg) + (uint64_t)block * VD_BLOCK;
        if (off + VD_BLOCK > info.size) {
            r->have = 0;
            return -ENODATA;
        }
        r->have = (uint32_t)VD_MIN(r->have, (info.size - off) / VD_BLOCK);
        int res = vd_dev_read(p->dev, off, r->buf, (size_t)r->have * VD_BLOCK);
        if (res < 0 && r->have > 1) { /* one bad sector is not the whole window */
            r->have = 1;
            res = vd_dev_read(p->dev, off, r->buf, VD_BLOCK);
        }
        if (res < 0) {
            r->have = 0;
            return res == -EIO ? -EBADMSG : res;
        }
    }
    *ret = r->buf + (size_t)(block - r->base) * VD_BLOCK;
    return 0;
}

/* Does a header belong to this pool, session and place? */
static bool header_ours(const struct replay *r, const struct vd_record *rec, uint32_t seg,
                        uint32_t block, uint64_t rid)
{
    return !rec->bulk && rec->pool == r->p->pool64 && rec->incarnation == r->incarnation &&
           rec->rid == rid && rec->at.seg == seg &&
           rec->at.sector == block * VD_SECTORS_PER_BLOCK &&
           block + 1 + rec->payload_blocks <= r->p->seg_blocks;
}

/* The header at a place, if it belongs to this pool, session and segment. */
static int header_at(struct replay *r, uint32_t seg, uint32_t block, uint64_t rid,
                     struct vd_record *rec, const uint8_t **ret)
{
    int res = window_block(r, seg, block, ret);
    if (res == 0)
        res = record_decode(*ret, rec);
    if (res < 0)
        return res;
    return header_ours(r, rec, seg, block, rid) ? 0 : -ENODATA;
}

static int segment_claim(struct vd_pool *p, uint32_t seg, enum vd_stream_kind stream, uint64_t rid,
                         uint64_t seq)
{
    while (seg >= p->segs.count) {
        int r = segs_add(p);
        if (r < 0)
            return r == -ENOSPC ? -EUCLEAN : r;
    }
    struct pool_seg *s = &p->segs.v[seg];
    if (s->state == VD_SEG_FIXED)
        return -EUCLEAN;
    if (s->state == VD_SEG_FREE)
        *s = (struct pool_seg){.warm = true, .backed = true};
    s->stream = (uint8_t)stream;
    s->state = VD_SEG_CLOSED;
    s->emptied = false;
    /* Entries name a segment of the cleaner's without its id, and the root's table may speak of an
     * earlier use: unknown until its first header is read. */
    s->rid = stream == VD_STREAM_CLEAN ? 0 : rid ? rid : s->rid;
    s->last_seq = VD_MAX(s->last_seq, seq);
    return 0;
}

/* What relocations name must lie in segments that can hold it. */
static int relocations_claim(struct vd_pool *p, uint64_t seq, uint32_t count, const uint8_t *at)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        struct vd_relocation m;
        r = relocation_decode(at + (size_t)i * sizeof(struct od_relocation), &m);
        if (r == 0)
            r = m.from.seg < p->segs.count ? segment_claim(p, m.to.seg, VD_STREAM_CLEAN, 0, seq)
                                           : -EUCLEAN;
    }
    return r;
}

/* What was written to a dead place lies in a segment that was closed before. */
static int bulk_claim(struct vd_pool *p, uint64_t seq, const struct vd_entry *e)
{
    if (e->hints == 0)
        return segment_claim(p, e->addr.seg, VD_STREAM_CLEAN, 0, seq);
    if (e->addr.seg < p->segs.count && p->segs.v[e->addr.seg].state == VD_SEG_FREE) {
        int r = segment_claim(p, e->addr.seg, VD_STREAM_CLEAN, 0, seq);
        if (r < 0)
            return r;
    }
    if (!seg_valid(p, e->addr, e->blocks) || e->hints >= p->seg_blocks)
        return -EUCLEAN;
    p->log.window_bytes += e->blocks * VD_BLOCK;
    return p->rdonly ? 0 : refill_found(p, e);
}

/* What a record names must lie in segments that can hold it, before anything is applied (I6). */
static int record_claims(struct vd_pool *p, const struct vd_record *rec, const uint8_t *header,
                         const uint8_t *relocations)
{
    int r = segment_claim(p, rec->at.seg, VD_STREAM_LOG, rec->rid, rec->seq);
    struct entry_walk w = entries_of(rec, header);
    struct vd_entry e;
    int more = 0;
    while (r == 0 && (more = entry_next(&w, &e)) > 0) {
        if (e.type == VD_ENTRY_WRITE && e.payload + e.blocks > rec->payload_blocks)
            r = -EUCLEAN;
        if (e.type == VD_ENTRY_BULK)
            r = bulk_claim(p, rec->seq, &e);
        if (e.type == VD_ENTRY_EMPTIED && e.addr.seg >= p->segs.count)
            r = -EUCLEAN;
        if (e.type == VD_ENTRY_RELOCATE)
            r = relocations_claim(p, rec->seq, e.count, relocations);
    }
    return r < 0 ? r : more;
}

/* The RELOCATE entry of a header, which has at most one: 1 and *ret, 0, -EUCLEAN. */
static int relocate_find(const struct vd_record *rec, const uint8_t *header, struct vd_entry *ret)
{
    struct entry_walk w = entries_of(rec, header);
    int r;
    while ((r = entry_next(&w, ret)) > 0 && ret->type != VD_ENTRY_RELOCATE)
        ;
    return r;
}

/* The good one of the two copies in `payload`, or NULL. */
static const uint8_t *relocations_good(const struct vd_entry *e, const uint8_t *payload)
{
    size_t len = e->blocks * VD_BLOCK;
    for (unsigned copy = 0; copy < 2; copy++)
        if (vd_xxh3(payload + copy * len, len) == e->csum[0])
            return payload + copy * len;
    return NULL;
}

/* Reads what the entry has in the payload. *buf is the caller's to free. -EUCLEAN: both are bad. */
static int relocations_read(struct vd_pool *p, const struct vd_record *rec,
                            const struct vd_entry *e, uint8_t **buf, const uint8_t **ret)
{
    *buf = vd_alloc_aligned(2 * e->blocks * VD_BLOCK);
    if (!*buf)
        return -ENOMEM;
    uint64_t off = addr_off(p, vd_addr_plus(rec->at, 1 + e->payload));
    for (unsigned copy = 0; copy < 2; copy++) {
        size_t len = e->blocks * VD_BLOCK;
        int r = vd_dev_read(p->dev, off + copy * len, *buf + copy * len, len);
        if (r < 0 && r != -EIO)
            return r;
        if (r < 0)
            memset(*buf + copy * len, 0, len);
    }
    *ret = relocations_good(e, *buf);
    return *ret ? 0 : -EUCLEAN;
}

static int record_apply(struct replay *r, const struct vd_record *rec, const uint8_t *header)
{
    struct vd_pool *p = r->p;
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = NULL;
    const uint8_t *relocations = NULL;
    struct vd_entry e;
    int res = relocate_find(rec, header, &e);
    if (res > 0)
        res = relocations_read(p, rec, &e, &buf, &relocations);
    if (res == 0)
        res = record_claims(p, rec, header, relocations);
    if (res == 0)
        res = log_apply(p, rec, header, relocations, NULL);
    p->log.applied_seq = rec->seq;
    p->log.applied_csum = rec->csum;
    p->log.window_bytes += (1 + (uint64_t)rec->payload_blocks) * VD_BLOCK;
    return res;
}

/* Applies kept records whose operation is whole and which `upto` covers. */
static int pending_apply(struct replay *r, uint64_t upto)
{
    for (;;) {
        struct pending *end = NULL;
        vd_list_each (it, &r->pending) {
            struct pending *q = vd_container_of(it, struct pending, link);
            if (q->rec.seq > upto)
                break;
#ifdef VD_PLANT_HALF_AN_OPERATION
            q->rec.flags |= OD_RECORD_COMMIT;
#endif
            if (q->rec.flags & OD_RECORD_COMMIT) {
                end = q;
                break;
            }
        }
        if (!end)
            return 0;
        uint64_t last = end->rec.seq;
        struct pending *q;
        do {
            q = vd_container_of(r->pending.next, struct pending, link);
            vd_list_remove(&q->link);
            uint64_t seq = q->rec.seq;
            int res = record_apply(r, &q->rec, q->header);
            free(q);
            if (res < 0)
                return res;
            if (seq == last)
                break;
        } while (true);
    }
}

static void pending_drop_from(struct replay *r, uint64_t seq)
{
    vd_list_each_safe (it, &r->pending) {
        struct pending *q = vd_container_of(it, struct pending, link);
        if (q->rec.seq >= seq) {
            vd_list_remove(&q->link);
            free(q);
        }
    }
}

static int accept(struct replay *r, const struct vd_record *rec, const uint8_t *header)
{
    struct pending *q = malloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    q->rec = *rec;
    memcpy(q->header, header, VD_BLOCK);
    vd_list_push(&r->pending, &q->link);
    r->at_block = rec->at.sector / VD_SECTORS_PER_BLOCK + 1 + rec->payload_blocks;
    r->seq = rec->seq + 1;
    r->prev_csum = rec->csum;
    memcpy(r->next, rec->next, sizeof(r->next));
    if (rec->root_counter > r->p->root.counter)
        return -ESTALE;
    r->horizon = VD_MAX(r->horizon, rec->horizon);
    return pending_apply(r, r->horizon);
}

/* The checksum of record `seq` if it is still kept, or the last one applied. */
static bool csum_of(struct replay *r, uint64_t seq, uint64_t *ret)
{
    if (seq == r->p->log.applied_seq) {
        *ret = r->p->log.applied_csum;
        return true;
    }
    vd_list_each (it, &r->pending) {
        struct pending *q = vd_container_of(it, struct pending, link);
        if (q->rec.seq == seq) {
            *ret = q->rec.csum;
            return true;
        }
    }
    return false;
}

/* Looks at the first headers of the successors `next`. Where a log write failed, a record stands
 * there again under its old number: from that number on nothing in the old segment counts. */
static int successors_look(struct replay *r, const struct vd_logref next[OD_LOG_NEXT])
{
    if (r->succ.which >= -1 && memcmp(r->succ.of, next, sizeof(r->succ.of)) == 0)
        return 0;
    memcpy(r->succ.of, next, sizeof(r->succ.of));
    r->succ.which = -1;
    r->succ.seq = UINT64_MAX;
    struct vd_dev_info info;
    vd_dev_info(r->p->dev, &info);
    for (int i = 0; i < OD_LOG_NEXT; i++) {
        uint64_t off = seg_off(r->p, next[i].seg);
        struct vd_record rec;
        if (!next[i].seg || next[i].seg >= r->p->segs.limit || off + VD_BLOCK > info.size)
            continue;
        int res = vd_dev_read(r->p->dev, off, r->peek, VD_BLOCK);
        if (res < 0 && res != -EIO)
            return res;
        if (res < 0 || record_decode(r->peek, &rec) < 0 ||
            !header_ours(r, &rec, next[i].seg, 0, next[i].rid))
            continue;
        /* Where a write failed after the log had gone on to the first, all from the bad record on
         * is in the second, and what the first holds is void. */
        if (r->succ.which >= 0 && rec.seq > r->succ.seq)
            continue;
        r->succ.which = i;
        r->succ.seq = rec.seq;
        r->succ.prev_csum = rec.prev_csum;
    }
    return 0;
}

/* Goes on at the start of the successor that has a valid first header, if it continues what has
 * been read up to there. -ENODATA if not. */
static int successor_enter(struct replay *r)
{
    uint64_t csum;
    if (r->succ.which < 0 || r->succ.seq > r->seq || r->succ.seq == 0 ||
        !csum_of(r, r->succ.seq - 1, &csum) || csum != r->succ.prev_csum)
        return -ENODATA;
    const struct vd_logref *to = &r->succ.of[r->succ.which];
    /* Even if all of it is found again further on, the way there leads through here. */
    int res = segment_claim(r->p, to->seg, VD_STREAM_LOG, to->rid, r->succ.seq);
    if (res < 0)
        return res;
    pending_drop_from(r, r->succ.seq);
    r->seq = r->succ.seq;
    r->prev_csum = csum;
    r->at_seg = to->seg;
    r->at_block = 0;
    r->rid = to->rid;
    return 0;
}

/* Does a later record of the same session say that `seq` was flushed? Looks through the rest of the
 * segment and the successor. *ret gets the record right after seq, if it is there, for its echo. */
static bool seq_was_flushed(struct replay *r, uint64_t seq, struct pending *ret, bool *ret_found)
{
    *ret_found = false;
    bool flushed = seq <= r->horizon;
    for (unsigned where = 0; where <= OD_LOG_NEXT; where++) {
        uint32_t seg = where ? r->next[where - 1].seg : r->at_seg;
        uint64_t rid = where ? r->next[where - 1].rid : r->rid;
        if (where && !seg)
            break;
        for (uint32_t b = where ? 0 : r->at_block; b < r->p->seg_blocks; b++) {
            struct vd_record rec;
            const uint8_t *header;
            if (header_at(r, seg, b, rid, &rec, &header) < 0 || rec.seq <= seq)
                continue;
            flushed |= rec.horizon >= seq;
            if (rec.seq == seq + 1) {
                ret->rec = rec;
                memcpy(ret->header, header, VD_BLOCK);
                *ret_found = true;
            }
            b += rec.payload_blocks;
        }
    }
    return flushed;
}

/* Puts the header of record r->seq together from the echo in the next one. Its checksum is known
 * from the chain; its entries are all that is needed. */
static int repair_from_echo(struct replay *r, const struct pending *next)
{
    struct pending *q = calloc(1, sizeof(*q));
    if (!q)
        return -ENOMEM;
    q->rec = (struct vd_record){
        .pool = r->p->pool64,
        .incarnation = r->incarnation,
        .seq = r->seq,
        .csum = next->rec.prev_csum,
        .prev_csum = r->prev_csum,
        .rid = r->rid,
        .at = {r->at_seg, r->at_block * VD_SECTORS_PER_BLOCK},
        .flags = (uint16_t)next->rec.prev_flags,
        .payload_blocks = next->rec.prev_payload_blocks,
        .entry_count = next->rec.echo_count,
        .entries_len = next->rec.echo_len,
        .horizon = r->horizon,
        .root_counter = 0,
    };
    memcpy(q->rec.next, r->next, sizeof(r->next));
    memcpy(q->header + OD_RECORD_ENTRIES, next->header + OD_RECORD_ENTRIES + next->rec.entries_len,
           next->rec.echo_len);
    vd_log(VD_LOG_WARNING, "%s: the header of log record %" PRIu64 " was repaired from its echo",
           vd_dev_path(r->p->dev), r->seq);
    int res = accept(r, &q->rec, q->header);
    free(q);
    return res;
}

/* Nothing valid follows. -ENODATA: the log's end; 0: went on. */
static int end_or_rot(struct replay *r)
{
    struct pending *next VD_CLEANUP(vd_cleanup_free) = malloc(sizeof(*next));
    bool found;
    if (!next)
        return -ENOMEM;
#ifdef VD_PLANT_REPLAY_STOPS_AT_ROT
    return -ENODATA;
#endif
    if (!seq_was_flushed(r, r->seq, next, &found))
        return -ENODATA;
    if (!found)
        return -EUCLEAN;
    return repair_from_echo(r, next);
}

/* One record further, or on to the successor: 0, or -ENODATA at the end of the log of its session.
 */
static int step(struct replay *r)
{
    struct vd_record rec;
    const uint8_t *header;
    int res = header_at(r, r->at_seg, r->at_block, r->rid, &rec, &header);
    if (res < 0 && res != -ENODATA && res != -EBADMSG && res != -EUCLEAN)
        return res;
    bool valid = res == 0 && rec.seq == r->seq && rec.prev_csum == r->prev_csum;
    res = successors_look(r, valid ? rec.next : r->next);
    if (res < 0)
        return res;
    if (valid && rec.seq < r->succ.seq)
        return accept(r, &rec, header);
    res = successor_enter(r);
    if (res < 0 && valid)
        return accept(r, &rec, header);
    return res == -ENODATA ? end_or_rot(r) : res;
}

/* ---- above the horizon ---- */

/* Does the payload hold what the record's entries say? 0, -EBADMSG, -EUCLEAN. */
static int payload_check(const struct vd_record *rec, const uint8_t *header, const uint8_t *payload)
{
    struct entry_walk w = entries_of(rec, header);
    struct vd_entry e;
    int r;
    while ((r = entry_next(&w, &e)) > 0) {
        if (e.type == VD_ENTRY_WRITE) {
            if (e.payload + e.blocks > rec->payload_blocks)
                return -EUCLEAN;
            for (uint64_t b = 0; b < e.blocks; b++)
                if (vd_xxh3(payload + (e.payload + b) * VD_BLOCK, VD_BLOCK) != e.csum[b])
                    return -EBADMSG;
        }
        if (e.type == VD_ENTRY_RELOCATE && !relocations_good(&e, payload + e.payload * VD_BLOCK))
            return -EBADMSG;
    }
    return r;
}

/* What the record's entries say of blocks elsewhere: 0, -EBADMSG, -EIO. `again`: writes them again.
 */
static int elsewhere_check(struct vd_pool *p, const struct vd_record *rec, const uint8_t *header,
                           bool again)
{
    struct entry_walk w = entries_of(rec, header);
    struct vd_entry e;
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = NULL;
    int r;
    while ((r = entry_next(&w, &e)) > 0) {
        size_t len = e.blocks * VD_BLOCK;
        if (e.type != VD_ENTRY_BULK)
            continue;
        if (!buf && !(buf = vd_alloc_aligned(VD_CELL_BLOCKS * VD_BLOCK)))
            return -ENOMEM;
        r = vd_dev_read(p->dev, addr_off(p, e.addr), buf, len);
        for (uint64_t b = 0; r == 0 && b < e.blocks; b++)
            if (vd_xxh3(buf + b * VD_BLOCK, VD_BLOCK) != e.csum[b])
                r = -EBADMSG;
        if (r == 0 && again)
            r = vd_dev_write(p->dev, addr_off(p, e.addr), buf, len);
        if (r < 0)
            return r;
    }
    return r;
}

/* Reads and verifies what a record brought. 0 or -EBADMSG, or -EUCLEAN. What is bad is read once
 * more: an error on the way must not end the log. */
static int payload_verify(struct vd_pool *p, const struct pending *q)
{
    size_t len = (size_t)q->rec.payload_blocks * VD_BLOCK;
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = vd_alloc_aligned(VD_MAX(len, VD_BLOCK));
    if (!buf)
        return -ENOMEM;
    int r = -EBADMSG;
    for (int tries = 0; r == -EBADMSG && tries < 2; tries++) {
        r = len ? vd_dev_read(p->dev, addr_off(p, vd_addr_plus(q->rec.at, 1)), buf, len) : 0;
        if (r == 0)
            r = payload_check(&q->rec, q->header, buf);
#ifndef VD_PLANT_TORN_REFILL_ACCEPTED
        if (r == 0)
            r = elsewhere_check(p, &q->rec, q->header, false);
#endif
        if (r == -EIO || r == -EINVAL)
            r = -EBADMSG;
    }
    return r;
}

/* A record that is taken over although no flush is known to have covered it: the host may have told
 * its writer that a flush failed, and still show the bytes from memory that the next power cut
 * empties. They are written again before the cut promises them. */
static int tail_note(struct vd_pool *p, const struct vd_record *rec)
{
    struct log_tail *t = &p->log.tail;
    if (t->count == t->room) {
        size_t room = t->room ? t->room * 2 : 64;
        struct log_span *v = realloc(t->v, room * sizeof(*v));
        if (!v)
            return -ENOMEM;
        t->v = v;
        t->room = room;
    }
    t->v[t->count++] = (struct log_span){rec->at, 1 + rec->payload_blocks, rec->csum};
    return 0;
}

int replay_tail_rewrite(struct vd_pool *p)
{
    struct log_tail *t = &p->log.tail;
    uint8_t *buf VD_CLEANUP(vd_cleanup_free) = NULL;
    int r = 0;
#ifdef VD_PLANT_TAIL_NOT_REWRITTEN
    return 0;
#endif
    if (t->count && !(buf = vd_alloc_aligned(p->chunk_size)))
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < t->count; i++) {
        const struct log_span *s = &t->v[i];
        struct vd_record rec;
        uint64_t off = addr_off(p, s->at);
        r = vd_dev_read(p->dev, off, buf, (size_t)s->blocks * VD_BLOCK);
        if (r == 0)
            r = record_decode(buf, &rec);
        if (r == 0)
            r = rec.csum == s->csum ? payload_check(&rec, buf, buf + VD_BLOCK) : -EBADMSG;
        if (r == 0)
            r = elsewhere_check(p, &rec, buf, true);
        if (r == 0)
            r = vd_dev_write(p->dev, off, buf, (size_t)s->blocks * VD_BLOCK);
    }
    free(t->v);
    *t = (struct log_tail){0};
    return r;
}

/* Everything left is above the horizon (or an operation that reaches there). */
static int verify_tail(struct replay *r)
{
    uint64_t good = UINT64_MAX;
    vd_list_each (it, &r->pending) {
        struct pending *q = vd_container_of(it, struct pending, link);
#ifdef VD_PLANT_TORN_PAYLOAD_ACCEPTED
        continue;
#endif
        if (q->rec.seq <= r->horizon)
            continue;
        int res = payload_verify(r->p, q);
        if (res == 0)
            res = tail_note(r->p, &q->rec);
        if (res == -EBADMSG || res == -EUCLEAN) {
            good = q->rec.seq - 1;
            break;
        }
        if (res < 0)
            return res;
    }
    int res = pending_apply(r, good);
    pending_drop_from(r, 0);
    return res;
}

/* Where the log seems to end, everything is read once more: an error on the way must not cut it. */
static int step_surely(struct replay *r)
{
    int res = step(r);
    if (res != -ENODATA && res != -EUCLEAN)
        return res;
    r->have = 0;
    r->succ.which = -2;
    return step(r);
}

/* Replays the records of one session; then r stands where the next one's log begins, if the label
 * has a cut for it. */
static int replay_session(struct replay *r, const struct vd_cut *cut)
{
    int res = 0;
    while (res == 0 && !(cut && r->seq > cut->last_seq))
        res = step_surely(r);
    if (res < 0 && res != -ENODATA)
        return res;
    if (!cut)
        return 0;
    /* All records up to a cut were verified when it was made. */
    r->horizon = VD_MAX(r->horizon, cut->last_seq);
    res = pending_apply(r, cut->last_seq);
    pending_drop_from(r, 0);
    if (res < 0)
        return res;
    if (r->p->log.applied_seq != cut->last_seq || r->p->log.applied_csum != cut->last_csum)
        return -EUCLEAN;
    r->at_seg = cut->next.seg;
    r->at_block = 0;
    r->rid = cut->next.rid;
    r->seq = cut->last_seq + 1;
    r->prev_csum = cut->last_csum;
    memcpy(r->next, cut->log_next, sizeof(r->next));
    r->succ.which = -2;
    return segment_claim(r->p, cut->next.seg, VD_STREAM_LOG, cut->next.rid, 0);
}

/* Cuts of sessions older than the root's say nothing any more. */
static void drop_old_cuts(struct vd_pool *p)
{
    struct vd_label *l = &p->label;
    unsigned n = 0;
    for (unsigned i = 0; i < l->cut_count; i++)
        if (l->cut[i].incarnation >= p->root.incarnation)
            l->cut[n++] = l->cut[i];
    l->cut_count = n;
}

static int replay_all(struct replay *r)
{
    struct vd_pool *p = r->p;
    int res = segment_claim(p, r->at_seg, VD_STREAM_LOG, r->rid, p->root.seq);
    for (unsigned i = 0; res == 0 && i < p->label.cut_count; i++) {
        r->incarnation = p->label.cut[i].incarnation;
        r->horizon = VD_MAX(r->horizon, p->label.cut[i].last_seq);
        res = replay_session(r, &p->label.cut[i]);
    }
    r->incarnation = VD_MAX(p->root.incarnation, p->label.incarnation);
    r->succ.which = -2;
    if (res == 0)
        res = replay_session(r, NULL);
    if (res == 0)
        res = verify_tail(r);
    return res;
}

int pool_replay(struct vd_pool *p, struct vd_error *err)
{
    drop_old_cuts(p);
    struct replay r = {
        .p = p,
        .seg = UINT32_MAX,
        .at_seg = p->root.log_seg.seg,
        .at_block = p->root.log_sector / VD_SECTORS_PER_BLOCK,
        .rid = p->root.log_seg.rid,
        .seq = p->root.seq + 1,
        .prev_csum = p->root.log_csum,
        .horizon = p->root.seq,
        .succ = {.which = -2},
    };
    memcpy(r.next, p->root.log_next, sizeof(r.next));
    vd_list_init(&r.pending);
    p->log.applied_seq = p->log.durable_seq = p->root.seq;
    p->log.applied_csum = p->root.log_csum;
    r.buf = vd_alloc_aligned((size_t)WINDOW_BLOCKS * VD_BLOCK);
    r.peek = vd_alloc_aligned(VD_BLOCK);
    int res = r.buf && r.peek ? replay_all(&r) : -ENOMEM;
    pending_drop_from(&r, 0);
    free(r.buf);
    free(r.peek);
    if (res == -ESTALE)
        return vd_fail(err, -EUCLEAN, "damaged",
                       "%s: the log names a newer root than any that can be read",
                       vd_dev_path(p->dev));
    if (res == -EUCLEAN)
        return vd_fail(err, res, "damaged",
                       "%s: log record %" PRIu64 " was flushed and cannot be read",
                       vd_dev_path(p->dev), r.seq);
    if (res < 0)
        return vd_fail_at(err, res, "%s: the log cannot be replayed", vd_dev_path(p->dev));
    /* Open segments of earlier sessions are never appended to. */
    for (uint32_t i = 0; i < p->segs.count; i++)
        if (p->segs.v[i].state == VD_SEG_OPEN)
            p->segs.v[i].state = VD_SEG_CLOSED;
    segs_set_limit(p);
    segs_recount(p);
    return 0;
}
