/* SPDX-License-Identifier: MIT */
/*
 * Split rings: what the guest puts into the available ring becomes requests, and what is done goes
 * into the used ring. Called by kickers and publishers; nothing suspends.
 *
 * Invariants:
 *  1. Indices, descriptors and headers are copied out of the guest's memory, once, and then judged.
 *     What breaks the rules of virtio breaks the connection.
 *  2. A chain has at most VHOST_CHAIN_MAX descriptors, so loops end; a head is not taken again
 *     before it was handed back.
 *  3. One look at the available index takes all that is there; one store to the used index, and at
 *     most one call, hand back all that is done.
 */
#include "vhost/vhost_priv.h"

#include <endian.h>
#include <unistd.h>

/* ---- taking ---- */

struct chain {
    struct vhost_queue *q;
    struct vhost_req *req;
    const struct vring_desc *table;
    uint32_t table_len;
    unsigned count;
    bool writable; /* a descriptor for the device to write has been seen */
};

/* The memory of one descriptor, which may lie in several regions. */
static int chain_memory(struct chain *ch, uint64_t addr, uint32_t len)
{
    struct vhost_req *req = ch->req;
    while (len > 0) {
        uint64_t part = len;
        uint8_t *p = memory_guest(ch->q->conn, addr, &part);
        if (!p)
            return conn_refuse(ch->q->conn, "a descriptor is not in the guest's memory");
        if (req->n == VHOST_IOV_MAX)
            return conn_refuse(ch->q->conn, "a request is in too many pieces");
        req->iov[req->n] = (struct iovec){.iov_base = p, .iov_len = part};
        req->guest[req->n++] = addr;
        addr += part;
        len -= (uint32_t)part;
    }
    return 0;
}

static int chain_piece(struct chain *ch, const struct vring_desc *d)
{
    struct vhost_req *req = ch->req;
    uint32_t len = le32toh(d->len);
    if (len == 0)
        return conn_refuse(ch->q->conn, "a descriptor is empty");
    if (le16toh(d->flags) & VRING_DESC_F_WRITE) {
        if (!ch->writable)
            req->out = req->n;
        ch->writable = true;
        req->in_len += len;
    } else {
        if (ch->writable)
            return conn_refuse(ch->q->conn, "a request's descriptors are out of order");
        req->out_len += len;
    }
    return chain_memory(ch, le64toh(d->addr), len);
}

/* The chain goes on in a table of its own. */
static int chain_indirect(struct chain *ch, const struct vring_desc *d)
{
    struct vhost_conn *c = ch->q->conn;
    uint64_t len = le32toh(d->len), have = len;
    if (!conn_has(c, VIRTIO_RING_F_INDIRECT_DESC) || ch->table != ch->q->desc ||
        (le16toh(d->flags) & VRING_DESC_F_NEXT) || len == 0 || len % sizeof(*d) != 0)
        return conn_refuse(c, "an indirect descriptor is malformed");
    const void *table = memory_guest(c, le64toh(d->addr), &have);
    if (!table || have < len)
        return conn_refuse(c, "an indirect table is not in the guest's memory");
    ch->table = table;
    ch->table_len = (uint32_t)(len / sizeof(*d));
    return 0;
}

static int chain_walk(struct chain *ch, uint32_t next)
{
    for (;;) {
        struct vring_desc d;
        if (next >= ch->table_len)
            return conn_refuse(ch->q->conn, "a descriptor has no such successor");
        if (ch->count++ == VHOST_CHAIN_MAX)
            return conn_refuse(ch->q->conn, "a chain of descriptors is too long");
        /* A table of the guest's may lie anywhere, and change while we look. */
        memcpy(&d, (const uint8_t *)ch->table + next * sizeof(d), sizeof(d));
        __asm__ volatile("" ::: "memory");
        unsigned flags = le16toh(d.flags);
        int r;
        if (flags & VRING_DESC_F_INDIRECT) {
            r = chain_indirect(ch, &d);
            next = 0;
            if (r < 0)
                return r;
            continue;
        }
        r = chain_piece(ch, &d);
        if (r < 0 || !(flags & VRING_DESC_F_NEXT))
            return r;
        next = le16toh(d.next);
    }
}

/* Takes the header from the front and the status byte from the end. */
static int chain_frame(struct vhost_req *req)
{
    size_t got = 0;
    unsigned i = 0;
    if (req->out_len < sizeof(req->hdr) || req->in_len < 1)
        return conn_refuse(req->queue->conn, "a request is too short");
    while (got < sizeof(req->hdr)) {
        struct iovec *v = &req->iov[i];
        size_t part = VD_MIN(sizeof(req->hdr) - got, v->iov_len);
        memcpy((uint8_t *)&req->hdr + got, v->iov_base, part);
        got += part;
        v->iov_base = (uint8_t *)v->iov_base + part;
        v->iov_len -= part;
        req->guest[i] += part;
        if (v->iov_len == 0)
            i++;
    }
    memmove(req->iov, req->iov + i, (req->n - i) * sizeof(req->iov[0]));
    memmove(req->guest, req->guest + i, (req->n - i) * sizeof(req->guest[0]));
    req->n -= i;
    req->out -= i;
    req->out_len -= sizeof(req->hdr);
    struct iovec *last = &req->iov[req->n - 1];
    last->iov_len--;
    req->status_at = (uint8_t *)last->iov_base + last->iov_len;
    req->status_guest = req->guest[req->n - 1] + last->iov_len;
    if (last->iov_len == 0)
        req->n--;
    req->in_len--;
    return 0;
}

