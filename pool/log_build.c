/* SPDX-License-Identifier: MIT */
/*
 * Building the log's records: which operations go into the next one, where it lies, what its header
 * says. Nothing here suspends, so records get their place and number in one go.
 *
 * Invariant: a segment is left only when its successor's successor has been named by a complete
 * record (log_is_known): whatever fails then can be written again where replay finds it.
 */
#include "core/base/hash.h"
#include "core/base/text.h"
#include "pool/map_priv.h"

#include <stdlib.h>

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
        vd_list_init(&rec->full);
    }
    rec->payload_blocks = rec->bounced = 0;
    rec->fills = rec->hints = 0;
    rec->commit = rec->done = rec->dsync = rec->homed = false;
    rec->handed = rec->moved = false;
    rec->plain = true;
    rec->res = 0;
    rec->iovcnt = 1;
    rec->relocations = NULL;
    rec->iov[0] = (struct iovec){rec->header, VD_BLOCK};
    memset(&rec->rec, 0, sizeof(rec->rec));
    return rec;
}

void log_rec_free(struct log_rec *rec)
{
    refill_done(&rec->full);
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

/* May the operation be acknowledged before its record is complete? */
static bool op_plain(const struct build *b, const struct pool_op *op)
{
    return b->p->log.tells && op->count == 0 && op->blocks <= LOG_TELL_BLOCKS;
}

/* The piece of memory that byte *skip of all of them is in; *skip becomes its place there. */
static const struct iovec *iov_at(const struct iovec *v, size_t *skip)
{
    while (*skip >= v->iov_len)
        *skip -= v++->iov_len;
    return v;
}

/* Memory of `blocks` blocks at block `pos` of the operation, as it can be written from. Pieces that
 * are not whole aligned blocks are copied, and what may be acknowledged before it is written. NULL
 * when the record has no memory for that. */
static uint8_t *build_memory(const struct build *b, const struct pool_op *op, uint64_t pos,
                             uint32_t blocks)
{
    struct log_rec *rec = b->rec;
    size_t skip = pos * VD_BLOCK, want = (size_t)blocks * VD_BLOCK;
    const struct iovec *v = iov_at(op->iov, &skip);
    uint8_t *base = (uint8_t *)v->iov_base + skip;
    bool direct = v->iov_len - skip >= want && (uintptr_t)base % VD_BLOCK == 0 && !op_plain(b, op);
    if (!direct) {
        if (rec->bounced + blocks > LOG_PAYLOAD_BLOCKS)
            return NULL;
        if (!rec->bounce)
            rec->bounce = vd_alloc_aligned(LOG_PAYLOAD_BLOCKS * VD_BLOCK);
        if (!rec->bounce)
            return NULL;
        uint8_t *to = rec->bounce + (size_t)rec->bounced * VD_BLOCK;
        rec->bounced += blocks;
        base = to;
        for (; want; v++, skip = 0) {
            size_t n = VD_MIN(want, v->iov_len - skip);
            memcpy(to, (uint8_t *)v->iov_base + skip, n);
            to += n;
            want -= n;
        }
    }
    return base;
}

/* Puts blocks of the operation behind the payload. */
static bool build_payload(struct build *b, const struct pool_op *op, uint64_t pos, uint32_t blocks)
{
    struct log_rec *rec = b->rec;
    uint8_t *base = build_memory(b, op, pos, blocks);
    if (!base)
        return false;
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
    const struct iovec *v = iov_at(op->iov, &skip);
    if (v->iov_len - skip >= VD_BLOCK)
        return (uint8_t *)v->iov_base + skip;
    size_t got = 0;
    for (; got < VD_BLOCK; v++, skip = 0) {
        size_t n = VD_MIN(VD_BLOCK - got, v->iov_len - skip);
        memcpy(tmp + got, (uint8_t *)v->iov_base + skip, n);
        got += n;
    }
    return tmp;
}

/* A dead place for a block that lies at `base`, and its entry, encoded at `to`. False: there is
 * none after all. */
static bool fill_take(struct vd_pool *p, struct log_rec *rec, uint64_t seq, struct vd_entry *e,
                      uint8_t *to, uint8_t *base)
{
    struct refill *from;
    if (!refill_slot(p, &e->addr, &from))
        return false;
    e->hints = refill_hints(from);
    size_t len = entry_encode(e, to);
    rec->fill[rec->fills] = (struct iovec){base, VD_BLOCK};
    rec->fill_at[rec->fills++] = e->addr;
    rec->hints += refill_filled(p, from, seq, to, len, &rec->full);
    return true;
}

/* The block at op->pos, which goes to a dead place instead of the payload. 1; 0: there is no room
 * in the record; -ENOSPC: there is no such place after all. */
static int build_fill(struct build *b, const struct pool_op *op, const uint8_t *data)
{
    struct log_rec *rec = b->rec;
    struct vd_entry e = {
        .type = VD_ENTRY_BULK, .branch = op->branch, .lba = op->lba + op->pos, .blocks = 1};
    size_t len = entry_size(&e);
    if (build_left(b) < len || rec->fills == LOG_FILLS || rec->hints == LOG_HINTS || b->room == 0)
        return 0;
    uint8_t *base = build_memory(b, op, op->pos, 1);
    if (!base)
        return 0;
    e.csum[0] = vd_xxh3(data, VD_BLOCK);
    uint8_t *to = rec->header + OD_RECORD_ENTRIES + b->len;
    if (!fill_take(b->p, rec, b->p->log.next_seq, &e, to, base))
        return -ENOSPC;
    b->len += (unsigned)len;
    b->count++;
    b->room--; /* should the write fail, it goes to the payload */
    return 1;
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
    if (op->refill) {
        int r = build_fill(b, op, op_block(op, op->pos, tmp));
        if (r >= 0)
            return (uint32_t)r;
    }
    if (build_left(b) < sizeof(struct od_entry_write) + sizeof(uint64_t) ||
        (uint32_t)b->rec->iovcnt + b->rec->fills == LOG_IOV)
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
            (b->rec->relocations || op_payload(op) > b->room ||
             (uint32_t)b->rec->iovcnt + b->rec->fills == LOG_IOV))
            return false;
        size_t need = 0;
        for (uint64_t i = op->pos; i < op->count && need <= build_left(b); i++)
            need += entry_size(&op->entries[i]);
        return need <= build_left(b);
    }
    uint64_t n = op->blocks - op->pos;
    if (n > b->room || (uint64_t)b->rec->iovcnt + b->rec->fills + n > LOG_IOV)
        return false;
    if (op->refill)
        return b->rec->fills + n <= LOG_FILLS && b->rec->hints + n <= LOG_HINTS &&
               n * (sizeof(struct od_entry_bulk) + 8) <= build_left(b);
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

