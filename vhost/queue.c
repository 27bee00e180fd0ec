/* SPDX-License-Identifier: MIT */
/*
 * A ring from its kick descriptor to its last request, and the fibers around it.
 *
 *   made -> started (a kicker waits for the guest) -> stopping -> drained -> made
 *
 * Invariant: a ring that has stopped has nothing under way, nothing to hand back and no kicker.
 */
#include "vhost/vhost_priv.h"

#include <endian.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

struct vhost_queue *queue_get(struct vhost_conn *c, unsigned index)
{
    struct vhost_queue *q = c->queues[index];
    if (q)
        return q;
    q = calloc(1, sizeof(*q));
    if (!q)
        return NULL;
    q->conn = c;
    q->index = index;
    q->kick_fd = q->call_fd = -1;
    vd_list_init(&q->link);
    vd_list_init(&q->done);
    c->queues[index] = q;
    return q;
}

void queue_free(struct vhost_queue *q)
{
    if (!q)
        return;
    assert(!q->kicker && q->in_flight == 0);
    if (q->kick_fd >= 0)
        close(q->kick_fd);
    if (q->call_fd >= 0)
        close(q->call_fd);
    q->conn->queues[q->index] = NULL;
    free(q);
}

/* With the event index there are two bytes more at the end of each. */
int queue_map(struct vhost_queue *q)
{
    const struct vhost_addr *a = &q->addr;
    struct vhost_conn *c = q->conn;
    size_t avail = sizeof(struct vring_avail) + (q->num + 1) * sizeof(uint16_t);
    size_t used = sizeof(struct vring_used) + q->num * sizeof(struct vring_used_elem) + 2;
    if (a->desc % VRING_DESC_ALIGN_SIZE || a->avail % VRING_AVAIL_ALIGN_SIZE ||
        a->used % VRING_USED_ALIGN_SIZE)
        return -EPROTO;
    q->desc = memory_user(c, a->desc, q->num * sizeof(struct vring_desc));
    q->avail = memory_user(c, a->avail, avail);
    q->used = memory_user(c, a->used, used);
    /* Where it starts was chosen by the client, too. */
    if (!q->desc || !q->avail || !q->used || (uintptr_t)q->desc % VRING_DESC_ALIGN_SIZE ||
        (uintptr_t)q->avail % VRING_AVAIL_ALIGN_SIZE || (uintptr_t)q->used % VRING_USED_ALIGN_SIZE)
        return -EPROTO;
    return 0;
}

static void kicker_main(void *arg)
{
    struct vhost_queue *q = arg;
    struct vhost_conn *c = q->conn;
    while (!q->stopping && !c->broken) {
        uint64_t count;
        ring_fetch(q);
        int r = vd_poll_wait(&q->poll, POLLIN);
        if (r < 0 || (r & (POLLERR | POLLNVAL))) {
            (void)conn_refuse(c, "a kick descriptor is no good");
            break;
        }
        if (r > 0 && read(q->kick_fd, &count, sizeof(count)) < 0 && errno != EAGAIN &&
            errno != EINTR) {
            (void)conn_refuse(c, "a kick descriptor is no good");
            break;
        }
    }
    vd_poll_done(&q->poll);
    q->kicker = false;
    vd_wake_all(&c->drain_q);
}

int queue_start(struct vhost_queue *q)
{
    struct vhost_conn *c = q->conn;
    if (q->started || q->kick_fd < 0 || !q->addressed || q->num == 0)
        return conn_refuse(c, "a ring is started that is not set up");
    if (queue_map(q) < 0)
        return conn_refuse(c, "a ring is not in the guest's memory, or badly aligned");
    uint16_t *heads VD_CLEANUP(vd_cleanup_free) = calloc(q->num, sizeof(*heads));
    unsigned n;
    if (!heads)
        return -ENOMEM;
    memset(q->busy, 0, sizeof(q->busy));
    q->used_idx = le16toh(__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE));
    q->signalled_valid = false;
    q->stopping = q->starved = false;
    int r = inflight_recover(q, heads, &n);
    if (r < 0)
        return r == -EPROTO ? conn_refuse(c, "the in-flight memory makes no sense") : r;
    q->started = true;
    /* A server before us may have died between the used ring and the call. */
    ring_call(q);
    r = ring_resubmit(q, heads, n);
    if (r < 0)
        return r;
    vd_poll_init(&q->poll, q->kick_fd);
    q->kicker = true;
    r = vd_fiber_spawn(c->server->loop, "vhost-kicker", kicker_main, q);
    if (r < 0)
        q->kicker = false;
    return r;
}

void queue_stop(struct vhost_queue *q)
{
    struct vhost_conn *c = q->conn;
    q->stopping = true;
    if (q->kicker)
        vd_poll_kick(&q->poll);
    while (q->kicker || q->in_flight > 0)
        vd_wait(&c->drain_q);
    q->started = false;
}

void queues_pause(struct vhost_conn *c)
{
    c->paused++;
    while (c->in_flight > 0)
        vd_wait(&c->drain_q);
}

/* What the guest has put there meanwhile is fetched by the kickers. */
void queues_resume(struct vhost_conn *c)
{
    c->paused--;
    for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++)
        if (c->queues[i] && c->queues[i]->kicker)
            vd_poll_kick(&c->queues[i]->poll);
}

static void fetch_starved(struct vhost_conn *c)
{
    for (unsigned i = 0; i < VHOST_QUEUES_MAX && c->in_flight < VHOST_IN_FLIGHT_MAX; i++)
        if (c->queues[i] && c->queues[i]->starved)
            ring_fetch(c->queues[i]);
}

/* Woken by the first request that is done; until it has its turn, those that were done in the same
 * turn have joined. What the guest has put there meanwhile is taken without waiting for a kick. */
void publisher_main(void *arg)
{
    struct vhost_conn *c = arg;
    while (!c->ending) {
        bool full = c->in_flight >= VHOST_IN_FLIGHT_MAX;
        for (struct vd_list *l; (l = vd_list_pop(&c->dirty));) {
            struct vhost_queue *q = vd_container_of(l, struct vhost_queue, link);
            ring_publish(q);
            ring_fetch(q);
        }
        if (full)
            fetch_starved(c);
        if (c->config_changed && !c->broken) {
            c->config_changed = false;
            message_config_changed(c);
        }
        if (vd_list_empty(&c->dirty) && !c->ending)
            vd_wait(&c->publish_q);
    }
    c->publisher = false;
    vd_wake_all(&c->drain_q);
}