/* Starts the request at `head`. */
static int ring_take(struct vhost_queue *q, uint16_t head)
{
    struct vhost_conn *c = q->conn;
    if (head >= q->num)
        return conn_refuse(c, "the available ring names a descriptor that there is not");
    if (vd_bit_get(q->busy, head))
        return conn_refuse(c, "a descriptor was made available twice");
    struct vhost_req *req = request_new(q);
    if (!req) {
        conn_break(c);
        return -ENOMEM;
    }
    req->head = head;
    struct chain ch = {.q = q, .req = req, .table = q->desc, .table_len = q->num};
    int r = chain_walk(&ch, head);
    if (!ch.writable)
        req->out = req->n;
    if (r == 0)
        r = chain_frame(req);
    if (r < 0) {
        request_free(req);
        return r;
    }
    vd_bit_flip(q->busy, head);
    q->in_flight++;
    c->in_flight++;
    c->requests++;
    r = work_push(c, req);
    if (r < 0) {
        conn_break(c);
        req->status = VIRTIO_BLK_S_IOERR;
        request_finish(req);
    }
    return r;
}

int ring_resubmit(struct vhost_queue *q, const uint16_t *heads, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        int r = ring_take(q, heads[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

static bool may_take(struct vhost_queue *q)
{
    struct vhost_conn *c = q->conn;
    /* Who does not know of enabling has all rings enabled. */
    bool enabled = q->enabled || !conn_has(c, VHOST_F_PROTOCOL_BIT);
    if (c->broken || !q->started || q->stopping || !enabled || c->paused > 0)
        return false;
    q->starved = c->in_flight >= VHOST_IN_FLIGHT_MAX;
    return !q->starved;
}

/* Asks to be kicked for what comes behind what we have taken. */
static void kick_wanted(struct vhost_queue *q)
{
    if (conn_has(q->conn, VIRTIO_RING_F_EVENT_IDX))
        __atomic_store_n((uint16_t *)(void *)&q->used->ring[q->num], htole16(q->last_avail),
                         __ATOMIC_RELAXED);
    /* Before the look at the index that follows, or both sides could wait for the other. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void ring_fetch(struct vhost_queue *q)
{
    struct vhost_conn *c = q->conn;
    if (q->started && atomic_load_explicit(&c->memory_lost, memory_order_relaxed)) {
        (void)conn_refuse(c, "the guest's memory was taken away");
        return;
    }
    while (may_take(q)) {
        uint16_t idx = le16toh(__atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE));
        uint16_t n = (uint16_t)(idx - q->last_avail);
        if (n == 0) {
            kick_wanted(q);
            if (le16toh(__atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE)) == q->last_avail)
                return;
            continue;
        }
        if (n > q->num) {
            (void)conn_refuse(c, "the available ring has more entries than it can hold");
            return;
        }
        for (; n > 0 && may_take(q); n--) {
            uint16_t at = (uint16_t)(q->last_avail & (q->num - 1));
            uint16_t head = le16toh(__atomic_load_n(&q->avail->ring[at], __ATOMIC_RELAXED));
            if (head < q->num && !vd_bit_get(q->busy, head))
                inflight_taken(q, head);
            q->last_avail++;
            if (ring_take(q, head) < 0)
                return;
        }
    }
}

/* ---- handing back ---- */

static bool call_wanted(struct vhost_queue *q)
{
    uint16_t before = q->signalled;
    bool first = !q->signalled_valid;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    q->signalled = q->used_idx;
    q->signalled_valid = true;
    if (!conn_has(q->conn, VIRTIO_RING_F_EVENT_IDX))
        return !(le16toh(__atomic_load_n(&q->avail->flags, __ATOMIC_RELAXED)) &
                 VRING_AVAIL_F_NO_INTERRUPT);
    uint16_t event = le16toh(__atomic_load_n(&q->avail->ring[q->num], __ATOMIC_RELAXED));
    return first || vring_need_event(event, q->used_idx, before);
}

void ring_call(struct vhost_queue *q)
{
    uint64_t one = 1;
    ssize_t n = q->call_fd >= 0 ? write(q->call_fd, &one, sizeof(one)) : 0;
    (void)n; /* a full counter is a call that is already there */
}

static int used_dirty(struct vhost_queue *q, size_t off, size_t len)
{
    return q->addr.flags & VHOST_ADDR_LOG ? memory_dirty(q->conn, q->addr.log + off, len) : 0;
}

void ring_publish(struct vhost_queue *q)
{
    struct vhost_conn *c = q->conn;
    struct vd_list reqs;
    vd_list_init(&reqs);
    vd_list_push_all(&reqs, &q->done);
    if (vd_list_empty(&reqs))
        return;
    if (!c->broken) {
        vd_list_each (l, &reqs) {
            struct vhost_req *req = vd_container_of(l, struct vhost_req, link);
            uint32_t at = q->used_idx & (q->num - 1);
            inflight_batch_add(q, req->head);
            q->used->ring[at].id = htole32(req->head);
            q->used->ring[at].len = htole32(req->written);
            (void)used_dirty(q, offsetof(struct vring_used, ring) + at * sizeof(q->used->ring[0]),
                             sizeof(q->used->ring[0]));
            q->used_idx++;
        }
        __atomic_store_n(&q->used->idx, htole16(q->used_idx), __ATOMIC_RELEASE);
        (void)used_dirty(q, 0, offsetof(struct vring_used, ring));
        inflight_batch_end(q, &reqs);
        if (call_wanted(q))
            ring_call(q);
    }
    for (struct vd_list *l; (l = vd_list_pop(&reqs));) {
        struct vhost_req *req = vd_container_of(l, struct vhost_req, link);
        vd_bit_flip(q->busy, req->head);
        q->in_flight--;
        c->in_flight--;
        request_free(req);
    }
    vd_wake_all(&c->drain_q);
}