/* Memory of block `i` of the payload. */
static uint8_t *payload_block(const struct log_rec *rec, uint32_t i)
{
    size_t skip = (size_t)i * VD_BLOCK;
    const struct iovec *v = iov_at(&rec->iov[1], &skip);
    return (uint8_t *)v->iov_base + skip;
}

/* A dead place for the next block of the payload. False: there is none after all. */
static bool take_home(struct vd_pool *p, struct log_rec *rec, const struct vd_entry *e, uint64_t i)
{
    struct vd_entry home = {.type = VD_ENTRY_BULK,
                            .branch = e->branch,
                            .lba = e->lba + i,
                            .blocks = 1,
                            .csum = {e->csum[i]}};
    uint8_t entry[sizeof(struct od_entry_bulk) + sizeof(uint64_t)]; /* for the hint block only */
    return fill_take(p, rec, rec->seq, &home, entry, payload_block(rec, rec->fills));
}

void log_take_homes(struct vd_pool *p, struct log_rec *rec)
{
    uint32_t n = rec->payload_blocks;
    if (n == 0 || n > LOG_HINTS || rec->fills || rec->relocations || !rec->commit ||
        !space_wants_homes(p) || !refill_promise(p, n))
        return;
    p->refill.promised -= n;
    struct entry_walk w = entries_of(&rec->rec, rec->header);
    struct vd_entry e;
    bool more = true;
    while (more && entry_next(&w, &e) > 0)
        for (uint64_t i = 0; e.type == VD_ENTRY_WRITE && i < e.blocks && more; i++)
            more = take_home(p, rec, &e, i);
    rec->homed = rec->fills > 0;
    p->log.spent += rec->fills;
    p->stats.refilled += rec->fills;
    p->stats.homed += rec->fills;
}

