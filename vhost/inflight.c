/* SPDX-License-Identifier: MIT */
/*
 * What survives our death: memory that the client keeps, in which every descriptor that was taken
 * is marked until it has been handed back. The next server does just those again, in the order in
 * which they were taken, and so none twice that was answered and none not at all.
 *
 * The layout and the order of the steps are those of docs/interop/vhost-user.rst, "Inflight I/O
 * tracking", for split rings. The memory is the client's: what is read from it is checked.
 */
#include "vhost/vhost_priv.h"

#include <endian.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

uint64_t inflight_area_len(unsigned queue_size)
{
    uint64_t len =
        sizeof(struct vhost_inflight_area) + (uint64_t)queue_size * sizeof(struct vhost_desc_state);
    return VD_ROUND_UP(len, VHOST_INFLIGHT_ALIGN);
}

int inflight_make(unsigned queues, unsigned queue_size, int *ret_fd, uint64_t *ret_len)
{
    uint64_t len = queues * inflight_area_len(queue_size);
    int fd = memfd_create("vdisk-inflight", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)len) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    *ret_fd = fd;
    *ret_len = len;
    return 0;
}

int inflight_set(struct vhost_conn *c, const struct vhost_inflight_desc *d, int fd)
{
    if (d->queues == 0 || d->queues > VHOST_QUEUES_MAX || d->queue_size == 0 ||
        d->queue_size > VHOST_RING_MAX || d->size > VD_GIB(1) ||
        d->size < d->queues * inflight_area_len(d->queue_size) ||
        d->off % VHOST_INFLIGHT_ALIGN != 0)
        return -EPROTO;
    inflight_free(c);
    int r = memory_map(c, fd, d->off, d->size, &c->inflight_map, &c->inflight_map_len, &c->inflight,
                       &c->inflight_guard);
    if (r < 0)
        return r;
    c->inflight_len = d->size;
    c->inflight_queues = d->queues;
    c->inflight_size = d->queue_size;
    return 0;
}

void inflight_free(struct vhost_conn *c)
{
    memory_unmap(c->inflight_map, c->inflight_map_len, c->inflight_guard);
    c->inflight_map = NULL;
    c->inflight = NULL;
    c->inflight_queues = 0;
}

/* The last batch was handed back, but not yet unmarked. Where the used index is somewhere else
 * altogether, the guest has begun anew, and wants nothing of what it asked for before. */
static int batch_settle(struct vhost_queue *q, struct vhost_inflight_area *a, uint16_t used)
{
    uint16_t left = (uint16_t)(used - a->used_idx), head = a->last_batch_head;
    if (left > q->num) {
        for (unsigned i = 0; i < q->num; i++)
            a->desc[i].inflight = 0;
        left = 0;
    }
    for (; left > 0; left--) {
        if (head >= q->num)
            return -EPROTO;
        uint16_t next = a->desc[head].next;
        a->desc[head].inflight = 0;
        head = next;
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    a->used_idx = used;
    return 0;
}

struct taken {
    uint64_t counter;
    uint16_t head;
};

static int by_counter(const void *a, const void *b)
{
    const struct taken *x = a, *y = b;
    return x->counter < y->counter ? -1 : x->counter > y->counter;
}

int inflight_recover(struct vhost_queue *q, uint16_t *heads, unsigned *n)
{
    struct vhost_conn *c = q->conn;
    uint16_t used = le16toh(__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE));
    q->inflight = NULL;
    q->counter = 0;
    *n = 0;
    if (!c->inflight || q->index >= c->inflight_queues)
        return 0;
    if (q->num > c->inflight_size)
        return -EPROTO;
    struct vhost_inflight_area *a =
        (void *)(c->inflight + q->index * inflight_area_len(c->inflight_size));
    if (a->version != VHOST_INFLIGHT_VERSION) {
        if (a->version != 0)
            return -EPROTO;
        a->features = 0;
        a->desc_num = (uint16_t)q->num;
        a->used_idx = used;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        a->version = VHOST_INFLIGHT_VERSION;
    }
    if (a->used_idx != used) {
        int r = batch_settle(q, a, used);
        if (r < 0)
            return r;
    }
    struct taken *list VD_CLEANUP(vd_cleanup_free) = calloc(q->num, sizeof(*list));
    if (!list)
        return -ENOMEM;
    unsigned cnt = 0;
    for (unsigned i = 0; i < q->num; i++)
        if (__atomic_load_n(&a->desc[i].inflight, __ATOMIC_RELAXED) == 1)
            list[cnt++] = (struct taken){a->desc[i].counter, (uint16_t)i};
    qsort(list, cnt, sizeof(*list), by_counter);
    for (unsigned i = 0; i < cnt; i++)
        heads[i] = list[i].head;
    *n = cnt;
    q->counter = cnt > 0 ? list[cnt - 1].counter + 1 : 0;
    q->inflight = a;
    /* All that was taken is either handed back or among these, whatever order it was done in. */
    q->last_avail = (uint16_t)(used + cnt);
    return 0;
}

void inflight_taken(struct vhost_queue *q, uint16_t head)
{
    if (!q->inflight)
        return;
    q->inflight->desc[head].counter = q->counter++;
    __atomic_store_n(&q->inflight->desc[head].inflight, 1, __ATOMIC_SEQ_CST);
}

void inflight_batch_add(struct vhost_queue *q, uint16_t head)
{
    if (!q->inflight)
        return;
    q->inflight->desc[head].next = q->inflight->last_batch_head;
    __atomic_store_n(&q->inflight->last_batch_head, head, __ATOMIC_SEQ_CST);
}

void inflight_batch_end(struct vhost_queue *q, const struct vd_list *reqs)
{
    if (!q->inflight)
        return;
    vd_list_each (l, reqs) {
        struct vhost_req *req = vd_container_of(l, struct vhost_req, link);
        __atomic_store_n(&q->inflight->desc[req->head].inflight, 0, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&q->inflight->used_idx, q->used_idx, __ATOMIC_SEQ_CST);
}