void log_fills_inline(struct vd_pool *p, struct log_rec *rec)
{
    uint8_t *entries = p->log.scratch; /* as they were */
    struct entry_walk w = {entries, rec->rec.entries_len, rec->rec.entry_count};
    struct vd_entry e;
    size_t len = 0;
    if (rec->fills == 0)
        return;
    for (unsigned i = 0; rec->homed && i < rec->fills; i++) {
        map_drop(p, rec->fill_at[i].seg);
        p->log.spent--;
    }
    memcpy(entries, rec->header + OD_RECORD_ENTRIES, rec->rec.entries_len);
    for (unsigned i = 0; entry_next(&w, &e) > 0;) {
        if (e.type == VD_ENTRY_BULK) {
            map_drop(p, e.addr.seg);
            e.type = VD_ENTRY_WRITE;
            e.payload = rec->payload_blocks++;
            rec->iov[rec->iovcnt++] = rec->fill[i++];
        }
        len += entry_encode(&e, rec->header + OD_RECORD_ENTRIES + len);
    }
    rec->rec.entries_len = (unsigned)len;
    rec->fills = rec->hints = 0;
    rec->homed = false;
    vd_list_push_all(&p->refill.found, &rec->full); /* for the next checkpoint */
}

struct vd_segref log_segref(const struct vd_logref *l)
{
    return (struct vd_segref){.seg = l->seg,
                              .stream = VD_STREAM_LOG,
                              .nchunks = 1,
                              .rid = l->rid,
                              .chunk = {{.dev = 0, .idx = l->seg}}};
}

void log_roll(struct vd_pool *p)
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

void log_seal_record(struct vd_pool *p, struct log_rec *rec)
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
    map_header(p, rec->at, rec->payload_blocks);
    l->spent++;
    p->stats.records++;
}

bool log_is_known(const struct pool_log *l, const struct vd_logref *to)
{
#ifdef VD_PLANT_LOG_GOES_ANYWHERE
    return true;
#endif
    for (unsigned i = 0; i < OD_LOG_NEXT && to->seg; i++)
        if (l->known[i].seg == to->seg && l->known[i].rid == to->rid)
            return true;
    return false;
}

struct log_rec *log_build(struct vd_pool *p, bool seal)
{
    struct pool_log *l = &p->log;
    if ((vd_list_empty(&l->queue) && !seal) || pool_failed(p) || l->failing)
        return NULL;
    struct pool_op *first =
        vd_list_empty(&l->queue) ? NULL : vd_container_of(l->queue.next, struct pool_op, link);
    uint32_t payload = first ? op_payload(first) : 0;
    /* While somebody waits for a record the next one waits for company: headers shared by many
     * writes cost little, and the device is busy anyhow. */
    if (!seal && l->inflight_count > l->told && l->queued < LOG_COMPANY)
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
    l->starved = !rec;
    if (!rec)
        return NULL;
    uint64_t began = first ? first->pos : 0;
    bool announced = l->announce;
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
        rec->plain = rec->plain && op->pos == 0 && op_plain(&b, op);
        whole = build_op(&b, op);
        if (!whole)
            break;
        vd_list_remove(&op->link);
        vd_list_push(&rec->ops, &op->link);
        l->queued -= op->count ? 1 : op->blocks;
        charge += op->charge;
        op->charge = 0;
        p->refill.promised -= op->refill;
    }
    if (first && !only_names && vd_list_empty(&rec->ops) && first->pos == began) {
        l->starved = true; /* there was no memory to copy anything to */
        l->announce = announced;
        vd_list_push(&l->spare, &rec->link);
        return NULL;
    }
    space_placed(p, charge - 1);
    rec->commit = whole;
    rec->plain = rec->plain && whole && !seal && !only_names;
    rec->seq = l->next_seq++;
    rec->rec.epoch = p->epoch;
    rec->rec.entry_count = b.count;
    rec->rec.entries_len = b.len;
    if (seal || only_names)
        rec->rec.flags = OD_RECORD_SEAL;
    else
        l->data_seq = rec->seq;
    l->company = (7 * l->company + 16 * (rec->payload_blocks + rec->fills)) / 8;
    log_seal_record(p, rec);
    l->window_bytes += (uint64_t)rec->fills * VD_BLOCK;
    l->unflushed_bytes += (uint64_t)rec->fills * VD_BLOCK;
    p->stats.refilled += rec->fills;
    vd_list_push(&l->inflight, &rec->link);
    l->inflight_count++;
    return rec;
}
